"""The user's own modules: which of them this process imports, and where they come from.

Each module in or below the script's folder ($BACKPROP_CODE) is recorded with the checksum that it had when it was
imported (`session-N.modules`, in the format of `sha256sum`). In a run with a snapshot, $BACKPROP_SNAPSHOT_OF is the
work tree that was copied: modules from there, and the script itself, are taken from the snapshot instead, whatever the
search path is.

Loaded by import_hooks.py when the first of them is imported, or when there is a snapshot.
"""

from __future__ import annotations

import os
import sys

from .plain_files import open_plain

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Callable

SNAPSHOT = "snapshot"  # the folder in the run's own
_MAX_BYTES = 1_000_000  # of the list: each worker that is started writes the same lines again


def take_from_snapshot(root: str) -> Callable[[Any], Any]:
    """Restart the interpreter if its script is in the snapshot; otherwise return a function from spec to spec.

    That function replaces a module found in the work tree with the one in the snapshot. root: of the work tree.
    """
    snapshot = _Snapshot(root, os.path.join(os.environ["BACKPROP_RUN_DIR"], SNAPSHOT))
    _execute_kept(snapshot)
    return snapshot.redirected


class _Snapshot:
    """A work tree, and the folder of its snapshot."""

    def __init__(self, root: str, place: str) -> None:
        self._root = os.path.join(os.path.realpath(root), "")
        self._may_begin = (self._root, os.path.join(root, ""))  # a quick check before resolving links
        self._place = os.path.join(os.path.realpath(place), "")

    def kept(self, path: str) -> str | None:
        """The file in the snapshot for a path; None for a file that is not in it."""
        if os.path.isabs(path) and not path.startswith(self._may_begin):
            return None
        real = os.path.realpath(path)
        if real.startswith(self._place) or not real.startswith(self._root):
            return None
        kept = self._place + real[len(self._root) :]
        # what was not copied is a symbolic link there
        return kept if os.path.isfile(kept) and os.path.realpath(kept) == kept else None

    def redirected(self, spec: Any) -> Any:
        """The spec of the module in the snapshot; the same spec if it is not in it."""
        kept = self.kept(spec.origin) if spec.has_location else None
        if kept is None:
            return spec
        external = sys.modules["_frozen_importlib_external"]
        folders = None if spec.submodule_search_locations is None else [os.path.dirname(kept)]
        return external.spec_from_file_location(spec.name, kept, submodule_search_locations=folders)


def _execute_kept(snapshot: _Snapshot) -> None:
    """Restart with the script in the snapshot, if this process was started for a script that is in it."""
    words = list(getattr(sys, "orig_argv", ()))  # Python 3.10
    name = sys.argv[0] if hasattr(sys, "argv") and sys.argv else ""
    kept = snapshot.kept(name) if name.endswith(".py") else None
    if kept is None or name not in words[1:]:
        return
    words[words.index(name, 1)] = kept
    os.execv(sys.executable, words)  # noqa: S606


def record(path: str) -> None:
    """Record a module that is about to be imported. Raises OSError."""
    with open(path, "rb") as file:
        line = f"{_sha256()(file.read()).hexdigest()}  {path}\n"
    place = os.path.join(os.environ["BACKPROP_RUN_DIR"], f"session-{os.environ['BACKPROP_SESSION']}.modules")
    fd = open_plain(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        if os.fstat(fd).st_size < _MAX_BYTES:
            os.write(fd, line.encode(errors="surrogateescape"))
    finally:
        os.close(fd)


def _sha256() -> Any:
    """Python's own implementation: importing hashlib takes milliseconds because of OpenSSL."""
    for name in ("_sha2", "_sha256"):
        try:
            return __import__(name).sha256
        except ImportError:
            continue
    return __import__("hashlib").sha256
