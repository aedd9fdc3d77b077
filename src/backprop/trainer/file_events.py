"""Notifies subscribers of the files that this process opens, closes and renames.

Callbacks get absolute paths, run in the thread that opens or renames, and must be quick. What they open or rename
themselves is not an event. Observed are `open` (of builtins and io; pathlib, zipfile, gzip and NumPy use these),
`os.rename` and `os.replace`. Not observed are `os.open`, C, C++ and Rust code that opens files itself
(`torch.save(PATH)`, safetensors, HDF5), and child processes other than Python.

An audit hook would do the same, but cannot be removed, and makes `id()` five times and `copy.deepcopy` half as slow
again; this costs only calls that open a file. `install` runs when an interpreter starts, and imports nothing new.
"""

from __future__ import annotations

import io
import os
import sys
from _thread import get_ident

from .failsafe import guarded

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

    Wants = Callable[[str], bool]
    _FileVersion = tuple[int, int, int]
    # see on_first_read: path, version of a file (None for a copy that is being made), whether it is a folder, callbacks
    _AwaitedRead = tuple[str, Optional[_FileVersion], bool, Callable[[], None], Optional[Callable[[str], None]]]

_HOOK = "writes of files"

_before_open: list[Callable[[str, str], None]] = []
_before_read: list[_AwaitedRead] = []
_after_close: list[tuple[Callable[[str], None], Wants]] = []
_before_replace: list[Callable[[str, str], None]] = []
_after_replace: list[Callable[[str, str], None]] = []
_on_report: list[Callable[[str, Optional[int]], None]] = []
_busy: set[int] = set()  # threads that are inside a callback
_open_files: dict[Any, Any] = {}  # weak reference -> callbacks, path
_is_over = False


def install() -> None:
    """Start to observe; does nothing when called again."""
    if is_installed():
        return
    opening = _PatchedOpen(io.open)
    for module in (io, sys.modules["_io"], sys.modules["builtins"]):
        module.open = opening  # type: ignore[attr-defined]
    rename, replace = _PatchedRename(os.rename), _PatchedRename(os.replace)
    for module in (os, sys.modules[os.name]):
        module.rename, module.replace = rename, replace  # type: ignore[attr-defined]
    for able in (os.supports_dir_fd, os.supports_follow_symlinks):
        able.update(each for each in (rename, replace) if each.__wrapped__ in able)


def is_installed() -> bool:
    """Whether files are observed in this process."""
    function: Any = io.open
    return isinstance(function, _PatchedFunction)


def has_content(path: str) -> bool:
    """Whether there is a file that is not empty."""
    try:
        return os.stat(path).st_size > 0
    except OSError:  # it is not there
        return False


def on_open_for_writing(callback: Callable[[str, str], None], what: str = _HOOK) -> None:
    """Call this with the path and mode of each file right before it is opened for writing, and possibly truncated.

    Opening may still fail. An exception in the callback turns off the part named `what`; the script never sees it.
    """
    _before_open.append(guarded(what)(callback))


def on_first_read(
    path: str, callback: Callable[[], None], what: str = _HOOK, on_copy: Callable[[str], None] | None = None
) -> None:
    """Call this once, right before a file, or the first file in a folder, is opened for reading.

    path: a real path. The file may have been renamed since, but not written again. Not noticed are C code that opens
    it, and symbolic links into the folder. That shutil copies it is no read, but a read of that copy is one. on_copy:
    called with the real path of the copy.
    """
    is_folder = os.path.isdir(path)
    version = None if is_folder else _version_of(path)
    _before_read.append((path, version, is_folder, guarded(what)(callback), on_copy and guarded(what)(on_copy)))


@guarded(_HOOK)
def was_opened_for_reading(file: Any) -> None:
    """To be called when code opens a file for reading by itself. file: an open file or a path."""
    _notify_of_read(getattr(file, "name", None) if hasattr(file, "read") else file)


def on_close_after_writing(callback: Callable[[str], None], wants: Wants, what: str = _HOOK) -> None:
    """Call this with the path of each file that was opened for writing, when it is closed.

    wants: called with the path when the file is opened; returns whether to observe it.
    """
    _after_close.append((guarded(what)(callback), guarded(what, otherwise=False)(wants)))


def on_replace(callback: Callable[[str, str], None], what: str = _HOOK) -> None:
    """Call this with source and target right before `os.rename` or `os.replace` of a file or a folder."""
    _before_replace.append(guarded(what)(callback))


def on_replaced(callback: Callable[[str, str], None], what: str = _HOOK) -> None:
    """The same, right after it succeeded."""
    _after_replace.append(guarded(what)(callback))


def on_checkpoint_reported(callback: Callable[[str, Optional[int]], None], what: str = _HOOK) -> None:
    """Call this with path and step of each checkpoint that is complete, right before it is reported."""
    _on_report.append(guarded(what)(callback))


def checkpoint_is_reported(path: str, step: Optional[int]) -> None:
    """To be called when a checkpoint is complete, before it is reported. What callbacks open is not an event."""

    def call() -> None:
        for callback in _on_report:
            callback(path, step)

    unnoticed(call)


def unnoticed(function: Callable[[], None]) -> None:
    """Call a function of ours; what it opens or renames is not an event."""
    thread = get_ident()
    if thread in _busy:
        function()
        return
    _busy.add(thread)
    try:
        function()
    finally:
        _busy.discard(thread)


class _PatchedFunction:
    """Replaces a built-in function. Like that one, it does not become a method when it is a class's attribute."""

    def __init__(self, function: Any) -> None:
        self.__wrapped__ = function
        for name in ("__module__", "__name__", "__qualname__", "__doc__", "__text_signature__"):
            setattr(self, name, getattr(function, name))

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    def __reduce__(self) -> str:  # pickled by its name
        return str(self.__name__)  # type: ignore[attr-defined]


class _PatchedOpen(_PatchedFunction):
    def __call__(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "r" or mode == "rb" or not _is_writing(mode):  # noqa: PLR1714  the fastest there is
            if _before_read:
                _notify_of_read(file)
            return self.__wrapped__(file, mode, *args, **kwargs)
        path = _absolute(file)
        if path is not None and "opener" in kwargs and os.path.isdir(path):  # tempfile: the file has no name yet
            path = None
        if path is not None:
            _notify(_before_open, path, mode)
        opened = self.__wrapped__(file, mode, *args, **kwargs)
        if path is not None and _after_close:
            _watch_close(opened, path)
        return opened


class _PatchedRename(_PatchedFunction):
    def __call__(self, src: Any, dst: Any, **kwargs: Any) -> Any:
        # with dir_fd, paths are relative to another folder
        source, target = (None, None) if kwargs else (_absolute(src), _absolute(dst))
        is_known = source is not None and target is not None
        if is_known:
            _notify(_before_replace, source, target)
        result = self.__wrapped__(src, dst, **kwargs)
        if is_known:
            _notify(_after_replace, source, target)
        return result


def _is_writing(mode: Any) -> bool:
    return isinstance(mode, str) and not {"w", "a", "x", "+"}.isdisjoint(mode)


def _absolute(place: Any) -> str | None:
    try:
        return os.path.abspath(os.fsdecode(place))
    except (TypeError, ValueError, OSError):  # a descriptor, no name at all, a working directory that is gone
        return None


@guarded(_HOOK)
def _notify_of_read(file: Any) -> None:
    place = file if file.__class__ is str else _absolute(file)
    if place is None or get_ident() in _busy:  # we look into it ourselves
        return
    for awaited in tuple(_before_read):
        path, mark, is_folder, callback, on_copy = awaited
        if is_folder:
            # before anything that costs more
            is_read = os.path.basename(path) in place and os.path.realpath(place).startswith(path + os.sep)
        elif mark is None:
            is_read = os.path.basename(path) in place and os.path.realpath(place) == path
        else:
            is_read = _version_of(place) == mark
        if is_read:
            _before_read.remove(awaited)
            target = _copied_to(os.path.realpath(place)[len(path) :] if is_folder else "")
            if target is None:
                callback()
                continue
            _before_read.append((target, None, is_folder, callback, on_copy))
            if on_copy is not None:
                on_copy(target)


def _copied_to(below: str) -> str | None:
    """Where shutil is about to copy what it opens; None if something else opens it. below: its path below a folder."""
    frame = sys._getframe()  # noqa: SLF001  as `inspect` does, which takes long to import
    while frame is not None and frame.f_globals.get("__package__") == __package__:
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None or frame.f_code.co_name != "copyfile" or frame.f_globals.get("__name__") != "shutil":
        return None
    target = os.path.realpath(os.fsdecode(frame.f_locals["dst"]))
    return target[: -len(below)] if below and target.endswith(below) else target


def _version_of(path: str) -> _FileVersion | None:
    """What stays the same of a file, by whatever name, until it is written to."""
    try:
        info = os.stat(path)
    except OSError:  # not there
        return None
    return info.st_dev, info.st_ino, info.st_mtime_ns


def _notify(callbacks: list[Any], *paths: Any) -> None:
    thread = get_ident()
    if not callbacks or thread in _busy:
        return
    _busy.add(thread)
    try:
        for callback in callbacks:
            callback(*paths)
    finally:
        _busy.discard(thread)


def _watch_close(file: Any, path: str) -> None:
    """Notify when the file is closed: `with` and the garbage collector call the `close` of the object."""
    callbacks = [callback for callback, wants in _after_close if wants(path)]
    if not callbacks or get_ident() in _busy or _is_over:
        return
    import atexit  # like weakref, built in or imported by Python itself
    from weakref import ref

    atexit.unregister(_close_all)  # registered again, it runs once, and before what was registered earlier
    atexit.register(_close_all)
    close, attributes = type(file).close, file.__dict__

    def close_and_notify() -> None:
        owner = reference()
        if owner is None:  # `open(...).close()`: the object is gone, and closed, when its method is called
            return
        was_open = not owner.closed
        if was_open and getattr(owner, "_finalizing", False):
            _warn_of_unclosed(owner)
        close(owner)
        if was_open:
            _notify(callbacks, path)

    def forget(reference: Any) -> None:
        # in a reference cycle, weak references die before the file is closed, and closing needs the file
        _open_files.pop(reference, None)
        attributes.pop("close", None)

    reference = ref(file, forget)
    _open_files[reference] = (callbacks, path)
    file.close = close_and_notify


def _warn_of_unclosed(file: Any) -> None:
    """Warn as Python does of a file that was not closed; its own warning would name our line."""
    import warnings

    file._finalizing = False  # noqa: SLF001  so that it does not warn
    try:
        warnings.warn(f"unclosed file {file!r}", ResourceWarning, stacklevel=3, source=file)
    except Exception as error:  # noqa: BLE001  the script turns warnings into errors, and this one cannot be raised here
        _UnraisableError(error)


class _UnraisableError:
    """Makes the interpreter print that an exception was ignored, as it does for errors in destructors."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __del__(self) -> None:
        raise self._error


def _close_all() -> None:
    """The interpreter exits: files still open will be closed when modules and weak references are gone."""
    global _is_over  # noqa: PLW0603
    _is_over = True
    for reference, (callbacks, path) in tuple(_open_files.items()):
        file = reference()
        if file is None or file.closed:
            continue
        vars(file).pop("close", None)
        try:
            file.flush()
        except Exception:  # noqa: BLE001, S112  reported when Python closes it, as without us
            continue
        _notify(callbacks, path)
