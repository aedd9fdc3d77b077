"""Read back by pyarrow and pandas."""

import math

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from tests.conftest import Runs
from tests.exports.conftest import LOSSES, NAME, ODD, exported, refused


def test_every_point_keeps_all_its_bits(two: Runs):
    """Values are 64-bit floats, NaN and infinities too; instants are UTC."""
    exported(two, "a", "--to", "parquet", "points.parquet")
    table = parquet.read_table(two.work / "points.parquet")
    assert table.schema.field("value").type == pa.float64()
    assert table.schema.field("at").type == pa.timestamp("us", tz="UTC")
    told = [row for row in table.to_pylist() if row["metric"] == "loss"]
    assert [(row["session"], row["step"], repr(row["value"])) for row in told] == [
        (session, step, repr(value)) for session, step, value in LOSSES
    ]


def test_a_folder_holds_everything(two: Runs):
    """The five tables, joined by the run's id, with a missing value where there is none."""
    exported(two, "a", "b", "--to", "parquet", "tables")
    runs, sessions, params, checkpoints, points = (
        pd.read_parquet(two.work / "tables" / f"{name}.parquet")
        for name in ("runs", "sessions", "params", "checkpoints", "points")
    )
    assert runs["name"][0] == NAME
    assert runs["name"].isna()[1]
    assert list(runs["exit_code"]) == [0, 3]
    assert str(runs["started_at"].dtype).endswith("UTC]")
    assert math.isnan(runs["last_step"][1])
    assert list(sessions["run"]) == ["a", "a", "b"]
    assert (
        dict(zip(params["name"], params["value"], strict=True))["optimizer"] == "=cmd()"
    )  # no spreadsheet will run it
    assert list(checkpoints["step"]) == [4]  # saved over: what lies there is the newest
    assert len(points.merge(runs, on="run")) == 4 * 8


def test_a_second_export_is_refused_and_force_replaces(two: Runs):
    """The file is as it was, or new."""
    exported(two, "a", "--to", "parquet", "points.parquet")
    assert "--force" in refused(two, "b", "--to", "parquet", "points.parquet")
    assert parquet.read_table(two.work / "points.parquet").num_rows == 4 * 8
    exported(two, "b", "--force", "--to", "parquet", "points.parquet")
    assert parquet.read_table(two.work / "points.parquet").num_rows == 0


def test_csv_is_what_pandas_reads(two: Runs):
    """Values come back as they were, whatever is in the names."""
    exported(two, "a", "--to", "csv", "points.csv")
    points = pd.read_csv(two.work / "points.csv")
    told = points[points["metric"] == "loss"]
    assert [repr(value) for value in told["value"]] == [repr(value) for _, _, value in LOSSES]
    assert set(points["metric"]) == {"loss", ODD, "step/../x", "_own"}
