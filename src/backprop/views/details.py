"""One run in full, for people."""

import os
from collections.abc import Sequence
from datetime import datetime

from backprop.records import RunView
from backprop.views import human
from backprop.views.document import IsValid, elapsed_s, session_elapsed_s
from backprop.views.screen import aligned


def run_details(view: RunView, now: datetime, is_valid: IsValid, notified: Sequence[str] = ()) -> str:
    """One run in full. notified: lines of what came of its notifications."""
    run, spec = view.run, view.run.spec
    last = run.last_session
    rows: list[tuple[str, str]] = [
        ("run", spec.id + (f" ({spec.name})" if spec.name else "")),
        ("status", run.status.value + (f": {run.reason}" if run.reason else "")),
        ("command", " ".join(spec.command)),
        ("folder", spec.cwd),
        ("python", spec.python or "-"),
        ("created", f"{spec.created_at.astimezone():%Y-%m-%d %H:%M:%S} by {spec.user} on {spec.host}"),
        ("time", f"{human.duration(elapsed_s(view, now))} in {len(run.sessions)} session(s)"),
    ]
    if spec.git is not None:
        state = ", uncommitted changes" if spec.git.dirty else ""
        rows.append(("code", f"{(spec.git.commit or 'no commit')[:12]} on {spec.git.branch or 'no branch'}{state}"))
    if view.params:
        rows.append(("params", "  ".join(f"{name}={value}" for name, value in view.params.items())))
    if view.last_step is not None:
        of = f" of {view.total_steps}" if view.total_steps is not None else ""
        rows.append(("step", f"{view.last_step}{of}"))
    if view.metrics:
        rows.append(("metrics", "  ".join(f"{name}={human.number(value)}" for name, value in view.metrics.items())))
    if view.note_count:
        rows.append(("notes", str(view.note_count)))
    for session in run.sessions:
        told = f"{session.status.value}, {human.duration(session_elapsed_s(session, now))} of "
        told += human.minutes(session.timebox_s)
        if session.resumed_from:
            told += f", from {session.resumed_from}"
        if session.reason and session.reason != run.reason:
            told += f": {session.reason}"
        rows.append((f"session {session.number}", told))
    for checkpoint in view.checkpoints:
        step = "" if checkpoint.step is None else f"step {checkpoint.step}, "
        lost = "" if os.path.lexists(checkpoint.path) else "  (gone)"
        broken = lost or ("" if is_valid(checkpoint) else "  (not whole)")
        kind = "emergency" if checkpoint.is_emergency else "checkpoint"
        rows.append((kind, f"{checkpoint.path}  {step}{human.size(checkpoint.measure.size_bytes)}{broken}"))
    if last is not None and not run.status.is_final:
        rows.append(("supervisor", f"process {last.supervisor_pid}, trainer {last.trainer_pid or '-'}"))
    rows += [("notified", line) for line in notified]
    rows.append(("record", view.run_dir))
    return aligned(rows)
