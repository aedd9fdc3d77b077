"""From a claimed run to an exit code: all its turns, here or in the background, and what the user is told of them."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec

from backprop import host
from backprop.cli.context import is_valid, print_json, say, say_failure, tell_whose_home, write_lines
from backprop.engines.base import Order
from backprop.errors import ExitCode
from backprop.governor.run_queue import Line
from backprop.records import Gpu, Notification, RunSpec, Session, Status, in_minutes
from backprop.store.code import snapshot
from backprop.store.journal.file import Journal, Refused
from backprop.store.rundir import Home, RunDir
from backprop.supervisor import command as commands
from backprop.text import printable
from backprop.views.terminal import formatting

if TYPE_CHECKING:
    from backprop.governor.start_policy import Decision
    from backprop.lifecycle.admission import NoTurn
    from backprop.lifecycle.driver import Audience, Claim, Request
    from backprop.lifecycle.notifier import Teller
    from backprop.store.ingest import Recorder
    from backprop.supervisor.session import Outcome, SessionPlan
    from backprop.views.terminal.live_line import Terminal


def make_run(home: Home, spec: RunSpec, patch: bytes | None) -> tuple[RunDir, Journal]:
    """A new run directory, whole from the moment it can be seen, and its locked journal. Raises BackpropError."""
    tell_whose_home(home.path)
    if home.has_old_runs_only():
        from backprop.store import legacy_import

        legacy_import.take_over(home, say)
    draft = home.begin(spec, patch)
    if spec.snapshot_of is not None:
        try:
            snapshot.take(Path(spec.snapshot_of), draft.snapshot_path)
        except OSError as error:
            draft.discard()
            raise home.unusable(error) from error
        except BaseException:
            draft.discard()
            raise
    journal = Journal(draft.journal_path)
    journal.try_lock()  # nobody else can have it: the folder is not visible yet
    return home.publish(draft, spec.id), journal


def remember_notifications(rundir: RunDir, notifications: Sequence[Notification]) -> None:
    """Whom to tell of this run from now on."""
    if notifications or rundir.notify_path.exists():
        from backprop.lifecycle import notifier

        try:
            notifier.put(rundir, notifications)
        except OSError as error:  # the run matters more
            say(f"warning: nobody will be notified: {error.strerror}")


def train(claim: "Claim", request: "Request", *, detach: bool, as_json: bool, is_one_of_many: bool = False) -> NoReturn:
    """Do what was asked of a run, and exit with its code.

    is_one_of_many: their documents are printed together, by the caller.
    """
    recorder = recorder_of(claim)
    if claim.spec.slurm is not None:
        from backprop.cli.slurm import submit

        code = submit.train(claim, request, recorder, detach=detach, as_json=as_json)
        if as_json and not is_one_of_many:
            print_document(recorder)
        recorder.close()
        raise click.exceptions.Exit(code)
    if detach:
        from backprop.cli import background

        code = background.train(claim, request)
        if as_json:
            if not is_one_of_many:
                print_document(recorder)
        elif code == ExitCode.OK:
            print(claim.spec.id)
        raise click.exceptions.Exit(code)
    front = _Front(claim, recorder, as_json=as_json)
    result = take_turns(claim, request, recorder, front, ignore_hangup=False)
    if as_json:
        print_document(recorder)
    recorder.close()
    raise click.exceptions.Exit(told_exit_code(claim, result))


def train_many(claims: "Sequence[Claim]", request: "Request", *, as_json: bool) -> NoReturn:
    """Start runs that ask for the same in the background, print their ids, and exit with the worst of their codes."""
    recorders = [recorder_of(claim) for claim in claims]
    together = list(zip(claims, recorders, strict=True))
    if claims[0].spec.slurm is not None:
        from backprop.cli.slurm import submit

        code = submit.train_many(together, request)
    else:
        from backprop.cli import background

        code = background.train_many(together, request)
    if as_json:
        print_documents(recorders)
    else:
        print("\n".join(claim.spec.id for claim in claims))
    for recorder in recorders:
        recorder.close()
    raise click.exceptions.Exit(code)


def refuse(claim: "Claim", recorder: "Recorder", reason: str) -> None:
    """File a claimed run that gets no session, and tell whoever wants to know of it."""
    from backprop.lifecycle import recovery

    claim.journal.append(Refused(at=datetime.now(timezone.utc), reason=reason, figures={}))
    with suppress(OSError):  # whoever looks next brings the index up to date
        recorder.finish()
    recovery.tell_end(claim.home, claim.rundir, claim.spec)


def take_turns(
    claim: "Claim",
    request: "Request",
    recorder: "Recorder",
    audience: "Audience",
    *,
    ignore_hangup: bool,
    afterwards: "Callable[[Outcome | NoTurn], None] | None" = None,
) -> "Outcome | NoTurn":
    """All sessions of a request; whoever wants to know is told of the end.

    afterwards: done before that, because more may follow from it; the audience must not block then. Else the run is
    given up before the audience hears of the end: whoever does not read our output keeps nobody from the run.
    """
    from backprop.lifecycle.driver import Turns
    from backprop.supervisor.signals import Signals

    claim = replace(claim, spec=snapshot.executed(claim.spec, claim.rundir))

    def give_up_run() -> None:
        notify_end(claim, recorder, is_in_job=False)
        claim.journal.unlock()

    line = Line(claim.home.line_path, host.name())
    with Signals(ignore_hangup=ignore_hangup).caught() as signals:
        over = give_up_run if afterwards is None else None
        turns = Turns(claim, request, recorder=recorder, signals=signals, line=line, audience=audience, over=over)
        result = turns.run()
        if afterwards is not None:
            afterwards(result)
        if claim.journal.is_locked:
            notify_end(claim, recorder, is_in_job=afterwards is not None)
        return result


def notify_end(claim: "Claim", recorder: "Recorder", *, is_in_job: bool) -> None:
    """Tell whom the settings name how a run ended, unless more is to come.

    A job gives the run up before that: it waits until all are told, and whoever wants the run next does not.
    """
    if is_in_job:
        claim.journal.close()
    if (teller := _teller(claim, is_in_job=is_in_job)) is not None:
        teller.ended(*recorder.read_run())


def _teller(claim: "Claim", *, is_in_job: bool) -> "Teller | None":
    """None for a run of whose states nobody wants to be told."""
    if not claim.rundir.notify_path.exists():
        return None
    from backprop.lifecycle.notifier import Teller

    return Teller(claim.rundir, claim.home.index_path, is_in_job=is_in_job)


def recorder_of(claim: "Claim", *, is_in_job: bool = False) -> "Recorder":
    from backprop.store.ingest import Recorder

    teller = _teller(claim, is_in_job=is_in_job)
    changed = None if teller is None else teller.changed
    # as it is recorded: what this session is to execute instead counts when it begins
    return Recorder(claim.home, claim.rundir, claim.rundir.read_spec(), claim.journal, say, changed)


def told_exit_code(claim: "Claim", result: "Outcome | NoTurn") -> int:
    """What to exit with; a run that got no turn is said to have none."""
    from backprop.lifecycle.admission import NoTurn

    if isinstance(result, NoTurn):
        say(f"run {claim.spec.id} is not started: {result.reason}")
    return result.exit_code


class _Front:
    """The user at this terminal, or at the other end of this pipe."""

    def __init__(self, claim: "Claim", recorder: "Recorder", *, as_json: bool) -> None:
        self._claim = claim
        self._spec = claim.spec
        self._recorder = recorder
        self._stdout_fd = 2 if as_json else 1
        self._terminal: Terminal | None = None
        self._line = WaitingLine()

    def waits(self, reason: str) -> None:
        self._line.show(f"run {self._spec.id} waits: {reason}")

    def begins(self, plan: "SessionPlan") -> "Terminal":
        from backprop.views.terminal.live_line import Terminal

        self._line.end()
        _tell_start(self._spec, plan)
        self._terminal = Terminal(stdout_fd=self._stdout_fd, stderr_fd=2)
        return self._terminal

    def ended(self, outcome: "Outcome") -> None:
        if self._terminal is not None:
            self._terminal.close()
        tell_end(self._spec, self._recorder, outcome.session)
        say_failure(self._claim.rundir, outcome.session, is_seen=True)

    def said(self, text: str) -> None:
        self._line.end()
        say(text)


class WaitingLine:
    """One line that says what is waited for, rewritten in a terminal; in a pipe a line for each kind of reason."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._is_open = False
        self._told_words = ""

    def show(self, text: str) -> None:
        if self._is_terminal:
            line = f"backprop: {printable(text)}"[: shutil.get_terminal_size().columns - 1]
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
            self._is_open = True
            return
        words = "".join(character for character in text if not character.isdigit())
        if words != self._told_words:  # not for every figure that changes
            self._told_words = words
            say(text)

    def end(self) -> None:
        """Whatever is said next begins on a line of its own."""
        if self._is_open:
            self._is_open = False
            print(file=sys.stderr, flush=True)


# -- tell


def start_line(spec: RunSpec, timebox_s: float, began_at: datetime, gpus: Sequence[Gpu] = ()) -> str:
    """What is said when a session begins: until when, and on which cards."""
    ends_at = (began_at + timedelta(seconds=timebox_s)).astimezone()
    day = "" if ends_at.date() == datetime.now().astimezone().date() else f"{ends_at:%Y-%m-%d} "
    cards = "".join(f" · GPU {gpu.index} ({gpu.name})" for gpu in gpus)
    timebox = f"timebox {in_minutes(timebox_s)}, ends {day}{ends_at:%H:%M:%S}"
    return f"run {spec.id}{cards} · {timebox} (change it with -m MINUTES)"


def planned_start_line(spec: RunSpec, plan: "SessionPlan") -> str:
    return start_line(spec, plan.limits.timebox_s, datetime.now(timezone.utc), plan.gpus or ())


def _tell_start(spec: RunSpec, plan: "SessionPlan") -> None:
    say(planned_start_line(spec, plan))


def tell_end(spec: RunSpec, recorder: "Recorder", session: Session) -> None:
    view = recorder.view()
    told = f"run {spec.id} {session.status.value} after {formatting.duration(session.elapsed_s)}"
    if view is not None and view.last_step is not None:
        told += f" at step {view.last_step:,}"
    if why := session.full_reason:
        told += f": {why}"
    has_checkpoint = view is not None and any(not checkpoint.is_emergency for checkpoint in view.checkpoints)
    if session.status is not Status.COMPLETED:
        if has_checkpoint:
            told += f" · resume with: backprop resume {spec.id}"
            if (option := session.resume_option) is not None:
                told += f" · this script has {option.partition('=')[0]}; resume with --resume-arg {option}"
        elif session.status is not Status.FAILED:
            told += f" · no checkpoint was noticed; run it again with: backprop resume {spec.id}"
    say(told)


def print_document(recorder: "Recorder") -> None:
    from backprop.views.documents import run_json

    print_json(run_json.run_document(recorder.newest_view(), datetime.now(timezone.utc), is_valid))


def print_documents(recorders: "Sequence[Recorder]") -> None:
    from backprop.views.documents import run_json

    now = datetime.now(timezone.utc)
    print_json([run_json.run_document(recorder.newest_view(), now, is_valid) for recorder in recorders])


def tell_plan(
    home: Home, specs: Sequence[RunSpec], request: "Request", *, step: int | None = None, as_json: bool
) -> None:
    """What `run` or `resume` would do; exits with 75 when the governor of this machine would refuse it.

    specs: of the runs that would be started together, and differ in their arguments only. step: of the checkpoint.
    """
    from backprop.lifecycle.driver import resume_args

    spec, checkpoint = specs[0], request.checkpoint
    templates = resume_args(spec) if checkpoint is not None else ()
    argvs = [commands.with_checkpoint((*one.command, *request.only_once), templates, checkpoint, step) for one in specs]
    decision = _foreseen(home, spec, request) if spec.slurm is None else None
    sbatch = [] if spec.slurm is None else _sbatch_options(home, specs, request)
    if as_json:
        plan: dict[str, Any] = {
            "command": argvs[0],
            "cwd": spec.cwd,
            "python": spec.python,
            "params": spec.params,
            "limits": spec.limits,
            "resumed_from": checkpoint,
            "home": str(home.path),
        }
        if len(specs) > 1:
            together = zip(argvs, specs, strict=True)
            plan["runs"] = [{"command": argv, "params": one.params} for argv, one in together]
        if decision is None:
            plan["sbatch"] = sbatch
        else:
            plan["admitted"] = decision.is_admitted
            plan["reason"] = decision.reason
            plan["gpus"] = None if decision.gpus is None else [gpu.uuid for gpu in decision.gpus]
            plan["figures"] = decision.figures
        print_json(msgspec.to_builtins(plan))
    else:
        lines = [f"command  {' '.join(argv)}" for argv in argvs]
        lines.append(f"folder   {spec.cwd}")
        lines.append(f"python   {spec.python or '-'}")
        if len(specs) == 1:
            lines.append(f"params   {'  '.join(f'{key}={value}' for key, value in spec.params.items()) or '-'}")
        lines.append(f"timebox  {in_minutes(spec.limits.timebox_s)}, then {spec.limits.grace_s:g} s of grace")
        lines.append(f"home     {home.path}")
        if decision is None:
            lines.append(f"slurm    sbatch {shlex.join(sbatch)}")
        else:
            lines.append(f"gpus     {', '.join(f'{gpu.index} ({gpu.name})' for gpu in decision.gpus or ()) or '-'}")
            lines.append(f"start    {decision.reason or 'now'}")
        write_lines(f"{line}\n" for line in lines)
    if decision is not None and not decision.is_admitted:
        raise click.exceptions.Exit(ExitCode.REFUSED)


def _foreseen(home: Home, spec: RunSpec, request: "Request") -> "Decision":
    """What the governor of this machine would say."""
    from backprop.lifecycle import admission

    application = admission.Application(
        spec=spec,
        session=1,
        limits=request.limits,
        folders=(str(home.path), spec.cwd),
        gpu_probe=request.gpu_probe,
        within=admission.surrounding_run(home),
    )
    return admission.foresee(Line(home.line_path, host.name()), application)


def _sbatch_options(home: Home, specs: Sequence[RunSpec], request: "Request") -> list[str]:
    from backprop.engines.slurm import engine as slurm

    return slurm.options(Order(home.rundir(specs[0].id), specs[0], request.limits.timebox_s), len(specs))
