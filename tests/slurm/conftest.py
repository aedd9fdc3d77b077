"""Runs on a Slurm of two nodes: one cluster for each worker of pytest, a home of its own for each test."""

import json
import os
import shutil
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from backprop.store import query
from backprop.store.index import Index
from backprop.store.journal import file as journals
from backprop.store.journal.fold import fold
from backprop.store.rundir import RunDir
from tests.conftest import HANG_S, Runs, wait_for
from tests.faults.test_kills import Truth, dedupe
from tests.slurm.cluster import Cluster, missing_programs

LONG_S = 120.0  # longer than any submission may take, or a supervisor be silent: whoever began it is dead
_ASK_EVERY_S = 2.0  # whatever the journal says: whoever asks sees to what nobody else does

# Counts up to TARGET, or until it is enough, one step each PAUSE_S, and stays before step N while there is a file hold-N;
# saves when it is asked to stop and every 20 steps, and goes on there.
COUNTER = """
    def tell(**event):
        sys.stdout.write(json.dumps(event) + "\\n")  # print() writes the end of the line by itself: a signal may part them
        sys.stdout.flush()

    def save():
        path = f"{run_id}-{counter}.json"
        with open(path + ".new", "w") as file:
            json.dump({"counter": counter}, file)
        os.rename(path + ".new", path)
        tell(event="checkpoint_saved", path=path, step=counter)

    counter, path, run_id = 0, os.environ.get("BACKPROP_RESUME_FROM"), os.environ["BACKPROP_RUN_ID"]
    target, pause_s = int(sys.argv[1]), float(sys.argv[2])
    if path:
        counter = json.load(open(path))["counter"]
    tell(**{"event": "started", "from": counter, "node": os.environ.get("SLURMD_NODENAME")})
    try:
        while counter < target and not os.path.exists("enough"):
            time.sleep(pause_s)
            while os.path.exists(f"hold-{counter + 1}"):
                time.sleep(0.01)
            counter += 1
            tell(step=counter, value=counter * 3)
            if counter % 20 == 0:
                save()
    except KeyboardInterrupt:
        save()
        sys.exit(130)
    tell(event="finished", counter=counter)
"""


class SlurmRuns(Runs):
    """The same, with a cluster to run on and the counting script to run there."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder)
        self.cluster = cluster
        self.environment |= {"SLURM_CONF": str(cluster.configuration), "BACKPROP_ON": "slurm"}
        self.environment["BACKPROP_GRACE_SECONDS"] = "120"  # whoever answers a stop may take its time
        # a job that Slurm kills, to queue it again say, leaves its temporary index
        self.environment["TMPDIR"] = str(folder / "temporary")
        (folder / "temporary").mkdir()
        self.script(COUNTER)

    def submit(self, run_id: str, *words: object, target: int = 10**9, pause_s: float = 0.05) -> None:
        """`run --detach` of the counting script."""
        done = self.call("run", "--run-id", run_id, "-d", *words, "train.py", "--", target, pause_s)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{run_id}\n"

    def let_them_complete(self) -> None:
        """The counting scripts of this test, now and from now on."""
        (self.work / "enough").touch()

    def let_first(self, lines: str) -> None:
        """Let every `backprop` of this test execute these lines first, also those in jobs."""
        folder = self.work / "first"
        folder.mkdir(exist_ok=True)
        with (folder / "sitecustomize.py").open("a") as file:
            file.write(f"import sys\nif 'backprop' in ' '.join(sys.orig_argv):\n{textwrap.indent(lines, '    ')}\n")
        self.environment["PYTHONPATH"] = str(folder)

    def hold_before(self, step: int) -> None:
        """No counting script of this test makes this step until `let_go`."""
        (self.work / f"hold-{step}").touch()

    def let_go(self, step: int) -> None:
        (self.work / f"hold-{step}").unlink()

    def wait_for_steps(self, run_id: str, count: int, session: int = 1) -> None:
        """Until a session has printed so many steps."""
        wait_for(lambda: self.output(run_id, session).count('"step"') >= count)

    def wait_for_status(self, run_id: str, *statuses: str, session: int = 1) -> dict:
        """The run's document once `status` says so of this session, or of what waits for it.

        That is asked when the journal says so, which costs little to see, and now and then.
        """
        rundir = RunDir(self.rundir(run_id))
        spec = rundir.read_spec()
        documents: list[dict] = []
        ask_at = [time.monotonic()]

        def is_right(status: str, sessions: Sequence[object]) -> bool:
            return status in statuses and len(sessions) + (status == "queued") >= session

        def is_there() -> bool:
            run = fold(spec, journals.read(rundir.journal_path)[0])
            if not is_right(run.status.value, run.sessions) and time.monotonic() < ask_at[-1]:
                return False
            documents.append(self.document(run_id))
            ask_at.append(time.monotonic() + _ASK_EVERY_S)
            return is_right(documents[-1]["status"], documents[-1]["sessions"])

        wait_for(is_there, why_not=lambda: self.story(run_id))
        return documents[-1]

    def story(self, run_id: str) -> str:
        """What is known of a run, for whoever asks why a test failed."""
        parts = [
            *(json.dumps(entry) for entry in self.journal(run_id)),
            *(path.read_text() for path in self.rundir(run_id).glob("slurm-*.log")),
            *self.cluster.line(),
            (self.cluster.folder / "slurmctld.log").read_text()[-10_000:],
        ]
        return "\n".join(parts)

    def make_older(self, run_id: str, seconds: float) -> None:
        """Let a run have been made, and last touched, so long ago."""
        then = datetime.now(timezone.utc) - timedelta(seconds=seconds)
        folder = self.rundir(run_id)
        spec = json.loads((folder / "run.json").read_text()) | {"created_at": then.isoformat()}
        (folder / "run.json").write_text(json.dumps(spec))
        entries = [json.dumps(entry | {"at": then.isoformat()}) + "\n" for entry in self.journal(run_id)]
        (folder / "journal.jsonl").write_text("".join(entries))
        os.utime(folder / "journal.jsonl", (then.timestamp(), then.timestamp()))

    def job(self, run_id: str) -> str:
        """The Slurm job that has the run."""
        return [e["job"] for e in self.journal(run_id) if e["event"] == "submitted"][-1]

    def hurry(self, run_id: str) -> None:
        """Let a job begin that was put back into the line: it would wait for two minutes.

        Slurm kills one that begins within two seconds of that: it must have been pending for longer.
        """
        job = self.job(run_id)
        pending_since: list[float] = []

        def has_begun_to() -> bool:
            if self.cluster.call("squeue", "--noheader", "--format=%T", "--jobs", job).stdout.strip() != "PENDING":
                pending_since.clear()
                return False
            pending_since.append(time.monotonic())
            if pending_since[-1] - pending_since[0] < 3:
                return False
            return self.cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now").returncode == 0

        wait_for(has_begun_to)

    def told(self, run_id: str, event: str) -> list[dict]:
        """The entries of one kind in a run's journal."""
        return [entry for entry in self.journal(run_id) if entry["event"] == event]

    def check(self, run_id: str, *statuses: str) -> dict:
        """Every line that the trainer wrote is a point exactly once, and nothing is left running: the run's document.

        statuses: of its sessions, in order.
        """
        return self.check_all({run_id: statuses})[run_id]

    def check_all(self, expected: Mapping[str, Sequence[str]]) -> dict[str, dict]:
        """The same of several runs, by one look at all of them: their documents."""
        listed = self.call("list", "--json", "--limit", "0")
        assert listed.returncode == 0, listed.stderr
        documents = {one["id"]: one for one in json.loads(listed.stdout)}
        for run_id in expected:
            if documents[run_id]["checkpoint_count"] > len(documents[run_id]["checkpoints"]):
                documents[run_id] = self.document(run_id)
        with closing(Index(self.home / "index.db", 10)) as index:
            for run_id, statuses in expected.items():
                self._check_record(index, documents[run_id], *statuses)
        wait_for(lambda: not self.jobs())
        assert self.tree() == []
        assert self.supervisors() == []
        return documents

    def _check_record(self, index: Index, document: dict, *statuses: str) -> None:
        run_id = document["id"]
        truth = Truth(self, run_id).read()
        view = index.get(run_id)
        assert view is not None
        points = list(query.points(index, view, "value"))
        assert [point.step for point in points] == list(truth.steps)
        assert [point.value for point in points] == list(truth.values)
        in_jobs = {one["session"] for one in self.told(run_id, "session_started") if one["job"]}
        measured = [
            (one["session"], one["source"], one["offset"])
            for one in self.told(run_id, "checkpoint_measured")
            if one["session"] in in_jobs
        ]
        assert len(measured) == len(set(measured))  # by the job alone
        reported = [(one["session"], one["step"], one["path"]) for one in document["checkpoints"]]
        assert reported == dedupe(truth.saved)
        assert [session["status"] for session in document["sessions"]] == list(statuses)

    def jobs(self) -> list[str]:
        """This home's jobs that have not ended."""
        ids = [path.name for path in self.home.glob("runs/*")]
        return [line for line in self.cluster.line() if line.split("backprop-")[-1] in ids]

    def supervisors(self) -> list[int]:
        """Processes that execute a run of this home."""
        ours = str(self.home / "runs").encode()
        found = []
        for folder in Path("/proc").iterdir():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0") if folder.name.isdigit() else []
            except OSError:
                continue
            if b"execute" in words and any(word.startswith(ours) for word in words):
                found.append(int(folder.name))
        return found

    def processes(self) -> list[int]:
        """All that belong to this home: fronts, supervisors, trainers, and who tells of their ends."""
        ours = os.fsencode(f"BACKPROP_HOME={self.home}")
        found = []
        for folder in Path("/proc").iterdir():
            try:
                words = (folder / "environ").read_bytes().split(b"\0") if folder.name.isdigit() else []
            except OSError:
                continue
            if ours in words:
                found.append(int(folder.name))
        return found


class HeldBack:
    """One of Slurm's programs, before the real one on PATH: a call of it waits until it may go on, and no call too long."""

    def __init__(self, runs: SlurmRuns, program: str, calls: str = "*") -> None:
        """calls: a pattern of sh for the arguments of those that wait; others go through."""
        runs.let_first(f"from backprop.engines.slurm import client\nclient.CALL_LIMIT_S = {HANG_S}")
        self._folder = runs.work / f"slow-{program}"
        self._folder.mkdir()
        real = shutil.which(program, path=runs.environment["PATH"])
        script = self._folder / program
        script.write_text(
            f'#!/bin/sh\ncase "$*" in {calls}) : > {self._folder}/asks; '
            f"until test -e {self._folder}/go; do sleep 0.1; done;; esac\n"
            f'exec {real} "$@"\n'
        )
        script.chmod(0o700)
        runs.environment["PATH"] = f"{self._folder}:{runs.environment['PATH']}"

    def wait(self) -> None:
        """Until it was called."""
        wait_for((self._folder / "asks").exists)

    def go_on(self) -> None:
        (self._folder / "go").touch()


def first_port(kind: int) -> int:
    """Where a cluster of this worker of pytest looks for free ports: no two look in the same place at once.

    kind: of the clusters that one worker may have at the same time.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return 26_800 + 1000 * kind + 50 * worker


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster for all tests of a worker."""
    if missing := missing_programs():
        pytest.fail(f"{', '.join(missing)} not found: run these tests by `make slurm`, after installing Slurm")
    made = Cluster(first_port=first_port(0))
    yield made
    made.stop()


def runs_on(cluster: Cluster, folder: Path) -> Iterator[SlurmRuns]:
    """For a fixture: runs on a cluster that others use afterwards. What a test has killed of it is started again.

    Nothing of the test's is left: neither a process of its runs, nor one of Slurm's that looked after them.
    """
    made = SlurmRuns(folder, cluster)
    yield made
    cluster.mend()
    made.clean_up()
    cluster.wait_until_idle()
    wait_for(lambda: not made.processes())


@pytest.fixture
def runs(tmp_path: Path, cluster: Cluster) -> Iterator[SlurmRuns]:
    yield from runs_on(cluster, tmp_path)
