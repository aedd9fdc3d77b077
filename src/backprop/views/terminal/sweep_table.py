"""A sweep for a terminal, or for a pipe: its rungs, the best trials, and the budget."""

from collections.abc import Iterator, Sequence

from backprop.lifecycle.sweep.importance import importances
from backprop.lifecycle.sweep.observation import Seen
from backprop.lifecycle.sweep.rule import Budget
from backprop.lifecycle.sweep.standing import Standing, TrialState
from backprop.lifecycle.sweep.sweeper import params_text, start_advice
from backprop.records import in_minutes
from backprop.text import printable
from backprop.views.documents.sweep_json import SHOWN, among_the_best, best_first, eta_s, rungs, spread
from backprop.views.terminal import formatting
from backprop.views.terminal.screen import Screen, cut, stdout_screen
from backprop.views.terminal.table_layout import Cell, Column, grid


def summary(standing: Standing, budget: Budget, state: str, screen: Screen | None = None) -> str:
    """Some lines: trials by rung, the best ones, the budget, what was started last."""
    screen = screen or stdout_screen()
    spec = standing.spec
    lines = [
        f"sweep {spec.name} ({state}) · {spec.goal_text} · {len(standing.searched)} trials" + _repeats(standing),
        rungs_text(standing) or "no trial has finished a rung",
        f"budget {in_minutes(budget.spent_s)} of {in_minutes(budget.total_s)} used"
        + (f" · about {formatting.duration(eta_s(standing, budget))} left" if state == "running" else ""),
    ]
    if standing.last_event and standing.finished is None:
        lines.append(standing.last_event)
    text = "".join(cut(line, screen.width - 1, screen.ellipsis) + "\n" for line in lines)
    best = best_first(standing)[:SHOWN]
    return text + (grid(list(_columns(standing, best, screen)), screen).text if best else "")


def rungs_text(standing: Standing) -> str:
    """How many trials have finished each rung, and are active in it; empty before the first."""
    return ", ".join(
        f"rung {row['rung']}: {row['done']} done" + (f" + {row['active']} active" if row["active"] else "")
        for row in rungs(standing)
    )


def _repeats(standing: Standing) -> str:
    count = len(standing.trials) - len(standing.searched)
    return f" · {count} repeats" if count else ""


def _columns(standing: Standing, best: Sequence[TrialState], screen: Screen) -> Iterator[Column]:
    repeated = {one.trial: one for one in standing.repeated}
    yield Column("TRIAL", [Cell(str(trial.number)) for trial in best], 0, "right")
    yield Column("RUN", [Cell(trial.run_id) for trial in best], rank=3)
    yield Column("RUNG", [Cell(str(len(trial.values) - 1)) for trial in best], 2, "right")
    yield Column(standing.spec.metric.upper(), [Cell(formatting.number(trial.value)) for trial in best], 0, "right")
    if repeated:
        sign = "±" if screen.has_blocks else "+-"
        cells = []
        for trial in best:
            one = repeated.get(trial.number)
            spread = "" if one is None or one.sd is None else f" {sign} {formatting.number(one.sd)}"
            cells.append(Cell("-" if one is None else f"{formatting.number(one.mean)}{spread} ({len(one.finite)})"))
        yield Column(f"MEAN {sign} SD (N)", cells, 1, "right")
    yield Column("PARAMETERS", [Cell(params_text(trial)) for trial in best], rank=1, min_width=20)


def conclusion(seen: Seen) -> Iterator[str]:
    """The end of a sweep: the best parameters, their spread among the best, ties, and what to do with them."""
    standing = seen.standing
    finished = standing.finished
    if finished is not None:
        yield f"sweep {standing.spec.name} {seen.state}: {finished.reason}"
    elif not seen.is_driven:
        yield f"sweep {standing.spec.name} is {seen.state}; continue with: backprop sweep resume {standing.spec.name}"
    if len(standing.scripts) > 1:
        yield "the script was changed meanwhile: values from before and after may not compare"
    if advice := start_advice(standing):
        yield advice
    best = standing.best
    if best is None:
        return
    yield f"best: {printable(params_text(best))} (trial {best.number}, run {best.run_id})"
    among = among_the_best(standing)
    if spreads := spread(standing):
        texts = (f"{name} {_spread_text(standing, name, values)}" for name, values in spreads.items())
        yield f"the best {len(among)} have {printable(', '.join(texts))}"
    if shares := importances(standing):
        yield f"what mattered: {printable(', '.join(f'{name} {share:.0%}' for name, share in shares.items()))}"
    if ties := standing.ties:
        yield f"its seeds do not tell it from trial {', '.join(map(str, ties))}: a tie"
    yield f"train it on with: backprop resume {best.run_id}"
    if len(among) > 1:
        yield f"compare the best with: backprop compare {' '.join(trial.run_id for trial in among)}"


def _spread_text(standing: Standing, name: str, values: Sequence[str]) -> str:
    is_range = any(one.name == name and not one.choices for one in standing.spec.parameters)
    return (" to " if is_range else "/").join(values)
