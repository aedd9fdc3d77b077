"""Runs whose trainers have real frameworks: in an environment of their own, where Backprop is not installed.

$FRAMEWORKS_PYTHON is that environment's Python; `make frameworks` makes it and sets this.
"""

import fcntl
import json
import os
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from backprop.records import Source
from backprop.store import query
from backprop.store.index import Index
from backprop.store.output.protocol import digest
from tests.conftest import HANG_S, Runs, wait_for

EXAMPLES = Path(__file__).parents[2] / "examples"


# A script's beginning. The first optimizer of a process imports torch.compile, which takes as long as PyTorch itself.
WITHOUT_COMPILER = """
    import sys, torch, types
    sys.modules["torch._dynamo"] = torch._dynamo = types.SimpleNamespace(
        disable=lambda call, *_, **__: call, graph_break=lambda: None
    )
"""


class FrameworkRuns(Runs):
    """The same, with trainers that have frameworks."""

    python: str

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment["TMPDIR"] = str(folder)  # PyTorch's compiler leaves a cache there
        self.environment["OMP_NUM_THREADS"] = "1"  # the tests share the cores
        self.environment["BACKPROP_GRACE_SECONDS"] = "120"  # whoever answers a stop may take its time

    def bare(self, script: Path | str, *words: object, timeout_s: float = HANG_S) -> str:
        """What a script prints without Backprop."""
        environment = {key: value for key, value in self.environment.items() if not key.startswith("BACKPROP_")}
        done = subprocess.run(
            [self.python, str(script), *map(str, words)],
            cwd=self.work,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def evaluate(self, program: str, *words: object) -> str:
        """What a few lines of Python print in the frameworks' environment."""
        path = self.work / "evaluate.py"
        path.write_text(textwrap.dedent(program))
        return self.bare(path, *words)

    def events(self, run_id: str, session: int = 1) -> str:
        """What our hooks told of a session so far."""
        path = self.rundir(run_id) / f"session-{session}.{Source.EVENTS.value}"
        return path.read_text() if path.exists() else ""

    def wait_for_step(self, run_id: str, step: int, session: int = 1) -> None:
        """Until a session has reported this step, to the instant: what it writes is read, not asked for."""
        paths = [self.rundir(run_id) / f"session-{session}.{source.value}" for source in Source]
        sizes: list[int] = []

        def is_there() -> bool:
            nonlocal sizes
            before, sizes = sizes, [path.stat().st_size if path.exists() else 0 for path in paths]
            # reading it all a hundred times a second takes more of a core than what is waited for
            return sizes != before and any(last_step(path) >= step for path in paths if path.exists())

        wait_for(is_there)

    def stop_here(self, run_id: str) -> None:
        """`backprop stop`, without a step more than is on its way: training stands still until it can hear of it."""
        launched = [entry["pid"] for entry in self.journal(run_id) if entry["event"] == "trainer_launched"]
        psutil.Process(launched[-1]).suspend()  # at once: to look for the others takes longer than some steps
        standing = self.tree()
        for process in standing:
            with suppress(psutil.NoSuchProcess):  # a worker that has ended since
                process.suspend()
        stopping = self.start("stop", run_id)
        control = self.rundir(run_id) / "control.json"
        wait_for(lambda: json.loads(control.read_text())["stop_wanted"])
        for process in standing:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        assert stopping.wait(HANG_S) == 0

    def curve(self, run_id: str, name: str) -> dict[float, float]:
        """Step -> value of a metric; where a step came twice, the last."""
        index = Index(self.home / "index.db", 10.0)
        view = index.get(run_id)
        points = [] if view is None else list(query.points(index, view, name))
        index.close()
        return {float(point.step): point.value for point in points}

    def cut(self, words: Sequence[object], run_id: str, steps: Sequence[int]) -> None:
        """Run to the end, but stopped by `backprop stop` whenever one of these steps is reached, and resumed.

        words: what comes after `backprop run`. The steps must be in order.
        """
        running = self.start("run", "--run-id", run_id, *words)
        for number, step in enumerate(steps, start=1):
            self.wait_for_step(run_id, step, number)
            self.stop_here(run_id)
            assert running.wait(HANG_S) == 0
            document = self.document(run_id)
            assert (document["status"], len(document["sessions"])) == ("stopped", number)
            running = self.start("resume", run_id)
        assert running.wait(HANG_S) == 0, self.rundir(run_id).joinpath(f"session-{len(steps) + 1}.err").read_text()
        assert self.document(run_id)["status"] == "completed"


def assert_first_step_has_total(runs: FrameworkRuns, run_id: str, unit: str) -> None:
    """The first step that was reported came with the total; its unit is the one of this loop."""
    document = runs.document(run_id)
    lines = [json.loads(line) for line in runs.events(run_id).splitlines()]
    first = next(line for line in lines if "step" in line and "event" not in line)
    assert (first["step"], first["total_steps"], document["step_unit"]) == (1, document["total_steps"], unit)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills: once, whichever worker of pytest needs it first."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            made = factory.mktemp(name)
            make(made)
            made.rename(folder)
    return folder


def make_framework_runs(folder: Path) -> FrameworkRuns:
    """A home and a folder to work in, below this one."""
    python = os.environ.get("FRAMEWORKS_PYTHON")
    if python is None:
        pytest.fail("FRAMEWORKS_PYTHON is not set: run these tests by `make frameworks`")
    made = FrameworkRuns(folder)
    made.python = made.environment["BACKPROP_PYTHON"] = python
    return made


def last_step(path: Path) -> int:
    """The last that is in a file of events; -1: none."""
    batch = digest(path.read_bytes())
    return max((step for step in (batch.last_step, batch.counted_step) if step is not None), default=-1)


@pytest.fixture
def framework_runs(tmp_path: Path):
    made = make_framework_runs(tmp_path)
    # torchrun, data loaders and Trainers leave temporary files when they are stopped; the names of their sockets are short
    with tempfile.TemporaryDirectory(prefix="backprop-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        made.environment["TMPDIR"] = temporary
        yield made
        made.clean_up()
