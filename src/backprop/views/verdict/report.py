"""A verdict as a document for programs (the contract of `verdict --json`) and as lines for people."""

from typing import Any

from backprop.lifecycle.significance import LEVEL, Judgement, Verdict, runs_to_see
from backprop.records import Record
from backprop.store.output.protocol import json_safe
from backprop.text import printable
from backprop.views.terminal import formatting
from backprop.views.verdict.sides import At, Compared, Measured, Side


class Report(Record, frozen=True):
    """A candidate, judged."""

    compared: Compared
    baseline: Side
    candidate: Side
    baseline_values: Measured
    candidate_values: Measured
    judgement: Judgement
    warnings: tuple[str, ...] = ()


def verdict_document(report: Report) -> dict[str, Any]:
    """What `verdict --json` prints."""
    judgement, compared = report.judgement, report.compared
    document = {
        "verdict": judgement.verdict.value,
        "baseline": _side_document(report.baseline, report.baseline_values),
        "candidate": _side_document(report.candidate, report.candidate_values),
        "compared": {
            "metric": compared.metric,
            "goal": "max" if compared.is_max else "min",
            "at": compared.at.value,
            "place": compared.place,
        },
        "diff": judgement.diff,
        "ci95": None if judgement.ci95 is None else list(judgement.ci95),
        "p": judgement.p,
        "paired": judgement.is_paired,
        "n": judgement.count,
        "sd": judgement.sd,
        "needs": needs(judgement),
        "warnings": list(report.warnings),
    }
    return {key: json_safe(value) for key, value in document.items()}


def _side_document(side: Side, measured: Measured) -> dict[str, Any]:
    return {"runs": side.word, "n": len(measured.values), "mean": measured.mean}


def needs(judgement: Judgement) -> str | None:
    """How many runs would tell: `19 pairs to see 0.005`. None: not known, or it is told already."""
    count = runs_to_see(judgement)
    if count is None or judgement.visible is None:
        return None
    what = "pairs" if judgement.is_paired else "runs of each"
    return f"{count:,} {what} to see {formatting.number(judgement.visible)}"


def lines(report: Report) -> list[str]:
    """What `verdict` prints: the verdict, then what it stands on."""
    found = [f"{_subject(report)} {_sentence(report)}", f"  {_basis(report)}"]
    if report.judgement.verdict is Verdict.UNDECIDED and report.judgement.diff is not None:
        found.append(f"  {_missing(report)}")
    return [*found, *(f"  warning: {text}" for text in report.warnings)]


def _subject(report: Report) -> str:
    return f"{report.candidate.word}:"


def _sentence(report: Report) -> str:
    judgement, other = report.judgement, report.baseline.word
    if judgement.diff is None:
        return f"undecided · no finite {printable(report.compared.metric)} to compare with {other}"
    by = f"by {formatting.number(abs(judgement.diff))}"
    match judgement.verdict:
        case Verdict.BETTER | Verdict.WORSE:
            return f"{judgement.verdict.value} than {other} {by}{_interval(judgement)}"
        case Verdict.TIE:
            return f"a tie with {other}{_interval(judgement)}"
    if judgement.diff == 0.0:
        return f"undecided · no different from {other}{_interval(judgement)}"
    is_ahead = (judgement.diff > 0) == report.compared.is_max
    return f"undecided · {'ahead of' if is_ahead else 'behind'} {other} {by}{_interval(judgement)}"


def _interval(judgement: Judgement) -> str:
    if judgement.ci95 is None:
        return ""
    low, high = judgement.ci95
    return f" (95 %: {formatting.number(low)} to {formatting.number(high)})"


def _basis(report: Report) -> str:
    compared, judgement = report.compared, report.judgement
    direction = "greater is better" if compared.is_max else "smaller is better"
    place = "" if compared.place is None else f" {compared.place:,.0f}"
    where = {
        At.STEP: f"at step{place}",
        At.GPU_SECONDS: f"after {formatting.number(compared.place)} GPU-seconds",
        At.END: "at the end",
        At.BEST: "at best",
    }
    sides = (report.candidate_values, report.baseline_values)
    counted = [measured.only(sides[0].values.keys() & sides[1].values.keys()) for measured in sides]
    shown = counted if judgement.is_paired else sides  # the means whose difference is told
    means = " and ".join(f"{formatting.number(measured.mean)} ({len(measured.values)})" for measured in shown)
    paired = f"{judgement.count} pairs of a seed" if judgement.is_paired else "not paired by seed"
    is_whole = judgement.count == len(report.candidate_values.values) == len(report.baseline_values.values)
    if judgement.is_paired and not is_whole:
        paired += ", the others do not count"
    return f"{printable(compared.metric)} ({direction}) {where[compared.at]} · means {means} · {paired}"


def _missing(report: Report) -> str:
    judgement = report.judgement
    if judgement.p is not None and judgement.p <= LEVEL:
        return "the side that is ahead has more runs without a finite value: what is left of it proves nothing"
    needed = needs(judgement)
    if needed is not None:
        return f"needs {needed}"
    if judgement.count < 2:
        return "one run is no evidence: repeat both with the same seeds, two or more"
    if judgement.is_paired:
        return "all differences are the same, as coarse values give by chance: six pairs may tell"
    return "the values do not vary: more seeds may tell"
