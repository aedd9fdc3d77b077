"""A row a group, and a tree by parent: what is compared with what."""

from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.records import Annotations, Goal, MetricSummary, Run, RunSpec, RunView, Status
from backprop.views.run_groups import groups
from backprop.views.run_tree import branches
from tests.records import LIMITS

AT = datetime(2026, 1, 2, tzinfo=timezone.utc)


def viewed(
    run_id: str,
    group: str | None = "g",
    *,
    loss: float | None = None,
    status: Status = Status.COMPLETED,
    parent: str | None = None,
    **params: Any,
) -> RunView:
    spec = RunSpec(id=run_id, command=("t",), cwd="/", created_at=AT, host="h", user="u", limits=LIMITS)
    summary = {} if loss is None else {"loss": MetricSummary(count=1, last=loss, last_step=1, least=loss, least_step=1)}
    return RunView(
        run=Run(spec=spec, status=status),
        run_dir="/",
        annotations=Annotations(group=group, parent=parent),
        summaries=summary,
        params=params,
    )


def test_a_row_counts_a_group_and_averages_the_seeds_of_its_best():
    """Not runs with other parameters, nor those that have not completed: their best is yet to come."""
    views = [
        viewed("a", loss=0.5, lr=1, seed=1),
        viewed("b", loss=0.3, lr=1, seed=2),
        viewed("c", loss=0.4, lr=1, seed=3, status=Status.FAILED),
        viewed("d", loss=0.9, lr=2, seed=1),
        viewed("e", "other", loss=7.0),
        viewed("f", None, loss=0.0),
    ]
    group, other = groups(views)
    assert (group.name, group.statuses, group.metric) == ("g", {Status.COMPLETED: 3, Status.FAILED: 1}, "loss")
    assert group.best is not None
    assert group.best.view.run.spec.id == "b"
    assert group.over_seeds is not None
    assert group.over_seeds.runs == 2
    assert group.over_seeds.mean == pytest.approx(0.4)
    assert group.over_seeds.deviation == pytest.approx(0.2 / 2**0.5)
    assert other.over_seeds == (7.0, None, 1)


def test_a_seed_counts_once():
    """Two runs that are the same are no sample of two."""
    (group,) = groups([viewed("a", loss=0.5, seed=1), viewed("b", loss=0.5, seed=1), viewed("c", loss=0.7, seed=2)])
    assert group.over_seeds is not None
    assert (group.over_seeds.runs, group.over_seeds.mean) == (2, pytest.approx(0.6))


def test_a_group_without_the_metric_has_no_best():
    """It is there all the same."""
    (group,) = groups([viewed("a", status=Status.QUEUED)])
    assert (group.best, group.metric, group.over_seeds) == (None, None, None)


def test_the_metric_with_a_goal_is_what_a_group_is_about():
    """As a person or the script said it; of several goals none is more so than another."""
    elo = MetricSummary(count=1, last=3.0, last_step=1, least=3.0, least_step=1, greatest=3.0, greatest_step=1)
    view = viewed("a", loss=0.5)
    both = msgspec.structs.replace(view, summaries={**view.summaries, "elo": elo}, goals={"elo": Goal.MAX})
    (group,) = groups([both])
    assert (group.metric, group.best and group.best.best) == ("elo", 3.0)
    (group,) = groups([msgspec.structs.replace(both, goals={"elo": Goal.MAX, "loss": Goal.MIN})])
    assert group.metric == "loss"


def test_children_are_below_their_parents():
    """In the given order; a parent that is not among these runs is none."""
    views = [viewed("c", parent="a"), viewed("d", parent="gone"), viewed("a"), viewed("b", parent="c")]
    assert [(branch.view.run.spec.id, branch.depth) for branch in branches(views)] == [
        ("d", 0),
        ("a", 0),
        ("c", 1),
        ("b", 2),
    ]


@given(st.lists(st.sampled_from(["0", "1", "2", "3", "4", None]), max_size=5))
def test_each_run_is_in_the_tree_once(parents: list[str | None]):
    """Also if files that nobody here wrote make a circle of them."""
    views = [viewed(str(number), parent=parent) for number, parent in enumerate(parents)]
    assert sorted(branch.view.run.spec.id for branch in branches(views)) == [view.run.spec.id for view in views]
