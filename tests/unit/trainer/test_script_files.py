"""Which step a checkpoint is reported with that a script saves by itself."""

import atexit
from pathlib import Path
from types import SimpleNamespace

import pytest

from backprop.trainer.hooks.saved_files.contents import CheckpointContent
from backprop.trainer.hooks.saved_files.script_files import ScriptFiles


def script_files(**steps: object) -> tuple[ScriptFiles, list[int | None]]:
    """The files of a script, and the steps that are reported. steps: what `StepReports` has."""
    told: list[int | None] = []
    counts = SimpleNamespace(**{"count_now": None, "ended_at": None, **steps})
    link = SimpleNamespace(report_checkpoint=lambda _path, step, **_: told.append(step), run_id="r", steps=counts)
    files = ScriptFiles(link)
    atexit.unregister(files._end)
    return files, told


@pytest.mark.parametrize(
    ("name", "step", "epoch", "counted", "earlier", "expected"),
    [
        ("last.pt", 7, 2, 30, 20, 7),
        ("last.pt", None, 2, 30, 20, 30),
        ("last.pt", None, 70, 30, 20, 30),
        ("last.pt", None, 37, 0, 36, 37),  # resumed at 36 epochs, and no optimizer that is counted: the epochs go on
        ("last.pt", None, 3, 0, 300, 300),  # saved again before the first step
        ("last.pt", None, 3, 0, 0, 3),
        ("last.pt", None, 0, 0, 0, 0),
        ("epoch_4.pt", None, None, 30, 0, 30),
        ("epoch_4.pt", None, None, 0, 0, 4),
        ("last.pt", None, None, 0, 0, None),
    ],
)
def test_the_step_of_a_save(
    tmp_path: Path, name: str, step: int | None, epoch: int | None, counted: int, earlier: int, expected: int | None
):
    """The file's own, else what was counted, else what is known of before or the file's epoch, else that in its name."""
    files, told = script_files()
    files.count_steps = lambda: counted
    files.earlier_steps = lambda: earlier
    files.add(str(tmp_path / name), CheckpointContent(is_state=True, step=step, epoch=epoch))
    assert told == [expected]


def test_a_hook_may_count_steps_of_another_kind(tmp_path: Path):
    """Epochs, say: then they are the step of a save, and optimizer steps are not."""
    files, told = script_files(count_now=lambda: 4)
    files.count_steps = lambda: 300
    files.add(str(tmp_path / "last.pt"), CheckpointContent(is_state=True))
    assert told == [4]


def test_after_a_loop_that_a_hook_drove_its_last_step_is_the_step_of_a_save(tmp_path: Path):
    """`model.save` after `fit`, in a session that resumed: not the step of the checkpoint that it resumed from."""
    files, told = script_files(ended_at=225)
    files.earlier_steps = lambda: 91
    files.add(str(tmp_path / "final.keras"), CheckpointContent(is_state=True))
    assert told == [225]
