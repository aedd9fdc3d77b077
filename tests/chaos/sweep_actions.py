"""What is done to the sweep of the population: to who drives it, and to its trials."""

import contextlib
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

from tests.chaos.model import Deed
from tests.chaos.population import Member, Population

if TYPE_CHECKING:
    from tests.chaos.actions import Step

_SECOND = 1 / 60  # minutes


def sweep(population: Population, _: Member, step: "Step") -> str | None:
    """Start the sweep, or go on with it."""
    one = population.sweep
    if population.fronts_of_sweep():
        return None
    is_real, detach = step.y < 0.25, ("-d",) if step.y > 0.5 else ()
    if one.spec() is not None:
        return f"{population.spawn('sweep', 'resume', one.name, *detach, purpose='sweep', is_real=is_real)}"
    words = [
        *("sweep", "train.py", "-n", one.name, "--goal", "max:value", "--sampler", "random", "--param", "lr=0.1..0.9"),
        *("--rung", 1.5 * _SECOND, "--budget", 60 * _SECOND, "--eta", 2, "--max-rungs", 3),
        *(("--rung-steps", 120) if step.x < 0.3 else ()),
        *(("--confirm", "2x2", "--seed-param", "seed") if step.x > 0.6 else ()),
        *(*detach, "--", "--target", 1_000_000_000, *(("--crash", 0.3) if int(step.x * 100) % 3 == 0 else ())),
    ]
    return f"{population.spawn(*words, purpose='sweep', is_real=is_real)}"


def tick(population: Population, _: Member, step: "Step") -> str | None:
    return _command(population, step, "tick", purpose="order")


def stop(population: Population, _: Member, step: "Step") -> str | None:
    return _command(population, step, "stop", purpose="order")


def add(population: Population, _: Member, step: "Step") -> str | None:
    return _command(population, step, "add", f"lr={0.1 + 0.8 * step.x:.4f}", purpose="order")


def look(population: Population, _: Member, step: "Step") -> str | None:
    return _command(population, step, *(("status", "--json"), ("status",), ("best",), ("ask",))[int(step.x * 4)])


def _command(population: Population, step: "Step", verb: str, *words: str, purpose: str = "view") -> str | None:
    if population.sweep.spec() is None:
        return None
    process = population.spawn("sweep", verb, population.sweep.name, *words, purpose=purpose, is_real=step.y < 0.2)
    return f"{process}"


# -- the process that drives it


def kill_sweeper(population: Population, _: Member, step: "Step") -> str | None:
    """Alone, or with the command by which it starts a session just now."""
    pid = population.sweeper()
    if pid is None:
        return None
    commands: list[int] = []
    if step.x < 0.3:
        with contextlib.suppress(psutil.NoSuchProcess):
            commands = [child.pid for child in psutil.Process(pid).children(recursive=True)]
        population.sweep.killed_commands += commands
        population.adopt_guests(only_trials=True)
        for member in population.trials():
            for one in commands:
                population.happened(member, Deed.KILL_SUPERVISOR, one)
    if not population.send(pid, signal.SIGKILL):
        return None
    for one in commands:
        population.kill_and_reap(one)
        for member in population.trials():
            population.note_death(member, one)
    return f"SIGKILL to sweeper {pid}" + (f" and what it started, {commands}" if commands else "")


def signal_sweeper(population: Population, _: Member, step: "Step") -> str | None:
    pid = population.sweeper()
    number = signal.SIGINT if step.x < 0.5 else signal.SIGTERM
    return f"{number.name} to sweeper {pid}" if pid is not None and population.send(pid, number) else None


# -- its trials


def of_a_trial(
    do: Callable[[Population, Member, "Step"], str | None],
) -> Callable[[Population, Member, "Step"], str | None]:
    """The same action, done to one of the trials."""

    def do_to_a_trial(population: Population, _: Member, step: "Step") -> str | None:
        population.adopt_guests(only_trials=True)
        alive = [member for member in population.trials() if population.supervisor_of(member) is not None]
        if not alive:
            return None
        done = do(population, alive[step.slot % len(alive)], step)
        return None if done is None else f"trial: {done}"

    return do_to_a_trial
