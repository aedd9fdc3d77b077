"""An index, a snapshot or a home that something happened to is put right by whoever looks next."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

from backprop.recorder import Recorder
from backprop.records import Limits, RunSpec, Status
from backprop.store.index import Index
from backprop.store.journal import Journal, SessionEnded, SessionStarted
from backprop.store.rundir import Home
from tests.conftest import Runs

AT = datetime(2026, 1, 2, tzinfo=timezone.utc)


@pytest.fixture
def three(runs: Runs) -> Runs:
    """A home with three runs."""
    runs.script("print(json.dumps({'step': 1, 'loss': 0.5}))")
    for run_id in ("a", "b", "c"):
        assert runs.call("run", "train.py", "--run-id", run_id).returncode == 0
    return runs


def ids(runs: Runs) -> set[str]:
    done = runs.call("list", "--json")
    assert done.returncode == 0, done.stderr
    return {document["id"] for document in json.loads(done.stdout)}


def delete_index(runs: Runs) -> None:
    for name in ("index.db", "index.db-wal", "index.db-shm"):
        (runs.home / name).unlink(missing_ok=True)


def test_a_viewer_killed_while_it_fills_a_new_index_has_seen_nothing(three: Runs):
    """The next one shows every run: the folder counts as seen when the index has what is in it, not before."""
    delete_index(three)
    os.utime(three.home / "runs", (1_700_000_000, 1_700_000_000))  # it changed long ago
    program = textwrap.dedent(
        """
        import os, signal, sys
        from backprop import recovery
        real, calls = recovery.refresh, []

        def refresh(*words, **options):
            calls.append(words)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*words, **options)

        recovery.refresh = refresh
        sys.argv = ["backprop", "list"]
        from backprop.__main__ import main
        main()
        """
    )
    killed = subprocess.run(
        [sys.executable, "-c", program], cwd=three.work, env=three.environment, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert ids(three) == {"a", "b", "c"}


def test_a_record_removed_by_hand_leaves_the_public_snapshot_too(three: Runs):
    """As by an `rm` that was killed in the middle."""
    shutil.rmtree(three.rundir("b"))
    assert ids(three) == {"a", "c"}
    assert set(json.loads((three.home / "experiments.json").read_text())) == {"a", "c"}


@pytest.mark.parametrize("command", [("list", "--json"), ("reindex",), ("status", "b", "--json"), ("resume", "b")])
def test_an_index_damaged_beyond_its_first_page_is_set_aside_and_rebuilt(three: Runs, command: tuple[str, ...]):
    """Opening it shows nothing wrong: whoever meets the damage makes way for a new index, for itself or the next."""
    path = three.home / "index.db"
    for name in ("index.db-wal", "index.db-shm"):
        (three.home / name).unlink(missing_ok=True)
    database = sqlite3.connect(path)
    (page,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'records'").fetchone()
    database.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    first = three.call(*command)
    assert "is kept as" in first.stderr
    assert "Traceback" not in first.stderr
    if first.returncode != 0:  # it was too far to begin again
        assert (first.returncode, "try again" in first.stderr) == (2, True), first.stderr
        assert three.call(*command).returncode == 0
    assert ids(three) == {"a", "b", "c"}


def test_a_record_damaged_inside_its_row_is_noticed(three: Runs):
    """SQLite does not look at the inside of a value; the index is rebuilt, once, and says so."""
    index = Index(three.home / "index.db", 10)
    index._db.execute("UPDATE records SET record = x'ffff' WHERE run_id = 'b'")
    index.close()
    first = three.call("list", "--json")
    assert (first.returncode, first.stdout) == (2, "")
    assert "try again" in first.stderr
    assert "Traceback" not in first.stderr
    assert ids(three) == {"a", "b", "c"}


def test_a_resume_reads_the_files_where_the_index_lacks_them(runs: Runs):
    """As while somebody else fills a new index: the newest checkpoint is the newest in the files."""
    runs.script(
        """
        name = f"ckpt-{os.environ['BACKPROP_SESSION']}.json"
        open(name, "w").write("{}")
        print(json.dumps({"event": "checkpoint_saved", "path": name, "step": 1}))
        """
    )
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    assert runs.call("resume", "r").returncode == 0
    database = sqlite3.connect(runs.home / "index.db", isolation_level=None)
    for table in ("tails", "checkpoints"):
        database.execute(f"DELETE FROM {table} WHERE session = 2")
    database.close()
    assert runs.call("resume", "r").returncode == 0
    assert runs.document("r")["sessions"][2]["resumed_from"] == str(runs.work / "ckpt-2.json")


@pytest.fixture
def read_only(three: Runs) -> Iterator[Runs]:
    """A home on a file system that the kernel has made read-only."""
    subprocess.run(["mount", "--bind", three.home, three.home], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", three.home], check=True)
    yield three
    subprocess.run(["umount", "--lazy", three.home], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: run the tests as root")
@pytest.mark.parametrize(
    "command",
    [
        ("list",), ("status",), ("status", "a"), ("compare", "a", "b"), ("logs", "a"), ("wait", "a"), ("stop", "a"),
        ("pause", "a"), ("resume", "a"), ("resume", "a", "-d"), ("run", "train.py"), ("rm", "a", "--yes"), ("reindex",),
    ],
)  # fmt: skip
def test_a_read_only_home_is_said_in_one_line(read_only: Runs, command: tuple[str, ...]):
    """Every command exits with 2 and says what is wrong; it never crashes."""
    done = read_only.call(*command)
    assert done.returncode == 2
    assert "cannot write to the home folder" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_points_keep_their_order_in_an_index_that_was_emptied_meanwhile(runs: Runs):
    """A recorder in the middle of session 2 brings session 1 first, as when `reindex` works beside a live supervisor."""
    home = Home(runs.home)
    limits = Limits(timebox_s=600, grace_s=30, min_free_ram_bytes=0, min_free_disk_bytes=0)
    spec = RunSpec(
        id="r", command=("x",), cwd=str(runs.work), created_at=AT, host="here", user="me", limits=limits
    )  # fmt: skip
    rundir = home.publish(home.begin(spec, None), "r")
    journal = Journal(rundir.journal_path)
    for number in (1, 2):
        started = SessionStarted(
            at=AT, session=number, timebox_s=600, grace_s=30, host="here", supervisor_pid=1, boot_id=None
        )  # fmt: skip
        journal.append(started)
        if number == 1:
            ended = SessionEnded(
                at=AT, session=1, status=Status.STOPPED, reason=None, exit_code=0, elapsed_s=1.0
            )  # fmt: skip
            journal.append(ended)
    rundir.out_path(1).write_text('{"step": 1, "value": 10}\n')
    rundir.out_path(2).write_text('{"step": 2, "value": 20}\n')
    recorder = Recorder(home, rundir, spec, journal, print)
    recorder.record_state(publish=False)
    for _ in range(3):
        recorder.look(2, 1.0)
    other = Index(home.index_path, 10)
    run, size = recorder.read_run()
    other.remove("r")
    other.put_run(run, size)
    with rundir.out_path(2).open("a") as output:
        output.write('{"step": 3, "value": 30}\n')
    for _ in range(5):
        recorder.look(2, 1.0)
    view = other.get("r")
    assert view is not None
    assert (view.last_step, view.metrics, view.summaries["value"].count) == (3, {"value": 30.0}, 3)
    rows = other.rows("SELECT vals FROM points WHERE run_id = 'r' ORDER BY number")
    values = memoryview(b"".join(row[0] for row in rows)).cast("d").tolist()
    assert values == [10.0, 20.0, 30.0]
    other.close()
    recorder.close()
    journal.close()
