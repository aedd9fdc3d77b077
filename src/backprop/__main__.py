"""The `backprop` command."""

import atexit
import os
import sys
from contextlib import suppress

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
