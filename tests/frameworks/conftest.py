"""Runs whose trainers have real frameworks: in an environment of their own, where Backprop is not installed.

$FRAMEWORKS_PYTHON is that environment's Python; `make frameworks` makes it and sets this.
"""

import os
import subprocess
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from backprop.records import Source
from backprop.store.index import Index
from tests.conftest import Runs, wait_for

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE_S = 180.0  # a framework takes its time to be imported on a busy machine


class FrameworkRuns(Runs):
    """The same, with trainers that have frameworks."""

    python: str

    def bare(self, script: Path | str, *words: object, timeout_s: float = PATIENCE_S) -> str:
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

    def wait_for_step(self, run_id: str, step: int) -> None:
        """Until the run has reported this step."""

        path = self.home / "index.db"

        def has_reached() -> bool:
            # not by `backprop status`: asking all the time would take the processor that training needs
            return path.exists() and (self._last_step(path, run_id) or 0) >= step

        wait_for(has_reached, PATIENCE_S)

    def _last_step(self, path: Path, run_id: str) -> int | None:
        index = Index(path, 10.0)
        view = index.get(run_id)
        index.close()
        return None if view is None else view.last_step

    def curve(self, run_id: str, name: str) -> dict[float, float]:
        """Step -> value of a metric; where a step came twice, the last."""
        index = Index(self.home / "index.db", 10.0)
        series = index.curve(run_id, name)
        index.close()
        return dict(zip(series.steps, series.values, strict=True))

    def cut(self, words: Sequence[object], run_id: str, steps: Sequence[int]) -> None:
        """Run to the end, but stopped by `backprop stop` whenever one of these steps is reached, and resumed.

        words: what comes after `backprop run`. The steps must be in order, and each beyond where the run resumes.
        """
        running = self.start("run", "--run-id", run_id, *words)
        for number, step in enumerate(steps, start=1):
            self.wait_for_step(run_id, step)
            assert self.call("stop", run_id, timeout_s=PATIENCE_S).returncode == 0
            assert running.wait(PATIENCE_S) == 0
            document = self.document(run_id)
            assert (document["status"], len(document["sessions"])) == ("stopped", number)
            running = self.start("resume", run_id)
        assert running.wait(PATIENCE_S) == 0, self.rundir(run_id).joinpath(f"session-{len(steps) + 1}.err").read_text()
        assert self.document(run_id)["status"] == "completed"


def make_framework_runs(folder: Path) -> FrameworkRuns:
    """A home and a folder to work in, below this one."""
    python = os.environ.get("FRAMEWORKS_PYTHON")
    if python is None:
        pytest.fail("FRAMEWORKS_PYTHON is not set: run these tests by `make frameworks`")
    made = FrameworkRuns(folder)
    made.python = made.environment["BACKPROP_PYTHON"] = python
    return made


@pytest.fixture
def framework_runs(tmp_path: Path):
    made = make_framework_runs(tmp_path)
    yield made
    made.clean_up()
