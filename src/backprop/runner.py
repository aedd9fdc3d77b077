"""One session from start to end: the story of the program.

    start ──> launch ──> watch: read output · climb the stop ladder · hear requests ──> sweep ──> file

Whatever fails on the way, the trainer's tree is ended before this returns, and how it ended is in the journal.
"""

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from backprop import command, ending, provenance
from backprop.progress import Progress, ProgressMeter
from backprop.recorder import Recorder
from backprop.records import Limits, Record, RunSpec, Session, StopReason
from backprop.store import journal as journals
from backprop.store.journal import (
    Continued,
    Journal,
    Paused,
    SessionEnded,
    SessionStarted,
    Signalled,
    StopAsked,
    TrainerLaunched,
)
from backprop.store.rundir import RunDir
from backprop.supervisor import control, ladder
from backprop.supervisor.control import Control
from backprop.supervisor.ladder import Ladder, Rung
from backprop.supervisor.launch import HAS_SUBREAPER, RUN_DIR_VARIABLE, adopt_orphans, has_no_descendants, launch
from backprop.supervisor.signals import Signals

if TYPE_CHECKING:
    from psutil import Process

LOOK_EVERY_S = 0.25  # output is in the index, and requests are heard, within this time
LEFTOVER_GRACE_S = 5.0  # what a trainer left behind when it exited may take so long to end
DOUBLE_PRESS_S = 0.2  # a second SIGINT within this time is the first one heard twice: some wrappers pass it on again
_NOT_EXECUTED = 127  # as shells report a command that could not be started
_FINAL_TRIES_S = 5.0  # how long to try to file a run whose home is busy or full


@dataclass(frozen=True)
class Clock:
    """What time it is: `now` for durations and deadlines, `wall` for the record. Fakes in tests."""

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], datetime] = lambda: datetime.now(timezone.utc)


class Observer(Protocol):
    """Somebody who watches a session. Called from the supervisor's loop: must not block."""

    def started(self, out_path: Path, err_path: Path) -> None: ...
    def looked(self, progress: Progress, left_s: float) -> None: ...
    def said(self, text: str) -> None: ...


class SessionPlan(Record, frozen=True):
    """What was decided about one session before it starts."""

    limits: Limits
    resumed_from: str | None = None
    resume_flag: str | None = None  # gets the checkpoint's path in the script's arguments


@dataclass
class _Watch:
    """What changes while a trainer is watched."""

    process: "subprocess.Popen[bytes]"
    launched_at: float
    ladder: Ladder
    rung: Rung = Rung.NONE
    stop: StopAsked | None = None
    interrupted_at: float | None = None  # the first Ctrl-C
    paused_s: float = 0.0
    wanted_checkpoints: int = 0
    is_behind: bool = False  # the trainer wrote more than the last look read
    unkillable: list[int] = field(default_factory=list)


class Outcome(Record, frozen=True):
    """How a session ended."""

    session: Session
    exit_code: int  # what the `backprop` process should exit with


class Supervisor:
    """Answers for one session of one run. The run's journal must be locked by this process."""

    def __init__(
        self,
        *,
        rundir: RunDir,
        spec: RunSpec,
        journal: Journal,
        recorder: Recorder,
        observer: Observer,
        signals: Signals,
        clock: Clock | None = None,
    ) -> None:
        self._rundir = rundir
        self._spec = spec
        self._journal = journal
        self._recorder = recorder
        self._observer = observer
        self._signals = signals
        self._clock = clock or Clock()
        self._meter = ProgressMeter()
        self._told: list[journals.Entry] = []
        self._number = 0
        self._strangers: frozenset[Process] = frozenset()
        self._limits: Limits
        self._watch: _Watch

    def run(self, plan: SessionPlan) -> Outcome:
        """Run one session and return when nothing of it is left. Blocks for up to timebox plus grace.

        Raises OSError when the home is too full to begin; then nothing was started.
        """
        self._limits = plan.limits
        self._start(plan)
        oom_kills_before = provenance.oom_kill_count()
        try:
            self._launch(plan)
        except OSError as error:
            return self._file(None, f"cannot be started: {error.strerror}: {error.filename}", 0.0)
        try:
            self._observer.started(self._rundir.out_path(self._number), self._rundir.err_path(self._number))
            self._recorder.record_state(publish=True)
            while not self._is_over():
                self._signals.wait(self._next_wake_at() - self._clock.now())
                self._hear()
                self._look()
                self._want_checkpoint()
                self._climb()
            self._sweep()
        except BaseException:
            self._end_after_a_bug()
            raise
        elapsed_s = self._clock.now() - self._watch.launched_at - self._watch.paused_s
        return self._file(self._watch, self._reason(oom_kills_before), elapsed_s)

    # -- start

    def _write(self, entry: journals.Entry) -> bool:
        """Put an entry into the journal. False while a full disk keeps it from there."""
        self._told.append(entry)
        return self._journal.append(entry)

    def _start(self, plan: SessionPlan) -> None:
        run, _ = self._recorder.read_run()
        self._number = 1 + max((session.number for session in run.sessions), default=0)
        self._recorder.begin()
        is_written = self._write(
            SessionStarted(
                at=self._clock.wall(),
                session=self._number,
                timebox_s=plan.limits.timebox_s,
                grace_s=plan.limits.grace_s,
                host=provenance.host(),
                supervisor_pid=os.getpid(),
                boot_id=provenance.boot_id(),
                resumed_from=plan.resumed_from,
                script_sha256=provenance.sha256(self._spec.script),
            )
        )
        if not is_written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._rundir.journal_path))
        self._journal.read_new()  # only what comes from now on is a request to this session

    def _launch(self, plan: SessionPlan) -> None:
        timebox_s, grace_s = plan.limits.timebox_s, plan.limits.grace_s
        self._write_control(self._clock.now() + timebox_s, wanted=0, stop=None)
        if not has_no_descendants():
            from backprop.supervisor import tree

            self._strangers = tree.own_children()
        adopt_orphans()
        process = launch(
            command.with_checkpoint(self._spec.command, plan.resume_flag, plan.resumed_from),
            self._spec.cwd,
            self._environment(plan),
            self._rundir.out_path(self._number),
            self._rundir.err_path(self._number),
        )
        now = self._clock.now()
        self._watch = _Watch(
            process=process,
            launched_at=now,
            ladder=ladder.at_timebox(now + timebox_s, timebox_s, grace_s, None),
        )
        self._write(TrainerLaunched(at=self._clock.wall(), session=self._number, pid=process.pid))

    def _environment(self, plan: SessionPlan) -> dict[str, str]:
        """What the trainer finds in its environment: the contract with the script."""
        environment = {key: value for key, value in os.environ.items() if key != "BACKPROP_RESUME_FROM"}
        environment |= {
            "BACKPROP_RUN_ID": self._spec.id,
            RUN_DIR_VARIABLE: str(self._rundir.path),
            "BACKPROP_SESSION": str(self._number),
            "BACKPROP_TIMEBOX_S": f"{plan.limits.timebox_s:g}",
            "BACKPROP_CONTROL": str(self._rundir.control_path),
            "BACKPROP_FRAMEWORK": self._spec.framework,
            "PYTHONUNBUFFERED": "1",
        }
        environment.pop("BACKPROP_CHECKPOINT_EVERY_S", None)
        if plan.limits.checkpoint_every_s is not None:
            environment["BACKPROP_CHECKPOINT_EVERY_S"] = f"{plan.limits.checkpoint_every_s:g}"
        if plan.resumed_from is not None:
            environment["BACKPROP_RESUME_FROM"] = plan.resumed_from
        return environment

    def _write_control(self, deadline: float, *, wanted: int, stop: StopAsked | None) -> None:
        left_s = deadline - self._clock.now()
        with contextlib.suppress(OSError):  # a full disk: the trainer hears of it by SIGINT instead
            control.write(
                self._rundir.control_path,
                Control(
                    deadline_unix_s=self._clock.wall().timestamp() + left_s,
                    deadline_monotonic_s=time.monotonic() + left_s,
                    grace_s=self._limits.grace_s,
                    checkpoint_wanted=wanted,
                    stop_wanted=stop is not None,
                    stop_reason=None if stop is None else stop.by.value,
                ),
            )

    # -- watch

    def _is_over(self) -> bool:
        self._reap()
        return self._watch.process.returncode is not None

    def _members(self) -> "list[Process]":
        """The living processes of the trainer's tree."""
        from backprop.supervisor import tree

        return tree.members(self._watch.process.pid, str(self._rundir.path), self._strangers)

    def _is_gone(self) -> bool:
        """True when nothing is left of the tree. Collects what is dead."""
        self._reap()
        # a snapshot can miss a process that forks anew all the time; the kernel's word cannot
        return has_no_descendants() if HAS_SUBREAPER and not self._strangers else not self._members()

    def _reap(self) -> None:
        """Collect dead children: the trainer, and orphans of its tree that came to us."""
        process = self._watch.process
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == process.pid:
                    process.returncode = os.waitstatus_to_exitcode(status)

    def _next_wake_at(self) -> float:
        now = self._clock.now()
        return now if self._watch.is_behind else min(now + LOOK_EVERY_S, self._watch.ladder.next_after(now))

    def _hear(self) -> None:
        """Signals to us, and requests that others wrote into the journal."""
        for number in self._signals.take():
            if number is signal.SIGINT:
                self._hear_ctrl_c()
            elif number is signal.SIGTSTP:
                self._suspend()
            else:
                self._ask_stop(StopReason.SIGNAL, f"the supervisor got {number.name}")
        for entry in self._journal.read_new():
            if isinstance(entry, StopAsked) and entry.session == self._number and entry.by is StopReason.USER:
                self._stop(entry)

    def _hear_ctrl_c(self) -> None:
        now, first = self._clock.now(), self._watch.interrupted_at
        if first is None:
            self._watch.interrupted_at = now
            self._ask_stop(StopReason.CTRL_C, "Ctrl-C")
            self._observer.said("stopping gracefully; press Ctrl-C again to kill")
        elif now - first > DOUBLE_PRESS_S:
            self._ask_stop(StopReason.CTRL_C, "Ctrl-C, twice", now=True)

    def _ask_stop(self, by: StopReason, detail: str, *, now: bool = False) -> None:
        stop = StopAsked(at=self._clock.wall(), session=self._number, by=by, detail=detail, now=now)
        self._write(stop)
        self._stop(stop)

    def _stop(self, stop: StopAsked) -> None:
        """Set the ladder for a stop that is in the journal. The first to ask is who the session ends for."""
        watch = self._watch
        watch.stop = watch.stop or stop
        now = self._clock.now()
        if stop.by is StopReason.TIMEBOX:
            return  # what the ladder stands for anyway
        if stop.now:
            watch.ladder = ladder.at_once(now)
        else:
            watch.ladder = ladder.at_request(now, self._limits.grace_s, self._meter.progress.notice_s, watch.ladder)

    def _look(self) -> None:
        watch = self._watch
        look = self._recorder.look(self._number)
        watch.is_behind = look.is_behind
        now = self._clock.now()
        if look.batch is not None:
            self._meter.observe(look.batch, now)
            if watch.stop is None:
                deadline = watch.ladder.interrupt_at
                watch.ladder = ladder.at_timebox(
                    deadline, self._limits.timebox_s, self._limits.grace_s, self._meter.progress.notice_s
                )
        self._journal.append()  # what a full disk kept waiting
        self._observer.looked(self._meter.progress, watch.ladder.interrupt_at - now)

    def _want_checkpoint(self) -> None:
        every_s, watch = self._limits.checkpoint_every_s, self._watch
        if every_s is None or watch.stop is not None:
            return
        due = int((self._clock.now() - watch.launched_at - watch.paused_s) / every_s)
        if due > watch.wanted_checkpoints:
            watch.wanted_checkpoints = due
            self._write_control(watch.ladder.interrupt_at, wanted=due, stop=None)

    def _climb(self) -> None:
        """Climb every rung of the stop ladder that is due."""
        watch = self._watch
        now = self._clock.now()
        due = watch.ladder.due(now)
        is_late = due > Rung.INTERRUPT and watch.rung < Rung.INTERRUPT
        if is_late and not (watch.stop is not None and watch.stop.now):
            # we were suspended, or the machine stood still: a trainer that was never asked gets its whole grace
            watch.ladder = ladder.at_interrupt(now, self._limits.grace_s)
            due = Rung.INTERRUPT
        while watch.rung < due:
            watch.rung = Rung(watch.rung + 1)
            if watch.rung is Rung.WARN:
                if watch.stop is None:
                    self._ask_stop(StopReason.TIMEBOX, f"timebox of {_minutes(self._limits.timebox_s)} ended")
                self._write_control(watch.ladder.interrupt_at, wanted=watch.wanted_checkpoints, stop=watch.stop)
            elif watch.rung is Rung.KILL:
                self._kill()
            elif due < Rung.KILL:
                self._signal(signal.SIGINT if watch.rung is Rung.INTERRUPT else signal.SIGTERM)

    def _kill(self) -> None:
        from backprop.supervisor import tree

        watch = self._watch
        pids = tuple(process.pid for process in self._members())
        watch.unkillable = tree.kill(self._members, self._is_gone, {stranger.pid for stranger in self._strangers})
        self._write(Signalled(at=self._clock.wall(), session=self._number, signal="SIGKILL", pids=pids))
        if watch.unkillable and watch.process.returncode is None:
            watch.process.returncode = -signal.SIGKILL  # it hangs in the kernel; nobody can do more

    def _end_after_a_bug(self) -> None:
        """A bug of ours must not leave a trainer behind, nor take its work with it: ask, wait for the grace, kill."""
        from backprop.supervisor import tree

        tree.send(tree.interrupt_targets(self._watch.process.pid), signal.SIGINT)
        tree.wait_gone(self._is_gone, self._limits.grace_s)
        self._kill()

    def _signal(self, number: signal.Signals) -> None:
        """SIGINT to the root only; anything else to the whole tree."""
        from backprop.supervisor import tree

        root = self._watch.process.pid
        targets = tree.interrupt_targets(root) if number is signal.SIGINT else self._members()
        pids = tree.send(targets, number)
        self._write(Signalled(at=self._clock.wall(), session=self._number, signal=number.name, pids=pids))

    def _suspend(self) -> None:
        """Ctrl-Z: stop the tree and ourselves; go on with both at `fg` or `bg`. The time between does not count."""
        from backprop.supervisor import tree

        watch = self._watch
        since = self._clock.now()
        self._write(Paused(at=self._clock.wall(), session=self._number, reason="Ctrl-Z"))
        self._recorder.record_state(publish=True)
        stopped = self._members()
        tree.send(stopped, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        tree.send(self._members(), signal.SIGCONT)
        paused_s = self._clock.now() - since
        watch.paused_s += paused_s
        watch.ladder = ladder.shifted(watch.ladder, paused_s)
        self._write_control(watch.ladder.interrupt_at, wanted=watch.wanted_checkpoints, stop=watch.stop)
        self._write(Continued(at=self._clock.wall(), session=self._number, paused_s=paused_s))
        self._recorder.record_state(publish=True)

    # -- end

    def _sweep(self) -> None:
        """End what the trainer left behind when it exited: SIGTERM, then SIGKILL."""
        watch = self._watch
        if watch.unkillable or self._is_gone():
            return
        from backprop.supervisor import tree

        self._signal(signal.SIGTERM)
        patience_s = min(LEFTOVER_GRACE_S, self._limits.grace_s, max(0.0, watch.ladder.kill_at - self._clock.now()))
        give_up_at = time.monotonic() + patience_s
        while not self._is_gone() and time.monotonic() < give_up_at:
            self._signals.wait(0.05)
        watch.unkillable = tree.kill(self._members, self._is_gone, {stranger.pid for stranger in self._strangers})

    def _reason(self, oom_kills_before: int | None) -> str | None:
        """Why the session ended; None for a trainer that just finished."""
        watch = self._watch
        oom_kills = provenance.oom_kill_count()
        return ending.reason(
            code=watch.process.returncode,
            asked=None if watch.stop is None else watch.stop.detail,
            was_killed=watch.rung is Rung.KILL,
            was_oom=oom_kills is not None and oom_kills_before is not None and oom_kills > oom_kills_before,
            unkillable_pids=watch.unkillable,
            last_words=ending.last_line(self._rundir.err_path(self._number)),
        )

    def _file(self, watch: _Watch | None, reason: str | None, elapsed_s: float) -> Outcome:
        """Write down how the session ended, and say what to exit with."""
        code = _NOT_EXECUTED if watch is None else watch.process.returncode
        stop = None if watch is None or watch.stop is None else watch.stop.by
        was_killed = watch is not None and watch.rung is Rung.KILL
        self._write(
            SessionEnded(
                at=self._clock.wall(),
                session=self._number,
                status=ending.status(code, stop),
                reason=reason,
                exit_code=ending.shell_code(code),
                elapsed_s=elapsed_s,
            )
        )
        self._file_in_index()
        session = journals.fold(self._spec, self._told).sessions[-1]
        return Outcome(session=session, exit_code=ending.process_exit_code(code, stop, was_killed=was_killed))

    def _file_in_index(self) -> None:
        give_up_at = time.monotonic() + _FINAL_TRIES_S
        while not (self._journal.append() and self._recorder.finish()):
            if time.monotonic() > give_up_at:
                self._observer.said("the home folder is full or busy; `backprop list` completes this record later")
                return
            time.sleep(0.05)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g} min"
