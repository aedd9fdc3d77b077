"""Several machines with one home, each with an index and marks of its own: none loses sight of a run."""

import json
import subprocess
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from backprop.records import RunSpec, SlurmRequest, Status
from backprop.store import recorder as module
from backprop.store.home import Home
from backprop.store.index import open_index
from backprop.store.journal.entries import SessionEnded, SessionStarted
from backprop.store.journal.file import Journal
from backprop.store.recorder import Recorder
from tests.conftest import HANG_S, Runs
from tests.records import LIMITS

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
SPEC = RunSpec(
    id="r", command=("python", "x.py"), cwd="/", created_at=AT, host="h", user="u", limits=LIMITS, slurm=SlurmRequest()
)

# -- settling at the very moment a job begins something

# places in `Recorder.finish` between which a job on another machine may do its next step
PLACES = ("before", "stored", "unmarking", "unmarked", "compared", "after")


def started(session: int) -> SessionStarted:
    return SessionStarted(
        at=AT, session=session, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None, job="7"
    )


class Job:
    """A job on a node of its own that begins another session of the run, in three steps."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.steps = (self.mark, self.begin, self.mark)

    def mark(self) -> None:
        self._home.mark_for_refresh("r")

    def begin(self) -> None:
        with closing(Journal(self._home.rundir("r").journal_path)) as journal:
            journal.append(started(2))


def settle_while(home: Home, journal: Journal, reached: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """`Recorder.finish`, telling at each place that it has been reached."""
    recorder = Recorder(home, home.rundir("r"), SPEC, journal, print)
    record, unmark, compare = recorder.record_state, home.mark_refreshed, module._size_at_server

    def store(**words: bool) -> bool:
        try:
            return record(**words)
        finally:
            reached("stored")

    def settle(run_id: str) -> None:
        reached("unmarking")
        unmark(run_id)
        reached("unmarked")

    def look(path: Path) -> int:
        try:
            return compare(path)
        finally:
            reached("compared")

    monkeypatch.setattr(recorder, "record_state", store)
    monkeypatch.setattr(home, "mark_refreshed", settle)
    monkeypatch.setattr(module, "_size_at_server", look)
    reached("before")
    recorder.finish(publish=False)
    recorder.close()
    reached("after")


@pytest.mark.parametrize("when", list(combinations_with_replacement(PLACES, 3)), ids="-".join)
def test_who_settles_a_run_sees_what_a_job_begins(
    when: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Wherever in the settling its steps fall: the index has all of it, or the mark to look again is there."""
    home, elsewhere = Home(tmp_path, tmp_path / "machines" / "a"), Home(tmp_path, tmp_path / "of-the-job")
    elsewhere.make()
    job = Job(elsewhere)
    rundir = home.publish(home.begin(SPEC, None), "r")
    home.mark_for_refresh("r")
    with closing(Journal(rundir.journal_path)) as journal:
        ended = SessionEnded(at=AT, session=1, status=Status.TIMEBOXED, reason=None, exit_code=0, elapsed_s=1.0)
        journal.append(started(1), ended)

        def reached(place: str) -> None:
            for step, due in zip(job.steps, when, strict=True):
                if due == place:
                    step()

        settle_while(home, journal, reached, monkeypatch)
    with closing(open_index(home, 10, print)) as index:
        is_complete = index.journal_size("r") == rundir.journal_path.stat().st_size
    assert is_complete or home.unsettled() == ["r"]


# -- an older tool's record

OLD_RUNS = 100


@pytest.fixture
def old(runs: Runs) -> Runs:
    """A home as an older tool leaves it."""
    runs.home.mkdir()
    old = {f"old-{n}": {"id": f"old-{n}", "status": "completed", "startTime": n} for n in range(OLD_RUNS)}
    (runs.home / "experiments.json").write_text(json.dumps(old))
    return runs


def listed(out: str | bytes) -> list[str]:
    return sorted(one["id"] for one in json.loads(out))


def test_machines_import_at_once(old: Runs):
    """All see each run once and none fails; no half of an import stays behind."""
    readers = []
    for name in "abcd":
        old.environment["BACKPROP_MACHINE"] = name
        readers.append(
            old.start(
                "list", "--json", "--fields", "id", "--limit", "0", stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    told = [(*reader.communicate(timeout=HANG_S), reader.returncode) for reader in readers]
    assert [code for _, _, code in told] == [0] * 4, told
    assert [listed(out) for out, _, _ in told] == [sorted(f"old-{n}" for n in range(OLD_RUNS))] * 4
    assert sum(b"imported" in err for _, err, _ in told) == 1
    assert not list(old.home.glob("machines/*/.importing"))


def test_a_machine_that_is_new_to_a_home_imports(old: Runs):
    """Its own folder need not be there yet."""
    done = old.call("list", "--json", "--fields", "id", "--limit", "0", BACKPROP_MACHINE="new")
    assert done.returncode == 0, done.stderr
    assert len(listed(done.stdout)) == OLD_RUNS
    assert f"imported {OLD_RUNS} runs" in done.stderr


def test_a_machine_that_comes_after_the_import(old: Runs):
    """It sees the same, and does not import again."""
    assert old.call("list", BACKPROP_MACHINE="first").returncode == 0
    done = old.call("list", "--json", "--fields", "id", "--limit", "0", BACKPROP_MACHINE="second")
    assert len(listed(done.stdout)) == OLD_RUNS
    assert done.stderr == ""
