"""`backprop.loop`: epochs and batches, resumed where they were, saved on time, stopped in time.

A resumed epoch must see the data that were left over, with the random numbers that were left over. A loader draws its
order from random states when its iteration begins, its workers draw their seeds then, and a training step draws from
the same states. Hence a checkpoint has the random states of two instants: of the epoch's beginning, from which the
iteration is begun again and the batches that were done are drawn and dropped; and of the save, which are put back last.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Iterable, Iterator, MutableMapping, Optional, Union

from . import checkpoint_io, checkpoints, distributed, rng_state
from .atomic_files import FOLDER
from .failsafe import notify_user
from .link import SupervisorLink

NAME = "backprop.loop"

Loader = Union[Iterable[Any], Callable[[], Iterable[Any]]]

last: Optional[Loop] = None  # the loop that runs, or ran last
_finals: list[Optional[str]] = []  # the last checkpoint of each loop that is over, in the order they began


def batches_of(loader: Loader) -> Iterator[Any]:
    """An epoch's batches."""
    return iter(loader() if callable(loader) and not hasattr(loader, "__iter__") else loader)


def set_epoch(loader: Loader, epoch: int) -> None:
    """Tell the samplers that want to know, as PyTorch's DistributedSampler: else every epoch has the same order."""
    for part in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
        if callable(set_epoch_of_part := getattr(part, "set_epoch", None)):
            set_epoch_of_part(epoch)


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
        self._batch = 0  # of the epoch: so many were begun
        self.step: int = 0 if last is None else last.step
        self._saved_step = self.step
        self._path: Optional[str] = None  # the newest checkpoint
        self._epoch_began: dict[str, Any] = {}
        self.is_finished = False
        self.has_logged = False
        self.has_logged_batches = False  # the script reports in steps of ours

    @property
    def total_steps(self) -> Optional[int]:
        """What `step` will be at the end; None when the loader does not know how many batches it has."""
        length = self._length()
        return None if length is None else self.step + (self._epochs - self.epoch) * length - self._batch

    def _length(self) -> Optional[int]:
        """How many batches an epoch has; None when the loader does not know."""
        try:
            return len(self._loader)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            return None

    def run(self) -> Iterator[tuple[int, Any]]:
        """Epoch and batch, until all are done or a stop is wished."""
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
                self.save()  # for whoever wants more epochs, and for the loops that follow
            self.is_finished = True
        finally:
            _finals.append(self._path if self.is_finished else None)

    def save(self, path: Optional[str] = None) -> str:
        """Where a checkpoint was saved, after the batch that was last given counts as done."""
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
        if path is None:  # else the script may write another there
            self._path, self._saved_step = saved_at, self.step
        return saved_at

    # -- resume

    def _find(self) -> Optional[dict[str, Any]]:
        """What this loop goes on from; None for its beginning."""
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
            return None  # that one was resumed; this one had not begun
        if number > self._number:
            # this one was over when that one was saved, and what it left behind is what the script needs now
            path = saved["earlier"][self._number]
            if path is None or not os.path.exists(path):
                return None
            saved = checkpoints.read(path)
        self._path = path
        return saved

    def _resume(self, saved: dict[str, Any]) -> None:
        checkpoints.restore(self.state, saved)
        del saved["state"]  # as big as the model, and `saved` is at hand for an epoch
        rng_state.put_back(saved["random"], self._generators)
        self.step = self._saved_step = saved["step"]
        self.epoch, self._batch = saved.get("epoch", 0), saved.get("batch", 0)

    def _begin_again(self, saved: dict[str, Any]) -> Iterator[Any]:
        """What is left of the epoch that was cut, with the random states of the save."""
        if self.epoch > 0 and getattr(self._loader, "persistent_workers", False):
            # workers that outlive an epoch are seeded once, when the first one begins, and not in this one:
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
        """Whether we are to stop while nothing new was done. Several processes must do so at the same step: not now."""
        if distributed.world_size() == 1 and self._link.should_stop():
            self._link.accept_stop()
        return self._link.is_stopping

    # -- go on

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
            del batch  # else its memory is held while the next one is made
            if self._batch != length:
                self._end_step()
        if not self._link.is_stopping:
            is_due = self._batch == length
            self.epoch, self._batch = self.epoch + 1, 0
            if is_due:
                # only now: a save then stands at the beginning of the next epoch, and none is to be drawn again; and a
                # loader that tells its state knows that this one is over
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
            except OSError as error:  # a full disk: training goes on, and the next wish may be granted
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
    """What `backprop.loop` gives. Outside a session, and within another loop, it only iterates."""
    global last  # noqa: PLW0603  one at a time in a process
    if link is None or link.owner is not None:
        if link is not None and link.owner == NAME:
            _notify_once(
                "a backprop.loop within another, or while one that was left has not been closed, only gives its batches"
            )
        for epoch in range(epochs):
            set_epoch(loader, epoch)
            for batch in batches_of(loader):
                yield epoch, batch
    elif not link.is_stopping:  # else an earlier loop was stopped: nothing that follows is to be done
        with link.training(NAME, ends_script=False):
            last = Loop(link, loader, epochs, state, accumulate)
            yield from last.run()
