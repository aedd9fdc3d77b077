"""The user's own modules: which of them this process executes, and where they come from.

Each that lies in the folder of the script ($BACKPROP_CODE), or below it, is written down with its checksum as it was
when it was imported (`session-N.modules`, as `sha256sum` writes it). Of a run with a snapshot, $BACKPROP_SNAPSHOT_OF is
the work tree that was kept: what would be imported from there comes from the snapshot, whoever put which folder on the
path; so does the script that this process was started for.

Loaded by `imports` where the first of them is imported, or where there is a snapshot.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Callable

SNAPSHOT = "snapshot"  # the folder in the run's own
_MAX_BYTES = 1_000_000  # of the list: workers that are started for ever write the same again and again


def take_from_snapshot(root: str) -> Callable[[Any], Any]:
    """Take the place of the interpreter if its script was kept; else give what turns a found module into a kept one.

    root: of the work tree.
    """
    snapshot = _Snapshot(root, os.path.join(os.environ["BACKPROP_RUN_DIR"], SNAPSHOT))
    _execute_kept(snapshot)
    return snapshot.redirected


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

    def redirected(self, spec: Any) -> Any:
        """The kept module for what was found; that itself where it was not kept."""
        kept = self.kept(spec.origin) if spec.has_location else None
        if kept is None:
            return spec
        external = sys.modules["_frozen_importlib_external"]
        folders = None if spec.submodule_search_locations is None else [os.path.dirname(kept)]
        return external.spec_from_file_location(spec.name, kept, submodule_search_locations=folders)


def _execute_kept(snapshot: _Snapshot) -> None:
    """Start anew with the kept script, where this process was started for one that has been kept."""
    words = list(getattr(sys, "orig_argv", ()))  # Python 3.10
    name = sys.argv[0] if hasattr(sys, "argv") and sys.argv else ""
    kept = snapshot.kept(name) if name.endswith(".py") else None
    if kept is None or name not in words[1:]:
        return
    words[words.index(name, 1)] = kept
    os.execv(sys.executable, words)  # noqa: S606


def record(path: str) -> None:
    """Write down a module that is imported in a moment."""
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
