"""The loss of a script that reports none: what it calls `.backward()` on, sampled at optimizer steps.

The loss of a step is the sum of all scalars that were backpropagated since the step before, or since the gradients of
this optimizer were last zeroed: the function whose gradient the step follows. With gradient accumulation it is the sum
over the micro-batches, with two halves of a loss (DCGAN) their sum, with a closure (LBFGS) its last evaluation.

If optimizers take turns, each after a loss of its own (GAN), the losses are called loss/1, loss/2, ... by the order in
which the optimizers were first used. If several optimizers follow one loss, it is `loss`.

Every step is watched for the first two seconds, so that short trainings have their last loss; after that twice a
second, until each optimizer had its turn. A value on a GPU is copied, and read when the copy is there: the training
never waits for it. Where the value cannot be known (sharded tensors, other devices, a scale that is not PyTorch's own),
there is none.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from typing import Any, Callable, NamedTuple, Optional, Union

from ...failsafe import guarded
from ...link import SupervisorLink

PERIOD_S = 0.5
WATCHED_S = 2.0
HOOK = "sampled losses"
MAX_PARTS = 10_000  # backpropagated without an optimizer step: this is no training that we can count
# libraries that scale losses by themselves before they call `.backward()`
_SCALE_BY_THEMSELVES = {"apex.amp", "colossalai", "deepspeed", "fairseq", "megatron"}

# what happens between two steps: a loss on the CPU; a copy of one on a GPU; None, where its value is not known; a
# _Zeroed or a _Scaled
_Part = Any


class _Zeroed(NamedTuple):
    """The gradients of an optimizer or a module were zeroed."""

    owner: weakref.ref[Any]


class _Scaled(NamedTuple):
    """A GradScaler scales the losses before the next step."""

    scaler: Any


class LossSample(NamedTuple):
    """A loss that can be reported."""

    step: int  # number of optimizer steps, this one included
    name: str
    value: float


class _Thread(threading.local):
    """What has happened in a thread since its last optimizer step, as far as it was watched from there on."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.watch = 1  # the number of the watch in which they were recorded


class _GpuCopy:
    """A value on its way from a GPU."""

    def __init__(self, torch: Any, value: Any) -> None:
        self._buffer = torch.empty((), dtype=value.dtype, device="cpu", pin_memory=True)
        self._buffer.copy_(value, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(value.device))

    def read(self) -> Optional[float]:
        """The value; None while it is not there yet."""
        return float(self._buffer.item()) if self._event.query() else None


class LossCurve:
    """The losses that one optimizer follows."""

    __slots__ = ("count", "latest", "number", "optimizer", "step")

    def __init__(self, number: int, optimizer: Any) -> None:
        self.number = number  # from 1, in the order in which optimizers had their first loss
        self.optimizer = weakref.ref(optimizer)
        self.count = 0  # of losses
        self.step = 0  # of the latest
        self.latest: Union[float, _GpuCopy, None] = None  # until it is reported

    def take(self) -> Optional[float]:
        """The latest value, once; None where there is none, or it is still on its way from a GPU."""
        value = self.latest.read() if isinstance(self.latest, _GpuCopy) else self.latest
        if value is not None:
            self.latest = None
        return value

    def is_over(self) -> bool:
        """Whether its optimizer is gone, and nothing will be reported any more."""
        return self.optimizer() is None and (self.latest is None or self.count == 1)


class LossSampler:
    """The losses of one process."""

    def __init__(self, torch: Any) -> None:
        self.is_watching = True  # checked at every step, so that nothing else costs anything
        self.watch = 1  # number of the present one, or the last
        self.thread = _Thread()
        self._torch = torch
        self._tensor = torch.Tensor
        self._curves: list[LossCurve] = []
        self._made = 0  # how many curves there were
        self._last: Optional[LossCurve] = None  # that had a loss
        self._takes_turns = False  # an optimizer had a loss again after another one had its own
        self._first: Optional[LossCurve] = None  # that had a loss in this watch
        self._breaks_at: Optional[float] = None  # when every step was watched long enough
        self._has_breaks = False
        self._report_at = 0.0

    # -- between two steps

    def value_of(self, loss: Any) -> _Part:
        """A loss that is about to be backpropagated; None where its value cannot be known, or is not wanted now."""
        if type(loss) is not self._tensor or loss.numel() != 1:
            return None
        if loss.is_cpu:
            return float(loss.item())
        if not loss.is_cuda or self._torch.cuda.is_current_stream_capturing():
            return None
        # a copy: what `torch.compile` made may be overwritten by its next call
        return loss.detach().to(dtype=self._torch.float64, copy=True)

    def zeroed(self, owner: Any) -> None:
        """The gradients of an optimizer or a module are zeroed."""
        parts = self.thread.parts
        if len(parts) < MAX_PARTS:
            parts.append(_Zeroed(weakref.ref(owner)))

    def scaled(self, scaler: Any) -> None:
        """A GradScaler scales what is, or was, backpropagated before the next step."""
        parts = self.thread.parts
        if len(parts) < MAX_PARTS and scaler.is_enabled():
            parts.append(_Scaled(scaler))

    # -- a step

    def stepped(self, curve: Optional[LossCurve], optimizer: Any, step: int) -> Optional[LossCurve]:
        """An optimizer has made a step, or skipped it because of infinite gradients; only while this is watching.

        curve: what the last call for this optimizer returned. step: how many were made.
        """
        thread = self.thread
        if thread.watch != self.watch:  # the watch began in the middle of this thread's step
            self.forget_step()
            return curve
        parts, thread.parts = thread.parts, []
        return self._closed(curve, optimizer, step, parts) if parts else curve

    def forget_step(self) -> None:
        """Forget what has happened in this thread since its last step."""
        self.thread.watch, self.thread.parts = self.watch, []

    @guarded(HOOK)
    def _closed(self, curve: Optional[LossCurve], optimizer: Any, step: int, parts: list[_Part]) -> Optional[LossCurve]:
        values, scaler = _since_zeroed(parts, optimizer)
        if not values:
            return curve
        if curve is None:
            self._made += 1
            curve = LossCurve(self._made, optimizer)
            # some scripts make optimizers again and again
            self._curves = [*(other for other in self._curves if not other.is_over()), curve]
        self._takes_turns |= curve.count > 0 and self._last is not curve
        curve.count += 1
        self._last = curve
        if None not in values and len(parts) < MAX_PARTS:
            self._keep(curve, step, values, scaler)
        if self._first is None:
            self._first = curve
        elif self._first is curve and self._has_breaks:
            self.is_watching = False  # each had its turn
        return curve

    def _keep(self, curve: LossCurve, step: int, values: list[Any], scaler: Any) -> None:
        scale: Any = 1.0 if scaler is None else scaler._scale  # noqa: SLF001  get_scale() waits for the GPU
        if all(type(value) is float for value in values):
            curve.latest, curve.step = sum(values) / float(scale), step
        elif not isinstance(curve.latest, _GpuCopy) and len({getattr(value, "device", None) for value in values}) == 1:
            total = values[0]
            for value in values[1:]:
                total = total + value
            if scaler is not None:
                total = total / scale.to(total.device, non_blocking=True)
            curve.latest, curve.step = _GpuCopy(self._torch, total), step

    # -- reports

    def samples(self, now: float, *, is_over: bool = False) -> list[LossSample]:
        """What is to be reported at this instant, in monotonic seconds. Called right after a step.

        is_over: no more steps will come.
        """
        if now < self._report_at and not is_over:
            return []
        self._report_at = now + PERIOD_S
        self._watch_on(now)
        if not _SCALE_BY_THEMSELVES.isdisjoint(sys.modules):
            self.is_watching = False
            return []
        return [
            LossSample(curve.step, f"loss/{curve.number}" if self._takes_turns else "loss", value)
            for curve in self._curves
            # until an optimizer has a second loss, it is not known whether it takes turns with another
            if curve.count > 1 or (is_over and self._made == 1)
            if (value := curve.take()) is not None
        ]

    def _watch_on(self, now: float) -> None:
        if self._breaks_at is None:
            self._breaks_at = now + WATCHED_S
        if now > self._breaks_at:
            self._has_breaks = True
            self._first = None
            self.watch += 1
            self.forget_step()
            self.is_watching = True


def _since_zeroed(parts: list[_Part], optimizer: Any) -> tuple[list[Any], Any]:
    """The values since the gradients of this optimizer were last zeroed; and the GradScaler, if there is one."""
    values: list[Any] = []
    scaler = None
    for part in parts:
        if isinstance(part, _Scaled):
            scaler = part.scaler
        elif not isinstance(part, _Zeroed):
            values.append(part)
        elif values and _has_parameters_of(part.owner(), optimizer):
            values = []
    return values, scaler


def _has_parameters_of(owner: Any, optimizer: Any) -> bool:
    """Whether the first parameter of a module or an optimizer is one of this optimizer."""
    if owner is None or owner is optimizer:
        return owner is optimizer
    groups = getattr(owner, "param_groups", None)
    parameters = owner.parameters() if groups is None else (one for group in groups for one in group["params"])
    first = next(iter(parameters), None)
    return any(first is parameter for group in optimizer.param_groups for parameter in group["params"])


# -- how it gets there


def install(torch: Any, sampler: LossSampler, link: SupervisorLink, skipped: Callable[[Any], None]) -> None:
    """Let the sampler know of what the script does, unless a framework's hook drives the loop.

    skipped: called with an optimizer whose step a GradScaler has skipped.
    """
    is_compiling = getattr(getattr(torch, "compiler", None), "is_compiling", lambda: False)
    scaler = getattr(torch.amp, "GradScaler", None) or torch.cuda.amp.GradScaler  # before PyTorch 2.3
    torch.Tensor.backward = _around_backward(torch.Tensor.backward, sampler, is_compiling, link)
    for owner in (torch.optim.Optimizer, torch.nn.Module):
        owner.zero_grad = _around_zero_grad(owner.zero_grad, sampler, is_compiling)
    scaler.scale = _around_scale(scaler.scale, sampler, is_compiling)
    scaler.step = _around_scaler_step(scaler.step, sampler, is_compiling, skipped)


def _around_backward(
    function: Any, sampler: LossSampler, is_compiling: Callable[[], bool], link: SupervisorLink
) -> Any:
    """Wrap `Tensor.backward`. Must be fast."""
    thread = sampler.thread

    @functools.wraps(function)
    def backward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # torch.compile must not trace the rest
        if is_compiling() or not sampler.is_watching:
            return function(self, *args, **kwargs)
        if not link.samples_losses or _is_part(args, kwargs):
            return function(self, *args, **kwargs)
        parts = thread.parts
        count = len(parts)
        if count < MAX_PARTS:
            try:  # before: the step may be made while gradients are computed
                parts.append(sampler.value_of(self))
            except Exception:  # noqa: BLE001  a scalar of an unusual kind, or none: that is for the function to tell
                parts.append(None)
        try:
            result = function(self, *args, **kwargs)
        except BaseException:
            del parts[count:]
            raise
        del parts[count + 1 :]  # it may call itself, under a torch function mode
        return result

    return backward


def _is_part(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether it is called with a gradient, or for some tensors only: then it is part of something larger."""
    gradient = args[0] if args else kwargs.get("gradient")
    inputs = args[3] if len(args) > 3 else kwargs.get("inputs")
    return gradient is not None or inputs is not None


def _around_zero_grad(function: Any, sampler: LossSampler, is_compiling: Callable[[], bool]) -> Any:
    thread, zeroed = sampler.thread, guarded(HOOK)(sampler.zeroed)

    @functools.wraps(function)
    def zero_grad(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_compiling() and sampler.is_watching and thread.parts:
            zeroed(self)
        return function(self, *args, **kwargs)

    return zero_grad


def _around_scale(function: Any, sampler: LossSampler, is_compiling: Callable[[], bool]) -> Any:
    scaled = guarded(HOOK)(sampler.scaled)

    @functools.wraps(function)
    def scale(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_compiling() and sampler.is_watching:
            scaled(self)
        return function(self, *args, **kwargs)

    return scale


def _around_scaler_step(
    function: Any, sampler: LossSampler, is_compiling: Callable[[], bool], skipped: Callable[[Any], None]
) -> Any:
    scaled, skipped = guarded(HOOK)(sampler.scaled), guarded(HOOK)(skipped)

    @functools.wraps(function)
    def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        if is_compiling() or not sampler.is_watching:
            return function(self, optimizer, *args, **kwargs)
        scaled(self)  # a subclass may have a `scale` of its own
        result = function(self, optimizer, *args, **kwargs)
        if sampler.thread.parts:
            skipped(optimizer)
        return result

    return step
