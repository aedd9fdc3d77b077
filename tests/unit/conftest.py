"""A home with the folder of one run."""

from pathlib import Path

import msgspec
import pytest

from backprop.store.home import Home
from backprop.store.rundir import RunDir
from tests.records import SPEC


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.make()
    return made


@pytest.fixture
def rundir(home: Home) -> RunDir:
    made = home.rundir("r")
    made.path.mkdir()
    made.spec_path.write_bytes(msgspec.json.encode(SPEC))
    made.journal_path.touch()
    return made
