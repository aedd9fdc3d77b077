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
_LOOK_EVERY_S = 0.5  # it writes them in C++, and says nothing; no oftener than every second


def hook(core: Any) -> None:
    """Hook the module catboost.core."""
    link = current()
    if link is None:
        return
    original = core._CatBoostBase._train  # noqa: SLF001  all trainings come here

    @functools.wraps(original)
    def train(self: Any, train_pool: Any, test_pool: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        path = _snapshot(link, params)
        if path is None:
            return original(self, train_pool, test_pool, params, *args, **kwargs)
        watch = _SnapshotPoller(link, path)
        try:
            return original(self, train_pool, test_pool, params, *args, **kwargs)
        finally:
            watch.end()

    core._CatBoostBase._train = train  # noqa: SLF001
    native_files.hook(core)


@guarded(_HOOK)
def _snapshot(link: SupervisorLink, params: Any) -> Optional[str]:
    """Where this training saves its snapshots; None when it saves none, or is not the one that reports."""
    if not params.get("save_snapshot") or link.owner is not None or not is_trainer():
        return None
    folder = os.fspath(params.get("train_dir") or "catboost_info")
    return os.path.abspath(os.path.join(folder, os.fspath(params.get("snapshot_file") or "experiment.cbsnapshot")))


class _SnapshotPoller:
    """Reports a snapshot whenever there is a new one: CatBoost renames it when it is whole."""

    def __init__(self, link: SupervisorLink, path: str) -> None:
        self._link = link
        self._path = path
        self._seen = self._mark()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backprop-catboost", daemon=True)
        with suppress(RuntimeError):  # the user has as many as `ulimit -u` allows: there is a look at the end
            self._thread.start()

    def end(self) -> None:
        """The training is over, in whatever way."""
        self._is_over.set()
        if self._thread.ident is not None:  # it was started
            self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._is_over.wait(_LOOK_EVERY_S):
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
