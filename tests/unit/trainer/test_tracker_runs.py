"""The W&B and MLflow runs of a session, for the next one."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from backprop.trainer import tracker_runs
from backprop.trainer.tracker_runs import MLFLOW, OURS_VARIABLE, WANDB


def begun(folder: Path, session: int, *lines: str) -> None:
    (folder / f"session-{session}.tracker-runs").write_text("".join(f"{line}\n" for line in lines))


def test_the_only_run_of_the_newest_session_that_has_one(tmp_path: Path):
    begun(tmp_path, 1, f"{WANDB} old", f"{MLFLOW} m1")
    begun(tmp_path, 2, f"{WANDB} new", f"{WANDB} new")
    assert tracker_runs.variables(str(tmp_path), 4, {}) == {
        "WANDB_RUN_ID": "new",
        "WANDB_RESUME": "allow",
        "MLFLOW_RUN_ID": "m1",
        OURS_VARIABLE: "WANDB_RUN_ID=new,MLFLOW_RUN_ID=m1",
    }
    assert tracker_runs.variables(str(tmp_path), 1, {}) == {}


def test_of_several_runs_none_is_continued(tmp_path: Path):
    """Nor one of an earlier session."""
    begun(tmp_path, 1, f"{WANDB} a")
    begun(tmp_path, 2, f"{WANDB} b", f"{WANDB} c")
    assert tracker_runs.variables(str(tmp_path), 3, {}) == {}


@pytest.mark.parametrize("name", ["WANDB_RUN_ID", "WANDB_RESUME"])
def test_the_users_own_variables_win(tmp_path: Path, name: str):
    begun(tmp_path, 1, f"{WANDB} a", f"{MLFLOW} m1")
    assert tracker_runs.variables(str(tmp_path), 2, {name: "x"}) == {
        "MLFLOW_RUN_ID": "m1",
        OURS_VARIABLE: "MLFLOW_RUN_ID=m1",
    }


def test_a_run_below_a_trainer_does_not_inherit_them():
    """Unless the script has set something else."""
    ours = {"WANDB_RUN_ID": "a", "WANDB_RESUME": "allow", "MLFLOW_RUN_ID": "m1"}
    marked = {**ours, "PATH": "/bin", OURS_VARIABLE: "WANDB_RUN_ID=a,MLFLOW_RUN_ID=m1"}
    assert tracker_runs.without_ours(marked) == {"PATH": "/bin"}
    assert tracker_runs.without_ours({**marked, "WANDB_RUN_ID": "b"}) == {
        "PATH": "/bin",
        "WANDB_RUN_ID": "b",
        "WANDB_RESUME": "allow",
    }
    assert tracker_runs.without_ours({**ours, "PATH": "/bin"}) == {**ours, "PATH": "/bin"}


def test_a_damaged_record_is_none(tmp_path: Path):
    (tmp_path / "session-1.tracker-runs").write_bytes(b"\xff\n")
    assert tracker_runs.variables(str(tmp_path), 2, {}) == {}
    begun(tmp_path, 1, "", WANDB, f"{WANDB} a b", "OTHER x")
    assert tracker_runs.variables(str(tmp_path), 2, {}) == {}


def test_what_was_handed_over_is_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"WANDB_RUN_ID": "a", "WANDB_RESUME": "allow", OURS_VARIABLE: "WANDB_RUN_ID=a"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tracker_runs, "_withdrawn", {})
    assert [tracker_runs.withdraw(WANDB), tracker_runs.withdraw(WANDB), tracker_runs.withdraw(MLFLOW)] == [
        "a",
        "a",
        None,
    ]
    assert not {"WANDB_RUN_ID", "WANDB_RESUME"} & os.environ.keys()


def test_what_is_no_file_is_neither_followed_nor_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the record of tracker runs belongs: the supervisor reads it before each resume."""
    os.mkfifo(tmp_path / "session-1.tracker-runs")
    assert tracker_runs.variables(str(tmp_path), 2, {}) == {}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(f"{WANDB} a\n")
    (tmp_path / "session-2.tracker-runs").symlink_to(elsewhere)
    assert tracker_runs.variables(str(tmp_path), 3, {}) == {}
    monkeypatch.setattr(tracker_runs, "current", lambda: SimpleNamespace(run_dir=str(tmp_path), session_number=2))
    tracker_runs.remember(WANDB, "b")
    assert elsewhere.read_text() == f"{WANDB} a\n"
