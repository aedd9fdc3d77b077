"""Checkpoints that a script is about to write over are kept beside them, under another name, until that has gone well.

Known checkpoints are the one that this session was offered, those that it has reported (here, or as lines on stdout:
control.json has them), and what lies in a folder that is one. What becomes of a kept one:

    the new one is reported, and is as far           it is removed
    it was offered, and no steps tell that           it stays: what was read may have been its best score only
    the process is killed in the midst of the save   the supervisor puts it back (backprop/kept.py)
    the session never read it: it began anew         it stays, and is a checkpoint of the run

A file is kept by a hard link before it is opened and emptied, which is done to an empty one in its place, or before
another is renamed over it; by a rename where there are no hard links; and by a copy only where neither will do: a file
that is changed in place. `keeping` has the one of this process.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from contextlib import suppress
from typing import Any, Iterator, Mapping, Optional

from ..failsafe import KEEPING, guarded, notify_user
from . import kept_names

_MAX_FILES = 1000  # a folder with more is no checkpoint, but the place where all of a training is written to
_MAX_COPIED_BYTES = 1 << 30  # about a second; where the file system can share blocks, a copy of any size is made
_FICLONE = 0x40049409  # linux/fs.h: share another file's blocks


class CheckpointKeeper:
    """Keeps the checkpoints that one process writes over."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """environment: as the supervisor made it."""
        self._run_id = environment["BACKPROP_RUN_ID"]
        self._session = int(environment["BACKPROP_SESSION"])
        self._control_path = environment["BACKPROP_CONTROL"]
        offered, step = environment.get("BACKPROP_RESUME_FROM"), environment.get("BACKPROP_RESUME_STEP")
        self._offered = None if offered is None else os.path.realpath(offered)
        self._offered_step = None if step is None else int(step)
        self._is_unread = offered is not None
        self._steps: dict[str, Optional[int]] = {}  # of the checkpoints that this process has reported, by real path
        self._reports: dict[str, Any] = {}  # of all processes, as the supervisor has them: [step, bytes, seconds]
        self._reports_then: dict[str, Any] = {}  # when a folder was kept
        self._control_mark: Optional[tuple[int, int]] = None
        self._sources: dict[str, str] = {}  # where what is called so now was saved, if something was kept there
        self._warned: set[str] = set()

    def has_read_it(self) -> None:
        """The checkpoint to resume from was opened: what is saved from here on continues it."""
        self._is_unread = False

    # -- before

    @guarded(KEEPING)
    def before_write(self, path: str, *, is_emptied: bool = True) -> None:
        """A file is written to in a moment: emptied before that, or changed in place."""
        try:
            info = os.stat(path)
        except OSError:  # there is nothing to lose
            return
        if not stat.S_ISREG(info.st_mode) or not info.st_size:
            return
        root = self._checkpoint_of(path)
        if root is None:
            return
        path = os.path.realpath(path)
        if root == self._offered and not is_emptied:
            self.has_read_it()
        try:
            if root == path:
                self._keep_file(path, info, is_emptied=is_emptied)
            else:
                self._keep_folder(root)
                self._part(root, path, info, is_emptied=is_emptied)
        except OSError as error:
            self._warn_not_kept(root, error.strerror or str(error))

    @guarded(KEEPING)
    def before_replace(self, source: str, target: str) -> None:
        """Something is renamed in a moment, maybe over something else.

        A new file in the place of an old one is whole when it gets there. So it only matters for the one that was
        offered: training may have begun anew, whatever was read.
        """
        if self._offered is None:
            return
        offered, source, place = self._offered, _place(source), _place(target)
        if os.path.lexists(kept_names.before_save(source, self._run_id)):
            self._sources[place] = source
        self._read_control()
        if not self._is_unread:
            if offered == place and place not in self._steps and place not in self._reports:
                self._keep_until_reported(place)
            return
        if offered == source or offered.startswith(source + os.sep):
            self._offered = place + offered[len(source) :]
            self._report_kept(self._offered)
        elif os.path.islink(place) and os.path.realpath(place) == offered:
            self._report_kept(offered)  # only its other name is lost
        elif os.path.exists(place):
            self._before_replaced(place)

    def _keep_until_reported(self, place: str) -> None:
        kept = kept_names.before_save(place, self._run_id)
        if os.path.isfile(place) and not os.path.lexists(kept):
            try:
                _link(place, kept)
            except OSError as error:
                self._warn_not_kept(place, error.strerror or str(error))

    def _before_replaced(self, place: str) -> None:
        root = self._offered
        try:
            if root == place and os.path.isfile(place):
                kept = kept_names.before_session(place, self._run_id, self._session)
                if self._begin_anew(place) and not os.path.lexists(kept):
                    _link(place, kept)
                    self._report_kept(kept)
            elif root is not None and place.startswith(root + os.sep):
                self._keep_folder(root)
        except OSError as error:
            self._warn_not_kept(place, error.strerror or str(error))

    def _keep_file(self, path: str, info: os.stat_result, *, is_emptied: bool) -> None:
        is_lost = self._begin_anew(path)
        if is_lost:
            kept = kept_names.before_session(path, self._run_id, self._session)
        else:
            kept = kept_names.before_save(path, self._run_id)
        # what is kept already is whole; what lies here may be what a save that failed has left
        if os.path.lexists(kept) and (is_lost or not self._is_as_reported(path, info)):
            return
        if is_emptied:
            _check_room(path, info.st_size)
            if not _set_aside(path, kept, info, kept_names.draft(kept)):
                return
        else:
            _copy(path, kept, info, kept_names.draft(kept))
        if is_lost:
            self._report_kept(kept)

    def _keep_folder(self, root: str) -> None:
        """Link all files of a folder into another one, unless they are there since it was reported last."""
        is_lost = self._begin_anew(root)
        if is_lost:
            kept = kept_names.before_session(root, self._run_id, self._session)
        else:
            kept = kept_names.before_save(root, self._run_id)
        report = self._reports.get(root)
        if os.path.lexists(kept):
            if is_lost or report == self._reports_then.get(root):
                return
            _remove(kept)  # it was reported since
        self._reports_then[root] = report
        names = list(_files_below(root))
        draft = kept_names.draft(kept)
        try:
            for name in names:
                copy = os.path.join(draft, name)
                os.makedirs(os.path.dirname(copy), exist_ok=True)
                os.link(os.path.join(root, name), copy)
            os.rename(draft, kept)
        except OSError:
            _remove(draft)
            if not os.path.isdir(kept):
                raise
            return  # another process, which saves its share of the same checkpoint, was faster
        if is_lost:
            self._report_kept(kept)

    def _part(self, root: str, path: str, info: os.stat_result, *, is_emptied: bool) -> None:
        """Let a file of a folder be written to without a change to what is kept of it: the same file, so far."""
        before_session = kept_names.before_session(root, self._run_id, self._session)
        for kept in (kept_names.before_save(root, self._run_id), before_session):
            copy = kept + path[len(root) :]
            if os.path.exists(copy) and os.path.samefile(copy, path):
                _check_room(path, info.st_size)
                if is_emptied:
                    _put_empty(path, info, kept_names.draft(kept))
                else:
                    _copy(path, path, info, kept_names.draft(kept))
                return

    def _begin_anew(self, root: str) -> bool:
        """Whether this is the checkpoint that was offered, nobody has read it, and this is the first write over it."""
        if root != self._offered or not self._is_unread:
            return False
        self._is_unread = False  # what lies there from here on is another one
        return True

    # -- after

    @guarded(KEEPING)
    def reported(self, path: str, step: Optional[int]) -> None:
        """A checkpoint of this process is whole, is reported next, and takes the place of what was kept of it."""
        path = os.path.realpath(path)
        if _has_content(path):
            for place in {path, self._sources.pop(path, path)}:
                self._end_keeping(place, step)
        self._steps[path] = step

    def _end_keeping(self, path: str, step: Optional[int]) -> None:
        """What was saved in this place is whole, whatever it is called now."""
        kept = kept_names.before_save(path, self._run_id)
        if os.path.lexists(kept):
            is_offered = path == self._offered and path not in self._steps and path not in self._reports
            before = self._offered_step if is_offered else self._steps.get(path)
            is_known = before is not None and step is not None
            if (before is not None and step is not None and step < before) or (is_offered and not is_known):
                self._keep_on(path, kept, before)
            else:
                _remove(kept)

    def _keep_on(self, path: str, kept: str, step: Optional[int]) -> None:
        """The new one holds less, or may, than the one that is kept, which stays a checkpoint of the run."""
        for_good = kept_names.before_session(path, self._run_id, self._session)
        if os.path.lexists(for_good):
            _remove(kept)
        else:
            os.rename(kept, for_good)
            _report(path=for_good, step=step)

    # -- what is known

    def _checkpoint_of(self, path: str) -> Optional[str]:
        """The known checkpoint that this file is, or is a part of; a real path."""
        self._read_control()
        if not (self._steps or self._reports or self._offered):
            return None
        root = path = os.path.realpath(path)
        while root != os.path.dirname(root):
            if root in self._steps or root in self._reports or root == self._offered:
                is_around_us = (os.path.realpath(os.curdir) + os.sep).startswith(root + os.sep)
                return None if root != path and is_around_us else root
            root = os.path.dirname(root)
        return None

    def _is_as_reported(self, path: str, info: os.stat_result) -> bool:
        """Whether a file is, to the byte's time, what the supervisor saw when it was reported."""
        report = self._reports.get(path)
        return (
            report is not None
            and report[1] == info.st_size
            and abs(report[2] - info.st_mtime) < kept_names.CLOCK_TOLERANCE_S
        )

    def _read_control(self) -> None:
        """What other processes reported, and what the script printed; and whether somebody else has read it."""
        try:
            info = os.stat(self._control_path)
            mark = (info.st_ino, info.st_mtime_ns)
            if mark == self._control_mark:
                return
            with open(self._control_path, "rb") as file:
                data = file.read()
        except OSError:  # the record was removed under a run that goes on
            return
        self._control_mark = mark
        if b'"saved":{}' not in data or b'"checkpoint_was_read":true' in data:
            control = json.loads(data)
            self._reports = {os.path.realpath(path): report for path, report in control.get("saved", {}).items()}
            self._is_unread = self._is_unread and not control.get("checkpoint_was_read", False)

    # -- tell

    def _report_kept(self, path: str) -> None:
        step = "" if self._offered_step is None else f" (step {self._offered_step})"
        notify_user(
            f"the checkpoint to resume from was not read, and is saved over: the old one{step} is kept as {path}"
        )
        _report(path=path, step=self._offered_step, kept=True)

    def _warn_not_kept(self, path: str, why: str) -> None:
        if path not in self._warned:
            self._warned.add(path)
            notify_user(f"{path} is written over, and could not be kept: {why}")


def _report(**fields: Any) -> None:
    from ..link import current

    link = current()
    if link is not None:
        link.send_event_from_any_rank(event="checkpoint_saved", **fields)


# -- files


def _place(path: str) -> str:
    """The real path of a name, which may be a link itself."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _has_content(path: str) -> bool:
    return os.path.isdir(path) or (os.path.isfile(path) and os.path.getsize(path) > 0)


def _set_aside(path: str, kept: str, info: os.stat_result, draft: str) -> bool:
    """Give a file another name, and put an empty one in its place, which is never missing. Raises OSError.

    Gives False where another process was faster.
    """
    try:
        os.link(path, draft)
    except OSError:  # no hard links here
        os.replace(path, kept)
    else:
        try:
            if not os.path.samestat(os.stat(draft), info):
                return False
            os.replace(draft, kept)
        finally:
            _remove(draft)
    _put_empty(path, info, draft)
    return True


def _put_empty(path: str, info: os.stat_result, draft: str) -> None:
    """Replace a file by one with its permissions: who opens it to empty it expects them to stay. Raises OSError."""
    try:
        _remove(draft)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, stat.S_IMODE(info.st_mode))
        finally:
            os.close(descriptor)
        os.replace(draft, path)
    except OSError:  # what is written to it would be written to what is kept, too
        _remove(path)


def _link(path: str, kept: str) -> None:
    """Give a file a second name; where the file system knows no such thing, another one."""
    try:
        os.link(path, kept)
    except OSError:
        os.replace(path, kept)


def _copy(path: str, kept: str, info: os.stat_result, draft: str) -> None:
    """Make a copy; one that shares the file's blocks where the file system can. Raises OSError."""
    try:
        with open(path, "rb") as source, open(draft, "wb") as target:
            if not _share_blocks(source.fileno(), target.fileno()):
                _check_room(path, info.st_size, at_most_bytes=_MAX_COPIED_BYTES)
                shutil.copyfileobj(source, target, 1 << 20)
        os.chmod(draft, stat.S_IMODE(info.st_mode))
        os.utime(draft, ns=(info.st_atime_ns, info.st_mtime_ns))
        os.replace(draft, kept)
    except BaseException:
        if os.path.exists(draft):
            os.unlink(draft)
        raise


def _share_blocks(source: int, target: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _check_room(path: str, size_bytes: int, at_most_bytes: Optional[int] = None) -> None:
    """Raise OSError where a file of this size does not find room beside the one that is there, or is too large."""
    if at_most_bytes is not None and size_bytes > at_most_bytes:
        raise OSError(f"it is changed in place, and too large to be copied ({size_bytes} bytes)")
    room = os.statvfs(os.path.dirname(path))
    free_bytes = room.f_bavail * room.f_frsize
    if free_bytes < size_bytes:
        raise OSError(f"there is no room for both ({free_bytes} bytes free, {size_bytes} needed)")


def _files_below(folder: str) -> Iterator[str]:
    """The files in a folder, relative to it. Raises OSError for one that has too many to be a checkpoint."""
    count = 0
    for parent, _, names in os.walk(folder):
        count += len(names)
        if count > _MAX_FILES:
            raise OSError(f"there are more than {_MAX_FILES} files in it")
        for name in names:
            path = os.path.join(parent, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield os.path.relpath(path, folder)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):  # another process was faster
            os.unlink(path)
