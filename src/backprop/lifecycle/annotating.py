"""Writes annotations of users into run directories: group, tags, notes, parent, decision, archived.

It needs no lock: any machine may annotate any run, whatever the run is doing. See store/annotations.py.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

from backprop import host
from backprop.errors import BackpropError, NoSuchRunError
from backprop.records import Annotations, Say
from backprop.store import annotations
from backprop.store.annotations import Annotation, Kind
from backprop.store.home import Home


def make(changes: Iterable[tuple[Kind, str]]) -> list[Annotation]:
    """Annotations of this user, now, in this order. Raises UsageError for a value that cannot be recorded."""
    checked = list(changes)
    for kind, value in checked:
        annotations.check(kind, value)
    at, by = datetime.now(timezone.utc), host.user()
    return [
        Annotation(at=at + timedelta(microseconds=place), by=by, kind=kind, value=value)
        for place, (kind, value) in enumerate(checked)
    ]


def annotate(home: Home, run_id: str, new: Iterable[Annotation], say: Say) -> Annotations:
    """Write annotations into a run's directory. Returns the state after all of them.

    Every machine's index picks them up at its next refresh. Raises NoSuchRunError, or
    BackpropError where they cannot be written down.
    """
    rundir = home.rundir(run_id)
    try:
        home.mark_for_refresh(run_id)  # before: we may be killed
        for annotation in new:
            annotations.write(rundir, annotation)
        home.mark_for_refresh(run_id)  # after: a process that read in between has removed the marker
        return annotations.read(rundir, annotations.names(rundir), say)
    except FileNotFoundError as error:
        raise NoSuchRunError(f"run {run_id} was removed.") from error
    except OSError as error:
        raise BackpropError(f"the annotation cannot be written to {rundir.path}: {error.strerror}.") from error
