"""What a trainer finds in its environment, whatever the supervisor was started in."""

import os
from pathlib import Path

import msgspec
import pytest

from backprop.store.rundir import RunDir
from backprop.supervisor.environment import HOOKS_FOLDER, Resumed, for_trainer
from tests.records import LIMITS, SPEC


def variables(folder: Path, resumed: Resumed | None = None, **changes: object) -> dict[str, str]:
    spec = msgspec.structs.replace(SPEC, cwd=str(folder), **changes)
    return for_trainer(spec, RunDir(folder), 2, LIMITS, resumed, None)


def test_a_run_within_a_run_inherits_nothing_of_its_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A trainer may start `backprop run`: that run must not resume from its parent's checkpoint."""
    monkeypatch.setenv("BACKPROP_RESUME_FROM", "/outer.pt")
    monkeypatch.setenv("BACKPROP_RUN_ID", "outer")
    monkeypatch.setenv("BACKPROP_CHECKPOINT_EVERY_S", "60")
    found = variables(tmp_path)
    assert (found["BACKPROP_RUN_ID"], found["BACKPROP_SESSION"]) == ("r", "2")
    assert {"BACKPROP_RESUME_FROM", "BACKPROP_CHECKPOINT_EVERY_S"}.isdisjoint(found)


@pytest.mark.parametrize("hooks", [True, False])
def test_hooks_come_first_on_the_search_path_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hooks: bool
):
    """Those of an outer run do not reach a run without hooks; the user's own entries stay, empty ones included."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HOOKS_FOLDER), "/mine", ""]))
    path = variables(tmp_path, hooks=hooks)["PYTHONPATH"].split(os.pathsep)
    assert path == [*([str(HOOKS_FOLDER)] * hooks), "/mine", ""]


@pytest.mark.parametrize(("step", "text"), [(0, "0"), (7, "7"), (None, None)])
def test_an_unknown_step_is_not_step_0(tmp_path: Path, step: int | None, text: str | None):
    """A checkpoint whose step is not known leaves the variable unset."""
    found = variables(tmp_path, Resumed("/c.pt", step), hooks=False)
    assert (found["BACKPROP_RESUME_FROM"], found.get("BACKPROP_RESUME_STEP")) == ("/c.pt", text)


def test_the_working_folder_keeps_the_name_that_the_shell_gave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """$PWD may have symbolic links in it; one that is another folder, as in a Slurm job, is corrected."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    monkeypatch.setenv("PWD", str(link))
    assert variables(tmp_path)["PWD"] == str(link)
    monkeypatch.setenv("PWD", "/")
    assert variables(tmp_path)["PWD"] == str(tmp_path)


def test_a_snapshot_is_executed_instead_of_the_work_tree(tmp_path: Path):
    """BACKPROP_CODE is the folder whose modules are imported."""
    assert variables(tmp_path, script="/tree/train.py")["BACKPROP_CODE"] == "/tree"
    found = variables(tmp_path, script="/tree/train.py", snapshot_of="/tree")
    assert (found["BACKPROP_CODE"], found["BACKPROP_SNAPSHOT_OF"]) == (str(RunDir(tmp_path).snapshot_path), "/tree")
