"""CatBoost: the snapshots that it saves with `save_snapshot=True` are reported. It continues from them by itself."""

from __future__ import annotations

import functools
import os
import threading
from contextlib import suppress
from typing import Any, Optional

from ...failsafe import guarded
from ...link import SupervisorLink, current
from ..saved_files import native_files
from ..saved_files.script_files import is_trainer

_HOOK = "CatBoost"
_POLL_INTERVAL_S = 0.5  # snapshots are written by C++ code without a callback, every second at most


def hook(core: Any) -> None:
    """Hook the module catboost.core."""
    link = current()
    if link is None:
        return
    original = core._CatBoostBase._train  # noqa: SLF001  called by all kinds of training

    @functools.wraps(original)
    def train(self: Any, train_pool: Any, test_pool: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        path = _snapshot(link, params)
        if path is None:
            return original(self, train_pool, test_pool, params, *args, **kwargs)
        poller = _SnapshotPoller(link, path)
        try:
            return original(self, train_pool, test_pool, params, *args, **kwargs)
        finally:
            poller.end()

    core._CatBoostBase._train = train  # noqa: SLF001
    native_files.hook(core)


@guarded(_HOOK)
def _snapshot(link: SupervisorLink, params: Any) -> Optional[str]:
    """Path of the snapshots of this training; None if it saves none, or this process does not report."""
    if not params.get("save_snapshot") or link.owner is not None or not is_trainer():
        return None
    folder = os.fspath(params.get("train_dir") or "catboost_info")
    return os.path.abspath(os.path.join(folder, os.fspath(params.get("snapshot_file") or "experiment.cbsnapshot")))


class _SnapshotPoller:
    """Reports each new snapshot, which CatBoost renames when it is complete."""

    def __init__(self, link: SupervisorLink, path: str) -> None:
        self._link = link
        self._path = path
        self._seen = self._mark()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backprop-catboost", daemon=True)
        with suppress(RuntimeError):  # too many threads for `ulimit -u`: then only the last snapshot is reported
            self._thread.start()

    def end(self) -> None:
        """The training has ended or failed."""
        self._is_over.set()
        if self._thread.ident is not None:  # it was started
            self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._is_over.wait(_POLL_INTERVAL_S):
            self._look()

    @guarded(_HOOK)
    def _look(self) -> None:
        mark = self._mark()
        if mark is not None and mark != self._seen:
            self._seen = mark
            self._link.report_checkpoint(self._path, None)

    def _mark(self) -> Optional[tuple[int, int]]:
        try:
            info = os.stat(self._path)
        except OSError:
            return None
        return info.st_ino, info.st_mtime_ns
