"""Captures and restores the states of random number generators, so that a resumed run draws the same numbers.

Python's and NumPy's global generators, PyTorch's on CPU and CUDA, and any others that are passed. Libraries that the
script has not imported are left alone.
"""

from __future__ import annotations

import random
import sys
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Optional


def take(generators: Iterable[Any] = (), *, may_import: bool = True) -> dict[str, Any]:
    """The random states as of now, as copies that can be pickled.

    may_import: what the script may draw from NumPy later counts, too, though NumPy imports that at its first use only.
    """
    states: dict[str, Any] = {"python": random.getstate()}
    if (may_import or "numpy.random" in sys.modules) and (numpy := _imported("numpy", "random")):
        states["numpy"] = numpy.random.get_state()
    if torch := _imported("torch", "get_rng_state"):
        states["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            states["cuda"] = torch.cuda.get_rng_state_all()
    states["generators"] = [state_of(generator) for generator in generators]
    return states


def put_back(states: Mapping[str, Any], generators: Iterable[Any] = ()) -> None:
    """Restore random states. generators: the same ones that `take` got, in the same order."""
    random.setstate(states["python"])
    if "numpy" in states and (numpy := _imported("numpy", "random")):
        numpy.random.set_state(states["numpy"])
    if "torch" in states and (torch := _imported("torch", "get_rng_state")):
        torch.set_rng_state(states["torch"])
        for device, state in zip(range(torch.cuda.device_count()), states.get("cuda", ())):
            torch.cuda.set_rng_state(state, device)
    for generator, state in zip(generators, states["generators"]):
        put_state(generator, state)


def is_generator(value: Any) -> bool:
    """Whether this is a random generator: numpy.random.Generator or RandomState, torch.Generator, random.Random."""
    return _state_access(value) is not None


def state_of(generator: Any) -> Any:
    """The state of a random generator. Raises TypeError for anything else."""
    access = _state_access(generator)
    if access is None:
        raise TypeError(f"{generator!r} is not a random generator")
    return access.get(generator)


def put_state(generator: Any, state: Any) -> None:
    """Restore the state of a random generator. Raises TypeError for anything else."""
    access = _state_access(generator)
    if access is None:
        raise TypeError(f"{generator!r} is not a random generator")
    access.put(generator, state)


def of_loader(loader: Any) -> list[Any]:
    """The random generators of a PyTorch DataLoader and its samplers; empty for anything else."""
    samplers = [getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    samplers.append(getattr(samplers[1], "sampler", None))
    named = [getattr(holder, "generator", None) for holder in (loader, *samplers)]
    return list({id(value): value for value in named if is_generator(value)}.values())


class _StateAccess(NamedTuple):
    get: Callable[[Any], Any]
    put: Callable[[Any, Any], None]


def _state_access(value: Any) -> Optional[_StateAccess]:
    """How to read and write the state of this generator; None if it is not one."""
    if isinstance(value, random.Random):
        return _StateAccess(random.Random.getstate, random.Random.setstate)
    if (torch := _imported("torch", "Generator")) and isinstance(value, torch.Generator):
        return _StateAccess(
            lambda generator: generator.get_state(), lambda generator, state: generator.set_state(state)
        )
    if numpy_random := _imported("numpy.random", "Generator"):
        if isinstance(value, numpy_random.Generator):
            return _StateAccess(lambda generator: generator.bit_generator.state, _put_bit_generator)
        if isinstance(value, numpy_random.RandomState):
            return _StateAccess(
                lambda generator: generator.get_state(), lambda generator, state: generator.set_state(state)
            )
    return None


def _put_bit_generator(generator: Any, state: Any) -> None:
    generator.bit_generator.state = state


def _imported(name: str, attribute: str) -> Any:
    """A module that the script has imported completely; None otherwise."""
    module = sys.modules.get(name)
    return module if hasattr(module, attribute) else None
