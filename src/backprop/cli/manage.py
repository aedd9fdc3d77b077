"""Commands that change what is there: stop, pause, rm, reindex."""

import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import click

from backprop.cli import completing
from backprop.cli.common import find_run, find_runs, open_caught_up, say
from backprop.errors import BusyError, UsageError
from backprop.records import Checkpoint, RunView
from backprop.store.index import Index
from backprop.store.rundir import Home

_GARBAGE_AFTER_S = 3600.0  # a folder that somebody began to make or to remove, and never finished


@click.command()
@click.argument("run", shell_complete=completing.runs_going_on)
@click.option("--now", is_flag=True, help="Kill it at once, without time to save.")
def stop(*, run: str, now: bool) -> None:
    """Stop a run gracefully and wait until it has ended; one that is queued leaves the line."""
    from backprop import orders

    home = Home.from_environment()
    with open_caught_up(home) as index:
        asked = find_run(home, index, run).run
    if now:
        ended = orders.stop_now(home, asked, say)
    else:
        patience_s = orders.ask_stop(home, asked).grace_s + orders.STOP_MARGIN_S
        stopped = orders.wait_for(home, asked, lambda standing: standing.has_ended, patience_s)
        if stopped is None:
            raise BusyError(f"run {asked.spec.id} has not stopped yet; to kill it: backprop stop {run} --now")
        ended = stopped
    say(ended.told)


@click.command()
@click.argument("run", shell_complete=completing.runs_going_on)
def pause(*, run: str) -> None:
    """Hold a run in place, its clock too, until `backprop resume`. It keeps its slot and its memory."""
    from backprop import orders

    home = Home.from_environment()
    with open_caught_up(home) as index:
        asked = find_run(home, index, run).run
    run_id = asked.spec.id
    if (standing := orders.look(home, asked.spec)).is_paused_by_user:
        say(f"run {run_id} is paused already: {standing.run.reason}")
        return
    orders.ask_pause(home, asked)
    paused = orders.wait_for(home, asked, lambda now: now.is_paused_by_user or now.has_ended, orders.PAUSE_S)
    if paused is None:
        raise BusyError(f"the supervisor of run {run_id} has not paused it yet; look with: backprop status {run_id}")
    if paused.has_ended:
        raise UsageError(f"run {run_id} has ended meanwhile ({paused.run.status.value}).")
    say(f"run {run_id} paused · go on with: backprop resume {run_id}")


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=completing.runs)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--checkpoints", is_flag=True, help="Delete the checkpoints these runs reported, too.")
def rm(*, runs: tuple[str, ...], yes: bool, checkpoints: bool) -> None:
    """Remove the records of runs; the checkpoints only when asked to."""
    from backprop import recovery
    from backprop.store import snapshot

    home = Home.from_environment()
    with open_caught_up(home) as index:
        views = find_runs(home, index, runs)
        for view in views:
            if not view.run.status.is_final:
                raise BusyError(recovery.busy_message(view.run))
        deletable = _deletable(views, home, index) if checkpoints else []
        files = [path for item in deletable for path in _files(item) if path.is_file()]
        _confirm(views, files, yes=yes)
        with home.changing():
            for view in views:
                rundir = home.rundir(view.run.spec.id)
                journal = recovery.claim(home, view.run, say)
                try:
                    rundir.remove()
                finally:
                    journal.close()
                home.mark_settled(rundir.run_id)
                index.remove(rundir.run_id)
                snapshot.put(home, index, rundir.run_id, say)
        for path in files:
            with suppress(FileNotFoundError):
                path.unlink()
        for folder in sorted(_folders(deletable), key=lambda folder: len(folder.parts), reverse=True):
            with suppress(OSError):  # not empty: somebody keeps something else there
                folder.rmdir()
    say(f"removed {len(views)} run(s)" + (f" and {len(files)} checkpoint file(s)" if checkpoints else ""))


def _deletable(views: list[RunView], home: Home, index: Index) -> list[Checkpoint]:
    """The runs' checkpoints, without any that is, or holds, what a run lives on or another run reported too.

    A report is only a claim: the folder of a project must not go because a script called it a checkpoint.
    """
    precious = {Path(place).resolve() for place in (*index.places(), str(home.path), str(Path.home()))}
    others = index.reported_paths(except_by=[view.run.spec.id for view in views])
    elsewhere = {Path(path).resolve() for path in others}
    deletable = []
    for checkpoint in (checkpoint for view in views for checkpoint in view.checkpoints):
        path = Path(checkpoint.path).resolve()
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


def _confirm(views: list[RunView], files: list[Path], *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to ask; to remove without asking: --yes")
    for view in views:
        say(f"{view.run.spec.id} {view.run.spec.name or ''} ({view.run.status.value}, step {view.last_step})")
    for path in files:
        say(f"  and {path}")
    if not click.confirm(f"Remove {len(views)} run(s)?", err=True):
        raise click.Abort


@click.command()
def reindex() -> None:
    """Rebuild index.db and experiments.json from the run directories."""
    from backprop import recovery
    from backprop.store import snapshot

    home = Home.from_environment()
    with open_caught_up(home) as index, home.changing():
        run_ids = sorted(home.run_ids())
        index.set_snapshot_due(is_due=True)  # if we are killed before it is rebuilt, whoever looks next does it
        for run_id in run_ids:
            index.remove(run_id)
            recovery.refresh(home, index, home.rundir(run_id), say, publish=False)
        snapshot.rebuild(home, index, say)
        for folder in home.runs_path.glob(".*-*"):
            if time.time() - folder.stat().st_mtime > _GARBAGE_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)
        say(f"{index.count()} runs are in the index")
