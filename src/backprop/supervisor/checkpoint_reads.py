"""Was the checkpoint that a session is offered read? The kernel reports every access, in whatever language it is made.

The supervisor watches from before the launch until a read is seen. Linux only (inotify); elsewhere reads are unknown.
An access by a program outside the trainer's tree looks the same, so our own views do not open such a file.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from backprop.store.output.protocol import TrainingBegan

_IN_ACCESS = 0x1  # linux/inotify.h
_IN_MODIFY = 0x2
_IN_CLOSE_NOWRITE = 0x10  # a memory map is read without an access; its file is closed
_IN_MOVED_TO = 0x80
_IN_Q_OVERFLOW = 0x4000
_IN_ISDIR = 0x40000000
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, bytes of the name that follows: inotify(7)
_BUFFER_BYTES = 1 << 16
_MAX_FOLDERS = 1000  # a user may have 8192 watches on old kernels
# files in a checkpoint's folder that are read to learn about it, not to continue from it
_ABOUT = (".json", ".yaml", ".yml", ".txt", ".md", ".log", ".csv", ".py", ".toml")
_OURS = "backprop"  # prefix of the files that our hooks add to a framework's folder


class OfferFinding(NamedTuple):
    """What is known of the offer so far."""

    resumed_from: str | None  # what was read; None when nothing was
    has_trained: bool
    is_late: bool = False  # it was read after training had begun without it: whether it was used is unknown
    is_certain: bool = False  # reported by a hook that drives the training


class Offer:
    """Follows whether a session continues from the checkpoint that it is offered."""

    def __init__(self, path: str, others: Sequence[str] = (), *, can_be_elsewhere: bool) -> None:
        """To be made before the launch.

        others: checkpoints of the run that a script may choose by itself. can_be_elsewhere: processes on other machines
        may read it, too.
        """
        self._path = path
        self._reads = CheckpointReads(path, others)
        self._can_be_elsewhere = can_be_elsewhere
        self._was_read = False
        self._is_judged_by_hooks = False
        self._is_copied = False  # by the script, which may continue from its copy
        self._has_trained = False  # at the last call
        self._is_unread = False  # and that was reported
        self._has_trained_without = False  # likewise
        self._is_late = False  # it was read after that, and that was reported
        self.is_read = False  # this one, or another of the run
        self.is_offered_read = False

    def close(self) -> None:
        """Stop watching for reads."""
        self._reads.close()

    def verdicts(self, trainings: Sequence[TrainingBegan], *, has_trained: bool, is_over: bool) -> list[OfferFinding]:
        """What is known since the last call.

        To be called after the trainer's output was read: what was read before a step is known by the time the step is.
        trainings: reported by our hooks; where hooks judge checkpoints they also read them: only their report counts.
        """
        was_read, is_new = self._was_read, self._reads.look()
        self._was_read = was_read or is_new
        found: list[OfferFinding | None] = []
        for training in trainings:
            self._is_judged_by_hooks = True
            self._is_copied |= training.is_copied
            if training.is_decided:
                found.append(
                    self._read(training.resumed_from, is_certain=not training.is_copied)
                    if training.resumed_from
                    else self._unread(has_trained=True, is_certain=True)
                )
        if not self._is_judged_by_hooks:
            # a hook announces itself before it reads, which may be in the output only at the next call
            if was_read or (is_new and is_over):
                found.append(self._read(self._reads.seen or self._path))
            elif not is_new and (has_trained or is_over) and self._reads.can_tell and not self._can_be_elsewhere:
                found.append(self._unread(has_trained=has_trained))
        elif self._is_copied and (self._has_trained or is_over):  # a read of the copy is known a call after the step
            found.append(self._unread(has_trained=has_trained))
        self._has_trained = has_trained
        return [verdict for verdict in found if verdict is not None]

    def _read(self, path: str, *, is_certain: bool = False) -> OfferFinding | None:
        if self.is_read or (self._is_late and not is_certain):
            return None
        if self._has_trained_without and not is_certain:
            if path != self._path:
                return None  # the best one, for an evaluation
            self._is_late = True
            return OfferFinding(path, has_trained=True, is_late=True)
        self.is_read, self.is_offered_read = True, path == self._path
        return OfferFinding(path, has_trained=True, is_certain=is_certain)

    def _unread(self, *, has_trained: bool, is_certain: bool = False) -> OfferFinding | None:
        if self.is_read or self._is_unread:
            return None
        self._is_unread, self._has_trained_without = True, has_trained
        return OfferFinding(None, has_trained, is_certain=is_certain)


class CheckpointReads:
    """Watches checkpoints, each a file or a folder. Use as long as a session lives, then close."""

    def __init__(self, path: str, others: Sequence[str] = ()) -> None:
        """Begin to watch the one that matters, and others. Where that cannot be done, `can_tell` is False."""
        self.seen: str | None = None  # the first checkpoint of which something was read
        self._path = path
        self._watched: dict[int, str] = {}  # the checkpoint that each watch is of
        self._rewritten: set[tuple[int, str]] = set()  # files written since are no longer the checkpoint
        self._with_data: set[str] = set()  # folders with more than descriptions
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            for each in (*others, path):  # last: a file of two names is the one that matters
                folders, names = _inside(each)
                if any(not _is_about(name) for name in names):
                    self._with_data.add(each)
                for watched in (each, *folders):
                    self._add(watched, each)

    @property
    def is_seen(self) -> bool:
        """Whether something was read."""
        return self.seen is not None

    @property
    def can_tell(self) -> bool:
        """Whether a read would be seen, or was."""
        return self.is_seen or self._path in self._watched.values()

    def close(self) -> None:
        """Watch no longer; what was seen stays known."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def look(self) -> bool:
        """Whether the first read was seen since the last look."""
        if self.is_seen or self._fd < 0:
            return False
        reads = (self._watched[watch] for watch, mask, name in self._events() if self._is_read(watch, mask, name))
        self.seen = next(reads, None)
        if self.seen is None:
            return False
        self.close()
        return True

    def _add(self, path: str, checkpoint: str) -> None:
        mask = _IN_ACCESS | _IN_MODIFY | _IN_CLOSE_NOWRITE | _IN_MOVED_TO
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(path), mask) if self._fd >= 0 else -1
        if watch >= 0:
            self._watched[watch] = checkpoint

    def _events(self) -> Iterator[tuple[int, int, str]]:
        with suppress(BlockingIOError):
            while data := os.read(self._fd, _BUFFER_BYTES):
                at = 0
                while at < len(data):
                    watch, mask, _, name_bytes = _EVENT.unpack_from(data, at)
                    at += _EVENT.size + name_bytes
                    yield watch, mask, os.fsdecode(data[at - name_bytes : at].rstrip(b"\0"))

    def _is_read(self, watch: int, mask: int, name: str) -> bool:
        if mask & _IN_Q_OVERFLOW:
            self._watched.clear()  # a lost event may have been a read: from here on reads are unknown
        elif watch not in self._watched or mask & _IN_ISDIR or self._says_nothing(watch, name):
            pass
        elif mask & (_IN_MODIFY | _IN_MOVED_TO):
            self._rewritten.add((watch, name))
        elif mask & (_IN_ACCESS | _IN_CLOSE_NOWRITE):
            return (watch, name) not in self._rewritten
        return False

    def _says_nothing(self, watch: int, name: str) -> bool:
        """Whether a file in a checkpoint's folder is not what one continues from."""
        return name.startswith(_OURS) or (bool(name) and self._watched[watch] in self._with_data and _is_about(name))


def _inside(path: str) -> tuple[list[str], list[str]]:
    """The paths of the folders in a checkpoint, and the names of its files; nothing for one that is a file."""
    folders: list[str] = []
    names: list[str] = []
    for parent, below, files in os.walk(path):
        folders += (os.path.join(parent, folder) for folder in below)  # noqa: PTH118
        names += files
        if len(folders) > _MAX_FOLDERS:
            break
    return folders[:_MAX_FOLDERS], names


def _is_about(name: str) -> bool:
    return name.lower().endswith(_ABOUT)
