"""How much each parameter of a sweep matters."""

import importlib.util
import random

import msgspec
import pytest

from backprop.lifecycle.sweep.importance import LEAST_TRIALS, by_ranks, importances
from backprop.lifecycle.sweep.space import parse_parameters
from backprop.lifecycle.sweep.standing import Standing, fold
from tests.unit.lifecycle.sweep.test_standing import SPEC, asked, ended

SEARCHED = msgspec.structs.replace(SPEC, parameters=parse_parameters(["lr=1e-4..1:log", "hidden=32,64", "layers=1..4"]))


def search(count: int, *, by: str) -> Standing:
    """A sweep whose values depend on one parameter."""
    rng, entries = random.Random(3), []
    for trial in range(count):
        params = {one.name: one.sample(rng) for one in SEARCHED.parameters}
        score = {"lr": float(params["lr"]) ** 0.1, "hidden": float(params["hidden"]), "layers": float(params["layers"])}
        entries += [asked(trial, params=params), ended(trial, value=score[by] + rng.gauss(0, 0.01))]
    return fold(SEARCHED, entries)


@pytest.fixture(autouse=True)
def is_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    """With it: tests/exports."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


@pytest.mark.parametrize("name", ["lr", "hidden", "layers"])
def test_what_the_value_depends_on_matters_most(name: str):
    """Whatever kind of parameter it is; the shares add up to 1."""
    found = importances(search(60, by=name))
    assert found is not None
    assert (next(iter(found)), set(found)) == (name, {"lr", "hidden", "layers"})
    assert found[name] > 0.6
    assert sum(found.values()) == pytest.approx(1.0, abs=0.01)


def test_too_little_to_say():
    """Too few trials, one parameter, or values that are all the same."""
    assert importances(search(LEAST_TRIALS - 1, by="lr")) is None
    assert importances(fold(SPEC, [e for n in range(20) for e in (asked(n), ended(n, value=n / 20))])) is None
    same = [
        entry
        for number in range(20)
        for entry in (asked(number, params={"lr": "0.1", "hidden": "32", "layers": "1"}), ended(number, value=0.5))
    ]
    assert importances(fold(SEARCHED, same)) is None


def test_a_text_of_its_own_for_each_explains_nothing():
    """As the folder that each run writes to; words that several trials share may matter."""
    values = [float(number) for number in range(8)]
    columns = {"out": [f"runs/{number}" for number in range(8)], "act": ["relu"] * 4 + ["gelu"] * 4}
    found = by_ranks(columns, values)
    assert found["out"] == 0.0
    assert found["act"] > 0.5
