"""Commands that change what is there: stop, pause, rm, reindex."""

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import click

from backprop import config
from backprop.cli import completion
from backprop.cli.context import check_readable, find_run, open_caught_up, say
from backprop.cli.several import ACTIVE, ENDED, Choice, Outcome, ask, each, several_runs
from backprop.errors import BusyError, UsageError
from backprop.records import Checkpoint, RunView, Status
from backprop.store import query
from backprop.store.index import Index
from backprop.store.rundir import Home

_TOLD = 5  # ids in a message
_GARBAGE_AFTER_S = 3600.0  # a folder that somebody began to make or to remove, and never finished


@click.command()
@several_runs("All that are running, paused or queued.", of_all=ACTIVE, asks=True, complete=completion.runs_going_on)
@click.option("--now", is_flag=True, help="Kill it at once, without time to save.")
def stop(*, choice: Choice, now: bool) -> None:
    """Stop runs gracefully and wait until they have ended; one that is queued leaves the queue."""
    from backprop.lifecycle import requests

    home = Home.from_environment()
    with open_caught_up(home) as index:
        views = choice.find(home, index)
    choice.confirm(views, "Kill" if now else "Stop")

    def begin(view: RunView) -> Outcome:
        run = view.run
        check_readable(run)
        if now:
            say(requests.stop_now(home, run, say).told)
            return None
        patience_s = requests.ask_stop(home, run).grace_s + requests.STOP_MARGIN_S

        def outcome() -> None:
            stopped = requests.wait_for(home, run, lambda standing: standing.has_ended, patience_s)
            if stopped is None:
                run_id = run.spec.id
                raise BusyError(f"run {run_id} has not stopped yet; to kill it: backprop stop {run_id} --now")
            say(stopped.told)

        return outcome

    raise click.exceptions.Exit(each(views, begin))


@click.command()
@several_runs("All that are running.", of_all={Status.RUNNING}, asks=True, complete=completion.runs_going_on)
def pause(*, choice: Choice) -> None:
    """Hold runs in place, their clocks too, until `backprop resume`. They keep their slots and their memory."""
    from backprop.lifecycle import requests

    home = Home.from_environment()
    with open_caught_up(home) as index:
        views = choice.find(home, index)
    choice.confirm(views, "Pause")

    def begin(view: RunView) -> Outcome:
        run, run_id = view.run, view.run.spec.id
        check_readable(run)
        if (standing := requests.look(home, run.spec)).is_paused_by_user:
            say(f"run {run_id} is paused already: {standing.run.reason}")
            return None
        requests.ask_pause(home, run)

        def outcome() -> None:
            paused = requests.wait_for(home, run, lambda now: now.is_paused_by_user or now.has_ended, requests.PAUSE_S)
            if paused is None:
                raise BusyError(
                    f"the supervisor of run {run_id} has not paused it yet; look with: backprop status {run_id}"
                )
            if paused.has_ended:
                raise UsageError(f"run {run_id} has ended meanwhile ({paused.run.status.value}).")
            say(f"run {run_id} paused · go on with: backprop resume {run_id}")

        return outcome

    raise click.exceptions.Exit(each(views, begin))


@click.command()
@several_runs("All that have ended.", of_all=ENDED, of_filter=ENDED | {Status.UNREADABLE}, asks=True)
@click.option("--checkpoints", is_flag=True, help="Delete the checkpoints these runs reported, too.")
def rm(*, choice: Choice, checkpoints: bool) -> None:
    """Remove the records of runs; the checkpoints only when asked to."""
    from backprop.lifecycle import recovery

    home = Home.from_environment()
    with open_caught_up(home) as index:
        views = choice.find(home, index)
        removable = [view for view in views if view.run.status.is_final]
        deletable = _deletable(removable, home, index) if checkpoints else []
        files = [path for item in deletable for path in _files(item) if path.is_file()]
        _confirm(removable, files, is_sure=choice.is_sure)
        removed: list[RunView] = []

        def remove(view: RunView) -> None:
            if not view.run.status.is_final:
                raise BusyError(recovery.busy_message(view.run))
            run_id = view.run.spec.id
            if not checkpoints:
                _check_snapshot(home, view)
            with home.changing():
                recovery.remove(home, view.run, say)
                recovery.forget(home, index, run_id, say)
            removed.append(view)

        code = each(views, remove)
        if checkpoints and len(removed) < len(removable):  # what one that stays reported too must stay as well
            deletable = _deletable(removed, home, index)
            files = [path for item in deletable for path in _files(item) if path.is_file()]
        for path in files:
            with suppress(FileNotFoundError):
                path.unlink()
        for folder in sorted(_folders(deletable), key=lambda folder: len(folder.parts), reverse=True):
            with suppress(OSError):  # not empty: somebody keeps something else there
                folder.rmdir()
    if views:
        say(f"removed {len(removed)} run(s)" + (f" and {len(files)} checkpoint file(s)" if checkpoints else ""))
    raise click.exceptions.Exit(code)


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("name")
def rename(*, run: str, name: str) -> None:
    """Give a run another name."""
    from backprop.lifecycle import recovery, requests

    config.check_name(name)
    home = Home.from_environment()
    with open_caught_up(home) as index:
        spec = (view := find_run(home, index, run)).run.spec
        check_readable(view.run)
        requests.rename(home, view.run, name)
        recovery.refresh(home, index, home.rundir(spec.id), say)
        wanted = query.Wanted(conditions=(query.Condition(name="name", operator="=", value=name),))
        others = [other.run.spec.id for other in query.runs(index, wanted) if other.run.spec.id != spec.id]
    say(f"run {spec.id} is called {name} now" + (f", and was called {spec.name}" if spec.name else ""))
    if others:
        say(f"note: {', '.join(others[:_TOLD])} has the same name: to name one, use its id")


def _check_snapshot(home: Home, view: RunView) -> None:
    """Raise UsageError for a run whose script saved beside itself, which is in the snapshot in the run's folder."""
    place = _real(home.rundir(view.run.spec.id).snapshot_path)
    paths = (_real(checkpoint.path) for checkpoint in view.checkpoints)
    inside = [path for path in paths if path.is_relative_to(place) and path.exists()]
    if inside:
        told = f"run {view.run.spec.id} saved {len(inside)} checkpoint(s) into its snapshot: {inside[-1]}"
        raise UsageError(f"{told}; move what you want to keep, or remove all of it: --checkpoints")


def _real(path: str | Path) -> Path:
    """Where a path leads; unlike `Path.resolve`, of a link to itself that very link."""
    return Path(os.path.realpath(path))


def _deletable(views: list[RunView], home: Home, index: Index) -> list[Checkpoint]:
    """The runs' checkpoints, without any that is, or holds, what a run lives on or another run reported too.

    A report is only a claim: the folder of a project must not go because a script called it a checkpoint.
    """
    precious = {_real(place) for place in (*index.places(), str(home.path), str(Path.home()))}
    others = index.reported_paths(except_by=[view.run.spec.id for view in views])
    elsewhere = {_real(path) for path in others}
    deletable = []
    for checkpoint in (checkpoint for view in views for checkpoint in view.checkpoints):
        path = _real(checkpoint.path)
        if any(place.is_relative_to(path) for place in precious):
            say(f"{checkpoint.path} was reported as a checkpoint, and is left alone: a run lives there")
        elif any(other.is_relative_to(path) or path.is_relative_to(other) for other in elsewhere):
            say(f"{checkpoint.path} is left alone: another run reported it, too")
        else:
            deletable.append(checkpoint)
    return deletable


def _files(checkpoint: Checkpoint) -> list[Path]:
    """The very files that were reported: for a folder what its manifest names, and nothing else that lies there."""
    if checkpoint.measure.manifest is None:
        return [Path(checkpoint.path)]
    return [Path(checkpoint.path) / entry.path for entry in checkpoint.measure.manifest]


def _folders(checkpoints: list[Checkpoint]) -> set[Path]:
    """The checkpoint folders, and those below them that held reported files."""
    folders: set[Path] = set()
    for checkpoint in checkpoints:
        if checkpoint.measure.manifest is not None:
            root = Path(checkpoint.path)
            folders |= {root, *(p for path in _files(checkpoint) for p in path.parents if p.is_relative_to(root))}
    return folders


def _confirm(views: list[RunView], files: list[Path], *, is_sure: bool) -> None:
    if is_sure or not views:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to ask; to remove without asking: --yes")
    ask(views, "Remove", [f"  and {path}" for path in files])


@click.command()
def reindex() -> None:
    """Rebuild index.db and experiments.json from the run directories."""
    from backprop.lifecycle import recovery
    from backprop.store import experiments_json

    home = Home.from_environment()
    with open_caught_up(home) as index, home.changing():
        run_ids = sorted(home.run_ids())
        index.set_snapshot_due(is_due=True)  # if we are killed before it is rebuilt, whoever looks next does it
        for run_id in run_ids:
            index.remove(run_id)
            recovery.refresh(home, index, home.rundir(run_id), say, publish=False)
        experiments_json.rebuild(home, index, say)
        for folder in home.runs_path.glob(".*-*"):
            if time.time() - folder.stat().st_mtime > _GARBAGE_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)
        say(f"{index.count()} runs are in the index")
