"""What a method started, whatever detached itself. Linux only."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_LOOK_EVERY_S = 0.5
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
        self._codes: dict[int, int | None] = {}  # of what was started by `start`

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
        self._codes[process.pid] = None

    def have_ended(self, within_s: float) -> bool:
        """Whether all that `start` started has ended by then. Raises RuntimeError if one failed."""
        deadline = time.monotonic() + within_s
        while None in self._codes.values() and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
            self._reap()
        if any(self._codes.values()):
            raise RuntimeError(f"exit codes {list(self._codes.values())}\n{self._errors()}")
        return None not in self._codes.values()

    def close(self) -> None:
        """Kill what is left. Raises TimeoutError."""
        deadline = time.monotonic() + _END_S
        while left := psutil.Process().children(recursive=True):
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes that cannot be killed: {left}")
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            time.sleep(_LOOK_EVERY_S)
            self._reap()

    def _errors(self) -> str:
        """The last lines that each wrote on stderr."""
        files = sorted(self._folder.glob("*.err"))
        return "\n".join(f"{file.name}: {file.read_text(errors='replace')[-_ERROR_CHARACTERS:]}" for file in files)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid in self._codes:
                    self._codes[pid] = os.waitstatus_to_exitcode(status)
