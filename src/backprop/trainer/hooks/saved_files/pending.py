"""Checkpoints that a script has written, and that are reported when they have their final names.

Careful scripts write to `last.pt.tmp`, and rename it when it is complete. The final name is reported: at once if Python
renames the file, otherwise (`mv` in a subprocess) at the next safe point, where the file is found by its inode.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import weakref
from typing import Any, Callable, NamedTuple, Optional

from ...failsafe import guarded
from ...overwrites import kept_names

HOOK = "saves of the script"
# if this is wrong, a checkpoint is only reported at another time
_TEMPORARY = re.compile(
    r"(?<![a-z])(?:tmp|temporary|(?:temp|partial|draft)(?![a-z])|incomplete|unfinished|in[-_]?progress)"
    r"|\.part\b|\.new\b|~$|^\.",
    re.IGNORECASE,
)


class SaveInfo(NamedTuple):
    """What is reported of a checkpoint in addition to its path."""

    step: Optional[int]
    is_weights_only: bool


class PendingSave(NamedTuple):
    """A checkpoint that is not reported yet."""

    path: str
    mark: SaveInfo
    identity: tuple[int, int]  # device and inode
    file: Optional[Callable[[], Any]]  # weak reference to the open file that was written to
    is_shared: bool  # other ranks may still be writing to it, until the next optimizer step


class PendingSaves:
    """The checkpoints of this process, pending and reported."""

    def __init__(self, report: Callable[[str, SaveInfo], None], run_id: str) -> None:
        """Report: called with path and mark of each checkpoint that is complete and has its final name."""
        self._report = report
        self._run_id = run_id
        self._pending: list[PendingSave] = []
        self._marks: dict[str, SaveInfo] = {}  # by path, of all checkpoints so far; the newest last
        self._last: Optional[str] = None  # that was reported
        self._is_watching = False

    def add(self, path: str, mark: SaveInfo, *, file: Any = None, is_shared: bool = False) -> bool:
        """Add a checkpoint that is complete, but may be renamed. Returns False if it is too early to report it.

        file: an open file at that path, whose buffer may not be empty.
        """
        self._watch()
        path = os.path.abspath(path)
        self._marks.pop(path, None)
        self._marks[path] = mark
        if file is None and not is_shared and not _is_temporary(path):
            self._report_now(path)
            return True
        identity = _identity(path)
        if identity is None:  # it was removed already
            return True
        reference = None if file is None else weakref.ref(file)
        self._pending.append(PendingSave(path, mark, identity, reference, is_shared))
        return False

    def closed(self, path: str) -> None:
        """An open file that was added is closed: it is complete, and reported unless its name is temporary."""
        if not _is_temporary(path):
            self.report_final_names(at_step=False)

    def report_final_names(self, *, at_step: bool) -> None:
        """Report what has its final name by now. at_step: an optimizer has made a step, or the process exits."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        found = {}
        for save in pending:
            if _is_open(save) or (save.is_shared and not at_step):
                self._pending.append(save)
                continue
            path = _find(save)
            # under a name of ours the next save to its own name has begun
            if path is not None and not kept_names.is_ours(path, self._run_id):
                found[save.path] = path
        if found:
            self._report_renamed(found)

    def moved(self, source: str, target: str) -> bool:
        """A file or folder was renamed. Returns False if no checkpoint in it was added before."""
        moved = {
            path: target + path[len(source) :]
            for path in self._marks
            if path == source or path.startswith(source + os.sep)
        }
        if not moved or source == target:
            return False
        self._pending = [
            save._replace(path=moved.get(save.path, save.path))
            for save in self._pending
            if save.path not in moved or _is_open(save) or save.is_shared
        ]
        self._report_renamed(moved)
        return True

    def _report_renamed(self, names: dict[str, str]) -> None:
        """Report renamed checkpoints, except pending ones. names: old path -> new path."""
        for old, new in names.items():
            if old != new and new not in names:
                self._marks.pop(new, None)  # it was overwritten
        self._marks = {names.get(path, path): mark for path, mark in self._marks.items()}
        waiting = {save.path for save in self._pending}
        for path in names.values():
            if path in self._marks and path not in waiting:
                self._report_now(path)
        # the last one reported is resumed from: report the newest again if an older one was renamed
        those = (path for path in reversed(self._marks) if path not in waiting and os.path.exists(path))
        newest = next(those, None)
        if newest is not None and newest != self._last:
            self._report_now(newest)

    def _report_now(self, path: str) -> None:
        self._last = path
        self._report(path, self._marks[path])

    def _watch(self) -> None:
        """Observe moves across file systems, where shutil copies. Renames are observed by file_events.py."""
        if not self._is_watching:
            self._is_watching = True
            shutil.move = self._watched(shutil.move)

    def _watched(self, function: Any) -> Any:
        @functools.wraps(function)
        def move(src: Any, dst: Any, *args: Any, **kwargs: Any) -> Any:
            result = function(src, dst, *args, **kwargs)
            if not kwargs:  # otherwise with a copy function of the caller's
                # shutil.move returns the new path, which is in `dst` if that is a folder
                self._has_moved(src, dst if result is None else result)
            return result

        return move

    @guarded(HOOK)
    def _has_moved(self, source: Any, target: Any) -> None:
        self.moved(os.path.abspath(os.fsdecode(source)), os.path.abspath(os.fsdecode(target)))


def _is_temporary(path: str) -> bool:
    parent, name = os.path.split(path)
    return any(_TEMPORARY.search(each) for each in (name, os.path.basename(parent)))


def find_place(where: Any) -> Optional[tuple[str, Any]]:
    """The path that was saved to, and the open file or None; None if there is no file on disk."""
    if isinstance(where, (str, os.PathLike)):
        return os.fsdecode(where), None
    try:
        is_there = os.path.samestat(os.fstat(where.fileno()), os.stat(where.name))
        weakref.ref(where)  # it must support weak references
    except (OSError, ValueError, TypeError, AttributeError):  # in memory, remote, unlinked, a class with slots
        return None
    return (where.name, where) if is_there else None


def _is_open(save: PendingSave) -> bool:
    file = None if save.file is None else save.file()
    return file is not None and not getattr(file, "closed", False)


def _find(save: PendingSave) -> Optional[str]:
    """Its current path; None if it is gone."""
    folder = os.path.dirname(save.path)
    try:
        if _identity(save.path) == save.identity:
            return save.path
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.inode() == save.identity[1] and _identity(entry.path) == save.identity:
                    return entry.path
    except OSError:  # the folder is gone, too
        pass
    return None


def _identity(path: str) -> Optional[tuple[int, int]]:
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return None
    return info.st_dev, info.st_ino
