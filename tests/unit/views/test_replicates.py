"""Runs that differ in their seed only: which these are, and what a metric comes to over them."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.records import CodeState, GitState, Goal, MetricSummary, Run, RunView, Status
from backprop.store import metric_names
from backprop.store.rundir import RunDir
from backprop.views import replicates
from backprop.views.replicates import Spread
from tests.records import AT, SPEC, session_record

SCRIPT = "/w/train.py"


def viewed(
    run_id: str,
    *arguments: str,
    loss: float | None = 1.0,
    status: Status = Status.COMPLETED,
    age_s: int = 0,
    script_sha256: str = "0",
    git: GitState | None = None,
    timebox_s: float = 600,
    run_dir: str = "/nowhere",
    patch: str | None = None,
    **params: Any,
) -> RunView:
    spec = msgspec.structs.replace(
        SPEC, id=run_id, script=SCRIPT, command=("python", SCRIPT, *arguments), created_at=AT - timedelta(seconds=age_s)
    )
    session = session_record(
        status, timebox_s=timebox_s, grace_s=1, script_sha256=script_sha256, code=CodeState(git=git, patch=patch)
    )
    summary = MetricSummary(count=1, last=9.0, last_step=1, least=loss, least_step=1, greatest=loss, greatest_step=1)
    return RunView(
        run=Run(spec=spec, status=status, latest=(session,)),
        run_dir=run_dir,
        summaries={} if loss is None else {"loss": summary, "foo": summary},
        metrics={} if loss is None else {"loss": 9.0, "foo": 9.0},
        params=params,
    )


def ids(sets: list[list[RunView]]) -> list[list[str]]:
    return [[view.run.spec.id for view in one] for one in sets]


@pytest.mark.parametrize(
    ("name", "is_seed"),
    [
        *((name, True) for name in ("seed", "random_seed", "randomSeed", "trainer.seed", "data-seed", "SEED", "seeds")),
        *((name, True) for name in ("random_state", "rng_state", "seed_everything", "model/init_seed")),
        *((name, False) for name in ("lr", "n_seeds", "num_seeds", "seed_dir", "seedling", "state", "init_state", "")),
    ],
)
def test_what_a_seed_is_called(name: str, is_seed: bool):
    assert metric_names.is_seed(name) is is_seed


@pytest.mark.parametrize(
    "words", [("--seed", "{}"), ("--seed={}",), ("seed={}",), ("--lr", "1", "--random-seed", "{}")]
)
def test_runs_with_other_seeds_are_replicates(words: tuple[str, ...]):
    """However the seed is given; oldest first."""
    views = [viewed(str(n), *(word.format(n) for word in words), age_s=n, lr=1, seed=n) for n in range(3)]
    assert ids(replicates.sets(views)) == [["2", "1", "0"]]
    assert ids([replicates.of(views[1], views)]) == [["2", "1", "0"]]


@pytest.mark.parametrize(
    "other",
    [
        {"lr": 2},
        {"seedling": 3},
        {"script_sha256": "1"},
        {"git": GitState(commit="c")},
        {"git": GitState(commit=None, dirty=True)},
        {"status": Status.TIMEBOXED},
    ],
)
def test_runs_that_differ_in_anything_else_are_none(other: dict[str, Any]):
    """Another parameter, script, commit; or one was cut where the other was not."""
    views = [viewed("a", lr=1, seed=1), viewed("b", **{"lr": 1, "seed": 2, **other})]
    assert ids(replicates.sets(views)) == [["a"], ["b"]]


def test_another_command_is_no_replicate():
    """Also where its words are no parameters; but a run's own id in it is no difference."""
    assert len(replicates.sets([viewed("a", "-x", seed=1), viewed("b", "-y", seed=2)])) == 2
    assert len(replicates.sets([viewed("a", "--out", "o/a", seed=1), viewed("b", "--out", "o/b", seed=2)])) == 1
    assert len(replicates.sets([viewed("a", "--seed", "--x", seed=1), viewed("b", "--seed", "--y", seed=2)])) == 2


def test_runs_of_other_changes_are_none(tmp_path: Path):
    """Uncommitted changes and imported modules are code, too."""
    git, views = GitState(commit="c", dirty=True), []
    for name, patch, modules in (("a", "1", "x  /w/m.py"), ("b", "2", "x  /w/m.py"), ("c", "1", "y  /w/m.py"), ("d", "1", "x  /w/m.py\nz  /w/n.py")):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        (folder / "code.patch").write_text(patch)
        assert RunDir(folder).read_modules(1) == b""
        (folder / "session-1.modules").write_text(f"{modules}\n")
        views.append(viewed(name, git=git, run_dir=str(folder), patch="code.patch", seed=name))
    assert ids(replicates.sets(views)) == [["a", "d"], ["b"], ["c"]]


def test_timeboxed_runs_are_replicates_if_they_had_the_same_time():
    """Those that failed or were stopped do not count."""
    timeboxed = {"status": Status.TIMEBOXED, "lr": 1}
    views = [
        viewed("a", seed=1, age_s=3, **timeboxed),
        viewed("b", seed=2, age_s=2, **timeboxed),
        viewed("c", seed=3, age_s=1, timebox_s=60, **timeboxed),
        viewed("d", seed=4, status=Status.FAILED, lr=1),
        viewed("e", seed=5, status=Status.STOPPED, lr=1),
    ]
    assert ids(replicates.sets(views)) == [["a", "b"], ["c"]]


def test_a_repetition_is_no_new_sample():
    """Of two runs with one seed the earlier counts, so that trying again until it is better does not help."""
    views = [
        viewed("lucky", loss=0.1, seed=1),
        viewed("first", loss=0.5, seed=1, age_s=9),
        viewed("b", seed=2, age_s=5),
    ]
    assert ids(replicates.sets(views)) == [["first", "b"]]


def test_the_spread_of_a_metric():
    """Mean and sample deviation of the best values; of the last ones, where nobody knows which are better."""
    views = [viewed("a", loss=1.0, seed=1), viewed("b", loss=2.0, seed=2), viewed("c", loss=None, seed=3)]
    assert replicates.spread(views, "loss") == Spread(1.5, pytest.approx(0.5**0.5), 2)
    assert replicates.spread(views, "foo") == Spread(9.0, 0.0, 2)
    assert replicates.spread(views[:1], "loss") == Spread(1.0, None, 1)
    assert replicates.spread(views, "bar") is None


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.floats(-5, 5)), max_size=12))
def test_each_run_is_in_one_set_and_the_best_mean_comes_first(told: list[tuple[int, int, float]]):
    """Whatever was run: sets share no run, and all runs of a set have its parameters."""
    views = [viewed(str(n), lr=lr, seed=seed, loss=loss, age_s=n) for n, (lr, seed, loss) in enumerate(told)]
    sets = replicates.sets(views)
    members = [view.run.spec.id for one in sets for view in one]
    assert len(members) == len(set(members)) == len({(lr, seed) for lr, seed, _ in told})
    assert all(len({view.params["lr"] for view in one}) == 1 for one in sets)
    means = [over.mean for _, over in replicates.by_mean(sets, "loss", Goal.MIN)]
    assert means == sorted(means)
    assert [over.mean for _, over in replicates.by_mean(sets, "loss", Goal.MAX)] == sorted(means, reverse=True)


def test_a_resumed_run_is_a_replicate():
    """Its parameters lack the option for the checkpoint, which is None in the others."""
    first, resumed = viewed("a", seed=1, resume_from=None), viewed("b", seed=2)
    assert ids(replicates.sets([first, resumed, viewed("c", seed=3, resume_from="x")])) == [["a", "b"], ["c"]]
