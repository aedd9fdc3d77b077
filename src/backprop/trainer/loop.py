"""`backprop.loop`: iterates over epochs and batches, and saves, stops and resumes exactly.

A resumed epoch must continue with the batches and the random numbers that were left over. A loader draws the order of
the data, and the seeds of its workers, when its iteration begins; training steps draw from the same generators. So a
checkpoint holds random states from two moments: from the start of the epoch, to restart the iteration and skip the
batches that were trained; and from the save, which are restored last.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Iterable, Iterator, MutableMapping, Optional, Union

from . import checkpoint_io, checkpoints, distributed, rng_state
from .atomic_files import FOLDER
from .failsafe import notify_user
from .link import SupervisorLink

NAME = "backprop.loop"
UNIT = "batch"

Loader = Union[Iterable[Any], Callable[[], Iterable[Any]]]

last: Optional[Loop] = None  # the loop that runs, or ran last
_finals: list[Optional[str]] = []  # the last checkpoint of each loop that is over, in the order they began


def batches_of(loader: Loader) -> Iterator[Any]:
    """The batches of an epoch."""
    return iter(loader() if callable(loader) and not hasattr(loader, "__iter__") else loader)


def set_epoch(loader: Loader, epoch: int) -> None:
    """Pass the epoch to samplers such as PyTorch's DistributedSampler: without it every epoch has the same order."""
    for part in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
        if callable(method := getattr(part, "set_epoch", None)):
            method(epoch)


class Loop:
    """One loop of a session. `step` counts batches, over all loops of the script."""

    def __init__(
        self, link: SupervisorLink, loader: Loader, epochs: int, state: MutableMapping[str, Any], accumulate: int
    ) -> None:
        self._link = link
        self._loader = loader
        self._epochs = epochs
        self.state = state
        self._accumulate = accumulate
        self._number = len(_finals)
        self._generators = [*rng_state.of_loader(loader), *checkpoint_io.generators(dict(state))]
        self.epoch = 0
        self._batch = 0  # how many of the epoch were begun
        self.step: int = 0 if last is None else last.step
        self._saved_step = self.step
        self._path: Optional[str] = None  # of the newest checkpoint
        self._epoch_began: dict[str, Any] = {}
        self.is_finished = False
        self.has_logged = False
        self.has_logged_batches = False  # the script reports in steps of ours

    @property
    def total_steps(self) -> Optional[int]:
        """The value of `step` at the end; None if the loader has no length."""
        length = self._length()
        return None if length is None else self.step + (self._epochs - self.epoch) * length - self._batch

    def _length(self) -> Optional[int]:
        """Batches per epoch; None if the loader has no length."""
        try:
            return len(self._loader)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            return None

    def run(self) -> Iterator[tuple[int, Any]]:
        """Epoch and batch, until all are done or a stop is requested."""
        try:
            saved = self._find()
            if saved is not None:
                self._resume(saved)
            while self.epoch < self._epochs:
                yield from self._run_epoch(saved)
                if self._link.is_stopping:
                    return
                saved = None
            if self.step != self._saved_step:
                self.save()  # to resume with more epochs, and for the loops that follow
            self.is_finished = True
        finally:
            _finals.append(self._path if self.is_finished else None)

    def save(self, path: Optional[str] = None) -> str:
        """Save a checkpoint, with the current batch counted as done; returns its path."""
        position = {
            "loop": self._number,
            "earlier": _finals[: self._number],
            "epoch": self.epoch,
            "batch": self._batch,
            "epoch_began": self._epoch_began,
            "loader": self._loader.state_dict() if checkpoint_io.is_stateful(self._loader) else None,  # type: ignore[union-attr]
        }
        saved_at = checkpoints.save(
            self._link, self.state, self.step, path=path, generators=self._generators, position=position
        )
        if path is None:  # a path of the script's may be overwritten by another checkpoint
            self._path, self._saved_step = saved_at, self.step
        return saved_at

    # -- resume

    def _find(self) -> Optional[dict[str, Any]]:
        """The checkpoint that this loop resumes from; None to start from the beginning."""
        path = self._link.resume_from
        if path is None:
            return None
        self._link.announce_inspection(may_be_ours=FOLDER in path.split(os.sep))
        saved = self._read(path)
        self._link.set_resume_source(None if saved is None else self._path)
        return saved

    def _read(self, path: str) -> Optional[dict[str, Any]]:
        try:
            saved = checkpoints.read(path)
        except checkpoint_io.NotOursError as error:
            notify_user(f"{error}: the loop does not resume from it")
            return None
        number = saved.get("loop", 0)
        if number < self._number:
            return None  # an earlier loop resumes from it; this one had not begun
        if number > self._number:
            # this loop had ended when that checkpoint was saved: restore its own final one
            path = saved["earlier"][self._number]
            if path is None or not os.path.exists(path):
                return None
            saved = checkpoints.read(path)
        self._path = path
        return saved

    def _resume(self, saved: dict[str, Any]) -> None:
        checkpoints.restore(self.state, saved)
        del saved["state"]  # as large as the model, and `saved` lives for an epoch
        rng_state.put_back(saved["random"], self._generators)
        self.step = self._saved_step = saved["step"]
        self.epoch, self._batch = saved.get("epoch", 0), saved.get("batch", 0)

    def _begin_again(self, saved: dict[str, Any]) -> Iterator[Any]:
        """The remaining batches of the epoch that was interrupted, with the random states of the save."""
        if self.epoch > 0 and getattr(self._loader, "persistent_workers", False):
            # persistent workers are seeded once, when the first epoch begins, and not in this one:
            # _BaseDataLoaderIter.__init__ against _reset in torch/utils/data/dataloader.py
            batches_of(self._loader)
        if checkpoint_io.is_stateful(self._loader) and saved.get("loader") is not None:
            self._loader.load_state_dict(saved["loader"])  # type: ignore[union-attr]
            to_drop = 0
        else:
            to_drop = self._batch
        self._epoch_began = saved["epoch_began"] if self._batch else saved["random"]
        rng_state.put_back(self._epoch_began, self._generators)
        batches = batches_of(self._loader)
        for _ in range(to_drop):
            if self._is_stopped_early():
                break
            if next(batches, self) is self:
                notify_user("the loader has fewer batches than when it was saved")
                break
        if self._batch:
            rng_state.put_back(saved["random"], self._generators)
        self._link.restart_step_timer()
        return batches

    def _is_stopped_early(self) -> bool:
        """Whether to stop before anything new was done. Not with several ranks: they must stop at the same step."""
        if distributed.world_size() == 1 and self._link.should_stop():
            self._link.accept_stop()
        return self._link.is_stopping

    # -- iterate

    def _run_epoch(self, saved: Optional[dict[str, Any]]) -> Iterator[tuple[int, Any]]:
        set_epoch(self._loader, self.epoch)
        if saved is None or "epoch" not in saved:
            self._epoch_began = rng_state.take(self._generators)
            batches = batches_of(self._loader)
        else:
            batches = self._begin_again(saved)
        length = self._length()
        while not self._link.is_stopping:
            try:
                batch = next(batches)
            except StopIteration:
                break
            self._batch += 1
            self.step += 1
            yield self.epoch, batch
            del batch  # free its memory before the next one is made
            if self._batch != length:
                self._end_step()
        if not self._link.is_stopping:
            is_due = self._batch == length
            self.epoch, self._batch = self.epoch + 1, 0
            if is_due:
                # only now: a save is then at the start of the next epoch, with no batches to skip; and a loader with a
                # state_dict() knows that this epoch is over
                self._end_step()

    def _end_step(self) -> None:
        if self.step % self._accumulate:
            return
        request = self._link.at_step_end(
            self.step, total_steps=self.total_steps, is_counted=not self.has_logged_batches
        )
        if request.stop:
            self._link.accept_stop()
            if self._saved_step != self.step:
                self.save()
        elif request.save:
            try:
                self.save()
            except OSError as error:  # a full disk: training continues, and the next save may succeed
                notify_user(f"the checkpoint of step {self.step} was not saved: {error}")
                self._link.skip_save()


_notified: set[str] = set()


def _notify_once(text: str) -> None:
    if text not in _notified:
        _notified.add(text)
        notify_user(text)


def drive(
    link: Optional[SupervisorLink], loader: Loader, epochs: int, state: MutableMapping[str, Any], accumulate: int
) -> Iterator[tuple[int, Any]]:
    """The iterator that `backprop.loop` returns. Outside a session, and inside another loop, it only iterates."""
    global last  # noqa: PLW0603  one at a time in a process
    if link is None or link.owner is not None:
        if link is not None and link.owner == NAME:
            _notify_once(
                "a backprop.loop inside another one, or after one that was left without closing it, only iterates"
            )
        for epoch in range(epochs):
            set_epoch(loader, epoch)
            for batch in batches_of(loader):
                yield epoch, batch
    elif not link.is_stopping:  # after a stop, the loops that follow do nothing
        with link.training(NAME, UNIT, is_counted=True, ends_script=False):
            last = Loop(link, loader, epochs, state, accumulate)
            yield from last.run()
