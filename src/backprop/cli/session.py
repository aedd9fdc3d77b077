"""From a claimed run to an exit code: admit, supervise here or in the background, and tell the user throughout."""

import os
import sys
import traceback
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
import msgspec

from backprop import command as commands
from backprop.cli.common import is_valid, say
from backprop.errors import BackpropError, ExitCode
from backprop.records import Limits, RunSpec, Status
from backprop.store.journal import Admitted, Journal, Refused
from backprop.store.rundir import Home, RunDir
from backprop.views import human

if TYPE_CHECKING:
    from backprop.governor.policy import Decision
    from backprop.progress import Progress
    from backprop.recorder import Recorder
    from backprop.runner import Observer, Outcome, SessionPlan


@dataclass(frozen=True)
class Claimed:
    """A run whose journal this process has locked."""

    home: Home
    rundir: RunDir
    spec: RunSpec
    journal: Journal
    is_new: bool  # made a moment ago: if it cannot start, it is taken back

    def recorder(self) -> "Recorder":
        from backprop.recorder import Recorder

        return Recorder(self.home, self.rundir, self.spec, self.journal, say)


def make_run(home: Home, spec: RunSpec, patch: bytes | None) -> tuple[RunDir, Journal]:
    """A new run directory, whole from the moment it can be seen, and its locked journal. Raises BackpropError."""
    if home.has_old_runs_only():
        from backprop import recovery

        recovery.import_old(home, say)
    draft = home.begin(spec, patch)
    journal = Journal(draft.journal_path)
    journal.try_lock()  # nobody else can have it: the folder is not visible yet
    return home.publish(draft, spec.id), journal


def train(claimed: Claimed, limits: Limits, checkpoint: str | None, *, detach: bool, as_json: bool) -> NoReturn:
    """Run a session and exit with its code."""
    from backprop.runner import SessionPlan

    decision = _decide(claimed.home, claimed.spec, limits)
    if not decision.is_admitted:
        _refuse(claimed, decision, as_json=as_json)
    claimed.journal.append(Admitted(at=datetime.now(timezone.utc), figures=decision.figures))
    plan = SessionPlan(
        limits=limits,
        resumed_from=checkpoint,
        resume_flag=_resume_flag(claimed.spec) if checkpoint is not None else None,
    )
    _tell_start(claimed.spec, limits, detach=detach)
    if detach:
        _supervise_in_background(claimed, plan)
        if as_json:
            _print_document(claimed.recorder())
        else:
            print(claimed.spec.id)
        raise click.exceptions.Exit(ExitCode.OK)
    from backprop.views.terminal import Terminal

    terminal = Terminal(stdout_fd=2 if as_json else 1, stderr_fd=2)
    recorder = claimed.recorder()
    outcome = _supervise(claimed, plan, recorder, terminal, ignore_hangup=False)
    terminal.close()
    _tell_end(claimed.spec, recorder, outcome)
    if as_json:
        _print_document(recorder)
    recorder.close()
    raise click.exceptions.Exit(outcome.exit_code)


def _decide(home: Home, spec: RunSpec, limits: Limits) -> "Decision":
    from backprop.governor import policy, probes

    return policy.admit(limits, probes.read_snapshot([str(home.path), spec.cwd]))


def _refuse(claimed: Claimed, decision: "Decision", *, as_json: bool) -> NoReturn:
    reason = decision.reason or ""
    claimed.journal.append(Refused(at=datetime.now(timezone.utc), reason=reason, figures=decision.figures))
    recorder = claimed.recorder()
    recorder.finish()
    say(f"run {claimed.spec.id} is not started: {reason}")
    if as_json:
        _print_document(recorder)
    raise click.exceptions.Exit(ExitCode.REFUSED)


def _resume_flag(spec: RunSpec) -> str | None:
    if spec.resume_arg is not None:
        return spec.resume_arg
    return commands.RESUME_FLAG if commands.declares_resume_flag(spec.script) else None


# -- supervise


def _supervise(
    claimed: Claimed, plan: "SessionPlan", recorder: "Recorder", observer: "Observer", *, ignore_hangup: bool
) -> "Outcome":
    """Run the session in this process. A home that is too full to begin leaves no half-made run behind."""
    from backprop.runner import Supervisor
    from backprop.supervisor.signals import Signals

    with Signals(ignore_hangup=ignore_hangup).caught() as signals:
        supervisor = Supervisor(
            rundir=claimed.rundir,
            spec=claimed.spec,
            journal=claimed.journal,
            recorder=recorder,
            observer=observer,
            signals=signals,
        )
        try:
            return supervisor.run(plan)
        except OSError as error:
            if claimed.is_new and not claimed.rundir.out_path(1).exists():
                claimed.rundir.remove()
            raise claimed.home.unusable(error) from error


class _Background:
    """The observer of a detached session: tells its parent when the trainer is launched, and the log the rest."""

    def __init__(self, pipe_fd: int) -> None:
        self._pipe_fd = pipe_fd
        self.has_answered = False

    def answer(self, data: bytes) -> None:
        self.has_answered = True
        os.write(self._pipe_fd, data)
        os.close(self._pipe_fd)

    def started(self, out_path: Path, err_path: Path) -> None:  # noqa: ARG002  nothing is copied anywhere
        self.answer(_STARTED)

    def looked(self, progress: "Progress", left_s: float) -> None:
        pass

    def said(self, text: str) -> None:
        say(text)


_STARTED = b"started"


def _supervise_in_background(claimed: Claimed, plan: "SessionPlan") -> None:
    """Fork a supervisor that survives this terminal; return when its trainer is launched. Raises BackpropError."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        _be_the_background_supervisor(claimed, plan, _Background(writer))
    os.close(writer)
    claimed.journal.close()  # the child has it too, and with it the lock
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    if answer != _STARTED:
        raise BackpropError(answer.decode(errors="replace") or f"the supervisor died; see {claimed.rundir.path}")


def _be_the_background_supervisor(claimed: Claimed, plan: "SessionPlan", observer: _Background) -> NoReturn:
    code = 1
    try:
        os.setsid()
        log = os.open(claimed.rundir.supervisor_log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        outcome = _supervise(claimed, plan, claimed.recorder(), observer, ignore_hangup=True)
        code = outcome.exit_code
        if not observer.has_answered:
            observer.answer((outcome.session.reason or "").encode())
    except BackpropError as error:
        observer.answer(str(error).encode())
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)  # the parent's cleanup is the parent's business


# -- tell


def _tell_start(spec: RunSpec, limits: Limits, *, detach: bool) -> None:
    now = datetime.now().astimezone()
    ends_at = now + timedelta(seconds=limits.timebox_s)
    day = "" if ends_at.date() == now.date() else f"{ends_at:%Y-%m-%d} "
    how = f" · follow it: backprop logs {spec.id} -f" if detach else ""
    timebox = f"timebox {human.minutes(limits.timebox_s)}, ends {day}{ends_at:%H:%M:%S}"
    say(f"run {spec.id} · {timebox} (change it with -m MINUTES){how}")


def _tell_end(spec: RunSpec, recorder: "Recorder", outcome: "Outcome") -> None:
    session = outcome.session
    view = recorder.view()
    told = f"run {spec.id} {session.status.value} after {human.duration(session.elapsed_s)}"
    if view is not None and view.last_step is not None:
        told += f" at step {view.last_step}"
    if session.reason:
        told += f": {session.reason}"
    has_checkpoint = view is not None and bool(view.checkpoints)
    if session.status is not Status.COMPLETED and (has_checkpoint or session.status is not Status.FAILED):
        told += f" · go on with: backprop resume {spec.id}"
    say(told)


def _print_document(recorder: "Recorder") -> None:
    from backprop.views import document

    view = recorder.view()
    if view is not None:
        print(document.encode(document.run_document(view, datetime.now(timezone.utc), is_valid)))


def tell_plan(home: Home, spec: RunSpec, checkpoint: str | None, *, as_json: bool) -> None:
    """What `run` would do; exits with 75 when the governor would refuse."""
    decision = _decide(home, spec, spec.limits)
    flag = _resume_flag(spec) if checkpoint is not None else None
    argv = commands.with_checkpoint(spec.command, flag, checkpoint)
    if as_json:
        from backprop.views import document

        plan = {
            "command": argv,
            "cwd": spec.cwd,
            "python": spec.python,
            "params": spec.params,
            "limits": spec.limits,
            "resumed_from": checkpoint,
            "home": str(home.path),
            "admitted": decision.is_admitted,
            "reason": decision.reason,
            "figures": decision.figures,
        }
        print(document.encode(msgspec.to_builtins(plan)))
    else:
        print(f"command  {' '.join(argv)}")
        print(f"folder   {spec.cwd}")
        print(f"python   {spec.python or '-'}")
        print(f"params   {'  '.join(f'{key}={value}' for key, value in spec.params.items()) or '-'}")
        print(f"timebox  {human.minutes(spec.limits.timebox_s)}, then {spec.limits.grace_s:g} s of grace")
        print(f"home     {home.path}")
        print(f"start    {decision.reason or 'now'}")
    if not decision.is_admitted:
        raise click.exceptions.Exit(ExitCode.REFUSED)
