"""The functions of `import backprop`: see docs/guides/import-backprop.md.

Outside a run they do nothing, or return what is documented. Errors caused by the script's arguments (a model that
cannot be saved, a folder that cannot be written) reach the script; errors in our own code do not: see failsafe.py.
"""

from __future__ import annotations

import os
from types import GeneratorType
from typing import Any, Callable, Iterable, Iterator, MutableMapping, Optional, TypeVar, Union

from . import checkpoints, rng_state
from . import loop as loops
from .checkpoint_io import check
from .link import SupervisorLink, current

Batch = TypeVar("Batch")
State = MutableMapping[str, Any]

_logged_step: Optional[int] = None  # outside of loops
_is_listening_reported = False


def loop(
    loader: Union[Iterable[Batch], Callable[[], Iterable[Batch]]],
    *,
    epochs: int = 1,
    state: Optional[State] = None,
    accumulate: int = 1,
) -> Iterator[tuple[int, Batch]]:
    """Iterate over the batches of all epochs, with checkpoints, resume and stops.

    Yields (epoch, batch); the first epoch is 0. In a resumed run, the state is restored when the first batch is
    requested, and the batches that were trained before are skipped. When a stop is requested, the loop saves a
    checkpoint and ends; afterwards `should_stop()` returns True.

    loader: an iterable that starts over each epoch, or a function that returns the batches of an epoch. Order and
    random numbers of a PyTorch DataLoader, and of a loader with `state_dict()`, are resumed exactly. Other sources of
    randomness are, too, if they use the global generators or one that is in `state`.
    epochs: number of epochs.
    state: everything that training changes: models, optimizers and other objects with `state_dict()` and
    `load_state_dict()`; random generators; arrays, numbers, dicts and lists. On resume, values that cannot be changed
    in place (numbers, for example) are replaced in the dict: read them from there.
    accumulate: number of batches for each optimizer step, counted from the start of the run. Saves and stops happen
    only after a full step, because gradients are not saved.

    Raises TypeError for a generator with several epochs, and for a value in `state` that cannot be pickled.
    """
    if isinstance(loader, GeneratorType) and epochs > 1:
        raise TypeError("a generator is used up after one epoch: pass the function that makes it, without calling it")
    link = current()
    state = {} if state is None else state
    if link is not None:
        check(dict(state))
    return loops.drive(link, loader, epochs, state, accumulate)


def log(step: Optional[int] = None, **metrics: Any) -> None:
    """Report metrics: numbers, or tensors and arrays of one item. Anything else is left out.

    Pass names that are not Python names as `log(**{"train/loss": loss})`.

    step: by default the 1-based number of the current batch inside `loop`; outside, one more than in the last call.
    """
    link = current()
    if link is None:
        return
    running = loops.last
    total = None
    if running is not None:
        if not running.has_logged:
            running.has_logged, total = True, running.total_steps
        if step is None:
            step = running.step
            running.has_logged_batches = True
            link.steps.set_unit(loops.UNIT)
        if "epoch" not in metrics:
            metrics["epoch"] = running.epoch
    elif step is None:
        step = _next_step(link)
    link.steps.log(step, metrics, total)


def _next_step(link: SupervisorLink) -> int:
    global _logged_step  # noqa: PLW0603  one count in a process
    if _logged_step is None:
        _logged_step = link.resume_step or 0
    _logged_step += 1
    return _logged_step


def params(**values: Any) -> None:
    """Report parameters of the run, such as hyperparameters. They override those of its parser and command line."""
    link = current()
    if link is not None:
        link.send_event(event="params", params=values)


def resume_from() -> Optional[str]:
    """Path of the checkpoint to resume from, or None. `loop` and `load` use it by themselves."""
    link = current()
    return None if link is None else link.resume_from


def checkpoint_due() -> bool:
    """Whether a checkpoint was requested, and none has been saved since. `loop` checks this by itself."""
    link = current()
    if link is None:
        return False
    _report_listening(link)
    return link.checkpoint_due()


def should_stop() -> bool:
    """Whether to stop now: finish the step, save, and leave the loop. After `loop`: whether it was stopped early.

    From the first call on, the first SIGINT no longer raises KeyboardInterrupt, but makes this return True. Costs less
    than a microsecond. The ranks of a distributed training may get different answers at the same step: use `loop`
    there.
    """
    link = current()
    if link is None:
        return False
    if loops.last is not None and loops.last.is_finished:
        return False  # training was complete before the stop was requested
    if _report_listening(link):
        link.interrupts.stay_patient()
    return link.is_stopping or link.should_stop()


def _report_listening(link: SupervisorLink) -> bool:
    """Whether this script drives a loop of its own. If so, the supervisor is asked once to request stops early."""
    global _is_listening_reported  # noqa: PLW0603  once in a process
    if link.owner is not None or loops.last is not None:
        return False
    if not _is_listening_reported:
        _is_listening_reported = True
        link.send_event(event="listening")
    return True


def time_left_s() -> float:
    """Seconds until this session's timebox ends, at least 0; infinity outside a run."""
    link = current()
    return float("inf") if link is None else link.time_left_s()


def progress() -> float:
    """The elapsed fraction of this session's timebox, 0 to 1, for schedules that end with it; 0 outside a run."""
    link = current()
    if link is None or link.timebox_s <= 0:
        return 0.0
    return min(1.0, max(0.0, 1.0 - link.time_left_s() / link.timebox_s))


def save(state: State, step: Optional[int] = None, *, path: Union[str, os.PathLike[str], None] = None) -> Optional[str]:
    """Save a checkpoint with all random states, report it, and return its path; None outside a run.

    The file is written atomically. All ranks must call this; each writes its random states, and rank 0 the rest. Inside
    `loop`, call it after the batch's update; only the loop's own state is reported there, because `loop` can resume
    from nothing else.

    state: as in `loop`. step: optional inside `loop`. path: by default backprop-checkpoints/<run>/step-N.pt in the
    working directory (`.pkl` if PyTorch is not imported).

    Raises TypeError without a step outside `loop`, OSError, and whatever pickling raises.
    """
    link = current()
    if link is None:
        return None
    where = None if path is None else os.fspath(path)
    running = loops.last if link.owner == loops.NAME else None
    if running is not None and state is running.state:
        return running.save(where)
    if step is None:
        if running is None:
            raise TypeError("save() needs the step, outside of backprop.loop")
        step = running.step
    return checkpoints.save(link, state, step, path=where, is_reported=running is None)


def load(state: State, path: Union[str, os.PathLike[str], None] = None) -> int:
    """Restore a state and all random states from a checkpoint, and return its step.

    Checkpoints are pickled: load only files that you trust.

    state: as in `loop`. path: by default `resume_from()`; if that is None, nothing is restored, and the step is 0.

    Raises OSError, ValueError for a file that `save` and `loop` did not write, and whatever unpickling raises.
    """
    where = resume_from() if path is None else os.fspath(path)
    if where is None:
        return 0
    saved = checkpoints.read(where)
    checkpoints.restore(state, saved)
    rng_state.put_back(saved["random"])
    step: int = saved["step"]
    return step
