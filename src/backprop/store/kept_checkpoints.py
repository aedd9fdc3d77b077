"""Backups of overwritten checkpoints: restored if the save was interrupted, removed if it succeeded.

trainer/overwrites/ makes them in the trainer; this cleans up once no process of the trainer is alive.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from backprop.records import Checkpoint, Run, RunView, Say, Status
from backprop.store import checkpoints
from backprop.trainer.overwrites import kept_names

_MOST_IN_DOUBT = 3  # each is as large as a checkpoint
_LOGS = {"", ".csv", ".html", ".json", ".jsonl", ".log", ".md", ".png", ".txt", ".yaml", ".yml"}
SavedOverBy = Callable[[Checkpoint], str | None]


def reconcile(view: RunView, saved_over_by: SavedOverBy, say: Say) -> None:
    """Leave one valid file of each checkpoint of a run. The caller holds the lock of the run, which has no trainer.

    saved_over_by: returns another run that has saved to the same path since.
    """
    run_id = view.run.spec.id
    newest: dict[str, Checkpoint | None] = dict.fromkeys(view.run.offered)
    newest |= {one.path: one for one in view.checkpoints if not one.is_emergency}
    for path, reported in newest.items():
        place = Path(os.path.realpath(path))
        kept = Path(kept_names.before_save(str(place), run_id))
        if os.path.lexists(kept):
            with suppress(OSError):  # the folder is not writable now: retried next time
                _settle(place, kept, reported, saved_over_by, say)
    for parent in {os.path.dirname(os.path.realpath(path)) for path in newest}:  # noqa: PTH120
        with suppress(OSError):  # as above, or it is gone
            for name in os.listdir(parent):  # noqa: PTH208
                if kept_names.is_draft(name, run_id):
                    _remove(Path(parent, name))
    there = [one for one in view.checkpoints if kept_names.is_ours(one.path, run_id) and os.path.lexists(one.path)]
    in_doubt = [
        one for one in there if one.step is None and not one.is_kept
    ]  # overwritten by a session that had read it
    for one in in_doubt[:-_MOST_IN_DOUBT]:
        _remove(Path(one.path))
    for one in there:
        if os.path.lexists(one.path):
            later = (
                other
                for path, other in newest.items()
                if other is not None and other.session >= one.session and not kept_names.is_ours(path, run_id)
            )
            if (one.step is None and _has_read_and_completed(view.run)) or _is_outdone(one, later, saved_over_by):
                _remove(Path(one.path))


def _settle(place: Path, kept: Path, reported: Checkpoint | None, saved_over_by: SavedOverBy, say: Say) -> None:
    if place.is_dir():
        is_broken_off = _is_folder_broken_off(place, kept, reported)
    else:
        is_broken_off = _is_file_broken_off(place, kept, reported)
    if not is_broken_off:
        _remove(kept)
    elif checkpoints.problem(str(kept)) is None and (reported is None or saved_over_by(reported) is None):
        _put_back(place, kept)
        say(f"a save to {place} was interrupted: the previous checkpoint is restored")


def _is_file_broken_off(place: Path, kept: Path, reported: Checkpoint | None) -> bool:
    """Whether the save was interrupted, judged by the file, its report and its predecessor."""
    path = str(place)
    if checkpoints.problem(path, thorough=False) is not None:
        return True
    if reported is not None and checkpoints.measure(path) == reported.measure:
        return False
    is_complete = checkpoints.is_complete(path)
    return place.stat().st_size < kept.stat().st_size if is_complete is None else not is_complete


def _is_folder_broken_off(place: Path, kept: Path, reported: Checkpoint | None) -> bool:
    """As for a file; of a folder, a save may have rewritten only some of the files.

    Files that may be logs are ignored: a script may report the folder that it writes everything to.
    """
    if checkpoints.problem(str(place), None if reported is None else reported.measure, thorough=False) is not None:
        return True
    states = [file.relative_to(kept) for file in kept.rglob("*") if file.is_file() and file.suffix not in _LOGS]
    if reported is None:
        return not all((place / name).samefile(kept / name) for name in states)
    reported_at = reported.measure.saved_at.timestamp() + kept_names.CLOCK_TOLERANCE_S
    return any((place / name).stat().st_mtime > reported_at for name in states if (place / name).exists())


def _put_back(place: Path, kept: Path) -> None:
    """Move the backup to its place. Other files in the folder stay."""
    if not place.is_dir():
        kept.replace(place)
        return
    for file in [file for file in kept.rglob("*") if file.is_file()]:
        target = place / file.relative_to(kept)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
    _remove(kept)


def _has_read_and_completed(run: Run) -> bool:
    last = run.last_session
    return last is not None and last.status is Status.COMPLETED and last.is_checkpoint_read is True


def _is_outdone(kept: Checkpoint, later: Iterable[Checkpoint], saved_over_by: SavedOverBy) -> bool:
    """Whether a valid checkpoint that was saved later is at least as far."""
    return kept.step is not None and any(
        other.step is not None
        and other.step >= kept.step
        and checkpoints.problem(other.path, other.measure, thorough=False) is None
        and saved_over_by(other) is None
        for other in later
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
