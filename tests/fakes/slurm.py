"""Slurm's programs as scripts, for what the real ones rarely do; and what a job would write, written by a test."""

from datetime import datetime, timezone
from pathlib import Path

from backprop.records import Status
from backprop.store.journal.entries import Entry, SessionEnded, SessionStarted
from backprop.store.journal.file import Journal
from tests.conftest import Runs


def make_programs(runs: Runs, folder: Path) -> Path:
    """sbatch submits, scontrol refuses, scancel writes down what it is asked."""
    folder.mkdir()
    runs.environment["PATH"] = f"{folder}:{runs.environment['PATH']}"
    runs.environment["BACKPROP_ON"] = "slurm"
    runs.script("pass")
    put(folder, "sbatch", "echo 7")
    put(folder, "scontrol", "echo 'no controller' >&2; exit 1")
    put(folder, "squeue", "exit 0")
    put(folder, "scancel", f'echo "$*" >> {folder}/cancelled')
    return folder


def put(folder: Path, program: str, text: str) -> None:
    path = folder / program
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def cancelled(folder: Path) -> list[str]:
    return (folder / "cancelled").read_text().splitlines()


# -- in the place of a job


def now() -> datetime:
    return datetime.now(timezone.utc)


def began(session: int) -> SessionStarted:
    return SessionStarted(
        at=now(),
        session=session,
        timebox_s=600.0,
        grace_s=30.0,
        host="node1",
        supervisor_pid=1,
        boot_id=None,
        job="7",
    )


def ended(session: int, status: Status, reason: str | None = None) -> SessionEnded:
    return SessionEnded(at=now(), session=session, status=status, reason=reason, exit_code=0, elapsed_s=600.0)


def tell(runs: Runs, *entries: Entry) -> None:
    """Write into the journal of run r."""
    journal = Journal(runs.rundir("r") / "journal.jsonl")
    assert journal.append(*entries)
    journal.close()
