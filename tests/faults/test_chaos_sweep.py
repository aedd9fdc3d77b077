"""That `make chaos` finds what is wrong with the record of a sweep, and nothing in one that is right."""

import random
from array import array
from collections.abc import Callable

import msgspec
import pytest

from backprop.lifecycle.sweep.journal import Finished, NotPromoted, SweepEntry
from backprop.records import Run, Status
from tests.chaos.output import Output
from tests.chaos.sweep import problems
from tests.records import SPEC as RUN_SPEC
from tests.unit.lifecycle.sweep.test_standing import NOW, SPEC, a_session, asked, ended, promoted


def drawn(trial: int) -> dict[str, str]:
    (parameter,) = SPEC.parameters
    return {"lr": parameter.sample(random.Random(f"0 {trial}"))}


def output(*values: float, saved: tuple[tuple[int, str], ...] = ()) -> Output:
    return Output(steps=array("d", range(1, len(values) + 1)), values=array("d", values), saved=list(saved))


ENTRIES: tuple[SweepEntry, ...] = (
    asked(0, params=drawn(0)),
    ended(0, value=0.5),
    promoted(0),
    asked(1, params=drawn(1)),
    ended(0, rung=1, value=0.9),
    Finished(at=NOW, reason="the budget is used up", exit_code=0),
)
SESSIONS = {"r0": (a_session(1, "r0"), a_session(2, "r0-1")), "r1": (a_session(1, "r1", elapsed_s=4.0),)}
OUTPUTS = {"r0": {1: output(0.1, 0.5, 0.3), 2: output(0.9)}, "r1": {1: output(0.2)}}


def found(
    entries: tuple[SweepEntry, ...] = ENTRIES,
    sessions: dict[str, tuple] = SESSIONS,
    outputs: dict[str, dict[int, Output]] = OUTPUTS,
) -> list[str]:
    runs = {}
    for run_id, of_run in sessions.items():
        spec = msgspec.structs.replace(RUN_SPEC, id=run_id)
        runs[run_id] = Run(spec=spec, status=of_run[-1].status, latest=of_run)
    return list(problems(SPEC, list(entries), runs, outputs))


def test_nothing_is_wrong_with_a_sweep_as_it_should_be():
    assert found() == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda: found((ENTRIES[0], *ENTRIES)), "its trials are"),
        (lambda: found((asked(0), *ENTRIES[1:])), "trial 0 has"),
        (lambda: found((*ENTRIES, promoted(0))), "asked for a session twice"),
        (lambda: found((*ENTRIES, ended(0, value=0.5))), "ended twice"),
        (lambda: found(ENTRIES[:3]), "has not asked for: ['r1']"),
        (lambda: found(sessions={"r1": SESSIONS["r1"]}), "the runs of trials [0, 0] are gone"),
        (lambda: found(sessions={**SESSIONS, "r1": (*SESSIONS["r1"], a_session(1, "r1"))}), "its sessions are"),
        (lambda: found(sessions={**SESSIONS, "r1": (a_session(1, None),)}), "its sessions are"),
        (lambda: found(outputs={**OUTPUTS, "r0": {1: output(0.1, 0.6), 2: output(0.9)}}), "has the value 0.5"),
        (lambda: found(outputs={**OUTPUTS, "r0": {1: output(), 2: output(0.9)}}), "has the metric"),
        (lambda: found((*ENTRIES[:-1], ended(1, value=None))), "it has not the metric"),
        (lambda: found((*ENTRIES[:-1], ended(1, value=None, has_metric=True))), "without a value and without a reason"),
        (
            lambda: found((*ENTRIES[:-1], ended(1, value=None, has_metric=True, reason="its run was removed"))),
            "removed",
        ),
        (lambda: found((*ENTRIES[:-1], Finished(at=NOW, reason="x", exit_code=66))), "it ended with 66"),
        (lambda: found((ENTRIES[0], Finished(at=NOW, reason="x", exit_code=0))), "it ended with 0"),
        (
            lambda: found(sessions={**SESSIONS, "r1": (a_session(1, "r1", elapsed_s=90.0, timebox_s=90.0),)}),
            "of a budget of 100 s",
        ),
        (
            lambda: found(
                (*ENTRIES[:4], NotPromoted(at=NOW, trial=0, request_id="r0-1", reason="no checkpoint")),
                outputs={**OUTPUTS, "r0": {1: output(0.5, saved=((1, "a.json"),)), 2: output(0.9)}},
            ),
            "was not promoted",
        ),
    ],
)
def test_what_is_wrong_with_a_sweep_is_found(change: Callable[[], list[str]], what: str):
    assert any(what in problem for problem in change()), change()


def test_a_trial_without_a_whole_checkpoint_is_rightly_not_promoted():
    written = {**OUTPUTS, "r0": {1: output(0.5, saved=((1, "a-torn.json"),)), 2: output(0.9)}}
    entries = (*ENTRIES[:4], NotPromoted(at=NOW, trial=0, request_id="r0-1", reason="no checkpoint"))
    assert found(entries, outputs=written) == []


@pytest.mark.parametrize(("value", "is_wrong"), [(0.9, True), (None, False)])
def test_a_trial_that_went_on_has_shown_that_it_can(value: float | None, is_wrong: bool):
    """Then the check does not fail later; a rung that failed has shown nothing."""
    status = Status.TIMEBOXED if value else Status.FAILED
    later = ended(0, rung=1, value=value, has_metric=True, status=status)
    entries = (*ENTRIES[:4], later, Finished(at=NOW, reason="x", exit_code=78))
    assert any("it ended with 78" in problem for problem in found(entries)) is is_wrong


def test_a_failed_trial_has_no_value():
    entries = (*ENTRIES[:-1], ended(1, value=None, has_metric=True, status=Status.FAILED))
    assert found(entries) == []
