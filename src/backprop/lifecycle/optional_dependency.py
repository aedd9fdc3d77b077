"""Libraries that Backprop uses where they are installed: how to install one that is missing, in one line."""

import shlex
import sys
from pathlib import Path

from backprop.errors import UsageError

_PACKAGE = "backprop-cli"


def missing(extra: str, error: ImportError) -> UsageError:
    """The error to raise for a library that cannot be imported: which it is, and the command that installs it.

    extra: the one of pyproject.toml that brings it. It is needed beside Backprop: that need not be the environment
    that is active, nor the one of the user's scripts.
    """
    what = error.name.partition(".")[0] if error.name else str(error)
    return UsageError(f"this needs {what!r}, which is not installed: {_installing(extra)}")


def _installing(extra: str) -> str:
    wanted = shlex.quote(f"{_PACKAGE}[{extra}]")
    environment = Path(sys.prefix)
    if (environment / "uv-receipt.toml").exists():  # uv's and pipx's notes about an environment of a tool
        return f"uv tool install {wanted}"
    if (environment / "pipx_metadata.json").exists():
        return f"pipx install --force {wanted}"
    return f"{shlex.quote(sys.executable)} -m pip install {wanted}"
