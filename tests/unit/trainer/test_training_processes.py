"""Which processes train, and whether this one is the only one."""

import os
from pathlib import Path

import pytest

from backprop.trainer import training_processes
from backprop.trainer.training_processes import TrainingProcesses

PARENT = os.getppid()  # a process that is alive


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_processes, "_ALONE_AFTER_S", 0.0)


def test_a_process_registers_once(tmp_path: Path):
    mine = TrainingProcesses(str(tmp_path / "trains"))
    assert not mine.is_alone()  # nobody knows yet that it trains
    assert [mine.register(), mine.register()] == [True, False]
    assert mine.is_alone()
    assert [line.split()[0] for line in (tmp_path / "trains").read_text().splitlines()] == [str(os.getpid())]


@pytest.mark.parametrize(
    ("others", "is_alone"),
    [
        (f"{PARENT} 1\n", False),
        (f"{2**22 + 1} 1\n", True),  # one that has ended: they trained one after the other
        (f"{PARENT}", True),  # half a line: that process is writing it
        ("garbage\n", False),  # not known
    ],
)
def test_others_that_train(tmp_path: Path, others: str, is_alone: bool):
    mine = TrainingProcesses(str(tmp_path / "trains"))
    mine.register()
    with (tmp_path / "trains").open("a") as file:
        file.write(others)
    assert mine.is_alone() is is_alone


def test_processes_that_trained_side_by_side_stay_several(tmp_path: Path):
    """Although the other one has ended meanwhile: what it trained is not in this one's checkpoint."""
    path = tmp_path / "trains"
    mine = TrainingProcesses(str(path))
    path.write_text(f"{PARENT} 1\n")
    mine.register()
    assert not mine.is_alone()
    path.write_text(f"{os.getpid()} 1\n")
    assert not mine.is_alone()


def test_processes_that_have_just_begun_are_not_sure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another one may register in a moment."""
    monkeypatch.setattr(training_processes, "_ALONE_AFTER_S", 1e6)
    mine = TrainingProcesses(str(tmp_path / "trains"))
    mine.register()
    assert not mine.is_alone()
