"""One session from start to end: the story of the program.

    start ──> launch ──> watch: hear requests · read output · obey the governor · climb the ladder ──> sweep ──> file

Whatever fails on the way, the trainer's tree is ended before this returns, and how it ended is in the journal.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from backprop import host
from backprop.errors import ExitCode
from backprop.governor.run_policy import Action, PauseState, Verdict, hard_ram_limit_bytes
from backprop.governor.run_queue import QueueSlot
from backprop.records import (
    Checkpoint,
    CodeState,
    Gpu,
    Limits,
    Pauser,
    Record,
    Revision,
    Run,
    RunSpec,
    Session,
    StopReason,
    in_minutes,
)
from backprop.store.code import provenance
from backprop.store.code.provenance import Recorded
from backprop.store.ingest import Recorder
from backprop.store.journal.entries import (
    CheckpointRead,
    CheckpointUnread,
    Continued,
    Entry,
    Governed,
    Paused,
    PauseRequested,
    Renamed,
    ResumeRequested,
    SessionEnded,
    SessionStarted,
    Signalled,
    StopRequested,
    TrainerLaunched,
)
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import fold
from backprop.store.output.progress import Progress, ProgressMeter
from backprop.store.output.protocol import Batch, TrainingBegan
from backprop.store.output.tail import Tail
from backprop.store.rundir import RunDir
from backprop.supervisor import command, control_file, environment, outcome, stop_ladder
from backprop.supervisor.checkpoint_reads import Offer
from backprop.supervisor.control_file import Control, SavedState
from backprop.supervisor.monitor import ResourceMonitor
from backprop.supervisor.process import memory_cgroup
from backprop.supervisor.process.memory_cgroup import MemoryCgroup
from backprop.supervisor.process.trainer_process import Trainer
from backprop.supervisor.signals import DOUBLE_PRESS_S, Signals
from backprop.supervisor.stop_ladder import Ladder, Rung

if TYPE_CHECKING:
    from psutil import Process

    from backprop.store.output.printed_metrics import PrintedMetrics
    from backprop.supervisor.roster import Roster

LOOK_EVERY_S = 0.25  # output is in the index, and requests are heard, within this time
_ASK_AGAIN_EVERY_S = 0.05  # whether those that train have ended, so that a launcher starts nothing else meanwhile
_HELPERS_END_WITHIN_S = 0.3  # after the trainer: what notices by itself that it has exited, as Python's helpers do
LEFTOVER_GRACE_S = 5.0  # what a trainer left behind when it exited may take so long to end
_FINAL_TRIES_S = 5.0  # how long to try to file a run whose home is busy or full
_MAY_SAVE = (Rung.INTERRUPT, Rung.TERMINATE)
_SUSPENDED_S = 5.0  # Slurm stops a job two seconds after it has announced that
_OTHERS_AFTER_S = 2.0  # Slurm, when it ends a job, reaches one node sooner than another
_MAX_SAVED = 32  # of the newest checkpoints, what is told to the trainer
_MAX_WATCHED = 16  # checkpoints of the run beside the offered one
_TASKS_KILLED_WITHIN_S = 5.0  # by srun, where no node is lost


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
    checkpoint: str | None = None  # offered to the trainer
    resume_args: tuple[str, ...] = ()  # what tells the script of the checkpoint: see command.with_checkpoint
    gpus: tuple[Gpu, ...] | None = None  # the cards it was given; None: whatever the trainer finds
    gpu_probe: str = "auto"
    gpu_problem: str | None = None  # why nobody could tell which cards there are
    job: str | None = None  # of Slurm, in which the session runs
    revision: Revision | None = None  # what the run executes from now on, to be remembered; None: the same as before
    only_once: tuple[str, ...] = ()  # arguments of this session alone


@dataclass
class _Watch:
    """What changes while a trainer is watched."""

    trainer: Trainer
    launched_at: float
    deadline: float  # when the timebox ends
    ladder: Ladder
    rung: Rung = Rung.NONE
    stop: StopRequested | None = None
    interrupted_at: float | None = None  # the first Ctrl-C
    pauses: PauseState = field(default_factory=PauseState)
    suspended_at: float = 0.0  # when Slurm announced that last
    ask_rest_at: float = 0.0  # when those are interrupted who only wait for others
    checkpoints_due: int = 0  # by the clock, so far
    checkpoints_asked: int = 0  # by the governor, so far
    is_over_own_limit: bool = False
    is_record_lost: bool = False  # its journal was removed
    is_blind: bool = False  # to the GPUs, since the start
    runs_on: bool = False  # beyond the timebox, after its training
    has_trained: bool = False  # a step or a save of it was seen
    is_behind: bool = False  # the trainer wrote more than the last look read
    seen_pids: set[int] = field(default_factory=set)  # of its processes
    folders: set[str] = field(default_factory=set)  # that its processes were seen in
    has_missed_checkpoint: bool = False  # one was reported that does not exist
    saved: dict[str, SavedState] = field(default_factory=dict)  # path -> the newest that were reported, in that order
    leftovers: tuple[str, ...] = ()  # what the trainer left running when it exited by itself
    task_failed_at: float | None = None  # of several nodes: when one trainer was seen to have failed
    are_others_ended: bool = False  # the other trainers were sent SIGTERM for that

    def left_s(self, now: float) -> float:
        """Time until the trainer is interrupted; what follows its training counts only once the timebox is over."""
        ends_at = self.ladder.interrupt_at
        return (min(ends_at, self.deadline) if now < self.deadline else ends_at) - now

    def trained_s(self, now: float) -> float:
        """Time since the launch without pauses."""
        return now - self.launched_at - self.pauses.paused.elapsed_s(now)


class Outcome(Record, frozen=True):
    """How a session ended."""

    session: Session
    exit_code: int  # what the `backprop` process should exit with
    last_step: int | None = None  # that the trainer reported in this session
    is_over_own_limit: bool = False  # the governor ended it for using more than it may
    is_broken_off: bool = False  # by a signal, while another session was to follow: see admission.NotAdmitted


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
        place: QueueSlot,
        clock: Clock | None = None,
    ) -> None:
        self._rundir = rundir
        self._spec = spec
        self._journal = journal
        self._recorder = recorder
        self._observer = observer
        self._signals = signals
        self._place = place
        self._clock = clock or Clock()
        self._meter = ProgressMeter()
        self._told: list[Entry] = []
        self._number = 0
        self._is_job = False
        self._memory_cgroup: MemoryCgroup | None = None
        self._offered: environment.Resumed | None = None
        self._offer: Offer | None = None
        self._errors: Tail
        self._printed: PrintedMetrics | None = None
        self._limits: Limits
        self._monitor: ResourceMonitor
        self._roster: Roster | None = None
        self._watch: _Watch

    def run(self, plan: SessionPlan) -> Outcome:
        """Run one session and return when nothing of it is left. Blocks for up to timebox plus grace.

        Raises OSError when the home is too full to begin; then nothing was started.
        """
        self._limits = plan.limits
        self._is_job = plan.job is not None
        self._start(plan)
        folders = (str(self._rundir.path), self._spec.cwd)
        self._monitor = ResourceMonitor(plan.limits, folders, plan.gpus or (), plan.gpu_probe, self._place)
        try:
            return self._train(plan)
        finally:
            self._monitor.close()
            if self._offer is not None:
                self._offer.close()
            if self._roster is not None:
                self._roster.remove()
                self._roster = None
            if self._memory_cgroup is not None:
                self._memory_cgroup.remove()

    def _train(self, plan: SessionPlan) -> Outcome:
        began_at, oom_kills_before = time.monotonic(), host.oom_kill_count()
        try:
            self._launch(plan)
        except OSError as error:
            reason = command.why_not_started(self._spec.command[0], error)
            return self._file(None, ExitCode.NOT_EXECUTED, reason, 0.0)
        try:
            self._observer.started(self._rundir.out_path(self._number), self._rundir.err_path(self._number))
            self._recorder.record_state(publish=True)
            while not self._is_over():
                self._signals.wait(self._next_wake_at() - self._clock.now())
                self._handle_requests()
                self._look()
                self._want_checkpoint()
                self._obey_the_governor()
                self._tell_that_it_runs_on()
                self._climb()
                self._interrupt_rest()
                self._end_other_tasks()
            self._look()
            if self._watch.stop is None and not self._has_finished():
                self._handle_requests()  # a signal to all processes at once (Slurm) ends the trainer before we look
            if self._watch.pauses.is_paused:
                self._go_on()  # somebody killed it while it stood still
            self._sweep()
            self._look()
            self._read_printed((), is_over=True)
            self._judge_offer(is_over=True)
        except BaseException:
            self._end_after_a_bug()
            raise
        self._forget_needless_stop()
        elapsed_s = self._watch.trained_s(self._clock.now())
        code, last_words = self._code_and_words()
        return self._file(
            self._watch, code, self._reason(code, last_words, self._was_oom(began_at, oom_kills_before)), elapsed_s
        )

    # -- start

    def _write(self, entry: Entry) -> bool:
        """Put an entry into the journal. False while a full disk keeps it from there."""
        self._told.append(entry)
        return self._journal.append(entry)

    def _start(self, plan: SessionPlan) -> None:
        run, _ = self._recorder.read_run()
        self._number = 1 + run.newest_number
        self._recorder.begin()
        script_sha256 = host.sha256(self._spec.script)
        code = self._record_code(run, script_sha256)
        is_written = self._write(
            SessionStarted(
                at=self._clock.wall(),
                session=self._number,
                timebox_s=plan.limits.timebox_s,
                grace_s=plan.limits.grace_s,
                host=host.name(),
                supervisor_pid=os.getpid(),
                boot_id=host.boot_id(),
                offered=plan.checkpoint,
                script_sha256=script_sha256,
                code=code,
                job=plan.job,
                nodes=self._spec.nodes,
                revision=plan.revision,
                only_once=plan.only_once,
            )
        )
        if not is_written:
            self._journal.drop_unwritten()  # once there is room, nobody may take it for begun
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._rundir.journal_path))

    def _record_code(self, run: Run, script_sha256: str | None) -> CodeState:
        """Keep what is executed now; what has changed since the session before, or since submission, is said."""
        script = None if self._spec.script is None else Path(self._spec.script)
        if script is not None and script.is_relative_to(self._rundir.snapshot_path):
            return msgspec.structs.replace(run.code, changed=())
        now = provenance.record(Path(self._spec.cwd) if script is None else script.parent, script)
        last, before = run.last_session, run.code
        old = Recorded(git=before.git, patch=self._rundir.read_patch(before.patch))
        changed = list(provenance.changes(old, now))
        if script is not None:
            old_sha256 = self._spec.script_sha256 if last is None else last.script_sha256
            others = [script.name] if old_sha256 not in {None, script_sha256} else []
            if last is not None:  # those that git does not know, or ignores
                modules = provenance.imported(self._rundir.read_modules(last.number))
                others += provenance.changed_modules(modules, script.parent)
            changed += [name for name in others if not any(known.endswith(name) for known in changed)]
        patch = None if now.patch is None else self._rundir.keep_patch(now.patch)
        code = CodeState(git=now.git, patch=patch, notes=now.notes, changed=tuple(changed))
        if changed:
            since = "it was submitted" if last is None else f"session {last.number}"
            self._observer.said(f"note: the code has changed since {since}: {code.changed_in_short}")
        return code

    def _launch(self, plan: SessionPlan) -> None:
        self._recorder.begin()
        timebox_s, grace_s = plan.limits.timebox_s, plan.limits.grace_s
        self._put_control(timebox_s, wanted=0, stop=None)
        if plan.gpu_problem is not None:
            self._observer.said(_blind(plan.gpu_problem))
        self._monitor.start(self._clock.now())
        self._offered = resumed = self._resumed(plan.checkpoint)
        variables = environment.for_trainer(self._spec, self._rundir, self._number, plan.limits, resumed, plan.gpus)
        step = None if resumed is None else resumed.step
        if plan.limits.ram_limit_bytes is not None:
            hard = hard_ram_limit_bytes(plan.limits.ram_limit_bytes)
            self._memory_cgroup = memory_cgroup.build(self._spec.id, self._number, hard)
        if resumed is not None:
            others = self._known_checkpoints(resumed.path)
            self._offer = Offer(resumed.path, others, can_be_elsewhere=self._spec.nodes > 1)
        trainer = Trainer.start(
            command.with_checkpoint((*self._spec.command, *plan.only_once), plan.resume_args, plan.checkpoint, step),
            self._spec.cwd,
            variables,
            (self._spec.stdin, self._rundir.out_path(self._number), self._rundir.err_path(self._number)),
            str(self._rundir.path),
            enter=None if self._memory_cgroup is None else self._memory_cgroup.enter,
            ignore_hangup=self._signals.inherits_ignored_hangup,
        )
        self._errors = Tail(self._rundir.err_path(self._number), 0)
        if self._spec.reads_printed_metrics:
            from backprop.store.output.printed_metrics import PrintedMetrics  # while the trainer starts

            patterns, is_resumed = self._spec.metric_patterns, resumed is not None
            self._printed = PrintedMetrics(self._rundir, self._number, patterns, is_resumed=is_resumed)
        now = self._clock.now()
        self._watch = _Watch(
            trainer=trainer,
            launched_at=now,
            deadline=now + timebox_s,
            ladder=stop_ladder.at_timebox(now + timebox_s, timebox_s, grace_s, None),
        )
        self._recorder.look_for_checkpoints_in(self._folders)
        self._watch.seen_pids.add(trainer.pid)
        if trainer.blindness is not None:
            self._observer.said(
                f"warning: {trainer.blindness}. Only the trainer's process group can be watched and stopped: "
                "what leaves it is not found and not ended, and memory is not measured (--ram-limit)"
            )
        cage_path = None if self._memory_cgroup is None else str(self._memory_cgroup.path)
        self._write(TrainerLaunched(at=self._clock.wall(), session=self._number, pid=trainer.pid, cage=cage_path))

    def _resumed(self, path: str | None) -> environment.Resumed | None:
        """The checkpoint to continue from, with the step it was reported for."""
        if path is None:
            return None
        view = self._recorder.view()
        steps = {checkpoint.path: checkpoint.step for checkpoint in view.checkpoints} if view is not None else {}
        return environment.Resumed(path, steps.get(path))

    def _write_control(self) -> None:
        """Tell the trainer how things stand."""
        watch = self._watch
        left_s = watch.left_s(self._clock.now())
        # it was asked to stop once the ladder's first rung is climbed, not when somebody asked us
        stop = watch.stop if watch.rung >= Rung.WARN else None
        self._put_control(left_s, watch.checkpoints_due + watch.checkpoints_asked, stop, watch.saved)

    def _put_control(
        self, left_s: float, wanted: int, stop: StopRequested | None, saved: Mapping[str, SavedState] | None = None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk: the trainer hears of it by SIGINT instead
            control_file.write(
                self._rundir.control_path,
                Control(
                    deadline_unix_s=self._clock.wall().timestamp() + left_s,
                    deadline_monotonic_s=time.monotonic() + left_s,
                    grace_s=self._limits.grace_s,
                    checkpoint_wanted=wanted,
                    stop_wanted=stop is not None,
                    stop_reason=None if stop is None else stop.by.value,
                    saved=saved or {},
                    checkpoint_was_read=self._offer is not None and self._offer.is_offered_read,
                ),
            )

    # -- watch

    def _next_wake_at(self) -> float:
        now, watch = self._clock.now(), self._watch
        if watch.is_behind:
            return now
        is_hurried = watch.trainer.has_launchers_to_ask
        return min(now + (_ASK_AGAIN_EVERY_S if is_hurried else LOOK_EVERY_S), watch.ladder.next_after(now))

    def _handle_requests(self) -> None:
        """Signals to us, and requests that others wrote into the journal."""
        if self._is_suspended():
            return
        for number in self._signals.take():
            if number is signal.SIGINT:
                self._hear_ctrl_c()
            elif number is signal.SIGTSTP:
                self._suspend()
            else:
                by_slurm = " by Slurm's doing: preemption, its time limit, or scancel" if self._is_job else ""
                self._ask_stop(StopReason.SIGNAL, f"the supervisor got {number.name}{by_slurm}")
        for entry in self._journal.read_new():
            match entry:
                case StopRequested(session=self._number, by=StopReason.USER):
                    self._stop(entry)
                case PauseRequested(session=self._number):
                    self._hear_pause(entry)
                case ResumeRequested(session=self._number):
                    self._hear_go_on(entry)
                case Renamed():
                    self._spec = msgspec.structs.replace(self._spec, name=entry.name)
                case _:
                    pass

    def _hear_ctrl_c(self) -> None:
        now, first = self._clock.now(), self._watch.interrupted_at
        if first is None:
            self._watch.interrupted_at = now
            self._ask_stop(StopReason.CTRL_C, "Ctrl-C")
            self._observer.said("stopping gracefully; press Ctrl-C again to kill")
        elif now - first > DOUBLE_PRESS_S:
            self._ask_stop(StopReason.CTRL_C, "Ctrl-C, twice", now=True)

    def _hear_pause(self, asked: PauseRequested) -> None:
        """A user's pause counts towards --max-pause-minutes, as the governor's does."""
        watch = self._watch
        if watch.stop is None and Pauser.USER not in watch.pauses.reasons:
            self._pause(Pauser.USER, asked.detail)
            self._observer.said(f"paused: {asked.detail}")

    def _hear_go_on(self, asked: ResumeRequested) -> None:
        if Pauser.USER in self._watch.pauses.reasons:
            self._release(Pauser.USER)
            still = self._watch.pauses.reason
            self._observer.said(f"{asked.detail}: " + (f"still paused: {still}" if still else "going on"))

    def _ask_stop(self, by: StopReason, detail: str, *, now: bool = False) -> None:
        stop = StopRequested(at=self._clock.wall(), session=self._number, by=by, detail=detail, now=now)
        self._write(stop)
        self._stop(stop)

    def _stop(self, stop: StopRequested) -> None:
        """Set the ladder for a stop that is in the journal. The first to ask is who the session ends for."""
        watch = self._watch
        if watch.pauses.is_paused:
            self._go_on()  # a process that stands still could not hear of it
        watch.stop = watch.stop or stop
        now = self._clock.now()
        if stop.by is StopReason.TIMEBOX:
            return  # what the ladder stands for anyway
        if stop.now:
            watch.ladder = stop_ladder.at_once(now)
        else:
            watch.ladder = stop_ladder.at_request(
                now, self._limits.grace_s, self._meter.progress.notice_s, watch.ladder
            )

    def _look(self) -> None:
        watch = self._watch
        now = self._clock.now()
        trained_s = watch.trained_s(now)
        if (folder := watch.trainer.folder()) is not None:  # it may report its only checkpoint just before it ends
            watch.folders.add(folder)
        look = self._recorder.ingest(self._number, trained_s, is_supervisor=True)
        watch.is_behind = look.is_behind
        for batch in look.batches:
            self._meter.observe(batch, now)
            watch.has_trained |= batch.has_training
        self._read_printed(look.batches)
        self._judge_offer([training for batch in look.batches for training in batch.trainings])
        if look.checkpoints:
            self._tell_saved(look.checkpoints)
        missing = [one.path for one in look.checkpoints[-1:] if one.measure.size_bytes is None]
        if missing and not watch.has_missed_checkpoint:
            watch.has_missed_checkpoint = True
            self._observer.said(
                f"warning: a checkpoint was reported that does not exist: {missing[0]}. A relative path must be"
                " relative to the folder that the script is in when it prints it"
            )
        if look.batches:
            self._set_timebox(now)
        self._journal.append()  # what a full disk kept waiting
        if not watch.is_record_lost and not self._journal.is_in_place(self._rundir.journal_path):
            watch.is_record_lost = True
            self._observer.said(
                f"WARNING: {self._rundir.journal_path} was removed: no command sees this run any more, and what it "
                f"does is not kept. It is ended at its timebox, by Ctrl-C here, or by: backprop stop {self._spec.id}"
            )
            if self._spec.name is not None:  # for whoever finds nothing but the journal that we have open
                self._write(Renamed(at=self._clock.wall(), name=self._spec.name))
        self._observer.looked(self._meter.progress, watch.left_s(watch.pauses.paused.since or now))

    def _read_printed(self, batches: Sequence[Batch], *, is_over: bool = False) -> None:
        """Read metrics in what the script prints, as long as none are reported."""
        if self._printed is None:
            return
        if any(batch.series and batch.printed_step is None for batch in batches):
            self._printed = None
        else:
            self._printed.look(self._meter.progress.counted_step, is_over=is_over)

    def _set_timebox(self, now: float) -> None:
        """Set the ladder for the end of the timebox, as long as nobody asks for another one."""
        watch, limits, progress = self._watch, self._limits, self._meter.progress
        if watch.rung >= Rung.INTERRUPT or (watch.stop is not None and watch.stop.by is not StopReason.TIMEBOX):
            return
        if progress.has_finished_training:
            watch.ladder = stop_ladder.after_training(watch.deadline, limits.grace_s, limits.time_to_finish_s)
        elif watch.stop is None and watch.runs_on:  # another training began after the timebox
            watch.ladder = stop_ladder.at_request(now, limits.grace_s, progress.notice_s, watch.ladder)
        elif watch.stop is None:
            watch.ladder = stop_ladder.at_timebox(watch.deadline, limits.timebox_s, limits.grace_s, progress.notice_s)

    def _tell_that_it_runs_on(self) -> None:
        """Say once that the timebox is over and the script is left to what it does after its training."""
        watch, now = self._watch, self._clock.now()
        if not watch.runs_on and watch.deadline <= now < watch.ladder.interrupt_at and not watch.pauses.is_paused:
            watch.runs_on = True
            left = in_minutes(watch.ladder.interrupt_at - now)
            self._observer.said(f"the timebox is over; training has finished, and the script may run on for {left}")

    def _judge_offer(self, trainings: Sequence[TrainingBegan] = (), *, is_over: bool = False) -> None:
        """Say when the session reads the checkpoint that it is offered, and when it trains without."""
        offer, offered = self._offer, self._offered
        if offer is None or offered is None:
            return
        for verdict in offer.verdicts(trainings, has_trained=self._watch.has_trained, is_over=is_over):
            now, path = self._clock.wall(), verdict.resumed_from
            if path is None:
                self._write(CheckpointUnread(at=now, session=self._number, has_trained=verdict.has_trained))
                if verdict.has_trained:
                    option = self._resume_option()
                    self._observer.said(_unread(self._spec.id, offered, option, is_certain=verdict.is_certain))
            else:
                named = offered if path == offered.path else path
                other = None if path == offered.path else path
                self._write(CheckpointRead(at=now, session=self._number, path=other, is_late=verdict.is_late))
                if verdict.is_late:
                    self._observer.said(f"{named} was read after training had begun: it may go on from there by now")
                else:
                    self._observer.said(f"resumed from {named}")
                    self._write_control()
            self._recorder.record_state(publish=False)

    def _known_checkpoints(self, offered: str) -> list[str]:
        """The newest others of the run that are there: a script may choose by itself."""
        view = self._recorder.view()
        known = () if view is None else view.checkpoints
        paths = dict.fromkeys(one.path for one in reversed(known) if not one.is_emergency and one.path != offered)
        return [path for path in paths if Path(path).exists()][:_MAX_WATCHED]

    def _tell_saved(self, reported: Sequence[Checkpoint]) -> None:
        """Tell all processes of the trainer what was reported: they are not to lose it."""
        saved = self._watch.saved
        for one in reported:
            saved.pop(one.path, None)
            saved[one.path] = SavedState(
                step=one.step, size_bytes=one.measure.size_bytes, saved_at_unix_s=one.measure.saved_at.timestamp()
            )
        for path in list(saved)[:-_MAX_SAVED]:
            del saved[path]
        if not self._watch.pauses.is_paused:  # else when it goes on
            self._write_control()

    def _folders(self) -> tuple[str, ...]:
        """The folders that the trainer's processes are in, or were seen in."""
        self._watch.folders.update(self._watch.trainer.folders())
        return tuple(self._watch.folders)

    def _want_checkpoint(self) -> None:
        every_s, watch = self._limits.checkpoint_every_s, self._watch
        if every_s is None or watch.stop is not None or watch.pauses.is_paused:
            return
        due = int(watch.trained_s(self._clock.now()) / every_s)
        if due > watch.checkpoints_due:
            watch.checkpoints_due = due
            self._write_control()

    # -- the governor's word

    def _obey_the_governor(self) -> None:
        watch = self._watch
        if watch.pauses.is_paused:
            watch.trainer.freeze()  # what was started, or set going by somebody else, since the last look
        now = self._clock.now()
        verdict = self._monitor.look(now, watch.pauses, self._members, self._meter.progress.longest_save_s)
        self._tell_blindness()
        if verdict.action is Action.GO_ON:
            return
        if watch.stop is not None and (verdict.action is not Action.KILL or watch.stop.now):
            return  # it is being stopped: nothing else is to be done to it
        self._write(
            Governed(
                at=self._clock.wall(),
                session=self._number,
                action=verdict.action.value,
                reason=verdict.reason,
                figures=dict(verdict.figures),
            )
        )
        self._do(verdict)

    def _members(self) -> "list[Process]":
        """The tree as it is now, which is written down for whoever must end it if we are killed."""
        if self._roster is None:
            from backprop.supervisor.roster import Roster

            self._roster = Roster(self._rundir.roster_path, self._number, host.boot_id())
        members = self._watch.trainer.members()
        self._watch.seen_pids.update(process.pid for process in members)
        self._roster.record(members)
        return members

    def _tell_blindness(self) -> None:
        watch, problem = self._watch, self._monitor.gpu_problem
        if (problem is not None) != watch.is_blind:
            watch.is_blind = problem is not None
            self._observer.said("the governor sees the GPUs again" if problem is None else _blind(problem))

    def _do(self, verdict: Verdict) -> None:
        watch = self._watch
        match verdict.action:
            case Action.SAVE:
                watch.checkpoints_asked += 1
                self._write_control()
                self._observer.said(f"{verdict.reason}: a checkpoint is asked for")
            case Action.PAUSE:
                self._pause(Pauser.GOVERNOR, verdict.reason)
                self._observer.said(f"paused: {verdict.reason}")
            case Action.CONTINUE:
                self._release(Pauser.GOVERNOR)
                still = watch.pauses.reason
                self._observer.said(
                    f"{verdict.reason}: still paused: {still}" if still else f"going on: {verdict.reason}"
                )
            case Action.STOP:
                watch.is_over_own_limit = verdict.is_over_own_limit
                self._observer.said(f"stopping: {verdict.reason}")
                self._ask_stop(StopReason.GOVERNOR, verdict.reason)
            case Action.KILL:
                watch.is_over_own_limit = verdict.is_over_own_limit
                self._observer.said(f"killing: {verdict.reason}")
                self._ask_stop(StopReason.GOVERNOR, verdict.reason, now=True)

    # -- pauses

    def _pause(self, by: Pauser, reason: str) -> None:
        """Hold the whole tree in place, until everybody who paused it has let it go."""
        watch = self._watch
        watch.pauses = watch.pauses.held(by, reason, self._clock.now())
        watch.trainer.freeze()
        self._tell_paused()

    def _release(self, by: Pauser) -> None:
        """One of those who paused it lets it go."""
        watch = self._watch
        if by not in watch.pauses.reasons:
            return
        if len(watch.pauses.reasons) > 1:
            watch.pauses = watch.pauses.released(by, self._clock.now())
            self._tell_paused()
        else:
            self._go_on()

    def _tell_paused(self) -> None:
        pauses = self._watch.pauses
        by = tuple(pauses.reasons)
        self._write(Paused(at=self._clock.wall(), session=self._number, reason=pauses.reason, by=by))
        self._recorder.record_state(publish=True)

    def _go_on(self) -> None:
        """Let a tree that stands still go on, whoever paused it. The time between does not count."""
        watch, now = self._watch, self._clock.now()
        paused_s = now - (watch.pauses.paused.since or now)
        watch.pauses = watch.pauses.ended(now)
        watch.deadline += paused_s
        watch.ladder = stop_ladder.shifted(watch.ladder, paused_s)
        self._write_control()
        watch.trainer.signal(signal.SIGCONT)
        self._write(Continued(at=self._clock.wall(), session=self._number, paused_s=paused_s))
        self._recorder.record_state(publish=True)

    def _suspend(self) -> None:
        """Ctrl-Z: stop the tree and ourselves; go on with both at `fg` or `bg`, unless somebody else holds the tree.

        In a job it is Slurm that announces by this signal that it stops all processes of the job: see `_is_suspended`.
        """
        if self._is_job:
            self._observer.said("suspended by Slurm")
            self._watch.suspended_at = self._clock.now()
            self._pause(Pauser.SLURM, "suspended by Slurm")
        else:
            self._pause(Pauser.CTRL_Z, "Ctrl-Z")
            os.kill(os.getpid(), signal.SIGSTOP)
            self._release(Pauser.CTRL_Z)

    def _is_suspended(self) -> bool:
        """Whether Slurm is about to stop us. Who runs so long after that was announced has been let go on."""
        if Pauser.SLURM not in self._watch.pauses.reasons:
            return False
        if self._clock.now() - self._watch.suspended_at < _SUSPENDED_S:
            return True
        self._release(Pauser.SLURM)
        self._observer.said("Slurm lets it go on")
        return False

    # -- the stop ladder

    def _is_over(self) -> bool:
        """Whether the root has ended, and with it all who were interrupted: some launchers do not wait for them."""
        watch = self._watch
        return watch.trainer.is_over() and not (watch.rung in _MAY_SAVE and watch.trainer.is_ending())

    def _climb(self) -> None:
        """Climb every rung of the stop ladder that is due."""
        watch = self._watch
        if watch.pauses.is_paused:
            return  # the ladder is moved by as much when the trainer goes on
        now = self._clock.now()
        due = watch.ladder.due(now)
        is_late = due > Rung.INTERRUPT and watch.rung < Rung.INTERRUPT
        if is_late and not (watch.stop is not None and watch.stop.now):
            # we were suspended, or the machine stood still: a trainer that was never asked gets its whole grace
            watch.ladder = stop_ladder.at_interrupt(now, self._limits.grace_s)
            due = Rung.INTERRUPT
        if due >= Rung.WARN and watch.rung is Rung.NONE:
            watch.ladder = stop_ladder.warned(now, self._limits.grace_s, watch.ladder)
            due = watch.ladder.due(now)
        while watch.rung < due:
            watch.rung = Rung(watch.rung + 1)
            if watch.rung is Rung.WARN:
                if watch.stop is None:
                    self._ask_stop(StopReason.TIMEBOX, f"timebox of {in_minutes(self._limits.timebox_s)} ended")
                self._write_control()
            elif watch.rung is Rung.KILL:
                self._kill()
            elif due < Rung.KILL and watch.rung is Rung.INTERRUPT:
                watch.ask_rest_at = now + (watch.ladder.terminate_at - now) / 2
                self._interrupt()
            elif due < Rung.KILL:
                self._terminate()

    def _interrupt(self) -> None:
        pids = self._watch.trainer.interrupt(self._rundir.announced_path(self._number))
        if pids:
            self._write(Signalled(at=self._clock.wall(), session=self._number, signal="SIGINT", pids=pids))

    def _interrupt_rest(self) -> None:
        """Interrupt those who only waited for others, once these have ended, or in the middle of their time to."""
        watch = self._watch
        if watch.rung is not Rung.INTERRUPT or watch.pauses.is_paused or not watch.trainer.has_more_to_ask:
            return
        is_free = watch.trainer.has_launchers_to_ask and not watch.trainer.is_ending()
        if is_free or self._clock.now() >= watch.ask_rest_at:
            self._interrupt()

    def _terminate(self) -> None:
        if self._spec.nodes == 1:
            self._signal(signal.SIGTERM)
            return
        from backprop.engines.slurm import client as slurm_client

        slurm_client.terminate_tasks(os.environ.get("SLURM_JOB_ID", ""))
        self._write(Signalled(at=self._clock.wall(), session=self._number, signal="SIGTERM", pids=()))

    def _kill(self) -> None:
        if self._spec.nodes > 1:
            self._watch.trainer.terminate_root(_TASKS_KILLED_WITHIN_S)  # srun then kills on all nodes
        pids = self._watch.trainer.kill()
        self._write(Signalled(at=self._clock.wall(), session=self._number, signal="SIGKILL", pids=pids))

    def _signal(self, number: signal.Signals) -> None:
        pids = self._watch.trainer.signal(number)
        self._write(Signalled(at=self._clock.wall(), session=self._number, signal=number.name, pids=pids))

    def _end_other_tasks(self) -> None:
        """Of trainers on several nodes one has failed: end the others, which may wait for it forever.

        Not while the session is being stopped: each ends as soon as it can then, and badly in srun's eyes.
        """
        watch, now = self._watch, self._clock.now()
        if self._spec.nodes == 1 or watch.stop is not None or watch.pauses.is_paused:
            return
        if watch.task_failed_at is None:
            watch.task_failed_at = now if self._has_task_failed() else None
        elif now >= watch.task_failed_at + _OTHERS_AFTER_S + self._limits.grace_s:
            self._kill()
        elif now >= watch.task_failed_at + _OTHERS_AFTER_S and not watch.are_others_ended:
            watch.are_others_ended = True
            self._terminate()

    def _has_task_failed(self) -> bool:
        while (stretch := self._errors.read()) is not None:
            self._errors.move_to(stretch.end)
            if outcome.tells_of_a_failed_task(stretch.data):
                return True
        return False

    def _end_after_a_bug(self) -> None:
        """A bug of ours must not leave a trainer behind, nor take its work with it: ask, wait for the grace, kill."""
        self._watch.trainer.end(self._limits.grace_s, self._rundir.announced_path(self._number))

    # -- end

    def _sweep(self) -> None:
        """End what the trainer left behind when it exited: SIGTERM, then SIGKILL."""
        watch = self._watch
        if watch.trainer.unkillable_pids or watch.trainer.is_gone():
            return
        if watch.stop is None:
            # helpers that end with the trainer have the time to
            if self._is_gone_within(_HELPERS_END_WITHIN_S):
                return
            watch.leftovers = watch.trainer.labels()
        self._signal(signal.SIGTERM)
        patience_s = min(LEFTOVER_GRACE_S, self._limits.grace_s, max(0.0, watch.ladder.kill_at - self._clock.now()))
        self._is_gone_within(patience_s)
        watch.trainer.kill()

    def _is_gone_within(self, duration_s: float) -> bool:
        """Whether nothing is left of the tree, as soon as that is so or the time is over."""
        until = time.monotonic() + duration_s
        while not (is_gone := self._watch.trainer.is_gone()) and time.monotonic() < until:
            self._signals.wait(0.05)
        return is_gone

    def _has_finished(self) -> bool:
        """Whether the trainer came to its own end and said so: what is asked of it afterwards came too late."""
        return self._watch.trainer.code == 0 and self._meter.progress.is_finished

    def _forget_needless_stop(self) -> None:
        watch = self._watch
        stop = None if watch.stop is None else watch.stop.by
        was_signalled = watch.rung > Rung.WARN
        if outcome.is_own_end(
            watch.trainer.code, stop, was_signalled=was_signalled, is_finished=self._meter.progress.is_finished
        ):
            watch.stop = None

    def _was_oom(self, began_at: float, kills_before: int | None) -> bool | None:
        """Whether the kernel killed a process of the tree for want of memory; None: it killed one, unknown which."""
        if host.oom_kill_count() == kills_before:
            return False
        killed_pids = host.oom_killed_pids(began_at)
        return None if killed_pids is None else bool(killed_pids & self._watch.seen_pids)

    def _reason(self, code: int, last_words: str, was_oom: bool | None) -> str | None:
        """Why the session ended; None for a trainer that just finished."""
        watch = self._watch
        return outcome.reason(
            code=code,
            asked=None if watch.stop is None else watch.stop.detail,
            was_killed=watch.rung is Rung.KILL,
            was_oom=was_oom,
            cgroup_limit_bytes=self._cgroup_limit_bytes(),
            unkillable_pids=watch.trainer.unkillable_pids,
            last_words=last_words,
            has_stdin=self._spec.stdin is not None,
        )

    def _code_and_words(self) -> tuple[int, str]:
        """The trainer's exit code and last words: on several nodes those of the task that failed, not srun's."""
        code, err_path = self._watch.trainer.code, self._rundir.err_path(self._number)
        if self._spec.nodes > 1 and self._watch.rung is Rung.KILL and code == outcome.shell_code(-signal.SIGKILL):
            return -signal.SIGKILL, ""  # by srun, for us
        failed = outcome.first_failed_task(err_path) if self._spec.nodes > 1 and code else None
        return (code, outcome.last_line(err_path)) if failed is None else failed

    def _cgroup_limit_bytes(self) -> int | None:
        """The kernel's limit on the tree if it killed somebody there."""
        limit = self._limits.ram_limit_bytes
        if self._memory_cgroup is None or limit is None or not self._memory_cgroup.oom_kill_count():
            return None
        return hard_ram_limit_bytes(limit)

    def _file(self, watch: _Watch | None, code: int, reason: str | None, elapsed_s: float) -> Outcome:
        """Write down how the session ended, and say what to exit with."""
        stop = None if watch is None or watch.stop is None else watch.stop.by
        is_written = self._write(
            SessionEnded(
                at=self._clock.wall(),
                session=self._number,
                status=outcome.status(code, stop),
                reason=reason,
                exit_code=outcome.shell_code(code),
                elapsed_s=elapsed_s,
                stopped_by=stop,
                resume_option=self._resume_option(),
                has_finished_training=reason is not None and self._meter.progress.has_finished_training,
                leftovers=() if watch is None else watch.leftovers,
            )
        )
        if not is_written:  # a full disk: no trainer reads this file any more, and its room is enough
            with contextlib.suppress(OSError):
                self._rundir.control_path.unlink()
            self._journal.append()
        self._file_in_index()
        session = fold(self._spec, self._told).sessions[-1]
        return Outcome(
            session=session,
            exit_code=outcome.process_exit_code(code, stop),
            last_step=self._meter.progress.step,
            is_over_own_limit=watch is not None and watch.is_over_own_limit,
        )

    def _resume_option(self) -> str | None:
        """What --resume-arg would have to be; None where it is said already, or a hook of ours resumes the training."""
        progress = self._meter.progress
        is_driven = progress.is_listening or progress.is_paced or progress.is_finished
        return None if is_driven or self._spec.resume_arg else progress.resume_option

    def _file_in_index(self) -> None:
        if not self._journal.is_in_place(self._rundir.journal_path):
            return  # it was removed, and with it whatever could be completed
        give_up_at = time.monotonic() + _FINAL_TRIES_S
        while not (self._journal.append() and self._recorder.finish()):
            if time.monotonic() > give_up_at:
                self._observer.said("the home folder is full or busy; `backprop list` completes this record later")
                return
            time.sleep(0.05)


def _unread(run_id: str, offered: environment.Resumed, option: str | None, *, is_certain: bool) -> str:
    """option: of the script, that looks as if it took a checkpoint. is_certain: whether it starts over for sure."""
    has_option = "If the script has an option for a checkpoint, name it"
    if option is not None:
        has_option = f"This script has {option.partition('=')[0]}"
    return (
        f"WARNING: training began without reading {offered}: it starts from the beginning"
        f"{'' if is_certain else ', unless it continues from something else'}. "
        f"{has_option}: backprop resume {run_id} --resume-arg {option or '--OPTION'}"
    )


def _blind(problem: str) -> str:
    return f"the governor is blind to GPUs: {problem}"
