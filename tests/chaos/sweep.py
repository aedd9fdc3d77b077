"""The sweep of the population: its record, who drives it, and what its journal must say of the runs it started."""

import contextlib
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backprop.errors import BackpropError
from backprop.lifecycle.sweep import spec as specs
from backprop.lifecycle.sweep.journal import (
    Asked,
    Began,
    Ended,
    Finished,
    NotPromoted,
    Promoted,
    RungContinued,
    SweepEntry,
    SweepStopped,
)
from backprop.lifecycle.sweep.journal import read as read_journal
from backprop.lifecycle.sweep.spec import SweepSpec
from backprop.records import Run, Status
from backprop.store.home import Home
from tests.chaos.model import expected_checkpoint
from tests.chaos.output import Output

MAX_ROUNDS = 6  # a sweep that is older is removed


@dataclass
class Sweep:
    """One sweep. Everything about it is read from its record anew."""

    place: Home
    name: str
    rounds: int = 0  # in which it was checked
    is_doomed: bool = False  # something was found: it is removed, with its runs
    killed_commands: list[int] = field(default_factory=list)  # pids that were to start its sessions, in this round

    def spec(self) -> SweepSpec | None:
        with contextlib.suppress(OSError, BackpropError):
            return next((one for one in specs.sweeps(self.place) if one.name == self.name), None)
        return None

    def entries(self) -> list[SweepEntry]:
        """What its journal says; nothing before there is one. Raises UnreadableError."""
        return [] if self.spec() is None else read_journal(self.journal_path())

    def journal_path(self) -> Path:
        """Raises LookupError before there is a sweep."""
        if (spec := self.spec()) is None:
            raise LookupError(self.name)
        return specs.sweep_dir(self.place, spec.id).journal_path

    def run_ids(self) -> list[str]:
        """Of the runs of its trials, made or not."""
        return [entry.run_id for entry in self.entries() if isinstance(entry, Asked)]

    def sweeper_pid(self) -> int | None:
        """Of the process that took it last, alive or not."""
        return next((entry.pid for entry in reversed(self.entries()) if isinstance(entry, Began)), None)

    def finished(self) -> Finished | None:
        """How it ended last; None: it has more to do."""
        for entry in reversed(self.entries()):
            match entry:
                case Finished():
                    return entry
                case Began():
                    return None
                case _:
                    pass
        return None

    def ends(self) -> set[int]:
        """The exit codes that it ended with."""
        return {entry.exit_code for entry in self.entries() if isinstance(entry, Finished)}

    def stopped_ids(self) -> frozenset[str]:
        """The requests whose sessions it ended."""
        return frozenset(
            request_id
            for entry in self.entries()
            if isinstance(entry, SweepStopped)
            for request_id in entry.request_ids
        )


def problems(
    spec: SweepSpec, entries: list[SweepEntry], runs: Mapping[str, Run], outputs: Mapping[str, Mapping[int, Output]]
) -> Iterator[str]:
    """What is wrong with the record of a sweep at rest. runs, outputs: of its trials, by id of the run; of sessions."""
    asked = [entry for entry in entries if isinstance(entry, Asked)]
    if [entry.trial for entry in asked] != list(range(len(asked))):
        yield f"its trials are {[entry.trial for entry in asked]}"
        return
    if unknown := runs.keys() - {entry.run_id for entry in asked}:
        yield f"runs that it has not asked for: {sorted(unknown)}"
    yield from _proposal_problems(spec, asked)
    yield from _request_problems(entries, asked, runs)
    yield from _result_problems(spec, entries, runs, outputs)
    yield from _end_problems(entries)
    used_s = sum(min(one.elapsed_s or 0.0, one.timebox_s) for run in runs.values() for one in run.sessions)
    if used_s > spec.budget_s + 0.5:
        yield f"its sessions took {used_s:.2f} s of a budget of {spec.budget_s:g} s"


def _proposal_problems(spec: SweepSpec, asked: list[Asked]) -> Iterator[str]:
    """What the sampler proposes to a sweep that nobody disturbs, it proposes to this one."""
    for entry in asked:
        if entry.source == "random":
            rng = random.Random(f"{spec.seed} {entry.trial}")
            drawn = {one.name: one.sample(rng) for one in spec.parameters}
            if dict(entry.params) != drawn:
                yield f"trial {entry.trial} has {dict(entry.params)}, not {drawn}"


def _request_problems(entries: list[SweepEntry], asked: list[Asked], runs: Mapping[str, Run]) -> Iterator[str]:
    """Each session was asked for, and once."""
    requested = [entry.run_id for entry in asked]
    requested += [entry.request_id for entry in entries if isinstance(entry, (Promoted, RungContinued))]
    if len(set(requested)) < len(requested):
        yield f"it asked for a session twice: {requested}"
    sessions = [session.request_id for run in runs.values() for session in run.sessions]
    if len(set(sessions)) < len(sessions) or not set(sessions) <= set(requested):
        yield f"its sessions are {sessions}, and it asked for {requested}"
    rungs = [(entry.trial, entry.rung) for entry in entries if isinstance(entry, Ended)]
    if len(set(rungs)) < len(rungs):
        yield f"a rung ended twice: {rungs}"
    lost = [entry.trial for entry in entries if isinstance(entry, Ended) and asked[entry.trial].run_id not in runs]
    if lost:
        yield f"the runs of trials {lost} are gone"


def _result_problems(
    spec: SweepSpec, entries: list[SweepEntry], runs: Mapping[str, Run], outputs: Mapping[str, Mapping[int, Output]]
) -> Iterator[str]:
    """The value of each rung is the best that the trainer printed in the sessions up to its end."""
    run_ids: dict[int, str] = {}
    requested: defaultdict[int, list[str]] = defaultdict(list)
    until: dict[int, int | None] = {}
    for entry in entries:
        match entry:
            case Asked():
                run_ids[entry.trial] = entry.run_id
                requested[entry.trial].append(entry.run_id)
                until[entry.trial] = entry.until_step
            case Promoted() | RungContinued():
                requested[entry.trial].append(entry.request_id)
                until[entry.trial] = entry.until_step
            case Ended() | NotPromoted() if (run := runs.get(run_ids[entry.trial])) is not None:
                ids = requested[entry.trial]
                sessions = [session for session in run.sessions if session.request_id in ids]
                written = {session.number: outputs[run.spec.id][session.number] for session in sessions}
                if isinstance(entry, NotPromoted):
                    yield from _promotion_problems(entry, written)
                else:
                    has_begun = any(session.request_id == ids[-1] for session in sessions)
                    yield from _value_problems(entry, written, until[entry.trial], has_begun=has_begun)
            case _:
                pass


def _value_problems(
    entry: Ended, written: Mapping[int, Output], until: int | None, *, has_begun: bool
) -> Iterator[str]:
    """until: the step that the rung ends at. has_begun: whether there was a session for what was asked for last."""
    name = f"rung {entry.rung} of trial {entry.trial}"
    pairs = (pair for output in written.values() for pair in zip(output.steps, output.values, strict=True))
    best = max((value for step, value in pairs if until is None or step <= until), default=None)
    if has_begun and entry.has_metric is not (best is not None):
        yield f"{name}: it {'has' if entry.has_metric else 'has not'} the metric, and its best value is {best}"
    elif entry.value is not None and entry.value != best:
        yield f"{name} has the value {entry.value}, and its sessions came to {best}"
    elif entry.value is None and entry.status is not Status.FAILED and entry.reason is None:
        yield f"{name} is {entry.status.value} without a value and without a reason; it came to {best}"
    reason = entry.reason or ""
    started = written[max(written)].started if written else None
    if "its run was removed" in reason or (
        "did not read the checkpoint" in reason and started is not None and started["path"] is not None
    ):
        yield f"{name} has no value because {reason}; its trainer began with {started}"


def _promotion_problems(entry: NotPromoted, written: Mapping[int, Output]) -> Iterator[str]:
    saved = [(number, path) for number, output in written.items() for _, path in output.saved]
    if (there := expected_checkpoint(saved, {}, max(written, default=0) + 1)) is not None:
        yield f"trial {entry.trial} was not promoted ({entry.reason}), and there is {there}"


def _end_problems(entries: list[SweepEntry]) -> Iterator[str]:
    """It ended with the code that its trials give."""
    for at, entry in enumerate(entries):
        if not isinstance(entry, Finished):
            continue
        ended = [one for one in entries[:at] if isinstance(one, Ended)]
        values = [one.value for one in ended if one.value is not None]
        failures = sum(one.status is Status.FAILED for one in ended)
        match entry.exit_code:
            case 0:
                is_true = bool(values)
            case 65:
                is_true = not values
            case 66:
                is_true = failures >= 3
            case 78:
                is_true = not any(one.rung > 0 and one.value is not None for one in ended)
            case _:
                is_true = False
        if not is_true:
            yield f"it ended with {entry.exit_code} ({entry.reason}), with values {values} and {failures} failures"
