"""One run in full, for people."""

from datetime import datetime, timedelta, timezone

import msgspec

from backprop.records import Checkpoint, Measure, Run, RunSpec, RunView, Status, Waiter
from backprop.views.terminal.run_details import run_details
from backprop.views.terminal.screen import Screen
from tests.records import LIMITS, session_record

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
SPEC = RunSpec(id="r", command=("python", "x.py"), cwd="/", created_at=AT, host="login", user="u", limits=LIMITS)
SESSION = session_record(Status.TIMEBOXED, started_at=AT, host="node1", supervisor_pid=7, job="33", elapsed_s=600)


def rows(run: Run) -> dict[str, str]:
    """What is said of a run, by its label."""
    view = RunView(run=run, run_dir="/runs/r")
    text = run_details(view, AT + timedelta(minutes=5), lambda _: True, screen=Screen())
    return {label: told.strip() for label, _, told in (line.partition("  ") for line in text.splitlines())}


def test_a_sessions_slurm_job_is_named():
    """With the node that it ran on, so that one can ask Slurm about it."""
    assert "Slurm job 33 on node1" in rows(Run(spec=SPEC, status=Status.TIMEBOXED, latest=(SESSION,)))["session 1"]


def test_a_session_on_several_nodes():
    """The first of them is named, and how many more there are."""
    session = msgspec.structs.replace(SESSION, nodes=4)
    told = rows(Run(spec=SPEC, status=Status.TIMEBOXED, latest=(session,)))["session 1"]
    assert "on node1 and 3 more" in told


def test_a_session_of_a_users_machine_names_no_job():
    """There is none."""
    here = msgspec.structs.replace(SESSION, job=None)
    assert "Slurm" not in rows(Run(spec=SPEC, status=Status.TIMEBOXED, latest=(here,)))["session 1"]


def test_a_waiting_runs_slurm_job_is_named():
    """And for how long it has been waiting."""
    waiter = Waiter(session=2, host="login", supervisor_pid=0, since=AT, job="34")
    told = rows(Run(spec=SPEC, status=Status.QUEUED, latest=(SESSION,), waiter=waiter))
    assert told["session 2"] == "Slurm job 34, queued for 5 min"


def test_the_supervisor_in_a_job_is_named_with_its_node():
    """A process id says little without the machine."""
    going_on = msgspec.structs.replace(SESSION, status=Status.RUNNING, elapsed_s=None, trainer_pid=8)
    told = rows(Run(spec=SPEC, status=Status.RUNNING, latest=(going_on,)))
    assert told["supervisor"] == "process 7, trainer 8, on node1"


def test_no_supervisor_is_named_that_is_gone():
    """In Slurm's line nobody lives; in this machine's line the supervisor does, and its trainer does not."""
    waiting = Run(spec=SPEC, status=Status.QUEUED, latest=(SESSION,))
    waiter = Waiter(session=2, host="login", supervisor_pid=0, since=AT, job="34")
    assert "supervisor" not in rows(msgspec.structs.replace(waiting, waiter=waiter))
    waiter = Waiter(session=2, host="login", supervisor_pid=9, since=AT)
    assert rows(msgspec.structs.replace(waiting, waiter=waiter))["supervisor"] == "process 9"


def test_what_was_kept_and_is_gone_is_not_listed():
    """We removed it when the run had trained as far again. What the script itself has removed is named."""
    paths = ("/gone/last.pt", "/gone/.last.r.before-session-2.pt")
    saved = [Checkpoint(path=path, step=None, session=2, measure=Measure(size_bytes=1, saved_at=AT)) for path in paths]
    view = RunView(
        run=Run(spec=SPEC, status=Status.TIMEBOXED, latest=(SESSION,)), run_dir="/", checkpoints=tuple(saved)
    )
    text = run_details(view, AT, lambda _: True, screen=Screen())
    assert [line for line in text.splitlines() if "/gone" in line] == ["checkpoint  /gone/last.pt  1 B  (missing)"]
