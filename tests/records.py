"""A run that tests record, its limits and sessions, and when: for those to which it does not matter which."""

from datetime import datetime, timezone
from typing import Any

from backprop.records import Limits, RunSpec, Session, Status

AT = datetime(2026, 1, 2, tzinfo=timezone.utc)
LIMITS = Limits(timebox_s=600, grace_s=30, min_free_ram_bytes=0, min_free_disk_bytes=0)
SPEC = RunSpec(id="r", command=("python", "train.py"), cwd="/tmp", created_at=AT, host="h", user="me", limits=LIMITS)


def session_record(status: Status, number: int = 1, **more: Any) -> Session:
    """A session of ten minutes. more: other fields of its record."""
    fixed = {"started_at": AT, "timebox_s": 600, "grace_s": 30, "host": "h", "supervisor_pid": 1}
    return Session(number=number, status=status, **{**fixed, **more})
