"""`backprop sweep`: search parameters within a budget of training time."""

import math
import os
import select
import shlex
import sys
import time
from contextlib import ExitStack, closing, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backprop import config, host
from backprop.cli import completion
from backprop.cli.context import json_option, print_json, say, say_whose_home, working_folder
from backprop.cli.options import (
    SessionCommand,
    after_dashes,
    check_for_engine,
    load_config,
    settings_of,
    trial_options,
    words_of,
)
from backprop.errors import BackpropError, BusyError, ExitCode, UsageError
from backprop.lifecycle.sweep import sampler as samplers
from backprop.lifecycle.sweep import spec as specs
from backprop.lifecycle.sweep.journal import Added
from backprop.lifecycle.sweep.observation import active_runs, append, ask_to_stop, is_driven, observe
from backprop.lifecycle.sweep.space import option_words, parse_parameters
from backprop.lifecycle.sweep.spec import Confirm, SweepSpec
from backprop.store.annotations import Kind
from backprop.store.annotations import check as check_annotation
from backprop.store.files import open_to_append, send_output_to
from backprop.store.home import Home
from backprop.store.rundir import new_run_id

if TYPE_CHECKING:
    from backprop.lifecycle.sweep.sweeper import Sweeper

_START = "start"
_BEGIN_S = 30.0  # until a sweeper in the background has the sweep
_LOOK_EVERY_S = 0.25
_WAIT_EVERY_S = 1.0
_STOP_S = 120.0
_SHORTEST_RUNG_SHARE = 1 / 20  # of the budget, by default
_BACKGROUND = "BACKPROP_SWEEP_LOG"  # of a sweeper in the background: what it answers to when it begins, and its log
_HAS_BEGUN = b"begun\n"
_IS_BUSY = b"busy\n"


class SweepGroup(click.Group):
    """Its first word is a subcommand; else it is the script of a new sweep."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [_START, *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return ["SCRIPT [OPTIONS] [-- ARGS...]", "|", "COMMAND NAME"]


@click.group(cls=SweepGroup)
def sweep() -> None:
    """Search for good parameters within a budget of training time.

    With a script it starts a sweep; 'backprop sweep start --help' lists the options. NAME is the name of a sweep, its
    id, or 'last'.
    """


_name = click.argument("name", default="last", shell_complete=completion.sweeps)


class _Range(click.FloatRange):
    """click lets what is not a number be in any range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


_minutes = _Range(min=0, min_open=True, max=525_600)


@sweep.command(_START, cls=SessionCommand)
@click.argument("script", shell_complete=completion.files)
@click.option("-n", "--name", metavar="NAME", help="The sweep's name, and its runs' group. [default: after the script]")
@click.option(
    "--goal", metavar="max:METRIC", required=True, help="What to search for: max:val_accuracy, or min:loss. Required."
)
@click.option(
    "--param",
    "param",
    metavar="NAME=VALUES",
    multiple=True,
    required=True,
    help="Search this option of the script: lr=1e-3..0.3:log, layers=1..4 or hidden=32,64,128. Repeatable.",
)
@click.option(
    "--budget", metavar="MINUTES", type=_minutes, required=True, help="Training time of all runs together. Required."
)
@click.option("--until", metavar="HH:MM", help="Start no session that would end later than this.")
@click.option(
    "--sampler",
    type=click.Choice(samplers.SAMPLERS),
    default=None,
    help="How parameters are proposed. [default: tpe, or random without Optuna]",
)
@click.option("--seed", metavar="N", type=int, default=0, help="Seed of the sampler. [default: 0]")
@click.option("--seed-param", metavar="NAME", help="The script's option for its own seed.")
@click.option("--confirm", metavar="TOPxSEEDS", help="Repeat the best trials at the end: 3x5. Needs --seed-param.")
@click.option(
    "--rung", metavar="MINUTES", type=_minutes, help="Length of the first rung. [default: a twentieth of the budget]"
)
@click.option(
    "--rung-steps",
    metavar="N",
    type=click.IntRange(2, 10**12),
    help="Rungs in steps: the first ends at step N, or after --rung. For scripts that report steps.",
)
@click.option(
    "--eta",
    metavar="N",
    type=_Range(min=1.5, max=100),
    default=3.0,
    help="Each rung is N times as long, and one in N trials gets there. [default: 3]",
)
@click.option(
    "--max-rungs", metavar="N", type=click.IntRange(1, 20), default=4, help="Maximum number of rungs. [default: 4]"
)
@click.option(
    "--from-scratch", is_flag=True, help="For scripts that cannot resume: each rung trains from the beginning."
)
@trial_options()
@click.option(
    "--config", "config_file", metavar="PATH", type=click.Path(path_type=Path), help="Read settings from this file."
)
@json_option
@click.pass_context
def start(ctx: click.Context, /, *, script: str, config_file: Path | None, as_json: bool, **options: Any) -> None:
    """Start a sweep, and run it until its budget is used up."""
    flags = settings_of({"wait": None, **options})
    home = Home.from_environment()
    say_whose_home(home.path)
    if not Path(script).is_file():
        raise UsageError(f"no such script: {script}. To control a sweep: backprop sweep status NAME; see --help.")
    settings = load_config(home, flags, Path(script).absolute().parent, config_file).config
    # unlike that of a run, the -p of a sweep counts on Slurm, too
    check_for_engine({**flags, "maxParallel": None}, is_for_slurm=settings.slurm is not None)
    spec = _spec(ctx, script, settings, flags, options, config_file)
    samplers.check(spec.sampler, spec.parameters)
    specs.make(home, spec)
    until = "" if spec.until is None else f", until {spec.until.astimezone():%Y-%m-%d %H:%M}"
    say(f"sweep {spec.name} ({spec.id}): {spec.goal_text} within {spec.budget_s / 60:g} min{until}, {spec.sampler}")
    say(_rungs_text(spec))
    for one in spec.parameters:
        if one.is_integer:
            say(f"{one.name}: integers from {one.text(one.low)} to {one.text(one.high)}; for numbers: {one.low:.1f}..")
    _go_on(home, spec, detach=settings.detach, as_json=as_json)


def _spec(
    ctx: click.Context,
    script: str,
    settings: config.Config,
    flags: dict[str, Any],
    options: dict[str, Any],
    config_file: Path | None,
) -> SweepSpec:
    """What the command line asks for. Raises UsageError."""
    sweep_id = new_run_id()
    name = options["name"] or f"{Path(script).stem}-{sweep_id}"
    config.check_name(name)
    check_annotation(Kind.GROUP, name)
    [(metric, goal)] = config.goals_by_name(config.check("goals", (options["goal"],), "--goal")).items()
    parameters = parse_parameters(options["param"])
    confirm = _confirm(options["confirm"])
    seed_param = None if options["seed_param"] is None else options["seed_param"].lstrip("-")
    if confirm is not None and seed_param is None:
        raise UsageError("--confirm needs --seed-param: the script's option for its seed.")
    if seed_param is not None and seed_param in {"", *(one.name for one in parameters)}:
        raise UsageError(f"--seed-param {seed_param!r}: expected an option of the script that no --param searches.")
    file = () if config_file is None else (f"--config={config_file.absolute()}",)
    budget_s = options["budget"] * 60
    rung_s = budget_s * _SHORTEST_RUNG_SHARE if options["rung"] is None else options["rung"] * 60
    if rung_s > budget_s:
        raise UsageError(f"--rung {options['rung']:g} is longer than the budget of {options['budget']:g} min.")
    trial_flags = {key: value for key, value in flags.items() if key not in {"detach", "name"}}
    return SweepSpec(
        id=sweep_id,
        name=name,
        script=script,
        cwd=str(working_folder()),
        created_at=datetime.now(timezone.utc),
        user=host.user(),
        metric=metric,
        goal=goal,
        parameters=parameters,
        budget_s=budget_s,
        rung_s=rung_s,
        rung_steps=options["rung_steps"],
        parallel=settings.max_parallel,
        eta=options["eta"],
        max_rungs=options["max_rungs"],
        sampler=options["sampler"] or _usual_sampler(),
        seed=options["seed"],
        seed_param=seed_param,
        confirm=confirm,
        until=_until(options["until"]),
        from_scratch=options["from_scratch"],
        arguments=tuple(after_dashes(ctx)),
        run_options=(*words_of(trial_flags), *file),
        resume_options=(
            *words_of({key: value for key, value in trial_flags.items() if not config.SETTINGS[key].is_kept}),
            *file,
        ),
    )


def _rungs_text(spec: SweepSpec) -> str:
    """When the rungs end, and what is better."""
    rungs, rules = range(spec.max_rungs), spec.rules
    if spec.rung_steps is not None:
        return f"rungs end at step {', '.join(f'{rules.until_step(rung):,}' for rung in rungs)}"
    lengths = ", ".join(f"{rules.duration_s(rung) / 60:.3g}" for rung in rungs)
    advice = "if the script reports steps, --rung-steps compares trials at the same step"
    return f"rungs last {lengths} min, which favours small and fast models; {advice}"


def _usual_sampler() -> str:
    import importlib.util

    return "random" if importlib.util.find_spec("optuna") is None else "tpe"


def _confirm(text: str | None) -> Confirm | None:
    """Raises UsageError."""
    if text is None:
        return None
    top, _, seeds = text.partition("x")
    if not all(number.isascii() and number.isdecimal() and 0 < int(number) <= 1000 for number in (top, seeds)):
        raise UsageError(f"--confirm {text!r}: invalid value: expected TOPxSEEDS, such as 3x5.")
    return Confirm(top=int(top), seeds=int(seeds))


def _until(text: str | None) -> datetime | None:
    """The next time at which the clock shows this. Raises UsageError."""
    if text is None:
        return None
    try:
        clock = datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007  a time of the day here
    except ValueError as error:
        raise UsageError(f"--until {text!r}: invalid value: expected HH:MM, such as 18:00.") from error
    now = datetime.now().astimezone().replace(tzinfo=None)  # the clock may be changed until then
    at = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
    return (at if at > now else at + timedelta(days=1)).astimezone(timezone.utc)


# -- go on


@sweep.command()
@_name
@click.option("-d", "--detach", is_flag=True, help="Run it in the background.")
@json_option
def resume(*, name: str, detach: bool, as_json: bool) -> None:
    """Continue a sweep that was stopped or interrupted."""
    home = Home.from_environment()
    _go_on(home, specs.find(home, name), detach=detach, as_json=as_json)


@sweep.command()
@_name
@json_option
def tick(*, name: str, as_json: bool) -> None:
    """Do what is due now in a sweep, and return: for cron and for programs."""
    home = Home.from_environment()
    spec = specs.find(home, name)
    with _sweeper(home, spec) as sweeper:
        sweeper.tick()
        finished = sweeper.standing.finished
    _show(home, spec, as_json=as_json)
    raise click.exceptions.Exit(ExitCode.OK if finished is None else finished.exit_code)


def _go_on(home: Home, spec: SweepSpec, *, detach: bool, as_json: bool) -> None:
    """Drive the sweep in this process, or in one of its own. Raises click's Exit."""
    from backprop.cli.sweep_display import SweepDisplay
    from backprop.lifecycle.sweep.driving import SweepDriver
    from backprop.lifecycle.sweep.sweeper import Sweeper
    from backprop.supervisor.signals import Signals

    if detach:
        finished = observe(home, spec).standing.finished
        if finished is not None and finished.exit_code == ExitCode.OK:
            say(f"sweep {spec.name} has ended already: {finished.reason}")
        else:
            _start_in_background(home, spec)
            say(f"sweep {spec.name} runs in the background · look with: backprop sweep status {spec.name}")
        if as_json:
            _show(home, spec, as_json=True)
        else:
            print(spec.name)
        return
    answer, _, log = os.environ.pop(_BACKGROUND, "").partition(":")
    if log:
        send_output_to(int(answer))
    display = SweepDisplay()
    with ExitStack() as entered:
        signals = entered.enter_context(Signals(ignore_hangup=bool(log)).caught())
        try:
            sweeper = entered.enter_context(closing(Sweeper(home, spec, display)))
        except BusyError:
            if log:
                _answer(_IS_BUSY)
            raise
        sweeper.begin()
        if log:
            _write_to_log(Path(log))
        try:
            code = SweepDriver(home, spec, sweeper, display).drive(signals)
        finally:
            display.close()
    if as_json:
        _show(home, spec, as_json=True)
    else:
        _say_conclusion(home, spec)
    raise click.exceptions.Exit(code)


def _write_to_log(log: Path) -> None:
    """Tell the command that started this process that it has the sweep, and send further output to the log."""
    fd = open_to_append(log)
    _answer(_HAS_BEGUN)
    send_output_to(fd)


def _answer(text: bytes) -> None:
    """Tell the command that started this process."""
    with suppress(BrokenPipeError):  # it was killed
        os.write(2, text)


def _start_in_background(home: Home, spec: SweepSpec) -> None:
    """Start a sweeper of its own, and wait until it has the sweep. Raises BackpropError."""
    from backprop.supervisor.process.launch import start_detached

    log = specs.sweep_dir(home, spec.id).log_path
    reader, writer = os.pipe()
    variables = (f"BACKPROP_HOME={home.path}", f"{_BACKGROUND}={writer}:{log}")
    start_detached(["/usr/bin/env", *variables, sys.executable, "-m", "backprop", "sweep", "resume", spec.id], writer)
    os.close(writer)
    answer = _read_to_end(reader, _BEGIN_S)
    if answer is None:
        raise BackpropError(f"the sweeper has not started within {_BEGIN_S:g} s; see {log}")
    if not answer.endswith(_HAS_BEGUN):
        problem = answer.decode(errors="replace").strip().rpartition("backprop: ")[2]
        if _IS_BUSY in answer:
            raise BusyError(problem)
        raise BackpropError(problem or f"the sweeper died; see {log}")


def _read_to_end(fd: int, limit_s: float) -> bytes | None:
    """What is written to a pipe before nobody has it open any more; None: somebody has after that time."""
    data, deadline = b"", time.monotonic() + limit_s
    with os.fdopen(fd, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not (more := pipe.read(65_536)):
                return data
            data += more
    return None


@sweep.command()
@_name
def stop(*, name: str) -> None:
    """Stop a sweep and its trials gracefully; 'backprop sweep resume NAME' continues it."""
    home = Home.from_environment()
    spec = specs.find(home, name)
    if (finished := observe(home, spec).standing.finished) is not None:
        say(f"sweep {spec.name} has ended already: {finished.reason}")
        return
    is_asked = is_driven(home, spec)
    if is_asked:
        ask_to_stop(home, spec)
        deadline = time.monotonic() + _STOP_S
        while is_driven(home, spec):
            if time.monotonic() > deadline:
                raise BusyError(f"sweep {spec.name} has not stopped yet; check with: backprop sweep status {spec.name}")
            time.sleep(_LOOK_EVERY_S)
    standing = observe(home, spec).standing
    has_ended = standing.stopped is not None or standing.finished is not None
    if not (is_asked and has_ended):  # a tick does not stop trials, and a sweeper may be killed before it does
        with _sweeper(home, spec) as sweeper:
            sweeper.stop("backprop sweep stop")
    say(f"sweep {spec.name} is stopped; continue with: backprop sweep resume {spec.name}")


@sweep.command()
@_name
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def rm(*, name: str, yes: bool) -> None:
    """Remove the record of a sweep. Its runs stay: 'backprop rm --filter group=NAME' removes them."""
    home = Home.from_environment()
    spec = specs.find(home, name)
    if not yes and not sys.stdin.isatty():
        raise UsageError("cannot ask for confirmation without a terminal; to remove without asking: --yes")
    if not yes and not click.confirm(f"Remove sweep {spec.name}?", err=True):
        raise click.Abort
    with _sweeper(home, spec) as sweeper, home.changing():
        if any(not run.status.is_final for run in active_runs(home, sweeper.standing).values()):
            raise BusyError(f"trials of sweep {spec.name} are active; first: backprop sweep stop {spec.name}")
        specs.remove(home, spec)
    say(f"removed sweep {spec.name}; its runs are left: backprop list --filter group={spec.name}")


# -- look


@sweep.command()
@_name
@json_option
def status(*, name: str, as_json: bool) -> None:
    """Show the state of a sweep."""
    home = Home.from_environment()
    _show(home, specs.find(home, name), as_json=as_json)


@sweep.command()
@_name
@click.option("--timeout", metavar="MINUTES", type=_minutes, help="Exit with 124 after this long.")
@json_option
def wait(*, name: str, timeout: float | None, as_json: bool) -> None:
    """Wait until a sweep has finished, and exit as it did."""
    home = Home.from_environment()
    spec = specs.find(home, name)
    deadline = math.inf if timeout is None else time.monotonic() + timeout * 60
    while True:
        seen = observe(home, spec)
        if seen.state not in {"running", "stopping"}:
            break
        if time.monotonic() > deadline:
            say(f"sweep {spec.name} is still running")
            raise click.exceptions.Exit(ExitCode.TIMED_OUT)
        time.sleep(_WAIT_EVERY_S)
    if as_json:
        _show(home, spec, as_json=True)
    else:
        _say_conclusion(home, spec)
    if seen.standing.finished is None:
        raise click.exceptions.Exit(ExitCode.REFUSED)
    raise click.exceptions.Exit(seen.standing.finished.exit_code)


@sweep.command()
@_name
@json_option
def best(*, name: str, as_json: bool) -> None:
    """Print the parameters of the best trial, as the script takes them."""
    from backprop.views.documents import sweep_json

    home = Home.from_environment()
    standing = observe(home, specs.find(home, name)).standing
    if standing.best is None:
        raise UsageError(f"no trial of sweep {standing.spec.name} has a value of {standing.spec.metric} yet.")
    if as_json:
        print_json(sweep_json.best_document(standing, standing.best))
    else:
        print(shlex.join(word for item in standing.best.params.items() for word in option_words(*item)))


@sweep.command()
@_name
@json_option
def ask(*, name: str, as_json: bool) -> None:
    """Print what the sampler would try next; nothing is started."""
    home = Home.from_environment()
    standing = observe(home, specs.find(home, name)).standing
    found = samplers.propose(standing)
    if found is None:
        raise UsageError(f"sweep {standing.spec.name} has nothing left to try: all of its grid is taken.")
    if as_json:
        print_json({"params": found.params, "source": found.source})
    else:
        print(shlex.join(f"{name}={text}" for name, text in found.params.items()))


@sweep.command()
@click.argument("name", shell_complete=completion.sweeps)
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option("--note", metavar="TEXT", help="Add this note to its run.")
def add(*, name: str, values: tuple[str, ...], note: str | None) -> None:
    """Let a sweep try these parameters next: 'backprop sweep add digits lr=0.03'. The sampler proposes the others."""
    home = Home.from_environment()
    spec = specs.find(home, name)
    given = dict(value.partition("=")[::2] for value in values)
    known = {one.name: one for one in spec.parameters}
    if not given.keys() <= known.keys() or len(given) != len(values):
        raise UsageError(f"expected a value for some of {', '.join(known)}, such as {spec.parameters[0].name}=VALUE.")
    for key, value in given.items():
        if (problem := known[key].problem(value)) is not None:
            raise UsageError(f"{key}={value}: invalid value: {problem}.")
    if note is not None:
        check_annotation(Kind.NOTE, note)
    standing = observe(home, spec).standing
    if standing.planned is not None or (standing.finished is not None and standing.finished.exit_code == ExitCode.OK):
        raise UsageError(f"the search of sweep {spec.name} is over: nothing is tried any more.")
    append(home, spec, Added(at=datetime.now(timezone.utc), params=given, by=host.user(), note=note))
    seen = observe(home, spec)
    continue_hint = "" if seen.is_driven else f"; continue with: backprop sweep resume {spec.name}"
    say(f"sweep {spec.name} tries {' '.join(values)} next{continue_hint}")


def _sweeper(home: Home, spec: SweepSpec) -> "closing[Sweeper]":
    """The sweeper, for this process alone. Raises BusyError."""
    from backprop.cli.sweep_display import SweepDisplay
    from backprop.lifecycle.sweep.sweeper import Sweeper

    return closing(Sweeper(home, spec, SweepDisplay()))


def _show(home: Home, spec: SweepSpec, *, as_json: bool) -> None:
    seen = observe(home, spec)
    if as_json:
        from backprop.views.documents import sweep_json

        print_json(sweep_json.sweep_document(seen))
        return
    from backprop.views.terminal import sweep_table

    print(sweep_table.summary(seen.standing, seen.budget, seen.state), end="")
    if seen.standing.finished is not None:
        print(seen.standing.finished.reason)


def _say_conclusion(home: Home, spec: SweepSpec) -> None:
    from backprop.views.terminal import sweep_table

    seen = observe(home, spec)
    print(sweep_table.summary(seen.standing, seen.budget, seen.state), end="")
    for line in sweep_table.conclusion(seen):
        say(line)
