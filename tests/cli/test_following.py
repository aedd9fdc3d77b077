"""Whoever sits before a run on Slurm reads its journal: what it makes of one that a job wrote, or half of it."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import psutil
import pytest

from backprop.records import Pauser, Status
from backprop.store.journal import file as journals
from backprop.store.journal.entries import MessageShown, NotContinued, Paused, Refused, StopRequested, Submitted
from backprop.store.journal.file import Journal
from tests.conftest import HANG_S, Runs, wait_for
from tests.fakes.slurm import began, cancelled, ended, now, put, tell


@pytest.fixture(autouse=True)
def slurm(programs: Path) -> None:
    """One job, 7, that runs."""
    put(programs, "scontrol", "exit 0")
    put(programs, "squeue", "echo '7|RUNNING|node1|AT|None|backprop-r'")


def submitted(runs: Runs, *words: object) -> "subprocess.Popen[bytes]":
    """A front that has handed run r over."""
    before = len(told_submitted(runs))
    front = runs.start(*(words or ("run", "--run-id", "r", "train.py")), stderr=subprocess.PIPE)
    wait_for(lambda: len(told_submitted(runs)) > before)
    return front


def told_submitted(runs: Runs) -> list[dict]:
    path = runs.rundir("r") / "journal.jsonl"
    return [entry for entry in runs.journal("r") if entry["event"] == "submitted"] if path.exists() else []


def said(front: "subprocess.Popen[bytes]", code: int) -> list[str]:
    """What it has said when it has ended, without what it waited for."""
    _, err = front.communicate(timeout=HANG_S)
    assert front.returncode == code, err.decode()
    return [line for line in err.decode().splitlines() if "is Slurm job 7:" not in line]


def is_start(line: str) -> bool:
    return "timebox 10 min" in line and line.endswith("Slurm job 7 on node1")


def test_a_line_that_shows_late(runs: Runs):
    """A shared file system may show a line as zeros at first: the end that it tells is not missed."""
    front = submitted(runs)
    tell(runs, began(1))
    path, elsewhere = runs.rundir("r") / "journal.jsonl", Journal(runs.work / "journal.jsonl")
    elsewhere.append(ended(1, Status.COMPLETED))
    elsewhere.close()
    line = (runs.work / "journal.jsonl").read_bytes()
    place = path.stat().st_size
    with path.open("ab") as journal:
        journal.write(b"\0" * (len(line) - 1) + b"\n")
    tell(runs, MessageShown(at=now(), text="the last words"))
    assert front.stderr is not None
    while b"the last words" not in front.stderr.readline():
        assert front.poll() is None
    with path.open("r+b") as journal:
        journal.seek(place)
        journal.write(line)
    assert any("run r completed" in line for line in said(front, 0))


def test_an_end_that_is_told_twice(runs: Runs):
    """By somebody who took it for lost, and by itself: the first counts, and the user reads of one."""
    front = submitted(runs)
    tell(runs, began(1), ended(1, Status.COMPLETED), ended(1, Status.COMPLETED, "again"))
    start, end = said(front, 0)
    assert is_start(start)
    assert "run r completed" in end


def test_a_job_that_is_slow_between_two_sessions(runs: Runs, programs: Path):
    """As long as Slurm has the job, the next session is waited for, however late the job says that one follows."""
    asked = programs / "asked"
    put(programs, "squeue", f"echo >> {asked}; echo '7|RUNNING|node1|AT|None|backprop-r'")
    front = runs.start_patched(
        "from backprop.cli.slurm import follow; follow._AFTER_THE_END_S = 0.1",
        "run", "--sessions", "2", "--run-id", "r", "train.py",
        stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(lambda: told_submitted(runs))
    tell(runs, began(1), ended(1, Status.TIMEBOXED))
    before = len(asked.read_text()) if asked.exists() else 0
    wait_for(lambda: front.poll() is not None or (asked.exists() and len(asked.read_text()) > before + 1))
    tell(runs, began(2), ended(2, Status.COMPLETED))
    assert any("run r completed" in line for line in said(front, 0))


_DUE = {
    "refused": (Refused(at=now(), reason="no room", figures={}), "run r is not continued: no room"),
    "its job died": (
        Refused(at=now(), reason="FAILED", figures={}, is_presumed=True),
        "run r is not continued: FAILED",
    ),
    "not requeued": (NotContinued(at=now(), reason="not requeued: no"), "run r: not requeued: no"),
}


@pytest.mark.parametrize("kind", _DUE)
def test_a_session_that_was_due_and_never_started(runs: Runs, programs: Path, kind: str):
    """Whoever asked for it is told why: once, also where its supervisor has."""
    entry, words = _DUE[kind]
    put(
        programs,
        "squeue",
        f'test -e {programs}/dead && state=FAILED || state=RUNNING; echo "7|$state|node1|AT|None|backprop-r"',
    )
    patch = "from backprop.cli.slurm import follow; follow._AFTER_THE_END_S = 0.1"
    front = runs.start_patched(patch, "run", "--sessions", "2", "--run-id", "r", "train.py", stderr=subprocess.PIPE)
    wait_for(lambda: told_submitted(runs))
    tell(runs, began(1), ended(1, Status.TIMEBOXED), entry)
    (programs / "dead").touch()
    assert said(front, 0)[-1] == f"backprop: {words}"
    (programs / "dead").unlink()
    front = submitted(runs, "resume", "r", "--sessions", "2")
    tell(runs, began(2), ended(2, Status.TIMEBOXED), entry, MessageShown(at=now(), text=words))
    (programs / "dead").touch()
    assert said(front, 0).count(f"backprop: {words}") == 1


def tell_of_another_session(runs: Runs) -> None:
    """The job has put itself back for a second one."""
    submission = next(e for e in journals.read(runs.rundir("r") / "journal.jsonl")[0] if isinstance(e, Submitted))
    tell(runs, msgspec.structs.replace(submission, at=now(), session=2, is_again=True, reason="session 2 of 2 queued"))


def test_a_session_that_slurm_can_never_place(runs: Runs, programs: Path):
    """Another has run before it: then it is not the run that was not started."""
    put(
        programs,
        "squeue",
        f"state=$(test -e {programs}/cancelled && echo CANCELLED || cat {programs}/state || echo RUNNING)\n"
        'echo "7|$state||AT|PartitionTimeLimit|backprop-r"',
    )
    put(programs, "scancel", f": > {programs}/cancelled")
    front = submitted(runs, "run", "--sessions", "2", "--run-id", "r", "train.py")
    tell(runs, began(1), ended(1, Status.TIMEBOXED))
    (programs / "state").write_text("PENDING")
    tell_of_another_session(runs)
    words = "run r is not continued: Slurm can never schedule it: PartitionTimeLimit"
    assert said(front, 0)[-1] == f"backprop: {words}"  # with the code of its last session, as where no Slurm is


def slow_refusal(programs: Path) -> tuple[Path, Path]:
    """Slurm can never place the job: `squeue` creates `asked` when it is called, and answers once `answer` exists."""
    asked, answer = programs / "asked", programs / "answer"
    put(
        programs,
        "squeue",
        f"state=$(test -e {programs}/cancelled && echo CANCELLED || echo PENDING); : > {asked}\n"
        f'until test -e {answer}; do sleep 0.05; done; echo "7|$state||AT|PartitionTimeLimit|backprop-r"',
    )
    put(programs, "scancel", f": > {programs}/cancelled")
    return asked, answer


def test_a_session_that_is_over_before_slurm_answers(runs: Runs, programs: Path):
    """It is shown, though nobody had looked since it began when Slurm said that none can follow."""
    asked, answer = slow_refusal(programs)
    front = submitted(runs, "run", "--sessions", "2", "--run-id", "r", "train.py")
    wait_for(asked.exists)
    tell(runs, began(1), ended(1, Status.TIMEBOXED))
    tell_of_another_session(runs)
    answer.touch()
    start, *_, reason = said(front, 0)
    assert is_start(start)
    assert reason == "backprop: run r is not continued: Slurm can never schedule it: PartitionTimeLimit"


def test_a_detached_run_whose_first_session_is_over_before_slurm_answers(runs: Runs, programs: Path):
    """A run that has trained was started, also if Slurm can place no further session."""
    asked, answer = slow_refusal(programs)
    front = submitted(runs, "run", "-d", "--sessions", "2", "--run-id", "r", "train.py")
    wait_for(asked.exists)
    tell(runs, began(1), ended(1, Status.TIMEBOXED))
    tell_of_another_session(runs)
    answer.touch()
    (words,) = said(front, 0)
    assert words == "backprop: run r is Slurm job 7 · follow with: backprop logs r -f"


def test_words_before_the_trainer(runs: Runs):
    """What the supervisor says when it begins comes after that it begins, also where there is no output yet."""
    front = submitted(runs)
    tell(runs, began(1), MessageShown(at=now(), text="the governor is blind"), ended(1, Status.COMPLETED))
    start, words, end = said(front, 0)
    assert is_start(start)
    assert words == "backprop: the governor is blind"
    assert "run r completed" in end


def test_a_job_id_that_comes_again(runs: Runs):
    """A controller that lost its state counts anew: what the run did in that job once is not shown again."""
    earlier = submitted(runs)
    tell(runs, began(1), ended(1, Status.TIMEBOXED))
    said(earlier, 0)
    front = submitted(runs, "resume", "r")
    tell(runs, Refused(at=now(), reason="no room", figures={}))
    lines = said(front, 75)
    assert lines[-1] == "backprop: run r was not started: no room"
    assert not any(is_start(line) or "timeboxed" in line for line in lines)


@pytest.fixture
def unplaced(programs: Path) -> Path:
    """What is submitted waits, and Slurm does not say why, until it is cancelled. It does not answer while there is `held`."""
    put(programs, "sbatch", f'echo "$*" | grep -o "backprop-[^ ]*" | head -n 1 > {programs}/name; echo 7')
    put(
        programs,
        "squeue",
        f"test -e {programs}/cancelled && state=CANCELLED || state=PENDING; : > {programs}/asked\n"
        f"while test -e {programs}/held; do sleep 0.05; done\n"
        f'for job in 7 7_0 7_1 7_2; do echo "$job|$state||AT|None|$(cat {programs}/name)"; done',
    )
    return programs


@contextmanager
def unanswered(unplaced: Path) -> Iterator[None]:
    """Whoever looks meanwhile whether Slurm can place a run goes on looking."""
    (unplaced / "held").touch()
    yield
    (unplaced / "held").unlink()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("more", [("-d",), ("--vary", "n=1,2")], ids=["detached", "array"])
def test_ctrl_c_just_after_it_was_submitted(runs: Runs, unplaced: Path, more: tuple[str, ...], number: signal.Signals):
    """While it is looked whether Slurm can place it at all: it leaves the line, 130."""
    with unanswered(unplaced):
        front = runs.start("run", *more, "train.py", stderr=subprocess.PIPE)
        wait_for((unplaced / "asked").exists)
        front.send_signal(number)
    _, err = front.communicate(timeout=HANG_S)
    assert front.returncode == 130, err.decode()
    assert "--state=PENDING 7" in cancelled(unplaced)


def test_slurm_is_not_asked_without_a_rest(runs: Runs, unplaced: Path):
    """While it is looked whether a run can be placed: as often as once in a quarter of a second."""
    squeue = (unplaced / "squeue").read_text().removeprefix("#!/bin/sh\n")
    put(unplaced, "squeue", f"echo x >> {unplaced}/looks\n{squeue}")
    assert runs.call("run", "-d", "train.py").returncode == 0
    assert (unplaced / "looks").read_text().count("x") <= 3.0 / 0.25 + 3


def test_ctrl_c_again_while_an_array_is_taken_back(runs: Runs, unplaced: Path):
    """It is taken back all the same."""
    put(unplaced, "scancel", f'until test -e {unplaced}/go; do sleep 0.05; done; echo "$*" >> {unplaced}/cancelled')
    with unanswered(unplaced):
        front = runs.start("run", "--vary", "n=1,2,3", "train.py", stderr=subprocess.PIPE)
        wait_for((unplaced / "asked").exists)
        front.send_signal(signal.SIGINT)
    wait_for(lambda: any("scancel" in " ".join(command) for command in commands_below(front)))
    front.send_signal(signal.SIGINT)
    (unplaced / "go").touch()
    _, err = front.communicate(timeout=HANG_S)
    assert front.returncode == 130, err.decode()
    assert "3 runs were asked to stop" in err.decode()
    assert "--state=PENDING 7" in cancelled(unplaced)


def commands_below(front: "subprocess.Popen[bytes]") -> list[list[str]]:
    """What its children that live execute."""
    found = []
    for child in psutil.Process(front.pid).children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found.append(child.cmdline())
    return found


def test_ctrl_c_for_an_array_while_slurm_does_not_answer(runs: Runs, unplaced: Path):
    """It is asked once, not for each run, and said so once; the runs hear of the request when they begin."""
    put(unplaced, "scancel", f"echo x >> {unplaced}/calls; echo 'scancel: error: no controller' >&2; exit 1")
    with unanswered(unplaced):
        front = runs.start("run", "--vary", "n=1,2,3", "train.py", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for((unplaced / "asked").exists)
        front.send_signal(signal.SIGINT)
    out, err = front.communicate(timeout=HANG_S)
    assert front.returncode == 130, err.decode()
    assert (unplaced / "calls").read_text() == "x\n"
    assert err.decode().count("no controller") == 1
    for run_id in out.decode().split():
        journal = runs.rundir(run_id) / "journal.jsonl"
        asked = [*journals.read(journal)[0], *journals.pending_requests(journal)]
        assert [entry.detail.split(" by ")[0] for entry in asked if isinstance(entry, StopRequested)] == ["`Ctrl-C`"]


def test_a_stop_of_a_job_that_was_suspended_and_put_back(runs: Runs, unplaced: Path):
    """Its journal still calls it suspended, its node being gone: it is taken out of the line like any other."""
    assert runs.call("run", "--run-id", "r", "-d", "train.py").returncode == 0
    tell(runs, began(1), Paused(at=now(), session=1, reason="suspended by Slurm", by=(Pauser.SLURM,)))
    stopped = runs.call("stop", "r")
    assert stopped.returncode == 0, stopped.stderr
    assert "--state=PENDING 7" in cancelled(unplaced)
    assert runs.document("r")["status"] == "interrupted"
