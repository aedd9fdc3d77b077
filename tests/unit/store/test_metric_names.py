"""`loss`, the word: what a filter and an order mean by it is what `list` shows in that column."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backprop.records import Goal
from backprop.store import filters, metric_names, query
from backprop.store.filters import Wanted
from backprop.store.index import Index
from backprop.store.metric_names import is_quality, is_training_loss, main_metric
from tests.conftest import Runs, scaled
from tests.unit.store.test_query import made, say

NAMES = [
    "loss",
    "train_loss",
    "train/loss",
    "training/loss",
    "val_loss",
    "Loss",
    "gloss",
    "acc",
    "a'b",
    "rmse",
    "loss/1",
]


@given(st.lists(st.dictionaries(st.sampled_from(NAMES), st.floats(-9, 9), max_size=4), max_size=5))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=scaled(60))
def test_loss_means_the_loss_of_each_run(tmp_path_factory: pytest.TempPathFactory, told: list[dict[str, float]]):
    """However each run calls it: it is sorted by, and compared with, the value of its main metric."""
    index = Index(tmp_path_factory.mktemp("home") / "index.db", 5.0)
    for number, metrics in enumerate(told):
        index.put_run(made(f"r{number}", age_s=number), 1)
        say(index, f"r{number}", {"step": 1, **metrics}, {"step": 2, **{name: -x for name, x in metrics.items()}})
    views = {view.run.spec.id: view for view in query.runs(index)}
    mains = {run_id: metric_names.main_metric(view.summaries) for run_id, view in views.items()}
    last = {run_id: views[run_id].metrics[main] for run_id, main in mains.items() if main is not None}

    found = [view.run.spec.id for view in query.runs(index, Wanted(sort="loss"))]
    assert found == sorted(views, key=lambda run_id: (run_id not in last, last.get(run_id, 0), run_id))
    few = query.runs(index, Wanted(conditions=filters.parse_filter("loss<1")))
    assert {view.run.spec.id for view in few} == {run_id for run_id, value in last.items() if value < 1}
    few = query.runs(index, Wanted(conditions=filters.parse_filter("best.loss<=-1")))
    assert {view.run.spec.id for view in few} == {run_id for run_id, value in last.items() if abs(value) >= 1}
    few = query.runs(index, Wanted(conditions=filters.parse_filter("metric.loss<100")))
    assert {view.run.spec.id for view in few} == {run_id for run_id, main in mains.items() if main == "loss"}
    index.close()


@pytest.fixture
def three(runs: Runs) -> Runs:
    """Runs that call their loss a loss, a train_loss, and nothing at all."""
    for name, metric, value in (("a", "loss", 2.0), ("b", "train_loss", 1.0), ("c", "acc", 0.5)):
        script = runs.script(f"print(json.dumps({{'step': 1, {metric!r}: {value}}}))", f"{name}.py")
        assert runs.call("run", script, "--run-id", name).returncode == 0
    return runs


def test_a_list_that_is_sorted_by_loss_shows_each_runs_loss(three: Runs):
    """Whatever it is called, best first, without a word of a metric that nobody has."""
    done = three.call("list", "--sort", "loss")
    cells = [re.split(r" {2,}", line) for line in done.stdout.splitlines()]
    assert [(row[0], row[cells[0].index("LOSS")]) for row in cells[1:]] == [("b", "1"), ("a", "2"), ("c", "-")]
    assert done.stderr == ""


def test_a_loss_that_nobody_reached_is_no_unknown_name(three: Runs):
    """There is a loss, of another name: the filter finds nothing, and is not called a mistake."""
    assert three.call("rm", "--yes", "a").returncode == 0
    assert three.call("list", "--filter", "loss<1").stderr == "backprop: no matching runs.\n"
    assert "no run has a metric 'loss'" in three.call("list", "--filter", "metric.loss<1").stderr


@pytest.mark.parametrize(
    "name", ["loss", "Loss", "train_loss", "train/loss", "Loss_D", "box_loss", "loss/1", "logloss"]
)
def test_losses_that_are_trained_on(name: str):
    assert is_training_loss(name)


@pytest.mark.parametrize("name", ["val_loss", "eval/loss", "validation-logloss", "loss/test", "Test_Loss", "accuracy"])
def test_losses_on_held_out_data_and_other_metrics(name: str):
    assert not is_training_loss(name)


@pytest.mark.parametrize("name", ["final_loss", "Final_Training_Loss", "initial_loss", "best/loss", "loss_min"])
def test_a_single_loss_of_a_training_is_no_curve(name: str):
    """`Final loss: 0.1` at its end does not replace the curve that was sampled."""
    assert not is_training_loss(name)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # CleanRL's PPO, stable-baselines3's A2C
        (["losses/approx_kl", "losses/clipfrac", "losses/entropy", "losses/policy_loss", "losses/value_loss"],
         "losses/policy_loss"),
        (["rollout/ep_rew_mean", "train/entropy_loss", "train/policy_loss", "train/value_loss"], "train/policy_loss"),
        (["losses/approx_kl", "losses/clipfrac"], None),
        (["train/entropy_loss", "acc"], "train/entropy_loss"),
        (["cross_entropy_loss", "value_loss"], "cross_entropy_loss"),
        (["acc", "loss/1", "loss/2"], "loss/1"),
        (["Loss/test", "Loss/train"], "Loss/train"),
        # LightGBM and XGBoost where they regress
        (["valid_0-l1", "valid_0-l2"], "valid_0-l2"),
        (["validation_0-rmse"], "validation_0-rmse"),
        (["valid_0-error", "valid_0-binary_logloss"], "valid_0-binary_logloss"),
        (["acc", "lr"], None),
    ],
)  # fmt: skip
def test_the_main_metric_is_what_is_minimized(names: list[str], expected: str | None):
    assert main_metric(names) == expected


def test_rewards_are_better_the_greater_they_are():
    names = ["rollout/ep_rew_mean", "charts/episodic_return", "train/explained_variance"]
    assert {metric_names.goal(name) for name in names} == {Goal.MAX}


@pytest.mark.parametrize(
    "name", ["rollout/ep_len_mean", "charts/SPS", "time/fps", "train/n_updates", "losses/approx_kl", "train_runtime"]
)
def test_what_only_describes_a_training_has_no_best_value(name: str):
    assert not is_quality(name)
