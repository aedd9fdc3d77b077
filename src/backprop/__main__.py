"""The `backprop` command."""

import os
import sys

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


def main() -> None:
    """Run the command line; never returns."""
    early_sigint.remember()
    _open_standard_streams()
    if sys.platform == "win32":
        sys.exit(
            "backprop: Windows is not supported; run it inside WSL2: https://learn.microsoft.com/windows/wsl/install"
        )
    try:
        from backprop.cli.app import main as run_command_line  # after the check: these modules need POSIX
    except KeyboardInterrupt:  # nothing has begun
        sys.exit(ExitCode.INTERRUPTED)
    run_command_line()


if __name__ == "__main__":
    main()
