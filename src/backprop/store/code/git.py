"""Asks git about a repository without executing anything that the repository names.

A repository can come from anywhere, and its configuration names programs: file system monitors, hooks, filters,
external diffs, text conversions, remote helpers. None of them is needed to read its state.
"""

import os
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from backprop.errors import BackpropError

TIMEOUT_S = 5.0  # a huge work tree on a slow disk must not keep a run from starting
# submodules have a configuration of their own: only the commits they are at are compared
PLAIN_DIFF = ("--no-color", "--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty", "--submodule=short")
_SETTINGS = (
    "core.fsmonitor=false",
    f"core.hooksPath={os.devnull}",
    "diff.relative=false",  # a patch is of the whole work tree, with the names that `git apply` expects
    "diff.noprefix=false",
    "diff.mnemonicPrefix=false",
)
_FILTER_SETTINGS = ("clean=", "smudge=", "process=", "required=false")


class GitError(BackpropError):
    """Git is not installed, failed, or took too long."""


def environment() -> dict[str, str]:
    """Our own for git: it changes no index unasked, speaks English and fetches nothing."""
    return {
        **os.environ,
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",  # older gits fetch what a partial clone lacks: let no way be open
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }


def safe_command(folder: str | Path) -> tuple[str, ...]:
    """`git -C FOLDER`, with all filters of its repository switched off. Raises GitError.

    Rebuilt for every call: the configuration of the repository may have changed.
    """
    base = ("git", "--no-pager", "-C", str(folder), *_overriding(_SETTINGS))
    listed = finish(start((*base, "config", "--null", "--name-only", "--get-regexp", r"^filter\..")), allowed=(0, 1))
    names = {
        key.removeprefix("filter.").rpartition(".")[0] for key in listed.decode(errors="surrogateescape").split("\0")
    }
    if any("=" in name for name in names):  # `-c` would take what follows for the value
        raise GitError("its configuration has a filter with '=' in its name, which cannot be switched off")
    filters = (f"filter.{name}.{setting}" for name in sorted(names - {""}) for setting in _FILTER_SETTINGS)
    return (*base, *_overriding(filters))


def _overriding(settings: Iterable[str]) -> Iterator[str]:
    for setting in settings:
        yield from ("-c", setting)


def start(command: Sequence[str], extra: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """A git in the background: see `finish`. Raises GitError where there is none."""
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment(), **(extra or {})},
        )
    except OSError as error:
        raise GitError(f"git cannot be run: {error.strerror}") from error


def finish(
    process: "subprocess.Popen[bytes]",
    data: bytes = b"",
    *,
    allowed: tuple[int, ...] = (0,),
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """What it prints. data: for its stdin. allowed: exit codes. Raises GitError with git's own first line."""
    try:
        output, errors = process.communicate(data, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise GitError(f"git took longer than {timeout_s:g} s") from error
    if process.returncode not in allowed:
        lines = errors.decode(errors="replace").splitlines() or [f"git ended with {process.returncode}"]
        raise GitError(lines[0].removeprefix("error: ").removeprefix("fatal: "))
    return output


def first_bytes(
    process: "subprocess.Popen[bytes]", max_bytes: int | None, *, allowed: tuple[int, ...], timeout_s: float
) -> tuple[bytes, bool]:
    """What it prints, and whether there is more than `max_bytes`: then it is ended. Raises GitError, as `finish`.

    For what prints little on stderr.
    """
    assert process.stdout is not None  # noqa: S101  start() makes the pipe
    late = threading.Timer(timeout_s, process.kill)
    late.start()
    output = process.stdout.read(-1 if max_bytes is None else max_bytes)
    is_cut = bool(process.stdout.read(1))
    is_late = not late.is_alive()
    late.cancel()
    if is_cut or is_late:
        process.kill()
        process.communicate()
    if is_late:
        raise GitError(f"git took longer than {timeout_s:g} s")
    if not is_cut:
        finish(process, allowed=allowed, timeout_s=timeout_s)
    return output, is_cut
