"""A run as JSON: the contract of `--json`. Instants are UTC in ISO 8601, durations seconds, sizes bytes."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import msgspec

from backprop.records import (
    Annotations,
    Checkpoint,
    GitState,
    LiveProgress,
    MachineState,
    Origin,
    Run,
    RunView,
    Session,
    Ticket,
    Usage,
)
from backprop.store import checkpoints, metric_names
from backprop.store.experiments_json import MAX_CHECKPOINTS, newest_checkpoints
from backprop.store.output.protocol import json_safe
from backprop.trainer.parameters.secrets import without_secrets

# DEL, the C1 controls, line separators, and bidirectional controls (Unicode, UAX #9)
_CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

MAX_SESSIONS = 100  # in a document that is not whole, the newest

IsValid = Callable[[Checkpoint], bool]


def run_document(view: RunView, now: datetime, is_valid: IsValid, *, is_whole: bool = False) -> dict[str, Any]:
    """Everything known about a run. now: for the time that a running session has taken.

    is_whole: with every checkpoint and session, not only the newest (of the checkpoints, those that still exist).
    """
    run, spec = view.run, view.run.spec
    first = run.sessions[0] if run.sessions else None
    last = run.last_session
    is_valid = checkpoints.without_opening_offered(run, is_valid)
    document = {
        "id": spec.id,
        "name": spec.name,
        "status": run.status,
        "reason": run.reason,
        **annotations_document(view.annotations),
        "command": without_secrets(run.command),
        "cwd": spec.cwd,
        "python": spec.python,
        "created_at": spec.created_at,
        "started_at": first.started_at if first else None,
        "ended_at": run.ended_at,
        "stopped_by": run.stopped_by,
        "elapsed_s": elapsed_s(view, now),
        "timebox_s": last.timebox_s if last else spec.limits.timebox_s,
        "sessions": [
            _session(session, now, view.checkpoints) for session in run.sessions[0 if is_whole else -MAX_SESSIONS :]
        ],
        "session_count": run.session_count,
        "last_step": view.last_step,
        "total_steps": view.total_steps,
        "step_unit": view.step_unit,
        **_live(view.live),
        "metrics": view.metrics,
        "best": {name: best for name in view.summaries if (best := _best(view, name)) is not None},
        "usage": usage_document(view.usage),
        "printed_metrics": _names(view, Origin.PRINTED),
        "tracked_metrics": _names(view, Origin.TRACKED),
        "sampled_metrics": _names(view, Origin.SAMPLED),
        "params": view.params,
        "default_params": sorted(view.default_params),
        "checkpoints": [
            _checkpoint(checkpoint, is_valid=is_valid(checkpoint))
            for checkpoint in newest_checkpoints(
                view.checkpoints, len(view.checkpoints) if is_whole else MAX_CHECKPOINTS
            )
        ],
        "checkpoint_count": len(view.checkpoints),
        "git": git_document(run.code.git),
        "code_notes": run.code.notes,
        "snapshot_of": spec.snapshot_of,
        "request_id": spec.request_id,
        "sweep": None if spec.sweep is None else {"id": spec.sweep.id, "trial": spec.sweep.trial},
        "exit_code": last.exit_code if last else None,
        "host": last.host if last else spec.host,
        "job": run.job,
        "pid": last.supervisor_pid if last else None,
        "run_dir": view.run_dir,
    }
    return {key: json_safe(value) for key, value in document.items()}


def _checkpoint(checkpoint: Checkpoint, *, is_valid: bool) -> dict[str, Any]:
    return {
        "path": checkpoint.path,
        "step": checkpoint.step,
        "session": checkpoint.session,
        "size_bytes": checkpoint.measure.size_bytes,
        "saved_at": checkpoint.measure.saved_at,
        "valid": is_valid,
        "emergency": checkpoint.is_emergency,
        "kept": checkpoint.is_kept,
        "weights_only": checkpoint.is_weights_only,
    }


def usage_document(usage: Usage | None) -> dict[str, Any] | None:
    """What the run used of the machine; None where nothing was measured."""
    if usage is None:
        return None
    return {
        "measured_s": usage.measured_s,
        "energy_wh": usage.energy_wh,
        "peak": usage.peak,
        "mean": usage.mean,
        "last": usage.last,
    }


def annotations_document(told: Annotations) -> dict[str, Any]:
    """What users say about a run."""
    return {
        "group": told.group,
        "tags": told.tags,
        "notes": [{"at": note.at, "by": note.by, "text": note.text} for note in told.notes],
        "parent": told.parent,
        "decision": told.decision,
        "archived": told.is_archived,
    }


def _live(live: LiveProgress | None) -> dict[str, Any]:
    """How a session does that runs or is paused; without one, nothing is known."""
    names = ("last_step_at", "steps_per_s", "remaining_s", "silent_s", "stalled_s")
    known = {name: None if live is None else getattr(live, name) for name in names}
    return {
        **known,
        "remaining_is_estimate": None if live is None or live.remaining_s is None else live.is_estimate,
        "life": None if live is None else live.life,
    }


def git_document(git: GitState | None) -> dict[str, Any] | None:
    """The commit, the branch and whether there were uncommitted changes, for a JSON document; None outside of git."""
    return None if git is None else {"commit": git.commit, "branch": git.branch, "dirty": git.dirty}


def _session(session: Session, now: datetime, reported: Sequence[Checkpoint]) -> dict[str, Any]:
    return {
        "number": session.number,
        "status": session.status,
        "reason": session.reason,
        "started_at": session.started_at,
        "ended_at": session.ended_at,
        "elapsed_s": session.trained_s(now),
        "paused_s": session.paused_s,
        "pauses": session.pauses,
        "exit_code": session.exit_code,
        "stopped_by": session.stopped_by,
        "paused_by": session.paused_by,
        "host": session.host,
        "job": session.job,
        "resume": _resume(session, reported),
        "offered": session.offered,
        "checkpoint_read": session.is_checkpoint_read,
        "resumed_from": session.resumed_from,
        "started_over": session.has_started_over,
        "only_once": without_secrets(session.only_once),
        "training_finished": session.has_finished_training,
        "leftovers": session.leftovers,
        "request_id": session.request_id,
        "git": None if session.code is None else git_document(session.code.git),
        "patch": None if session.code is None else session.code.patch,
        "code_changed": None if session.code is None else session.code.changed,
    }


def _resume(session: Session, reported: Sequence[Checkpoint]) -> dict[str, Any] | None:
    """Whether a session continued; None for a first one that had nothing to continue from."""
    path = session.resumed_from or session.offered
    if path is None and session.number == 1:
        return None
    was_read = session.resumed_from is not None or (session.is_checkpoint_read and not session.has_started_over)
    reason: str | None
    if path is None:
        reason = "there was no valid checkpoint"
    elif session.has_started_over:
        reason = "it trained without reading the checkpoint first"
    elif was_read is None:
        reason = "it is not known whether it read the checkpoint"
    else:
        reason = None if was_read else "it did not read the checkpoint"
    step = next((one.step for one in reversed(reported) if one.path == path), None)
    return {"from": path, "step": step, "was_read": bool(was_read), "reason": reason}


def timeboxes_s(run: Run) -> float:
    """The sum of the timeboxes of all sessions; before the first session, its timebox."""
    return sum(session.timebox_s for session in run.sessions) or run.spec.limits.timebox_s


def elapsed_s(view: RunView, now: datetime) -> float:
    """How long all sessions of a run took, or have taken so far."""
    return sum(session.trained_s(now) for session in view.run.sessions)


def machine_document(snapshot: MachineState) -> dict[str, Any]:
    """The machine, as in `status --json`."""
    fields: Mapping[str, Any] = msgspec.structs.asdict(snapshot)
    return {key: json_safe(value) for key, value in fields.items()}


def ticket_document(ticket: Ticket) -> dict[str, Any]:
    """A run that holds a slot or is queued, as in `status --json`."""
    return {
        "run_id": ticket.run_id,
        "name": ticket.name,
        "pid": ticket.pid,
        "user": ticket.user,
        "since": datetime.fromtimestamp(ticket.since_unix_s, timezone.utc),
        "waits_for": ticket.waits_for,
        "is_away": ticket.is_away,
        "priority": ticket.priority,
        "ram_promised_bytes": ticket.ram_bytes,
        "ram_seen_bytes": ticket.ram_seen_bytes,
        "vram_promised_bytes": ticket.vram_bytes,
        "vram_seen_bytes": ticket.vram_seen_bytes,
    }


def _best(view: RunView, name: str) -> dict[str, Any] | None:
    found = metric_names.best(view, name)
    goal = metric_names.goal(name, view.goals.get(name))
    return None if found is None else {"value": found[0], "step": found[1], "goal": goal}


def _names(view: RunView, origin: Origin) -> list[str]:
    return [name for name, summary in view.summaries.items() if summary.origin is origin]


SHORT = ("id", "name", "status", "reason", "exit_code", "last_step", "stalled_s", "best")  # keys of a run in few words


def encode(document: Any, indent: int = 2) -> str:
    """JSON, in one line with an indent of 0; control characters that a terminal would obey are escaped."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=indent).decode()
    if text.isascii() and "\x7f" not in text:
        return text
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
