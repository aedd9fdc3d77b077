"""The runs of a sweep's trials: how they are started, as a user would start them, and what their records say."""

from collections.abc import Callable, Sequence

from backprop.errors import BusyError
from backprop.lifecycle import catalog, indexing, requests
from backprop.lifecycle.sweep.space import option_words
from backprop.lifecycle.sweep.spec import SweepSpec
from backprop.lifecycle.sweep.standing import Asking, Facts, StepsSeen, TrialState
from backprop.records import Run, RunView
from backprop.store import curves
from backprop.store.home import Home
from backprop.store.index import Index, SourceSizes
from backprop.supervisor import outcome


def make(home: Home, spec: SweepSpec, trial: TrialState) -> requests.Called:
    """Make the run of a trial, and start its first session; where both were done before, do nothing."""
    params = [word for name, text in trial.params.items() for word in option_words(name, text)]
    note = () if trial.note is None else ("--note", trial.note)
    seed = () if trial.seed is None or spec.seed_param is None else (f"--{spec.seed_param}", str(trial.seed))
    words = (
        "run", spec.script, "--detach", "--run-id", trial.run_id, "--request-id", trial.last.request_id,
        "--sweep-trial", f"{spec.id}:{trial.number}", "--group", spec.name, "--name", f"{spec.name}-{trial.number}",
        *_limits(trial.last), f"--goal={spec.goal_text}", *note, *spec.run_options,
        "--", *spec.arguments, *seed, *params,
    )  # fmt: skip
    return _call(home, spec, words)


def resume(home: Home, spec: SweepSpec, trial: TrialState) -> requests.Called:
    """Start the session that was asked for last."""
    asking = trial.last
    is_anew = spec.from_scratch and len(trial.asked) > 1
    how = ("--from-scratch",) if is_anew else ("--strict",) if asking.is_strict else ()
    words = (
        "resume", trial.run_id, "--again", "--detach", "--request-id", asking.request_id, *how,
        *_limits(asking), *spec.resume_options,
    )  # fmt: skip
    return _call(home, spec, words)


def _call(home: Home, spec: SweepSpec, words: Sequence[str]) -> requests.Called:
    """Nobody is notified of the end of every rung: `sweep wait` waits for that of the sweep."""
    return requests.call(home, words, spec.cwd, BACKPROP_NOTIFY="[]")


def _limits(asking: Asking) -> tuple[str, ...]:
    """The options that end a session."""
    step = () if asking.until_step is None else ("--until-step", str(asking.until_step))
    return ("--max-run-minutes", f"{asking.timebox_s / 60:.9g}", *step)


def facts(home: Home, index: Index, spec: SweepSpec, trial: TrialState, view: RunView, left_s: float) -> Facts:
    """What the record says of a trial's newest session. left_s: see `Facts`.

    Raises BusyError where the index has not all of its output: what it came to is not known then.
    """
    run_id, session = view.run.spec.id, view.run.last_session
    if not _is_read(home, index, view.run):
        raise BusyError(f"the output of run {run_id} cannot be indexed right now; try again.")
    checked = None
    if session is not None and session.offered is not None:
        earlier = (one for one in view.checkpoints if one.session < session.number)
        steps = {one.path: one.step for one in earlier}  # a path may be saved to again and again
        first, last = curves.step_range(index, run_id, session.number) or (None, None)
        checked = StepsSeen(steps.get(session.offered), first, last)
    return Facts(
        run=view.run,
        summaries=curves.session_summaries(index, run_id, spec.metric, trial.last.until_step),
        has_checkpoint=any(not one.is_emergency and catalog.is_valid(one) for one in view.checkpoints),
        checked=checked,
        failure=_failure(home, view.run),
        left_s=left_s,
    )


def _is_read(home: Home, index: Index, run: Run) -> bool:
    """Whether all output of a run that has ended is in the index: on a full disk, some is not."""
    since = index.whole_before(run.spec.id)
    numbers = [session.number for session in run.sessions_since(since)]
    sizes = SourceSizes(since, home.rundir(run.spec.id).source_sizes(numbers, closed=[]))
    return index.has_output(run.spec.id, sizes)


def look_up(home: Home, index: Index, run_id: str, say: Callable[[str], None]) -> tuple[RunView | None, bool]:
    """A run as it is now, None where there is none; and whether a process holds it.

    Raises BusyError where it cannot be indexed just now.
    """
    rundir = home.rundir(run_id)
    if not rundir.spec_path.exists():
        return None, False
    is_held = indexing.refresh(home, index, rundir, say)
    view = index.get(run_id)
    if view is None and rundir.spec_path.exists():
        raise BusyError(f"run {run_id} cannot be indexed right now; try again.")
    return view, is_held


def _failure(home: Home, run: Run) -> str | None:
    """The last line of the traceback that the newest session left."""
    text = outcome.failure_text(home.rundir(run.spec.id), run.last_session)
    found = outcome.traceback_in(text)
    lines: Sequence[str] = found.lines if found is not None else text.splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
