"""What a verdict says, and how much of a run's time others trained beside it."""

from contextlib import closing
from pathlib import Path

import pytest

from backprop.lifecycle.significance import Judgement, Verdict
from backprop.store.index import Index
from backprop.store.output.line_times import OffsetSample, Timeline
from backprop.views.verdict import report, sides
from backprop.views.verdict.report import Report
from backprop.views.verdict.sides import At, Compared, Measured, Side
from tests.unit.store.test_query import made, say, viewed


@pytest.mark.parametrize(
    ("others", "covered"),
    [
        ([], 0),
        ([(0, 5, "h")], 5),
        ([(0, 5, "other")], 0),
        ([(2, 4, "h"), (3, 6, "h"), (3, 5, "h")], 4),  # time that two of them cover counts once
        ([(8, 99, "h"), (-9, 1, "h")], 3),
        ([(-9, 99, "h"), (1, 2, "h")], 10),
    ],
)
def test_the_time_that_others_cover(others: list[tuple[float, float, str]], covered: float):
    assert sides._covered((0, 10, "h"), others) == covered


def found(verdict: Verdict, diff: float | None, *, is_max: bool = True, warnings: tuple[str, ...] = ()) -> list[str]:
    base, candidate = (Side(word=word, views=()) for word in ("base", "new"))
    values = [Measured(values={"1": 0.5, "2": 0.7}, lacking=()), Measured(values={"1": 0.6, "2": 0.8}, lacking=())]
    judgement = Judgement(verdict=verdict, diff=diff, count=2, is_paired=True, ci95=None, p=None, sd=None, visible=None)
    compared = Compared(metric="acc", is_max=is_max, at=At.END, place=None)
    return report.lines(
        Report(
            compared=compared, baseline=base, candidate=candidate, baseline_values=values[0],
            candidate_values=values[1], judgement=judgement, warnings=warnings,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "diff", "is_max", "words"),
    [
        (Verdict.BETTER, 0.1, True, "new: better than base by 0.1"),
        (Verdict.WORSE, 0.1, False, "new: worse than base by 0.1"),
        (Verdict.TIE, 0.0, True, "new: a tie with base"),
        (Verdict.UNDECIDED, 0.1, True, "new: undecided · ahead of base by 0.1"),
        (Verdict.UNDECIDED, 0.1, False, "new: undecided · behind base by 0.1"),  # greater is worse
        (Verdict.UNDECIDED, 0.0, True, "new: undecided · no different from base"),
        (Verdict.UNDECIDED, None, True, "new: undecided · no finite acc to compare with base"),
    ],
)
def test_a_verdict_in_words(verdict: Verdict, diff: float | None, is_max: bool, words: str):
    """Ahead and behind follow what is better, not the sign."""
    first, second, *_ = found(verdict, diff, is_max=is_max)
    assert first == words
    assert "means 0.7 (2) and 0.6 (2) · 2 pairs of a seed" in second


def test_warnings_come_last():
    assert found(Verdict.TIE, 0.0, warnings=("code: differs",))[-1] == "  warning: code: differs"


def test_values_after_the_same_time_of_training(tmp_path: Path):
    """The last moment that all have reached, and what each had by then; a run whose first value came later has none."""
    with closing(Index(tmp_path / "index.db", 5.0)) as index:
        for run_id, first_s, last_s in (("fast", 1.0, 2.0), ("slow", 0.5, 40.0), ("late", 3.0, 50.0)):
            index.put_run(made(run_id, elapsed_s=last_s), 1)
            for step, at_s in ((1, first_s), (2, last_s)):
                instant = Timeline([OffsetSample(offset=10_000, since_s=at_s, until_s=at_s)])
                say(index, run_id, {"step": step, "acc": step / 10}, timeline=instant)
        side = Side(word="all", views=tuple(viewed(index, run_id) for run_id in ("fast", "slow", "late")))
        place = sides.place_of(index, side.views, "acc", At.GPU_SECONDS)
        assert place == 2.0
        measured = sides.measure(index, side, Compared(metric="acc", is_max=True, at=At.GPU_SECONDS, place=place))
        assert (measured.values, measured.lacking) == ({"fast": 0.2, "slow": 0.1}, ("late",))
