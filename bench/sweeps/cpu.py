"""CPU time of everything that a method started, whatever detached itself or has ended by now. Linux only."""

import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
LOOK_EVERY_S = 0.5
_END_S = 60.0
_ERROR_CHARACTERS = 2000


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl: this benchmark needs Linux")


class Processes:
    """What a method started. Close it. One at a time: all children of this process are taken for it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._own: dict[int, int | None] = {}  # exit codes of what was started by `start`
        self._reaped_s = _reaped_s()
        self._seen_s: dict[tuple[int, float], float] = {}  # process id and start -> CPU time without its children's

    def start(self, words: Sequence[str], output: str) -> None:
        """Both streams go into files of the folder."""
        with (self._folder / f"{output}.out").open("wb") as out, (self._folder / f"{output}.err").open("wb") as err:
            process = subprocess.Popen(
                words,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # as the trials of a sweep have: Linux shares the cores by session
            )
        process.returncode = 0  # it is waited for here, not by Popen
        self._own[process.pid] = None

    def spent_s(self) -> float:
        """CPU time so far: user and system. To be called often.

        The kernel's sums leave out children that nobody waits for (Ray ignores their end); what is seen of each
        process leaves out those that came and went between two looks. Neither counts anything twice.
        """
        self._reap()
        summed_s = _reaped_s() - self._reaped_s
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self._seen_s[process.pid, process.create_time()] = times.user + times.system
                summed_s += times.user + times.system + times.children_user + times.children_system
        return max(summed_s, sum(self._seen_s.values()))

    @property
    def codes(self) -> list[int | None]:
        """Exit codes, in the order of the starts; None while one is alive."""
        return list(self._own.values())

    @property
    def have_ended(self) -> bool:
        """Whether all that `start` started has."""
        self._reap()
        return None not in self.codes

    def wait(self, patience_s: float) -> None:
        """Wait until all that `start` started has ended. Raises TimeoutError, or RuntimeError if one failed."""
        deadline = time.monotonic() + patience_s
        while not self.have_ended:
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes that do not end, in {self._folder}\n{self.errors()}")
            time.sleep(LOOK_EVERY_S)
        if any(self.codes):
            raise RuntimeError(f"exit codes {self.codes}\n{self.errors()}")

    def errors(self) -> str:
        """The last lines that each wrote on stderr."""
        files = sorted(self._folder.glob("*.err"))
        return "\n".join(f"{file.name}: {file.read_text(errors='replace')[-_ERROR_CHARACTERS:]}" for file in files)

    def close(self) -> None:
        """Kill what is left. Raises TimeoutError."""
        deadline = time.monotonic() + _END_S
        while left := psutil.Process().children(recursive=True):
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes that cannot be killed: {left}")
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            time.sleep(LOOK_EVERY_S)
            self._reap()

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid in self._own:
                    self._own[pid] = os.waitstatus_to_exitcode(status)


def _reaped_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
