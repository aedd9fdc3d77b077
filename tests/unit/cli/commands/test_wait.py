"""When `wait` gives up on a run that shows nothing."""

import pytest

from backprop.cli.commands.wait import _Patience
from backprop.records import USE_LAG_S, LiveProgress, Run, RunView, Status
from tests.records import SPEC


def view(silent_s: float, stalled_s: float | None) -> RunView:
    live = LiveProgress(silent_s=silent_s, stalled_s=stalled_s)
    return RunView(run=Run(spec=SPEC, status=Status.RUNNING), run_dir="/r", live=live)


@pytest.mark.parametrize(
    ("patience", "silent_s", "stalled_s", "words"),
    [
        (_Patience(5, None), 400, 310, "no sign of life"),
        (_Patience(5, None), 400, 290, None),  # silent, and computes
        (_Patience(5, None), 400, None, "its use of CPU cannot be seen"),
        (_Patience(None, 5), 310, 0, ""),
        (_Patience(None, 5), 290, 0, None),
        (_Patience(None, None), 1e9, 1e9, None),
    ],
)
def test_what_counts_as_nothing(patience: _Patience, silent_s: float, stalled_s: float | None, words: str | None):
    """--stalled: no output and no use; --silent: no output, however busy. Without either it waits for ever."""
    complaint = patience.complaint(view(silent_s, stalled_s))
    assert complaint is None if words is None else complaint is not None and words in complaint


def test_a_run_without_signs_of_life_is_waited_for():
    """It is queued, or has begun a moment ago."""
    nothing = RunView(run=Run(spec=SPEC, status=Status.QUEUED), run_dir="/r")
    assert _Patience(1, 1).complaint(nothing) is None
    assert _Patience(1, 1).remark(nothing) is None


def test_a_silent_run_that_computes_is_remarked_on():
    """Once use would have been seen, so that the remark is not followed by the complaint."""
    patience = _Patience(5, None)
    assert patience.remark(view(300 + USE_LAG_S - 1, 0)) is None
    assert "still waiting" in (patience.remark(view(300 + USE_LAG_S + 1, 0)) or "")
