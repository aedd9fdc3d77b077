"""Which files this process writes and renames: before Python does it, and when it is done.

Subscribers are called with absolute paths, in the thread that does it, and must be quick. What they open or rename
themselves is not an event. Seen is what goes through `open` (of builtins and io; pathlib, zipfile, gzip and NumPy use
these), `os.rename` and `os.replace`. Not seen are writes by C, C++ or Rust code that opens its files itself
(`torch.save(PATH)`, safetensors, HDF5), by `os.open`, and by child processes that are not Python.

Why no audit hook: it cannot be removed, and makes each `id()` five times as slow, `copy.deepcopy` by half; this costs
only those that open a file. `install` runs at the start of every interpreter, and imports nothing new.
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

_HOOK = "writes of files"

_before_open: list[Callable[[str, str], None]] = []
_before_read: list[tuple[str, _FileVersion | None, bool, Callable[[], None]]] = []  # see on_first_read
_after_close: list[tuple[Callable[[str], None], Wants]] = []
_before_replace: list[Callable[[str, str], None]] = []
_after_replace: list[Callable[[str, str], None]] = []
_on_report: list[Callable[[str, Optional[int]], None]] = []
_busy: set[int] = set()  # threads that are in a subscriber
_open_files: dict[Any, Any] = {}  # weak reference to one that is watched -> who is to be notified, and its path
_is_over = False


def install() -> None:
    """Begin to look; once in a process."""
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
    """Whether files are looked at in this process."""
    function: Any = io.open
    return isinstance(function, _PatchedFunction)


def has_content(path: str) -> bool:
    """Whether there is something to lose in this place."""
    try:
        return os.stat(path).st_size > 0
    except OSError:  # it is not there
        return False


def on_open_for_writing(callback: Callable[[str], None], what: str = _HOOK) -> None:
    """Have this called with the path of each file right before it is opened for writing, and maybe emptied.

    Whether that succeeds is not known yet. An exception of the callback turns off `what`; the script never sees it.
    """
    on_mode_of_writing(lambda path, _: callback(path), what)


def on_mode_of_writing(callback: Callable[[str, str], None], what: str = _HOOK) -> None:
    """The same, with the mode that `open` got."""
    _before_open.append(guarded(what)(callback))


def on_first_read(path: str, callback: Callable[[], None], what: str = _HOOK) -> None:
    """Have this called once, right before a file is opened for reading, or one in it if it is a folder.

    path: a real one. What it is called then does not matter; a file that was written anew since is another one. Not
    noticed: what C code opens, and what is below a link into a folder.
    """
    is_folder = os.path.isdir(path)
    _before_read.append((path, None if is_folder else _version_of(path), is_folder, guarded(what)(callback)))


@guarded(_HOOK)
def was_opened_for_reading(file: Any) -> None:
    """A file, or one by its path, is read by code that opens it itself."""
    _notify_of_read(getattr(file, "name", None) if hasattr(file, "read") else file)


def on_close_after_writing(callback: Callable[[str], None], wants: Wants, what: str = _HOOK) -> None:
    """Have this called with the path of each file that was opened for writing, when it is closed.

    wants: called when it is opened; only those that it gives True for are watched.
    """
    _after_close.append((guarded(what)(callback), guarded(what, otherwise=False)(wants)))


def on_replace(callback: Callable[[str, str], None], what: str = _HOOK) -> None:
    """Have this called with source and target right before `os.rename` or `os.replace` of a file or a folder."""
    _before_replace.append(guarded(what)(callback))


def on_replaced(callback: Callable[[str, str], None], what: str = _HOOK) -> None:
    """The same right after that succeeded."""
    _after_replace.append(guarded(what)(callback))


def on_checkpoint_reported(callback: Callable[[str, Optional[int]], None], what: str = _HOOK) -> None:
    """Have this called with path and step of each checkpoint that is whole, right before it is reported."""
    _on_report.append(guarded(what)(callback))


def checkpoint_is_reported(path: str, step: Optional[int]) -> None:
    """A checkpoint is whole, and reported next. What is done about that is no event."""

    def call() -> None:
        for callback in _on_report:
            callback(path, step)

    unnoticed(call)


def unnoticed(function: Callable[[], None]) -> None:
    """Call this; what it opens or renames is ours, and no event."""
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
    """Stands for a function of Python's own. Like that, it does not become a method where a class has it."""

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
        if path is not None and "opener" in kwargs and os.path.isdir(path):  # a temporary file, which has no name yet
            path = None
        if path is not None:
            _notify(_before_open, path, mode)
        opened = self.__wrapped__(file, mode, *args, **kwargs)
        if path is not None and _after_close:
            _watch_close(opened, path)
        return opened


class _PatchedRename(_PatchedFunction):
    def __call__(self, src: Any, dst: Any, **kwargs: Any) -> Any:
        # relative to some other folder: nobody of ours finds it there
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
    if place is None:
        return
    for awaited in tuple(_before_read):
        path, mark, is_folder, callback = awaited
        if is_folder:
            # before anything that costs more
            is_read = os.path.basename(path) in place and os.path.realpath(place).startswith(path + os.sep)
        else:
            is_read = mark is not None and _version_of(place) == mark
        if is_read:
            _before_read.remove(awaited)
            callback()


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
    """Notify when it is closed: `with`, and its end without that, call the `close` that the file itself has."""
    callbacks = [callback for callback, wants in _after_close if wants(path)]
    if not callbacks or get_ident() in _busy or _is_over:
        return
    import atexit  # like weakref, built in or imported by Python itself
    from weakref import ref

    atexit.unregister(_close_all)  # so that it is there once, and runs before those that were there earlier
    atexit.register(_close_all)
    close, attributes = type(file).close, file.__dict__

    def close_and_notify() -> None:
        owner = reference()
        if owner is None:  # `open(...).close()`: it has ended, and was closed, between that word and the brackets
            return
        was_open = not owner.closed
        if was_open and getattr(owner, "_finalizing", False):
            _warn_of_unclosed(owner)
        close(owner)
        if was_open:
            _notify(callbacks, path)

    def forget(reference: Any) -> None:
        # garbage of a cycle: its weak references end before it is closed, and closing needs the file
        _open_files.pop(reference, None)
        attributes.pop("close", None)

    reference = ref(file, forget)
    _open_files[reference] = (callbacks, path)
    file.close = close_and_notify


def _warn_of_unclosed(file: Any) -> None:
    """As Python does of a file that nobody closed; its own warning would name the line of ours that closes it."""
    import warnings

    file._finalizing = False  # noqa: SLF001  so that it does not warn
    try:
        warnings.warn(f"unclosed file {file!r}", ResourceWarning, stacklevel=3, source=file)
    except Exception as error:  # noqa: BLE001  the script wants them to be errors, and this one can go nowhere
        _UnraisableError(error)


class _UnraisableError:
    """Has the interpreter say that this exception was ignored."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __del__(self) -> None:
        raise self._error


def _close_all() -> None:
    """The interpreter ends: what is still open is closed when modules and weak references are no more."""
    global _is_over  # noqa: PLW0603
    _is_over = True
    for reference, (callbacks, path) in tuple(_open_files.items()):
        file = reference()
        if file is None or file.closed:
            continue
        vars(file).pop("close", None)
        try:
            file.flush()
        except Exception:  # noqa: BLE001, S112  its end will tell, as it does without us
            continue
        _notify(callbacks, path)
