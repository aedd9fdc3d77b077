"""The `backprop` command."""

import sys


def main() -> None:
    """Run the command line; never returns."""
    if sys.platform == "win32":
        sys.exit(
            "backprop: Windows is not supported; run it inside WSL2: https://learn.microsoft.com/windows/wsl/install"
        )
    from backprop.cli.app import main as run_command_line  # after the check: these modules need POSIX

    run_command_line()


if __name__ == "__main__":
    main()
