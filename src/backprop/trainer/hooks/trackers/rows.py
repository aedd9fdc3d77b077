"""Trackers that get a dict of metrics."""

from __future__ import annotations

from typing import Any, Iterator, Mapping, Optional

from ...channel import as_number
from ...tracked import tracked

# under these names scripts log the step itself: W&B's own is a number of calls. Trainer logs train/global_step
_STEPS = ("global_step", "step", "iter", "iteration")


_numbers: dict[tuple[str, str], str] = {}


def number_of(tracker: str, run_id: str) -> str:
    """The number of a tracker's run in this process, from 1: ids and many names are made up, and differ each time."""
    return _numbers.setdefault((tracker, run_id), str(1 + sum(key[0] == tracker for key in _numbers)))


def add_row(
    tracker: str, data: Mapping[str, Any], step: Any, *, counted: Optional[int] = None, place: str = ""
) -> None:
    """Record what a tracker got in one call; nested dicts as `outer/inner`.

    place: see TrackedMetrics.add.
    step: None where it got none. counted: the step that it then took from a count which began at 0 in this session.
    """
    values = dict(_flat(data))
    if step is None and (own := _own_step(values)) is not None:
        step = as_number(values.pop(own))
    is_counted = step is None and counted is not None
    add = tracked().add
    for name, value in values.items():
        add(tracker, place, name, value, counted if is_counted else step, is_shifted=is_counted)


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}/")
        else:
            yield name, value


def _own_step(values: Mapping[str, Any]) -> Optional[str]:
    """The name of the metric that is the step; None where none is."""
    for name in values:
        if name.rpartition("/")[2] in _STEPS and as_number(values[name]) is not None:
            return name
    return None
