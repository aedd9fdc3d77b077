"""`backprop wait`: exit with the worst exit code of runs, once they have ended."""

import math
import sys
import time
from datetime import datetime, timezone
from typing import Any

import click

from backprop.cli.context import is_valid, json_option, open_caught_up, print_json, say, say_failure
from backprop.cli.several import ACTIVE, EVERY, Choice, several_runs
from backprop.errors import ExitCode, NoSuchRunError
from backprop.lifecycle import run_state
from backprop.records import RunView, Status
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.supervisor import outcome

_LOOK_EVERY_S = 1.0
_SHARE = 0.1  # of a core, at most, is spent on looking, however many runs there are
_UNWATCHED_S = 10.0  # a longer gap between two looks (Ctrl-Z, a suspended machine) does not count


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
    help="Exit with 69 if a run makes no step for this long.",
)
@click.option("--timeout", "timeout_minutes", metavar="MINUTES", type=_minutes, help="Exit with 124 after this long.")
@json_option
def wait(*, choice: Choice, stalled_minutes: float | None, timeout_minutes: float | None, as_json: bool) -> None:
    """Wait until runs have ended; exit with the worst of their exit codes. Ctrl-C leaves them running."""
    home = Home.from_environment()
    with open_caught_up(home) as index:
        views = {view.run.spec.id: view for view in choice.find(home, index)}
        if views and sys.stderr.isatty():
            say(f"waiting for {', '.join(views)}; Ctrl-C leaves {'it' if len(views) == 1 else 'them'} running")
        watch = _Watch(home, index, views, stalled_minutes)
        deadline = None if timeout_minutes is None else time.monotonic() + timeout_minutes * 60
        code = watch.wait(deadline) if views else ExitCode.OK
    if as_json:
        from backprop.views.documents import run_json

        now = datetime.now(timezone.utc)
        print_json([run_json.run_document(view, now, is_valid) for view in views.values()])
    raise click.exceptions.Exit(code)


class _Watch:
    """Some runs, looked at until all of them have ended."""

    def __init__(self, home: Home, index: Index, views: dict[str, RunView], stalled_minutes: float | None) -> None:
        """views: by id; kept up to date."""
        self._home = home
        self._index = index
        self._views = views
        self._stalled_minutes = stalled_minutes
        self._active = set(views)
        self._pace = {run_id: _Pace() for run_id in views}

    def wait(self, deadline: float | None) -> int:
        """The exit code, once it is known. deadline: monotonic seconds; None: never."""
        while True:
            began = time.monotonic()
            for run_id in sorted(self._active):
                self._look(run_id)
            if not self._active:
                return outcome.worst(
                    [(view.run.status, run_state.exit_code_of(view.run)) for view in self._views.values()]
                )
            if stalled := self._stalled():
                return stalled
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                say(f"still active: {', '.join(sorted(self._active))}")
                return ExitCode.TIMED_OUT
            pause_s = max(_LOOK_EVERY_S, (now - began) / _SHARE)
            time.sleep(pause_s if deadline is None else min(pause_s, deadline - now))

    def _look(self, run_id: str) -> None:
        from backprop.lifecycle import indexing

        is_answered_for = indexing.refresh(self._home, self._index, self._home.rundir(run_id), say)
        view = self._index.get(run_id)
        if not self._home.rundir(run_id).path.exists():
            raise NoSuchRunError(f"run {run_id} was removed in the meantime.")
        if view is None:  # the index is being rebuilt, or cannot be written to: the next look has it
            return
        self._views[run_id] = view
        self._pace[run_id].see(view)
        if view.run.status.is_final and not is_answered_for:  # else another session follows
            self._active.discard(run_id)
            reason = view.run.full_reason
            say(f"run {run_id} {view.run.status.value}" + (f": {reason}" if reason else ""))
            say_failure(self._home.rundir(run_id), view.run.last_session, is_seen=False)

    def _stalled(self) -> ExitCode | None:
        """Says which runs are alive and make no step; None when there are none."""
        limit = self._stalled_minutes
        stalled = [] if limit is None else [i for i in sorted(self._active) if self._pace[i].still_s >= limit * 60]
        for run_id in stalled:
            step = self._views[run_id].last_step
            at = "no step at all" if step is None else f"no step after {step}"
            say(f"run {run_id} is alive, but has made {at} for {limit:g} min. To stop it: backprop stop {run_id}")
        return ExitCode.STALLED if stalled else None


class _Pace:
    """How long a run has been training without a step, while it was watched."""

    def __init__(self) -> None:
        self.still_s = 0.0
        self._place: tuple[int, int | None] | None = None
        self._looked_at = time.monotonic()

    def see(self, view: RunView) -> None:
        now = time.monotonic()
        gap_s, self._looked_at = now - self._looked_at, now
        place = (len(view.run.sessions), view.last_step)
        if place != self._place or view.run.status is not Status.RUNNING:  # one that waits or is paused makes none
            self._place, self.still_s = place, 0.0
        else:
            self.still_s += min(gap_s, _UNWATCHED_S)
