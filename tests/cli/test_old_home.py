"""A home that an earlier version made is read as that version read it: see tests/fixtures/old_home/README.md."""

import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from backprop.store.index import SCHEMA_VERSION
from tests.conftest import Runs
from tests.fakes import slurm

FIXTURE = Path(__file__).parents[1] / "fixtures" / "old_home"
# the commands reconcile these, in their own words and at their own time
UNFINISHED = {"interrupted", "queued", "slurm-queued"}
OF_RECONCILING = {"reason", "ended_at", "elapsed_s"}


def here(text: str, runs: Runs) -> str:
    return text.replace("{FOLDER}", str(runs.home.parent)).replace("{PYTHON}", sys.executable)


@pytest.fixture
def expected(runs: Runs) -> dict:
    """What the earlier version printed."""
    return json.loads(here((FIXTURE / "expected.json").read_text(), runs))


@pytest.fixture
def home(runs: Runs, tmp_path: Path, expected: dict) -> Path:
    """The home without an index, and the folder that its runs were started in."""
    for path in (FIXTURE / "home").rglob("*"):
        if path.is_file() and path.name != "index.sql":
            target = runs.home / path.relative_to(FIXTURE / "home")
            target.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_bytes().decode(errors="surrogateescape")
            target.write_bytes(here(text, runs).encode(errors="surrogateescape"))
    shutil.copy(FIXTURE / "train.py", runs.work)
    shutil.copytree(FIXTURE / "work", runs.work, dirs_exist_ok=True)
    for checkpoint in (one for run in expected["list"] for one in run["checkpoints"]):
        saved_at = datetime.fromisoformat(checkpoint["saved_at"]).timestamp()
        os.utime(checkpoint["path"], (saved_at, saved_at))
    programs = tmp_path / "programs"
    programs.mkdir()
    slurm.put(programs, "squeue", "exit 1")  # no answer: what is queued there stays so
    runs.environment["PATH"] = f"{programs}:{runs.environment['PATH']}"
    return runs.home


def make_index(home: Path, runs: Runs) -> None:
    """The index of that version; journals are longer or shorter by what stands in the place of the placeholders."""
    with closing(sqlite3.connect(home / "index.db", isolation_level=None)) as index:
        index.executescript(here((FIXTURE / "home" / "index.sql").read_text(), runs))
        index.create_function("here", 1, lambda text: here(text, runs))
        for table in ("records", "checkpoints"):
            index.execute(f"UPDATE {table} SET record = CAST(here(CAST(record AS TEXT)) AS BLOB)")
        for (run_id,) in index.execute("SELECT id FROM runs").fetchall():
            size = (home / "runs" / run_id / "journal.jsonl").stat().st_size
            index.execute("UPDATE runs SET journal_size = ? WHERE id = ? AND is_whole", (size, run_id))


def assert_has(found: object, expected: object, place: str = "") -> None:
    """All that is expected is there; a later version may tell more."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), place
        for key, value in expected.items():
            assert key in found, f"{place}.{key}"
            assert_has(found[key], value, f"{place}.{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list), place
        assert len(found) == len(expected), place
        for number, value in enumerate(expected):
            assert_has(found[number], value, f"{place}[{number}]")
    else:
        assert found == expected, place


def comparable(run: dict) -> dict:
    if run["id"] not in UNFINISHED:
        return run
    sessions = [{key: one[key] for key in one.keys() - OF_RECONCILING} for one in run["sessions"]]
    return {key: run[key] for key in run.keys() - OF_RECONCILING} | {"sessions": sessions}


def assert_lists(runs: Runs, expected: dict) -> None:
    done = runs.call("list", "--json")
    assert done.returncode == 0, done.stderr
    assert_has(json.loads(done.stdout), [comparable(run) for run in expected["list"]])


@pytest.mark.parametrize("index", ["of that version", "none"])
def test_runs_are_listed(runs: Runs, home: Path, expected: dict, index: str):
    """Whatever index there is: one of that version, of an older schema, is kept under another name, and built anew."""
    if index != "none":
        make_index(home, runs)
    assert_lists(runs, expected)
    with closing(sqlite3.connect(home / "index.db")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert len(list(home.glob("index.db.corrupt-*"))) == (index != "none")


def test_each_run_is_shown(runs: Runs, home: Path, expected: dict):
    """In full, by its id; and to people."""
    make_index(home, runs)
    for run in expected["list"]:
        assert_has(runs.document(run["id"]), comparable(run), run["id"])
        assert run["status"] in runs.call("status", run["id"]).stdout


def test_runs_are_compared(runs: Runs, home: Path, expected: dict):
    """By what differs between them."""
    make_index(home, runs)
    done = runs.call("compare", "completed", "timeboxed", "--json")
    assert done.returncode == 0, done.stderr
    assert_has(json.loads(done.stdout), expected["compare"])


@pytest.mark.parametrize("index", ["of that version", "none"])
def test_a_run_is_resumed(runs: Runs, home: Path, index: str):
    """From the checkpoint that it reported to that version."""
    if index != "none":
        make_index(home, runs)
    done = runs.call("resume", "failed")
    assert done.returncode == 0, done.stderr
    run = runs.document("failed")
    assert (run["status"], run["last_step"]) == ("completed", 5)
    assert run["sessions"][1]["resumed_from"] == str(runs.work / "failed.json")
    assert run["sessions"][0]["status"] == "failed"


def test_the_index_is_rebuilt(runs: Runs, home: Path, expected: dict):
    """From the run directories alone."""
    make_index(home, runs)
    done = runs.call("reindex")
    assert done.returncode == 0, done.stderr
    assert_lists(runs, expected)
