"""Files that are whole or not there, whenever the power fails; and the folder of those that no script has named."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import Any, Iterator

FOLDER = "backprop-checkpoints"  # in the working directory, with a folder for each run: two must not meet


@contextmanager
def whole(path: str) -> Iterator[Any]:
    """A binary file to write to. It gets its name when the block ends, with its content on the disk. Raises OSError."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    _remove_abandoned_drafts(path)
    draft = f"{path}.new-{os.getpid()}"
    try:
        with open(draft, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        if os.path.exists(draft):
            os.unlink(draft)
        raise
    _sync(folder)


def settle(draft: str, path: str) -> None:
    """Give what somebody else wrote, a file or a folder, the name that only a whole checkpoint gets. Raises OSError.

    Where a folder is involved, one name cannot replace the other at once: what had the name is kept until it is
    replaced, as `path` with `.old` added.
    """
    for parent, _, names in os.walk(draft):
        for name in names:
            _sync(os.path.join(parent, name))
        _sync(parent)
    if os.path.isfile(draft):
        _sync(draft)
    aside = f"{path}.old"
    is_in_the_way = os.path.exists(path) and (os.path.isdir(path) or os.path.isdir(draft))
    if is_in_the_way:
        _remove(aside)
        os.replace(path, aside)
    try:
        os.replace(draft, path)
    except OSError:
        if is_in_the_way:
            os.replace(aside, path)
        raise
    _sync(os.path.dirname(os.path.abspath(path)))
    with suppress(OSError):  # it only takes room
        _remove(aside)  # of this time, or of one that was killed in between


def _remove(path: str) -> None:
    if os.path.isdir(path):
        import shutil

        shutil.rmtree(path)
    elif os.path.exists(path):
        os.unlink(path)


def _remove_abandoned_drafts(path: str) -> None:
    """Those of processes that were killed while they wrote this one: each is as large as a checkpoint."""
    folder, name = os.path.split(os.path.abspath(path))
    for other in os.listdir(folder):
        if other.startswith(f"{name}.new-") and _is_abandoned(other.rpartition("-")[2]):
            with suppress(OSError):  # it only takes room
                os.unlink(os.path.join(folder, other))


def _is_abandoned(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, PermissionError):  # no process's number, or somebody else's process
        pass
    return False


def _sync(path: str) -> None:
    # of a folder: a new name is on the disk only when its folder is
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
