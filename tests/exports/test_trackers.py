"""What scripts log to the trackers they already use, with the real libraries: recorded, and continued by a resume."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import Runs, nightly

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as in test_mlflow.py

TENSORBOARD = """
    from tensorboardX import SummaryWriter
    train, val = SummaryWriter("runs/train"), SummaryWriter("runs/val")
    for step in range(5):
        train.add_scalar("loss", 1 / (step + 1), 10 * step)
        val.add_scalar("loss", float(step), 10 * step)
        train.add_scalars("lr", {"body": 0.1, "head": np.float32(0.5)}, global_step=10 * step)
        train.add_text("text", "hello", step)
        train.add_histogram("weights", np.arange(8), step)
"""
WANDB = """
    import wandb
    run = wandb.init(project="p", config={"lr": 1.0})
    for step in range(5):
        wandb.log({"train": {"loss": 1 / (step + 1)}, "text": "hello"}, commit=False)
        run.log({"acc": np.float32(step), "weights": wandb.Histogram(np.arange(8))})
    run.log({"late": 1.0}, step=90)
    run.log({"val/loss": 0.5, "global_step": 40})
"""
MLFLOW = """
    import mlflow
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    with mlflow.start_run():
        mlflow.log_param("lr", 1.0)
        for step in range(5):
            mlflow.log_metric("loss", 1 / (step + 1), step=10 * step)
            mlflow.log_metrics({"acc": step, "nan": float("nan")}, step=10 * step)
            mlflow.log_metric("no_step", step)
"""
TRACKIO = """
    import trackio
    trackio.init(project="p")
    for step in range(5):
        trackio.log({"train/loss": 1 / (step + 1), "text": "hello"})
    trackio.log({"train/loss": 0.5}, step=40)
    trackio.finish()
"""
AIM = """
    from aim import Run
    run = Run(repo="aim")
    for step in range(5):
        run.track(1 / (step + 1), name="loss", step=10 * step, context={"subset": "val"})
        run.track({"acc": step, "lr": 0.1}, step=10 * step)
        run.track(step, name="counted")
"""
FIVE = [0, 10, 20, 30, 40]


@pytest.fixture
def tracking(runs: Runs, empty_store: Path) -> Runs:
    """Runs whose trackers leave nothing outside of the test's folder, and ask nobody on the network."""
    shutil.copy(empty_store, runs.work)
    for name in ("HOME", "TMPDIR", "TRACKIO_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        folder = runs.work.parent / name.lower()
        folder.mkdir()
        runs.environment[name] = str(folder)
    runs.environment |= {"WANDB_MODE": "offline", "MLFLOW_DISABLE_TELEMETRY": "true", "TRACKIO_DISABLE_ANALYTICS": "1"}
    return runs


def points(runs: Runs, run_id: str = "r") -> dict[str, list[tuple[int, float]]]:
    """Of each metric of the script its steps and values, as `export` gives them."""
    done = runs.call("export", run_id, "--to", "jsonl", "-")
    assert done.returncode == 0, done.stderr
    found: dict[str, list[tuple[int, float]]] = {}
    for line in map(json.loads, done.stdout.splitlines()):
        if "metric" in line and not line["metric"].startswith("sys/"):
            found.setdefault(line["metric"], []).append((line["step"], line["value"]))
    return found


def run(runs: Runs, script: str, *words: object) -> str:
    runs.script(script)
    done = runs.call("run", "--run-id", "r", *words, "train.py")
    assert done.returncode == 0, done.stderr
    assert "hook" not in done.stderr
    return done.stdout


def falling(steps: list[int]) -> list[tuple[int, float]]:
    return [(step, 1 / (number + 1)) for number, step in enumerate(steps)]


def rising(steps: list[int]) -> list[tuple[int, float]]:
    return [(step, float(number)) for number, step in enumerate(steps)]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            TENSORBOARD,
            {
                "loss": falling(FIVE),
                "val/loss": rising(FIVE),
                "lr/body": [(step, 0.1) for step in FIVE],
                "lr/head": [(step, 0.5) for step in FIVE],
            },
        ),
        (
            WANDB,
            {
                "train/loss": falling([0, 1, 2, 3, 4]),
                "acc": rising([0, 1, 2, 3, 4]),
                "late": [(90, 1.0)],
                "val/loss": [(40, 0.5)],
            },
        ),
        (
            MLFLOW,
            {
                "loss": falling(FIVE),
                "acc": rising(FIVE),
                "nan": [(step, "NaN") for step in FIVE],
                "no_step": rising([0] * 5),
            },
        ),
        nightly(TRACKIO, {"train/loss": [*falling([0, 1, 2, 3, 4]), (40, 0.5)]}),
        nightly(
            AIM,
            {
                "val/loss": falling(FIVE),
                "acc": rising(FIVE),
                "lr": [(step, 0.1) for step in FIVE],
                "counted": rising([0, 1, 2, 3, 4]),
            },
        ),
    ],
    ids=["tensorboard", "wandb", "mlflow", "trackio", "aim"],
)
def test_an_unedited_script(tracking: Runs, script: str, expected: dict[str, list[tuple[int, float]]]):
    """Each scalar is recorded with the tracker's step; text, histograms and the like are not. Views show it."""
    run(tracking, "    import numpy as np" + script)
    assert points(tracking) == expected
    document = tracking.document("r")
    assert sorted(document["tracked_metrics"]) == sorted(expected)
    assert document["printed_metrics"] == []
    name = next(name for name in expected if name.endswith("loss"))
    assert f"{document['metrics'][name]:.4g}" in tracking.call("list", "--metric", name).stdout
    assert name in tracking.call("plot", "r", "-y", name).stdout


def test_what_the_script_reports_itself_wins(tracking: Runs):
    """As JSON lines or by `backprop.log`, whichever comes first."""
    run(
        tracking,
        """
        import backprop, wandb
        run = wandb.init(project="p")
        for step in range(3):
            run.log({"loss": 7.0, "acc": 7.0, "own": step}, step=step)
            print(json.dumps({"step": step, "loss": 0.5}), flush=True)
            backprop.log(step=step, acc=0.25)
        """,
    )
    assert points(tracking) == {
        "loss": [(0, 0.5), (1, 0.5), (2, 0.5)],
        "acc": [(0, 0.25), (1, 0.25), (2, 0.25)],
        "own": [(0, 0.0), (1, 1.0), (2, 2.0)],
    }
    assert tracking.document("r")["tracked_metrics"] == ["own"]


def test_wandb_is_turned_off(tracking: Runs):
    """Backprop still records what is logged; there is no run to continue."""
    run(
        tracking,
        """
        import wandb
        run = wandb.init(project="p", mode="disabled")
        for step in range(3):
            wandb.log({"loss": step})
            run.log({"acc": step}, step=10 * step)
        """,
    )
    assert points(tracking) == {"loss": rising([0, 1, 2]), "acc": rising([0, 10, 20])}
    assert not (tracking.rundir("r") / "session-1.tracker-runs").exists()


def test_no_hooks(tracking: Runs):
    run(tracking, "    import numpy as np" + TENSORBOARD, "--no-hooks")
    assert tracking.document("r")["metrics"] == {}


SEVERAL_WANDB = """
    import wandb
    one, two = (wandb.init(project="p", reinit="create_new") for _ in range(2))
    for step in range(3):
        one.log({"loss": step})
        two.log({"loss": 10 + step, "acc": 0.5})
    for run in (one, two):
        run.finish()
    wandb.init(project="p", reinit="create_new").log({"loss": 20.0})
"""
SEVERAL_MLFLOW = """
    import mlflow
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    with mlflow.start_run():
        mlflow.log_metric("loss", 0, step=0)
        with mlflow.start_run(nested=True):
            for step in range(3):
                mlflow.log_metric("loss", 10 + step, step=step)
                mlflow.log_metric("acc", 0.5, step=step)
        for step in range(1, 3):
            mlflow.log_metric("loss", step, step=step)
    with mlflow.start_run():
        mlflow.log_metric("loss", 20.0, step=0)
"""


@pytest.mark.parametrize("script", [SEVERAL_WANDB, SEVERAL_MLFLOW])
def test_runs_of_one_process_have_curves_of_their_own(tracking: Runs, script: str):
    """If they are open at the same time, as MLflow's child runs are beside their parent."""
    run(tracking, script)
    assert points(tracking) == {
        "loss": [*rising([0, 1, 2]), (0, 20.0)],
        "2/loss": [(step, 10.0 + step) for step in range(3)],
        "acc": [(step, 0.5) for step in range(3)],
    }


# -- a resumed session continues the tracker's run

SAVES = """
    open("model.bin", "w").write("x")
    print(json.dumps({"event": "checkpoint_saved", "path": "model.bin", "step": 3}))
    if "BACKPROP_RESUME_FROM" in os.environ:
        open(os.environ["BACKPROP_RESUME_FROM"]).close()
"""
WANDB_RUN = """
    import wandb
    run = wandb.init(project="p"ARGUMENTS)
    print("id", run.id)
    for step in range(3):
        run.log({"loss": step})
"""
MLFLOW_RUN = """
    import mlflow
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    with mlflow.start_run(ARGUMENTS) as run:
        print("id", run.info.run_id)
        mlflow.log_param("pid", os.getpid())
        mlflow.log_params({"lr": 1.0, "also": os.getpid()})
        for step in range(3):
            mlflow.log_metric("loss", step, step=step)
"""
SCRIPTS = {"wandb": WANDB_RUN, "mlflow": MLFLOW_RUN}


def ids(runs: Runs, session: int) -> list[str]:
    return [line[3:] for line in runs.output("r", session).splitlines() if line.startswith("id ")]


def resume(runs: Runs, **changes: str) -> str:
    done = runs.call("resume", "r", "--again", **changes)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("tracker", SCRIPTS)
def test_a_resumed_session_continues_the_run(tracking: Runs, tracker: str):
    """Again and again; parameters that differ in each session do not end it. Counted steps go on."""
    run(tracking, SAVES + SCRIPTS[tracker].replace("ARGUMENTS", ""))
    assert [resume(tracking), resume(tracking)]
    (first,) = ids(tracking, 1)
    assert ids(tracking, 2) == ids(tracking, 3) == [first]
    steps = [step for step, _ in points(tracking)["loss"]]
    assert steps == ([*range(9)] if tracker == "wandb" else [0, 1, 2] * 3)


def test_mlflow_has_one_run_with_the_first_parameters(tracking: Runs):
    run(tracking, SAVES + MLFLOW_RUN.replace("ARGUMENTS", ""))
    client = MlflowClient(f"sqlite:///{tracking.work}/mlflow.db")
    before = client.get_run(ids(tracking, 1)[0])
    resume(tracking)
    (after,) = client.search_runs(["0"])
    assert after.data.params == before.data.params
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert len(client.get_metric_history(after.info.run_id, "loss")) == 6


@pytest.mark.parametrize("tracker", SCRIPTS)
def test_a_session_that_starts_over_begins_a_run_of_its_own(tracking: Runs, tracker: str):
    """No checkpoint is offered, and the trackers would refuse, or mix, steps that they have had."""
    run(tracking, SCRIPTS[tracker].replace("ARGUMENTS", ""))
    resume(tracking)
    assert ids(tracking, 2) != ids(tracking, 1)


@pytest.mark.parametrize(
    ("tracker", "arguments", "environment"),
    [
        ("wandb", ', id="mine"', {}),
        ("wandb", "", {"WANDB_RUN_ID": "mine"}),
        ("wandb", ', settings=wandb.Settings(run_id="mine")', {}),
        ("mlflow", "run_id=open('mine').read()", {}),
        ("mlflow", "", {"MLFLOW_RUN_ID": "FILE"}),
    ],
)
def test_a_run_that_is_named_wins(tracking: Runs, tracker: str, arguments: str, environment: dict[str, str]):
    """By an argument of the script, or by the environment in which it is resumed."""
    run(tracking, SAVES + SCRIPTS[tracker].replace("ARGUMENTS", ""))
    (first,) = ids(tracking, 1)
    mine = "mine" if tracker == "wandb" else other_mlflow_run(tracking)
    (tracking.work / "mine").write_text(mine)
    tracking.script(SAVES + SCRIPTS[tracker].replace("ARGUMENTS", arguments))
    resume(tracking, **{name: mine if value == "FILE" else value for name, value in environment.items()})
    assert ids(tracking, 2) == [mine] != [first]


def other_mlflow_run(runs: Runs) -> str:
    return MlflowClient(f"sqlite:///{runs.work}/mlflow.db").create_run("0").info.run_id


def test_the_configuration_of_a_continued_wandb_run_can_be_changed(tracking: Runs):
    """It may come with the run, and W&B would refuse another value."""
    run(tracking, SAVES + WANDB_RUN.replace("ARGUMENTS", ""))
    tracking.script(SAVES + WANDB_RUN.replace("ARGUMENTS", ', config={"pid": 1}') + "    run.config.pid = 2\n")
    resume(tracking)
    assert ids(tracking, 2) == ids(tracking, 1)


@pytest.mark.parametrize("tracker", SCRIPTS)
def test_of_several_runs_none_is_continued(tracking: Runs, tracker: str):
    """Where the session before began several; and of those that a resumed session begins, only the first continues."""
    once = SCRIPTS[tracker].replace("ARGUMENTS", "")
    run(tracking, SAVES + once)
    tracking.script(SAVES + once + ("    run.finish()" if tracker == "wandb" else "") + once)
    resume(tracking)
    (first,), second = ids(tracking, 1), ids(tracking, 2)
    assert (second[0], len(set(second))) == (first, 2)
    resume(tracking)
    assert len({*second, *ids(tracking, 3)}) == 4


def test_a_run_that_was_deleted_is_no_reason_to_fail(tracking: Runs):
    run(tracking, SAVES + MLFLOW_RUN.replace("ARGUMENTS", ""))
    (first,) = ids(tracking, 1)
    MlflowClient(f"sqlite:///{tracking.work}/mlflow.db").delete_run(first)
    resume(tracking)
    assert ids(tracking, 2) != [first]
    assert "cannot be continued, a new one begins" in (Path(tracking.rundir("r")) / "session-2.err").read_text()
