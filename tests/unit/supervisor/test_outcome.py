"""How a session ended, as a table."""

import signal
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import pytest

from backprop.errors import ExitCode
from backprop.records import Run, RunSpec, Status, StopReason
from backprop.supervisor import outcome
from tests.records import LIMITS, session_record

AT = datetime(2026, 1, 2, tzinfo=timezone.utc)
TIMEBOX, CTRL_C, USER = StopReason.TIMEBOX, StopReason.CTRL_C, StopReason.USER
KILL, SEGV = -signal.SIGKILL, -signal.SIGSEGV

# trainer's code, who asked -> status, exit code of `backprop`
ENDINGS = [
    (0, None, Status.COMPLETED, 0),
    (3, None, Status.FAILED, 3),
    (KILL, None, Status.FAILED, 137),
    (SEGV, None, Status.FAILED, 139),
    (1, TIMEBOX, Status.TIMEBOXED, 0),
    (-signal.SIGINT, TIMEBOX, Status.TIMEBOXED, 0),
    (-signal.SIGTERM, TIMEBOX, Status.TIMEBOXED, 0),
    (KILL, TIMEBOX, Status.TIMEBOXED, ExitCode.KILLED),
    (0, TIMEBOX, Status.TIMEBOXED, 0),
    (0, CTRL_C, Status.STOPPED, ExitCode.INTERRUPTED),
    (KILL, CTRL_C, Status.STOPPED, ExitCode.KILLED),
    (0, USER, Status.STOPPED, 0),
    (KILL, USER, Status.STOPPED, ExitCode.KILLED),
]


@pytest.mark.parametrize(("code", "stop", "status", "exit_code"), ENDINGS)
def test_status_and_exit_code(code: int, stop: StopReason | None, status: Status, exit_code: int):
    """Who asked decides the status; the exit code tells whether it went gracefully."""
    assert outcome.status(code, stop) is status
    assert exit_code_of(filed(status, outcome.shell_code(code), stop)) == exit_code


def exit_code_of(run: Run) -> int:
    return outcome.exit_code_of(run.status, run.last_session, run.dequeued_by)


def filed(status: Status, exit_code: int | None = None, stopped_by: StopReason | None = None) -> Run:
    """A run that has ended so, as its record tells."""
    session = session_record(status, started_at=AT, exit_code=exit_code, stopped_by=stopped_by)
    limits = LIMITS
    spec = RunSpec(id="r", command=("python",), cwd="/", created_at=AT, host="h", user="me", limits=limits)
    return Run(spec=spec, status=status, latest=() if status is Status.REFUSED else (session,))


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (filed(Status.COMPLETED, 0), ExitCode.OK),
        (filed(Status.FAILED, 3), 3),
        (filed(Status.FAILED), 1),  # an older tool recorded no code
        (filed(Status.REFUSED), ExitCode.REFUSED),
        (filed(Status.INTERRUPTED), ExitCode.KILLED),
        (filed(Status.TIMEBOXED, 130, TIMEBOX), ExitCode.OK),
        (filed(Status.TIMEBOXED, 137, TIMEBOX), ExitCode.KILLED),
        (filed(Status.STOPPED, 130, CTRL_C), ExitCode.INTERRUPTED),
        (filed(Status.STOPPED, 137, CTRL_C), ExitCode.KILLED),
        (filed(Status.STOPPED, 130, USER), ExitCode.OK),
        (filed(Status.STOPPED, None, USER), ExitCode.KILLED),  # with its supervisor, by `stop --now`
        (filed(Status.STOPPED), ExitCode.OK),  # recorded by an older tool
        (msgspec.structs.replace(filed(Status.TIMEBOXED, 130, TIMEBOX), dequeued_by=CTRL_C), ExitCode.INTERRUPTED),
        (msgspec.structs.replace(filed(Status.FAILED, 1), dequeued_by=USER), 1),
        (msgspec.structs.replace(filed(Status.REFUSED), dequeued_by=CTRL_C), ExitCode.INTERRUPTED),
    ],
)
def test_the_exit_code_as_the_record_tells_it(run: Run, expected: int):
    """`backprop wait` exits as the process of the run did."""
    assert exit_code_of(run) == expected


OK, INTERRUPTED = (Status.COMPLETED, 0), (Status.STOPPED, 130)
REFUSED, KILLED = (Status.REFUSED, 75), (Status.TIMEBOXED, 137)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([OK], 0),
        ([OK, INTERRUPTED], 130),
        ([REFUSED, INTERRUPTED], 75),
        ([REFUSED, KILLED], 137),
        ([KILLED, (Status.FAILED, 1), REFUSED], 1),
        ([(Status.FAILED, 1), (Status.FAILED, 3)], 3),
        ([(Status.FAILED, 130), KILLED], 130),  # its own code, whatever that means elsewhere
    ],
)
def test_the_exit_code_of_several_runs(ends: list[tuple[Status, int]], expected: int):
    """A failure's own code tells most, then what had to be killed, what never started, what Ctrl-C ended."""
    assert outcome.worst(ends) == expected
    assert outcome.worst(reversed(ends)) == expected


@pytest.mark.parametrize(
    ("code", "stop", "was_signalled", "is_finished", "is_own_end"),
    [
        (0, TIMEBOX, False, True, True),
        (0, TIMEBOX, False, False, False),  # a script that only listens: it stopped because it was asked
        (0, TIMEBOX, True, True, False),
        (1, TIMEBOX, False, True, False),
        (0, USER, False, True, False),  # whoever asks by name wants to read that it was done
        (0, None, False, True, False),
    ],
)
def test_training_that_had_finished_was_not_stopped(
    code: int, stop: StopReason | None, was_signalled: bool, is_finished: bool, is_own_end: bool
):
    assert outcome.is_own_end(code, stop, was_signalled=was_signalled, is_finished=is_finished) is is_own_end


OOM = "the kernel's out-of-memory killer"
STRUCK, LIMIT = "the kernel killed a process of its tree for going over", "GB of RAM (--ram-limit)"
REASONS = [
    ({"code": 0}, None),
    ({"code": 2}, "exit code 2"),
    ({"code": 2, "last_words": "ValueError: x"}, "exit code 2: ValueError: x"),
    (
        {"code": 1, "last_words": "EOFError: EOF when reading a line"},
        "exit code 1: EOFError: EOF when reading a line (a run's stdin is /dev/null; `backprop run --stdin -` passes yours on)",
    ),
    ({"code": 1, "last_words": "EOFError", "has_stdin": True}, "exit code 1: EOFError"),
    ({"code": 1, "was_oom": None}, "exit code 1"),
    ({"code": 1, "was_oom": True}, f"exit code 1 after {OOM} killed a process of its tree"),
    ({"code": KILL, "was_oom": True}, f"{OOM} killed a process of its tree"),
    ({"code": 1, "asked": "x", "was_oom": True}, f"x; {OOM} killed a process of its tree before it had stopped"),
    ({"code": 0, "was_oom": True}, None),
    ({"code": 1, "asked": "Ctrl-C", "was_oom": None}, "Ctrl-C"),
    ({"code": KILL}, "killed by SIGKILL, which Backprop did not send"),
    (
        {"code": KILL, "was_oom": None},
        f"killed by SIGKILL, which Backprop did not send; {OOM} was active on this machine; which process it killed is unknown",
    ),
    ({"code": SEGV, "was_oom": None}, "killed by SIGSEGV, which Backprop did not send"),
    ({"code": -40}, "killed by signal 40, which Backprop did not send"),
    ({"code": 1, "asked": "Ctrl-C", "last_words": "KeyboardInterrupt"}, "Ctrl-C"),
    ({"code": KILL, "asked": "Ctrl-C", "was_killed": True}, "Ctrl-C; had to be killed"),
    ({"code": 0, "asked": "Ctrl-C", "was_killed": True}, "Ctrl-C"),
    ({"code": KILL, "cgroup_limit_bytes": 3 * 10**9}, f"{STRUCK} 3 {LIMIT}"),
    ({"code": 1, "cgroup_limit_bytes": 3 * 10**9}, f"exit code 1 after {STRUCK} 3 {LIMIT}"),
    (
        {"code": KILL, "asked": "too much", "cgroup_limit_bytes": 3 * 10**9},
        f"too much; {STRUCK} 3 {LIMIT} before it had stopped",
    ),
    ({"code": KILL, "asked": "x", "was_killed": True, "unkillable_pids": [7]}, "x; processes [7] cannot be killed"),
]


@pytest.mark.parametrize(("facts", "expected"), REASONS)
def test_the_reason_in_words(facts: dict, expected: str | None):
    """A stop is told as it was asked; a death as what it was."""
    nothing = {"asked": None, "was_killed": False, "was_oom": False, "unkillable_pids": [], "last_words": ""}
    assert outcome.reason(**{**nothing, **facts}) == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"", ""),
        (b"one\ntwo\n\n  \n", "two"),
        (b"\r 10%\r 90%", "90%"),
        (b"\x1b[31mred\x1b[0m\n", "[31mred[0m"),
        (b"\xff\n", "\ufffd"),
        (b"x" * 10_000, "x" * 200),
    ],
)
def test_the_last_words(tmp_path: Path, text: bytes, line: str):
    """The last line that says something, fit for one line of a terminal."""
    (tmp_path / "err").write_bytes(text)
    assert outcome.last_line(tmp_path / "err") == line


def test_no_file_has_no_last_words(tmp_path: Path):
    """A trainer that was never launched said nothing."""
    assert outcome.last_line(tmp_path / "err") == ""


OF_TWO_NODES = """Traceback (most recent call last):
ValueError: no such data set
srun: error: node2: task 1: Exited with exit code 4
srun: launch/slurm: _step_signal: Terminating StepId=150.0
slurmstepd: error: *** STEP 150.0 ON node1 CANCELLED AT 2026-11-28T02:00:00 ***
srun: error: node1: task 0: Terminated
srun: Force Terminated StepId=150.0
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OF_TWO_NODES, (4, "ValueError: no such data set (task 1 on node2)")),
        ("srun: error: n3: tasks 2-3: Exited with exit code 1\n", (1, "(task 2-3 on n3)")),
        ("srun: error: node1: task 0: Killed\nsrun: error: node2: task 1: Exited with exit code 143\n", None),
        ("srun: error: node1: task 0: Exited with exit code 0\n", None),
        (OF_TWO_NODES + "a victim's words\n" * 1000, (4, "ValueError: no such data set (task 1 on node2)")),
        (OF_TWO_NODES.replace("srun: error", "50%" * 70 + "srun: error"), (4, "50%" * 66 + "50 (task 1 on node2)")),
        ("", None),
    ],
)
def test_the_task_that_failed_first(tmp_path: Path, text: str, expected: tuple[int, str] | None):
    """Its exit code and words, not those of the tasks that were ended because of it."""
    path = tmp_path / "err"
    path.write_text(text)
    assert outcome.first_failed_task(path) == expected


@pytest.mark.parametrize(
    ("text", "has_failed"),
    [
        (OF_TWO_NODES, True),
        ("10%|#   srun: error: n3: tasks 2-3: Exited with exit code 1\n", True),
        ("srun: error: node1: task 0: Killed\n", True),
        ("srun: error: node1: task 0: Segmentation fault (core dumped)\n", True),
        ("srun: sending Ctrl-C to StepId=3.0\nsrun: error: Unable to confirm allocation\n", False),
        ("error: task 3: Exited with exit code 1\n", False),
        ("", False),
    ],
)
def test_whether_a_task_has_failed(text: str, has_failed: bool):
    """What srun says as soon as one has ended badly, whatever of the others' words stands before it."""
    assert outcome.reports_failed_task(text.encode()) is has_failed


FRAMES = 'Traceback (most recent call last):\n  File "x.py", line 3, in <module>\n    f()\n'
RANK = "".join(f"[rank1]: {line}\n" for line in (FRAMES + "ValueError: bad").splitlines())


@pytest.mark.parametrize(
    ("text", "last", "is_last"),
    [
        (FRAMES + "ValueError: bad\n", "ValueError: bad", True),
        ("begins\n" + FRAMES + "ValueError: bad\n\nWaiting for W&B\n", "ValueError: bad", False),
        (" 5%|#  | 1/20 [00:01]" + FRAMES + "ValueError: bad\n", "ValueError: bad", True),
        (FRAMES + "KeyError: 'a'\n\nDuring handling:\n\n" + FRAMES + "ValueError: bad", "ValueError: bad", True),
        (FRAMES + "RuntimeError: CUDA\nit may be asynchronous\n", "it may be asynchronous", True),
        (RANK + FRAMES + "torch.ChildFailedError: train.py FAILED", "ValueError: bad", False),
        (FRAMES + "torch.ChildFailedError: train.py FAILED", "torch.ChildFailedError: train.py FAILED", True),
        (FRAMES, "    f()", True),
    ],
)
def test_the_traceback_in_what_was_written(text: str, last: str, is_last: bool):
    """The last one, without what stands before and after it; of torchrun's ranks one's, as Python wrote it."""
    found = outcome.traceback_in(text)
    assert found is not None
    assert found.lines[:3] == tuple(FRAMES.splitlines())
    assert (found.lines[-1], found.is_last) == (last, is_last)


def test_where_nothing_was_raised_there_is_no_traceback():
    assert outcome.traceback_in("killed\n") is None
    assert outcome.traceback_in("") is None


def test_a_long_traceback_is_cut_in_the_middle():
    """A recursion of a thousand frames: where it began does not matter, what was raised does."""
    found = outcome.traceback_in(FRAMES + "    f()\n" * 2000 + "RecursionError: deep\n")
    assert found is not None
    assert len(found.lines) == 40
    assert found.lines[:2] == ("Traceback (most recent call last):", "  ...")
    assert (found.lines[-1], found.is_last) == ("RecursionError: deep", True)
