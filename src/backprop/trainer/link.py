"""The link of this process with the supervisor: what it wants is read here, what happens is told here.

It is told through a file of its own ($BACKPROP_EVENTS), so that the script's stdout stays the script's; what is wanted
comes through control.json ($BACKPROP_CONTROL). Both are described in the README, under "The contract with scripts".
There is one Session in a process: `current`.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from contextlib import contextmanager, suppress
from functools import lru_cache
from time import monotonic
from typing import Any, Iterator, Mapping, NoReturn, Optional

from . import distributed, file_events
from .deferred_signals import Interrupts
from .distributed import Agreement, StepRequest
from .failsafe import guarded, is_off, turn_off

POLL_EVERY_S = 0.1  # control.json is looked at no more often: a look costs microseconds, training steps may too
STEP_EVERY_S = 1.0  # the supervisor hears of a step at least so often, if one is made
_OVERDUE_AFTER = 1 / 3  # of the grace; SIGTERM comes at two thirds: stop_ladder.py
_TELL_AGAIN = 1.2  # the supervisor hears of a step or a save that took so much longer than any before
_HOOK = "the supervisor"
_LATER = {errno.ENOSPC, errno.EDQUOT}


class Stopped(SystemExit):
    """Training was stopped at the end of a step, and saved. What the script does after training is not done.

    A SystemExit with code 0: `finally` and `with` are carried out, `except Exception` does not swallow it, and the
    script ends without a traceback.
    """

    def __init__(self) -> None:
        super().__init__(0)


class Session:
    """One process of one session of a run."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Touches no file. environment: as the supervisor made it."""
        self._events_path = environment["BACKPROP_EVENTS"]
        self._control_path = environment["BACKPROP_CONTROL"]
        self.run_id = environment["BACKPROP_RUN_ID"]
        self.run_dir = environment["BACKPROP_RUN_DIR"]
        self.number = int(environment["BACKPROP_SESSION"])
        self.timebox_s = float(environment["BACKPROP_TIMEBOX_S"])
        self.offered = environment.get("BACKPROP_RESUME_FROM")
        self.resume_from = self.offered  # forgotten by whoever has continued from it
        self.is_resumed = self.offered is not None
        step = environment.get("BACKPROP_RESUME_STEP")
        self.resume_step = None if step is None else int(step)  # that resume_from was reported for, where known
        # what we ourselves read of it in here would pass for the script's read: the supervisor has looked
        self.resumes_state = "BACKPROP_RESUME_HOLDS_STATE" in environment
        self.interrupts = Interrupts(self.is_stop_wanted)
        self._is_checkpoint_read = False
        self.owner: Optional[str] = None  # the framework whose loop is running; others keep quiet
        self._is_judging = False  # hooks judge the checkpoint
        self._restored: Optional[str] = None  # from which training goes on, once it has gone on
        self.is_stopping = False  # somebody's loop has obeyed a wish to stop
        self.has_news = False  # something was trained since the last checkpoint was reported
        self._announced_path = os.path.join(self.run_dir, f"session-{self.number}.trains")
        self.agreement = Agreement(os.path.join(self.run_dir, f"session-{self.number}.agreed"))
        self.pace = Pace()
        self._announced_pid: Optional[int] = None
        self._step_told_at = 0.0
        self._told_step: Optional[int] = None  # the last that the supervisor knows of
        self._last_step: Optional[tuple[int, Optional[int], bool]] = None  # of the loop that is running
        self._is_total_told = False  # of the loop that is running
        self._saved: set[str] = set()  # paths of which it is known that this process saves them
        self._fd: Optional[int] = None
        self._is_torn = False  # the last line may have been written in part
        self._poll_at = 0.0
        self._mark: Optional[tuple[int, int]] = None
        self._stop_wanted = False
        self._checkpoint_wanted = 0
        self._answered = 0
        self._deadline: Optional[float] = None
        self._grace_s = 0.0

    # -- tell

    def tell(self, **fields: Any) -> None:
        """Write an event, as one line of JSON. Only rank 0 does. Never raises: see failsafe.py."""
        if distributed.rank() == 0:
            self._write(_encode(fields))

    def tell_for_all(self, **fields: Any) -> None:
        """The same of what only this process has done, whichever rank it is."""
        self._write(_encode(fields))

    @guarded(_HOOK)
    def _write(self, line: str) -> None:
        if self._fd is None:
            self._fd = os.open(self._events_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        data = (("\n" if self._is_torn else "") + line + "\n").encode()
        self._is_torn = True
        try:
            # one write a line: whole even when several processes append, and nothing to flush when we are killed
            self._is_torn = os.write(self._fd, data) != len(data)
        except OSError as error:  # a full disk: the supervisor sees to that; a later line may fit again
            if error.errno not in _LATER:
                raise

    def log(self, step: int, metrics: Mapping[str, Any], total_steps: Optional[int] = None) -> None:
        """Report metrics at a step. What is no number is left out."""
        if distributed.rank() != 0:
            return
        self._step_told_at = monotonic()
        self._told_step = step
        # by hand, because this is done at every step: json.dumps alone takes longer than all of this
        line = f'{{"step": {_number_text(step)}'
        for name, value in metrics.items():
            text = _number_text(value)
            if text is not None and name not in {"step", "event"}:
                line += f", {_quoted(name)}: {text}"
        if total_steps is not None:
            line += f', "total_steps": {total_steps}'
            self._is_total_told = True
        self._write(line + "}")

    def announce(self) -> None:
        """Let the supervisor know that this process trains: it is interrupted at the end, as no worker is.

        Every rank does. Costs a comparison when it has been done.
        """
        pid = os.getpid()  # a fork of this process is another
        if self._announced_pid != pid:
            self._announced_pid = pid
            self._announce(pid)

    def _announce(self, pid: int) -> None:
        with suppress(OSError):  # a full disk: then it is found out from outside, or interrupted like the others
            fd = os.open(self._announced_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, f"{pid} {_started()}\n".encode())
            finally:
                os.close(fd)

    def saved(self, path: str, step: Optional[int], *, weights_only: bool = False) -> None:
        """Report a checkpoint that is whole. weights_only: no optimizer's state is in it."""
        self.announce()
        self._answered = self._checkpoint_wanted
        self.has_news = False
        file_events.checkpoint_is_reported(path, step)
        more = {"weights_only": True} if weights_only else {}
        path = os.path.abspath(path)
        self._remember_saver(path)
        self.tell(event="checkpoint_saved", path=path, step=step, **more)

    @guarded(_HOOK)
    def _remember_saver(self, path: str) -> None:
        if path in self._saved or distributed.rank() != 0:
            return
        self._saved.add(path)
        from . import savers  # only here, because there is much to import

        with suppress(OSError):  # a full disk: as if nobody knew
            savers.remember(self.run_dir, savers.of_this_process(self.number, self.offered), path)

    def looks_for_checkpoint(self, *, may_be_ours: bool) -> None:
        """Announce that a hook reads the offered checkpoint to find out whose it is: that is no resume yet.

        may_be_ours: whether the hook can judge it. Else it must not read it: what the script reads counts.
        """
        if may_be_ours:
            self._is_judging = True
            self.tell(event="training_began")

    def is_offered(self, named: Any) -> bool:
        """Whether this, which a script continues from, is no choice of its own: the checkpoint that it was offered."""
        if self.offered is None or not isinstance(named, (str, os.PathLike)):
            return False
        return os.path.realpath(os.fsdecode(named)) == os.path.realpath(self.offered)

    def begins_from(self, path: Optional[str]) -> None:
        """Say what a training goes on from; None: it starts from the beginning, as far as the hook can judge.

        A path is reported as what was resumed from by `went_on`: what is in it may yet turn out not to fit.
        """
        self._restored = None
        if not self.is_resumed:
            return
        if path is not None:
            self.looks_for_checkpoint(may_be_ours=not self._is_judging)
            self._restored = os.path.abspath(path)
        elif self._is_judging:
            self.tell(event="training_began", resumed_from=None)

    def went_on(self) -> None:
        """Report what a training has gone on from: a step was made, or none was missing."""
        path, self._restored = self._restored, None
        if path is not None and not (self.owner is not None and is_off(self.owner)):  # else nobody knows
            self.tell(event="training_began", resumed_from=path)

    def forget_resume(self) -> None:
        """Nothing goes on from what `begins_from` has named: restoring it has failed."""
        self._restored = None

    def forgo_save(self) -> None:
        """Save nothing for what is wanted now: it cannot be, or nothing has changed. The next wish counts again."""
        self._answered = self._checkpoint_wanted

    # -- hear

    def should_stop(self) -> bool:
        """Whether training is to end at the end of this step. Costs a tenth of a microsecond, mostly."""
        self._poll()
        return self._stop_wanted or self.interrupts.is_asked

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is wanted, and none was saved since."""
        self._poll()
        return self._checkpoint_wanted > self._answered

    def time_left_s(self) -> float:
        """Seconds until the timebox ends; never less than 0."""
        self._poll()
        return self.timebox_s if self._deadline is None else max(0.0, self._deadline - monotonic())

    def is_overdue(self) -> bool:
        """Whether a stop was wanted so long ago that the script is not going to answer it."""
        self._poll()
        overdue_at = (self._deadline or 0.0) + self._grace_s * _OVERDUE_AFTER
        return self._stop_wanted and monotonic() > overdue_at

    def is_checkpoint_read(self) -> bool:
        """Whether the supervisor has seen a read of the offered checkpoint, by whatever process."""
        self._poll()
        return self._is_checkpoint_read

    def look_again(self) -> None:
        """Let the next answer be what control.json says at that moment."""
        self._poll_at = 0.0

    def at_step_end(self, step: int, *, total_steps: Optional[int] = None, is_counted: bool = False) -> StepRequest:
        """What is wanted, at the end of a step of a loop that we drive. The same on all ranks.

        Reports the step where no metrics were reported for a second: the rate, the ETA and `wait --stalled` need it.
        step: as all ranks count it. is_counted: the script may count, and report, in steps of another kind.
        Whoever gets a wish to stop saves, calls `obey_stop`, and ends the loop.
        """
        if self._restored is not None:
            self.went_on()
        self._time_step()
        self._last_step = (step, total_steps, is_counted)
        if monotonic() >= self._step_told_at + STEP_EVERY_S:
            self._tell_step(step, total_steps, is_counted=is_counted)
        wish = StepRequest(save=self.checkpoint_due(), stop=self.should_stop())
        return wish if distributed.world_size() == 1 else self._agreed(step, wish)

    def _tell_step(self, step: int, total_steps: Optional[int], *, is_counted: bool) -> None:
        if is_counted:
            self._step_told_at = monotonic()
            self._told_step = step
            self.tell(step=step, counted=True)
        else:  # the total is a metric: once is enough
            self.log(step, {}, None if self._is_total_told else total_steps)

    def _tell_last_step(self) -> None:
        if self._last_step is not None:
            step, total_steps, is_counted = self._last_step
            self._last_step = None
            told = self._told_step  # by the script, it may be of another kind than those that are counted
            if told is None or (step != told if is_counted else step > told):
                self._tell_step(step, total_steps, is_counted=is_counted)

    @guarded("distributed training", otherwise=StepRequest())
    def _agreed(self, step: int, wish: StepRequest) -> StepRequest:
        return self.agreement.settle(step, wish)

    def obey_stop(self) -> None:
        """Remember that the loop ends because somebody wished it."""
        self.is_stopping = True
        self.interrupts.stay_patient()

    def end_script(self) -> NoReturn:
        """End the script where its loop was stopped: by Stopped, if that was the supervisor's wish.

        Else by KeyboardInterrupt: somebody sent SIGINT to this very process, and what would have ended it without us
        must not pass for a training that was completed. In a thread that is not the main one, `training` does so for
        the main one, and only this thread is ended here: by a SystemExit, which `threading` keeps quiet about.
        """
        if not _is_main_thread():
            raise SystemExit(0)
        raise self._ending()

    def _ending(self) -> type[BaseException]:
        return Stopped if self.is_stop_wanted() else KeyboardInterrupt

    def is_stop_wanted(self) -> bool:
        """Whether the supervisor wants us to stop, as of now."""
        self._read_control()
        return self._stop_wanted

    def _poll(self) -> None:
        now = monotonic()
        if now >= self._poll_at:
            self._poll_at = now + POLL_EVERY_S
            self._read_control()

    @guarded(_HOOK)
    def _read_control(self) -> None:
        try:
            info = os.stat(self._control_path)
        except FileNotFoundError:
            return  # the record was removed under a run that goes on
        mark = (info.st_ino, info.st_mtime_ns)
        if mark == self._mark:
            return
        with open(self._control_path, encoding="utf-8") as file:
            wish = json.load(file)
        self._mark = mark
        self._stop_wanted = bool(wish["stop_wanted"])
        self._checkpoint_wanted = int(wish["checkpoint_wanted"])
        self._deadline = float(wish["deadline_monotonic_s"])
        self._grace_s = float(wish["grace_s"])
        self._is_checkpoint_read = bool(wish.get("checkpoint_was_read", False))

    # -- while a loop runs

    @contextmanager
    def training(self, owner: str, *, ends_script: bool = True) -> Iterator[bool]:
        """Drive a framework's loop: within, the caller looks at `at_step_end` after every step, and obeys.

        Gives False, and does nothing, inside another framework's loop. When the loop was stopped on the way, this ends
        with Stopped. owner: the framework's name. ends_script: False for a script that asks itself whether it was
        stopped; this then ends as if it had not been.
        """
        if self.owner is not None:
            yield False
            return
        self.owner = owner
        self.is_stopping = False
        self.announce()
        self.agreement.begin_loop()
        self.pace.begin(monotonic())
        self._step_told_at = monotonic()
        self._is_total_told = False
        self._told_step = self._last_step = None
        self._tell_pace()
        try:
            with self.interrupts.patient():
                try:
                    yield True
                finally:
                    self._tell_last_step()
            if not self.is_stopping:
                self.went_on()
                self.tell(event="finished")
            elif ends_script:
                self.end_script()
        except SystemExit:
            # only now: what the framework does when it is left has been done
            if self.is_stopping and ends_script and not _is_main_thread():
                self.interrupts.end_main_thread(self._ending())
            raise
        finally:
            self.owner = self._restored = None

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Within, a checkpoint is written: nothing breaks it off, and how long it takes is remembered."""
        began = monotonic()
        with self.interrupts.held():
            yield
            self.pace.save_ended(began, monotonic())
            self._tell_pace()

    def pass_over(self) -> None:
        """What was done since the last step's end (an evaluation, say) does not count as part of a step."""
        self.pace.lap(monotonic(), counts=False)

    def _time_step(self) -> None:
        self.pace.lap(monotonic(), counts=True)
        self._tell_pace()

    def _tell_pace(self) -> None:
        if self.owner is not None and self.pace.is_news():
            step_s, save_s = self.pace.told = (self.pace.longest_step_s, self.pace.longest_save_s)
            self.tell(event="listening", longest_step_s=step_s, longest_save_s=save_s)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class Pace:
    """How long steps and saves take. Instants are monotonic seconds."""

    def __init__(self) -> None:
        self.longest_step_s: Optional[float] = None
        self.longest_save_s: Optional[float] = None
        self.told: Optional[tuple[Optional[float], Optional[float]]] = None  # as the supervisor knows them
        self._lap_began = 0.0
        self._steps = 0

    def begin(self, now: float) -> None:
        """A loop begins."""
        self._lap_began = now
        self._steps = 0
        self.told = None

    def lap(self, now: float, *, counts: bool) -> None:
        """Something ended: a step if it counts."""
        duration_s, self._lap_began = now - self._lap_began, now
        if counts:
            self._steps += 1
            # the first one compiles, allocates and warms up: it says nothing of those that follow
            if self._steps <= 2 or duration_s > (self.longest_step_s or 0.0):
                self.longest_step_s = duration_s

    def save_ended(self, began: float, now: float) -> None:
        """A save took from `began` until now."""
        self.longest_save_s = max(now - began, self.longest_save_s or 0.0)
        self._lap_began = now

    def is_news(self) -> bool:
        """Whether the supervisor knows too little."""
        if self.told is None:
            return True
        now = (self.longest_step_s, self.longest_save_s)
        return any(value is not None and value > (told or 0.0) * _TELL_AGAIN for value, told in zip(now, self.told))


def _started() -> str:
    """When this process started, in clock ticks since the boot (proc(5)): its pid may be another's one day."""
    try:
        with open("/proc/self/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        return "-"


def as_number(value: Any) -> Optional[float]:
    """A metric's value as a number: numbers, and what has one `item()` (a tensor or an array of one); else None."""
    if type(value) is float or type(value) is int:
        return value
    if isinstance(value, (bool, str, bytes)) or value is None:
        return None
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _number_text(value: Any) -> Optional[str]:
    """A metric's value as JSON; None when it is no number."""
    number = as_number(value)
    if number is None:
        return None
    return repr(number) if number - number == 0 else json.dumps(number)  # NaN, Infinity


_quoted = lru_cache(maxsize=1000)(json.dumps)  # the same few names at every step


def _plain(value: Any) -> Any:
    """What json does not know."""
    number = as_number(value)
    return str(value) if number is None else number


_encode = json.JSONEncoder(default=_plain).encode  # json.dumps would make one at every call


_session: Optional[Session] = None
_is_looked_for = False


def current() -> Optional[Session]:
    """The session that this process belongs to; None outside a Backprop run."""
    global _session, _is_looked_for  # noqa: PLW0603  one in a process
    if not _is_looked_for:
        _is_looked_for = True
        if os.environ.get("BACKPROP_EVENTS"):
            try:
                _session = Session(os.environ)
            except (KeyError, ValueError) as error:  # half of an environment
                turn_off(_HOOK, error)
    return _session
