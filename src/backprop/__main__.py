"""The `backprop` command."""

import atexit
import io
import os
import sys
from contextlib import suppress
from typing import Any

from backprop.errors import ExitCode
from backprop.supervisor import early_sigint


def _open_standard_streams() -> None:
    """Give every standard stream that was closed (`>&-`, some daemons) a place to go.

    Before anything else is opened: a journal that got descriptor 1 would be written the trainer's output.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


class _PatientFile(io.FileIO):
    """A descriptor that does not block, as a program that shares our terminal or pipe may have set it.

    Python drops without a word what such a descriptor does not take at once.
    """

    def write(self, data: Any) -> int:
        """Wait until some of it is taken."""
        import select

        while (count := super().write(data)) is None:
            select.select([], [self], [])
        return count


def _wait_for_slow_readers() -> None:
    """Let stdout and stderr wait although their descriptors do not, which others may share and are left as they are."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        if not os.get_blocking(fd):
            old = getattr(sys, name)
            file = io.BufferedWriter(_PatientFile(fd, "w", closefd=False))
            patient = io.TextIOWrapper(file, old.encoding, old.errors, line_buffering=old.line_buffering)
            setattr(sys, name, patient)


class _ExitAtOnce:
    """Ends the process after all other exit handlers; to unload the modules takes a tenth of a short command's time."""

    def __init__(self) -> None:
        self.code: int | None = None  # None: end as Python does
        atexit.register(self._end)  # the first to be registered is called last

    def _end(self) -> None:
        if self.code is not None:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(self.code)


def main() -> None:
    """Run the command line; never returns."""
    early_sigint.remember()
    _open_standard_streams()
    _wait_for_slow_readers()
    exit_at_once = _ExitAtOnce()
    if sys.platform == "win32":
        sys.exit(
            "backprop: Windows is not supported; run it inside WSL2: https://learn.microsoft.com/windows/wsl/install"
        )
    try:
        from backprop.cli.app import main as run_command_line  # after the check: these modules need POSIX
    except KeyboardInterrupt:  # nothing has begun
        sys.exit(ExitCode.INTERRUPTED)
    try:
        run_command_line()
    except SystemExit as end:
        exit_at_once.code = end.code if isinstance(end.code, int) else None
        raise


if __name__ == "__main__":
    main()
