"""The benchmark of sweeps compares equals: one search space for all tools, and none disturbs the next."""

import subprocess
import sys
from pathlib import Path

import pytest
from bench.sweeps.__main__ import tables
from bench.sweeps.tasks import TASKS, Range, option

from backprop.lifecycle.sweep.space import parse_parameters

SPACES = [(name, of) for task in TASKS.values() for name, of in task.space.items()]

# a child that leaves its session and its parent, and stays
DETACHED = """
import os, pathlib, time
if os.fork() == 0:
    os.setsid()
    pathlib.Path("pid").write_text(str(os.getpid()))
    time.sleep(600)
"""
STARTED = """
import sys, time
from contextlib import closing
from pathlib import Path
import psutil
from bench.sweeps.processes import Processes, adopt_orphans
adopt_orphans()
folder = Path(sys.argv[1])
with closing(Processes(folder, {})) as processes:
    processes.start([sys.executable, "-c", sys.argv[2]], "detached")
    while not processes.have_ended(60) or not (folder / "pid").exists() or not (folder / "pid").read_text():
        time.sleep(0.05)
    pid = int((folder / "pid").read_text())
    assert psutil.pid_exists(pid)
    processes.start([sys.executable, "-c", "import time; time.sleep(600)"], "sleeper")
    assert not processes.have_ended(0.1)
assert not psutil.pid_exists(pid)
with closing(Processes(folder, {})) as processes:
    processes.start([sys.executable, "-c", "import sys; sys.exit('no such thing')"], "wrong")
    try:
        processes.have_ended(60)
    except RuntimeError as error:
        assert "no such thing" in str(error)
    else:
        raise AssertionError
"""


@pytest.mark.parametrize(("name", "of"), SPACES, ids=[name for name, _ in SPACES])
def test_backprop_searches_the_same_space(name: str, of: Range):
    (found,) = parse_parameters([option(name, of)])
    assert (found.name, found.low, found.high) == (name, of.low, of.high)
    assert (found.is_integer, found.is_log, found.choices) == (of.is_integer, of.is_log, ())


def test_the_documentation_shows_the_results():
    """Those that are committed beside the benchmark: `python -m bench.sweeps --table` prints the tables."""
    page = (Path(__file__).parents[2] / "docs" / "contributing" / "benchmarks.md").read_text()
    assert [text for text in tables() if text not in page] == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs sub-reapers")
def test_nothing_is_left_of_a_search(tmp_path: Path):
    """Whatever detached itself is killed; and a tool that failed has found nothing."""
    words = [sys.executable, "-c", STARTED, str(tmp_path), DETACHED]
    subprocess.run(words, check=True, timeout=300, cwd=Path(__file__).parents[2])
