"""Atomic writes: a file is complete or not there, even after a power failure; and the folder of our checkpoints."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import Any, Iterator

FOLDER = "backprop-checkpoints"  # in the working directory, with a folder for each run

_OURS, _PART = ".backprop-", ".part"  # in the names of drafts


@contextmanager
def atomic_write(path: str) -> Iterator[Any]:
    """A binary file to write to. It replaces `path` when the block ends, synced to the disk. Raises OSError."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    with drafted(path) as draft, open(draft, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)


@contextmanager
def drafted(path: str, mode: int = 0o666) -> Iterator[str]:
    """The path of an empty file beside `path`, to be written to. It replaces `path` when the block ends without error.

    Readers see the old content or the new one, never a mixture. When the block raises, the draft is removed; when the
    process is killed, the next writer of `path` removes it. mode: permissions, before the umask. Raises OSError.
    """
    _remove_abandoned_drafts(path)
    lock, draft = _locked_draft(path, mode)
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    finally:
        os.close(lock)


def _locked_draft(path: str, mode: int) -> tuple[int, str]:
    """A lock, which shows that the writer is alive, and the path of a new file with a unique name."""
    folder = os.path.dirname(os.path.abspath(path))
    while True:
        word = f"{os.uname().nodename[:32]}-{os.getpid()}-{os.urandom(6).hex()}"
        draft = os.path.join(folder, f"{_beginning(path)}{word}{_PART}")
        lock = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            with suppress(OSError):  # a file system without locks: there no draft is removed
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(draft):
                return lock, draft
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # another process took it for abandoned before it was locked


def publish(draft: str, path: str) -> None:
    """Rename a complete draft, a file or a folder, to its final path, synced to the disk. Raises OSError.

    A folder cannot replace another atomically: what was at `path` is kept as `path` with `.old` added until then.
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
    with suppress(OSError):  # it only takes space
        _remove(aside)  # also one that a process left that was killed in between


def _remove(path: str) -> None:
    if os.path.isdir(path):
        import shutil

        shutil.rmtree(path)
    elif os.path.exists(path):
        os.unlink(path)


def _remove_abandoned_drafts(path: str) -> None:
    """Remove drafts of this file by processes that were killed: each is as large as a checkpoint."""
    folder = os.path.dirname(os.path.abspath(path))
    beginning = _beginning(path)
    for other in os.listdir(folder):
        if other.startswith(beginning) and other.endswith(_PART):
            with suppress(OSError):  # it only takes space; or its writer holds the lock
                _remove_unless_locked(os.path.join(folder, other))


def _beginning(path: str) -> str:
    """The prefix of the names of all drafts of this file."""
    name = os.path.basename(path)
    if len(os.fsencode(name)) > 120:  # of the 255 bytes that a name may have
        name = name[:30]
    return f".{name}{_OURS}"


def _remove_unless_locked(draft: str) -> None:
    lock = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(draft)
    finally:
        os.close(lock)


def _sync(path: str) -> None:
    # also folders: a new name is on the disk only when its folder is
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
