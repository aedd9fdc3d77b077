"""`import backprop; backprop.runs()`: the record as a program or a notebook reads it. Frames are in tests/exports."""

import json
import math
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

import backprop
from backprop.errors import NoSuchRunError, UsageError
from backprop.store.metric_rows import MetricRow
from backprop.views.python_api import kept_columns
from tests.conftest import BACKPROP, Runs, wait_for

SCRIPT = """
    begin = int(os.environ.get("BACKPROP_RESUME_STEP", 0))
    open(os.environ["BACKPROP_RESUME_FROM"]).close() if begin else None
    print(json.dumps({"event": "params", "params": {"lr": float(sys.argv[1]), "layers": [1, 2]}}))
    for step in range(begin, begin + 4):
        print(json.dumps({"step": step, "loss": 1 / (1 + step) if step else float("nan"), "acc": step / 8}))
    open("model.bin", "w").write("x")
    print(json.dumps({"event": "checkpoint_saved", "path": "model.bin", "step": begin + 2}))
    sys.exit(len(sys.argv) - 2)
"""


@pytest.fixture
def two(runs: Runs) -> Runs:
    """Runs a, which is named and was resumed at step 2, and b, which is newer and failed."""
    runs.script(SCRIPT)
    assert runs.call("run", "train.py", "--run-id", "a", "-n", "my run", "--", "0.1").returncode == 0
    assert runs.call("resume", "a", "--again").returncode == 0
    assert runs.call("run", "train.py", "--run-id", "b", "--", "0.001", "x").returncode == 1
    return runs


def test_runs_come_newest_first(two: Runs):
    """All of them, or so many, or in the order of a metric."""

    def ids(**asked: object) -> list[str]:
        return [run.id for run in backprop.runs(home=two.home, **asked)]  # type: ignore[arg-type]

    assert ids() == ["b", "a"]
    assert ids(limit=1) == ["b"]
    assert ids(status="completed") == ["a"]
    assert ids(status=["completed", "failed"]) == ["b", "a"]
    assert ids(filter="lr>0.01") == ["a"]
    assert ids(search="my") == ["a"]
    assert ids(sort="loss") == ["a", "b"]
    with pytest.raises(UsageError, match="no run has a parameter or metric 'ac'; did you mean acc"):
        ids(sort="ac")


def test_a_run_tells_what_it_is(two: Runs):
    """Plain values; times are aware, and UTC."""
    run = backprop.find_run("my run", home=two.home)
    assert (run.id, run.name, run.status, run.reason) == ("a", "my run", "completed", None)
    assert run.params == {"lr": 0.1, "layers": [1, 2]}
    assert run.last == {"acc": 5 / 8, "loss": 1 / 6}
    assert run.best == {"acc": 5 / 8, "loss": 1 / 6}
    assert run.last_step == 5
    assert run.command[-2:] == ("train.py", "0.1")
    assert run.created_at.tzinfo is not None
    assert run.created_at < run.ended_at < datetime.now(timezone.utc)
    assert run.elapsed_s > 0
    assert run.run_dir == two.rundir("a")
    (checkpoint,) = run.checkpoints
    assert (checkpoint.path, checkpoint.step, checkpoint.session) == (str(two.work / "model.bin"), 4, 2)
    assert (checkpoint.size_bytes, checkpoint.is_emergency) == (1, False)
    assert "my run" in repr(run)
    assert "completed" in repr(run)


def test_metrics_are_every_point(two: Runs):
    """In the order they were written, also those that a resume trained again; NaN is a value."""
    run = backprop.find_run("a", home=two.home)
    points = run.metrics("loss")
    assert [(point.session, point.step) for point in points] == [
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 2),
        (2, 3),
        (2, 4),
        (2, 5),
    ]
    assert math.isnan(points[0].value)
    assert [point.value for point in points[1:]] == [1 / (1 + point.step) for point in points[1:]]
    assert [point.time_s for point in points] == sorted(point.time_s for point in points)
    assert 0 <= points[0].time_s <= points[-1].time_s <= run.elapsed_s
    assert {point.metric for point in run.metrics()} == {"acc", "loss"}
    assert len(run.metrics()) == 16
    assert run.metrics("nothing of that name") == []


def test_runs_can_be_kept_in_a_set(two: Runs):
    """The same run, read twice, is one."""
    read = backprop.runs(home=two.home)
    assert len({*read, *backprop.runs(home=two.home)}) == len(read) == 2


def test_what_is_trained_again_is_told_metric_by_metric():
    """A metric that the later session reports only later keeps its values until then, as its curve does."""
    rows = [
        MetricRow(1, 1, 0.0, {"loss": 1.0}),
        MetricRow(1, 2, 1.0, {"loss": 2.0, "val": 2.0}),
        MetricRow(1, 3, 2.0, {"loss": 3.0}),
        MetricRow(2, 2, 3.0, {"loss": 20.0}),
        MetricRow(2, 3, 4.0, {"loss": 30.0, "val": 30.0}),
    ]
    columns = kept_columns(["loss", "val"], rows)
    assert list(zip(columns["session"], columns["step"], columns["loss"], columns["val"], strict=True)) == [
        (1, 1, 1.0, None),
        (1, 2, None, 2.0),
        (2, 2, 20.0, None),
        (2, 3, 30.0, 30.0),
    ]


def test_the_document_is_that_of_json(two: Runs):
    """as_dict() is what `status --json` prints."""
    assert backprop.find_run("a", home=two.home).as_dict() == two.document("a")


def test_a_run_is_found_by_every_word(two: Runs, monkeypatch: pytest.MonkeyPatch):
    """Id, name, or the newest; in $BACKPROP_HOME unless told otherwise."""
    monkeypatch.setenv("BACKPROP_HOME", str(two.home))
    assert backprop.find_run().id == "b"
    assert backprop.find_run("last").id == "b"
    assert backprop.find_run("my run").id == "a"
    with pytest.raises(NoSuchRunError, match="nobody"):
        backprop.find_run("nobody")


def test_a_home_that_is_not_there_stays_so(tmp_path: Path):
    """No runs, and nothing is made."""
    home = tmp_path / "home"
    assert backprop.runs(home=home) == []
    with pytest.raises(NoSuchRunError):
        backprop.find_run("last", home=home)
    assert not home.exists()


@pytest.mark.parametrize("asked", [{"status": "finished"}, {"filter": "lr>"}, {"filter": "status=finished"}])
def test_a_question_that_makes_no_sense_is_an_error(tmp_path: Path, asked: dict[str, str]):
    """Also where there are no runs: a typo does not look like an empty list."""
    with pytest.raises(UsageError, match=r"cannot parse filter|no such status"):
        backprop.runs(home=tmp_path, **asked)  # type: ignore[arg-type]


def test_a_run_that_was_removed_says_so(two: Runs):
    """What was read stays; what must be read anew cannot be."""
    run = backprop.find_run("b", home=two.home)
    two.call("rm", "b", "--yes")
    assert run.status == "failed"
    with pytest.raises(NoSuchRunError, match="removed"):
        run.metrics()


def test_a_running_run_is_as_far_as_it_has_come(runs: Runs):
    """Points that were written after the run was looked up are there, without its supervisor's help."""
    runs.script("""
        print(json.dumps({"step": 1, "loss": 1.0}), flush=True)
        while not os.path.exists("go"): time.sleep(0.01)
        print(json.dumps({"step": 2, "loss": 0.5}), flush=True)
        while True: time.sleep(0.01)
    """)
    runs.start("run", "train.py", "--run-id", "a")
    wait_for(lambda: runs.output("a"))
    run = backprop.find_run("a", home=runs.home)
    assert run.status == "running"
    assert run.ended_at is None
    (runs.work / "go").touch()
    wait_for(lambda: [point.value for point in run.metrics()] == [1.0, 0.5])
    runs.call("stop", "a", "--now")


def test_frame_without_a_library_says_what_to_install(two: Runs):
    """One line with the interpreter that needs it."""
    program = (
        "import sys; sys.modules['pandas'] = sys.modules['polars'] = None; import backprop\n"
        "try: backprop.find_run('a').frame()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=two.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"UsageError frame() needs pandas or polars: {sys.executable} -m pip install pandas\n"


def test_a_trainer_without_our_dependencies_is_told(runs: Runs):
    """Where only the hooks' `import backprop` is there, reading is refused in words, and the rest works."""
    runs.script("""
        sys.modules["msgspec"] = None  # as in an environment in which Backprop is not installed
        import backprop
        from backprop import *
        log(step=1, loss=1.0)
        try:
            backprop.runs()
        except AttributeError as error:
            print(error)
        print(hasattr(backprop, "nothing"), hasattr(backprop, "runs"), hasattr(backprop, "log"))
    """)
    assert runs.call("run", "train.py", "--run-id", "a").returncode == 0
    said, looked = runs.output("a").splitlines()
    assert said.startswith("backprop.runs reads the record, which needs Backprop installed in this environment")
    assert looked == "False False True"
    assert runs.document("a")["metrics"] == {"loss": 1.0}


def test_types_are_told_to_checkers(tmp_path: Path):
    """A strict checker knows what runs() gives, and finds a typo."""
    (tmp_path / "use.py").write_text(
        "import backprop\n"
        "def losses(run: backprop.Run) -> list[float]:\n"
        "    return [point.value for point in run.metrics('loss')]\n"
        "for run in backprop.runs(status='failed', limit=3):\n"
        "    print(losses(run), run.best['loss'], run.checkpoints[0].path.upper())\n"
        "print(backprop.find_run('last').nmae)\n"
    )
    mypy = str(Path(BACKPROP).with_name("mypy"))
    done = subprocess.run([mypy, "--strict", "use.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(found) == 1
    assert found[0].startswith('use.py:6: error: "Run" has no attribute "nmae"')


def test_what_is_read_can_be_written(two: Runs):
    """as_dict() holds plain JSON values, NaN and infinities as the words of --json."""
    assert json.loads(json.dumps(backprop.find_run("b", home=two.home).as_dict(), allow_nan=False))["id"] == "b"
