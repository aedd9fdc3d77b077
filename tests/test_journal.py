"""The journal: what is appended is read, what is torn is passed over, and the state that follows from it."""

import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.records import Limits, RunSpec, Status, StopReason
from backprop.store.journal import (
    Admitted,
    CheckpointMeasured,
    CheckpointSkipped,
    Continued,
    Entry,
    Journal,
    Paused,
    Refused,
    SessionEnded,
    SessionStarted,
    Signalled,
    StopAsked,
    TrainerLaunched,
    fold,
    parse,
    read,
)

NOW = datetime(2026, 11, 23, 16, 0, tzinfo=timezone.utc)
SPEC = RunSpec(
    id="r",
    command=("python", "train.py"),
    cwd="/",
    created_at=NOW,
    host="h",
    user="u",
    limits=Limits(timebox_s=600, grace_s=30, min_free_ram_bytes=0, min_free_disk_bytes=0),
)


def started(session: int = 1) -> SessionStarted:
    return SessionStarted(at=NOW, session=session, timebox_s=600, grace_s=30, host="h", supervisor_pid=7, boot_id="b")


def ended(status: Status, session: int = 1) -> SessionEnded:
    return SessionEnded(at=NOW, session=session, status=status, reason="why", exit_code=3, elapsed_s=9.5)


ALL = [
    Admitted(at=NOW, figures={"ram": 1}),
    started(),
    TrainerLaunched(at=NOW, session=1, pid=8),
    Paused(at=NOW, session=1, reason="Ctrl-Z"),
    Continued(at=NOW, session=1, paused_s=2.0),
    CheckpointMeasured(at=NOW, session=1, offset=5, path="/c", size_bytes=9, saved_at=NOW),
    StopAsked(at=NOW, session=1, by=StopReason.CTRL_C, detail="Ctrl-C"),
    Signalled(at=NOW, session=1, signal="SIGINT", pids=(8,)),
    ended(Status.STOPPED),
    CheckpointSkipped(at=NOW, path="/c", reason="gone"),
    Refused(at=NOW, reason="no RAM", figures={}),
]


def test_what_is_appended_is_read(tmp_path: Path):
    """Every kind of entry survives the file."""
    journal = Journal(tmp_path / "j")
    assert journal.append(*ALL) is True
    assert read(tmp_path / "j")[0] == ALL
    journal.close()


@pytest.mark.parametrize(
    "torn", [b'{"event":"session_en', b"\xff\xfe", b'{"event":"from_the_future","x":1}\n', b"[]\n"]
)
def test_a_torn_line_is_passed_over_and_swallows_nothing(tmp_path: Path, torn: bytes):
    """What a power loss left at the end is ignored, and the next entry is read."""
    path = tmp_path / "j"
    journal = Journal(path)
    journal.append(ALL[1])
    with path.open("ab") as file:
        file.write(torn)
    journal.append(ALL[2])
    journal.close()
    assert read(path)[0] == [ALL[1], ALL[2]]


def test_new_entries_are_read_once_though_the_file_was_renamed(tmp_path: Path):
    """A run directory gets its name after its journal was opened; requests are heard all the same."""
    journal, other = Journal(tmp_path / "j"), None
    journal.append(ALL[1])
    assert journal.read_new() == [ALL[1]]
    (tmp_path / "j").rename(tmp_path / "k")
    other = Journal(tmp_path / "k")
    other.append(ALL[6])
    assert journal.read_new() == [ALL[6]]
    assert journal.read_new() == []
    journal.close()
    other.close()


def test_half_an_entry_is_read_when_it_is_whole(tmp_path: Path):
    """A reader that comes in the middle of a write waits for the rest."""
    journal = Journal(tmp_path / "j")
    journal.append(ALL[6])
    line = (tmp_path / "j").read_bytes()
    with (tmp_path / "j").open("ab") as file:
        file.write(line[:20])
        file.flush()
        assert journal.read_new() == [ALL[6]]
        assert journal.read_new() == []
        file.write(line[20:])
        file.flush()
        assert journal.read_new() == [ALL[6]]
    journal.close()


def test_the_lock_has_one_holder_and_dies_with_it(tmp_path: Path):
    """Another process's lock keeps us out until that process is killed."""
    path = tmp_path / "j"
    program = f"""
from backprop.store.journal import Journal
from pathlib import Path
journal = Journal(Path({str(path)!r}))
print(journal.try_lock(), flush=True)
input()
"""
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"True\n"
    journal = Journal(path)
    assert journal.try_lock() is False
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    assert journal.try_lock() is True
    journal.close()


LIVES = {
    "nothing yet": ([], Status.QUEUED),
    "refused": ([Refused(at=NOW, reason="no RAM", figures={})], Status.REFUSED),
    "running": ([started()], Status.RUNNING),
    "paused": ([started(), Paused(at=NOW, session=1, reason="hot")], Status.PAUSED),
    "going on": (
        [started(), Paused(at=NOW, session=1, reason="hot"), Continued(at=NOW, session=1, paused_s=1)],
        Status.RUNNING,
    ),
    "completed": ([started(), ended(Status.COMPLETED)], Status.COMPLETED),
    "resumed": ([started(), ended(Status.TIMEBOXED), started(2)], Status.RUNNING),
    "resumed and failed": ([started(), ended(Status.TIMEBOXED), started(2), ended(Status.FAILED, 2)], Status.FAILED),
    "died before it began": ([ended(Status.INTERRUPTED, 0)], Status.INTERRUPTED),
    "the first ending counts": ([started(), ended(Status.COMPLETED), ended(Status.INTERRUPTED)], Status.COMPLETED),
    "an old ending comes late": ([started(), started(2), ended(Status.INTERRUPTED)], Status.RUNNING),
    "a refused resume changes nothing": (
        [started(), ended(Status.TIMEBOXED), Refused(at=NOW, reason="no RAM", figures={})],
        Status.TIMEBOXED,
    ),
    "paused after the end": ([started(), ended(Status.FAILED), Paused(at=NOW, session=1, reason="?")], Status.FAILED),
}  # fmt: skip


@pytest.mark.parametrize("life", LIVES)
def test_the_state_follows_from_the_entries(life: str):
    """Each way through a run's life ends in its status."""
    entries, status = LIVES[life]
    assert fold(SPEC, entries).status is status


def test_an_ended_session_tells_how():
    """Reason, exit code, length and pids are those of the entries."""
    run = fold(SPEC, [started(), TrainerLaunched(at=NOW, session=1, pid=8), ended(Status.FAILED)])
    session = run.last_session
    assert session is not None
    assert (session.trainer_pid, session.exit_code, session.elapsed_s, session.reason) == (8, 3, 9.5, "why")
    assert (run.reason, run.ended_at) == ("why", NOW)


ENTRIES: st.SearchStrategy[list[Entry]] = st.lists(
    st.one_of(
        st.sampled_from(ALL),
        st.builds(started, st.integers(0, 3)),
        st.builds(ended, st.sampled_from(list(Status)), st.integers(0, 3)),
        st.builds(lambda n: Paused(at=NOW, session=n, reason="p"), st.integers(0, 3)),
        st.builds(lambda n: Continued(at=NOW, session=n, paused_s=1), st.integers(0, 3)),
        st.builds(lambda n: TrainerLaunched(at=NOW, session=n, pid=1), st.integers(0, 3)),
    ),
    max_size=12,
)


@given(ENTRIES)
def test_any_entries_give_a_run(entries: list[Entry]):
    """However odd the journal, there is a state, and each session appears once."""
    run = fold(SPEC, entries)
    numbers = [session.number for session in run.sessions]
    assert len(numbers) == len(set(numbers))
    assert set(numbers) == {entry.session for entry in entries if isinstance(entry, SessionStarted)}


@given(ENTRIES, st.integers(0, 11))
def test_an_entry_written_twice_counts_once(entries: list[Entry], position: int):
    """A write that was repeated after a failed fsync changes nothing."""
    if position < len(entries):
        twice = [*entries[: position + 1], *entries[position:]]
        assert fold(SPEC, twice) == fold(SPEC, entries)


@given(st.binary(max_size=400))
def test_no_bytes_crash_the_reader(data: bytes):
    """Whatever the disk made of it; lines after the garbage are read."""
    assert parse(data + b"\n")[1] == len(data) + 1
    good = b'{"event":"trainer_launched","at":"2026-11-23T16:00:00Z","session":1,"pid":2}\n'
    assert parse(data + b"\n" + good)[0][-1] == TrainerLaunched(at=NOW, session=1, pid=2)
