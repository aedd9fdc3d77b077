"""Some fields of documents, for `--fields id,metrics.loss.best`: dotted paths, each with its value."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backprop.errors import UsageError
from backprop.store.filters import near_name

_MISSING = object()
# of a metric of a run, whose best value stands apart from its last one
_OF_A_METRIC = {"last": ("metrics",), "best": ("best", "value"), "best_step": ("best", "step")}
_PLACE = re.compile(r"-?[0-9]{1,9}")
_EXPECTED = (
    "expected names with commas between them, such as id,status,best.loss.value; quotes around one with a comma."
)
_DEPTH = 3  # levels of names that a misspelt one may be near to


def selected(documents: Sequence[Any], paths: Sequence[str]) -> tuple[list[dict[str, Any]], str | None]:
    """Of each document what lies at these paths, null where it has no such field; and what is wrong with a path.

    A path leads into each item of a list, unless it has a number there: `sessions.status`, `checkpoints.0.path`.
    """
    chosen = [{path: _at(document, path) for path in paths} for document in documents]
    unknown = (path for path in paths if documents and all(one[path] is _MISSING for one in chosen))
    problem = next((_problem(path, documents) for path in unknown), None)
    return [{path: None if value is _MISSING else value for path, value in one.items()} for one in chosen], problem


def parsed(text: str) -> tuple[str, ...]:
    """The paths in `id,status`; quotes, as in CSV, around one with a comma in it. Raises UsageError."""
    try:
        names = [name for row in csv.reader([text], strict=True, skipinitialspace=True) for name in row]
    except csv.Error as error:
        raise UsageError(f"--fields {text!r}: {_EXPECTED}") from error
    paths = tuple(dict.fromkeys(name.strip() for name in names))
    if not paths or "" in paths:
        raise UsageError(f"--fields {text!r}: {_EXPECTED}")
    return paths


def _at(document: Any, path: str) -> Any:
    parts = path.split(".")
    found = _found(document, parts)
    if found is _MISSING and parts[0] == "metrics" and parts[-1] in _OF_A_METRIC:
        where, *key = _OF_A_METRIC[parts[-1]]
        return _found(document, [where, *parts[1:-1], *key])
    return found


def _found(value: Any, parts: Sequence[str]) -> Any:
    if not parts:
        return value
    if isinstance(value, list):
        if _PLACE.fullmatch(parts[0]):
            place = int(parts[0])
            return _found(value[place], parts[1:]) if -len(value) <= place < len(value) else _MISSING
        items = [_found(item, parts) for item in value]
        return (
            _MISSING
            if items and all(item is _MISSING for item in items)
            else [None if item is _MISSING else item for item in items]
        )
    if isinstance(value, Mapping):
        for length in range(len(parts), 0, -1):  # a metric's name may have dots
            name = ".".join(parts[:length])
            if name in value and (found := _found(value[name], parts[length:])) is not _MISSING:
                return found
    return _MISSING


def _problem(path: str, documents: Sequence[Any]) -> str:
    known = dict.fromkeys(name for document in documents for name in _names(document, _DEPTH))
    metrics = [name.partition(".")[2] for name in known if name.startswith("metrics.")]
    known |= dict.fromkeys(f"metrics.{name}.{key}" for name in metrics for key in _OF_A_METRIC)
    if path in known:  # there is such a metric
        return f"--fields: there is no {path!r}: it is not known which values of the metric are better."
    near = near_name(path, known)
    return f"--fields: there is no {path!r}" + (f"; did you mean {near}?" if near else ".")


def _names(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, list):
        for item in value[:1]:
            yield from _names(item, depth)
    if isinstance(value, Mapping) and depth:
        for name, item in value.items():
            yield name
            yield from (f"{name}.{rest}" for rest in _names(item, depth - 1))
