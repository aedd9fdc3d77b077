"""An index, a snapshot or a home that something happened to is put right by whoever looks next."""

import errno
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import pytest

from backprop.cli.commands import resume as resume_command
from backprop.cli.commands import wait as wait_command
from backprop.errors import BusyError, ConfigError, NoSuchRunError
from backprop.lifecycle import catalog, indexing
from backprop.records import RunSpec, Status
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.store.journal.entries import SessionEnded, SessionStarted
from backprop.store.journal.file import Journal
from backprop.store.recorder import Recorder
from tests.conftest import HANG_S, Runs, recorded, wait_for
from tests.records import LIMITS
from tests.web.conftest import Server

AT = datetime(2026, 1, 2, tzinfo=timezone.utc)


@recorded
def three(runs: Runs) -> None:
    """A home with three runs."""
    runs.script("print(json.dumps({'step': 1, 'loss': 0.5}))")
    for run_id in ("a", "b", "c"):
        assert runs.call("run", "train.py", "--run-id", run_id).returncode == 0


def run_program(runs: Runs, program: str) -> "subprocess.CompletedProcess[bytes]":
    """Python with these lines: a command of ours in which something is broken on purpose."""
    return subprocess.run(
        [sys.executable, "-c", program], cwd=runs.work, env=runs.environment, capture_output=True, check=False
    )


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
        from backprop.lifecycle import indexing
        real, calls = indexing._refresh, []

        def refresh(*words, **options):
            calls.append(words)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*words, **options)

        indexing._refresh = refresh
        sys.argv = ["backprop", "list"]
        from backprop.__main__ import main
        main()
        """
    )
    killed = run_program(three, program)
    assert killed.returncode == -signal.SIGKILL
    assert ids(three) == {"a", "b", "c"}


def test_a_record_removed_by_hand_leaves_the_public_snapshot_too(three: Runs):
    """As by an `rm` that was killed in the middle."""
    shutil.rmtree(three.rundir("b"))
    assert ids(three) == {"a", "c"}
    assert set(json.loads((three.home / "experiments.json").read_text())) == {"a", "c"}


@pytest.mark.parametrize(
    "command", [("list", "--json"), ("reindex",), ("status", "b", "--json"), ("resume", "b", "--again")]
)
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
    assert (first.returncode, json.loads(first.stdout)["error"]["hint"]) == (2, "try again.")
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
    assert runs.call("resume", "r", "--again").returncode == 0
    database = sqlite3.connect(runs.home / "index.db", isolation_level=None)
    for table in ("tails", "checkpoints"):
        database.execute(f"DELETE FROM {table} WHERE session = 2")
    database.close()
    assert runs.call("resume", "r", "--again").returncode == 0
    assert runs.document("r")["sessions"][2]["offered"] == str(runs.work / "ckpt-2.json")


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
        ("resume", "a", "--again"), ("resume", "a", "--again", "-d"), ("run", "train.py"), ("rm", "a", "--yes"),
        ("rename", "a", "b"), ("note", "a", "good"), ("reindex",),
    ],
)  # fmt: skip
def test_a_read_only_home_is_said_in_one_line(read_only: Runs, command: tuple[str, ...]):
    """Every command that must write exits with 2 and says what is wrong; it never crashes."""
    done = read_only.call(*command)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "cannot" in last
    assert "Read-only file system" in last
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: run the tests as root")
@pytest.mark.parametrize(
    "command",
    [
        ("list",), ("status",), ("status", "a"), ("compare", "a", "b"), ("logs", "a"), ("wait", "a"), ("plot", "a"),
        ("export", "a", "--to", "csv", "-"),
    ],
)  # fmt: skip
def test_a_read_only_home_can_be_looked_at(read_only: Runs, command: tuple[str, ...]):
    """Views read the run directories, and say so: a disk that failed holds the work of months, perhaps."""
    done = read_only.call(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout or command[0] == "wait"
    assert "is read-only: reading from the run directories instead" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: run the tests as root")
@pytest.mark.parametrize("words", [(), ("--now",)], ids=["gracefully", "now"])
def test_stop_reaches_a_run_whose_home_became_read_only(runs: Runs, words: tuple[str, ...]):
    """The request cannot be recorded: its supervisor gets a signal."""
    runs.script("print('ready', flush=True); time.sleep(600)")
    process = runs.start("run", "train.py", "--run-id", "r", "--grace", "5", stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    wait_for(lambda: "trainer_launched" in (runs.rundir("r") / "journal.jsonl").read_text())
    aside = runs.work / "aside"  # a mount through which its supervisor writes just now cannot be made read-only
    aside.mkdir()
    subprocess.run(["mount", "--bind", runs.home, aside], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", aside], check=True)
    subprocess.run(["mount", "--bind", aside, runs.home], check=True)
    subprocess.run(["umount", aside], check=True)
    try:
        (listed,) = json.loads(runs.call("list", "--json").stdout)
        assert listed["status"] == "running"
        done = runs.call("stop", "r", *words)
        assert done.returncode == 0, done.stderr
        process.wait(HANG_S)
        assert runs.tree() == []
    finally:
        subprocess.run(["umount", "--lazy", runs.home], check=True)
    assert runs.document("r")["status"] == "stopped"


def test_points_keep_their_order_in_an_index_that_was_emptied_meanwhile(runs: Runs):
    """A recorder in the middle of session 2 brings session 1 first, as when `reindex` works beside a live supervisor."""
    home = Home(runs.home)
    limits = LIMITS
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
        recorder.output.ingest(2, 1.0)
    other = Index(home.index_path, 10)
    run, size = recorder.read_run()
    other.remove("r")
    other.put_run(run, size)
    with rundir.out_path(2).open("a") as output:
        output.write('{"step": 3, "value": 30}\n')
    for _ in range(5):
        recorder.output.ingest(2, 1.0)
    view = other.get("r")
    assert view is not None
    assert (view.last_step, view.metrics, view.summaries["value"].count) == (3, {"value": 30.0}, 3)
    rows = other.rows("SELECT vals FROM points WHERE run_id = 'r' ORDER BY number")
    values = memoryview(b"".join(row[0] for row in rows)).cast("d").tolist()
    assert values == [10.0, 20.0, 30.0]
    other.close()
    recorder.close()
    journal.close()


# -- a run that is on disk is never called unknown


def test_a_run_that_a_reindex_has_just_taken_out_is_found(three: Runs):
    """Between its removal from the index and its return, whoever asks for it brings it in."""
    home = Home(three.home)
    with catalog.caught_up(home, print) as index:
        for word in ("b", "last"):
            for run_id in ("b", "c"):
                index.remove(run_id)
            assert catalog.find_run(home, index, word, print).run.spec.id == {"b": "b", "last": "c"}[word]
        index.remove("a")
        assert catalog.get_run(home, index, "a", print).run.spec.id == "a"
        with pytest.raises(NoSuchRunError):
            catalog.find_run(home, index, "nobody", print)


def test_an_index_that_claims_to_be_complete_and_is_not_hides_no_run(three: Runs):
    """As one of which another process's log was deleted."""
    database = sqlite3.connect(three.home / "index.db", isolation_level=None)
    database.execute("DELETE FROM runs WHERE id = 'b'")
    os.utime(three.home / "runs", (1_700_000_000, 1_700_000_000))
    stamp = (three.home / "runs").stat().st_mtime_ns
    database.execute("INSERT OR REPLACE INTO facts VALUES ('seen_folder_ns', ?)", (stamp,))
    database.close()
    assert three.call("status", "b").returncode == 0


def test_a_run_that_cannot_be_brought_into_the_index_is_busy_and_not_unknown(three: Runs):
    """Another process writes to the index for longer than we wait."""
    home = Home(three.home)
    index = Index(home.index_path, 0.01)
    other = sqlite3.connect(home.index_path, isolation_level=None)
    index.remove("b")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError, match="try again"):
        catalog.find_run(home, index, "b", print)
    with pytest.raises(BusyError, match="try again"):
        catalog.get_run(home, index, "b", print)
    with pytest.raises(BusyError, match="may name run b"):  # the newest in the index may not be the newest
        catalog.find_run(home, index, "last", print)
    assert catalog.find_run(home, index, "a", print).run.spec.id == "a"
    with pytest.raises(NoSuchRunError):
        catalog.find_run(home, index, "x", print)
    other.close()
    index.close()


def test_a_run_whose_file_is_damaged_is_not_unknown(three: Runs):
    """It is found by its id, and nothing is done with it that needs its record."""
    (three.rundir("b") / "run.json").write_text("{")
    delete_index(three)
    assert three.document("b")["status"] == "unreadable"
    for command in ("resume", "stop"):
        done = three.call(command, "b")
        assert (done.returncode, "run b cannot be read: run.json is damaged" in done.stderr) == (2, True)


def test_a_lent_connection_follows_the_file_and_stays_open(three: Runs):
    """Who lent it to a recorder goes on with it, whatever became of the index meanwhile."""
    home = Home(three.home)
    index = Index(home.index_path, 10)
    rundir = home.rundir("b")
    journal = Journal(rundir.journal_path)
    recorder = Recorder(home, rundir, rundir.read_spec(), journal, print).use(index)
    delete_index(three)
    assert recorder.record_state(publish=False)
    assert index.run_ids() == {"b"}
    recorder._connection.give_up(sqlite3.DatabaseError("malformed"))
    recorder.close()
    assert recorder.finish()
    assert index.run_ids() == {"b"}
    index.close()
    journal.close()


@pytest.mark.parametrize("is_folder_new", [False, True])
def test_an_index_that_goes_while_it_is_brought_in_step_is_filled_again(
    three: Runs, monkeypatch: pytest.MonkeyPatch, *, is_folder_new: bool
):
    """Every run is shown, though what the deleted file knew is not in the new one."""
    home = Home(three.home)
    if is_folder_new:  # a change that was not seen, and long ago: it will count as seen
        assert ids(three) == {"a", "b", "c"}
        os.utime(home.runs_path, (1_700_000_000, 1_700_000_000))
    real = indexing.refresh
    calls = []

    def refresh(*words: object, **options: object) -> bool:
        calls.append(words)
        if len(calls) == 1:
            delete_index(three)
        return bool(real(*words, **options))  # type: ignore[arg-type]

    home.mark_for_refresh("b")
    monkeypatch.setattr(indexing, "refresh", refresh)
    with catalog.caught_up(home, print) as index:
        assert index.run_ids() == {"a", "b", "c"}
        assert not index.is_replaced()


def test_who_keeps_looking_sees_the_index_that_took_the_place_of_the_first(three: Runs):
    """Also when nothing goes on that would be recorded."""
    home = Home(three.home)
    index = indexing.open_home(home, print)
    indexing.catch_up(home, index, print)
    delete_index(three)
    assert three.call("rm", "b", "--yes").returncode == 0
    indexing.catch_up(home, index, print)
    assert index.run_ids() == {"a", "c"}
    index.close()


def test_waiting_goes_on_while_the_index_is_rebuilt(three: Runs, monkeypatch: pytest.MonkeyPatch):
    """A run that the index lacks for a moment was not removed."""
    home = Home(three.home)
    real = indexing.refresh
    looks = []

    def refresh(home: Home, index: Index, *words: object, **options: object) -> bool:
        looks.append(words)
        answer = bool(real(home, index, *words, **options))  # type: ignore[arg-type]
        if len(looks) == 1:
            index.remove("b")
        return answer

    with catalog.caught_up(home, print) as index:
        view = catalog.find_run(home, index, "b", print)
        monkeypatch.setattr(indexing, "refresh", refresh)
        assert wait_command._Watch(home, index, {"b": view}, wait_command._Patience(None, None)).wait(math.inf) == 0
        assert len(looks) == 2


def test_a_resume_that_a_run_s_end_overtakes_is_told_to_try_again(three: Runs):
    """It went on when the index was read, and has ended by the time it is asked to go on: no mistake of the user's."""
    home = Home(three.home)
    with catalog.caught_up(home, print) as index:
        view = catalog.find_run(home, index, "b", print)
    with pytest.raises(BusyError, match="has just ended .completed.*another session: backprop resume b --again"):
        resume_command._end_pause(home, view.run, has_options=False)
    assert three.call("resume", "b", "--again").returncode == 0


def test_ctrl_c_while_backprop_is_imported_is_no_crash(three: Runs):
    """Nothing has begun: 130, and no word of Python's."""
    program = textwrap.dedent(
        """
        import os, signal, sys

        class Presses:
            def find_spec(self, name, *_):
                if name == "backprop.cli.app":
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Presses())
        sys.argv = ["backprop", "list"]
        from backprop.__main__ import main
        main()
        """
    )
    done = run_program(three, program)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_run_in_the_background_needs_no_log(three: Runs):
    """Where supervisor.log cannot be written it trains all the same."""
    (three.rundir("b") / "supervisor.log").mkdir()
    done = three.call("resume", "b", "--again", "-d")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert three.call("wait", "b").returncode == 0
    assert [session["status"] for session in three.document("b")["sessions"]] == ["completed", "completed"]


def test_a_retry_for_which_the_home_has_no_room_leaves_what_the_last_session_came_to(runs: Runs):
    """The front exits with the trainer's code, and the record says why there is no other session."""
    runs.script(
        """
        marks = os.path.join(os.environ["BACKPROP_HOME"], "unsettled")
        os.rename(marks, marks + ".before")
        open(marks, "w").close()
        sys.exit(3)
        """
    )
    done = runs.call("run", "train.py", "--run-id", "r", "--retries", "2")
    assert (done.returncode, "is not continued: cannot write to the home folder" in done.stderr) == (3, True)
    (runs.home / "unsettled").unlink()
    (runs.home / "unsettled.before").rename(runs.home / "unsettled")
    last = runs.journal("r")[-1]
    assert (last["event"], last["is_presumed"]) == ("refused", False)
    assert "cannot write to the home folder" in last["reason"]
    document = runs.document("r")
    assert (document["status"], document["exit_code"], len(document["sessions"])) == ("failed", 3, 1)


def test_a_disk_that_fails_while_somebody_waits_is_said_in_one_line(three: Runs, monkeypatch: pytest.MonkeyPatch):
    """Every look of a command that keeps looking raises what the command line knows how to say."""
    home = Home(three.home)

    def refuse(path: Path) -> Journal:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with catalog.caught_up(home, print) as index:
        view = catalog.find_run(home, index, "b", print)
        monkeypatch.setattr(indexing, "Journal", refuse)
        with pytest.raises(ConfigError, match="cannot write to the home folder"):
            wait_command._Watch(home, index, {"b": view}, wait_command._Patience(None, None)).wait(math.inf)


def test_a_home_that_becomes_read_only_while_a_session_begins(runs: Runs):
    """The session has begun, as its journal says: it has failed, and says of what; nobody takes it for dead."""
    runs.script("pass")
    program = textwrap.dedent(
        """
        import errno, os, sys
        from backprop.store.recorder import Recorder
        begin = Recorder.begin
        def refuse(self):
            if b"session_started" in self._rundir.journal_path.read_bytes():
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/the/mark")
            begin(self)
        Recorder.begin = refuse
        sys.argv = ["backprop", "run", "train.py", "--run-id", "r"]
        from backprop.__main__ import main
        main()
        """
    )
    done = run_program(runs, program)
    assert done.returncode == 127, done.stderr
    (session,) = runs.document("r")["sessions"]
    assert (session["status"], session["reason"]) == ("failed", "cannot be started: Read-only file system: /the/mark")


def test_a_reindex_killed_before_it_has_written_the_snapshot_is_made_up_for(three: Runs):
    """What it has filed is in the index, and nothing else tells that experiments.json is behind."""
    path = three.home / "experiments.json"
    path.write_text(path.read_text().replace("completed", "running"))
    program = textwrap.dedent(
        """
        import os, signal, sys
        from backprop.store import experiments_json as snapshot
        snapshot.rebuild = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        sys.argv = ["backprop", "reindex"]
        from backprop.__main__ import main
        main()
        """
    )
    killed = run_program(three, program)
    assert killed.returncode == -signal.SIGKILL
    assert ids(three) == {"a", "b", "c"}
    assert {entry["status"] for entry in json.loads(path.read_text()).values()} == {"completed"}


def test_views_that_stay_open_do_without_an_index_that_is_locked(three: Runs):
    """The page shows a run that ended meanwhile, and says why it is slow; the index is used again when it is free."""
    server = Server(three)
    assert server.get("/api/runs").json["total"] == 3
    with closing(sqlite3.connect(three.home / "index.db", isolation_level=None)) as hanging:
        hanging.execute("BEGIN IMMEDIATE")
        assert three.call("run", "train.py", "--run-id", "new").returncode == 0

        def is_shown() -> bool:
            answer = server.get("/api/runs")
            assert answer.status == 200, answer.text
            return {row["id"]: row["status"] for row in answer.json["runs"]}.get("new") == "completed"

        wait_for(is_shown)
        assert server.get("/api/runs/new").status == 200
        with server.stream() as stream:
            stream.next_of("trouble", lambda told: "another process has locked the index" in json.dumps(told))
            hanging.execute("ROLLBACK")
            stream.next_of("trouble", lambda told: "another process" not in json.dumps(told))
    assert server.get("/api/runs").json["total"] == 4
    with closing(sqlite3.connect(three.home / "index.db")) as index:
        assert index.execute("SELECT count(*) FROM runs").fetchone() == (4,)


def test_watch_does_without_an_index_that_is_locked(three: Runs):
    """Its index in memory stays while the one on the disk is locked: no state waits for the lock again."""
    home = Home(three.home)
    with closing(sqlite3.connect(three.home / "index.db", isolation_level=None)) as hanging:
        assert indexing.is_usable(home)
        hanging.execute("BEGIN IMMEDIATE")
        assert not indexing.is_usable(home)
    assert indexing.is_usable(home)


def test_what_was_asked_for_survives_a_power_failure(runs: Runs):
    """run.json and the names that lead to it are synced before there is an end to record: no end is of any use without."""
    runs.script("pass")
    program = textwrap.dedent(
        """
        import os, sys
        from backprop.store.journal.entries import SessionEnded
        from backprop.store.journal.file import Journal
        fsync, append, synced = os.fsync, Journal.append, []
        def noted(fd):
            synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
            fsync(fd)
        def recorded(self, *entries):
            if any(isinstance(entry, SessionEnded) for entry in entries):
                print(sorted({"run.json", "r", "runs"} - set(synced)))
            return append(self, *entries)
        os.fsync, Journal.append = noted, recorded
        sys.argv = ["backprop", "run", "train.py", "--run-id", "r"]
        from backprop.__main__ import main
        main()
        """
    )
    done = run_program(runs, program)
    assert done.stdout == b"[]\n", done.stderr
