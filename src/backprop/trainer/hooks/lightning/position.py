"""The part of a training's state that Lightning's own checkpoints lack: captured, stored in them, and restored.

Lightning restores weights, optimizers, schedulers and its counters. To resume exactly, a training also needs the order
of the epoch's data (which follows from the random states when its iterator was made, and when the first batch was
drawn), the current random states, the values that `self.log` has collected in the epoch, and accumulated gradients.
"""

from __future__ import annotations

import dataclasses
import io
import operator
import sys
from typing import Any, Callable, Iterator, NamedTuple, Optional

from ... import rng_state
from ...distributed import rank, world_size
from ...failsafe import guarded
from ...trainings.registry import Training
from .identity import mark

KEY = "backprop"  # our entry in a checkpoint, which is ignored without Backprop
_METRICS = "Lightning's metrics across sessions"
_EXACT = "exact resumption in Lightning"


def fit_mark(number: object) -> str:
    """The text in a checkpoint for the call of fit() that saved it; readable without unpickling."""
    return f"backprop-fit:{number}"


class FitMark(NamedTuple):
    """The call of fit() that a checkpoint belongs to: its 0-based number in the process, and its training."""

    number: int
    training: Optional[Training]

    def entry(self, trainer: Any) -> dict[str, Any]:
        """The entries in a checkpoint that is saved now."""
        is_finished = is_over(trainer)
        stored = None if self.training is None else self.training.stored(is_finished=is_finished)
        limits = _limits(trainer)
        return {"fit": fit_mark(self.number), "training": mark(stored), "limits": limits, "is_over": is_finished}


def _limits(trainer: Any) -> list[Any]:
    return [trainer.max_epochs, trainer.max_steps]


def is_over(trainer: Any) -> bool:
    """Whether no step is missing: all are done, or early stopping has ended them."""
    epochs = trainer.fit_loop.epoch_progress.current.processed
    if 0 <= trainer.max_steps <= trainer.global_step or 0 <= (trainer.max_epochs or -1) <= epochs:
        return True
    kinds = {kind.__name__ for each in trainer.callbacks for kind in type(each).__mro__}
    return bool(trainer.should_stop and "EarlyStopping" in kinds)


class LoopPosition:
    """A state from a checkpoint. Its methods restore it, and are called in the order in which they are defined.

    is_after_batch: the checkpoint is ours, saved right after a batch, before what Lightning does between batches:
    validation, schedulers, the end of the epoch.
    """

    def __init__(self, checkpoint: dict[str, Any], state: Optional[dict[str, Any]]) -> None:
        """state: of this process; None if another number of processes saved it, with other data on each."""
        self._state = state
        self._gradients = checkpoint[KEY]["gradients"]
        self.is_after_batch = checkpoint[KEY]["is_after_batch"]
        self._limits = checkpoint[KEY].get("limits")
        self._is_over = checkpoint[KEY].get("is_over", False)
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        self._is_epoch_open = epochs["processed"] > epochs["completed"]  # saved at on_train_epoch_end

    # -- into a checkpoint

    @staticmethod
    @guarded(_EXACT)
    def mark_start(combined_loader: Any) -> None:
        """Called right before a loader begins."""
        combined_loader._backprop_start = rng_state.take(_generators(combined_loader))  # noqa: SLF001

    @staticmethod
    @guarded(_EXACT)
    def take(trainer: Any, first: Any) -> Any:
        """The current state of this process, as a tensor of bytes, which loads with `weights_only`.

        first: the random states before the epoch's first batch was drawn.
        """
        fit_loop = trainer.fit_loop
        loader, fetcher = fit_loop._combined_loader, fit_loop._data_fetcher  # noqa: SLF001
        state = {
            "start": getattr(loader, "_backprop_start", None),
            "first": first,
            "now": rng_state.take(_generators(loader)),
            "drawn": _drawn(fetcher),
            "logged": _logged(trainer),
        }
        return _frozen(state)

    @staticmethod
    def entry(trainer: Any, mark: FitMark, state: Any, *, is_after_batch: bool) -> dict[str, Any]:
        """Our entry in a checkpoint. Called on all ranks. state: what `take` returned on this one."""
        states = [state]
        gradients: dict[str, Any] = {}
        if world_size() > 1:
            states = [None] * world_size()
            sys.modules["torch.distributed"].all_gather_object(states, state)
        elif trainer.fit_loop._should_accumulate():  # noqa: SLF001  a validation between two steps of the optimizer
            named = trainer.lightning_module.named_parameters()
            gradients = {name: weight.grad for name, weight in named if weight.grad is not None}
        place = {"is_after_batch": is_after_batch, "ranks": states, "gradients": gradients}
        return {**mark.entry(trainer), **place}

    # -- out of a checkpoint

    @staticmethod
    @guarded(_EXACT)
    def of(checkpoint: dict[str, Any], trainer: Any) -> Optional[LoopPosition]:
        """The position in a checkpoint for this process; None if it has no entry of ours."""
        entry = checkpoint.get(KEY)
        if entry is None:
            return None
        states = entry["ranks"]
        state = states[rank()] if len(states) == trainer.world_size else None
        state = None if state is None else _thawed(state)
        return LoopPosition(checkpoint, state)

    def is_over(self, trainer: Any) -> bool:
        """Whether the training had ended, and no more steps or epochs are requested now."""
        return bool(self._is_over) and self._limits == _limits(trainer)

    @guarded(_EXACT)
    def give_back(self, trainer: Any) -> None:
        """Restore what Lightning does not, of a training that had ended."""
        if self._state is not None:
            _put_back_connector(trainer, self._state["logged"])
            rng_state.put_back({**self._state["now"], "generators": []})

    def begin_epoch(self, trainer: Any) -> None:
        """When a new epoch follows the checkpoint: do what Lightning had not yet done for the one before.

        That is what comes after on_train_epoch_end (fit_loop.py, on_advance_end), and is skipped on resume: step the
        schedulers that need a metric, and reset the metrics. Not guarded: schedulers are the user's code.
        """
        logged = None if self._state is None else self._state["logged"]
        _put_back_logged(trainer, logged)
        loop, epochs = trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_progress.current
        if logged is not None and self._is_epoch_open and loop._num_ready_batches_reached():  # noqa: SLF001
            epochs.completed -= 1  # how often they are stepped goes by the number of the epoch that ends
            loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
            epochs.completed += 1
        trainer._logger_connector.reset_results()  # noqa: SLF001

    @guarded(_EXACT)
    def begin_order(self, trainer: Any) -> None:
        """Right before a new epoch: restore the random states that its order of data is drawn from."""
        if self._state is not None:
            rng_state.put_back(self._state["now"], _generators(trainer.fit_loop._combined_loader))  # noqa: SLF001

    def begin_data(self, trainer: Any, is_enough: Callable[[], None]) -> None:
        """Begin the epoch's data as before, and skip the batches that were done. is_enough: called for each of them."""
        loop = trainer.fit_loop
        loader, fetcher = loop._combined_loader, loop._data_fetcher  # noqa: SLF001
        if self._state is None or any(_knows_its_place(each) for each in loader.flattened):
            return
        generators = _generators(loader)
        if self._state["start"] is not None:
            rng_state.put_back(self._state["start"], generators)
        iter(fetcher)
        if self._state["first"] is not None:
            rng_state.put_back(self._state["first"])
        _pass_over(fetcher, self._state["drawn"], is_enough)

    @guarded(_EXACT)
    def go_on(self, trainer: Any) -> Any:
        """Right before training continues: restore the rest. Returns the random states before the first batch."""
        if self._state is None:
            return None
        for name, weight in trainer.lightning_module.named_parameters():
            if name in self._gradients:
                weight.grad = self._gradients[name].to(weight.device)
        _put_back_logged(trainer, self._state["logged"])
        rng_state.put_back(self._state["now"], _generators(trainer.fit_loop._combined_loader))  # noqa: SLF001
        return self._state["first"]


def _frozen(state: Any) -> Any:
    torch = sys.modules["torch"]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _thawed(frozen: Any) -> Any:
    torch = sys.modules["torch"]
    return torch.load(io.BytesIO(frozen.cpu().numpy().tobytes()), map_location="cpu", weights_only=False)


# -- data


def _generators(combined_loader: Any) -> list[Any]:
    return [generator for loader in combined_loader.flattened for generator in rng_state.of_loader(loader)]


def _knows_its_place(loader: Any) -> bool:
    """Whether Lightning saves and restores this loader itself: torchdata's StatefulDataLoader, for example."""
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def _drawn(fetcher: Any) -> int:
    """Number of batches that training has received; one more is prefetched if the length is not known."""
    return int(fetcher.fetched) - len(getattr(fetcher, "batches", ()))


def _pass_over(fetcher: Any, count: int, is_enough: Callable[[], None]) -> None:
    if fetcher.length is not None and count >= fetcher.length:
        # the epoch's last batch was done: no data are needed
        fetcher.fetched, fetcher.done = count, True
        return
    source = getattr(fetcher, "iterator_wrapper", fetcher)  # if training_step takes the iterator
    while _drawn(fetcher) < count:
        is_enough()
        next(source)


# -- values that self.log has collected: result.py and logger_connector.py of Lightning

_CONNECTOR = (
    "_first_loop_iter",
    "_epoch_end_reached",  # these two until Lightning 2.0
    "_batch_idx",
    "_current_fx",
    "_callback_metrics",
    "_logged_metrics",
    "_progress_bar_metrics",
)


@guarded(_METRICS)
def _logged(trainer: Any) -> dict[str, Any]:
    connector = trainer._logger_connector  # noqa: SLF001
    return {
        "results": {key: _result(metric) for key, metric in trainer.fit_loop.epoch_loop._results.items()},  # noqa: SLF001
        "connector": {name: getattr(connector, name) for name in _CONNECTOR if hasattr(connector, name)},
        "metrics": {name: _metric(metric) for name, metric in _metrics(trainer)},
    }


@guarded(_METRICS)
def _put_back_logged(trainer: Any, logged: Optional[dict[str, Any]]) -> None:
    if logged is None:
        return
    _put_back_connector(trainer, logged)
    for name, metric in _metrics(trainer):
        if name in logged["metrics"]:
            _put_back_metric(metric, logged["metrics"][name])
    results = trainer.fit_loop.epoch_loop._results  # noqa: SLF001
    for key, saved in logged["results"].items():
        if saved is not None:
            results[key] = _made_again(trainer, sys.modules[type(results).__module__], saved)


def _put_back_connector(trainer: Any, logged: dict[str, Any]) -> None:
    for name, value in logged["connector"].items():
        setattr(trainer._logger_connector, name, value)  # noqa: SLF001


def _metrics(trainer: Any) -> Iterator[tuple[str, Any]]:
    """The metrics of torchmetrics in the model: their states are not in its state_dict."""
    kind = sys.modules["torchmetrics"].Metric
    return ((name, module) for name, module in trainer.lightning_module.named_modules() if isinstance(module, kind))


def _metric(metric: Any) -> dict[str, Any]:
    states = {name: getattr(metric, name) for name in metric._defaults}  # noqa: SLF001
    return {"states": states, "updates": metric._update_count, "forward": metric._forward_cache}  # noqa: SLF001


def _put_back_metric(metric: Any, saved: dict[str, Any]) -> None:
    for name, value in saved["states"].items():
        is_list = isinstance(value, list)
        setattr(metric, name, [each.to(metric.device) for each in value] if is_list else value.to(metric.device))
    metric._update_count, metric._forward_cache, metric._computed = saved["updates"], saved["forward"], None  # noqa: SLF001


def _result(metric: Any) -> Optional[dict[str, Any]]:
    """A value that was logged; None if the end of an epoch has reset it: the next `log` creates it."""
    meta = metric.meta
    if metric.has_reset or meta.sync.group is not None:
        return None
    fields = {field.name: getattr(meta, field.name) for field in dataclasses.fields(meta) if field.name != "_sync"}
    saved = _metric(metric) if metric.is_tensor else {"forward": metric._forward_cache}  # noqa: SLF001
    sync = {"_should": meta.sync.should, "_op": meta.sync.op, "rank_zero_only": meta.sync.rank_zero_only}
    return {"fields": fields, "sync": sync, "is_tensor": metric.is_tensor, "saved": saved}


def _made_again(trainer: Any, lightning: Any, saved: dict[str, Any]) -> Any:
    meta = lightning._Metadata(**saved["fields"])  # noqa: SLF001
    # must equal what LightningModule.log creates: it compares
    meta.sync = lightning._Sync(fn=trainer.strategy.reduce, **saved["sync"])  # noqa: SLF001
    metric = lightning._ResultMetric(meta, saved["is_tensor"])  # noqa: SLF001
    if saved["is_tensor"]:
        _put_back_metric(metric, saved["saved"])
    else:
        metric.value = operator.attrgetter(meta.metric_attribute)(trainer.lightning_module)
        metric._forward_cache = saved["saved"]["forward"]  # noqa: SLF001
    return metric
