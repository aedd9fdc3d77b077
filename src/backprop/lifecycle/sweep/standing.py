"""What a sweep stands at: its journal folded into trials, and what the record of a run says of a rung. Pure."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Any, NamedTuple

import msgspec

from backprop.lifecycle.sweep import rule
from backprop.lifecycle.sweep.journal import (
    Added,
    Asked,
    Began,
    Checked,
    Confirming,
    Ended,
    Finished,
    Made,
    NotPromoted,
    Promoted,
    RungContinued,
    StopAsked,
    SweepEntry,
    SweepStopped,
)
from backprop.lifecycle.sweep.rule import Budget, Repeat, Repeated, Rules
from backprop.lifecycle.sweep.spec import SweepSpec
from backprop.records import Goal, Record, Run, Session, Status, StopReason
from backprop.store.chunk_summary import ChunkSummary

_MAX_INTERRUPTIONS = 2  # of a rung, after which it counts as failed
SAME_FAILURES = 3  # of the first trials, which stop the sweep
_MEASURED_STARTS = 3  # trials, before it is known what a start takes
# of a first rung. If that trains for a ninth, a start is then as long, and halving gains less with each longer one:
SLOW_START = 0.5  # docs/contributing/benchmarks.md, "What a start may cost"
LATER_FAILURES = 10  # in a row, which stop it later: its script was broken, or what it needs is gone
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?(e[+-]?\d+)?", re.IGNORECASE)  # a parameter, an address, an id
_WORTH_A_SESSION_S = 1.0
_WORTH_SHARE = 0.05  # of what was asked for: less of it is not worth another session


class Asking(Record, frozen=True):
    """A session that was asked for."""

    request_id: str
    rung: int
    timebox_s: float
    until_step: int | None = None  # where rungs end at a step
    is_strict: bool = False  # it was to continue from a checkpoint
    is_check: bool = False
    reason: str = ""


class TrialState(Record, frozen=True):
    """One trial by the journal."""

    number: int
    run_id: str
    params: Mapping[str, str]
    source: str
    seed: int | None = None
    repeats: int | None = None  # the trial that it repeats
    note: str | None = None
    attrs: Mapping[str, Any] = {}
    asked: tuple[Asking, ...] = ()  # oldest first
    is_made: bool = False  # its run was seen
    is_active: bool = False  # the last of these has not ended
    values: tuple[float | None, ...] = ()
    can_resume: bool = True
    trained_s: float = 0.0
    status: Status | None = None  # of the rung that ended last
    has_metric: bool = False
    reason: str | None = None  # why it has no value
    start_s: float | None = None  # see `Ended`
    first_rung_s: float | None = None  # where `start_s` is known: what the whole session took

    @property
    def last(self) -> Asking:
        """What was asked for last."""
        return self.asked[-1]

    @property
    def value(self) -> float | None:
        """Its value at the rung that ended last; None: none has ended, or that one has no value."""
        return self.values[-1] if self.values else None

    def of_rung(self, rung: int) -> list[Asking]:
        """The sessions of one rung."""
        return [asking for asking in self.asked if asking.rung == rung]

    def for_rule(self, rules: Rules) -> rule.Trial:
        """The same for the rule that promotes."""
        return rule.Trial(
            number=self.number,
            values=self.values,
            active_rung=self.last.rung if self.is_active else None,
            can_resume=self.can_resume,
            pace_s=self._pace_s(rules),
        )

    def _pace_s(self, rules: Rules) -> float | None:
        """How long it took for as many steps as the first rung has; None where rungs end by time, and if it failed."""
        if rules.rung_steps is None or not self.values or self.status in {Status.FAILED, Status.COMPLETED}:
            return None
        return self.trained_s / sum(rules.size(rung) for rung in range(len(self.values)))


class Standing(Record, frozen=True):
    """A sweep by its journal."""

    spec: SweepSpec
    trials: tuple[TrialState, ...] = ()  # in order of their numbers, repeats included
    added: tuple[Added, ...] = ()  # proposed by users, and not asked for yet
    planned: tuple[Repeat, ...] | None = None  # repeats at the end, not asked for yet; None: the search goes on
    is_checked: bool = False  # a trial continued from its checkpoint
    problem: str | None = None  # why a trial did not
    stopped_ids: frozenset[str] = frozenset()  # requests whose sessions the sweeper ended
    is_stop_asked: bool = False  # since a sweeper took it last
    finished: Finished | None = None
    stopped: SweepStopped | None = None  # since a sweeper took it last
    began: Began | None = None  # the sweeper that took it last
    began_at_trial: int = 0  # how many trials there were when a sweeper took it last after an end
    last_event: str = ""  # what was started last, and why
    scripts: frozenset[str] = frozenset()  # what the sessions executed, by its checksum

    @property
    def searched(self) -> list[TrialState]:
        """Without the repeats."""
        return [trial for trial in self.trials if trial.repeats is None]

    @property
    def active(self) -> list[TrialState]:
        """Trials, repeats included, with a session that was asked for and has not ended."""
        return [trial for trial in self.trials if trial.is_active]

    @property
    def rules(self) -> Rules:
        """How it halves, with what was seen of how long steps take."""
        rules = self.spec.rules
        paces_s = [pace_s for trial in self.searched if (pace_s := trial.for_rule(rules).pace_s)]
        return msgspec.structs.replace(rules, usual_s=median(paces_s)) if paces_s else rules

    @property
    def candidates(self) -> list[rule.Trial]:
        """The trials of the search, for the rule that promotes."""
        return [trial.for_rule(self.spec.rules) for trial in self.searched]

    @property
    def start(self) -> tuple[float, float] | None:
        """How long a start and a first rung take, in seconds: medians. None while too few trials show it."""
        seen = [
            (one.start_s, one.first_rung_s)
            for one in self.searched
            if one.start_s is not None and one.first_rung_s is not None
        ]
        if len(seen) < _MEASURED_STARTS:
            return None
        return median(start_s for start_s, _ in seen), median(rung_s for _, rung_s in seen)

    @property
    def trained_without_metric(self) -> int:
        """How many trials have trained without an error since the sweep began, if none reported the metric; else 0."""
        if any(trial.has_metric for trial in self.trials):
            return 0
        since = self.searched[self.began_at_trial :]
        return sum(bool(trial.values) and trial.status is not Status.FAILED for trial in since)

    @property
    def same_failure(self) -> str | None:
        """The error, whatever its numbers, with which the first three trials failed, or the newest ten; else None."""
        since = self.searched[self.began_at_trial :]
        newest = [trial for trial in since if not trial.is_active][-LATER_FAILURES:]
        return _same_failure(since[:SAME_FAILURES], SAME_FAILURES) or _same_failure(newest, LATER_FAILURES)

    @property
    def ranked(self) -> list[TrialState]:
        """The trials with a value, best first, whatever their rung."""
        by_number = {trial.number: trial for trial in self.trials}
        best = rule.ranked(self.spec.rules, self.candidates)
        return [by_number[trial.number] for trial in best]

    @property
    def repeated(self) -> list[Repeated]:
        """The repeated trials, best first."""
        originals = dict.fromkeys(trial.repeats for trial in self.trials if trial.repeats is not None)
        found = [
            Repeated(
                trial=number,
                values={
                    trial.seed: trial.value
                    for trial in self.trials
                    if trial.repeats == number and trial.seed is not None and not trial.is_active
                },
            )
            for number in originals
        ]
        return rule.ranked_repeats(self.spec.rules, [one for one in found if one.values])

    @property
    def ties(self) -> list[int]:
        """The trials that their repeats do not tell from the best one's."""
        return rule.ties(self.spec.rules, self.repeated)

    @property
    def best(self) -> TrialState | None:
        """By its repeats where there are any."""
        repeated = self.repeated
        if repeated and repeated[0].mean is not None:
            return self.trials[repeated[0].trial]
        return next(iter(self.ranked), None)


def _same_failure(trials: Sequence[TrialState], count: int) -> str | None:
    """The error with which each of so many trials failed."""
    failed = [trial.reason for trial in trials if trial.status is Status.FAILED and trial.reason is not None]
    is_same = len(failed) == count and len({_NUMBER.sub("0", reason) for reason in failed}) == 1
    return failed[0] if is_same else None


def fold(spec: SweepSpec, entries: Iterable[SweepEntry]) -> Standing:
    """What a sweep stands at after these entries. Any sequence of entries gives one."""
    return fold_on(Standing(spec=spec), entries)


def fold_on(standing: Standing, entries: Iterable[SweepEntry]) -> Standing:
    """The same after further entries."""
    for entry in entries:
        standing = _with(standing, entry)
    return standing


def _with(standing: Standing, entry: SweepEntry) -> Standing:  # noqa: C901, PLR0911, PLR0912  one case each
    replace = msgspec.structs.replace
    match entry:
        case Began():
            has_failed = standing.finished is not None and standing.finished.exit_code != 0
            return replace(
                standing,
                began=entry,
                is_stop_asked=False,
                stopped=None,
                finished=None if has_failed else standing.finished,
                began_at_trial=len(standing.searched) if has_failed else standing.began_at_trial,
                problem=None,
            )
        case Added():
            return replace(standing, added=(*standing.added, entry))
        case StopAsked():
            return replace(standing, is_stop_asked=True)
        case Asked():
            return _asked(standing, entry)
        case Made():
            return _changed(standing, entry.trial, is_made=True)
        case Promoted():
            event = f"trial {entry.trial} to rung {entry.rung}: {entry.reason}"
            return replace(_goes_on(standing, entry, is_strict=not standing.spec.from_scratch), last_event=event)
        case RungContinued():
            return _goes_on(standing, entry, is_strict=entry.is_strict, is_check=entry.is_check)
        case NotPromoted():
            return _not_promoted(standing, entry)
        case Ended():
            return _ended(standing, entry)
        case Checked():
            return replace(standing, is_checked=entry.problem is None, problem=entry.problem)
        case Confirming():
            return replace(standing, planned=entry.planned)
        case SweepStopped():
            return replace(standing, stopped=entry, stopped_ids=standing.stopped_ids | set(entry.request_ids))
        case Finished():
            return replace(standing, finished=entry)


def _asked(standing: Standing, entry: Asked) -> Standing:
    if _place(standing, entry.trial) is not None:
        return standing  # it was asked for before
    trial = TrialState(
        number=entry.trial,
        run_id=entry.run_id,
        params=entry.params,
        source=entry.source,
        seed=entry.seed,
        repeats=entry.repeats,
        note=entry.note,
        attrs=entry.attrs,
        asked=(Asking(request_id=entry.run_id, rung=0, timebox_s=entry.timebox_s, until_step=entry.until_step),),
        is_active=True,
    )
    added, planned = standing.added, standing.planned
    if entry.source == "added":
        added = added[1:]
    if entry.repeats is not None and planned is not None:
        planned = tuple(one for one in planned if (one.trial, one.seed) != (entry.repeats, entry.seed))
    trials = (*standing.trials, trial)
    return msgspec.structs.replace(standing, trials=trials, added=added, planned=planned)


def _not_promoted(standing: Standing, entry: NotPromoted) -> Standing:
    place = _place(standing, entry.trial)
    trained_s = max(entry.trained_s, 0.0 if place is None else standing.trials[place].trained_s)
    return _changed(standing, entry.trial, is_active=False, can_resume=False, reason=entry.reason, trained_s=trained_s)


def _goes_on(
    standing: Standing, entry: Promoted | RungContinued, *, is_strict: bool, is_check: bool = False
) -> Standing:
    asking = Asking(
        request_id=entry.request_id,
        rung=entry.rung,
        timebox_s=entry.timebox_s,
        until_step=entry.until_step,
        is_strict=is_strict,
        is_check=is_check,
        reason=entry.reason,
    )
    return _changed(standing, entry.trial, is_active=True, asking=asking)


def _ended(standing: Standing, entry: Ended) -> Standing:
    place = _place(standing, entry.trial)
    trial = None if place is None else standing.trials[place]
    if trial is None or not trial.is_active:
        return standing
    if entry.script_sha256 is not None:
        standing = msgspec.structs.replace(standing, scripts=standing.scripts | {entry.script_sha256})
    if entry.start_s is not None:
        standing = _changed(standing, entry.trial, start_s=entry.start_s, first_rung_s=entry.trained_s)
    return _changed(
        standing,
        entry.trial,
        is_active=False,
        values=(*trial.values, entry.value),
        can_resume=entry.can_resume,
        trained_s=max(trial.trained_s, entry.trained_s),
        status=entry.status,
        has_metric=trial.has_metric or entry.has_metric,
        reason=entry.reason,
    )


def _changed(standing: Standing, number: int, asking: Asking | None = None, **changes: Any) -> Standing:
    place = _place(standing, number)
    if place is None:
        return standing
    trial = standing.trials[place]
    asked = trial.asked if asking is None else (*trial.asked, asking)
    changed = msgspec.structs.replace(trial, asked=asked, **changes)
    return msgspec.structs.replace(standing, trials=(*standing.trials[:place], changed, *standing.trials[place + 1 :]))


def _place(standing: Standing, number: int) -> int | None:
    """Where the trial of this number is: trials are asked for in the order of their numbers."""
    if number < len(standing.trials) and standing.trials[number].number == number:
        return number
    return next((place for place, trial in enumerate(standing.trials) if trial.number == number), None)


# -- a rung by the record of its run


class Facts(NamedTuple):
    """What the record of a trial's run says."""

    run: Run
    summaries: Mapping[int, ChunkSummary]  # session -> of the goal's metric
    has_checkpoint: bool  # a valid one
    checked: "StepsSeen | None" = None  # of the newest session
    failure: str | None = None  # the last line of a traceback
    left_s: float = math.inf  # what another session may take: of the budget, and until --until


class StepsSeen(NamedTuple):
    """The steps that a session reported after it was offered a checkpoint."""

    checkpoint: int | None  # of the offered one
    first: float | None
    last: float | None


def conclude(spec: SweepSpec, standing: Standing, trial: TrialState, facts: Facts, now: datetime) -> list[SweepEntry]:
    """The entries that follow from a session of the trial that has ended; none while it is active."""
    asking, run = trial.last, facts.run
    sessions = [session for session in run.sessions if session.request_id == asking.request_id]
    if not run.status.is_final or not sessions:
        return []
    session = sessions[-1]
    trained_s = run_trained_s(run)
    used_s = sum(one.elapsed_s or 0.0 for one in sessions)
    is_ours = session.status is Status.STOPPED and asking.request_id in standing.stopped_ids
    is_cut = is_ours or session.status is Status.INTERRUPTED or session.stopped_by is StopReason.SIGNAL
    if is_cut:
        return _after_cut(spec, trial, facts, asking.timebox_s - used_s, trained_s, now, is_ours=is_ours)
    needs_check = not (spec.from_scratch or standing.is_checked or asking.is_check or trial.repeats is not None)
    if session.status is Status.TIMEBOXED and needs_check:
        why = "does it continue from its checkpoint?"
        until_step = spec.rules.until_step(asking.rung)
        return [_continued(trial, now, why, asking.timebox_s, until_step, is_check=True)]
    problem = _not_continued(session, asking, facts)
    checks: list[SweepEntry] = []
    if asking.is_check and session.status is not Status.FAILED:
        problem = problem or ("it reported no step after it was resumed" if _is_silent(facts) else None)
        checks = [Checked(at=now, trial=trial.number, problem=problem)]
    elif needs_check and session.status is Status.COMPLETED:
        checks = [Checked(at=now, trial=trial.number)]
    if problem is None and (left_s := _left_to_its_step_s(spec, trial, facts, session)):
        why = f"slower than expected, and not yet at step {asking.until_step}"
        return [_continued(trial, now, why, left_s, asking.until_step)]
    return [*checks, _end(spec, trial, facts, session, trained_s, problem, now)]


def _left_to_its_step_s(spec: SweepSpec, trial: TrialState, facts: Facts, session: Session) -> float:
    """What a rung that its timebox ended before its step may still take; 0: it is over.

    A timebox is about twice what is expected of the trial, so that one that has become slow does not take the budget of
    the others. On a machine that others use, too, that is no reason to compare it with those that came to the step.
    """
    asking = trial.last
    is_short = asking.until_step is not None and session.stopped_by is StopReason.TIMEBOX
    if not is_short or asking.rung == 0 or asking.is_check or not facts.has_checkpoint or _is_silent(facts):
        return 0.0
    ids = {one.request_id for one in trial.of_rung(asking.rung)}
    used_s = sum(one.elapsed_s or 0.0 for one in facts.run.sessions if one.request_id in ids)
    left_s = min(asking.timebox_s, facts.left_s, spec.rung_s * spec.rules.size(asking.rung) - used_s)
    return left_s if left_s >= _WORTH_A_SESSION_S else 0.0


def _after_cut(
    spec: SweepSpec,
    trial: TrialState,
    facts: Facts,
    left_s: float,
    trained_s: float,
    now: datetime,
    *,
    is_ours: bool,
) -> list[SweepEntry]:
    """What follows a session that was interrupted, or that the sweeper stopped."""
    asking = trial.last
    session = next(one for one in reversed(facts.run.sessions) if one.request_id == asking.request_id)
    problem = _not_continued(session, asking, facts)
    if problem is not None and not _is_silent(facts):  # it trained, and what it saved is of another training
        return [_end(spec, trial, facts, session, trained_s, problem, now)]
    interruptions = sum(one.reason.startswith("interrupted") for one in trial.of_rung(asking.rung))
    if not is_ours and interruptions >= _MAX_INTERRUPTIONS:
        return [_end(spec, trial, facts, session, trained_s, f"interrupted {interruptions + 1} times", now)]
    least_s = max(_WORTH_A_SESSION_S, _WORTH_SHARE * asking.timebox_s)
    if left_s < least_s and not asking.is_check:
        return [_end(spec, trial, facts, session, trained_s, problem, now, is_cut=True)]
    is_anew = spec.from_scratch or (asking.rung == 0 and not facts.has_checkpoint and not asking.is_check)
    timebox_s = asking.timebox_s if is_anew or asking.is_check else left_s
    if facts.left_s < min(least_s, timebox_s):
        if trial.repeats is not None:
            problem = problem or "it was interrupted, and no time is left to train it for as long as the others"
        return [_end(spec, trial, facts, session, trained_s, problem, now, is_cut=True)]
    why = "the sweep was stopped" if is_ours else f"interrupted: {session.reason}"
    timebox_s = min(timebox_s, facts.left_s)
    return [_continued(trial, now, why, timebox_s, asking.until_step, is_check=asking.is_check, is_strict=not is_anew)]


def _continued(
    trial: TrialState,
    now: datetime,
    reason: str,
    timebox_s: float,
    until_step: int | None,
    *,
    is_check: bool = False,
    is_strict: bool = True,
) -> RungContinued:
    """Another session of the rung that the trial is in."""
    return RungContinued(
        at=now,
        trial=trial.number,
        rung=trial.last.rung,
        request_id=f"{trial.run_id}-{len(trial.asked)}",
        timebox_s=timebox_s,
        until_step=until_step,
        reason=reason,
        is_check=is_check,
        is_strict=is_strict,
    )


def _end(
    spec: SweepSpec,
    trial: TrialState,
    facts: Facts,
    session: Session,
    trained_s: float,
    problem: str | None,
    now: datetime,
    *,
    is_cut: bool = False,
) -> Ended:
    """is_cut: its session was ended before its time, by nothing that it did."""
    has_failed = session.status is Status.FAILED or (
        session.status is Status.STOPPED and session.stopped_by is StopReason.GOVERNOR
    )
    rung = trial.last.rung
    is_one_session = rung == 0 and len(trial.asked) == 1 and session.status is Status.TIMEBOXED
    ids = {asking.request_id for asking in (trial.of_rung(rung) if spec.from_scratch else trial.asked)}
    numbers = {one.number for one in facts.run.sessions if one.request_id in ids}
    value = value_of([facts.summaries[number] for number in sorted(numbers & facts.summaries.keys())], spec.goal)
    reason = problem
    if has_failed:
        reason = facts.failure or session.reason or f"exit code {session.exit_code}"
    elif problem is None and value is None:
        reason = "its newest value is not finite" if facts.summaries else f"no metric {spec.metric}"
    goes_on = (is_cut or session.status is Status.TIMEBOXED) and problem is None
    return Ended(
        at=now,
        trial=trial.number,
        rung=rung,
        status=Status.FAILED if has_failed else session.status,
        value=None if has_failed or problem is not None else value,
        has_metric=bool(facts.summaries),
        can_resume=goes_on and (spec.from_scratch or facts.has_checkpoint),
        trained_s=trained_s,
        reason=reason,
        start_s=_start_s(facts.summaries.get(session.number)) if is_one_session else None,
        script_sha256=session.script_sha256,
    )


def _start_s(summary: ChunkSummary | None) -> float | None:
    """When a session began to train, about: as long before its first value as the others are apart."""
    if summary is None or summary.total < 2:
        return None
    return max(0.0, summary.first_s - (summary.last_s - summary.first_s) / (summary.total - 1))


def value_of(summaries: Sequence[ChunkSummary], goal: Goal) -> float | None:
    """The best finite value of a metric; None if there is none, or if the newest value is not finite."""
    if not summaries or summaries[-1].last is None or not math.isfinite(summaries[-1].last):
        return None
    found = [one.greatest if goal is Goal.MAX else one.least for one in summaries]
    finite = [value for value in found if value is not None]
    return (max if goal is Goal.MAX else min)(finite, default=None)


def _is_silent(facts: Facts) -> bool:
    """Whether the newest session reported no step after it was offered a checkpoint."""
    return facts.checked is None or facts.checked.last is None


def _not_continued(session: Session, asking: Asking, facts: Facts) -> str | None:
    """Why a session that was to continue from a checkpoint cannot be compared as if it had."""
    if not asking.is_strict:
        return None
    # None: its supervisor was killed, or reads cannot be seen there (macOS, several nodes, no inotify instance left)
    if session.resumed_from is not None or session.is_checkpoint_read is None:
        return _step_problem(session.number, facts)
    option = session.resume_option
    hint = "" if option is None else f" (it has {option.partition('=')[0]}: try --resume-arg {option})"
    return f"it did not read the checkpoint that it was offered, and so started from the beginning{hint}"


def _step_problem(session: int, facts: Facts) -> str | None:
    """Why the steps of a script that read its checkpoint show that it did not continue from it."""
    seen = facts.checked
    if seen is None or seen.last is None:
        return None
    if seen.checkpoint is None:  # it was saved over since
        earlier = [summary for number, summary in facts.summaries.items() if number < session]
        begun_at = min((one.low_step for one in earlier), default=math.inf)
        came_to = max((one.high_step for one in earlier), default=-math.inf)
        if session in facts.summaries and facts.summaries[session].low_step <= begun_at < came_to:
            return f"after it had come to step {came_to:.0f}, it began at step {begun_at:.0f} again"
        return None
    if seen.last <= seen.checkpoint:
        return f"after a checkpoint of step {seen.checkpoint} it came to step {seen.last:.0f} only"
    if seen.first is not None and seen.first < seen.checkpoint:
        return f"after a checkpoint of step {seen.checkpoint} it went on at step {seen.first:.0f}"
    return None


def budget_of(standing: Standing, runs: Mapping[int, Run], total_s: float, now: datetime | None = None) -> Budget:
    """What is spent and promised. runs: of the active trials that have one.

    now: counts what active sessions have used until then as spent; else all of their timeboxes is promised.
    """
    spent_s = committed_s = 0.0
    for trial in standing.trials:
        run = runs.get(trial.number) if trial.is_active else None
        spent_s += max(trial.trained_s, 0.0 if run is None else run_trained_s(run, now))
        if trial.is_active:
            sessions = () if run is None else run.sessions
            used_s = sum(_used_s(one, now) for one in sessions if one.request_id == trial.last.request_id)
            committed_s += max(0.0, trial.last.timebox_s - used_s)
    return Budget(total_s=total_s, spent_s=spent_s, committed_s=committed_s)


def run_trained_s(run: Run, now: datetime | None = None) -> float:
    """Seconds of training of all its sessions. now: with what active ones have used until then."""
    return sum(_used_s(session, now) for session in run.sessions)


def _used_s(session: Session, now: datetime | None) -> float:
    return (session.elapsed_s or 0.0) if now is None else session.trained_s(now)
