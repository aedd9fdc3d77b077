"""A run that tests record, and when: for those to which it does not matter which."""

from datetime import datetime, timezone

from backprop.records import Limits, RunSpec

AT = datetime(2026, 1, 2, tzinfo=timezone.utc)
SPEC = RunSpec(
    id="r",
    command=("python", "train.py"),
    cwd="/tmp",
    created_at=AT,
    host="h",
    user="me",
    limits=Limits(timebox_s=600, grace_s=30, min_free_ram_bytes=0, min_free_disk_bytes=0),
)
