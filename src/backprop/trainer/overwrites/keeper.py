"""Keeps a copy of a checkpoint that the script is about to overwrite, until the new one is complete.

Checkpoints are those that this session was offered or has reported (from here, or as lines on stdout: control.json
lists them), and files in a folder that is one. What happens to a copy:

    the new checkpoint is reported, and is not behind     it is removed
    it was the offered one, and the steps are not known   it stays: the script may have read only its best score
    the process is killed during the save                 the supervisor restores it (store/kept_checkpoints.py)
    the session never read it, and started over           it stays, as a checkpoint of the run

Before a file is truncated, or another is renamed over it, the copy is made by a hard link (an empty file then takes its
place, to be opened and truncated), or by a rename on file systems without hard links. Only files that are changed in
place are really copied.
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

_MAX_FILES = 1000  # a folder with more is not a checkpoint, but the output folder of a training
_MAX_COPIED_BYTES = 1 << 30  # about a second; no limit where the file system can share blocks
_FICLONE = 0x40049409  # linux/fs.h: share another file's blocks


class CheckpointKeeper:
    """Keeps the checkpoints that one process overwrites."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """environment: as the supervisor made it. Touches no file."""
        self._run_id = environment["BACKPROP_RUN_ID"]
        self._session = int(environment["BACKPROP_SESSION"])
        self._control_path = environment["BACKPROP_CONTROL"]
        offered, step = environment.get("BACKPROP_RESUME_FROM"), environment.get("BACKPROP_RESUME_STEP")
        self._offered = None if offered is None else os.path.realpath(offered)
        self._offered_step = None if step is None else int(step)
        self._is_unread = offered is not None
        self._steps: dict[str, Optional[int]] = {}  # that this process has reported, by real path
        self._reports: dict[str, Any] = {}  # of all processes, from control.json: [step, bytes, seconds]
        self._reports_then: dict[str, Any] = {}  # when a folder was copied
        self._control_mark: Optional[tuple[int, int]] = None
        self._sources: dict[str, str] = {}  # new path -> path that it was saved to, if a copy was kept there
        self._warned: set[str] = set()

    def has_read_it(self) -> None:
        """The checkpoint to resume from was opened: new checkpoints continue it."""
        self._is_unread = False

    # -- before a write

    @guarded(KEEPING)
    def before_write(self, path: str, *, is_emptied: bool = True) -> None:
        """Called before a file is written to. is_emptied: whether it is truncated, or changed in place."""
        try:
            info = os.stat(path)
        except OSError:  # it does not exist
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
        """Called before a file or folder is renamed, maybe over another.

        A file that is renamed over an old one is complete. So this only matters for the offered checkpoint: training
        may have started over, even if it was read.
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
            self._report_kept(offered)  # only the link is replaced
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
        # an existing copy is complete; the file may be what a failed save has left
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
        """Link all files of a folder into another one, unless that was done since its last report."""
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
            return  # another process that saves its part of the same checkpoint was faster
        if is_lost:
            self._report_kept(kept)

    def _part(self, root: str, path: str, info: os.stat_result, *, is_emptied: bool) -> None:
        """Separate a file in a folder from its copy, which is the same file so far, before it is written to."""
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
        """Whether this is the first write to the offered checkpoint, and it was never read."""
        if root != self._offered or not self._is_unread:
            return False
        self._is_unread = False  # from now on there is another checkpoint at this path
        return True

    # -- after a write

    @guarded(KEEPING)
    def reported(self, path: str, step: Optional[int]) -> None:
        """Called when a checkpoint is complete, before it is reported: its copy is no longer needed."""
        path = os.path.realpath(path)
        if _has_content(path):
            for place in {path, self._sources.pop(path, path)}:
                self._end_keeping(place, step)
        self._steps[path] = step

    def _end_keeping(self, path: str, step: Optional[int]) -> None:
        """Remove the copy kept for this path, or keep it for good."""
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
        """Keep a copy for good, as a checkpoint of the run: the new one is, or may be, behind it."""
        for_good = kept_names.before_session(path, self._run_id, self._session)
        if os.path.lexists(for_good):
            _remove(kept)
        else:
            os.rename(kept, for_good)
            _report(path=for_good, step=step)

    # -- known checkpoints

    def _checkpoint_of(self, path: str) -> Optional[str]:
        """The real path of the known checkpoint that this file is, or is in; None if there is none."""
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
        """Whether a file has the size and modification time that the supervisor saw when it was reported."""
        report = self._reports.get(path)
        return (
            report is not None
            and report[1] == info.st_size
            and abs(report[2] - info.st_mtime) < kept_names.CLOCK_TOLERANCE_S
        )

    def _read_control(self) -> None:
        """Read what other processes and the script's output reported, and whether the offered checkpoint was read."""
        try:
            info = os.stat(self._control_path)
            mark = (info.st_ino, info.st_mtime_ns)
            if mark == self._control_mark:
                return
            with open(self._control_path, "rb") as file:
                data = file.read()
        except OSError:  # the record was removed while its run is running
            return
        self._control_mark = mark
        if b'"saved":{}' not in data or b'"checkpoint_was_read":true' in data:
            control = json.loads(data)
            self._reports = {os.path.realpath(path): report for path, report in control.get("saved", {}).items()}
            self._is_unread = self._is_unread and not control.get("checkpoint_was_read", False)

    # -- messages

    def _report_kept(self, path: str) -> None:
        step = "" if self._offered_step is None else f" (step {self._offered_step})"
        notify_user(
            f"the checkpoint to resume from was not read, and is overwritten: the old one{step} is kept as {path}"
        )
        _report(path=path, step=self._offered_step, kept=True)

    def _warn_not_kept(self, path: str, why: str) -> None:
        if path not in self._warned:
            self._warned.add(path)
            notify_user(f"{path} is overwritten, and could not be kept: {why}")


def _report(**fields: Any) -> None:
    from ..link import current

    link = current()
    if link is not None:
        link.send_event_from_any_rank(event="checkpoint_saved", **fields)


# -- files


def _place(path: str) -> str:
    """The real path of a name, which may itself be a symbolic link."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _has_content(path: str) -> bool:
    return os.path.isdir(path) or (os.path.isfile(path) and os.path.getsize(path) > 0)


def _set_aside(path: str, kept: str, info: os.stat_result, draft: str) -> bool:
    """Rename a file to `kept`, and put an empty one in its place at once. Raises OSError.

    Returns False if another process was faster.
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
    """Replace a file by an empty one with the same permissions, which truncating would not change. Raises OSError."""
    try:
        _remove(draft)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, stat.S_IMODE(info.st_mode))
        finally:
            os.close(descriptor)
        os.replace(draft, path)
    except OSError:  # the script must not write to the file that is kept
        _remove(path)


def _link(path: str, kept: str) -> None:
    """Hard-link a file; rename it on file systems without hard links. Raises OSError."""
    try:
        os.link(path, kept)
    except OSError:
        os.replace(path, kept)


def _copy(path: str, kept: str, info: os.stat_result, draft: str) -> None:
    """Copy a file, sharing its blocks if the file system can. Raises OSError."""
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
    """Raise OSError if there is no space for another file of this size, or it is too large to be copied."""
    if at_most_bytes is not None and size_bytes > at_most_bytes:
        raise OSError(f"it is changed in place, and too large to copy ({size_bytes} bytes)")
    room = os.statvfs(os.path.dirname(path))
    free_bytes = room.f_bavail * room.f_frsize
    if free_bytes < size_bytes:
        raise OSError(f"not enough disk space for both ({free_bytes} bytes free, {size_bytes} needed)")


def _files_below(folder: str) -> Iterator[str]:
    """The files in a folder, relative to it. Raises OSError for one with too many to be a checkpoint."""
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
