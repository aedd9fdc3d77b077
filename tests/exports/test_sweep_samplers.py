"""Optuna's samplers, rebuilt from the journal for each proposal."""

import math
import sys
from types import ModuleType

import pytest

from backprop.errors import UsageError
from backprop.lifecycle.sweep import sampler
from backprop.lifecycle.sweep.importance import importances
from backprop.lifecycle.sweep.journal import SweepEntry, parse
from backprop.lifecycle.sweep.sampler import propose
from backprop.lifecycle.sweep.standing import fold
from backprop.records import Status
from backprop.store.journal.entries import encode
from tests.unit.lifecycle.sweep.test_sampler import of
from tests.unit.lifecycle.sweep.test_standing import asked, ended

SPACE = ("x=0.001..1:log", "y=-5..5.5")


def search(name: str, trials: int, *parameters: str, seed: int = 0) -> tuple[list[SweepEntry], list[float]]:
    """The journal of a search for x = 0.1, y = 2, and the distance of each trial."""
    spec = of(name, *(parameters or SPACE), seed=seed)
    sampler.check(spec.sampler, spec.parameters)
    entries: list[SweepEntry] = []
    distances = []
    for number in range(trials):
        proposal = propose(fold(spec, entries))
        assert proposal is not None
        assert all(one.problem(proposal.params[one.name]) is None for one in spec.parameters)
        x, y = float(proposal.params["x"]), float(proposal.params["y"])
        distances.append(abs(math.log10(x) + 1) + abs(y - 2))
        entries += [
            asked(number, params=proposal.params, source=name, attrs=proposal.attrs),
            ended(number, value=-distances[-1]),
        ]
    return entries, distances


@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_a_sampler_learns_and_repeats(name: str):
    """The later half is nearer than the first; the same journal gives the same proposal."""
    entries, distances = search(name, 40)
    assert sum(distances[20:]) < sum(distances[:20])
    assert search(name, 40)[1] == distances
    assert search(name, 3, seed=1)[1] != distances[:3]
    spec = of(name, *SPACE)
    read, _ = parse(b"".join(encode(entry) + b"\n" for entry in entries))
    assert propose(fold(spec, read)) == propose(fold(spec, entries))


def test_every_kind_of_parameter_and_trial():
    """Lists, integers, logarithms; trials that failed, that train, that were promoted."""
    entries, _ = search("tpe", 15, *SPACE, "n=1..64:log", "act=relu,gelu", "layers=1..4")
    spec = of("tpe", *SPACE, "n=1..64:log", "act=relu,gelu", "layers=1..4")
    params = fold(spec, entries).trials[0].params
    entries += [
        asked(15, params=params),
        asked(16, params=params),
        ended(16, value=None, status=Status.FAILED, can_resume=False),
        asked(17, params=params),
        ended(17),
        ended(17, rung=1, value=-0.1),
    ]
    assert propose(fold(spec, entries)) is not None


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [
        ("tpe", "optuna", "sweep"),
        ("cmaes", "cmaes", "sweep"),
        ("gp", "optuna", "gp"),
        ("gp", "torch", "gp"),
        ("gp", "scipy", "gp"),
    ],
)
def test_what_a_sampler_lacks_is_named(name: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch):
    """Before anything is started, with the one command that installs all that it needs, where Backprop is."""
    for other in {"torch", "scipy"} - {library}:
        monkeypatch.setitem(sys.modules, other, ModuleType(other))
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=f"this needs '{library}', which is not installed: .*backprop-cli.{extra}."):
        search(name, 1)


def test_optuna_says_what_mattered():
    """Both halves of the distance; not a third parameter that nothing depends on."""
    entries, _ = search("random", 80, *SPACE, "z=0.0..1")
    found = importances(fold(of("random", *SPACE, "z=0.0..1"), entries))
    assert found is not None
    assert list(found)[-1] == "z"
    assert sum(found.values()) == pytest.approx(1.0, abs=0.01)
