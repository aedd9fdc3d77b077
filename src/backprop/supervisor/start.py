"""Starts a session: records its start and the code that it executes, then launches the trainer."""

import errno
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from backprop import host
from backprop.governor.run_policy import hard_ram_limit_bytes
from backprop.records import CodeState, Run
from backprop.store.code import provenance
from backprop.store.code.provenance import Recorded
from backprop.store.journal.entries import SessionStarted
from backprop.supervisor import command, environment
from backprop.supervisor.checkpoint_offer import OfferedCheckpoint
from backprop.supervisor.context import SessionContext
from backprop.supervisor.control_file import ControlFile
from backprop.supervisor.environment import Resumed
from backprop.supervisor.governing import blindness_message
from backprop.supervisor.monitor import ResourceMonitor
from backprop.supervisor.plan import SessionPlan
from backprop.supervisor.process import memory_cgroup
from backprop.supervisor.process.memory_cgroup import MemoryCgroup
from backprop.supervisor.process.trainer_process import Trainer


class Launched(NamedTuple):
    """A trainer that was just launched, and what was set up for it."""

    trainer: Trainer
    control: ControlFile
    offer: OfferedCheckpoint | None
    cgroup: MemoryCgroup | None
    offered: str | None  # the checkpoint that it is to continue from


def record_start(context: SessionContext, plan: SessionPlan, run: Run) -> None:
    """Record that the session starts. run: as it was before.

    Raises OSError when the home is too full; then nothing is recorded.
    """
    context.recorder.begin()
    script_sha256 = host.sha256(context.spec.script)
    code = _record_code(context, run, script_sha256)
    is_written = context.write(
        SessionStarted(
            at=context.clock.wall(),
            session=context.number,
            timebox_s=plan.limits.timebox_s,
            grace_s=plan.limits.grace_s,
            host=host.name(),
            supervisor_pid=os.getpid(),
            boot_id=host.boot_id(),
            offered=plan.checkpoint,
            script_sha256=script_sha256,
            code=code,
            job=plan.job,
            nodes=context.spec.nodes,
            revision=plan.revision,
            only_once=plan.only_once,
            request_id=plan.request_id,
        )
    )
    if not is_written:
        context.journal.drop_unwritten()  # or the session would seem to have started as soon as there is room
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(context.rundir.journal_path))


def _record_code(context: SessionContext, run: Run, script_sha256: str | None) -> CodeState:
    """Record the code that is executed now; report what has changed since the last session, or since submission."""
    spec, rundir = context.spec, context.rundir
    script = None if spec.script is None else Path(spec.script)
    if script is not None and script.is_relative_to(rundir.snapshot_path):
        return msgspec.structs.replace(run.code, changed=())
    now = provenance.record(Path(spec.cwd) if script is None else script.parent, script)
    last, before = run.last_session, run.code
    old = Recorded(git=before.git, patch=rundir.read_patch(before.patch))
    changed = list(provenance.changes(old, now))
    if script is not None:
        old_sha256 = spec.script_sha256 if last is None else last.script_sha256
        others = [script.name] if old_sha256 not in {None, script_sha256} else []
        if last is not None:  # modules that git does not know, or ignores
            modules = provenance.imported(rundir.read_modules(last.number))
            others += provenance.changed_modules(modules, script.parent)
        changed += [name for name in others if not any(known.endswith(name) for known in changed)]
    patch = None if now.patch is None else rundir.keep_patch(now.patch)
    code = CodeState(git=now.git, patch=patch, notes=now.notes, changed=tuple(changed))
    if changed:
        since = "it was submitted" if last is None else f"session {last.number}"
        context.observer.message(f"note: the code has changed since {since}: {code.changed_in_short}")
    return code


def launch(context: SessionContext, plan: SessionPlan, monitor: ResourceMonitor, cleanup: ExitStack) -> Launched:
    """Launch the trainer. Raises OSError when it cannot be executed.

    cleanup: gets what must be removed after the session, whether or not the launch succeeds.
    """
    spec, rundir, number = context.spec, context.rundir, context.number
    context.recorder.begin()
    control = ControlFile(rundir.control_path, plan.limits.grace_s, context.clock)
    control.write(plan.limits.timebox_s)
    if plan.gpu_problem is not None:
        context.observer.message(blindness_message(plan.gpu_problem))
    monitor.start(context.clock.now())
    resumed = _resumed(context, plan.checkpoint)
    variables = environment.for_trainer(spec, rundir, number, plan.limits, resumed, plan.gpus)
    cgroup, offer = None, None
    if plan.limits.ram_limit_bytes is not None:
        cgroup = memory_cgroup.build(spec.id, number, hard_ram_limit_bytes(plan.limits.ram_limit_bytes))
    if cgroup is not None:
        cleanup.callback(cgroup.remove)
    if resumed is not None:
        offer = OfferedCheckpoint(context, resumed, control)
        cleanup.callback(offer.close)
    step = None if resumed is None else resumed.step
    trainer = Trainer.start(
        command.with_checkpoint((*spec.command, *plan.only_once), plan.resume_args, plan.checkpoint, step),
        spec.cwd,
        variables,
        (spec.stdin, rundir.out_path(number), rundir.err_path(number)),
        str(rundir.path),
        enter=None if cgroup is None else cgroup.enter,
        ignore_hangup=context.signals.inherits_ignored_hangup,
    )
    with suppress(OSError):  # a disk that fails: training goes on
        rundir.sync()  # now, while the trainer starts
    return Launched(trainer, control, offer, cgroup, offered=plan.checkpoint)


def _resumed(context: SessionContext, path: str | None) -> Resumed | None:
    """The checkpoint to resume from, with the step it was reported for."""
    if path is None:
        return None
    view = context.recorder.view()
    steps = {checkpoint.path: checkpoint.step for checkpoint in view.checkpoints} if view is not None else {}
    return Resumed(path, steps.get(path))
