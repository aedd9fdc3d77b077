"""The link of this process with the supervisor: what hooks and the public API ask of it, and report to it.

There is one SupervisorLink in a process: `current()`. The files behind it are in channel.py.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Callable, Iterator, Mapping, NoReturn, Optional

from . import distributed, file_events
from .channel import HOOK, ControlFileReader, EventsFile
from .deferred_signals import DeferredSignals, is_main_thread
from .failsafe import guarded, is_off, turn_off
from .pace import Pace
from .step_agreement import Agreement, StepRequest
from .step_reports import StepReports
from .training_processes import TrainingProcesses

_OVERDUE_AFTER = 1 / 3  # of the grace period; SIGTERM comes at two thirds: stop_ladder.py


class Stopped(SystemExit):
    """Training was stopped at the end of a step, and saved. The rest of the script is skipped.

    A SystemExit with code 0: `finally` and `with` blocks run, `except Exception` does not catch it, and the script ends
    without a traceback.
    """

    def __init__(self) -> None:
        super().__init__(0)


class SupervisorLink:
    """One process of one session of a run."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Touches no file. environment: as the supervisor made it. Raises KeyError and ValueError where it is not."""
        self._events = EventsFile(environment["BACKPROP_EVENTS"])
        self._control = ControlFileReader(environment["BACKPROP_CONTROL"])
        self.run_id = environment["BACKPROP_RUN_ID"]
        self.run_dir = environment["BACKPROP_RUN_DIR"]
        self.session_number = int(environment["BACKPROP_SESSION"])
        self.timebox_s = float(environment["BACKPROP_TIMEBOX_S"])
        self.offered = environment.get("BACKPROP_RESUME_FROM")
        self.resume_from = self.offered  # set to None by a hook that has continued from it
        self.is_resumed = self.offered is not None
        step = environment.get("BACKPROP_RESUME_STEP")
        self.resume_step = None if step is None else int(step)  # that resume_from was reported for, where known
        # the supervisor has looked into it: if we did so here, it would pass for a read by the script
        self.resume_has_state = "BACKPROP_RESUME_HOLDS_STATE" in environment
        self.may_sample_losses = "BACKPROP_NO_SAMPLED_LOSS" not in environment
        self.interrupts = DeferredSignals(self.is_stop_requested)
        self.agreement = Agreement(os.path.join(self.run_dir, f"session-{self.session_number}.agreed"))
        self.pace = Pace()
        self.steps = StepReports(self._events)
        self.owner: Optional[str] = None  # the framework whose loop is running; other hooks do nothing meanwhile
        self.samples_losses = True  # and whether losses are sampled meanwhile: it reports them late
        self.report_losses: Optional[Callable[..., None]] = None  # see hooks/pytorch; called after a step of its loop
        self.is_stopping = False  # a loop has accepted a request to stop
        self.has_unsaved_steps = False  # something was trained since the last checkpoint was reported
        self._is_inspecting = False  # hooks decide whether the offered checkpoint is theirs
        self._resume_source: Optional[str] = None  # what training continues from, until that is confirmed by a step
        path = os.path.join(self.run_dir, f"session-{self.session_number}.trains")
        self.training_processes = TrainingProcesses(path)
        self._saved_paths: set[str] = set()  # of which it is recorded that this process saves them
        self._answered_requests = 0  # checkpoint requests that need no save any more

    # -- events for the supervisor

    def send_event(self, **fields: Any) -> None:
        """Report an event, from rank 0 only. Never raises: see failsafe.py."""
        if distributed.rank() == 0:
            self._events.send(fields)

    def send_event_from_any_rank(self, **fields: Any) -> None:
        """Report what only this process has done, whichever rank it is."""
        self._events.send(fields)

    def register_process(self) -> None:
        """Record that this process trains, on every rank: the supervisor interrupts it at the end, but no worker.

        Costs a comparison when it has been done.
        """
        if self.training_processes.register() and (report := sys.modules.get(f"{__package__}.parameters.report")):
            report.process_trains()

    def report_checkpoint(self, path: str, step: Optional[int], *, weights_only: bool = False) -> None:
        """Report a checkpoint that is completely written. weights_only: it has no optimizer state."""
        self.register_process()
        self.skip_save()
        self.has_unsaved_steps = False
        file_events.checkpoint_is_reported(path, step)
        more = {"weights_only": True} if weights_only else {}
        path = os.path.abspath(path)
        self._record_saver(path)
        self.send_event(event="checkpoint_saved", path=path, step=step, **more)

    @guarded(HOOK)
    def _record_saver(self, path: str) -> None:
        if path in self._saved_paths or distributed.rank() != 0:
            return
        self._saved_paths.add(path)
        from .trainings import savers  # only here, because it imports much

        with suppress(OSError):  # a full disk: then it is not known which process saved it
            savers.remember(self.run_dir, savers.of_this_process(self.session_number, self.offered), path)

    # -- resuming

    def announce_inspection(self, *, may_be_ours: bool) -> None:
        """Announce that a hook reads the offered checkpoint to find out whether it is its own: not a resume yet.

        may_be_ours: whether the hook can tell. If not, it must not read the file: a read counts as one by the script.
        """
        if may_be_ours:
            self._is_inspecting = True
            self.send_event(event="training_began")

    def is_offered(self, path: Any) -> bool:
        """Whether a path that the script continues from is the checkpoint that it was offered, and no other."""
        if self.offered is not None and isinstance(path, (str, os.PathLike)):
            return os.path.realpath(os.fsdecode(path)) == os.path.realpath(self.offered)
        return False

    def set_resume_source(self, path: Optional[str]) -> None:
        """Set the checkpoint that a training continues from; None: it starts from the beginning, as the hook decided.

        A path is reported later, by `confirm_resume`: restoring it may still fail.
        """
        self._resume_source = None
        if not self.is_resumed:
            return
        if path is not None:
            self.announce_inspection(may_be_ours=not self._is_inspecting)
            self._resume_source = os.path.abspath(path)
        elif self._is_inspecting:
            self.send_event(event="training_began", resumed_from=None)

    def confirm_resume(self) -> None:
        """Report the checkpoint that a training has continued from: a step was made, or none was missing."""
        path, self._resume_source = self._resume_source, None
        if path is not None and not (self.owner is not None and is_off(self.owner)):  # off: not known
            self.send_event(event="training_began", resumed_from=path)

    def cancel_resume(self) -> None:
        """Nothing continues from the checkpoint given to `set_resume_source`: restoring it has failed."""
        self._resume_source = None

    # -- requests of the supervisor

    def should_stop(self) -> bool:
        """Whether training is to end after this step. Usually costs a tenth of a microsecond."""
        self._control.poll()
        return self._control.stop_requested or self.interrupts.is_interrupted

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint was requested, and none has been saved since."""
        self._control.poll()
        return self._control.checkpoint_requests > self._answered_requests

    def skip_save(self) -> None:
        """Save nothing for the present request: it was answered, nothing has changed, or saving failed."""
        self._answered_requests = self._control.checkpoint_requests

    def time_left_s(self) -> float:
        """Seconds until the timebox ends; at least 0."""
        self._control.poll()
        deadline = self._control.deadline
        return self.timebox_s if deadline is None else max(0.0, deadline - monotonic())

    def is_overdue(self) -> bool:
        """Whether a stop was requested so long ago that the script will not react any more."""
        self._control.poll()
        overdue_at = (self._control.deadline or 0.0) + self._control.grace_s * _OVERDUE_AFTER
        return self._control.stop_requested and monotonic() > overdue_at

    def is_checkpoint_read(self) -> bool:
        """Whether any process of the session has read the offered checkpoint, as far as the supervisor knows."""
        self._control.poll()
        return self._control.is_checkpoint_read

    def is_stop_requested(self) -> bool:
        """Whether the supervisor requests a stop, as of now."""
        self._control.read()
        return self._control.stop_requested

    def refresh(self) -> None:
        """Let the next answer be up to date, rather than up to POLL_INTERVAL_S old."""
        self._control.expire()

    # -- a loop that a hook drives

    @contextmanager
    def training(
        self,
        owner: str,
        unit: Optional[str] = None,
        *,
        is_counted: bool = False,
        ends_script: bool = True,
        samples_losses: bool = False,
    ) -> Iterator[bool]:
        """Drive a framework's loop: inside, the caller calls `at_step_end` after every step, and does what it returns.

        Yields False, and does nothing, inside another framework's loop. If the loop was stopped early, this ends with
        Stopped.

        owner: the framework's name. unit, is_counted: as in `set_unit`; None: not known. ends_script: False for a
        script that checks by itself whether it was stopped; then this ends normally. samples_losses: it makes optimizer
        steps, and reports their losses late or never.
        """
        if self.owner is not None:
            yield False
            return
        self.owner, self.samples_losses = owner, samples_losses
        self.is_stopping = False
        self.register_process()
        self.agreement.begin_loop()
        if unit is not None:
            self.steps.set_unit(unit, is_counted=is_counted)
        self.pace.begin_loop(monotonic())
        self.steps.begin_loop()
        self.pace.report(self.send_event)
        try:
            with self.interrupts.patient():
                try:
                    yield True
                finally:
                    self._report_losses(is_over=True)
                    self.steps.end_loop()
            if not self.is_stopping:
                self.confirm_resume()
                self.send_event(event="finished")
            elif ends_script:
                self.end_script()
        except SystemExit:
            # only now: the framework has run all that it runs when its loop is left
            if self.is_stopping and ends_script and not is_main_thread():
                self.interrupts.end_main_thread(self._exit_exception())
            raise
        finally:
            self.owner = self._resume_source = None
            self.samples_losses = True

    @contextmanager
    def preparing(self, owner: str) -> Iterator[None]:
        """Inside, a framework only tries something out: no hook reports the steps and files of that.

        owner: the framework's name.
        """
        before, self.owner = self.owner, self.owner or owner
        try:
            yield
        finally:
            self.owner = before

    def at_step_end(self, step: int, *, total_steps: Optional[int] = None, is_counted: bool = False) -> StepRequest:
        """What the supervisor requests, at the end of a step of a loop that we drive. The same on all ranks.

        Reports the step if no metrics were reported for a second: the rate, the ETA and `wait --stalled` need it. On a
        request to stop, the caller saves, calls `accept_stop`, and ends the loop.

        step: as all ranks count it. is_counted: the script may count, and report, in steps of another kind.
        """
        if self._resume_source is not None:
            self.confirm_resume()
        now = monotonic()
        self.pace.end_step(now)
        if self.owner is not None:
            self.pace.report(self.send_event)
        self._report_losses(is_over=False)
        self.steps.end_step(now, step, total_steps, is_counted=is_counted)
        request = StepRequest(save=self.checkpoint_due(), stop=self.should_stop())
        return request if distributed.world_size() == 1 else self._agreed(step, request)

    def _report_losses(self, *, is_over: bool) -> None:
        if self.samples_losses and self.report_losses is not None:
            self.report_losses(is_over=is_over)

    @guarded("distributed training", otherwise=StepRequest())
    def _agreed(self, step: int, request: StepRequest) -> StepRequest:
        return self.agreement.agree(step, request)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Inside, a checkpoint is written: interrupts wait for its end, and its duration is measured."""
        began = monotonic()
        with self.interrupts.held():
            yield
            self.pace.end_save(began, monotonic())
            if self.owner is not None:
                self.pace.report(self.send_event)

    def restart_step_timer(self) -> None:
        """Exclude the time since the last step's end, such as an evaluation, from the duration of the next step."""
        self.pace.restart_step(monotonic())

    def accept_stop(self) -> None:
        """The loop ends because it was asked to."""
        self.is_stopping = True
        self.interrupts.stay_patient()

    def end_script(self) -> NoReturn:
        """End the script where its loop was stopped: by Stopped, if the supervisor requested that.

        Otherwise by KeyboardInterrupt: SIGINT was sent to this very process, and what would have ended it without
        us must not pass for completed training. In a thread other than the main one, `training` does so for the main
        thread, and only this thread is ended here: by a SystemExit, which `threading` ignores.
        """
        if not is_main_thread():
            raise SystemExit(0)
        raise self._exit_exception()

    def _exit_exception(self) -> type[BaseException]:
        return Stopped if self.is_stop_requested() else KeyboardInterrupt


_current: Optional[SupervisorLink] = None
_is_current_known = False


def current() -> Optional[SupervisorLink]:
    """The link of this process; None outside a Backprop run."""
    global _current, _is_current_known  # noqa: PLW0603  one in a process
    if not _is_current_known:
        _is_current_known = True
        if os.environ.get("BACKPROP_EVENTS"):
            try:
                _current = SupervisorLink(os.environ)
            except (KeyError, ValueError) as error:  # part of the environment is missing
                turn_off(HOOK, error)
    return _current
