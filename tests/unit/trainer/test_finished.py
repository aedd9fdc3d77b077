"""Finished trainings are given back to the calls they belong to, whatever the script makes of its calls."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backprop.trainer import atomic_files
from backprop.trainer.hooks.boosting import train_call as boosting
from backprop.trainer.trainings import finished, identity, registry
from backprop.trainer.trainings.finished import FinishedFile, superfluous
from tests.unit.trainer.links import link_in

ROUNDS = 4


@dataclass
class Library:
    """A made-up library of boosters: a model says what it was trained on, and each round takes as long as is said."""

    folder: Path
    patch: pytest.MonkeyPatch
    now_s: float = 0.0
    session: int = 0
    trained: list[int] = field(default_factory=list)  # rounds, by the calls of this session
    newest: str | None = None  # what the supervisor would offer

    def begin_session(self) -> None:
        self.session += 1
        self.begin_process()

    def begin_process(self) -> None:
        self.process = link_in(self.folder, self.session, offered=self.newest)
        self.patch.setattr(boosting, "current", lambda: self.process)
        self.patch.setattr(boosting, "monotonic", lambda: self.now_s)
        self.patch.setattr(boosting, "_working_folder", str(self.folder))
        self.patch.setattr(boosting, "_counts", {})
        self.patch.setattr(registry, "_registry", None)

    def train(self, data: str, round_s: float, *, cut_after: int | None = None, rounds: int = ROUNDS) -> bytes:
        """The model, whose rounds are the data's; None of them is trained if the call is given back."""
        call = boosting.begin("made-up", "txt")
        assert call is not None
        call.total = rounds
        call.identify({"eta": 1}, (), [data] * 20)
        call.look_for_checkpoint()
        model = b"" if call.saved is None else call.saved.model
        trained = 0
        for number in range(call.done + 1, rounds + 1):
            self.now_s += round_s
            model += data.encode()
            trained += 1
            call.evaluations.append(number)
            if number == cut_after:
                call._save(number, partial(bytes, model), [])
                self.newest = self.reported()
                return model
        call.ended(partial(bytes, model), [])
        self.newest = self.reported()
        self.trained.append(trained)
        return model

    def reported(self) -> str | None:
        events = self.folder / f"session-{self.session}.events"
        lines = events.read_text().splitlines() if events.exists() else []
        paths = [line.split('"path": "')[1].split('"')[0] for line in lines if '"checkpoint_saved"' in line]
        return paths[-1] if paths else self.newest


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Library]:
    count = iter(range(1_000_000))
    monkeypatch.setattr(atomic_files.os, "fsync", lambda _: None)
    monkeypatch.setattr(identity, "place", lambda _: "a loop")

    def make() -> Library:
        folder = tmp_path / str(next(count))
        folder.mkdir()
        return Library(folder, monkeypatch)

    return make


def test_a_finished_training_is_given_back_and_one_of_other_data_is_not(library):
    here = library()
    here.begin_session()
    whole = here.train("a", 1.0)
    here.begin_session()
    assert here.train("b", 1.0) == b"b" * ROUNDS
    assert here.train("a", 1.0) == whole == b"a" * ROUNDS
    assert here.trained == [ROUNDS, ROUNDS, 0]


def test_what_was_kept_comes_before_a_guess(library, monkeypatch: pytest.MonkeyPatch):
    """A call that stands in no loop may have other data in each session: it may, too, be the other of two calls."""
    monkeypatch.setattr(identity, "is_called_once", lambda: True)
    here = library()
    here.begin_session()
    here.train("b", 1.0)
    here.begin_session()
    here.train("a", 1.0, cut_after=1)
    here.begin_session()
    assert here.train("b", 1.0) == b"b" * ROUNDS
    assert here.trained == [ROUNDS, 0]


def test_more_rounds_than_a_finished_training_had_are_trained(library):
    here = library()
    here.begin_session()
    here.train("a", 1.0)
    here.begin_session()
    assert here.train("a", 1.0, rounds=ROUNDS + 2) == b"a" * (ROUNDS + 2)
    assert here.trained == [ROUNDS, 2]


def test_a_training_that_took_less_than_a_second_is_not_kept(library):
    here = library()
    here.begin_session()
    here.train("a", 0.2)
    assert here.newest is None


def test_a_finished_training_that_cannot_be_read_any_more_is_repeated(library):
    here = library()
    here.begin_session()
    here.train("a", 1.0)
    here.train("b", 1.0)
    (damaged,) = (path for path in here.folder.rglob("*finished*") if str(path) != here.newest)
    damaged.write_bytes(damaged.read_bytes()[:100])
    here.begin_session()
    assert here.train("a", 1.0) == b"a" * ROUNDS
    assert here.trained == [ROUNDS, ROUNDS, ROUNDS]


# each example has a folder and a library of its own
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(calls=st.data())
def test_no_call_gets_anothers_model_and_none_that_was_kept_is_trained_again(library, calls):
    """Skipped, reordered and repeated calls, each session's in one process or in several, the last of them cut."""
    here = library()
    done: set[str] = set()
    for _ in range(3):
        here.begin_session()
        names = calls.draw(st.lists(st.sampled_from("abcd"), unique=True, min_size=1))
        cut_after = calls.draw(st.none() | st.integers(1, ROUNDS - 1))
        for position, name in enumerate(names):
            if position and calls.draw(st.booleans()):
                here.begin_process()
            is_cut = cut_after is not None and name == names[-1] and name not in done
            before = len(here.trained)
            model = here.train(name, 1.0, cut_after=cut_after if is_cut else None)
            assert set(model.decode()) == {name}
            if is_cut:
                break
            assert model == name.encode() * ROUNDS
            assert name not in done or here.trained[before:] == [0]
            done.add(name)


kept_files = st.lists(st.tuples(st.integers(0, 5 << 30), st.integers(1, 50)), max_size=130).map(
    lambda pairs: [FinishedFile(str(number), size, took) for number, (size, took) in enumerate(pairs)]
)


@given(kept_files, st.data())
def test_what_is_kept_is_bounded_in_number_and_size(kept: list[FinishedFile], data: st.DataObject):
    spared = {each.path for each in data.draw(st.lists(st.sampled_from(kept), max_size=2) if kept else st.just([]))}
    removed = superfluous(kept, spared)
    left = [each for each in kept if each not in removed]
    assert spared <= {each.path for each in left}
    free = [each for each in left if each.path not in spared]
    assert not free or (len(left) <= finished.MAX_COUNT and sum(each.size_bytes for each in left) <= finished.MAX_BYTES)
    for each in removed:
        assert all(each.took_s <= other.took_s for other in free), "what took longest is kept longest"
    if removed:
        back = [*left, removed[-1]]
        assert len(back) > finished.MAX_COUNT or sum(each.size_bytes for each in back) > finished.MAX_BYTES


def test_the_bounds_hold_in_the_folder(library, monkeypatch: pytest.MonkeyPatch):
    """And a script with more trainings than are kept does not train all of them again."""
    monkeypatch.setattr(finished, "MAX_COUNT", 3)
    here = library()
    for _ in range(2):
        here.begin_session()
        for name in "abcdef":
            assert here.train(name, 1.0) == name.encode() * ROUNDS
            assert len(list(here.folder.rglob("*finished*"))) <= 3
    assert here.trained[:6] == [ROUNDS] * 6
    assert here.trained[6:].count(0) >= 2
    assert here.trained[-1] == 0
