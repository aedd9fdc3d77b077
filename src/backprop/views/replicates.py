"""Runs that differ in their seed only, and what a metric comes to over them: one seed is luck.

The same script, command, parameters and code; nothing but the seed may differ, and how long they may train. What is not
known (outside a git repository, say) is not compared.
"""

import os
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backprop.records import Goal, RunView, Status
from backprop.store import metric_names
from backprop.store.code import provenance
from backprop.store.rundir import RunDir
from backprop.views.documents.run_json import timeboxes_s
from backprop.views.terminal import params

COUNTED = frozenset({Status.COMPLETED, Status.TIMEBOXED})  # of others the best is yet to come


class Spread(NamedTuple):
    """A metric over several seeds: the best value of each run, or the last, where nobody knows which are better."""

    mean: float
    deviation: float | None  # of the sample; None for a single run
    runs: int


def sets(views: Iterable[RunView]) -> list[list[RunView]]:
    """The runs by what they are replicates of, in the order of their first ones; only completed or timeboxed ones."""
    alike: dict[tuple[Any, ...], list[RunView]] = {}
    for view in views:
        if view.run.status in COUNTED:
            alike.setdefault(_request(view), []).append(view)
    return [_one_a_seed(one) for same in alike.values() for one in _by_code(same)]


def of(view: RunView, views: Iterable[RunView]) -> list[RunView]:
    """Those of the runs that are replicates of this one, which counts only if it has completed or was timeboxed."""
    own = _request(view)
    alike = [one for one in views if one.run.status in COUNTED and one is not view and _request(one) == own]
    same = next(one for one in _by_code([view, *alike]) if view in one)
    return _one_a_seed(same if view.run.status in COUNTED else same[1:])


def spread(views: Sequence[RunView], metric: str) -> Spread | None:
    """What a metric comes to over replicates; None where none has a value."""
    values = [value for view in views if (value := value_of(view, metric)) is not None]
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def value_of(view: RunView, metric: str) -> float | None:
    """The value of a run that counts: its best, or its last, where nobody knows which values are better."""
    if metric_names.goal(metric, view.goals.get(metric)) is None:
        return view.metrics.get(metric)
    found = metric_names.best(view, metric)
    return None if found is None else found[0]


def by_mean(found: Iterable[Sequence[RunView]], metric: str, goal: Goal) -> list[tuple[Sequence[RunView], Spread]]:
    """Sets of replicates with what the metric comes to in each, the best mean first; without those that lack it."""
    spreads = [(views, over) for views in found if (over := spread(views, metric)) is not None]
    return sorted(spreads, key=lambda one: one[1].mean, reverse=goal is Goal.MAX)


def without_seeds(view: RunView) -> dict[str, str]:
    """The parameters as texts, without the seeds, and without the run's own id in them.

    Those that are None are left out: they were not given. A resumed run does not list the option for its checkpoint.
    """
    own = view.run.spec.id
    return {
        name: _without_id(params.text(value), own)
        for name, value in view.params.items()
        if value is not None and not metric_names.is_seed(name)
    }


def _without_id(text: str, run_id: str) -> str:
    """A text without the run's id in it, as in the name of a folder; a text that is nothing else stays."""
    return text if text == run_id else re.sub(rf"(?<![A-Za-z0-9]){re.escape(run_id)}(?![A-Za-z0-9])", "", text)


def _one_a_seed(views: Sequence[RunView]) -> list[RunView]:
    """Of runs with the same seed the earliest: a repetition is no new sample. Oldest first."""
    found: dict[str, RunView] = {}
    for view in sorted(views, key=lambda view: view.run.spec.created_at):
        found.setdefault(seeds_of(view), view)
    return list(found.values())


def seeds_of(view: RunView) -> str:
    """Its seeds, as text: `seed=7`. Empty for a run without any; None, the usual default, is none."""
    names = [name for name in sorted(view.params) if metric_names.is_seed(name) and view.params[name] is not None]
    return " ".join(f"{name}={params.text(view.params[name])}" for name in names)


def _request(view: RunView) -> tuple[Any, ...]:
    """What replicates have in common of what was asked for."""
    last = view.run.last_session
    budget_s = timeboxes_s(view.run) if view.run.status is Status.TIMEBOXED else None
    git = view.run.code.git
    script = None if last is None else last.script_sha256
    code = (script, git and (git.commit, git.dirty))
    return *request_of(view), tuple(sorted(without_seeds(view).items())), budget_s, code


def request_of(view: RunView) -> tuple[str | None, tuple[str, ...]]:
    """The script and the command that were asked for, without seeds and the run's own id."""
    spec = view.run.spec
    return spec.script, tuple(_without_id(word, spec.id) for word in _without_seed_arguments(spec.command))


def _without_seed_arguments(command: Sequence[str]) -> Iterator[str]:
    """`--seed 1`, `--seed=1` and `seed=1` are left out."""
    takes_value = False
    for word in command:
        name, equals, _ = word.partition("=")
        if takes_value and not word.startswith("--"):
            takes_value = False
            continue
        takes_value = False
        if metric_names.is_seed(name.lstrip("-")) and (equals or name.startswith("-")):
            takes_value = not equals
            continue
        yield word


def _by_code(views: Sequence[RunView]) -> list[list[RunView]]:
    """Runs of one commit and script, by their uncommitted changes and the modules that they imported."""
    if len(views) == 1:
        return [list(views)]
    found: list[tuple[bytes | None, dict[str, str], list[RunView]]] = []
    for view in views:
        patch, modules = _changes(view)
        for other_patch, others, members in found:
            if patch == other_patch and all(
                others.get(name, checksum) == checksum for name, checksum in modules.items()
            ):
                others.update(modules)
                members.append(view)
                break
        else:
            found.append((patch, modules, [view]))
    return [members for _, _, members in found]


def _changes(view: RunView) -> tuple[bytes | None, dict[str, str]]:
    run, rundir = view.run, RunDir(Path(view.run_dir))
    listed = b"" if run.last_session is None else rundir.read_modules(run.last_session.number)
    folder = os.path.dirname(run.spec.script or "") or run.spec.cwd  # noqa: PTH120
    if run.spec.snapshot_of:
        folder = str(rundir.snapshot_path)
    modules = {os.path.relpath(path, folder): checksum for path, checksum in provenance.imported(listed).items()}
    return rundir.read_patch(run.code.patch), modules
