"""What a script logs to trackers, on its way into the record."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backprop.trainer import tracked as module
from backprop.trainer.failsafe import after
from backprop.trainer.hooks.trackers import wandb
from backprop.trainer.hooks.trackers.rows import add_row
from backprop.trainer.tracked import TrackedMetrics
from tests.conftest import Runs, wait_for
from tests.unit.trainer.links import link_in


class Session:
    """A session whose trainer logs to trackers."""

    def __init__(self, folder: Path, number: int = 1, **environment: str) -> None:
        self.path = folder / f"session-{number}.tracked"
        self.metrics = TrackedMetrics(link_in(folder, number, **environment))

    def lines(self) -> list[dict[str, Any]]:
        """What is written, once all is."""
        self.metrics.write()
        lines = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
        assert all(line.pop("tracked") is True for line in lines)
        return lines


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    made = Session(tmp_path)
    monkeypatch.setattr(module, "_tracked", made.metrics)
    yield made
    made.metrics.write()  # before its folder goes


def test_scalars_of_one_step_share_a_line(session: Session):
    for step in (1, 2):
        session.metrics.add("t", "", "loss", 0.5, step)
        session.metrics.add("t", "", "acc", step, step)
    session.metrics.add("t", "", "acc", float("nan"), 2)
    session.metrics.add("t", "", "image", object(), 2)
    assert str(session.lines()) == str(
        [{"step": 1, "loss": 0.5, "acc": 1}, {"step": 2, "loss": 0.5, "acc": 2}, {"step": 2, "acc": float("nan")}]
    )


def test_what_is_logged_is_soon_in_the_file(session: Session):
    """Without another call, and again after a pause."""
    for step in (1, 2):
        session.metrics.add("t", "", "loss", 0.5, step)
        wait_for(lambda step=step: session.path.exists() and session.path.read_text().count("\n") == step)


def test_what_two_trackers_get_is_recorded_once(session: Session):
    for step in (1, 2):
        session.metrics.add("wandb", "", "loss", 0.5, step)
        session.metrics.add("tensorboard", "runs/a", "loss", 0.5, step)
        session.metrics.add("tensorboard", "runs/a", "acc", 1.0, step)
    assert session.lines() == [{"step": 1, "loss": 0.5, "acc": 1.0}, {"step": 2, "loss": 0.5, "acc": 1.0}]


def test_a_second_writer_is_told_apart_by_its_folder(session: Session):
    session.metrics.add("tensorboard", "runs/train", "loss", 0.5, 1)
    session.metrics.add("tensorboard", "runs/val", "loss", 0.75, 1)
    assert session.lines() == [{"step": 1, "loss": 0.5, "val/loss": 0.75}]


def test_runs_that_are_open_at_once_are_told_apart(session: Session):
    """A run that begins when the one before is over continues its curve, as another training does."""
    for place, value in (("1", 0.5), ("2", 0.75), ("1", 0.25)):
        session.metrics.add("mlflow", place, "loss", value, 1)
    session.metrics.closed("mlflow", "1")
    session.metrics.add("mlflow", "3", "loss", 0.125, 1)
    session.metrics.add("mlflow", "2", "loss", 0.625, 1)
    assert session.lines() == [
        {"step": 1, "loss": 0.5, "2/loss": 0.75},
        {"step": 1, "loss": 0.25},
        {"step": 1, "loss": 0.125, "2/loss": 0.625},
    ]


def test_scalars_without_a_step_are_counted(session: Session):
    """Each name for itself."""
    for value in (0.5, 0.25):
        session.metrics.add("t", "", "loss", value, None)
    session.metrics.add("t", "", "acc", 1.0, None)
    assert session.lines() == [{"step": 0, "loss": 0.5}, {"step": 1, "loss": 0.25}, {"step": 0, "acc": 1.0}]


@pytest.mark.parametrize(("offered", "begin"), [({"BACKPROP_RESUME_FROM": "a.pt"}, 8), ({}, 0)])
def test_counted_steps_go_on_in_a_resumed_session(tmp_path: Path, offered: dict[str, str], begin: int):
    """After those of the session before; not if it starts over. Steps that the script gives stay as they are."""
    first = Session(tmp_path)
    first.metrics.add("t", "", "loss", 0.5, 7)
    assert first.lines() == [{"step": 7, "loss": 0.5}]
    second = Session(tmp_path, 2, **offered)
    second.metrics.add("t", "", "loss", 0.5, None)
    second.metrics.add("t", "", "acc", 0.5, 1, is_shifted=True)
    second.metrics.add("t", "", "acc", 0.5, 2)
    assert second.lines() == [{"step": begin, "loss": 0.5}, {"step": begin + 1, "acc": 0.5}, {"step": 2, "acc": 0.5}]


@pytest.mark.parametrize(("checkpoint", "begin"), [("/a.pt", 2), ("/unknown.pt", 3)])
def test_counted_steps_go_on_from_the_checkpoint(tmp_path: Path, checkpoint: str, begin: int):
    """From the last one before it was saved."""
    first = Session(tmp_path)
    for saved in (None, "/a.pt", None):
        first.metrics.add("t", "", "loss", 0.5, None)
        first.metrics.add("t", "", "acc", 0.5, None)
        if saved is not None:
            first.metrics.saved(saved)
    assert len(first.lines()) == 4
    second = Session(tmp_path, 2, BACKPROP_RESUME_FROM=checkpoint)
    second.metrics.add("t", "", "loss", 0.5, None)
    assert second.lines() == [{"step": begin, "loss": 0.5}]


def test_only_rank_0_writes(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    session.metrics.add("t", "", "loss", 0.5, 1)
    assert session.lines() == []


def test_rank_1_writes_nothing_after_the_process_group_is_gone(session: Session, monkeypatch: pytest.MonkeyPatch):
    """It looks like rank 0 then, unless its launcher has set variables; `mp.spawn` sets none."""
    monkeypatch.setenv("RANK", "1")
    session.metrics.add("t", "", "loss", 0.5, 1)
    monkeypatch.delenv("RANK")
    assert session.lines() == []


def test_a_fork_writes_only_what_it_logs_itself(session: Session):
    """What its parent has not written yet, the parent writes; and the child's own comes without its parent's thread."""
    session.metrics.add("t", "", "loss", 0.5, 1)
    pid = os.fork()
    if pid == 0:
        session.metrics.add("t", "", "loss", 0.5, 2)
        wait_for(lambda: '"step": 2' in session.path.read_text() if session.path.exists() else False)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert sorted(line["step"] for line in session.lines()) == [1, 2]


def test_where_no_thread_can_be_started_little_is_kept(session: Session, monkeypatch: pytest.MonkeyPatch):
    """A limit of threads is no reason to lose scalars, nor to keep all of them in memory."""

    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module.threading.Thread, "start", start)
    monkeypatch.setattr(module, "_MAX_PENDING", 10)
    for step in range(25):
        session.metrics.add("t", "", "loss", 0.5, step)
    assert session.path.read_text().count("\n") == 20
    assert [line["step"] for line in session.lines()] == list(range(25))


@pytest.mark.parametrize("first", ["", 'tracked().add("t", "", "loss", 0.5, 1)'])
def test_what_is_logged_at_exit_is_recorded(runs: Runs, first: str):
    """Such as a last result: whether or not something was logged before."""
    runs.script(
        f"""
        import atexit
        import backprop
        from _backprop_trainer.tracked import tracked

        atexit.register(lambda: tracked().add("t", "", "result", 0.5, 2))
        {first}
        """
    )
    assert runs.call("run", "--run-id", "r", "train.py").returncode == 0
    assert runs.document("r")["metrics"]["result"] == 0.5


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_of_multiprocessing_writes_what_it_logged_last(runs: Runs, method: str):
    """It ends without what others run at exit: torch.multiprocessing.spawn trains in such processes."""
    runs.script(
        f"""
        import multiprocessing
        import backprop

        def train():
            from _backprop_trainer.tracked import tracked
            tracked().add("t", "", "loss", 0.5, 1)

        if __name__ == "__main__":
            worker = multiprocessing.get_context({method!r}).Process(target=train)
            worker.start()
            worker.join()
        """
    )
    assert runs.call("run", "--run-id", "r", "train.py").returncode == 0
    assert runs.document("r")["metrics"] == {"loss": 0.5}


@pytest.mark.parametrize(
    ("data", "words", "expected"),
    [
        (
            {"train": {"loss": 0.5, "deep": {"x": 1}}, "text": "x"},
            {},
            {"step": 3, "train/loss": 0.5, "train/deep/x": 1},
        ),
        ({"loss": 0.5, "train/global_step": 70}, {}, {"step": 70, "loss": 0.5}),
        ({"iter": 8, "loss": 0.5}, {}, {"step": 8, "loss": 0.5}),
        ({"iter": 8, "loss": 0.5}, {"step": 9}, {"step": 9, "iter": 8, "loss": 0.5}),
        ({"iteration": "no number", "loss": 0.5}, {}, {"step": 3, "loss": 0.5}),
    ],
)
def test_dicts(session: Session, data: dict[str, Any], words: dict[str, Any], expected: dict[str, Any]):
    """Nested ones are flattened; the step is the one given, else one in the dict, else the tracker's count."""
    add_row("t", data, words.get("step"), counted=3)
    assert session.lines() == [expected]


@pytest.mark.parametrize("count", ["_local_step", "_step"])
def test_steps_that_wandb_counts(session: Session, count: str):
    """Its older versions call the count otherwise."""
    attributes = {"_starting_step": 0, "id": "a", "log": lambda *_: None, "finish": lambda *_: None}
    module = SimpleNamespace(Run=type("Run", (), attributes))
    wandb.hook(module)
    run = module.Run()
    for number in (1, 2):
        setattr(run, count, number)
        run.log({"loss": 0.5})
    assert session.lines() == [{"step": 0, "loss": 0.5}, {"step": 1, "loss": 0.5}]


def test_a_tap_that_fails_changes_nothing(session: Session, capsys: pytest.CaptureFixture[str]):
    """The function returns what it returned; its own errors reach the script; the user is told once."""
    calls = []

    def tap(*_: object) -> None:
        calls.append(1)
        raise KeyError("x")

    tapped = after(lambda value: 1 / value, tap, "a tap for this test")
    with pytest.raises(ZeroDivisionError):
        tapped(0)
    assert [tapped(2), tapped(4), calls] == [0.5, 0.25, [1]]
    assert capsys.readouterr().err.count("the hook for a tap for this test is off") == 1
