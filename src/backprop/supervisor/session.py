"""One session from start to end: the story of the program.

    start ──> launch ──> loop: handle requests · read output · govern · escalate a stop ──> sweep ──> file

Whatever fails on the way, the trainer's tree is ended before this returns, and how it ended is in the journal.
"""

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from backprop import host
from backprop.errors import ExitCode
from backprop.governor.run_queue import QueueSlot
from backprop.records import Checkpoint, Origin, RunSpec, Source, StopReason
from backprop.store.journal.entries import Renamed, TrainerLaunched
from backprop.store.journal.file import Journal
from backprop.store.output.protocol import Batch, TrainingBegan
from backprop.store.recorder import Recorder
from backprop.store.rundir import RunDir
from backprop.supervisor import command, filing, outcome, start
from backprop.supervisor.context import SessionContext
from backprop.supervisor.control_requests import RequestHandler
from backprop.supervisor.filing import OomCheck, SessionEnd
from backprop.supervisor.governing import Governing
from backprop.supervisor.liveness import Liveness
from backprop.supervisor.monitor import ResourceMonitor
from backprop.supervisor.pauses import Pauses
from backprop.supervisor.plan import Clock, Observer, Outcome, SessionPlan
from backprop.supervisor.signals import Signals
from backprop.supervisor.start import Launched
from backprop.supervisor.stop_ladder import Rung, StopEscalation
from backprop.supervisor.usage_log import UsageLog

if TYPE_CHECKING:
    from psutil import Process

    from backprop.store.output.printed_metrics import PrintedMetrics
    from backprop.supervisor.estimate import Estimate
    from backprop.supervisor.roster import Roster

LOOK_EVERY_S = 0.25  # output is in the index, and requests are followed, within this time
_ASK_AGAIN_EVERY_S = 0.05  # while training processes are ending: their launcher must not start anything else meanwhile
_HELPERS_END_WITHIN_S = 0.3  # after the trainer: helper processes that notice its exit, such as Python's
_SIGTERM_TO_ALL_S = 2.0  # when it is sent to all processes, as by Slurm, it may reach the trainer this long before us
LEFTOVER_GRACE_S = 5.0  # time for the processes that a trainer left behind when it exited


class Supervisor:
    """Runs one session of one run. The run's journal must be locked by this process."""

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

    def run(self, plan: SessionPlan) -> Outcome:
        """Run the session and return when nothing of it is left. Blocks for up to timebox plus grace.

        Raises OSError when the home is too full to begin; then nothing was started.
        """
        run, _ = self._recorder.read_run()
        context = SessionContext(
            rundir=self._rundir,
            spec=self._spec,
            number=1 + run.newest_number,
            limits=plan.limits,
            is_job=plan.job is not None,
            journal=self._journal,
            recorder=self._recorder,
            observer=self._observer,
            signals=self._signals,
            clock=self._clock,
        )
        start.record_start(context, plan, run)
        folders = (str(self._rundir.path), self._spec.cwd)
        gpu_problem = plan.gpu_problem if plan.gpus is None else None
        monitor = ResourceMonitor(plan.limits, folders, plan.gpus or (), plan.gpu_probe, self._place, gpu_problem)
        with ExitStack() as cleanup:
            cleanup.callback(monitor.close)
            return _supervise(context, plan, monitor, cleanup)


def _supervise(context: SessionContext, plan: SessionPlan, monitor: ResourceMonitor, cleanup: ExitStack) -> Outcome:
    oom_check = OomCheck()
    try:
        launched = start.launch(context, plan, monitor, cleanup)
    except OSError as error:
        reason = command.why_not_started(context.spec.command[0], error)
        return filing.file(context, SessionEnd(code=ExitCode.NOT_EXECUTED, reason=reason, elapsed_s=0.0))
    try:
        session = RunningSession(context, launched, monitor)
        cleanup.callback(session.close)
        session.begin()
        session.watch()
        session.finish()
    except BaseException:  # a bug of ours must not leave a trainer behind, nor lose its work: ask, wait, kill
        launched.trainer.end(context.limits.grace_s, context.rundir.announced_path(context.number))
        raise
    return filing.file(context, session.end(oom_check))


class RunningSession:
    """One session whose trainer was launched."""

    def __init__(self, context: SessionContext, launched: Launched, monitor: ResourceMonitor) -> None:
        self._context = context
        self._trainer = trainer = launched.trainer
        self._control = launched.control
        self._offer = launched.offer
        self._cgroup = launched.cgroup
        self._estimate = _estimate(context)
        self._printed = _printed_metrics(context, self._estimate, launched.offered)
        # one instant on both clocks: points are dated by what has passed since
        self._launched_at, self._launched_on = context.clock.now(), context.clock.wall()
        self._pauses = Pauses(context, trainer, self._before_continue)
        self._stop = StopEscalation(context, trainer, self._pauses, launched.control)
        self._requests = RequestHandler(context, self._pauses, self._stop)
        self._governing = Governing(context, monitor, self._pauses, self._stop, launched.control)
        sees_use = trainer.blindness is None and context.spec.nodes == 1
        self._liveness = Liveness(context, monitor, sees_use=sees_use)
        self._monitor = monitor
        usage_path = context.rundir.source_path(context.number, Source.USAGE)
        self._usage = UsageLog(usage_path) if sees_use else None  # of some of its processes it would mislead
        self._roster: Roster | None = None
        self._seen_pids = {trainer.pid}  # of its processes
        self._folders: set[str] = set()  # that its processes were seen in
        self._has_trained = False  # a step or a save was seen
        self._is_behind = False  # the trainer wrote more than the last look read
        self._has_missed_checkpoint = False  # one was reported that does not exist
        self._is_record_lost = False  # its journal was removed
        self._leftovers: tuple[str, ...] = ()  # what the trainer left running when it exited by itself

    # -- the story

    def begin(self) -> None:
        """Record the launch."""
        context, trainer = self._context, self._trainer
        context.recorder.output.look_for_checkpoints_in(self._find_folders)
        if trainer.blindness is not None:
            context.observer.message(
                f"warning: {trainer.blindness}. Only the trainer's process group can be watched and stopped: "
                "processes that leave it are not found and not ended, and memory is not measured (--ram-limit)"
            )
        cgroup_path = None if self._cgroup is None else str(self._cgroup.path)
        context.write(TrainerLaunched(at=self._launched_on, session=context.number, pid=trainer.pid, cage=cgroup_path))
        context.observer.started(context.rundir.out_path(context.number), context.rundir.err_path(context.number))
        context.recorder.record_state(publish=True)

    def watch(self) -> None:
        """Supervise the trainer until it has ended, by itself or because it was stopped."""
        while not self._stop.is_over():
            self._context.signals.wait(self._next_wake_at() - self._context.clock.now())
            self._requests.handle()
            self._look()
            self._end_at_step()
            self._want_checkpoint()
            self._govern()
            self._liveness.look(self._trained_s(self._context.clock.now()))
            self._measure()
            self._stop.announce_overrun()
            self._stop.escalate()
            self._stop.interrupt_rest()
            self._stop.end_other_tasks()

    def finish(self) -> None:
        """Read what the trainer wrote last, and end what it left behind."""
        if self._usage is not None:
            self._usage.close()
        self._look()
        if self._stop.request is None and not self._has_finished():
            if self._trainer.code in {-signal.SIGTERM, outcome.shell_code(-signal.SIGTERM)}:
                self._context.signals.rest(_SIGTERM_TO_ALL_S)
            self._requests.handle()  # a signal to all processes at once (Slurm) ends the trainer before we look
        if self._pauses.is_paused:
            self._pauses.end()  # it was killed by others while it was paused
        self._sweep()
        self._look()
        self._read_printed((), is_over=True)
        if self._printed is not None and self._printed.has_unread:
            self._context.observer.message(
                "warning: the script printed faster than metrics can be read in its output; the last ones are missing. "
                f"To have all: backprop import {self._context.rundir.out_path(self._context.number)}"
            )
        self._judge_offer(is_over=True)

    def end(self, oom_check: OomCheck) -> SessionEnd:
        """How the session ended. To be called once nothing of the tree is left."""
        context, trainer, stop = self._context, self._trainer, self._stop
        stop.forget_if_needless()
        elapsed_s, was_killed = self._trained_s(context.clock.now()), stop.rung is Rung.KILL
        code, last_words = filing.code_and_last_line(context, trainer.code, was_killed=was_killed)
        reason = outcome.reason(
            code=code,
            asked=None if stop.request is None else stop.request.detail,
            was_killed=was_killed,
            was_oom=oom_check.has_killed(self._seen_pids),
            cgroup_limit_bytes=filing.exceeded_cgroup_limit_bytes(context, self._cgroup),
            unkillable_pids=trainer.unkillable_pids,
            last_words=last_words,
            has_stdin=context.spec.stdin is not None,
        )
        return SessionEnd(
            code=code,
            reason=reason,
            elapsed_s=elapsed_s,
            stopped_by=stop.reason,
            leftovers=self._leftovers,
            is_over_own_limit=self._governing.is_over_own_limit,
        )

    def close(self) -> None:
        """Remove what is known of the tree: nothing is left of it."""
        self._liveness.close()
        if self._roster is not None:
            self._roster.remove()

    # -- the clock

    def _next_wake_at(self) -> float:
        now = self._context.clock.now()
        if self._is_behind:
            return now
        is_hurried = self._trainer.has_launchers_to_ask
        return min(now + (_ASK_AGAIN_EVERY_S if is_hurried else LOOK_EVERY_S), self._stop.ladder.next_after(now))

    def _trained_s(self, now: float) -> float:
        """Time since the launch without pauses."""
        return now - self._launched_at - self._pauses.state.paused.elapsed_s(now)

    def _before_continue(self, paused_s: float) -> None:
        self._stop.shift(paused_s)

    def _want_checkpoint(self) -> None:
        every_s = self._context.limits.checkpoint_every_s
        if every_s is None or self._stop.request is not None or self._pauses.is_paused:
            return
        due = int(self._trained_s(self._context.clock.now()) / every_s)
        if due > self._control.checkpoints_due:
            self._control.checkpoints_due = due
            self._stop.write_control()

    def _end_at_step(self) -> None:
        until, step = self._context.limits.until_step, self._context.meter.progress.step
        is_reached = until is not None and step is not None and step >= until
        if is_reached and self._stop.request is None and not self._trainer.is_over():
            self._stop.ask(StopReason.STEP, f"step {until} reached")

    # -- what the trainer writes

    def _look(self) -> None:
        """Read what the trainer wrote since the last look, and act on it."""
        context, now = self._context, self._context.clock.now()
        if (folder := self._trainer.folder()) is not None:  # it may report its only checkpoint just before it ends
            self._folders.add(folder)
        look = context.recorder.output.ingest(context.number, self._trained_s(now), is_supervisor=True)
        self._is_behind = look.is_behind
        for batch in look.batches:
            context.meter.observe(batch, now)
            self._has_trained |= batch.has_training
        if self._estimate is not None:
            self._estimate.look(look.batches, now)
        self._read_printed(look.batches, is_behind=look.is_behind or not look.is_stored)
        self._mark_saved(look.checkpoints)
        self._judge_offer([training for batch in look.batches for training in batch.trainings])
        self._inform_of_saved(look.checkpoints)
        if look.batches:
            self._stop.set_timebox(now)
        context.journal.append()  # what a full disk kept waiting
        self._check_record()
        context.observer.looked(context.meter.progress, self._stop.left_s(self._pauses.state.paused.since or now))

    def _read_printed(self, batches: Sequence[Batch], *, is_behind: bool = False, is_over: bool = False) -> None:
        """Read metrics in what the script prints, as long as none are reported. batches: what was read of these."""
        if self._printed is None:
            return
        if any(batch.series and batch.origin is Origin.REPORTED for batch in batches):
            self._printed = None
        else:
            meter = self._context.meter
            self._printed.look(
                meter.progress.counted_step, sampled=meter.sampled_losses, is_behind=is_behind, is_over=is_over
            )

    def _mark_saved(self, reported: Sequence[Checkpoint]) -> None:
        """Let the next session count printed lines on from these checkpoints."""
        if self._printed is not None:
            for one in reported:
                if not one.is_kept:  # of an earlier session
                    self._printed.note_saved(one.path, self._context.meter.progress.counted_step)

    def _judge_offer(self, trainings: Sequence[TrainingBegan] = (), *, is_over: bool = False) -> None:
        if self._offer is not None:
            self._offer.judge(trainings, self._stop.write_control, has_trained=self._has_trained, is_over=is_over)

    def _inform_of_saved(self, reported: Sequence[Checkpoint]) -> None:
        """Inform all processes of the trainer of new checkpoints; warn once of one that does not exist."""
        if reported:
            self._control.add_saved(reported)
            if not self._pauses.is_paused:  # else when it continues
                self._stop.write_control()
        missing = [one.path for one in reported[-1:] if one.measure.size_bytes is None]
        if missing and not self._has_missed_checkpoint:
            self._has_missed_checkpoint = True
            self._context.observer.message(
                f"warning: a checkpoint was reported that does not exist: {missing[0]}. A relative path must be"
                " relative to the folder that the script is in when it prints it"
            )

    def _check_record(self) -> None:
        """Warn once when the journal was removed."""
        context = self._context
        if self._is_record_lost or context.journal.is_in_place(context.rundir.journal_path):
            return
        self._is_record_lost = True
        if context.spec.name is not None:  # for a command that finds only the journal that we have open
            context.write(Renamed(at=context.clock.wall(), name=context.spec.name))
        context.observer.message(
            f"WARNING: {context.rundir.journal_path} was removed: no command can see this run any more, and it is no "
            f"longer recorded. It ends at its timebox, with Ctrl-C here, or with: backprop stop {context.spec.id}"
        )

    def _has_finished(self) -> bool:
        """Whether the trainer reported that training is complete: a request that comes afterwards is too late."""
        return self._trainer.code == 0 and self._context.meter.progress.is_finished

    # -- its processes

    def _govern(self) -> None:
        if self._pauses.is_paused:
            self._trainer.freeze()  # processes that were started, or continued by others, since the last look
        self._governing.obey(self._members)

    def _measure(self) -> None:
        """Keep what the monitor measured; not during a pause, which takes no time of training."""
        measured = self._monitor.take_measured()
        if self._usage is not None and measured is not None and not self._pauses.is_paused:
            self._usage.add(self._trained_s(self._context.clock.now()), measured)

    def _members(self) -> "list[Process]":
        """The tree as it is now, recorded for recovery in case we are killed."""
        if self._roster is None:
            from backprop.supervisor.roster import Roster

            self._roster = Roster(self._context.rundir.roster_path, self._context.number, host.boot_id())
        members = self._trainer.members()
        self._seen_pids.update(process.pid for process in members)
        self._roster.record(members)
        return members

    def _find_folders(self) -> tuple[str, ...]:
        """The folders that the trainer's processes are in, or were seen in."""
        self._folders.update(self._trainer.folders())
        return tuple(self._folders)

    def _sweep(self) -> None:
        """End what the trainer left behind when it exited: SIGTERM, then SIGKILL."""
        trainer, stop = self._trainer, self._stop
        if trainer.unkillable_pids or trainer.is_gone():
            return
        if stop.request is None:
            # give helpers that end with the trainer the time to
            if self._is_gone_within(_HELPERS_END_WITHIN_S):
                return
            self._leftovers = trainer.labels()
        stop.send(signal.SIGTERM)
        left_s = max(0.0, stop.ladder.kill_at - self._context.clock.now())
        self._is_gone_within(min(LEFTOVER_GRACE_S, self._context.limits.grace_s, left_s))
        trainer.kill()

    def _is_gone_within(self, duration_s: float) -> bool:
        """Whether nothing is left of the tree, as soon as that is so or the time is over."""
        until = time.monotonic() + duration_s
        while not (is_gone := self._trainer.is_gone()) and time.monotonic() < until:
            self._context.signals.wait(0.05)
        return is_gone


def _estimate(context: SessionContext) -> "Estimate | None":
    """Estimates the time that remains by what the script prints, if that is to be read."""
    if not context.spec.reads_printed_metrics:
        return None
    from backprop.supervisor.estimate import Estimate

    return Estimate(context)


def _printed_metrics(
    context: SessionContext, estimate: "Estimate | None", offered: str | None
) -> "PrintedMetrics | None":
    """Reads metrics in what the script prints, if it is to. Imported while the trainer starts."""
    if estimate is None:
        return None
    from backprop.store.output.printed_metrics import PrintedMetrics

    patterns = context.spec.metric_patterns
    return PrintedMetrics(context.rundir, context.number, patterns, estimate.outlook, offered=offered)
