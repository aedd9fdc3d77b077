"""Runs side by side, for programs: each cell belongs to its column, whatever a run lacks."""

import msgspec

from backprop.records import GitState, Goal, MetricSummary, Run, RunView, Status
from backprop.views.documents.comparison import comparison_document, comparison_rows
from backprop.views.terminal.comparison_table import ComparedRun, Comparison
from tests.records import SPEC


def side(run_id: str, loss: float | None, at: dict[str, tuple[int, float] | None], **params: object) -> ComparedRun:
    git = GitState(commit="c0ffee", branch="main", dirty=True) if loss is not None else None
    spec = msgspec.structs.replace(SPEC, id=run_id, git=git, command=("python", "t.py", "--api-key=abcdef"))
    found = {}
    if loss is not None:
        found["loss"] = MetricSummary(
            count=2, last=loss, last_step=9, least=loss / 2, least_step=4, greatest=loss, greatest_step=9
        )
    view = RunView(
        run=Run(spec=spec, status=Status.COMPLETED), run_dir="/r", params=params, summaries=found,
        metrics={name: one.last for name, one in found.items()}, goals={"loss": Goal.MIN},
    )  # fmt: skip
    return ComparedRun(view=view, elapsed_s=60.0, gpu_hours=None, at=at)


def compared(*, at_step: int | None = None) -> Comparison:
    sides = (
        side("a", 0.5, {"loss": (5, 0.75)}, lr=0.1, layers=[1, 2]),
        side("b", None, {"loss": None}, lr=0.2, on=True),
        side("c", 0.7, {"loss": (5, 0.9)}, lr=0.1),
    )
    return Comparison(
        sides=sides if at_step else tuple(msgspec.structs.replace(one, at={}) for one in sides),
        metrics=("loss",), params=("lr",), at_step=at_step, with_all=True,
    )  # fmt: skip


def test_rows_have_a_cell_for_each_column():
    """With and without a step, of runs that lack a metric, a parameter or a commit."""
    for at_step in (None, 5):
        heading, *rows = comparison_rows(compared(at_step=at_step))
        assert [len(row) for row in rows] == [len(heading)] * 3
        first, second, _ = (dict(zip(heading, row, strict=True)) for row in rows)
        assert (first["loss"], first["best.loss"], first["best_step.loss"]) == (0.5, 0.25, 4)
        assert (second["loss"], second["best.loss"], second["commit"]) == (None, None, None)
        assert (first["param.layers"], second["param.on"], first["param.on"]) == ("[1, 2]", "true", None)
        assert (first["commit"], first["dirty"]) == ("c0ffee", "true")
        assert first.get("loss at 5") == (None if at_step is None else 0.75)


def test_a_document_names_the_best_run_and_no_secret():
    document = comparison_document(compared(at_step=5))
    assert document["best_runs"] == {"loss": {"last": ["a"], "best": ["a"]}}
    assert document["differing_params"] == ["layers", "lr", "on"]
    first, second, _ = document["runs"]
    assert first["metrics"]["loss"]["at"] == {"step": 5, "value": 0.75}
    assert second["metrics"] == {}
    assert "abcdef" not in str(document)
