"""What a script prints for people becomes a source of its own, with a step for each line."""

import json
from pathlib import Path

import pytest

from backprop.records import Source
from backprop.store.output import printed_metrics
from backprop.store.output.outlook import Outlook
from backprop.store.output.printed_metrics import PrintedMetrics
from backprop.store.rundir import RunDir
from tests.conftest import HANG_S


class Session:
    """A session whose trainer prints."""

    def __init__(self, folder: Path, number: int = 1, offered: str | None = None) -> None:
        self.rundir, self.number = RunDir(folder), number
        self.outlook = Outlook()
        self.metrics = PrintedMetrics(self.rundir, number, (), self.outlook, offered=offered)

    def prints(self, text: str, *, on_stderr: bool = False) -> None:
        path = self.rundir.err_path(self.number) if on_stderr else self.rundir.out_path(self.number)
        with path.open("a") as file:
            file.write(text)

    def recorded(self) -> list[tuple[int, float]]:
        path = self.rundir.source_path(self.number, Source.PRINTED)
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self.units = [line["unit"] for line in lines if line.get("event") == "unit"]
        lines = [line for line in lines if "event" not in line and "checkpoint" not in line]
        assert all(line["printed"] is True for line in lines)
        return [(line["step"], line["loss"]) for line in lines]


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes as long as it takes."""
    monkeypatch.setattr(printed_metrics, "_LOOK_S", HANG_S)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


def test_the_step_on_the_line(session: Session):
    """On stdout or stderr, and whatever is counted."""
    session.prints("step 10 loss: 0.5\nstep 20 loss")
    session.prints("step 15 loss: 0.4\n", on_stderr=True)
    session.metrics.look(1000)
    session.prints(": 0.25\n")
    session.metrics.look(1000)
    assert session.recorded() == [(10, 0.5), (15, 0.4), (20, 0.25)]


def test_the_unit_comes_once_before_its_first_step(session: Session):
    session.prints("iter 1: loss 0.5\niter 2: loss 0.4\n")
    session.metrics.look(None)
    lines = session.rundir.source_path(1, Source.PRINTED).read_text().splitlines()
    assert json.loads(lines[0]) == {"event": "unit", "unit": "iteration"}
    assert [json.loads(line)["step"] for line in lines[1:]] == [1, 2]


def test_lines_without_a_step_are_counted_where_nobody_counts_steps(session: Session):
    session.prints("loss: 0.5\nloss: 0.4\nbla\nloss: 0.3\n")
    session.metrics.look(None)
    assert session.recorded() == [(1, 0.5), (2, 0.4), (3, 0.3)]
    assert session.units == ["printed line"]


def test_lines_that_say_their_step_are_not_counted_as_lines(session: Session):
    """Also where others before them said none."""
    session.prints("loss: 0.5\n")
    session.metrics.look(None)
    session.prints("step 20 loss: 0.4\nloss: 0.3\n")
    session.metrics.look(None)
    assert session.recorded() == [(1, 0.5), (20, 0.4), (21, 0.3)]
    assert session.units == ["printed line", "step"]


def test_lines_without_a_step_are_placed_between_two_counts(session: Session):
    """They wait until the optimizer has made more steps, which is told once a second."""
    session.prints("loss: 0.5\n")
    session.metrics.look(10)
    session.prints("loss: 0.4\nloss: 0.3\n")
    session.metrics.look(10)
    assert session.recorded() == [(10, 0.5)]
    session.metrics.look(30)
    assert session.recorded() == [(10, 0.5), (20, 0.4), (30, 0.3)]


def test_a_line_does_not_wait_for_steps_that_do_not_come(session: Session, monkeypatch: pytest.MonkeyPatch):
    session.prints("loss: 0.5\n")
    session.metrics.look(10)
    session.prints("loss: 0.4\n")
    session.metrics.look(10)
    monkeypatch.setattr(printed_metrics, "_PATIENCE_S", 0.0)
    session.metrics.look(10)
    assert session.recorded() == [(10, 0.5), (10, 0.4)]


def test_a_progress_bar_is_read_while_it_grows(session: Session, monkeypatch: pytest.MonkeyPatch):
    """Its line has no end yet. How far it is, and the loss behind it; once for each state that is seen."""
    monkeypatch.setattr(printed_metrics, "_BAR_EVERY_S", 0.0)
    session.outlook.bar_began(1000, has_optimizer=False)
    for step in (100, 200, 200):
        bar = f"\r {step // 10}%|██    | {step}/1000 [00:10<01:20, 11.00it/s, loss={step / 1000}]"
        session.outlook.read(bar.encode(), 0.0, None)
        session.prints(bar, on_stderr=True)
        session.metrics.look(None)
        session.metrics.look(None)
    assert session.recorded() == [(100, 0.1), (200, 0.2), (200, 0.2)]
    line = session.rundir.source_path(1, Source.PRINTED).read_text().splitlines()[-1]
    assert json.loads(line)["total_steps"] == 1000


def test_a_bar_that_was_seen_running_is_read_to_its_end(session: Session, monkeypatch: pytest.MonkeyPatch):
    """One that is full when it is first seen, of a preparation, says nothing."""
    monkeypatch.setattr(printed_metrics, "_BAR_EVERY_S", 0.0)
    path = session.rundir.source_path(1, Source.PRINTED)
    session.prints("\r100%|████| 321/321 [00:10<00:00, 11.00it/s]\n", on_stderr=True)
    session.metrics.look(None)
    assert not path.exists()
    session.prints("\r 90%|███ | 900/1000 [00:10<00:01, 11.00it/s]", on_stderr=True)
    session.metrics.look(None)
    session.prints("\r100%|████| 1000/1000 [00:11<00:00, 11.00it/s]\n", on_stderr=True)
    session.metrics.look(None)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [900, 1000]


def test_the_bar_of_an_epoch_gives_no_step_of_the_training(session: Session, monkeypatch: pytest.MonkeyPatch):
    """Where the script has one of all of it. Its metrics are placed as those of a line without a step."""
    monkeypatch.setattr(printed_metrics, "_BAR_EVERY_S", 0.0)
    session.outlook.bar_began(10, has_optimizer=False)
    session.prints("\r 10%|█    | 50/500 [00:10<01:20, 11.00it/s, loss=0.5]", on_stderr=True)
    session.metrics.look(None)
    assert session.recorded() == [(1, 0.5)]
    assert '"total_steps"' not in session.rundir.source_path(1, Source.PRINTED).read_text()


def test_a_total_that_changes_is_replaced(session: Session):
    """It is never that of other steps: early stopping, or more epochs than planned."""
    for text in ("step 1/40 loss: 0.5\n", "step 2/60 loss: 0.4\n"):
        session.outlook.read(text.encode(), 0.0, None)
        session.prints(text)
        session.metrics.look(None)
    lines = session.rundir.source_path(1, Source.PRINTED).read_text().splitlines()
    assert [json.loads(line)["total_steps"] for line in lines] == [40, 60]


def test_what_is_reported_on_stdout_is_not_read_as_printed(session: Session):
    """Nor what is printed from there on, whoever has stored the report; on stderr nothing is a report."""
    session.prints('{"step": 1, "loss": 0.5}\n', on_stderr=True)
    session.metrics.look(None)
    assert session.recorded() == [(1, 0.5)]
    session.prints('{"step": 2, "loss": 0.25}\n')
    session.metrics.look(None)
    session.prints("step 3 loss: 0.125\n")
    session.metrics.look(None, is_over=True)
    assert session.recorded() == [(1, 0.5)]


def test_a_look_at_very_much_takes_little_time(session: Session, monkeypatch: pytest.MonkeyPatch):
    """The next one goes on where it stopped; at the end it is known whether something is left."""
    monkeypatch.setattr(printed_metrics, "_LOOK_S", -1.0)
    session.prints("loss: 3\nx\nloss: 2\nloss: 1\nloss: 0")
    for _ in range(2):
        session.metrics.look(None)
    assert session.recorded() == [(1, 3), (2, 2)]
    session.metrics.look(None, is_over=True, within_s=-1.0)
    assert session.metrics.has_unread
    session.metrics.look(None, is_over=True)
    assert session.recorded() == [(1, 3), (2, 2), (3, 1), (4, 0)]
    assert not session.metrics.has_unread


def test_at_the_end_all_is_read(session: Session):
    """What the looks so far have not come to, and a last line without an end."""
    session.prints("loss: 0.5\n")
    session.metrics.look(10)
    session.prints("text without metrics\n" * 100_000 + "loss: 0.4\nloss: 0.3")
    session.metrics.look(10, is_over=True, within_s=HANG_S)
    assert session.recorded() == [(10, 0.5), (10, 0.4), (10, 0.3)]


@pytest.mark.parametrize(("offered", "step"), [("/a.pt", 2), ("/b.pt", 4), ("/unknown.pt", 5), (None, 1)])
def test_a_resumed_session_counts_on_from_its_checkpoint(tmp_path: Path, offered: str | None, step: int):
    """From where it was saved last, in whatever session that was; from the last line if it is not known."""
    first = Session(tmp_path)
    for saved in (["/a.pt", "/b.pt"], [], ["/b.pt"], []):
        first.prints("loss: 0.5\n")
        first.metrics.look(None)
        for checkpoint in saved:
            first.metrics.note_saved(checkpoint, None)
    session = Session(tmp_path, 3, offered)
    session.prints("loss: 0.3\n")
    session.metrics.look(None)
    assert session.recorded() == [(step, 0.3)]


def test_a_resumed_session_is_placed_by_the_optimizers_count(tmp_path: Path):
    """Which goes on from the checkpoint, and not from the last step of the session before."""
    first = Session(tmp_path)
    for counted in (30, 50):
        first.prints("loss: 0.5\n")
        first.metrics.look(counted)
        if counted == 30:
            first.metrics.note_saved("/a.pt", counted)
    session = Session(tmp_path, 2, "/a.pt")
    session.prints("loss: 0.3\n")
    session.metrics.look(35)
    assert session.recorded() == [(35, 0.3)]


def test_one_printed_loss_does_not_replace_the_sampled_curve(session: Session):
    """Two of one name are a curve; then the first is there as well. Other metrics do not wait."""
    session.prints("step 10 loss: 0.5 acc: 0.75\nstep 20 other_loss: 3.5\n")
    session.metrics.look(100, sampled=["loss"])
    path = session.rundir.source_path(1, Source.PRINTED)
    assert '"loss"' not in path.read_text()
    assert '"acc": 0.75' in path.read_text()
    session.prints("step 30 loss: 0.25\nstep 40 loss: 0.125\n")
    session.metrics.look(100, sampled=["loss"])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines if "loss" in line] == [(10, 0.5), (30, 0.25), (40, 0.125)]


def test_a_first_loss_waits_until_it_is_known_whether_it_is_sampled(session: Session):
    """For one look, in which all that was reported before it is read; or until nothing more is printed."""
    session.prints("step 10 loss: 0.5\n")
    seen = []
    for is_behind in (False, True, False):
        session.metrics.look(100, sampled=[], is_behind=is_behind)
        lines = session.rundir.source_path(1, Source.PRINTED).read_text().splitlines()
        seen.append(sum('"loss": 0.5' in line for line in lines))
    assert seen == [0, 0, 1]
    session.prints("step 20 train_loss: 0.25\nstep 30 accuracy: 0.5\n")
    session.metrics.look(100, sampled=[], is_over=True)
    *_, held, last = map(json.loads, session.rundir.source_path(1, Source.PRINTED).read_text().splitlines())
    assert held == {"step": 20, "train_loss": 0.25, "printed": True}
    assert last == {"step": 30, "printed": True}  # the run is there, and not at the step of what was held


def test_checkpoints_alone_are_not_written(session: Session):
    """A script that prints no metrics must not seem to be at step 0."""
    path = session.rundir.source_path(1, Source.PRINTED)
    session.metrics.note_saved("/a.pt", None)
    session.metrics.look(None)
    assert not path.exists()
    session.prints("loss: 0.5\n")
    session.metrics.look(None)
    assert json.loads(path.read_text().splitlines()[0]) == {"step": 0, "checkpoint": "/a.pt", "printed": True}


def test_output_that_is_not_understood_takes_no_longer(session: Session, monkeypatch: pytest.MonkeyPatch):
    """A look ends in time, and the next one reads on from there."""
    session.prints("we return the map 12 of cat 7 to the user\n" * 10_000 + "step 3 loss: 0.5\n")
    monkeypatch.setattr(printed_metrics, "_LOOK_S", 0.0)
    session.metrics.look(None)
    assert session.metrics.has_unread
    for _ in range(20):
        session.metrics.look(None)
    assert session.recorded() == [(3, 0.5)]


def test_a_link_in_its_place_is_not_followed(session: Session, tmp_path: Path):
    """What was set up in a shared run directory never leads us to write elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine\n")
    session.rundir.source_path(1, Source.PRINTED).symlink_to(elsewhere)
    session.prints("step 1 loss: 0.5\n")
    session.metrics.look(None)
    assert elsewhere.read_text() == "mine\n"


def test_it_is_its_owners_alone(session: Session):
    session.prints("step 1 loss: 0.5\n")
    session.metrics.look(None)
    assert session.rundir.source_path(1, Source.PRINTED).stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_read_for_a_moment_ends_nothing(tmp_path: Path):
    folder, aside = tmp_path / "r1", tmp_path / "aside"
    folder.mkdir()
    session = Session(folder)
    session.prints("step 1 loss: 0.5\n")
    session.metrics.look(None)
    session.prints("step 2 loss: 0.25\n")
    folder.rename(aside)
    folder.write_text("")  # as a file system that fails: every access to what is below is an OSError
    session.metrics.look(None)
    assert not session.metrics.has_unread
    folder.unlink()
    aside.rename(folder)
    session.metrics.look(None)
    assert session.recorded() == [(1, 0.5), (2, 0.25)]


def test_a_resumed_session_counts_on_after_a_change_of_units(session: Session, tmp_path: Path):
    """The last line that was written may name a unit, and have no step."""
    session.prints("loss 0.5\n")
    session.metrics.look(None)
    session.prints("step 10 loss: 0.4\n")
    session.metrics.look(None, is_over=True)
    assert "unit" in session.rundir.source_path(1, Source.PRINTED).read_text().splitlines()[-1]
    resumed = Session(tmp_path, 2, "/a.pt")
    resumed.prints("loss 0.3\n")
    resumed.metrics.look(None)
    assert resumed.recorded() == [(11, 0.3)]
