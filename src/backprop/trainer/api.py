"""What a script gets that says `import backprop`: the functions of docs/guides/import-backprop.md.

Each does nothing, at the price of a call, where no run is going on. Exceptions of what the script hands over (a model
that cannot be saved, a folder that cannot be written) are the script's to see; those of ours are kept from it.
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
    """Epoch (from 0) and batch, of all epochs: resumed where the run was, saved on time, stopped in time.

    In a resumed run the state is made what it was when this is first asked for a batch, and the batches that were done
    are not given again. After a stop it just ends, saved: what follows can ask `should_stop()`.

    loader: anything that can be iterated once an epoch, or a function that gives an epoch's batches. Of a PyTorch
    DataLoader and of one with `state_dict()`, order and randomness are continued exactly; what else draws random
    numbers must use the global generators, or one that is in `state`.
    state: all that training changes. Models, optimizers and whatever has `state_dict()` and `load_state_dict()`; random
    generators; arrays, numbers, dicts and lists. Values that cannot be changed in place (numbers, say) are replaced in
    the dict on resume: read them from there.
    accumulate: how many batches make a step of the optimizer. It saves and stops only in between, because gradients are
    not saved; batches are counted from the beginning of the run.
    """
    if isinstance(loader, GeneratorType) and epochs > 1:
        raise TypeError("a generator is used up after one epoch: pass the function that makes it, without calling it")
    link = current()
    state = {} if state is None else state
    if link is not None:
        check(dict(state))
    return loops.drive(link, loader, epochs, state, accumulate)


def log(step: Optional[int] = None, **metrics: Any) -> None:
    """Report metrics: numbers, or what has one `item()`. Anything else is left out.

    step: inside `loop` the number of the batch it gave last, from 1, unless told otherwise; outside one more than the
    last time. A name that is no Python name: `log(**{"train/loss": loss})`.
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
        if "epoch" not in metrics:
            metrics["epoch"] = running.epoch
    elif step is None:
        step = _next_step(link)
    link.log(step, metrics, total)


def _next_step(link: SupervisorLink) -> int:
    global _logged_step  # noqa: PLW0603  one count in a process
    if _logged_step is None:
        _logged_step = link.resume_step or 0
    _logged_step += 1
    return _logged_step


def params(**values: Any) -> None:
    """Report parameters of the run; they win over what the script's arguments look like."""
    link = current()
    if link is not None:
        link.send_event(event="params", params=values)


def resume_from() -> Optional[str]:
    """The checkpoint to continue from; None where there is none. `loop` and `load` ask by themselves."""
    link = current()
    return None if link is None else link.resume_from


def checkpoint_due() -> bool:
    """Whether a checkpoint is wanted, and none was saved since. In `loop` there is no need to ask."""
    link = current()
    if link is None:
        return False
    _report_listening(link)
    return link.checkpoint_due()


def should_stop() -> bool:
    """Whether to end: finish the step, save, leave. After `loop`: whether it was stopped before its end.

    Who asks is not interrupted: from the first call on, a first SIGINT only makes this True. Costs less than a
    microsecond. Several processes that train together get different answers at the same step: there, use `loop`.
    """
    link = current()
    if link is None:
        return False
    if loops.last is not None and loops.last.is_finished:
        return False  # a stop that comes after training's own end stops nothing
    if _report_listening(link):
        link.interrupts.stay_patient()
    return link.is_stopping or link.should_stop()


def _report_listening(link: SupervisorLink) -> bool:
    """Whether this script drives a loop of its own. The supervisor then hears once that it is to warn us early."""
    global _is_listening_reported  # noqa: PLW0603  once in a process
    if link.owner is not None or loops.last is not None:
        return False
    if not _is_listening_reported:
        _is_listening_reported = True
        link.send_event(event="listening")
    return True


def time_left_s() -> float:
    """Seconds until the timebox of this session ends, at least 0; infinity outside a run."""
    link = current()
    return float("inf") if link is None else link.time_left_s()


def progress() -> float:
    """How much of this session's timebox is over, 0 to 1, for schedules that must end with it; 0 outside a run."""
    link = current()
    if link is None or link.timebox_s <= 0:
        return 0.0
    return min(1.0, max(0.0, 1.0 - link.time_left_s() / link.timebox_s))


def save(state: State, step: Optional[int] = None, *, path: Union[str, os.PathLike[str], None] = None) -> Optional[str]:
    """Where a checkpoint was saved and reported: whole or not at all, random states included. None outside a run.

    state: as in `loop`. step: may be left out in `loop`. path: instead of backprop-checkpoints/<run>/step-N.pt in the
    working directory (`.pkl` where PyTorch is not loaded). Within `loop`, save after the batch's update; only a save of
    the loop's own state is reported, because only from that can it continue. All processes of a training must call
    this; rank 0 writes. Raises OSError, and what pickling raises.
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
    """The step of a checkpoint, after the state was made what it was then, and the random states with it.

    path: instead of `resume_from()`; where that is None, the state stays as it is, and the step is 0. What `save` and
    `loop` wrote is pickled: load only what you trust. Raises OSError, ValueError for a file that they did not write,
    and what unpickling raises.
    """
    where = resume_from() if path is None else os.fspath(path)
    if where is None:
        return 0
    saved = checkpoints.read(where)
    checkpoints.restore(state, saved)
    rng_state.put_back(saved["random"])
    step: int = saved["step"]
    return step
