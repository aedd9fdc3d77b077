"""The benchmark of sweeps compares equals: one search space for all tools, and all CPU time of each counted."""

import subprocess
import sys
from pathlib import Path

import pytest
from bench.sweeps.__main__ import tables
from bench.sweeps.tasks import TASKS, Range, option

from backprop.lifecycle.sweep.space import parse_parameters

SPACES = [(name, of) for task in TASKS.values() for name, of in task.space.items()]

# a child that leaves its session and its parent, and works for half a second
DETACHED = """
import os, time
if os.fork() == 0:
    os.setsid()
    while time.process_time() < 0.5:
        pass
"""
# a child that works for a second, and whose end is ignored
IGNORED = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    while time.process_time() < 1:
        pass
    os._exit(0)
try:
    os.wait()
except ChildProcessError:
    pass
"""
MEASURED = """
import sys, time
from contextlib import closing
from pathlib import Path
from bench.sweeps.cpu import Processes, adopt_orphans
adopt_orphans()
with closing(Processes(Path(sys.argv[1]), {})) as processes:
    processes.start([sys.executable, "-c", sys.argv[2]], "detached")
    while processes.spent_s() < float(sys.argv[3]) or not processes.have_ended:
        time.sleep(0.05)
    assert not processes.codes[0]
    processes.start([sys.executable, "-c", "import time; time.sleep(600)"], "sleeper")
assert processes.codes[1] == -9
assert processes.spent_s() < 60
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
@pytest.mark.parametrize(("program", "least_s"), [(DETACHED, 0.5), (IGNORED, 0.8)], ids=["detached", "ignored"])
def test_all_cpu_time_counts(tmp_path: Path, program: str, least_s: float):
    """Of processes that detach themselves, and of those that nobody waits for."""
    words = [sys.executable, "-c", MEASURED, str(tmp_path), program, str(least_s)]
    subprocess.run(words, check=True, timeout=300, cwd=Path(__file__).parents[2])
