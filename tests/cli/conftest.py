"""What the tests of commands share."""

from pathlib import Path

import pytest

from tests.conftest import Runs
from tests.fakes.slurm import make_programs


@pytest.fixture
def programs(runs: Runs, tmp_path: Path) -> Path:
    """The folder of a pretended Slurm's programs, which runs are submitted to."""
    return make_programs(runs, tmp_path / "slurm")
