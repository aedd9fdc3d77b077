"""Values of any kind as parameters that JSON can say."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backprop.trainer.parameters.plain import MAX_TEXT, flat


class Colour(Enum):
    RED = auto()


class Mode(str, Enum):
    FAST = "fast"


@dataclass
class Model:
    width: int = 8
    inner: dict[str, Any] = field(default_factory=lambda: {"act": "relu"})


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Item:
    """As tensors and arrays of one number are."""

    def item(self) -> float:
        return 0.5


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.5, 0.5),
        ("text", "text"),
        ((1, "a"), [1, "a"]),
        ({"b", "a"}, ["a", "b"]),
        ([], []),
        ({}, "{}"),
        ([[1], [2]], "[[1], [2]]"),
        (list(range(1000)), str(list(range(1000)))[: MAX_TEXT - 1] + "…"),
        (Path("a/b"), "a/b"),
        (Colour.RED, "RED"),
        (Mode.FAST, "fast"),
        (Item(), 0.5),
        (dict, "builtins.dict"),
        (object(), "object"),
        ("x" * 1000, "x" * (MAX_TEXT - 1) + "…"),
        ("\udcff", "?"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value(value: Any, plain: Any):
    """It is what JSON has a type for, or a short text that is the same in every run."""
    found = dict(flat({"name": value}))["name"]
    assert found == plain
    json.dumps(found).encode()


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"a": {"b": {"c": 1}, "d": 2}}, {"a.b.c": 1, "a.d": 2}),
        (argparse.Namespace(lr=1, inner=argparse.Namespace(x=2)), {"lr": 1, "inner.x": 2}),
        (SimpleNamespace(lr=1), {"lr": 1}),
        ({"model": Model()}, {"model.width": 8, "model.inner.act": "relu"}),
        ({"_private": 1, 3: 4}, {"3": 4}),
        ({"good": 1, "bad": Broken()}, {"good": 1}),
        (None, {}),
        ("config.yaml", {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_nested_values_are_flat(values: Any, found: dict[str, Any]):
    """With dots; what is private or cannot be read is left out."""
    assert dict(flat(values)) == found


def endless() -> dict[str, Any]:
    values: dict[str, Any] = {}
    values["again"] = values
    return values


def test_a_configuration_that_holds_itself_ends():
    """Ten levels deep it is a text."""
    names: Iterator[str] = (name for name, _ in flat(endless()))
    assert [name.count(".") for name in names] == [10]
