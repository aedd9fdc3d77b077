"""Some fields of documents, by dotted paths."""

from typing import Any

import pytest

from backprop.errors import UsageError
from backprop.views.documents import fields

RUN: dict[str, Any] = {
    "id": "a",
    "reason": None,
    "metrics": {"loss": 0.5, "val.acc": 0.8, "val": 1.0, "top,k": 0.7, "a.best": 0.3, "a..b": 0.2},
    "best": {"val.acc": {"value": 0.9, "step": 7, "goal": "max"}},
    "sessions": [{"number": 1, "status": "failed"}, {"number": 2, "status": "completed"}],
    "checkpoints": [],
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", "a"),
        ("reason", None),
        ("metrics.loss", 0.5),
        ("metrics.val.acc", 0.8),
        ("metrics.val", 1.0),
        ("best.val.acc.value", 0.9),
        ("metrics.val.acc.best", 0.9),
        ("metrics.val.acc.best_step", 7),
        ("metrics.val.acc.last", 0.8),
        ("metrics.top,k", 0.7),
        ("metrics.a.best", 0.3),
        ("metrics.a..b", 0.2),
        ("sessions.status", ["failed", "completed"]),
        ("sessions.-1.status", "completed"),
        ("sessions.0.number", 1),
        ("checkpoints.path", []),
    ],
)
def test_a_path_leads_to_a_value(path: str, value: Any):
    """Also past dots in a metric's name, and into the items of a list."""
    assert fields.selected([RUN], [path]) == ([{path: value}], None)


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("statsu", None),
        ("reson", "reason"),
        ("metrics.los", "metrics.loss"),
        ("metrics.val.ac.best", "metrics.val.acc.best"),
        ("sessions.staus", "sessions.status"),
        ("id.x", None),
        ("sessions.7.status", None),
        ("sessions.³", None),
        ("sessions.--1.status", "sessions.status"),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest(path: str, near: str | None):
    """It is null, for callers that print it all the same."""
    found, problem = fields.selected([RUN], ["id", path])
    assert found == [{"id": "a", path: None}]
    assert problem is not None
    assert repr(path) in problem
    assert near is None or problem.endswith(f"did you mean {near}?")


def test_a_best_value_that_nobody_knows_is_no_misspelling():
    """It would be called nearest to itself."""
    problem = fields.selected([{"metrics": {"elo": 1.0}, "best": {}}], ["metrics.elo.best"])[1]
    assert problem is not None
    assert "not known which values of the metric are better" in problem


def test_a_field_that_only_some_have_is_null_elsewhere():
    """And of no documents, nothing is unknown."""
    found, problem = fields.selected([RUN, {"id": "b", "metrics": {}}], ["metrics.loss"])
    assert (found, problem) == ([{"metrics.loss": 0.5}, {"metrics.loss": None}], None)
    assert fields.selected([], ["metrics.loss"]) == ([], None)


def test_names_with_commas_between():
    """Each once, in quotes where a name has a comma; nothing between two commas is a mistake."""
    assert fields.parsed("id, status,id") == ("id", "status")
    assert fields.parsed('id, "metrics.loss,val",a"b') == ("id", "metrics.loss,val", 'a"b')
    for text in ("", "id,", ",id", 'id,"a', '"a"b', "a\nb"):
        with pytest.raises(UsageError, match="--fields"):
            fields.parsed(text)
