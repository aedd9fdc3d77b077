"""What a run knows of its trainings, whichever process of which session they began in."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backprop.trainer.trainings import registry as module
from backprop.trainer.trainings.identity import Identity
from backprop.trainer.trainings.registry import SavedCheckpoint, TrainingRegistry
from tests.unit.trainer.links import link_in

FOLDS = [Identity({"framework": "f"}, place="p", data=f"fold {k}", weights="w") for k in range(3)]


class Model:
    """Something to train."""


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., TrainingRegistry]:
    """Makes the trainings of a process of a session."""

    def make(number: int, resume_from: str | None = None, run_id: str = "r") -> TrainingRegistry:
        return TrainingRegistry(link_in(tmp_path, number, offered=resume_from, BACKPROP_RUN_ID=run_id))

    return make


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    path.touch()
    return path


def test_a_checkpoint_continues_its_training_though_others_are_skipped(process, saved, capsys):
    first = process(1)
    for fold in FOLDS[:2]:
        training = first.begin(fold)
    stored = json.loads(json.dumps(training.stored()))
    second = process(2, str(saved))
    assert second.begin(FOLDS[2]).choose("train()", str(saved), lambda _: stored) is None
    assert second.begin(FOLDS[1]).choose("train()", str(saved), lambda _: stored) == str(saved)
    told = capsys.readouterr().err
    assert told == (
        f"backprop: train() starts over: {saved} is from another training, which differs in the content of its data\n"
    )


def test_once_it_is_continued_nothing_is_said_of_those_that_come_after_it(process, saved, capsys):
    """The trials of a long study, or the folds that had not begun: nobody expects them to continue."""
    stored = process(1).begin(FOLDS[1]).stored()
    second = process(2, str(saved))
    assert second.begin(FOLDS[1]).choose("train()", str(saved), lambda _: stored) == str(saved)
    assert second.begin(FOLDS[2]).choose("train()", str(saved), lambda _: stored) is None
    assert capsys.readouterr().err == ""


def test_processes_of_a_session_know_of_each_other(process, saved):
    """Each fold in a process of its own, whose weights come without a seed."""
    folds = [fold._replace(weights=None) for fold in FOLDS]
    for fold in folds[:2]:
        stored = process(1).begin(fold).stored()
    assert process(2, str(saved)).begin(folds[0]).choose("train()", str(saved), lambda _: stored) is None
    assert process(2, str(saved)).begin(folds[1]).choose("train()", str(saved), lambda _: stored) == str(saved)


def test_the_number_among_equals_counts_over_processes(process, saved):
    stored = [process(1).begin(FOLDS[0]).stored() for _ in range(2)][1]
    assert process(2, str(saved)).begin(FOLDS[0]).choose("train()", str(saved), lambda _: stored) is None
    assert process(2, str(saved)).begin(FOLDS[0]).choose("train()", str(saved), lambda _: stored) == str(saved)


def test_an_earlier_training_gets_what_it_saved_itself(process, tmp_path):
    """The checkpoint that is offered is of a later one."""
    all_stored = []
    for k, fold in enumerate(FOLDS):
        training = process(1).begin(fold)
        all_stored.append(training.stored(is_finished=k < 2))
        (tmp_path / f"fold-{k}").touch()
        training.saved(str(tmp_path / f"fold-{k}"), 10 * k, is_finished=k < 2)
    offered = str(tmp_path / "fold-2")
    read = {str(tmp_path / f"fold-{k}"): stored for k, stored in enumerate(all_stored)}.get
    second = process(2, offered).begin(FOLDS[1])
    assert second.find(read) == SavedCheckpoint(str(tmp_path / "fold-1"), 10, is_finished=True)
    assert second.find(lambda _: all_stored[0]) is None, "another training has saved in the same place since"
    assert second.choose("train()", offered, read) == str(tmp_path / "fold-1")
    (tmp_path / "fold-1").unlink()
    assert second.choose("train()", offered, read) is None


def test_the_newest_of_its_checkpoints_is_found(process, tmp_path):
    stored: dict = {}
    for session in (1, 2):
        for step in (1, 2):
            path = tmp_path / f"{session}-{step}"
            path.touch()
            process(session).begin(FOLDS[0])
    for session in (1, 2):
        training = process(session, "x").begin(FOLDS[1])
        for step in (1, 2):
            training.saved(str(tmp_path / f"{session}-{step}"), step)
            stored[str(tmp_path / f"{session}-{step}")] = training.stored()
    found = process(3, "x").begin(FOLDS[1]).find(stored.get)
    assert found == SavedCheckpoint(str(tmp_path / "2-2"), 2, is_finished=False)
    assert process(2, "x").begin(FOLDS[1]).find(stored.get) is None, (
        "the second of this session has saved nothing before"
    )


def test_nothing_is_found_when_the_user_starts_over(process, saved):
    training = process(1).begin(FOLDS[0])
    training.saved(str(saved), 1)
    assert process(2, str(saved)).begin(FOLDS[0]).find(lambda _: training.stored()) is not None
    assert process(3).begin(FOLDS[0]).find(lambda _: training.stored()) is None


def test_a_checkpoint_of_an_earlier_version_says_nothing(process, saved, capsys):
    training = process(2, str(saved)).begin(FOLDS[0])
    assert training.judge(None) is None
    assert training.judge({"train_call": 1}) is None
    assert training.judge({"version": 0}) is None
    assert training.choose("train()", str(saved), lambda _: None) is None
    assert capsys.readouterr().err == ""


def test_a_checkpoint_of_another_run_continues_the_same_training(process, saved):
    stored = process(1, run_id="other").begin(FOLDS[0]).stored()
    for path in saved.parent.glob("session-*.trainings"):
        path.unlink()
    assert process(1, str(saved)).begin(FOLDS[0]).choose("train()", str(saved), lambda _: stored) == str(saved)


def test_what_differs_and_continues_is_said(process, saved, capsys):
    stored = process(1).begin(FOLDS[0]).stored()
    unseeded = FOLDS[0]._replace(weights="x")
    assert process(2, str(saved)).begin(unseeded).choose("train()", str(saved), lambda _: stored) == str(saved)
    assert capsys.readouterr().err == ""
    changed = FOLDS[0]._replace(weights="y", data="x")
    assert process(3, str(saved)).begin(changed).choose("train()", str(saved), lambda _: stored) == str(saved)
    told = f"train() continues from {saved}, though the content of its data and its initial weights differ"
    assert told in capsys.readouterr().err


def test_a_model_that_is_trained_again_is_known(process, saved):
    """Rounds of one loop, whose first weights come without a seed."""
    saved_rounds = []
    for session, resume_from in ((1, None), (2, str(saved))):
        here, model = process(session, resume_from), Model()
        rounds = [here.begin(FOLDS[0]._replace(weights=f"{session} {k}"), model) for k in range(3)]
        assert len({training.identity.history for training in rounds}) == 3
        if session == 1:
            saved_rounds = [training.stored() for training in rounds]
        else:
            continued = [
                [training.choose("", str(saved), lambda _, each=each: each) for each in saved_rounds]
                for training in rounds
            ]
            assert [[path is not None for path in row] for row in continued] == [
                [True, False, False],
                [False, True, False],
                [False, False, True],
            ]
    assert process(2).begin(FOLDS[0], Model()).identity.history == "none"


def test_a_torn_line_is_passed_over(process, saved, tmp_path):
    training = process(1).begin(FOLDS[0])
    training.saved(str(saved), 1)
    with (tmp_path / "session-1.trainings").open("a") as file:
        file.write('{"begun": ["half')
    process(1).begin(FOLDS[1])
    second = process(2, str(saved)).begin(FOLDS[0])
    assert second.find(lambda _: training.stored()) == SavedCheckpoint(str(saved), 1, is_finished=False)
    assert len(second._file.begun) == 3


def test_rank_0_decides_for_all(process, monkeypatch: pytest.MonkeyPatch, capsys):
    ranks = threading.local()
    monkeypatch.setattr(module.distributed, "world_size", lambda: 2)
    monkeypatch.setattr(module.distributed, "rank", lambda: ranks.rank)
    answers: dict = {}

    def rank(number: int) -> None:
        ranks.rank = number
        here = process(1)
        answers[number] = [
            here.begin(FOLDS[k]._replace(weights=str(number))).agreed(lambda k=k: f"{k} of {number}") for k in range(3)
        ]

    threads = [threading.Thread(target=rank, args=(number,)) for number in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {0: ["0 of 0", "1 of 0", "2 of 0"], 1: ["0 of 0", "1 of 0", "2 of 0"]}
    ranks.rank = 1
    monkeypatch.setattr(module, "_AGREEMENT_TIMEOUT_S", 0.0)
    unanswered = process(2).begin(FOLDS[0])
    assert unanswered.agreed(lambda: "own") is None
    assert "rank 0 did not report what to continue from" in capsys.readouterr().err
