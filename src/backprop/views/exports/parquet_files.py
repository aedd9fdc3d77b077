"""Parquet, by pyarrow: the points alone in one file, or all tables in a folder. Values keep all their bits."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from backprop.lifecycle.optional_dependency import missing
from backprop.views.exports import tables
from backprop.views.exports.drafts import all_drafted, drafted, folder, is_file
from backprop.views.exports.record import RunExport

_GROUP_ROWS = 1 << 16  # in memory at a time: some 10 MB


def write(runs: Sequence[RunExport], destination: str, *, replace: bool) -> str:
    """Write one file when the name ends in .parquet, else a folder of them."""
    path, is_one = Path(destination), is_file(destination, ".parquet")
    _pyarrow()  # before anything is made
    if is_one:
        with drafted(path, replace=replace) as draft:
            _write(tables.POINTS, runs, draft)
        return str(path)
    paths = [folder(destination) / f"{table.name}.parquet" for table in tables.ALL]
    with all_drafted(paths, replace=replace) as drafts:
        for table, draft in zip(tables.ALL, drafts, strict=True):
            _write(table, runs, draft)
    return f"{destination}: {', '.join(path.name for path in paths)}"


def _write(table: tables.Table, runs: Sequence[RunExport], path: Path) -> None:
    arrow, parquet = _pyarrow()
    types = {
        tables.ColumnType.TEXT: arrow.string(),
        tables.ColumnType.WHOLE: arrow.int64(),
        tables.ColumnType.REAL: arrow.float64(),
        tables.ColumnType.TRUTH: arrow.bool_(),
        tables.ColumnType.INSTANT: arrow.timestamp("us", tz="UTC"),
    }
    schema = arrow.schema([(name, types[kind]) for name, kind in table.columns.items()])
    rows = tables.rows(table, runs)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, _GROUP_ROWS)):
            columns = [
                arrow.array(column, field.type) for column, field in zip(zip(*group, strict=True), schema, strict=True)
            ]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


def _pyarrow() -> tuple[Any, Any]:
    """The library and its module for Parquet. Raises UsageError where it is not installed."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise missing("parquet", error) from error
    return pa, parquet
