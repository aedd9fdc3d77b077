"""`backprop wait`: exit with the worst exit code of runs, once they have ended."""

import math
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import click

from backprop.cli.context import full_option, is_valid, json_option, open_caught_up, print_json, say, say_failure
from backprop.cli.messages import print_documents
from backprop.cli.several import ACTIVE, EVERY, Choice, several_runs
from backprop.errors import ExitCode, NoSuchRunError, UsageError
from backprop.lifecycle import run_state
from backprop.records import USE_LAG_S, LiveProgress, RunView
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.supervisor import outcome
from backprop.views.terminal import formatting

_LOOK_EVERY_S = 1.0
_SHARE = 0.1  # of a core, at most, is spent on looking, however many runs there are


class _Minutes(click.FloatRange):
    """More than 0; the error for other values gives examples."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            minutes = super().convert(value, param, ctx)
        except click.BadParameter:
            minutes = math.nan  # as wrong as any other
        if not math.isfinite(minutes):
            self.fail(f"{value!r}: expected minutes, such as 5 or 0.5.", param, ctx)
        return minutes


_minutes = _Minutes(min=0, min_open=True)


@click.command()
@several_runs("All running, paused or queued runs.", of_all=ACTIVE, of_filter=EVERY)
@click.option(
    "--stalled",
    "stalled_minutes",
    metavar="MINUTES",
    type=_minutes,
    help="Exit with 69 if a run shows no sign of life for this long: no step, no output, no use of CPU or GPU.",
)
@click.option(
    "--silent",
    "silent_minutes",
    metavar="MINUTES",
    type=_minutes,
    help="Exit with 69 if a run makes no step and prints nothing for this long, even if it uses CPU or GPU.",
)
@click.option("--timeout", "timeout_minutes", metavar="MINUTES", type=_minutes, help="Exit with 124 after this long.")
@click.option(
    "--any",
    "is_any",
    is_flag=True,
    help="Return as soon as one run has ended; print those that have ended, and a cursor.",
)
@click.option("--since", metavar="CURSOR", help="With --any: only runs that have ended since it printed this cursor.")
@json_option
@full_option
def wait(
    *,
    choice: Choice,
    stalled_minutes: float | None,
    silent_minutes: float | None,
    timeout_minutes: float | None,
    is_any: bool,
    since: str | None,
    as_json: bool,
    is_full: bool,
) -> None:
    """Wait until runs have ended; exit with the worst of their exit codes. Ctrl-C leaves them running."""
    if since is not None and not is_any:
        raise UsageError("--since needs --any.")
    home = Home.from_environment()
    patience = _Patience(stalled_minutes, silent_minutes)
    deadline = math.inf if timeout_minutes is None else time.monotonic() + timeout_minutes * 60
    if is_any:
        found, code = _AnyWatch(home, choice, since, patience).wait(deadline)
        _print_ended(found, as_json=as_json, is_full=is_full)
        raise click.exceptions.Exit(code)
    with open_caught_up(home) as index:
        views = {view.run.spec.id: view for view in choice.find(home, index)}
        if views and sys.stderr.isatty():
            say(f"waiting for {', '.join(views)}; Ctrl-C leaves {'it' if len(views) == 1 else 'them'} running")
        watch = _Watch(home, index, views, patience)
        code = watch.wait(deadline) if views else ExitCode.OK
    if as_json:
        print_documents(list(views.values()), is_full=is_full)
    raise click.exceptions.Exit(code)


class _Patience(NamedTuple):
    """How long a run may show nothing; None: forever. Counted from its record: training time, without pauses."""

    stalled_minutes: float | None
    silent_minutes: float | None

    def complaint(self, view: RunView) -> str | None:
        """Why it is not waited for any longer; None if it is."""
        live = view.live
        if live is None:
            return None
        if _exceeds(live.lifeless_s, self.stalled_minutes):
            seen = "no use of CPU or GPU" if live.stalled_s is not None else "its use of CPU cannot be seen"
            shown = f"no sign of life for {formatting.duration(live.lifeless_s)}"
            return f"{shown} ({_no_step(view)}, no output, {seen})"
        if _exceeds(live.silent_s, self.silent_minutes):
            return _silence(view, live)
        return None

    def remark(self, view: RunView) -> str | None:
        """The remark on a run that is waited for although it has been silent for as long as it may be stalled."""
        live = view.live
        if live is None or not _exceeds(live.silent_s - USE_LAG_S, self.stalled_minutes):
            return None
        return f"{_silence(view, live)}; still waiting (--silent MINUTES would not)"


def _exceeds(seconds: float, minutes: float | None) -> bool:
    return minutes is not None and seconds >= minutes * 60


def _silence(view: RunView, live: LiveProgress) -> str:
    return f"alive, but silent for {formatting.duration(live.silent_s)} ({_no_step(view)}, no output)"


def _no_step(view: RunView) -> str:
    return "no step" if view.last_step is None else f"no step after {view.last_step:,}"


class _Watch:
    """Some runs, looked at until all of them have ended."""

    def __init__(self, home: Home, index: Index, views: dict[str, RunView], patience: _Patience) -> None:
        """views: by id; kept up to date."""
        self._home = home
        self._index = index
        self._views = views
        self._patience = patience
        self._remarked: set[str] = set()
        self._active = set(views)

    def wait(self, deadline: float) -> int:
        """The exit code, once it is known. deadline: monotonic seconds."""
        while True:
            began = time.monotonic()
            for run_id in sorted(self._active):
                self._look(run_id)
            if not self._active:
                return outcome.worst(
                    [(view.run.status, run_state.exit_code_of(view.run)) for view in self._views.values()]
                )
            if (given_up := self._gives_up(deadline)) is not None:
                return given_up
            _rest(began, deadline)

    def _gives_up(self, deadline: float) -> ExitCode | None:
        active = [self._views[run_id] for run_id in sorted(self._active)]
        return _given_up(active, self._patience, self._remarked, deadline)

    def _look(self, run_id: str) -> None:
        from backprop.lifecycle import indexing

        is_answered_for = indexing.refresh(self._home, self._index, self._home.rundir(run_id), say)
        view = self._index.get(run_id)
        if not self._home.rundir(run_id).path.exists():
            raise NoSuchRunError(f"run {run_id} was removed in the meantime.")
        if view is None:  # the index is being rebuilt, or cannot be written to: the next look has it
            return
        self._views[run_id] = view
        if view.run.status.is_final and not is_answered_for:  # else another session follows
            self._active.discard(run_id)
            reason = view.run.full_reason
            say(f"run {run_id} {view.run.status.value}" + (f": {reason}" if reason else ""))
            say_failure(self._home.rundir(run_id), view.run.last_session, is_seen=False)


def _given_up(views: Sequence[RunView], patience: _Patience, remarked: set[str], deadline: float) -> ExitCode | None:
    """Says which active runs show nothing for too long, or that time is up; None to wait on. remarked: ids."""
    complaints = {view.run.spec.id: text for view in views if (text := patience.complaint(view)) is not None}
    for run_id, text in complaints.items():
        say(f"run {run_id}: {text}. To stop it: backprop stop {run_id}")
    if complaints:
        return ExitCode.STALLED
    for view in views:
        run_id, remark = view.run.spec.id, patience.remark(view)
        if remark is not None and run_id not in remarked:
            remarked.add(run_id)
            say(f"run {run_id}: {remark}")
    if time.monotonic() >= deadline:
        say(f"still active: {', '.join(view.run.spec.id for view in views)}")
        return ExitCode.TIMED_OUT
    return None


def _rest(began: float, deadline: float) -> None:
    """Sleep until it is worth looking again, at most until the deadline. began: the last look; monotonic seconds."""
    now = time.monotonic()
    time.sleep(max(0.0, min(max(_LOOK_EVERY_S, (now - began) / _SHARE), deadline - now)))


class _Ended(NamedTuple):
    """What has ended, and the cursor to ask with for the next ones."""

    views: list[RunView]
    cursor: str


class _AnyWatch:
    """The chosen runs, looked at until one of them has ended since a cursor."""

    def __init__(self, home: Home, choice: Choice, since: str | None, patience: _Patience) -> None:
        self._home = home
        # with a cursor, it is about those that have ended, too
        self._choice = choice if since is None else choice._replace(statuses=EVERY)
        self._since = since
        self._patience = patience
        self._remarked: set[str] = set()
        self._ids: frozenset[str] | None = None  # without a cursor: those that were there at first

    def wait(self, deadline: float) -> tuple[_Ended, int]:
        """What has ended, and the exit code. Nothing, if nothing is active any more. deadline: monotonic seconds."""
        while True:
            began = time.monotonic()
            ended, active = self._look()
            codes = [(view.run.status, run_state.exit_code_of(view.run)) for view in ended.views]
            if codes or not active:
                return ended, outcome.worst(codes) if codes else ExitCode.OK
            if (given_up := _given_up(active, self._patience, self._remarked, deadline)) is not None:
                return ended, given_up
            _rest(began, deadline)

    def _look(self) -> tuple[_Ended, list[RunView]]:
        """What has ended, and the chosen runs that have not."""
        from backprop.lifecycle import ended_runs

        with open_caught_up(self._home) as index:
            after = 0 if self._since is None else ended_runs.number_of(index, self._since)
            found, chosen = ended_runs.since(self._home, index, after, lambda: self._chosen(index), say)
            ended = _Ended([chosen[run_id] for run_id in found.ids], ended_runs.cursor(index, found.number))
        views = chosen.values()
        active = [view for view in views if not view.run.status.is_final or view.run.spec.id in found.undecided]
        return ended, active

    def _chosen(self, index: Index) -> dict[str, RunView]:
        if self._ids is None:
            views = self._choice.find(self._home, index)
            self._ids = frozenset(view.run.spec.id for view in views) if self._since is None else None
        else:
            views = [view for run_id in sorted(self._ids) if (view := index.get(run_id)) is not None]
        return {view.run.spec.id: view for view in views}


def _print_ended(ended: _Ended, *, as_json: bool, is_full: bool) -> None:
    if as_json:
        from backprop.views.documents import run_json

        now = datetime.now(timezone.utc)
        documents = [run_json.run_document(view, now, is_valid) for view in ended.views]
        keys = run_json.SHORT if not is_full else documents[0] if documents else ()
        ends = [{key: document[key] for key in keys} for document in documents]
        print_json({"ended": ends, "cursor": ended.cursor}, has_result=True)
        return
    for view in ended.views:
        print(f"{view.run.spec.id} {view.run.status.value}")
    print(f"cursor {ended.cursor}")
