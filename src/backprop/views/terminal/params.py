"""Parameters as text, and which of them differ between runs."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from backprop.records import RunView
from backprop.store.output.protocol import json_safe

ABSENT = object()  # in place of a value, for a run that does not have the parameter


def text(value: Any) -> str:
    """A parameter's value: strings without quotes, everything else as JSON; "-" for ABSENT."""
    if value is ABSENT:
        return "-"
    return value if isinstance(value, str) else json.dumps(json_safe(value), ensure_ascii=False)


def names(views: Iterable[RunView]) -> list[str]:
    """All parameters that these runs have, by name."""
    return sorted({name for view in views for name in view.params})


def differing(views: Sequence[RunView]) -> list[str]:
    """The parameters that differ between these runs.

    First those with several values, then those that only some runs have; the most common first. Defaults that other
    runs do not have are left out: another script has other options. A value that differs by the run's id alone, as an
    output folder may, is the same.
    """
    counts: dict[str, int] = {}
    values: dict[str, set[str]] = {}
    without_ids: dict[str, set[str]] = {}
    given: set[str] = set()
    for view in views:
        given |= view.params.keys() - view.default_params
        for name, value in view.params.items():
            counts[name] = counts.get(name, 0) + 1
            values.setdefault(name, set()).add(text(value))
            without_ids.setdefault(name, set()).add(text(value).replace(view.run.spec.id, ""))
    several = {name for name in counts if len(values[name]) > 1 and len(without_ids[name]) > 1}
    found = [name for name in counts if name in several or (counts[name] < len(views) and name in given)]
    return sorted(found, key=lambda name: (name not in several, -counts[name], name))
