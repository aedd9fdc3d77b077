"""`backprop rm`: remove the records of runs, and their checkpoints where that is asked for."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import click

from backprop.cli.context import open_caught_up, say
from backprop.cli.several import ENDED, Choice, ask, each, several_runs
from backprop.errors import BusyError, UsageError
from backprop.records import Checkpoint, RunView, Status
from backprop.store.home import Home
from backprop.store.index import Index


@click.command()
@several_runs("All runs that have ended.", of_all=ENDED, of_filter=ENDED | {Status.UNREADABLE}, asks=True)
@click.option("--checkpoints", is_flag=True, help="Also delete the checkpoints that these runs reported.")
def rm(*, choice: Choice, checkpoints: bool) -> None:
    """Remove the records of runs, and with --checkpoints their checkpoints."""
    from backprop.lifecycle import indexing, recovery

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
                indexing.forget(home, index, run_id, say)
            removed.append(view)

        code = each(views, remove)
        if checkpoints and len(removed) < len(removable):  # what one that stays reported too must stay as well
            deletable = _deletable(removed, home, index)
            files = [path for item in deletable for path in _files(item) if path.is_file()]
        for path in files:
            with suppress(FileNotFoundError):
                path.unlink()
        for folder in sorted(_folders(deletable), key=lambda folder: len(folder.parts), reverse=True):
            with suppress(OSError):  # not empty: other files are kept there
                folder.rmdir()
    if views:
        say(f"removed {len(removed)} run(s)" + (f" and {len(files)} checkpoint file(s)" if checkpoints else ""))
    raise click.exceptions.Exit(code)


def _check_snapshot(home: Home, view: RunView) -> None:
    """Raise UsageError for a run whose script saved beside itself, which is in the snapshot in the run's folder."""
    place = _real(home.rundir(view.run.spec.id).snapshot_path)
    paths = (_real(checkpoint.path) for checkpoint in view.checkpoints)
    inside = [path for path in paths if path.is_relative_to(place) and path.exists()]
    if inside:
        saved = f"run {view.run.spec.id} saved {len(inside)} checkpoint(s) into its snapshot: {inside[-1]}"
        raise UsageError(f"{saved}; move what you want to keep, or remove them too: --checkpoints")


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
            say(f"{checkpoint.path} was reported as a checkpoint, but is kept: a run depends on it")
        elif any(other.is_relative_to(path) or path.is_relative_to(other) for other in elsewhere):
            say(f"{checkpoint.path} is kept: another run reported it, too")
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
        raise UsageError("cannot ask for confirmation without a terminal; to remove without asking: --yes")
    ask(views, "Remove", [f"  and {path}" for path in files])
