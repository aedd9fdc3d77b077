"""The two sides of a verdict: which runs they are, what each run reached, and what else differs between them."""

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import Enum
from statistics import fmean

from backprop.errors import UsageError
from backprop.records import Record, Run, RunView
from backprop.store import metric_names, query
from backprop.store.curves import Axis
from backprop.store.index import Index
from backprop.views.replicates import COUNTED, request_of, seeds_of
from backprop.views.terminal import params

_STEPS_APART = 0.05  # of the longest: runs that ended within it went equally far
_LOAD_APART = 0.25  # of the time: what ran beside them
_NEIGHBOURS = 300  # the newest runs that may have run beside
_NAMED = 3
_GREATEST = 1e100  # a metric beyond it has diverged as much as one that is not finite, and its square is neither


class At(str, Enum):
    """Where the runs are compared."""

    STEP = "step"  # the last step that all of them have reached
    GPU_SECONDS = (
        "gpu-seconds"  # the last moment of training that all of them have reached, times the GPUs; else seconds
    )
    END = "end"  # each at its end
    BEST = "best"  # each at its best


class Side(Record, frozen=True):
    """Replicates: runs that differ in their seeds only."""

    word: str  # as the user named them
    views: tuple[RunView, ...]


class Compared(Record, frozen=True):
    """What the runs are compared by."""

    metric: str
    is_max: bool
    at: At
    place: float | None  # the step, or the GPU-seconds; None: each its own


class Measured(Record, frozen=True):
    """The values of a side. One seed that several runs have counts once, with their mean."""

    values: Mapping[str, float]  # by seed; a run without one has its id
    lacking: tuple[str, ...]  # ids of the runs without a finite value there

    @property
    def mean(self) -> float | None:
        """Over seeds; None without a value."""
        return fmean(self.values.values()) if self.values else None

    def only(self, seeds: Collection[str]) -> "Measured":
        """The values of these seeds."""
        return Measured(values={seed: self.values[seed] for seed in self.values if seed in seeds}, lacking=self.lacking)


def check_sides(sides: Sequence[Side]) -> None:
    """Raise UsageError where a side's runs are no replicates, or two sides share a run."""
    seen: dict[str, str] = {}
    for side in sides:
        for view in side.views:
            other = seen.setdefault(view.run.spec.id, side.word)
            if other is not side.word:
                raise UsageError(f"run {view.run.spec.id} belongs to {other!r} and to {side.word!r}.")
        names = [name for name in params.differing(side.views) if not metric_names.is_seed(name)]
        if names:
            raise UsageError(
                f"the runs of {side.word!r} differ in {', '.join(names[:_NAMED])}: they are no replicates. "
                f"Name those that differ in their seeds only, such as '{_narrowed(side, names[0])}'."
            )


def _narrowed(side: Side, name: str) -> str:
    value = next(params.text(view.params[name]) for view in side.views if name in view.params)
    return f"{side.word if '=' in side.word else f'group={side.word}'} param.{name}={value}"


def place_of(index: Index, views: Sequence[RunView], metric: str, at: At) -> float | None:
    """The last place that all runs with this metric have reached: a step, or GPU-seconds. None: each its own."""
    having = [view for view in views if metric in view.summaries]
    if at is At.STEP:
        return min((float(view.summaries[metric].last_step) for view in having), default=None)
    if at is At.GPU_SECONDS:
        return min((end for view in having if (end := _trained_to(index, view, metric)) is not None), default=None)
    return None


def _trained_to(index: Index, view: RunView, metric: str) -> float | None:
    xs = query.curve(index, view, metric, Axis.TIME).xs
    return max(xs) * _gpus(view) if len(xs) else None


def _gpus(view: RunView) -> int:
    """GPUs that its last session had; 1 where it had none, so that its seconds count."""
    counts = query.gpu_counts(view)
    return counts.get(view.run.newest_number) or 1


def measure(index: Index, side: Side, compared: Compared) -> Measured:
    """The value that each run of a side has reached."""
    values: dict[str, list[float]] = {}
    lacking = []
    for view in side.views:
        value = _value(index, view, compared)
        if value is None or not abs(value) <= _GREATEST:  # nor if it is NaN
            lacking.append(view.run.spec.id)
        else:
            values.setdefault(seeds_of(view) or view.run.spec.id, []).append(value)
    return Measured(values={seed: fmean(each) for seed, each in values.items()}, lacking=tuple(lacking))


def _value(index: Index, view: RunView, compared: Compared) -> float | None:
    summary = view.summaries.get(compared.metric)
    if summary is None:
        return None
    if compared.at is At.END:
        return summary.last
    if compared.at is At.BEST:
        return summary.greatest if compared.is_max else summary.least
    if compared.place is None:
        return None
    if compared.at is At.STEP:
        found = query.at_step(index, view, compared.metric, int(compared.place))
        return None if found is None else found[1]
    end = compared.place / _gpus(view)
    curve = query.curve(index, view, compared.metric, Axis.TIME, end=math.nextafter(end, math.inf))
    return curve.ys[-1] if len(curve.ys) else None


def warnings(index: Index, baseline: Side, candidate: Side, compared: Compared, lacking: Sequence[str]) -> list[str]:
    """What else differs between the sides, or makes the comparison weak. Data is not known, so not compared."""
    found = [*_of_runs(baseline, candidate, lacking), *_of_code(baseline, candidate)]
    if (steps := _of_steps(baseline, candidate, compared)) is not None:
        found.append(steps)
    views = (baseline.views, candidate.views)
    machines = [{session.host for view in each for session in view.run.sessions} for each in views]
    if compared.at is At.GPU_SECONDS and machines[0] != machines[1]:
        found.append(f"machine: {' and '.join(', '.join(sorted(hosts)[:_NAMED]) or 'none' for hosts in machines)}")
    loads = [fmean(_share_beside(index, view) for view in each) for each in views]
    if abs(loads[0] - loads[1]) > _LOAD_APART:
        shares = f"{loads[0]:.0%} of the time of {baseline.word} and {loads[1]:.0%} of that of {candidate.word}"
        found.append(f"contention: other runs ran beside for {shares}")
    return found


def _of_steps(baseline: Side, candidate: Side, compared: Compared) -> str | None:
    steps = [fmean(view.last_step or 0 for view in side.views) for side in (baseline, candidate)]
    if max(steps) and abs(steps[0] - steps[1]) > _STEPS_APART * max(steps):
        hint = "; to compare them at their ends: --at end" if compared.at is At.STEP else ""
        return f"steps: {baseline.word} was trained to step {steps[0]:,.0f}, {candidate.word} to {steps[1]:,.0f}{hint}"
    if compared.at is not At.STEP or compared.place is None:
        return None
    views = [view for side in (baseline, candidate) for view in side.views if compared.metric in view.summaries]
    ends = {view.run.spec.id: view.summaries[compared.metric].last_step for view in views}
    first = min(ends, key=lambda run_id: ends[run_id])
    if max(ends.values()) - ends[first] <= _STEPS_APART * max(ends.values()):
        return None
    return f"steps: compared at step {ends[first]:,}, where run {first} ended; others have up to {max(ends.values()):,}"


def _of_runs(baseline: Side, candidate: Side, lacking: Sequence[str]) -> list[str]:
    found = []
    if lacking:
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        found.append(f"left out, because they have no finite value: {', '.join(lacking[:_NAMED])}{more}")
    runs = [view.run for side in (baseline, candidate) for view in side.views]
    cut = [f"{run.spec.id} ({run.status.value})" for run in runs if run.status not in COUNTED]
    if cut:
        more = f" and {len(cut) - _NAMED} more" if len(cut) > _NAMED else ""
        found.append(f"not completed: {', '.join(cut[:_NAMED])}{more}")
    return found + [
        f"command: the runs of {side.word} were not all started by the same"
        for side in (baseline, candidate)
        if len({request_of(view) for view in side.views}) > 1
    ]


def _of_code(baseline: Side, candidate: Side) -> list[str]:
    codes = [{_code(view.run) for view in side.views} for side in (baseline, candidate)]
    found = [
        f"code: the runs of {side.word} did not all execute the same"
        for side, code in zip((baseline, candidate), codes, strict=True)
        if len(code) > 1 or any(_has_changed(view.run) for view in side.views)
    ]
    if codes[0] != codes[1]:
        found.append("code: the two did not execute the same; see backprop compare --diff")
    return found


def _code(run: Run) -> tuple[str | None, str | None, str | None]:
    last = run.last_session
    commit = run.code.git.commit if run.code.git is not None else None
    return commit, run.code.patch, last.script_sha256 if last is not None else None


def _has_changed(run: Run) -> bool:
    """Whether a later session executed other code, or other arguments, than its first."""
    return any(
        (session.code is not None and session.code.changed and session.number > 1) or session.only_once
        for session in run.sessions
    )


def _share_beside(index: Index, view: RunView) -> float:
    """The share of a run's time in which other runs trained on its machine."""
    mine = _times(view.run)
    total = sum(end - begin for begin, end, _ in mine)
    if total <= 0:
        return 0.0
    ids = index.rows(
        "SELECT id FROM runs WHERE created_at <= ? ORDER BY created_at DESC LIMIT ?",
        (max(end for _, end, _ in mine), _NEIGHBOURS),
    )
    theirs = [
        time
        for (run_id,) in ids
        if run_id != view.run.spec.id and (other := index.get(run_id, metrics=())) is not None
        for time in _times(other.run)
    ]
    return sum(_covered(mine_one, theirs) for mine_one in mine) / total


def _times(run: Run) -> list[tuple[float, float, str]]:
    """When its ended sessions trained: begin and end in seconds since 1970, and on which machine."""
    return [(_s(one.started_at), _s(one.ended_at), one.host) for one in run.sessions if one.ended_at is not None]


def _s(instant: datetime) -> float:
    return instant.timestamp()


def _covered(mine: tuple[float, float, str], theirs: Sequence[tuple[float, float, str]]) -> float:
    """Seconds of one interval that any of the others covers."""
    begin, end, host = mine
    covered, reached = 0.0, begin
    for other_begin, other_end, other_host in sorted(theirs):
        low, high = max(other_begin, reached), min(other_end, end)
        if other_host == host and high > low:
            covered, reached = covered + high - low, high
    return covered
