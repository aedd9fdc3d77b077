"""One run in full, for people."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime

from backprop.records import Annotations, Checkpoint, CodeState, Run, RunView, in_minutes
from backprop.store import checkpoints, metric_names
from backprop.store.experiments_json import newest_checkpoints
from backprop.trainer.overwrites import kept_names
from backprop.trainer.parameters.secrets import without_secrets
from backprop.views.documents.run_json import IsValid, elapsed_s
from backprop.views.terminal import formatting, usage_text
from backprop.views.terminal.runs_table import Values
from backprop.views.terminal.screen import GAP, Screen, aligned, cells, cut, filled, stdout_screen
from backprop.views.terminal.sparkline import sparkline

_NAME_WIDTH = 28
_SPARKLINE_WIDTH = 16
_MAX_DEFAULTS = 20
_SESSIONS_SHOWN = 10
_KEPT = "kept"
CHECKPOINTS_SHOWN = 5


def run_details(  # noqa: PLR0913  what only the caller knows of the run
    view: RunView,
    now: datetime,
    is_valid: IsValid,
    notified: Sequence[str] = (),
    *,
    curves: Values | None = None,
    superseded: Collection[str] = (),
    is_whole: bool = False,
    failure: Sequence[str] = (),
    screen: Screen | None = None,
) -> str:
    """One run in full.

    notified: outcomes of its notifications, one per line. curves: source of the sparklines. superseded: metrics whose
    best value is in steps that a later session repeated. is_whole: with every checkpoint, session and parameter, not
    only the latest. failure: the lines of its traceback.
    """
    screen = screen or stdout_screen()
    run, spec = view.run, view.run.spec
    rows: list[tuple[str, str]] = [
        ("run", spec.id + (f" ({spec.name})" if spec.name else "")),
        ("status", run.status.value + (f": {run.full_reason}" if run.full_reason else "")),
        ("command", " ".join(without_secrets(run.command))),
        ("folder", spec.cwd),
        ("python", spec.python or "-"),
        ("created", f"{spec.created_at.astimezone():%Y-%m-%d %H:%M:%S} by {spec.user} on {spec.host}"),
        ("time", f"{formatting.duration(elapsed_s(view, now))} in {run.session_count} session(s)"),
    ]
    rows += _annotations(view.annotations)
    rows += _titled("code", _code(run.code))
    if spec.snapshot_of is not None:
        rows.append(("snapshot", f"of {spec.snapshot_of}; its sessions run from the copy"))
    rows += _params(view, max_defaults=len(view.params) if is_whole else _MAX_DEFAULTS)
    rows += _progress(view)
    rows += _titled("metrics", _metrics(view, curves, superseded, screen))
    if view.has_lost_metrics:
        rows.append(("", f"only the first {len(view.summaries):,} metric names are kept"))
    if view.usage is not None:
        rows += _titled("used", usage_text.lines(view.usage))
    if view.note_count:
        rows.append(("notes", str(view.note_count)))
    rows += _sessions(run, now, is_whole=is_whole)
    rows += _titled("traceback", failure)
    rows += _checkpoints(view, is_valid, is_whole=is_whole)
    rows += _processes(run)
    rows += [("notified", line) for line in notified]
    rows.append(("record", view.run_dir))
    return aligned(rows, screen)


def _titled(title: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Lines below one another, the first with a title."""
    return ((title if number == 0 else "", line) for number, line in enumerate(lines))


def _progress(view: RunView) -> Iterator[tuple[str, str]]:
    """How far it has got, and how fast."""
    if view.last_step is not None:
        of = f" of {view.total_steps:,}" if view.total_steps is not None else ""
        unit = formatting.units(view.step_unit, view.total_steps or view.last_step)
        yield "step", f"{view.last_step:,}{of} {formatting.name(unit) if unit else ''}".rstrip()
    if pace := formatting.pace(view.live, view.step_unit):
        yield "pace", ", ".join(pace)
    if life := formatting.life(view.live):
        yield "life", life


def _processes(run: Run) -> Iterator[tuple[str, str]]:
    """Those of a run that is active."""
    last = run.last_session
    if last is not None and not last.status.is_final:
        on = f", on {last.host}" if last.job else ""
        yield "supervisor", f"process {last.supervisor_pid}, trainer {last.trainer_pid or '-'}{on}"
    elif run.waiter is not None and run.waiter.supervisor_pid:  # in Slurm's queue there is no process
        yield "supervisor", f"process {run.waiter.supervisor_pid}"


def _annotations(told: Annotations) -> Iterator[tuple[str, str]]:
    """What users say about it; each note with its date."""
    named = (("group", told.group), ("tags", " ".join(told.tags)), ("parent", told.parent))
    yield from ((label, text) for label, text in named if text)
    if told.decision is not None:
        yield "decision", told.decision.value
    for note in told.notes:
        first, *more = note.text.splitlines() or [""]
        yield "note", f"{note.at.astimezone():%Y-%m-%d %H:%M} {note.by}: {first}"
        yield from (("", line) for line in more)
    if told.is_archived:
        yield "archived", "list shows it only with --filter archived=true"


def _params(view: RunView, max_defaults: int) -> Iterator[tuple[str, str]]:
    """Parameters that were given, and defaults, unless these are too many to be read."""
    defaults = [name for name in view.params if name in view.default_params]
    given = [name for name in view.params if name not in view.default_params]
    for label, names in (("params", given), ("defaults", defaults)):
        if label == "defaults" and len(names) > max_defaults:
            yield label, f"{len(names):,} parameters (--all shows them)"
        elif names:
            yield label, "  ".join(f"{formatting.name(name)}={view.params[name]}" for name in names)


# whether an offered checkpoint was read
_READ = {None: "", False: ", not read", True: ", read after training had begun"}


def _code(code: CodeState) -> Iterator[str]:
    """The code of the last session, and what of it could not be recorded."""
    if code.git is not None:
        state = ", uncommitted changes" if code.git.dirty else ""
        yield f"{(code.git.commit or 'no commit')[:12]} on {code.git.branch or 'no branch'}{state}"
    yield from code.notes


def _sessions(run: Run, now: datetime, *, is_whole: bool) -> Iterator[tuple[str, str]]:
    shown = run.sessions if is_whole else run.sessions[-_SESSIONS_SHOWN:]
    if len(shown) < run.session_count:
        yield "sessions", f"{run.session_count:,}; the latest (--all shows all):"
    for session in shown:
        text = f"{session.status.value}, {formatting.duration(session.trained_s(now))} of "
        text += in_minutes(session.timebox_s)
        if session.job:
            text += f", Slurm job {session.job} on {session.where}"
        if session.resumed_from:
            text += f", resumed from {session.resumed_from}"
        elif session.has_started_over:
            text += f", trained without reading {session.offered}"
        elif session.offered:
            text += f", offered {session.offered}{_READ[session.is_checkpoint_read]}"
        if session.code is not None and session.code.changed:
            text += f", code changed before it: {session.code.changed_in_short}"
        if session.only_once:
            text += f", one-time arguments {' '.join(without_secrets(session.only_once))}"
        if session.reason and session.reason != run.reason:
            text += f": {session.reason}"
        yield f"session {session.number}", text
    if run.dequeued_by is not None and run.sessions:
        yield "queue", f"removed by {run.dequeued_by.label} before session {run.newest_number + 1}"
    if run.waiter is not None and run.waiter.job:
        since = formatting.age(run.waiter.since, now)
        yield f"session {run.waiter.session}", f"Slurm job {run.waiter.job}, queued for {since}"


def _absence(path: str) -> str:
    """A word on a checkpoint that is not there, as far as we can see; empty for one that is."""
    try:
        os.lstat(path)
    except PermissionError:  # in a folder that is closed to us
        return "  (cannot be read)"
    except OSError:
        return "  (missing)"
    return ""


def _checkpoints(view: RunView, is_valid: IsValid, *, is_whole: bool) -> Iterator[tuple[str, str]]:
    is_valid = checkpoints.without_opening_offered(view.run, is_valid)
    shown = newest_checkpoints(view.checkpoints, len(view.checkpoints) if is_whole else CHECKPOINTS_SHOWN)
    if len(shown) < len(view.checkpoints):
        yield "checkpoints", f"{len(view.checkpoints):,}; the latest that exist (--all shows all):"
    for checkpoint in shown:
        step = "" if checkpoint.step is None else f"step {checkpoint.step}, "
        kind, absence = _kind(checkpoint, view.run.spec.id), _absence(checkpoint.path)
        if absence and kind == _KEPT:  # we removed it when the run had trained as far again
            continue
        suffix = absence or ("" if is_valid(checkpoint) else "  (invalid)")
        yield kind, f"{checkpoint.path}  {step}{formatting.size(checkpoint.measure.size_bytes)}{suffix}"


def _kind(checkpoint: Checkpoint, run_id: str) -> str:
    if checkpoint.is_emergency:
        return "emergency"
    if checkpoint.is_kept or kept_names.is_ours(checkpoint.path, run_id):
        return _KEPT
    return "weights" if checkpoint.is_weights_only else "checkpoint"


def _metrics(view: RunView, curves: Values | None, superseded: Collection[str], screen: Screen) -> Iterator[str]:
    """One line per metric: last and best value, a sparkline, and how many values are not finite."""
    summaries = {name: summary for name, summary in view.summaries.items() if not metric_names.is_progress(name)}
    names = {name: cut(formatting.name(name), _NAME_WIDTH, screen.ellipsis) for name in summaries}
    name_width = max(map(cells, names.values()), default=0)
    bests = {name: _best(view, name, superseded) for name in summaries}
    best_width = max(map(len, bests.values()), default=0)
    draws = screen.is_terminal and curves is not None
    for name, summary in summaries.items():
        parts = [
            filled(names[name], name_width),
            f"{formatting.number(summary.last):>9}",
            f"{bests[name]:<{best_width}}",
        ]
        if draws and curves is not None:
            is_constant = summary.least == summary.greatest
            values = [] if is_constant else curves(view, name, _SPARKLINE_WIDTH)
            drawn = sparkline(values, has_blocks=screen.has_blocks)
            parts.append(f"{drawn:<{_SPARKLINE_WIDTH}}")
        if summary.missing:
            parts.append(f"{summary.missing} of {summary.count} not finite")
        yield GAP.join(parts).rstrip()


def _best(view: RunView, name: str, superseded: Collection[str]) -> str:
    found = metric_names.best(view, name)
    if found is None:
        return ""
    again = ", repeated since" if name in superseded else ""
    return f"best {formatting.number(found[0])} at step {found[1]:,}{again}"
