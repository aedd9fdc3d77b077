"""Where a row is measured: a home of its own, and the installed `backprop` command. Nothing in it outlives it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from backprop.errors import ExitCode
from backprop.governor.probes import gpus
from backprop.store.home import Home
from backprop.store.journal import file as journals
from backprop.store.journal.entries import Entry

BACKPROP = str(Path(sys.executable).with_name("backprop"))
SCRIPTS = Path(__file__).with_name("scripts")
ROOT = Path(__file__).parents[1]  # of the clone
PATIENCE_S = 120.0

T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    start_pairs: int
    interpreter_pairs: int
    kept_saves: int
    metrics_s: float  # for each way to log
    tap_rounds: int
    steady_rounds: int
    steady_steps: int
    ingest_lines: int
    ingest_rounds: int
    burst_lines: int
    supervisor_s: float
    governor_s: float
    snapshots: int
    delay_lines: int
    stubborn_rounds: int
    archive_runs: int
    archive_points: int
    archive_calls: int
    watched_runs: int


FULL = Sizes(
    start_pairs=40,
    interpreter_pairs=200,
    kept_saves=20,
    metrics_s=3.0,
    tap_rounds=20,
    steady_rounds=24,
    steady_steps=100,
    ingest_lines=2_000_000,
    ingest_rounds=3,
    burst_lines=500_000,
    supervisor_s=20.0,
    governor_s=600.0,
    snapshots=500,
    delay_lines=40,
    stubborn_rounds=5,
    archive_runs=100_000,
    archive_points=10_000_000,
    archive_calls=15,
    watched_runs=20,
)
QUICK = Sizes(
    start_pairs=4,
    interpreter_pairs=10,
    kept_saves=3,
    metrics_s=0.2,
    tap_rounds=3,
    steady_rounds=2,
    steady_steps=50,
    ingest_lines=100_000,
    ingest_rounds=1,
    burst_lines=50_000,
    supervisor_s=2.0,
    governor_s=4.0,
    snapshots=20,
    delay_lines=4,
    stubborn_rounds=1,
    archive_runs=500,
    archive_points=100_000,
    archive_calls=2,
    watched_runs=4,
)


class Workbench:
    """A home, a folder with a copy of the scripts outside any git work tree, and what was started here."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.sizes = sizes
        self.home = Home(folder / "home")
        self.folder = folder / "work"
        self.folder.mkdir()
        for script in SCRIPTS.glob("*.py"):
            self.folder.joinpath(script.name).write_bytes(script.read_bytes())
        self.environment = {
            # what a user has: PYTHONDONTWRITEBYTECODE, say, would compile the whole program at every start
            **{key: value for key, value in os.environ.items() if not key.startswith(("BACKPROP_", "PYTHON"))},
            "BACKPROP_HOME": str(self.home.path),
            "BACKPROP_PYTHON": sys.executable,
            "BACKPROP_MIN_FREE_RAM_GB": "0",
            "BACKPROP_MIN_FREE_DISK_GB": "0",
        }
        self._run_ids: list[str] = []
        self._spawned: list[subprocess.Popen[bytes]] = []

    def call(self, *words: str, program: Sequence[str] = (BACKPROP,)) -> str:
        """What a `backprop` command prints. Raises CalledProcessError.

        program: what to call it by.
        """
        return subprocess.run(
            [*program, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        ).stdout

    def start(self, run_id: str, *words: str) -> "subprocess.Popen[bytes]":
        """A run in the foreground, as in a terminal whose output goes elsewhere."""
        self._run_ids.append(run_id)
        return subprocess.Popen(
            [BACKPROP, "run", "--run-id", run_id, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def spawn(self, command: Sequence[str]) -> psutil.Process:
        """Another program, in a session of its own; it and what it starts there are ended with the workbench."""
        spawned = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._spawned.append(spawned)
        return psutil.Process(spawned.pid)

    def run_detached(self, *words: str, program: Sequence[str] = (BACKPROP,)) -> str:
        """The id of a run whose trainer has just been launched in the background."""
        run_id = self.call("run", "--detach", *words, program=program).strip()
        self._run_ids.append(run_id)
        return run_id

    def document(self, run: str = "last") -> dict[str, Any]:
        """What `status RUN --json` says."""
        document: dict[str, Any] = json.loads(self.call("status", run, "--json"))
        return document

    def journal(self, run_id: str) -> list[Entry]:
        return journals.read(self.home.rundir(run_id).journal_path)[0]

    def tree(self, run_id: str) -> list[psutil.Process]:
        """Living processes with this run's id in their environment."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):  # it ended while we looked, or is not ours
                is_ours = process.environ().get("BACKPROP_RUN_ID") == run_id
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def gpu_helpers(self) -> list[psutil.Process]:
        """Living processes that ask tools about GPUs for supervisors of this home, and descend from nobody here."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):  # it ended while we looked, or is not ours
                is_one = gpus.__name__ in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
                if is_one and process.environ().get("BACKPROP_HOME") == str(self.home.path):
                    found.append(process)
        return found

    def stop(self, run_id: str) -> None:
        """Kill a run if it is still going on."""
        try:
            self.call("stop", run_id, "--now")
        except subprocess.CalledProcessError as error:
            if error.returncode != ExitCode.USAGE:  # else it has ended
                raise

    def close(self) -> None:
        """End what was spawned, and what a failed measurement left running, by process id."""
        for spawned in self._spawned:
            if spawned.poll() is None:
                os.killpg(spawned.pid, signal.SIGKILL)  # not waited for yet: the number is still its own
            spawned.wait()
        for run_id in self._run_ids:
            with suppress(subprocess.SubprocessError):
                self.stop(run_id)
            for process in self.tree(run_id):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        # they see that their supervisor is gone, and finish the call that is going on
        wait_for(lambda: None if self.gpu_helpers() else True)


@contextmanager
def workbench(sizes: Sizes) -> Iterator[Workbench]:
    with tempfile.TemporaryDirectory(prefix="backprop-bench-") as folder:
        place = Workbench(Path(folder).resolve(), sizes)
        try:
            yield place
        finally:
            place.close()


def wait_for(condition: Callable[[], T | None], poll_s: float = 0.005) -> T:
    """What the condition gives once that is not None. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while (result := condition()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came within {PATIENCE_S:.0f} s")
        time.sleep(poll_s)
    return result
