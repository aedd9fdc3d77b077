"""Proposals without a library: they depend on the seed and the journal alone."""

from itertools import product

import msgspec
import pytest

from backprop.errors import UsageError
from backprop.lifecycle.sweep import sampler
from backprop.lifecycle.sweep.journal import Added
from backprop.lifecycle.sweep.sampler import propose
from backprop.lifecycle.sweep.space import parse_parameters
from backprop.lifecycle.sweep.spec import SweepSpec
from backprop.lifecycle.sweep.standing import fold
from tests.unit.lifecycle.sweep.test_standing import NOW, SPEC, asked, ended


def of(name: str, *parameters: str, **changes: object) -> SweepSpec:
    return msgspec.structs.replace(SPEC, sampler=name, parameters=parse_parameters(parameters), **changes)


def test_random_proposals_depend_on_the_seed_and_the_number():
    """Not on what was found, nor on when it is asked."""
    spec = of("random", "lr=0.001..1:log", "layers=1..4", "act=relu,gelu")
    first, again = propose(fold(spec, [])), propose(fold(spec, []))
    assert first == again
    assert first is not None
    assert all(one.problem(first.params[one.name]) is None for one in spec.parameters)
    assert propose(fold(spec, [asked()])) == propose(fold(spec, [asked(), ended()])) != first
    assert propose(fold(msgspec.structs.replace(spec, seed=1), [])) != first


def test_a_grid_proposes_each_combination_once():
    """What was added by hand counts, too."""
    spec = of("grid", "lr=0.1,0.2", "layers=1..2")
    entries = [asked(params={"lr": "0.1", "layers": "2"}, source="added")]
    found = []
    while (proposal := propose(fold(spec, entries))) is not None:
        found.append(tuple(proposal.params.values()))
        entries.append(asked(len(entries), params=proposal.params))
    assert found == [("0.1", "1"), ("0.2", "1"), ("0.2", "2")]


def test_what_a_user_added_comes_first():
    """Once, oldest first."""
    spec = of("random", "lr=0..1")
    added = [Added(at=NOW, params={"lr": text}, by="me", note=text) for text in ("0.3", "0.4")]
    proposal = propose(fold(spec, added))
    assert proposal is not None
    assert (proposal.params, proposal.source, proposal.note) == ({"lr": "0.3"}, "added", "0.3")
    proposal = propose(fold(spec, [*added, asked(source="added")]))
    assert proposal is not None
    assert proposal.params == {"lr": "0.4"}


@pytest.mark.parametrize("name", ["random", "grid"])
def test_what_a_user_leaves_open_is_proposed(name: str):
    """By the sampler; where its grid is taken, at random."""
    spec = of(name, "act=relu,gelu", "layers=1..2", "width=8,16")
    added = Added(at=NOW, params={"layers": "2"}, by="me")
    proposal = propose(fold(spec, [added]))
    assert proposal is not None
    assert (list(proposal.params), proposal.params["layers"]) == (["act", "layers", "width"], "2")
    assert all(one.problem(proposal.params[one.name]) is None for one in spec.parameters)
    assert (proposal.source, proposal.attrs) == ("added", {})
    grid = [
        asked(number, params={"act": act, "layers": layers, "width": width})
        for number, (act, layers, width) in enumerate(product(("relu", "gelu"), "12", ("8", "16")))
    ]
    again = propose(fold(spec, [*grid, added]))
    assert again is not None
    assert (again.params["layers"], len(again.params)) == ("2", 3)


def test_what_cannot_be_searched_is_refused():
    """A grid of fractions; CMA-ES without two ranges."""
    for name, parameters in (("grid", ("lr=0.1..0.2",)), ("cmaes", ("lr=0.1..0.2", "act=a,b"))):
        with pytest.raises(UsageError):
            sampler.check(name, parse_parameters(parameters))


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    """`random` and `grid` need none."""
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UsageError, match=r"backprop-cli\[sweep\]"):
        sampler.check("tpe", parse_parameters(["lr=0..1"]))
    sampler.check("random", parse_parameters(["lr=0..1"]))
