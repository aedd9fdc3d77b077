"""CSV: the points alone in one file, or all tables in a folder. Read it with anything; open it in any spreadsheet."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from backprop.views.documents.csv_text import Cell, csv_lines
from backprop.views.exports import tables
from backprop.views.exports.drafts import all_drafted, drafted, folder, is_file
from backprop.views.exports.record import RunExport


def write(runs: Sequence[RunExport], destination: str, *, replace: bool) -> str:
    """Write one file when the name ends in .csv, else a folder of them."""
    path = Path(destination)
    if is_file(destination, ".csv"):
        with drafted(path, replace=replace) as draft:
            _write(draft, lines(runs))
        return str(path)
    paths = [folder(destination) / f"{table.name}.csv" for table in tables.ALL]
    with all_drafted(paths, replace=replace) as drafts:
        for table, draft in zip(tables.ALL, drafts, strict=True):
            _write(draft, _lines(table, runs))
    return f"{destination}: {', '.join(path.name for path in paths)}"


def lines(runs: Iterable[RunExport]) -> Iterator[str]:
    """The points, with a heading."""
    return _lines(tables.POINTS, runs)


def _write(path: Path, text: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(text)


def _lines(table: tables.Table, runs: Iterable[RunExport]) -> Iterator[str]:
    yield from csv_lines([tuple(table.columns)])
    yield from csv_lines([_cell(value) for value in row] for row in tables.rows(table, runs))


def _cell(value: Any) -> Cell:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else value
