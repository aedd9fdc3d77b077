"""A run as one row: which metric it shows, and its command."""

import msgspec
import pytest

from backprop.records import Goal, MetricSummary, Run, RunView, Status, Usage
from backprop.views.run_row import RunRow
from tests.records import SPEC


def summary(last: float, least: float) -> MetricSummary:
    return MetricSummary(count=2, last=last, last_step=2, least=least, least_step=1, greatest=last, greatest_step=2)


def view(*command: str, script: str | None = None, **changes: object) -> RunView:
    spec = msgspec.structs.replace(SPEC, command=command or SPEC.command, script=script)
    return RunView(run=Run(spec=spec, status=Status.COMPLETED), run_dir="/r", **changes)


@pytest.mark.parametrize(
    ("command", "script", "shown"),
    [
        (("/usr/bin/python", "/home/me/train.py", "--lr", "1"), "/home/me/train.py", "train.py --lr 1"),
        (("/opt/bin/torchrun", "train.py"), None, "torchrun train.py"),
        (("python", "t.py", "--api-key", "abcdef"), "t.py", "t.py --api-key ***"),
    ],
)
def test_a_command_without_what_all_have(command: tuple[str, ...], script: str | None, shown: str):
    """Neither the interpreter nor the folder, and no secret."""
    assert RunRow.of(view(*command, script=script)).command == shown


def test_the_main_metric_unless_another_is_asked_for():
    """With its best value where it is known which values are better."""
    summaries = {"loss": summary(0.5, 0.25), "temperature": summary(3.0, 1.0)}
    shown = view(summaries=summaries, goals={"loss": Goal.MIN})
    assert (RunRow.of(shown).metric, RunRow.of(shown).last, RunRow.of(shown).best) == ("loss", 0.5, 0.25)
    other = RunRow.of(shown, "temperature")
    assert (other.last, other.best) == (3.0, None)
    assert (RunRow.of(shown, "nothing").last, RunRow.of(view()).metric) == (None, None)


def test_a_figure_of_what_was_used_in_a_metrics_place():
    """A metric of the script's own that is called the same comes first."""
    used = view(usage=Usage(measured_s=1.0, peak={"ram": 5e9}, mean={}, energy_wh=None, last={}, counts={}))
    assert (RunRow.of(used, "sys.peak_ram").figure, RunRow.of(used, "sys.peak_ram").last) == ("peak_ram", 5e9)
    own = view(usage=used.usage, summaries={"sys.peak_ram": summary(1.0, 1.0)})
    assert (RunRow.of(own, "sys.peak_ram").figure, RunRow.of(own, "sys.peak_ram").last) == (None, 1.0)
