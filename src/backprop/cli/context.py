"""What several commands need: the home, a run by the word the user typed, and messages."""

import functools
import json
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
import msgspec

from backprop.errors import UsageError
from backprop.lifecycle import catalog
from backprop.records import Goal, Run, RunView, Session, Status
from backprop.store import metric_names
from backprop.store.files import owner_name
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.store.rundir import RunDir
from backprop.text import printable

if TYPE_CHECKING:
    from backprop.config import Config
    from backprop.supervisor.outcome import Traceback

Function = TypeVar("Function", bound=Callable[..., Any])

_FORMAT = "backprop.json"  # in the meta data of click's context
_NAMES_SHOWN = 12
_GOALS_SHOWN = 3
_NAME_WIDTH = 40
_LONG_CHARS = 20_000  # of JSON: ten runs


class _JsonFormat(NamedTuple):
    """How a command was asked to print its JSON."""

    fields: tuple[str, ...] = ()  # none: all
    is_lines: bool = False


def json_option(function: Function) -> Function:
    """Declare --json, --jsonl and --fields; the command gets `as_json`, and prints by `print_json`."""

    @functools.wraps(function)
    def call(*args: Any, as_json: bool, is_lines: bool, fields: str | None, **rest: Any) -> Any:
        from backprop.views.documents.fields import parsed

        chosen = () if fields is None else parsed(fields)
        click.get_current_context().meta[_FORMAT] = _JsonFormat(chosen, is_lines)
        return function(*args, as_json=as_json or is_lines or bool(chosen), **rest)

    declared: Any = call
    for option in (
        click.option("--fields", metavar="NAMES", help="Print only these fields as JSON: id,status,best.loss.value."),
        click.option("--jsonl", "is_lines", is_flag=True, help="Print JSON, one line for each document."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, to stdout."),
    ):
        declared = option(declared)
    result: Function = declared
    return result


full_option = click.option(
    "--full",
    "is_full",
    is_flag=True,
    help="With --json of several runs: print all fields of each, not only the most important ones.",
)


def asks_for_json(words: Sequence[str]) -> bool:
    """Whether a command line does, also one that is wrong."""
    own = words[: words.index("--")] if "--" in words else words
    return any(word in {"--json", "--jsonl"} or word.startswith("--fields") for word in own)


def _goals(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, Goal]:  # noqa: ARG001
    from backprop import config

    return config.goals_by_name(config.check("goals", value, "--goal")) if value else {}


goal_option = click.option(
    "--goal",
    "goals",
    multiple=True,
    metavar="GOAL",
    callback=_goals,
    help="Whether a greater (max:elo) or a smaller (min:fid) value of a metric is better. Repeatable.",
)


def say(message: str) -> None:
    """One line to the user, on stderr: stdout carries only what was asked for.

    A path or a name in it can neither command the terminal nor begin a line of its own. Where stderr takes nothing (a
    log on a full disk, a terminal that is gone), the command continues.
    """
    _print_to_stderr(f"backprop: {message}")


def _print_to_stderr(line: str) -> None:
    with suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)


def write_lines(lines: Iterable[str]) -> None:
    """Foreign data to stdout: as it is to a file or a pipe, without control characters to a terminal."""
    if sys.stdout.isatty():
        lines = (printable(line.removesuffix("\n")) + "\n" for line in lines)
    sys.stdout.writelines(lines)


is_valid = catalog.is_valid


def open_caught_up(home: Home) -> AbstractContextManager[Index]:
    """The index of a home, in step with what is on disk; repairs are shown to the user. Raises ConfigError."""
    say_whose_home(home.path)
    return catalog.caught_up(home, say)


@functools.cache
def say_whose_home(path: Path) -> None:
    """Say so, once, where the home folder is another user's (`sudo backprop` in one's own), or open to others."""
    if (owner := owner_name(path)) is not None:
        say(
            f"warning: the home folder {path} belongs to user {owner}, who cannot read what you write there. "
            f"Run this as {owner}, or set BACKPROP_HOME."
        )
        return
    if not path.exists() and os.geteuid() == 0 and (owner := owner_name(path.parent)) is not None:
        say(
            f"warning: {path.parent} belongs to user {owner}, who cannot use the home folder {path} that is made now. "
            f"Run this as {owner}, or set BACKPROP_HOME."
        )
        return
    mode = path.stat().st_mode if path.exists() else 0
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:  # sticky: each replaces only their own
        say(f"warning: other users can write to the home folder {path} and replace your runs; fix: chmod go-w {path}")


def check_threads() -> None:
    """Raise UsageError where no thread can be started: a program that needs some would fail half-way."""
    try:
        threading.Thread(target=int).start()
    except RuntimeError as error:
        raise UsageError(f"{error} (see ulimit -u).") from error


def find_run(home: Home, index: Index, word: str) -> RunView:
    """The run that `word` names. Raises NoSuchRunError, UsageError or BusyError."""
    return catalog.find_run(home, index, word, say)


def find_runs(home: Home, index: Index, words: Sequence[str]) -> list[RunView]:
    """The runs that these words name, each once, in their order. Raises NoSuchRunError or UsageError."""
    views = {view.run.spec.id: view for view in (find_run(home, index, word) for word in words)}
    return list(views.values())


def check_readable(run: Run) -> None:
    """Raise UsageError for a run whose record cannot be read."""
    if run.status is Status.UNREADABLE:
        raise UsageError(f"run {run.spec.id} cannot be read: {run.reason}")


def metrics_message(views: Sequence[RunView]) -> str:
    """Which metrics these runs have, for a user who asked for another one."""
    from backprop.views.terminal import formatting
    from backprop.views.terminal.screen import cut

    names = [name for name in metric_names.all_names(views) if not metric_names.is_progress(name)]
    if not names:
        return "They have no metrics: see the guide 'JSON lines' for how a script reports them."
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"Available: {', '.join(cut(formatting.name(name), _NAME_WIDTH) for name in names[:_NAMES_SHOWN])}{more}."


def known_goal(name: str, views: Sequence[RunView]) -> Goal:
    """Which values of a metric are better, as these runs have it. Raises UsageError where that is not known."""
    goal = metric_names.common_goal(name, views)
    if goal is None:
        raise UsageError(_not_known(name, name))
    return goal


def _not_known(names: str, example: str) -> str:
    return (
        f"no best value of {names}: it is not known whether greater or smaller is better; "
        f"to say it: --goal max:{example}, or min:"
    )


def say_without_goal(names: Collection[str], views: Sequence[RunView]) -> None:
    """Say of which of these metrics it is not known which values are better, so that none is called best."""
    from backprop.views.terminal import formatting
    from backprop.views.terminal.screen import cut

    unknown = [cut(formatting.name(name), _NAME_WIDTH) for name in metric_names.without_goal(names, views)]
    if unknown:
        more = f" and {len(unknown) - _GOALS_SHOWN} more" if len(unknown) > _GOALS_SHOWN else ""
        say(_not_known(", ".join(unknown[:_GOALS_SHOWN]) + more, unknown[0]))


def failure_of(rundir: RunDir, session: Session | None) -> "Traceback | None":
    """The traceback of a session that has failed, if it left one."""
    from backprop.supervisor import outcome

    return outcome.traceback_in(outcome.failure_text(rundir, session))


def say_failure(rundir: RunDir, session: Session | None, *, is_seen: bool) -> None:
    """Show the traceback of a session that has failed. is_seen: unless it is the last that the user has seen of it."""
    found = failure_of(rundir, session)
    if found is not None and not (is_seen and found.is_last):
        for line in found.lines:
            _print_to_stderr(f"  {line}")


def working_folder() -> Path:
    """The current folder. Raises UsageError when a run could not be recorded as started there."""
    try:
        folder = Path.cwd()
        folder.stat()
    except FileNotFoundError as error:
        raise UsageError("the current directory has been deleted; change to another one.") from error
    except PermissionError as error:  # su, or sudo -u, in a folder of one's own
        raise UsageError(f"the current folder {folder} is closed to you; change to another one.") from error
    check_text(str(folder), "the current folder's name")
    return folder


def settings_here(home: Home) -> "Config":
    """The settings in force in the current folder, without any flags. Raises ConfigError or UsageError."""
    from backprop.cli.config_sources import load

    found = load(flags={}, environment=os.environ, start=working_folder(), user_file=home.user_config_path)
    return found.config


def check_text(text: str, what: str) -> None:
    """Raise UsageError unless the text can be written as UTF-8, as every record is."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not valid UTF-8 and cannot be recorded: {text!r}") from error


def print_json(document: object, *, short: Sequence[str] = (), advised: str = "", has_result: bool = False) -> None:
    """What --json, --jsonl and --fields ask for; indented in a terminal, else a line for each document.

    short: the fields to print where none are asked for. advised: the --fields to advise a program to ask for, where it
    gets all of them, and that is long. has_result: the command's exit code tells something, and a
    misspelt field must not take its place. Raises UsageError for one.
    """
    from backprop.views.documents.run_json import encode

    context = click.get_current_context(silent=True)
    wanted: _JsonFormat = _JsonFormat() if context is None else context.meta.get(_FORMAT, _JsonFormat())
    documents = document if isinstance(document, list) else [document]
    if fields := wanted.fields or short:
        documents = _selected(documents, fields, has_result=has_result)
    if wanted.is_lines:
        text = "".join(f"{encode(one, 0)}\n" for one in documents)
    elif sys.stdout.isatty():
        text = encode(documents if isinstance(document, list) else documents[0]) + "\n"
    elif isinstance(document, list):
        text = "[" + ",".join(f"\n{encode(one, 0)}" for one in documents) + "\n]\n" if documents else "[]\n"
    else:
        text = encode(documents[0], 0) + "\n"
    _print_encoded(text)
    if advised and not fields and len(text) > _LONG_CHARS and not sys.stdout.isatty():
        say(f"{len(text):,} characters; for fewer: --fields {advised}")


def _selected(documents: list[Any], fields: Sequence[str], *, has_result: bool) -> list[Any]:
    from backprop.views.documents.fields import selected

    plain = msgspec.to_builtins(documents)
    chosen, problem = selected(plain, fields)
    if problem is not None:
        # what an active run has not reported yet may still come
        statuses = {one.get("status") for one in plain if isinstance(one, dict)}
        if not has_result and not any(not status.is_final and status.value in statuses for status in Status):
            raise UsageError(problem)
        say(problem)
    return list(chosen)


def _print_encoded(text: str) -> None:
    if (sys.stdout.encoding or "").lower().replace("-", "") != "utf8":
        text = re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)
    print(text, end="")
