"""Random number generators draw the same numbers again."""

import random
import sys
import types

import pytest

from backprop.trainer import rng_state


def test_the_global_generator_and_those_that_are_passed_draw_the_same_again():
    own = random.Random(3)
    states = rng_state.take([own])
    drawn = [random.random(), own.random()]
    rng_state.put_back(states, [own])
    assert [random.random(), own.random()] == drawn


def test_a_state_is_a_copy():
    """What is drawn after it was taken does not change it."""
    own = random.Random(3)
    state = rng_state.state_of(own)
    first = own.random()
    rng_state.put_state(own, state)
    assert own.random() == first


@pytest.mark.parametrize("value", [random, 3, None])
def test_what_is_no_generator(value: object):
    assert not rng_state.is_generator(value)
    assert rng_state.of_loader(value) == []
    with pytest.raises(TypeError):
        rng_state.state_of(value)
    with pytest.raises(TypeError):
        rng_state.put_state(value, ())


def test_the_generators_of_a_loader_are_found_once():
    """PyTorch gives a loader's generator to its sampler, too."""

    class Sampler:
        generator = random.Random(1)

    class Loader:
        sampler, generator = Sampler(), Sampler.generator

    assert rng_state.of_loader(Loader()) == [Sampler.generator]


def test_what_numpy_imports_at_its_first_use(monkeypatch: pytest.MonkeyPatch):
    """Belongs to what is restored, but where nothing may be imported."""
    numpy = types.ModuleType("numpy")
    numpy.random = types.SimpleNamespace(get_state=lambda: "drawn")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    monkeypatch.delitem(sys.modules, "numpy.random", raising=False)
    assert rng_state.take()["numpy"] == "drawn"
    assert "numpy" not in rng_state.take(may_import=False)
