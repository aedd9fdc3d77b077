"""PyTorch scripts with a loop of their own: checkpoints are reported, optimizer steps counted, and losses sampled.

Such a script saves when it likes, and stops by KeyboardInterrupt. If it does not save when it is stopped, emergency.py
does. While a framework's loop runs, this hook does nothing: the framework's own hook knows more.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
import weakref
from contextlib import nullcontext
from time import monotonic
from typing import Any, ContextManager, Optional

from ... import distributed, file_events
from ...deferred_signals import is_main_thread
from ...failsafe import guarded, notify_user
from ...link import SupervisorLink, current
from ...overwrites import process_keeper
from ..saved_files.contents import CheckpointContent
from ..saved_files.pending import HOOK as SAVES
from ..saved_files.pending import find_place
from ..saved_files.script_files import ScriptFiles, is_trainer, of_this_process
from . import emergency, states
from .sampled_loss import HOOK as LOSSES
from .sampled_loss import LossCurve, LossSampler, install

CHECK_INTERVAL_S = 0.25
_STEPS = "steps of PyTorch's optimizers"
_EMERGENCY = "the emergency save"


class StepCount:
    """The steps up to the latest one of an optimizer."""

    __slots__ = ("losses", "optimizer", "steps")

    def __init__(self, optimizer: Any, begin: int) -> None:
        """begin: steps of trainings before this one."""
        self.optimizer = weakref.ref(optimizer)
        self.steps = begin
        self.losses: Optional[LossCurve] = None  # see sampled_loss.py


class ScriptMonitor:
    """One process of a script that imported torch."""

    def __init__(self, link: SupervisorLink, files: ScriptFiles, torch: Any) -> None:
        self.link = link
        self.files = files
        self.saves = files.saves
        files.count_steps = lambda: self.step if self._most else 0
        files.earlier_steps = lambda: self._base
        files.after_report = self._let_go
        self._write = torch.save
        self.losses = LossSampler(torch)
        self._is_compiling = getattr(getattr(torch, "compiler", None), "is_compiling", lambda: False)
        self._base = 0  # steps of earlier sessions, once the script has read the checkpoint to resume from
        self._is_base_known = False  # from a step number that the script has saved
        self._counts: dict[int, StepCount] = {}  # by id() of the optimizer, which is fastest
        # of optimizers in loops that frameworks drive, whose steps are not counted here
        self._driven: weakref.WeakKeyDictionary[Any, Optional[LossCurve]] = weakref.WeakKeyDictionary()
        self._most = 0  # of all optimizers: in a GAN, two of them make one training step
        self._reported_step: Optional[int] = None
        self._look_at = 0.0
        self._parts: dict[
            str, tuple[Optional[int], set[bool]]
        ] = {}  # by folder: step, and whether optimizers or weights were saved
        self._kept: tuple[list[Any], list[Any]] = ([], [])
        self._rescued_step: Optional[int] = None
        self._stepper: Optional[threading.Thread] = None
        self._was_trainer = True  # at the latest step: its process group may be gone at the end
        self._ending_pid: Optional[int] = None  # of a child process that calls `end`
        self._is_broken_off = False  # by an uncaught KeyboardInterrupt
        self._optimizer = sys.modules["torch.optim.optimizer"].Optimizer
        step = self._optimizer.profile_hook_step(lambda _: None).__code__  # the wrapper of all optimizer steps
        look: Any = type(self)._look  # noqa: SLF001  our own
        self._step_pause = emergency.StepPause(step, look.__wrapped__.__code__)
        if link.offered is not None:
            file_events.on_first_read(os.path.realpath(link.offered), self._read, _STEPS)

    @property
    def step(self) -> int:
        """The training step, as counted by optimizer steps."""
        return self._base + self._most

    def hold(self) -> ContextManager[None]:
        """Inside, interrupts are deferred. They only come to the main thread."""
        return self.link.saving() if is_main_thread() else nullcontext()

    # -- steps

    def before_step(self, _optimizer: Any, _args: Any, _kwargs: Any) -> None:
        """Called by PyTorch before every step of any optimizer."""
        if not self._is_compiling():
            self._step_pause.wait()

    def stepped(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        """Count a step. Called by PyTorch after every step of any optimizer, so it must be fast."""
        if self._is_compiling():  # torch.compile must not trace the rest
            return
        if self.link.owner is not None:
            if self.losses.is_watching and self.link.samples_losses:
                self._sample_driven(optimizer)
            return
        count = self._count_of(optimizer)
        count.steps += 1
        self._most = max(self._most, count.steps)
        self.link.has_unsaved_steps = True
        if self.losses.is_watching:
            count.losses = self.losses.stepped(count.losses, optimizer, self._most)
        if monotonic() >= self._look_at:
            self._look()

    def _count_of(self, optimizer: Any) -> StepCount:
        count = self._counts.get(id(optimizer))
        if count is None or count.optimizer() is not optimizer:  # ids are reused
            # a training that follows others, which are gone: a fold, or an epoch with an optimizer of its own
            is_alone = all(other.optimizer() is None for other in self._counts.values())
            count = self._counts[id(optimizer)] = StepCount(optimizer, self._most if is_alone else 0)
            self._look_at = 0.0
        return count

    @guarded(LOSSES)
    def _sample_driven(self, optimizer: Any) -> None:
        """Take the loss of a step of a framework's loop, which counts its steps itself."""
        step = self.link.steps.in_loop
        if step is None:  # the number of its first step is not known
            self.losses.forget_step()
        else:
            curve = self._driven.get(optimizer)
            self._driven[optimizer] = self.losses.stepped(curve, optimizer, step + 1)

    def skipped(self, optimizer: Any) -> None:
        """A GradScaler did not let an optimizer make a step: its loss is known all the same."""
        if self.link.owner is None and isinstance(optimizer, self._optimizer):
            count = self._count_of(optimizer)
            count.losses = self.losses.stepped(count.losses, optimizer, self._most)
            if monotonic() >= self._look_at:
                self._look()

    @guarded(_STEPS)
    def _look(self) -> None:
        self._look_at = monotonic() + CHECK_INTERVAL_S
        self.link.register_process()
        self._stepper = threading.current_thread()
        self._was_trainer = is_trainer()
        self._end_with_child()
        if not self._was_trainer:
            self.losses.is_watching = False
            return
        self._kept = ([], [])  # training continues, and the script holds these objects itself
        self.link.interrupts.watch(self._keep)
        self.saves.report_final_names(at_step=True)
        self._report_step()
        self.report_losses()
        # the script ignores the stop: this is the last chance before SIGTERM
        if self._rescued_step is None and self.link.is_overdue():
            self.rescue(is_once=True)

    def _end_with_child(self) -> None:
        """A child process of multiprocessing ends without `atexit`, and forgets what its parent has registered."""
        if self._ending_pid != os.getpid() and (util := sys.modules.get("multiprocessing.util")) is not None:
            self._ending_pid = os.getpid()
            if sys.modules["multiprocessing.process"].parent_process() is not None:
                util.Finalize(None, self.end, exitpriority=0)

    def _report_step(self) -> None:
        # it may be read by another process, or by code that opens files itself
        if not self._base and not self._is_base_known and self.link.is_checkpoint_read():
            self._base = self.link.resume_step or 0
        if self._most and self._reported_step != self.step:
            self._reported_step = self.step
            self.link.confirm_resume()  # for frameworks whose loop is not driven
            if self.link.steps.count_now is None:
                self.link.steps.set_unit("optimizer step", is_counted=True)
                self.link.steps.count(self.step)

    @guarded(LOSSES)
    def report_losses(self, *, is_over: bool = False) -> None:
        """Report losses that were sampled, if it is time. Called right after a step, or at the end."""
        for step, name, value in self.losses.samples(monotonic(), is_over=is_over):
            base = self._base if self.link.owner is None else 0
            self.link.send_event(step=base + step, sampled=True, **{name: value})

    # -- saves

    def _read(self) -> None:
        """The offered checkpoint was read: to resume from it, unless training has begun."""
        if self._most <= 1:  # one step may be needed to create an optimizer state before loading
            self._base = self.link.resume_step or 0

    def _compare(self, step: int) -> None:
        """Compare with a step number that the script has saved: it counts from 0, or on from an earlier session."""
        before = self.link.resume_step
        if before is None or not self._most or self._is_base_known:
            return
        if step == before + self._most:
            self._base, self._is_base_known = before, True
        elif step in {self._most, self._most - 1}:
            self._base, self._is_base_known = 0, True

    @guarded(SAVES)
    def before_save(self) -> None:
        """Report earlier saves, whose names may be reused now."""
        self.saves.report_final_names(at_step=False)

    @guarded(SAVES)
    def saved(self, content: Any, where: Any) -> None:
        """The script has saved an object. where: a path, or an open file with a name."""
        place = find_place(where) if is_trainer() else None
        if place is None:
            return
        path, file = place
        optimizers = self._optimizers()
        found = states.content_of(content, optimizers)
        if states.is_optimizer(content) or (found is not None and not found.is_state):
            self._saved_part(os.path.dirname(os.path.abspath(path)), is_optimizer=found is None)
        if found is not None and self.files.is_checkpoint(path, found, is_trained=bool(optimizers)):
            self._add(path, found, file=file)
        elif file is not None:
            self.files.ignore(path)

    def _saved_part(self, folder: str, *, is_optimizer: bool) -> None:
        """Weights or an optimizer state were saved: a folder with both of one step is a checkpoint."""
        step, kinds = self._parts.get(folder, (None, set()))
        kinds = {is_optimizer} if step != self.step else kinds | {is_optimizer}
        self._parts[folder] = (self.step, kinds)
        is_around_us = (os.getcwd() + os.sep).startswith(folder + os.sep)
        if len(kinds) > 1 and self._most and not is_around_us:
            self._add(folder, CheckpointContent(is_state=True), is_shared=True)

    @guarded(SAVES)
    def saved_folder(self, path: Any) -> None:
        """The script has saved a complete training state into a folder, maybe together with other ranks."""
        if is_trainer():
            self._add(os.fsdecode(path), CheckpointContent(is_state=True), is_shared=distributed.world_size() > 1)

    def _add(self, path: str, content: CheckpointContent, **how: Any) -> None:
        if content.step is not None:
            self._compare(content.step)
        self._report_step()
        if not self.files.add(path, content, **how):
            self._look_at = 0.0

    def _let_go(self) -> None:
        self._kept = ([], [])

    # -- the end

    def _optimizers(self) -> list[Any]:
        """The existing optimizers that have made steps, those with most steps first."""
        counts = sorted(self._counts.values(), key=lambda count: -count.steps)
        return [optimizer for count in counts if (optimizer := count.optimizer()) is not None]

    @guarded(_EMERGENCY)
    def _keep(self) -> None:
        """Hold references to what is being trained, which would be freed with the frames that an interrupt ends.

        Called in a signal handler: nothing is saved here.
        """
        if self.link.owner is None and is_trainer():
            optimizers = self._optimizers()
            self._kept = (optimizers, emergency.find_models(optimizers))

    @guarded(_EMERGENCY)
    def rescue(self, *, is_once: bool = False) -> None:
        """Save what was trained since the last checkpoint, if anything was. Other threads make no steps meanwhile.

        is_once: only if no thread has done so before.
        """
        with self._step_pause.held() as is_still:
            self.saves.report_final_names(at_step=True)
            is_done = self._rescued_step is not None if is_once else self._rescued_step == self.step
            if not self.link.has_unsaved_steps or is_done or not is_trainer():
                return
            optimizers = self._optimizers()
            if not optimizers:
                return
            self._rescued_step = self.step
            if not is_still:
                notify_user(
                    "the script did not save when it was stopped, nor did we: another thread is in the middle of a step"
                )
                return
            self._write_emergency(optimizers)

    def _write_emergency(self, optimizers: list[Any]) -> None:
        models = emergency.find_models(optimizers)
        path = os.path.join(self.link.run_dir, f"emergency-session-{self.link.session_number}.pt")
        with self.hold():
            emergency.save(path, self._write, self.step, optimizers, models)
            self.link.send_event(event="checkpoint_saved", path=path, step=self.step, emergency=True)
            notify_user(f"the script did not save when it was stopped: step {self.step} was saved to {path}")

    def rescue_broken_off(self) -> None:
        """The same, when an interrupt has ended the main thread."""
        self.rescue()
        self._is_broken_off = True

    @guarded(_STEPS)
    def end(self) -> None:
        """Called when the interpreter exits."""
        if not (is_trainer() and self._was_trainer):
            return
        self.saves.report_final_names(at_step=True)
        self._report_step()
        self.report_losses(is_over=True)
        self.link.refresh()
        # a daemon thread trains until the process ends: its last steps are not worth another file
        is_rescued = self._is_broken_off and self._stepper is not None and self._stepper.daemon
        if self.link.should_stop() and not is_rescued:
            self.rescue()


_monitor: Optional[ScriptMonitor] = None


def hook(module: Any) -> None:
    """Called after the import of torch, safetensors.torch or accelerate.accelerator."""
    link = current()
    if link is None:
        return
    if module.__name__ == "torch":
        _hook_torch(module, link)
    elif _monitor is not None:
        if module.__name__ == "safetensors.torch":
            module.save_file = _reported(_monitor, module.save_file)  # save_model() calls it by this name
            module.load_file = _watched(module.load_file)
        else:
            module.Accelerator.save_state = _reported_folder(_monitor, module.Accelerator.save_state)


def _hook_torch(torch: Any, link: SupervisorLink) -> None:
    global _monitor  # noqa: PLW0603  one in a process
    monitor = ScriptMonitor(link, of_this_process(link), torch)
    # global hooks, in PyTorch 2.0 and up; torch.optim does not export their module
    optimizer = sys.modules["torch.optim.optimizer"]
    optimizer.register_optimizer_step_pre_hook(monitor.before_step)
    optimizer.register_optimizer_step_post_hook(monitor.stepped)
    torch.save = torch.serialization.save = _reported(monitor, torch.save)
    torch.load = torch.serialization.load = _watched(torch.load)
    if link.may_sample_losses:
        install(torch, monitor.losses, link, monitor.skipped)
        link.report_losses = monitor.report_losses
    atexit.register(monitor.end)
    chained = sys.excepthook

    def excepthook(kind: Any, value: Any, traceback: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            monitor.rescue_broken_off()
            _hide_our_frames(traceback)
        chained(kind, value, traceback)

    sys.excepthook = excepthook
    _monitor = monitor


def _hide_our_frames(traceback: Any) -> None:
    """Remove our signal handler from the traceback of a KeyboardInterrupt."""
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    last = None
    while traceback is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(ours):
            last = traceback
        traceback = traceback.tb_next
    if last is not None:
        last.tb_next = None


def _watched(function: Any) -> Any:
    """Wrap a function that reads a file, its first argument."""

    @functools.wraps(function)
    def load(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        file_events.was_opened_for_reading(args[0] if args else next(iter(kwargs.values()), None))
        return result

    return load


def _reported(monitor: ScriptMonitor, function: Any) -> Any:
    """Wrap a function that saves its first argument to its second, and report the save."""
    content_name, where_name = function.__code__.co_varnames[:2]

    @functools.wraps(function)
    def save(*args: Any, **kwargs: Any) -> Any:
        named = {**dict(zip((content_name, where_name), args)), **kwargs}
        where = named.get(where_name)
        process_keeper.before_write(where)  # PyTorch's C++ code opens it, unless it is an open file
        is_named = isinstance(where, (str, os.PathLike)) or isinstance(getattr(where, "name", None), str)
        if not (is_named and monitor.files.is_in_charge()):
            return function(*args, **kwargs)
        monitor.before_save()
        with monitor.hold():
            result = function(*args, **kwargs)
            monitor.saved(named.get(content_name), where)
        return result

    return save


def _reported_folder(monitor: ScriptMonitor, function: Any) -> Any:
    """Wrap a method that returns the folder that it has saved to, and report the save."""

    @functools.wraps(function)
    def save(*args: Any, **kwargs: Any) -> Any:
        if not monitor.files.is_in_charge():
            return function(*args, **kwargs)
        monitor.before_save()
        with monitor.hold():
            result = function(*args, **kwargs)
            if result is not None:
                monitor.saved_folder(result)
        return result

    return save
