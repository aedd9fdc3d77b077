"""Random faults beside a run that Slurm executes: see tests/chaos."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.timeout(2400)
def test_some_steps_with_a_cluster_find_nothing_and_leave_nothing(tmp_path: Path):
    """The run on Slurm takes part, and the summary says so."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--steps", "100", "--seed", "3", "--slurm"],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "start or resume on Slurm" in done.stdout
    assert "did not take part: Slurm" not in done.stdout
    assert list(tmp_path.glob("backprop-chaos-*")) == []
