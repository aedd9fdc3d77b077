"""The user's own modules: which of them this process executes, and where they come from.

Each that lies in the folder of the script ($BACKPROP_CODE), or below it, is written down with its checksum as it was
when it was imported (`session-N.modules`, as `sha256sum` writes it). Of a run with a snapshot, $BACKPROP_SNAPSHOT_OF is
the work tree that was kept: what would be imported from there comes from the snapshot, whoever put which folder on the
path; so does the script that this process was started for.

`install` runs at the start of every interpreter, and imports nothing new.
"""

from __future__ import annotations

import os
import sys

from .failsafe import guarded

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any

SNAPSHOT = "snapshot"  # the folder in the run's own
_HOOK = "the record of modules"
_MAX_BYTES = 1_000_000  # of the list: workers that are started for ever write the same again and again


def install() -> None:
    """Take the place of the interpreter if its script was kept; then see what is imported. Once in a process."""
    if root := os.environ.get("BACKPROP_SNAPSHOT_OF"):
        snapshot = _Snapshot(root, os.path.join(os.environ["BACKPROP_RUN_DIR"], SNAPSHOT))
        _execute_kept(snapshot)
        sys.meta_path.insert(0, _Redirecting(snapshot))
    if folder := os.environ.get("BACKPROP_CODE"):
        _record_in(folder)


class _Snapshot:
    """A work tree, and where it was kept."""

    def __init__(self, root: str, place: str) -> None:
        self._root = os.path.join(os.path.realpath(root), "")
        self._may_begin = (self._root, os.path.join(root, ""))  # before what costs more
        self._place = os.path.join(os.path.realpath(place), "")

    def kept(self, path: str) -> str | None:
        """The kept file for a path; None for one that was not kept, or lies elsewhere."""
        if os.path.isabs(path) and not path.startswith(self._may_begin):
            return None
        real = os.path.realpath(path)
        if real.startswith(self._place) or not real.startswith(self._root):
            return None
        kept = self._place + real[len(self._root) :]
        # what was not kept is there as a link
        return kept if os.path.isfile(kept) and os.path.realpath(kept) == kept else None


def _execute_kept(snapshot: _Snapshot) -> None:
    """Start anew with the kept script, where this process was started for one that has been kept."""
    words = list(getattr(sys, "orig_argv", ()))  # Python 3.10
    name = sys.argv[0] if hasattr(sys, "argv") and sys.argv else ""
    kept = snapshot.kept(name) if name.endswith(".py") else None
    if kept is None or name not in words[1:]:
        return
    words[words.index(name, 1)] = kept
    os.execv(sys.executable, words)  # noqa: S606


class FirstFinder:
    """In front of all finders: finds nothing itself, but sees what others find."""

    def __init__(self) -> None:
        self._busy: set[str] = set()

    def found_by_others(self, name: str, path: Any, target: Any) -> Any:
        """What the other finders find; None where that is nothing, or is being asked already."""
        if name in self._busy:
            return None
        self._busy.add(name)
        finders: list[Any] = sys.meta_path
        try:
            for finder in finders:
                find = getattr(finder, "find_spec", None)
                spec = None if finder is self or find is None else find(name, path, target)
                if spec is not None:
                    return spec
        finally:
            self._busy.discard(name)
        return None


class _Redirecting(FirstFinder):
    """What is found in the work tree is taken from its snapshot."""

    def __init__(self, snapshot: _Snapshot) -> None:
        super().__init__()
        self._snapshot = snapshot

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        spec = self.found_by_others(name, path, target)
        return None if spec is None else self._redirected(spec)

    def _redirected(self, spec: Any) -> Any:
        kept = self._snapshot.kept(spec.origin) if spec.has_location else None
        if kept is None:
            return spec
        external = sys.modules["_frozen_importlib_external"]
        folders = None if spec.submodule_search_locations is None else [os.path.dirname(kept)]
        return external.spec_from_file_location(spec.name, kept, submodule_search_locations=folders)


def _record_in(folder: str) -> None:
    loader: Any = sys.modules["_frozen_importlib_external"].SourceFileLoader
    get_code = loader.get_code
    begin = os.path.join(folder, "")

    # not `exec_module`: while a module is executed nothing of ours is on the stack, nor in its tracebacks
    def record_and_get_code(self: Any, name: str) -> Any:
        path = self.path
        if path.startswith(begin) and f"{os.sep}site-packages{os.sep}" not in path:
            _record(path)
        return get_code(self, name)

    loader.get_code = record_and_get_code


@guarded(_HOOK)
def _record(path: str) -> None:
    with open(path, "rb") as file:
        line = f"{_sha256()(file.read()).hexdigest()}  {path}\n"
    place = os.path.join(os.environ["BACKPROP_RUN_DIR"], f"session-{os.environ['BACKPROP_SESSION']}.modules")
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(place, flags, 0o600)
    try:
        if os.fstat(fd).st_size < _MAX_BYTES:
            os.write(fd, line.encode(errors="surrogateescape"))
    finally:
        os.close(fd)


def _sha256() -> Any:
    """Python's own: hashlib takes milliseconds to import, for OpenSSL's sake."""
    for name in ("_sha2", "_sha256"):
        try:
            return __import__(name).sha256
        except ImportError:
            continue
    return __import__("hashlib").sha256
