"""journal.jsonl: appending, reading, locking, and the run that follows from it."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.records import (
    CodeState,
    ManifestEntry,
    Pauser,
    Revision,
    Run,
    RunSpec,
    SlurmRequest,
    Source,
    Status,
    StopReason,
    Waiter,
)
from backprop.store.journal.entries import (
    Admitted,
    CheckpointMeasured,
    CheckpointRead,
    CheckpointSkipped,
    CheckpointUnread,
    Continued,
    Entry,
    Governed,
    MessageShown,
    MoveRequested,
    NotContinued,
    OutputSeen,
    Paused,
    PauseRequested,
    Queued,
    Refused,
    Renamed,
    ResumeRequested,
    SessionEnded,
    SessionRequested,
    SessionStarted,
    Signalled,
    StopRequested,
    Submitted,
    TrainerLaunched,
    encode,
    parse,
)
from backprop.store.journal.file import Journal, read
from backprop.store.journal.fold import PACK, RULES, FoldedRun, RunReader, fold, fold_on, gpu_counts
from backprop.store.output.line_times import OffsetSample
from tests.conftest import scaled, wait_for
from tests.records import LIMITS

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
LATER = datetime(2026, 1, 2, 4, tzinfo=timezone.utc)
SPEC = RunSpec(
    id="run1",
    command=("python", "train.py"),
    cwd="/tmp",
    created_at=AT,
    host="here",
    user="me",
    limits=LIMITS,
)


def started(session: int, **changes: object) -> SessionStarted:
    told = {"timebox_s": 600.0, "grace_s": 30.0, "host": "here", "supervisor_pid": 10, "boot_id": "boot", **changes}
    return SessionStarted(at=AT, session=session, **told)  # type: ignore[arg-type]


def ended(
    session: int, status: Status, reason: str | None = None, exit_code: int | None = 0, **told: object
) -> SessionEnded:
    return SessionEnded(
        at=LATER, session=session, status=status, reason=reason, exit_code=exit_code, elapsed_s=1.5, **told
    )  # type: ignore[arg-type]


def queued(session: int, reason: str = "2 runs are going on", at: datetime = AT, job: str | None = None) -> Queued:
    return Queued(
        at=at, session=session, reason=reason, figures={"running": []}, host="here", supervisor_pid=10, job=job
    )


def submitted(session: int, **changes: object) -> Submitted:
    told = {
        "job": "7_1",
        "host": "login",
        "limits": SPEC.limits,
        "checkpoint": "/a/ckpt",
        "gpu_probe": "none",
        **changes,
    }
    return Submitted(at=AT, session=session, retries=2, sessions=3, reason="submitted as 7_1", **told)  # type: ignore[arg-type]


REVISION = Revision(
    command=("python", "moved.py"),
    cwd="/new",
    script="/new/moved.py",
    python="python",
    params={"lr": 1},
    resume_arg=None,
)

EVERY_ENTRY: list[Entry] = [
    started(1, offered="/a/ckpt", script_sha256="0" * 64, revision=REVISION, only_once=("--reset",)),
    CheckpointUnread(at=AT, session=1, has_trained=True),
    CheckpointRead(at=AT, session=1),
    TrainerLaunched(at=AT, session=1, pid=11, cage="/sys/fs/cgroup/x"),
    queued(1),
    submitted(1),
    SessionRequested(at=AT, request_id="a", sha256="0" * 64),
    Admitted(at=AT, figures={"ram_available_bytes": 5, "disk_free_bytes": {"/": None}}, place=3, gpus=("GPU-0",)),
    NotContinued(at=AT, reason="it failed twice at step 3"),
    MessageShown(at=AT, text="run r: retry 1 of 2 in 1 s"),
    Governed(at=AT, session=1, action="pause", reason="GPU 0 is at 90 °C", figures={"temp_c": 90.0}),
    Refused(at=AT, reason="no RAM: ü\n", figures={}),
    StopRequested(at=AT, session=1, by=StopReason.CTRL_C, detail="Ctrl-C", now=True),
    Signalled(at=AT, session=1, signal="SIGINT", pids=(11, 12)),
    PauseRequested(at=AT, session=1, detail="`backprop pause` by ada"),
    ResumeRequested(at=AT, session=1, detail="`backprop resume` by ada"),
    MoveRequested(at=AT, session=1, priority=3, detail="`backprop queue move` by ada"),
    Renamed(at=AT, name="the best"),
    Paused(at=AT, session=1, reason="Ctrl-Z", by=(Pauser.USER, Pauser.CTRL_Z)),
    Continued(at=AT, session=1, paused_s=0.25),
    OutputSeen(at=AT, session=1, source=Source.EVENTS, growth=OffsetSample(offset=9, since_s=0.5, until_s=1.5)),
    CheckpointMeasured(
        at=AT,
        session=1,
        offset=99,
        path="/a/folder",
        size_bytes=None,
        saved_at=AT,
        manifest=(ManifestEntry(path="x", size_bytes=3),),
    ),
    CheckpointSkipped(at=AT, path="/a", reason="it is empty"),
    ended(1, Status.FAILED, "exit code 1", 1),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path)
    yield opened
    opened.close()


def test_a_run_has_the_name_it_was_given_last():
    """Whatever a revision changes of what it executes."""
    entries = [Renamed(at=AT, name="a"), started(1, revision=REVISION), Renamed(at=AT, name="b")]
    run = fold(SPEC, entries)
    assert (run.spec.name, run.spec.cwd) == ("b", "/new")


# -- the file


@pytest.mark.parametrize("entry", EVERY_ENTRY, ids=lambda entry: type(entry).__name__)
def test_every_entry_comes_back_as_it_was_written(path: Path, journal: Journal, entry: Entry):
    """What is appended is what is read, and it is one line."""
    assert journal.append(entry) is True
    assert read(path) == ([entry], path.stat().st_size)
    assert path.read_bytes().count(b"\n") == 1


def test_no_entry_is_left_out_of_these_tests():
    """Every kind of entry that can be written is written here."""
    assert {type(entry) for entry in EVERY_ENTRY} == set(Entry.__args__)


def test_entries_come_in_the_order_they_were_appended(path: Path, journal: Journal):
    """Several appends, one or many at a time, keep their order; reopening keeps what was there."""
    journal.append(*EVERY_ENTRY[:4])
    other = Journal(path)
    other.append(*EVERY_ENTRY[4:])
    other.close()
    assert read(path)[0] == EVERY_ENTRY
    assert journal.size_bytes() == path.stat().st_size


def test_a_journal_is_readable_by_its_owner_only(path: Path, journal: Journal):
    """What is in a journal is nobody else's business."""
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_journal_yet_is_an_empty_one(path: Path):
    """A run whose journal was never begun has no entries."""
    assert read(path) == ([], 0)


@pytest.mark.parametrize("torn", [b"{", b'{"event":"session_ended","at":"2026-', b"\0" * 100, b"\xff", b'"text"'])
def test_a_torn_last_line_is_passed_over_and_does_not_swallow_the_next(path: Path, journal: Journal, torn: bytes):
    """After a power loss in the middle of a line, what was before it and what comes after it both count."""
    journal.append(EVERY_ENTRY[0])
    whole_bytes = path.stat().st_size
    with path.open("ab") as file:
        file.write(torn)
    assert read(path) == ([EVERY_ENTRY[0]], whole_bytes)
    journal.append(EVERY_ENTRY[1], EVERY_ENTRY[2])
    assert read(path) == (EVERY_ENTRY[:3], path.stat().st_size)


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"from_the_future","at":"2026-01-01T00:00:00Z"}',
        b'{"event":"paused","at":"not a date","session":1,"reason":""}',
        b'{"event":"paused","session":1}',
        b'{"event":"session_ended","at":"2026-01-01T00:00:00Z","session":1,"status":"new","reason":null,'
        b'"exit_code":0,"elapsed_s":1}',
        b'{"at":"2026-01-01T00:00:00Z"}',
        b"[]",
        b"null",
        b"garbage",
        b"\xff\xfe",
        b'{"event":"\xff"}',
        b'{"event":"admitted","at":"2026-01-01T00:00:00Z","figures":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}",
        b"",
    ],
    ids=lambda line: repr(line[:40]),
)
def test_a_line_that_is_no_entry_is_passed_over(line: bytes):
    """What a newer version or a broken disk wrote does not hide the entries around it."""
    encoded = [encode(entry) for entry in EVERY_ENTRY[:2]]
    entries, end = parse(b"\n".join([encoded[0], line, encoded[1], b""]))
    assert entries == EVERY_ENTRY[:2]
    assert end == sum(map(len, encoded)) + len(line) + 3


def test_an_entry_may_have_fields_of_a_newer_version():
    """A field that this version does not know does not make the entry unreadable."""
    line = encode(EVERY_ENTRY[1]).replace(b'"pid"', b'"new_field":{"a":[1]},"pid"')
    assert parse(line + b"\n")[0] == [EVERY_ENTRY[1]]


def test_read_new_gives_every_entry_once(path: Path, journal: Journal):
    """Entries of this process and of others are given once, in order."""
    other = Journal(path)
    assert journal.read_new() == []
    journal.append(EVERY_ENTRY[0])
    other.append(EVERY_ENTRY[1])
    assert journal.read_new() == EVERY_ENTRY[:2]
    assert journal.read_new() == []
    other.append(EVERY_ENTRY[2])
    assert journal.read_new() == [EVERY_ENTRY[2]]
    assert other.read_new() == EVERY_ENTRY[:3]
    other.close()


def test_read_new_waits_for_the_end_of_a_line(path: Path, journal: Journal):
    """Half a line is not an entry yet; it is one once the rest of it is there."""
    line = encode(EVERY_ENTRY[0]) + b"\n"
    with path.open("ab", buffering=0) as file:
        file.write(line[:20])
        assert journal.read_new() == []
        file.write(line[20:])
        assert journal.read_new() == [EVERY_ENTRY[0]]


def test_read_new_follows_the_file_when_it_is_renamed(path: Path, journal: Journal):
    """A run directory that is published under its name while its journal is open stays readable and writable."""
    journal.append(EVERY_ENTRY[0])
    assert journal.read_new() == [EVERY_ENTRY[0]]
    moved = path.rename(path.with_name("moved.jsonl"))
    other = Journal(moved)
    other.append(EVERY_ENTRY[1])
    journal.append(EVERY_ENTRY[2])
    other.close()
    assert journal.read_new() == EVERY_ENTRY[1:3]
    assert read(moved)[0] == EVERY_ENTRY[:3]


# -- the lock


def test_the_lock_excludes_another_and_is_free_after_close(path: Path, journal: Journal):
    """One at a time answers for a run; closing the journal hands it over."""
    other = Journal(path)
    assert journal.try_lock() is True
    assert other.try_lock() is False
    assert journal.try_lock() is True
    journal.append(EVERY_ENTRY[0])
    other.append(EVERY_ENTRY[1])  # a request needs no lock
    third = Journal(path)
    assert third.try_lock() is False
    third.close()
    assert other.try_lock() is False
    holder = Journal(path)
    holder.close()  # closing another object does not free it
    assert other.try_lock() is False
    other.close()


def test_who_only_looks_turns_nobody_away(path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch):
    """Several may look at once, nobody is taken for an owner who looks, and who wants the lock waits for them."""
    onlooker = os.open(path, os.O_RDONLY)
    fcntl.flock(onlooker, fcntl.LOCK_SH)
    assert not journal.is_owned()
    monkeypatch.setattr("backprop.store.journal.file.time.sleep", lambda _: os.close(onlooker))
    assert journal.own()
    with closing(Journal(path)) as other:
        assert other.is_owned()
        assert not other.own()
    assert not journal.is_owned()
    with closing(Journal(path)) as other:
        assert not other.own()  # looking has not given it up


def test_the_lock_is_free_once_its_holder_closes(path: Path, journal: Journal):
    """Whoever comes next gets the run as soon as it is given back."""
    holder = Journal(path)
    assert holder.try_lock()
    assert not journal.try_lock()
    holder.close()
    assert journal.try_lock()


HOLDER = """
import sys, time
from pathlib import Path
from backprop.store.journal.file import Journal
journal = Journal(Path(sys.argv[1]))
assert journal.try_lock()
print("locked", flush=True)
time.sleep(600)
"""


def test_the_lock_is_free_once_its_holder_is_killed(path: Path, journal: Journal):
    """A supervisor that is killed by SIGKILL leaves its run free at that instant."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        assert journal.try_lock() is False
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert journal.try_lock() is True


def test_the_lock_is_not_inherited_by_a_trainer(path: Path, journal: Journal):
    """A process that the holder started and left behind does not keep the run locked."""
    holder = Journal(path)
    assert holder.try_lock()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as child:
        holder.close()
        wait_for(journal.try_lock)  # the kernel closes the child's files at its exec, a moment after we hear of it
        child.communicate(b"\n")


# -- fold


def test_no_entries_are_a_queued_run():
    """A run that was made and of which nothing is told waits for its turn."""
    run = fold(SPEC, [])
    assert (run.status, run.sessions, run.reason, run.ended_at) == (Status.QUEUED, (), None, None)
    assert run.spec == SPEC


def test_what_a_session_changes_of_the_run_counts_from_then_on():
    """The run is as its newest session executes it, each session as it was; what is for once, while it goes on."""
    entries = [started(1), ended(1, Status.FAILED), started(2, revision=REVISION, only_once=("--reset",))]
    run = fold(SPEC, entries)
    assert (run.spec, run.command) == (SPEC.revised(REVISION), ("python", "moved.py", "--reset"))
    assert [session.cwd for session in run.sessions] == ["/tmp", "/new"]
    run = fold(SPEC, [*entries, ended(2, Status.FAILED)])
    assert run.command == ("python", "moved.py")
    assert fold(SPEC, [*entries, started(3)]).spec == SPEC.revised(REVISION)


def test_a_session_is_running_until_its_end_is_told():
    """A session that began and has no end is running, with all that is known of its beginning."""
    run = fold(SPEC, [started(1, resumed_from="/c", script_sha256="ab"), TrainerLaunched(at=AT, session=1, pid=11)])
    assert run.status is Status.RUNNING
    (session,) = run.sessions
    assert (session.number, session.status, session.started_at) == (1, Status.RUNNING, AT)
    assert (session.timebox_s, session.grace_s, session.host, session.boot_id) == (600, 30, "here", "boot")
    assert (session.supervisor_pid, session.trainer_pid) == (10, 11)
    assert (session.resumed_from, session.script_sha256) == ("/c", "ab")
    assert (session.ended_at, session.elapsed_s, session.exit_code) == (None, None, None)


def _offered(*entries: Entry) -> tuple[str | None, bool | None, bool]:
    """What is known of a session that was offered /c: from what it resumed, whether it was read, started over."""
    session = fold(SPEC, [started(1, offered="/c"), *entries]).sessions[0]
    assert session.offered == "/c"
    return session.resumed_from, session.is_checkpoint_read, session.has_started_over


def test_a_session_resumed_only_from_what_was_read():
    """Offered is not read; and of what is read late nobody knows whether the session went on from there."""
    read = CheckpointRead(at=AT, session=1)
    assert _offered() == (None, None, False)
    assert _offered(read) == ("/c", True, False)
    assert _offered(CheckpointUnread(at=AT, session=1, has_trained=False)) == (None, False, False)
    assert _offered(CheckpointUnread(at=AT, session=1, has_trained=True)) == (None, False, True)
    unread = CheckpointUnread(at=AT, session=1, has_trained=True)
    assert _offered(unread, read) == ("/c", True, False), "a hook knows, and so do older records"
    assert _offered(unread, CheckpointRead(at=AT, session=1, is_late=True)) == (None, True, False)


def test_that_a_session_started_over_is_part_of_why_it_is_as_it_is():
    """Of the last one, until another waits."""
    unread = CheckpointUnread(at=AT, session=1, has_trained=True)
    run = fold(SPEC, [started(1, offered="/a/c.pt"), unread])
    assert run.full_reason == "trained without reading c.pt"
    run = fold(SPEC, [started(1, offered="/a/c.pt"), unread, ended(1, Status.FAILED, reason="exit code 1")])
    assert run.full_reason == "exit code 1; trained without reading c.pt"
    assert (
        fold(SPEC, [started(1, offered="/a/c.pt"), unread, ended(1, Status.FAILED), queued(2, "busy")]).full_reason
        == "busy"
    )


@pytest.mark.parametrize("job", ["--user=root", "7 8", "7_1 --me", "", "../../7", "7\n", "-7", "٧"])
def test_what_is_no_job_of_slurms_is_no_entry(job: str):
    """A journal may come from anywhere, and its jobs are handed to scancel."""
    entries = [started(1, job="7_1"), queued(1, job="7"), submitted(1)]
    lines = [{**json.loads(msgspec.json.encode(entry)), "job": job} for entry in entries]
    assert parse("".join(json.dumps(line) + "\n" for line in lines).encode())[0] == []
    assert parse(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))[0] == entries


def test_that_training_had_finished_is_part_of_why_a_session_ended():
    """Whether it was cut afterwards, or failed by itself."""
    told = {"has_finished_training": True}
    run = fold(SPEC, [started(1), ended(1, Status.TIMEBOXED, reason="timebox of 1 min ended", **told)])
    cut = "training finished; the script was cut in what it did afterwards: timebox of 1 min ended"
    assert (run.full_reason, run.reason) == (cut, "timebox of 1 min ended")
    run = fold(SPEC, [started(1), ended(1, Status.FAILED, reason="exit code 1", **told)])
    assert run.full_reason == "training finished; the script failed in what it did afterwards: exit code 1"


@pytest.mark.parametrize("status", [status for status in Status if status.is_final])
def test_a_run_ends_as_its_session_ends(status: Status):
    """The ending of the last session is that of the run, reason, code, time and all."""
    run = fold(SPEC, [started(1), TrainerLaunched(at=AT, session=1, pid=11), ended(1, status, "because", 3)])
    assert (run.status, run.reason, run.ended_at) == (status, "because", LATER)
    (session,) = run.sessions
    assert (session.status, session.reason, session.ended_at) == (status, "because", LATER)
    assert (session.elapsed_s, session.exit_code, session.trainer_pid) == (1.5, 3, 11)


def test_the_first_ending_counts():
    """Two who file the same dead session at once do not overwrite one another."""
    run = fold(SPEC, [started(1), ended(1, Status.TIMEBOXED, "its time was up"), ended(1, Status.INTERRUPTED, "died")])
    assert (run.status, run.reason) == (Status.TIMEBOXED, "its time was up")
    assert run.sessions[0].status is Status.TIMEBOXED


def test_a_resumed_run_is_running_again():
    """A new session after an ending makes the run go on; the old session stays as it ended."""
    run = fold(SPEC, [started(1), ended(1, Status.TIMEBOXED, "its time was up"), started(2)])
    assert (run.status, run.reason, run.ended_at) == (Status.RUNNING, None, None)
    assert [(session.number, session.status) for session in run.sessions] == [
        (1, Status.TIMEBOXED),
        (2, Status.RUNNING),
    ]


def test_a_late_ending_of_an_old_session_does_not_end_the_new_one():
    """An ending belongs to its session: the run goes on in the newer one."""
    run = fold(SPEC, [started(1), started(2), ended(1, Status.INTERRUPTED, "died")])
    assert run.status is Status.RUNNING
    assert [session.status for session in run.sessions] == [Status.INTERRUPTED, Status.RUNNING]


def test_a_supervisor_that_died_before_its_session_leaves_an_interrupted_run():
    """An ending without a session ends the run."""
    run = fold(SPEC, [ended(0, Status.INTERRUPTED, "died early", None)])
    assert (run.status, run.reason, run.sessions) == (Status.INTERRUPTED, "died early", ())


def test_a_paused_session_goes_on():
    """Paused with a reason, then running without one."""
    paused = fold(SPEC, [started(1), Paused(at=AT, session=1, reason="Ctrl-Z")])
    assert (paused.status, paused.reason) == (Status.PAUSED, "Ctrl-Z")
    assert paused.sessions[0].status is Status.PAUSED
    going_on = fold(SPEC, [started(1), Paused(at=AT, session=1, reason="x"), Continued(at=AT, session=1, paused_s=1)])
    assert (going_on.status, going_on.reason) == (Status.RUNNING, None)
    assert going_on.sessions[0].status is Status.RUNNING


def test_pauses_of_a_session_add_up():
    """A session that is paused again for another reason has been so since the first; what is over is counted."""
    first, later = AT + timedelta(seconds=5), AT + timedelta(seconds=9)
    entries: list[Entry] = [started(1), Paused(at=AT, session=1, reason="x")]
    entries += [Continued(at=AT, session=1, paused_s=1.0)]
    entries += [Paused(at=first, session=1, reason="x"), Paused(at=later, session=1, reason="y")]
    (paused,) = fold(SPEC, entries).sessions
    assert (paused.paused_at, paused.paused_s, paused.reason) == (first, 1.0, "y")
    (going_on,) = fold(SPEC, [*entries, Continued(at=later, session=1, paused_s=2.0)]).sessions
    assert (going_on.paused_at, going_on.paused_s) == (None, 3.0)


def test_when_a_session_was_paused_is_known():
    """After how much training, which pauses are no part of, and for how long; of very many pauses the newest."""

    def pause(begins_s: float, paused_s: float) -> list[Entry]:
        at = AT + timedelta(seconds=begins_s)
        end = at + timedelta(seconds=paused_s)
        return [Paused(at=at, session=1, reason="x"), Continued(at=end, session=1, paused_s=paused_s)]

    (session,) = fold(SPEC, [started(1), *pause(10, 4), *pause(20, 3)]).sessions
    assert [(one.after_s, one.paused_s) for one in session.pauses] == [(10.0, 4), (16.0, 3)]
    many = [entry for number in range(150) for entry in pause(number * 2, 1)]
    (session,) = fold(SPEC, [started(1), *many]).sessions
    assert [one.after_s for one in session.pauses] == [float(number) for number in range(50, 150)]
    assert session.paused_s == 150


def test_a_paused_session_can_end():
    """A supervisor that dies while its session is paused leaves an ended run, not a paused one."""
    run = fold(SPEC, [started(1), Paused(at=AT, session=1, reason="x"), ended(1, Status.INTERRUPTED, "died")])
    assert (run.status, run.reason) == (Status.INTERRUPTED, "died")


@pytest.mark.parametrize(
    "late",
    [Paused(at=AT, session=1, reason="x"), Continued(at=AT, session=1, paused_s=1.0)],
    ids=["paused", "continued"],
)
def test_an_ended_session_cannot_be_paused(late: Entry):
    """What comes after the ending of a session changes nothing."""
    entries: list[Entry] = [started(1), ended(1, Status.COMPLETED)]
    assert fold(SPEC, [*entries, late]) == fold(SPEC, entries)


def test_an_old_session_cannot_pause_the_new_one():
    """A pause belongs to its session."""
    entries: list[Entry] = [started(1), ended(1, Status.TIMEBOXED), started(2)]
    assert fold(SPEC, [*entries, Paused(at=AT, session=1, reason="x")]) == fold(SPEC, entries)


def test_a_refused_run_never_started():
    """A run that the governor refused is refused, with the reason."""
    run = fold(SPEC, [Refused(at=LATER, reason="no RAM", figures={})])
    assert (run.status, run.reason, run.ended_at, run.sessions) == (Status.REFUSED, "no RAM", LATER, ())


def test_a_refused_resume_changes_nothing():
    """A run whose resume was refused is still what it was."""
    entries: list[Entry] = [started(1), ended(1, Status.TIMEBOXED)]
    assert fold(SPEC, [*entries, Refused(at=LATER, reason="no RAM", figures={})]) == fold(SPEC, entries)


@pytest.mark.parametrize(
    "late",
    [Refused(at=LATER, reason="no RAM", figures={}), NotContinued(at=LATER, reason="it is no use")],
    ids=["refused", "not continued"],
)
def test_a_session_that_goes_on_is_not_ended_by_the_refusal_of_another(late: Entry):
    """Only its own ending ends it."""
    assert fold(SPEC, [started(1), late]) == fold(SPEC, [started(1)])


def test_a_run_that_stands_in_line_is_queued():
    """What it waits for, who waits and since when are known; what it waits for may change."""
    run = fold(SPEC, [queued(1), queued(1, "1.0 GB of RAM are available", LATER)])
    assert (run.status, run.reason) == (Status.QUEUED, "1.0 GB of RAM are available")
    assert run.waiter == Waiter(session=1, host="here", supervisor_pid=10, since=AT)


def test_a_run_that_was_submitted_waits_in_the_name_of_its_job():
    """Nobody on this machine answers for it; who does is told until its session starts, and from then on by that."""
    run = fold(SPEC, [submitted(1)])
    assert (run.status, run.reason, run.job) == (Status.QUEUED, "submitted as 7_1", "7_1")
    assert run.waiter == Waiter(session=1, host="login", supervisor_pid=0, since=AT, job="7_1")
    run = fold(SPEC, [submitted(1), started(1, job="7_1")])
    assert (run.status, run.waiter, run.job) == (Status.RUNNING, None, "7_1")


def test_a_run_whose_turn_has_come_waits_no_more():
    """The session that it waited for is what it is now."""
    assert fold(SPEC, [queued(1), started(1)]) == fold(SPEC, [started(1)])


def test_a_run_may_stand_in_line_between_two_sessions():
    """It is queued again, and keeps the sessions it had; refused, it is what the last of them came to."""
    entries: list[Entry] = [started(1), ended(1, Status.TIMEBOXED, "over")]
    run = fold(SPEC, [*entries, queued(2)])
    assert (run.status, len(run.sessions), run.ended_at) == (Status.QUEUED, 1, None)
    assert fold(SPEC, [*entries, queued(2), Refused(at=LATER, reason="Ctrl-C", figures={})]) == fold(SPEC, entries)


def test_a_run_that_is_not_continued_says_why():
    """The reason of the last session stays, and why there is no other is added."""
    run = fold(
        SPEC, [started(1), ended(1, Status.FAILED, "exit code 1"), NotContinued(at=LATER, reason="it is no use")]
    )
    assert (run.status, run.reason) == (Status.FAILED, "exit code 1; it is no use")


def test_a_session_that_goes_on_cannot_be_queued():
    """A word about the line that comes too late changes nothing."""
    assert fold(SPEC, [started(1), queued(2)]) == fold(SPEC, [started(1)])


TOLD_FOR_PEOPLE = [
    entry
    for entry in EVERY_ENTRY
    if isinstance(entry, (Admitted, Governed, Signalled, CheckpointMeasured, CheckpointSkipped))
]


@pytest.mark.parametrize("entry", TOLD_FOR_PEOPLE, ids=lambda entry: type(entry).__name__)
def test_what_is_told_for_people_changes_no_state(entry: Entry):
    """Only what happened to a session, or was asked of it, changes the run."""
    assert fold(SPEC, [started(1), entry]) == fold(SPEC, [started(1)])


numbers = st.integers(0, 3)
reasons = st.sampled_from(["a", "b"])
any_entry = st.one_of(
    numbers.map(started),
    st.builds(TrainerLaunched, at=st.just(AT), session=numbers, pid=st.integers(1, 9)),
    st.builds(Refused, at=st.just(AT), reason=reasons, figures=st.just({})),
    st.builds(NotContinued, at=st.just(AT), reason=reasons),
    st.builds(queued, numbers, reasons),
    st.builds(StopRequested, at=st.just(AT), session=numbers, by=st.sampled_from(StopReason), detail=reasons),
    st.builds(Paused, at=st.just(AT), session=numbers, reason=reasons),
    st.builds(Continued, at=st.just(AT), session=numbers, paused_s=st.just(1.0)),
    st.builds(ended, numbers, st.sampled_from(Status), reasons),
    st.sampled_from(
        [*TOLD_FOR_PEOPLE, PauseRequested(at=AT, session=1, detail="a"), ResumeRequested(at=AT, session=1, detail="a")]
    ),
)
any_entries = st.lists(any_entry, max_size=10)


def numbers_of(run: Run) -> list[int]:
    return [session.number for session in run.sessions]


@given(any_entries)
@settings(max_examples=scaled(300), deadline=None)
def test_any_sequence_of_entries_gives_a_run(entries: list[Entry]):
    """Whatever a journal tells, there is a run, and every session that was started is in it once."""
    run = fold(SPEC, entries)
    told = {entry.session for entry in entries if isinstance(entry, SessionStarted)}
    assert sorted(numbers_of(run)) == sorted(told)


@given(any_entries, st.data())
@settings(max_examples=scaled(300), deadline=None)
def test_an_entry_that_was_written_twice_counts_once(entries: list[Entry], data: st.DataObject):
    """A line that is written again after a failed fsync changes nothing."""
    if entries:
        at = data.draw(st.integers(0, len(entries) - 1))
        assert fold(SPEC, [*entries[: at + 1], *entries[at:]]) == fold(SPEC, entries)


@given(any_entries, any_entries)
@settings(max_examples=scaled(300), deadline=None)
def test_a_session_once_told_stays(first: list[Entry], more: list[Entry]):
    """Reading on never loses a session that was known before, and the last one started comes last."""
    before, after = fold(SPEC, first), fold(SPEC, [*first, *more])
    assert set(numbers_of(before)) <= set(numbers_of(after))
    last_started = [entry.session for entry in (*first, *more) if isinstance(entry, SessionStarted)][-1:]
    assert numbers_of(after)[-1:] == last_started


@given(any_entries)
@settings(max_examples=scaled(100), deadline=None)
def test_a_journal_reads_back_as_it_was_folded(tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]):
    """Written, read and folded is the same as folded."""
    path = tmp_path_factory.mktemp("fold") / "journal.jsonl"
    journal = Journal(path)
    try:
        journal.append(*entries)
    finally:
        journal.close()
    assert fold(SPEC, read(path)[0]) == fold(SPEC, entries)


offers = numbers.map(
    lambda number: started(number, offered=f"/a/{number % 2}", code=CodeState(patch=f"code-{number:012x}.patch"))
)
reads = st.builds(CheckpointRead, at=st.just(AT), session=numbers)
of_many_sessions = st.lists(st.one_of(offers, offers, reads, any_entry), max_size=20)


@given(of_many_sessions, of_many_sessions, st.integers(1, 3))
@settings(max_examples=scaled(300), deadline=None)
def test_packing_sessions_changes_nothing(first: list[Entry], more: list[Entry], pack: int):
    """A run that keeps most of its sessions as bytes is the same run, whatever entry is about one of those."""
    plain = fold(SPEC, [*first, *more])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backprop.store.journal.fold.PACK", pack)
        packed = fold(SPEC, [*first, *more])
        assert packed == fold_on(fold(SPEC, first), more)
    assert msgspec.structs.replace(packed, earlier=(), latest=packed.sessions) == plain
    assert len(packed.latest) < 2 * pack
    for name in ("first_session", "session_count", "elapsed_s", "offered", "newest_number", "code", "last_session"):
        assert getattr(packed, name) == getattr(plain, name), name
    for number in range(1, plain.newest_number + 2):
        assert packed.sessions_since(number) == plain.sessions_since(number)


def test_most_sessions_of_a_long_run_are_packed():
    """So that to read and store it again costs little more than for a run of a few."""
    run = fold(SPEC, [entry for number in range(1, 1001) for entry in (started(number), ended(number, Status.FAILED))])
    assert len(run.latest) < 2 * PACK
    assert run.session_count == run.newest_number == len(run.sessions) == 1000
    short, packed = run.split()
    assert len(msgspec.json.encode(short)) < len(packed) / 3
    assert msgspec.json.decode(msgspec.json.encode(short), type=Run).joined(packed) == run


def folded(path: Path, spec: RunSpec = SPEC) -> FoldedRun:
    """The state of a run as an index stores it."""
    reader = RunReader(path, spec)
    run, size = reader.read()
    return stored_after(reader, run, size)


def stored_after(reader: RunReader, run: Run, size: int) -> FoldedRun:
    short, packed = run.split()
    record = msgspec.json.encode(short)
    return FoldedRun(record, packed, size, reader.checksum(record, packed))


@given(of_many_sessions, of_many_sessions)
@settings(max_examples=scaled(200), deadline=None)
def test_a_run_read_on_from_its_stored_state_is_the_run(
    tmp_path_factory: pytest.TempPathFactory, first: list[Entry], more: list[Entry]
):
    """Wherever the state was stored and its writer died, what follows in the journal is folded onto it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backprop.store.journal.fold.PACK", 1)
        path = tmp_path_factory.mktemp("fold") / "journal.jsonl"
        with closing(Journal(path)) as journal:
            journal.append(*first)
            stored = folded(path)
            journal.append(*more)
        reader = RunReader(path, SPEC, stored)
        run, size = reader.read()
        assert (run, size) == (fold(SPEC, [*first, *more]), path.stat().st_size)
        assert RunReader(path, SPEC, stored_after(reader, run, size)).read_new() == []


def test_what_the_stored_state_has_is_not_read_again(path: Path, journal: Journal):
    """Of a journal of thousands of sessions, only what is new costs anything."""
    journal.append(started(1), ended(1, Status.TIMEBOXED))
    stored = folded(path)
    journal.append(started(2))
    assert RunReader(path, SPEC, stored).read_new() == [started(2)]


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda data: data.replace(b'"timeboxed"', b'"completed"'),
        lambda data: data.replace(b'"elapsed_s":1.5', b'"elapsed_s":2.5'),
        lambda data: data[: data.index(b"\n") + 1],
        lambda data: b"",
        lambda data: b"\n" + data,
    ],
    ids=["another end, as long", "another time, as long", "cut off", "emptied", "moved by a byte"],
)
@pytest.mark.parametrize("is_in_place", [True, False])
def test_a_stored_state_is_not_used_for_a_journal_that_was_rewritten(
    path: Path, journal: Journal, rewrite: Callable[[bytes], bytes], is_in_place: bool
):
    """The journal is what is true, whatever replaced it, restored it or changed it in its place."""
    journal.append(started(1), ended(1, Status.TIMEBOXED), started(2), ended(2, Status.COMPLETED))
    stored, data = folded(path), rewrite(path.read_bytes())
    if not is_in_place:
        path.unlink()
    path.write_bytes(data)
    assert RunReader(path, SPEC, stored).read() == (fold(SPEC, read(path)[0]), len(data))


def test_a_stored_state_of_another_record_is_not_used(path: Path, journal: Journal):
    """What was asked (run.json) is a part of the state, and the index may be damaged without SQLite noticing."""
    journal.append(started(1), ended(1, Status.TIMEBOXED))
    stored = folded(path)
    other = msgspec.structs.replace(SPEC, name="another")
    assert RunReader(path, other, stored).read()[0] == fold(other, read(path)[0])
    for damaged in (stored.record.replace(b"timeboxed", b"completed"), stored.record[:-1]):
        assert RunReader(path, SPEC, stored._replace(record=damaged)).read()[0] == fold(SPEC, read(path)[0])


def test_other_rules_have_another_number():
    """If this fails, the same journal gives another run than before: raise RULES, and put the new number here."""
    assert (RULES, zlib.crc32(msgspec.json.encode(fold(SPEC, EVERY_ENTRY)))) == (2, 1553235921)


def test_a_stored_state_of_other_rules_is_not_used(path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch):
    """An older version may have known less of what a journal may say."""
    journal.append(started(1), ended(1, Status.TIMEBOXED))
    stored = folded(path)
    monkeypatch.setattr("backprop.store.journal.fold.RULES", RULES + 1)
    assert len(RunReader(path, SPEC, stored).read_new()) == 2


def test_a_journal_that_is_replaced_later_is_read_from_its_beginning(path: Path, journal: Journal):
    """The stored state is looked at once: what replaces the journal after that is news, even what is the same in it."""
    entries = [started(1), ended(1, Status.TIMEBOXED)]
    journal.append(*entries)
    reader = RunReader(path, SPEC, folded(path))
    assert reader.read_new() == []
    for replacing in ([*entries, started(2)], entries[:1]):
        path.rename(path.with_name("old"))
        with closing(Journal(path)) as another:
            another.append(*replacing)
        assert reader.read_new() == replacing
        assert reader.read()[0] == fold(SPEC, replacing)


def test_each_read_continues_where_the_last_one_ended(path: Path):
    """It starts over where the journal is another one: as long or longer, cut off in its place, or gone."""
    reader = RunReader(path, SPEC)
    assert reader.read_new() == []
    first, second, third = started(1), ended(1, Status.TIMEBOXED), started(2)
    with closing(Journal(path)) as journal:
        for entry in (first, second):
            journal.append(entry)
            assert reader.read_new() == [entry]
            assert reader.read_new() == []
    first_bytes = len(encode(first)) + 1
    with closing(Journal(path.with_name("other"))) as journal:
        journal.append(first, second, third)
    path.with_name("other").replace(path)
    assert reader.read_new() == [first, second, third]
    os.truncate(path, first_bytes)
    assert (reader.read_new(), reader.read()) == ([first], (fold(SPEC, [first]), first_bytes))
    path.unlink()
    assert reader.read() == (fold(SPEC, ()), 0)


@given(st.binary(max_size=200))
@settings(max_examples=scaled(200), deadline=None)
def test_no_bytes_make_reading_fail(data: bytes):
    """Whatever a disk did to a journal, reading it never fails, and it ends where its last line does."""
    entries, end = parse(data)
    assert entries == []
    assert end == data.rfind(b"\n") + 1


def test_gpus_are_counted_by_session():
    """By the admission before each; one that nobody knows is None, and a second session needs its own."""
    entries = [
        Admitted(at=AT, figures={}, gpus=("GPU-0", "GPU-1")),
        started(1),
        ended(1, Status.TIMEBOXED),
        Admitted(at=AT, figures={}, gpus=("GPU-0",)),
        Admitted(at=AT, figures={}, gpus=()),
        started(2),
        ended(2, Status.TIMEBOXED),
        Admitted(at=AT, figures={}),
        started(3),
        ended(3, Status.TIMEBOXED),
        Admitted(at=AT, figures={}, gpus=("GPU-0", "GPU-1")),
        started(4, nodes=3),  # as many on each
        ended(4, Status.TIMEBOXED),
        started(5),
    ]
    assert gpu_counts(entries) == {1: 2, 2: 0, 3: None, 4: 6, 5: None}


# -- requests from other machines


def test_a_request_lands_in_the_journal_of_whoever_has_the_run(path: Path, journal: Journal):
    """Once, in the order in which they were asked, among what is new; nothing is left of the requests."""
    asked = [StopRequested(at=AT, session=1, by=StopReason.USER, detail=str(n), now=bool(n)) for n in range(3)]
    journal.append(EVERY_ENTRY[0])
    for entry in asked:
        other = Journal(path)
        other.ask(entry)
        other.close()
    assert read(path)[0] == EVERY_ENTRY[:1]
    assert journal.read_new() == [EVERY_ENTRY[0], *asked]
    assert journal.read_new() == []
    assert read(path)[0] == [EVERY_ENTRY[0], *asked]
    assert list(path.with_name("asked").iterdir()) == []


def test_a_request_that_is_being_written_is_not_heard_yet(path: Path, journal: Journal):
    """What another machine has not finished is left alone; what is no request does not stop the others."""
    journal.ask(EVERY_ENTRY[0])
    folder = path.with_name("asked")
    folder.joinpath(".0-draft").write_text('{"event":"stop_as')
    folder.joinpath("0-garbage").write_text("{")
    assert journal.read_new() == EVERY_ENTRY[:1]
    assert [one.name for one in folder.iterdir()] == [".0-draft"]


def test_requests_are_their_owners_alone(path: Path, journal: Journal):
    """Nobody else can ask."""
    journal.ask(EVERY_ENTRY[0])
    assert path.with_name("asked").stat().st_mode & 0o777 == 0o700


def test_what_is_skipped_is_no_news(journal: Journal):
    """What an earlier session was asked does not reach the next one."""
    journal.append(*EVERY_ENTRY[:3])
    journal.skip()
    assert journal.read_new() == []
    journal.append(EVERY_ENTRY[3])
    assert journal.read_new() == EVERY_ENTRY[3:4]


def test_a_request_waits_for_room_on_the_disk(path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch):
    """On a full disk it is neither lost nor heard, and it is written once when there is room."""
    asked = StopRequested(at=AT, session=1, by=StopReason.USER, detail="stop")
    journal.append(EVERY_ENTRY[0])
    journal.ask(asked)

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("backprop.store.journal.file.os.write", full)
        assert journal.append(EVERY_ENTRY[1]) is False
        for _ in range(3):
            assert journal.read_new() in ([], EVERY_ENTRY[:1])
        assert len(list(path.with_name("asked").iterdir())) == 1
    assert journal.read_new() == [EVERY_ENTRY[1], asked]
    assert journal.read_new() == []
    assert list(path.with_name("asked").iterdir()) == []


@pytest.mark.parametrize("broken", ["read_bytes", "unlink"])
def test_a_file_system_that_fails_for_a_moment(
    path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, broken: str
):
    """A request that cannot be read, or taken away, does no harm to whoever listens, and is heard once."""
    asked = StopRequested(at=AT, session=1, by=StopReason.USER, detail="stop")
    journal.ask(asked)

    def stale(*_: object, **__: object) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patched:
        patched.setattr(f"pathlib.Path.{broken}", stale)
        heard = [*journal.read_new(), *journal.read_new()]
    assert [*heard, *journal.read_new()] == [asked]
    assert list(path.with_name("asked").iterdir()) == []


def test_what_nobody_heard_is_forgotten(path: Path, journal: Journal):
    """The next session, which has the same number, is asked nothing."""
    journal.ask(StopRequested(at=AT, session=1, by=StopReason.USER, detail="stop"))
    journal.forget_requests()
    assert journal.read_new() == []
    assert list(path.with_name("asked").iterdir()) == []


def test_a_run_that_waits_inside_its_job_keeps_it():
    """In admission, and before a retry: whoever looks must know which job to ask of."""
    assert fold(SPEC, [submitted(1), queued(1, job="7_1")]).job == "7_1"
    in_job = [submitted(1), started(1, job="7_1"), ended(1, Status.FAILED)]
    assert fold(SPEC, [*in_job, queued(2, job="7_1")]).job == "7_1"


def test_where_a_run_is():
    """That of its newest session, or of the one that is to come: a resume may move it from Slurm to here and back."""
    asked = msgspec.structs.replace(SPEC, slurm=SlurmRequest())
    in_job, here = [submitted(1), started(1, job="7_1"), ended(1, Status.FAILED)], [started(1), ended(1, Status.FAILED)]
    assert fold(asked, []).is_on_slurm
    assert fold(SPEC, [*here, submitted(2)]).is_on_slurm
    assert fold(asked, in_job).is_on_slurm
    assert not fold(asked, [*in_job, queued(2)]).is_on_slurm
    assert not fold(asked, [*in_job, started(2)]).is_on_slurm
    assert not fold(SPEC, []).is_on_slurm


# -- who stopped it, and who holds it


def stop(session: int, by: StopReason) -> StopRequested:
    return StopRequested(at=AT, session=session, by=by, detail="asked")


def test_the_first_to_ask_is_who_stopped_a_session():
    """As its supervisor says at the end, which heard them in an order of its own; else as the requests stand there."""
    asked = [started(1), stop(1, StopReason.USER), stop(1, StopReason.CTRL_C)]
    assert [fold(SPEC, asked[:count]).sessions[0].stopped_by for count in (1, 2, 3)] == [None, *[StopReason.USER] * 2]
    died = fold(SPEC, [*asked, ended(1, Status.INTERRUPTED, "died")])
    assert died.stopped_by is StopReason.USER
    said = ended(1, Status.STOPPED, "Ctrl-C", stopped_by=StopReason.CTRL_C)
    assert fold(SPEC, [*asked, said]).stopped_by is StopReason.CTRL_C
    assert fold(SPEC, [*asked, ended(1, Status.COMPLETED, None)]).stopped_by is None


def test_what_is_asked_of_a_queued_session_is_no_part_of_the_one_that_gets_its_number():
    """It is of the run, until that is queued again, or begins."""
    waiting = [started(1), ended(1, Status.TIMEBOXED, "timebox"), queued(2), stop(2, StopReason.USER)]
    left = [*waiting, Refused(at=AT, reason="left", figures={}, by=StopReason.USER)]
    assert (fold(SPEC, left).stopped_by, fold(SPEC, left).sessions[0].stopped_by) == (StopReason.USER, None)
    assert fold(SPEC, [*left, queued(2)]).stopped_by is None
    again = fold(SPEC, [*left, started(2)])
    assert (again.stopped_by, again.sessions[1].stopped_by) == (None, None)


def test_who_holds_a_session_is_in_it():
    """And whether a user has asked to pause it, and was not heard yet; nothing of either once it has ended."""
    asked = [started(1), PauseRequested(at=AT, session=1, detail="me")]
    held = Paused(at=AT, session=1, reason="x", by=(Pauser.GOVERNOR, Pauser.USER))
    hot = Paused(at=AT, session=1, reason="x", by=(Pauser.GOVERNOR,))
    end = ended(1, Status.STOPPED, "stopped")
    go_on, continued = ResumeRequested(at=AT, session=1, detail="me"), Continued(at=AT, session=1, paused_s=1.0)

    def seen(*entries: Entry) -> tuple[tuple[Pauser, ...], bool]:
        session = fold(SPEC, [*asked, *entries]).sessions[0]
        return session.paused_by, session.is_pause_asked

    assert seen() == ((), True)
    assert seen(hot) == (hot.by, True)
    assert seen(held) == (held.by, False)
    assert seen(go_on) == ((), False)
    assert seen(held, continued) == ((), False)
    assert seen(hot, end) == ((), False)
    assert seen(end, asked[1], held) == ((), False)


STARTED = SessionStarted(at=AT, session=1, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None)
ENDED = SessionEnded(at=AT, session=1, status=Status.COMPLETED, reason=None, exit_code=0, elapsed_s=1.0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_fails_for_a_while_keeps_entries_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    """Training goes on, as does who answers for it; all is written, once and in order, when that is possible again."""
    with closing(Journal(tmp_path / "journal.jsonl")) as journal:

        def fail(*_: object) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            assert not journal.append(STARTED)
            assert not journal.append(ENDED)
        assert journal.unwritten == [STARTED, ENDED]
        assert journal.append()
        assert read(tmp_path / "journal.jsonl")[0] == [STARTED, ENDED]


def test_what_is_appended_to_a_journal_that_is_only_looked_at_stays_in_memory(tmp_path: Path):
    """A view on a read-only disk may find that a supervisor died, and shows it."""
    path = tmp_path / "journal.jsonl"
    with closing(Journal(path)) as journal:
        journal.append(STARTED)
    with closing(Journal(path, is_read_only=True)) as journal:
        assert not journal.append(ENDED)
        assert journal.unwritten == [ENDED]
    assert read(path)[0] == [STARTED]
