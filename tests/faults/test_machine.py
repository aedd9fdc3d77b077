"""The machine fails: the disk is full, the clock is set back, memory runs out."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import pytest

from backprop.records import StopReason
from backprop.store.journal import Journal, StopAsked, read
from tests.conftest import Runs
from tests.faults.test_kills import check_record

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: run the tests as root")


@pytest.fixture
def small_home(runs: Runs) -> Iterator[Runs]:
    """A home on a file system of 4 MB."""
    runs.home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", runs.home], check=True)
    yield runs
    runs.clean_up()
    subprocess.run(["umount", "--lazy", runs.home], check=True)  # a failed test may hold a file open


def make_room(runs: Runs) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", runs.home], check=True)


FILLING = """
    counter, path = 0, os.environ.get("BACKPROP_RESUME_FROM")
    if path:
        counter = json.load(open(path))["counter"]
    while True:
        counter += 1
        print(json.dumps({"step": counter, "value": counter}), flush=True)
        if counter % 1000 == 0:
            open(f"ckpt-{counter}.json", "w").write(json.dumps({"counter": counter}))
            report = {"event": "checkpoint_saved", "path": f"ckpt-{counter}.json", "step": counter}
            print(json.dumps(report), flush=True)
"""


@needs_root
def test_a_disk_that_fills_up_loses_nothing(small_home: Runs):
    """Every line that reached the file is counted once there is room again, and resume takes the newest checkpoint."""
    runs = small_home
    runs.script(FILLING)
    done = runs.call("run", "train.py", "--run-id", "r", "--grace", "2", timeout_s=120)
    assert done.returncode != 0
    assert runs.tree() == []
    assert len(runs.output("r")) > 500_000
    make_room(runs)
    document = check_record(runs, "r")
    assert document["status"] in {"failed", "interrupted"}
    newest = document["checkpoints"][-1]["path"]
    resumed = runs.call("resume", "r", "-m", "0.01", "--grace", "5")
    assert resumed.returncode == 0, resumed.stderr
    document = check_record(runs, "r")
    assert document["sessions"][1]["resumed_from"] == newest
    assert document["sessions"][1]["status"] == "timeboxed"


@needs_root
def test_a_disk_that_is_full_from_elsewhere_does_not_end_training(small_home: Runs):
    """A trainer that prints little goes on while the home is full; its record is complete when there is room again."""
    runs = small_home
    runs.script(
        """
        with open(os.environ["BACKPROP_HOME"] + "/hog", "wb") as hog:
            try:
                while True:
                    hog.write(b"x" * 4096)
                    hog.flush()
            except OSError:
                pass
            try:
                hog.close()
            except OSError:
                pass
        time.sleep(1.5)
        os.truncate(os.environ["BACKPROP_HOME"] + "/hog", 0)
        print(json.dumps({"step": 8, "value": 1}), flush=True)
        """
    )
    done = runs.call("run", "train.py", "--run-id", "r")
    assert done.returncode == 0, done.stderr
    document = check_record(runs, "r")
    assert (document["status"], document["last_step"]) == ("completed", 8)


@needs_root
def test_a_journal_on_a_full_disk_keeps_its_entries_until_there_is_room(small_home: Runs):
    """Every entry is in the file once and in order afterwards; what was cut short in between swallows none of them."""
    path = small_home.home / "journal.jsonl"
    journal = Journal(path)
    entries = [
        StopAsked(at=datetime.now(timezone.utc), session=number, by=StopReason.USER, detail="x" * 1000)
        for number in range(6000)
    ]
    written = [journal.append(entry) for entry in entries]
    assert written[0] is True
    assert written[-1] is False
    make_room(small_home)
    assert journal.append() is True
    journal.close()
    assert read(path)[0] == entries


@needs_root
def test_a_full_home_is_said_before_anything_is_started(small_home: Runs):
    """One line, exit code 2, no half-made run behind."""
    runs = small_home
    runs.script("open('was-here', 'w')")
    hog = os.open(runs.home / "hog", os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while os.write(hog, b"x" * 4096):
            pass
    os.close(hog)
    done = runs.call("run", "train.py")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Make room" in done.stderr
    assert not (runs.work / "was-here").exists()
    make_room(runs)
    assert json.loads(runs.call("list", "--json").stdout) == []


def test_a_clock_set_back_does_not_move_the_timebox(runs: Runs):
    """The wall clock jumps back an hour in the middle of a session: it ends in time, and its length is the true one."""
    runs.script("print('ready', flush=True)\ntime.sleep(60)")
    program = textwrap.dedent(
        """
        import datetime, sys, time

        started = time.monotonic()

        def wall():
            now = datetime.datetime.now(datetime.timezone.utc)
            return now - datetime.timedelta(hours=1) if time.monotonic() - started > 1 else now

        time.time = lambda: wall().timestamp()
        from backprop import runner
        real = runner.Clock
        runner.Clock = lambda: real(wall=wall)
        sys.argv = ["backprop", "run", "train.py", "--run-id", "r", "-m", "0.04"]
        from backprop.__main__ import main
        main()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=runs.work, env=runs.environment, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = runs.document("r")
    assert document["status"] == "timeboxed"
    assert 2.4 <= document["elapsed_s"] < 20
    assert document["ended_at"] < document["started_at"]  # the record shows what the clock showed


def memory_group() -> Path | None:
    """A memory control group of this test's own, 150 MB large; None where none can be made."""
    for parent, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(parent) / f"backprop-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text("150000000")
        except OSError:
            if group.exists():
                group.rmdir()
            continue
        return group
    return None


@pytest.fixture
def group() -> Iterator[Path]:
    made = memory_group()
    if made is None:
        pytest.skip("no memory control group can be made here")
    yield made
    made.rmdir()


def test_the_kernels_out_of_memory_killer_is_named(runs: Runs, group: Path):
    """A trainer that the kernel kills for want of memory is failed, never completed, and the reason says so."""
    runs.script(
        f"""
        open({str(group / "cgroup.procs")!r}, "w").write(str(os.getpid()))
        hoard = []
        while True:
            hoard.append(bytearray(10_000_000))
        """
    )
    done = runs.call("run", "train.py")
    assert done.returncode == 137
    document = runs.document()
    assert (document["status"], document["reason"]) == ("failed", "killed by the kernel's out-of-memory killer")
