"""export: what needs no library beside Backprop. What does is in tests/exports."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from tests.conftest import HANG_S, Runs, recorded, wait_for

SCRIPT = """
    begin = int(os.environ.get("BACKPROP_RESUME_STEP", 0))
    open(os.environ["BACKPROP_RESUME_FROM"]).close() if begin else None
    print(json.dumps({"event": "params", "params": {"optimizer": "=cmd()", "lr": 1e-3, "layers": [64, 64]}}))
    for step in range(begin, begin + 4):
        print(json.dumps({"step": step, "loss": [0.1, float("nan"), float("inf"), -float("inf")][step % 4], "n": -step}))
    open("model.bin", "w").write("x")
    print(json.dumps({"event": "checkpoint_saved", "path": "model.bin", "step": begin + 2}))
"""
VALUES = [0.1, math.nan, math.inf, -math.inf, math.inf, -math.inf, 0.1, math.nan]  # steps 0 to 3, and 2 to 5


@recorded
def two(runs: Runs) -> None:
    """Run a with two sessions, which both did steps 2 and 3; and run b."""
    runs.script(SCRIPT)
    runs.call("run", "train.py", "--run-id", "a", "-n", "=1+1")
    runs.call("resume", "a", "--again")
    runs.call("run", "train.py", "--run-id", "b")
    for run_id in ("a", "b"):
        runs.set_usage(run_id)


def exported(runs: Runs, *words: object) -> str:
    """What a successful export says."""
    done = runs.call("export", *words)
    assert done.returncode == 0, done.stderr
    return done.stderr


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def same(found: list[float], wanted: list[float]) -> bool:
    """Whether two lists of values are equal, NaN included."""
    return [repr(value) for value in found] == [repr(value) for value in wanted]


def test_csv_holds_every_point(two: Runs):
    """Session, step, value and time of each point; NaN and infinities are there as float() reads them."""
    exported(two, "a", "--to", "csv", "points.csv")
    told = [row for row in rows(two.work / "points.csv") if row["metric"] == "loss"]
    assert [(row["run"], row["session"], row["step"]) for row in told] == [
        ("a", session, step) for session, steps in (("1", "0123"), ("2", "2345")) for step in steps
    ]
    assert same([float(row["value"]) for row in told], VALUES)
    begins = [datetime.fromisoformat(session["started_at"]) for session in two.document("a")["sessions"]]
    ends = [datetime.fromisoformat(session["ended_at"]) for session in two.document("a")["sessions"]]
    for row in told:
        number = int(row["session"]) - 1
        assert begins[number] <= datetime.fromisoformat(row["at"]) <= ends[number]


def test_csv_in_a_folder_holds_everything(two: Runs):
    """Runs, sessions, parameters and checkpoints are tables beside the points."""
    exported(two, "a", "b", "--to", "csv", "tables")
    folder = two.work / "tables"
    assert [(row["run"], row["status"], row["last_step"]) for row in rows(folder / "runs.csv")] == [
        ("a", "completed", "5"),
        ("b", "completed", "3"),
    ]
    assert [(row["run"], row["session"]) for row in rows(folder / "sessions.csv")] == [
        ("a", "1"),
        ("a", "2"),
        ("b", "1"),
    ]
    assert {(row["name"], row["value"]) for row in rows(folder / "params.csv") if row["run"] == "b"} == {
        ("layers", "[64, 64]"),
        ("lr", "0.001"),
        ("optimizer", "'=cmd()"),
    }
    (saved,) = [row for row in rows(folder / "checkpoints.csv") if row["run"] == "b"]
    assert (saved["path"], saved["step"]) == (str(two.work / "model.bin"), "2")
    assert len(rows(folder / "points.csv")) == 2 * 8 + 2 * 4


def test_csv_shows_formulas_as_text(two: Runs):
    """A name that a spreadsheet would run is defused; a negative number stays one."""
    exported(two, "a", "--to", "csv", "tables")
    assert rows(two.work / "tables" / "runs.csv")[0]["name"] == "'=1+1"
    assert {row["value"] for row in rows(two.work / "tables" / "points.csv") if row["metric"] == "n"} >= {
        "-1.0",
        "-5.0",
    }


def test_jsonl_is_the_document_and_every_point(two: Runs):
    """A line for the run as --json gives it, then one for each point; nothing is lost on the way."""
    exported(two, "a", "--to", "jsonl", "a.jsonl")
    run, *points = [json.loads(line) for line in (two.work / "a.jsonl").read_text().splitlines()]
    document = two.document("a")
    assert run == {"kind": "run", **document}
    assert {point["kind"] for point in points} == {"point"}
    losses = [point for point in points if point["metric"] == "loss"]
    assert [(point["session"], point["step"]) for point in losses] == [
        *((1, step) for step in range(4)),
        *((2, step) for step in range(2, 6)),
    ]
    assert same([float(point["value"]) for point in losses], VALUES)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_text_goes_to_stdout_too(two: Runs, kind: str):
    """DESTINATION - prints the same, and nothing else."""
    exported(two, "a", "--to", kind, f"points.{kind}")
    done = two.call("export", "a", "--to", kind, "-")
    assert done.returncode == 0
    assert done.stdout == (two.work / f"points.{kind}").read_text()
    assert done.stderr == ""


@pytest.mark.parametrize("target", [("csv", "points.csv"), ("csv", "tables"), ("jsonl", "a.jsonl")])
def test_an_export_replaces_nothing_unasked(two: Runs, target: tuple[str, str]):
    """A second export is refused and changes nothing; --force replaces it."""
    exported(two, "a", "--to", *target)
    paths = sorted(path for path in [two.work / target[1], *(two.work / target[1]).glob("*")] if path.is_file())
    before = [path.read_text() for path in paths]
    done = two.call("export", "b", "--to", *target)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert [path.read_text() for path in paths] == before
    exported(two, "b", "--force", "--to", *target)
    assert all(text != path.read_text() for text, path in zip(before, paths, strict=True))


# halfway through the points
HALTS = """
import os, signal
from backprop.views.exports.record import RunExport
points = RunExport.points

def halting(self):
    for number, point in enumerate(points(self)):
        if number == 500:
            os.kill(os.getpid(), signal.SIGSTOP)
        yield point

RunExport.points = halting
"""


@pytest.mark.parametrize(("kind", "name"), [("jsonl", "a.jsonl"), ("csv", "points.csv"), ("csv", ".")])
def test_an_export_that_is_cut_off_leaves_what_was_there(runs: Runs, kind: str, name: str):
    """Ctrl-C in the middle: the files are as they were, no other one appears, and no draft lies beside them."""
    runs.script("for step in range(1000): print(json.dumps({'step': step, 'loss': 1.0}))")
    runs.call("run", "train.py", "--run-id", "a")
    folder = runs.work / "target"
    folder.mkdir()
    (folder / "points.csv").write_text("precious")
    (folder / "a.jsonl").write_text("precious")
    exporting = runs.start_patched(HALTS, "export", "a", "--force", "--to", kind, folder / name)
    wait_for(lambda: psutil.Process(exporting.pid).status() == psutil.STATUS_STOPPED)
    assert list(folder.glob(".*.part"))
    exporting.send_signal(signal.SIGINT)
    exporting.send_signal(signal.SIGCONT)
    assert exporting.wait(HANG_S) == 130
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "points.csv": "precious",
        "a.jsonl": "precious",
    }


def test_memory_does_not_grow_with_the_points(runs: Runs):
    """A hundred thousand points take no more memory than a hundred."""
    runs.script("for step in range(int(sys.argv[1])): print(json.dumps({'step': step, 'loss': 1.0, 'acc': 2.0}))")
    runs.call("run", "train.py", "--run-id", "short", "--", "100")
    runs.call("run", "train.py", "--run-id", "long", "--", "100000")
    program = (
        "import sys; from backprop.cli.app import app; app(sys.argv[1:], standalone_mode=False);"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )

    def peak_mb(*words: str) -> float:
        command = [sys.executable, "-c", program, "export", *words]
        done = subprocess.run(command, cwd=runs.work, env=runs.environment, capture_output=True, text=True, check=True)
        return int(done.stdout) / 1000

    for kind in ("csv", "jsonl"):
        less = peak_mb("short", "--to", kind, f"short.{kind}")
        assert peak_mb("long", "--to", kind, f"long.{kind}") < less + 20  # all points at once: 40 MB and more


def test_a_missing_library_is_said_in_one_line(two: Runs):
    """Which one, and the command that installs it into the environment that counts."""
    blocked = two.work / "blocked"
    blocked.mkdir()
    error = "raise ModuleNotFoundError('No module named {0}', name='{0}')"
    for name in ("pyarrow", "tensorboard", "mlflow", "wandb"):
        (blocked / f"{name}.py").write_text(error.format(name))
    for kind, extra in (
        ("parquet", "parquet"),
        ("tensorboard", "tensorboard"),
        ("mlflow", "mlflow"),
        ("wandb-offline", "wandb"),
    ):
        done = two.call("export", "a", "--to", kind, "there", PYTHONPATH=str(blocked))
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert f"{sys.executable} -m pip install 'backprop-cli[{extra}]'" in line
        assert not (two.work / "there").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a", "--to", "excel", "x"], "parquet"),
        (["a", "--to", "csv"], "requires 2 arguments"),
        (["a"], "--to"),
        (["nobody", "--to", "csv", "-"], "nobody"),
        (["a", "--to", "csv", "no/such/folder/x.csv"], "no/such/folder"),
        (["a", "--to", "csv", "train.py"], "train.py"),
        (["a", "--to", "csv", "x.txt"], "x.txt ends in .txt, not in .csv: name a file that ends in .csv, or a folder"),
        (["a", "--to", "parquet", "x.csv"], "x.csv ends in .csv, not in .parquet"),
        (["a", "--to", "jsonl", "."], "folder"),
    ],
)
def test_a_mistake_is_said_in_one_line(two: Runs, words: list[str], told: str):
    """A kind that does not exist, no destination, no such run, a folder that is not there, a file in the way."""
    done = two.call("export", *words)
    assert done.returncode in {2, 3}
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (two.work / words[-1]).is_dir() or words[-1] == "."


def test_a_folder_may_have_a_dot_in_its_name(two: Runs):
    """Where the name ends in a slash, or the folder is there."""
    for _ in range(2):
        done = two.call("export", "a", "--to", "csv", "v1.2/", "--force")
        assert done.returncode == 0, done.stderr
    assert two.call("export", "a", "--to", "csv", "v1.2", "--force").returncode == 0
    assert (two.work / "v1.2" / "points.csv").exists()


def test_a_run_that_says_nothing_can_be_exported(runs: Runs):
    """No metrics, no parameters, no name: headings alone, and a document."""
    runs.script("")
    runs.call("run", "train.py", "--run-id", "a")
    heading, *rows = runs.call("export", "a", "--to", "csv", "-").stdout.splitlines()
    assert heading == "run,session,metric,step,value,time_s,at"
    assert all(row.split(",")[2].startswith("sys/") for row in rows)  # measured, where it took a second
    assert json.loads(runs.call("export", "a", "--to", "jsonl", "-").stdout)["id"] == "a"


def test_a_reader_that_leaves_early_is_no_error(two: Runs):
    """`backprop export a --to jsonl - | head -1` ends quietly."""
    exporting = two.start("export", "a", "b", "--to", "jsonl", "-", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    exporting.stdout.close()
    assert exporting.wait(HANG_S) == 0
    assert exporting.stderr.read() == b""


def test_progress_is_shown_on_a_terminal_and_wiped(runs: Runs):
    """A line that says how far it is; the last thing on the screen is what was done."""
    runs.script("for step in range(200_000): print(json.dumps({'step': step, 'loss': 1.0}))")
    runs.call("run", "train.py", "--run-id", "a")
    ours, theirs = os.openpty()
    exporting = runs.start("export", "a", "--to", "jsonl", "a.jsonl", stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # Linux: the other side has closed
            break
        if not data:
            break
        shown += data
    os.close(ours)
    assert exporting.wait(HANG_S) == 0
    assert re.search(rb"of 200,\d{3}\b", shown)  # and some that were measured
    assert re.match(r"backprop: exported 1 run\(s\) and 200,\d{3}\b", shown.decode().rpartition("\x1b[K")[2])
