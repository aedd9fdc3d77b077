"""Which runs have ended since a cursor: none is missed, and none is told twice."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.errors import UsageError
from backprop.lifecycle.ended_runs import EndStatus, cursor, number_of, since, take
from backprop.records import Run, RunView, Status
from backprop.store.home import Home
from backprop.store.index import Index
from tests.conftest import scaled
from tests.records import AT, SPEC, session_record

RUNS = "abcd"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index.db", 5.0)
    yield opened
    opened.close()


class Model:
    """Runs that begin and end, as the index hears of it."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.sessions = dict.fromkeys(RUNS, 0)
        self.ended: dict[str, int] = {}  # id -> how many sessions it had when it ended
        self.held: set[str] = set()  # ended, and its process has not let go
        self._journal_size = 0

    def put(self, run_id: str) -> None:
        status = Status.COMPLETED if run_id in self.ended else Status.RUNNING
        sessions = tuple(session_record(status, n, timebox_s=1, grace_s=1) for n in range(1, self.sessions[run_id] + 1))
        ended_at = AT + timedelta(seconds=self.sessions[run_id]) if run_id in self.ended else None
        spec = msgspec.structs.replace(SPEC, id=run_id)
        self._journal_size += 1
        run = Run(spec=spec, status=status, latest=sessions, ended_at=ended_at)
        self.index.put_run(run, self._journal_size)

    def begin(self, run_id: str) -> None:
        self.sessions[run_id] += 1
        self.ended.pop(run_id, None)
        self.held.discard(run_id)

    def end(self, run_id: str) -> None:
        if self.sessions[run_id] and run_id not in self.ended:
            self.ended[run_id] = self.sessions[run_id]

    def standing(self, run_id: str) -> EndStatus:
        if run_id in self.held:
            return EndStatus.UNDECIDED
        return EndStatus.ENDED if run_id in self.ended else EndStatus.NO_NEWS


STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "end", "hold", "let go", "put", "put", "ask"]), st.sampled_from(RUNS)),
    max_size=60,
)


@given(STEPS)
@settings(deadline=None, max_examples=scaled(1500))
def test_no_end_is_missed_and_none_is_told_twice(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
):
    """However runs begin, end and are let go between two calls, and whenever the index hears of it."""
    index = Index(tmp_path_factory.mktemp("home") / "index.db", 5.0)
    model, number = Model(index), 0
    told: list[tuple[str, int]] = []

    def ask() -> None:
        nonlocal number
        for run_id in RUNS:  # every command brings the index up to date first
            model.put(run_id)
        found = take(index.ends_after(number), number, model.standing)
        told.extend((run_id, model.ended[run_id]) for run_id in found.ids)
        number = number_of(index, cursor(index, found.number))

    for step, run_id in steps:
        match step:
            case "begin":
                model.begin(run_id)
            case "end":
                model.end(run_id)
            case "hold":
                if run_id in model.ended and (run_id, model.ended[run_id]) not in told:
                    model.held.add(run_id)
            case "let go":
                model.held.discard(run_id)
            case "put":
                model.put(run_id)
            case _:
                ask()
    model.held.clear()
    ask()
    index.close()
    assert len(told) == len(set(told))
    assert set(model.ended.items()) <= set(told)  # also those that ended again


def test_an_end_that_is_not_decided_holds_back_those_after_it():
    """The next call begins with it: a cursor past it would leave it out for ever."""
    ends = [(3, "a"), (5, "b"), (6, "c"), (9, "d")]
    found = {"a": EndStatus.ENDED, "b": EndStatus.NO_NEWS, "c": EndStatus.UNDECIDED, "d": EndStatus.ENDED}
    assert take(ends, 2, found.__getitem__) == (["a"], 5, ["c", "d"])
    found["c"] = EndStatus.ENDED
    assert take(ends[2:], 5, found.__getitem__) == (["c", "d"], 9, [])
    assert take([], 9, found.__getitem__) == ([], 9, [])


def test_an_end_that_is_stored_again_has_the_same_number(index: Index):
    """A journal that grows after the end (a rename) makes no new end."""
    model = Model(index)
    model.begin("a")
    model.end("a")
    model.put("a")
    model.put("a")
    assert index.ends_after(0) == [(1, "a")]
    model.begin("a")
    model.end("a")
    model.put("a")  # nobody stored anything in between
    assert (index.ends_after(0), index.last_end()) == ([(2, "a")], 2)


def test_numbers_are_never_used_again(index: Index):
    """Not even when the newest run is removed."""
    model = Model(index)
    for run_id in "ab":
        model.begin(run_id)
        model.end(run_id)
        model.put(run_id)
        index.remove(run_id)
    assert (index.ends_after(0), index.last_end()) == ([], 2)


def test_a_cursor_of_another_index_is_refused(index: Index, tmp_path: Path):
    """As is one that is ahead of this one, or no cursor."""
    other = Index(tmp_path / "other.db", 5.0)
    for word in (cursor(other, 0), cursor(index, 1), "", "7", f"{index.generation:x}.", f"{index.generation:x}.-1"):
        with pytest.raises(UsageError, match="--since"):
            number_of(index, word)
    other.close()
    assert number_of(index, cursor(index, 0)) == 0


def test_a_run_that_ends_while_it_is_looked_at_is_told_by_the_next_call(tmp_path: Path, index: Index):
    """Its end is newer than what was read of it: it is not passed over, nor taken for one that nothing is to come of."""
    home, model = Home.at(tmp_path / "home"), Model(index)
    model.begin("a")
    model.put("a")

    def choose() -> dict[str, RunView]:
        views = {"a": view} if (view := index.get("a")) is not None else {}
        model.end("a")
        model.put("a")
        return views

    found, chosen = since(home, index, 0, choose, print)
    assert (found.ids, found.number, found.undecided, list(chosen)) == ([], 0, ["a"], ["a"])
    found, _ = since(home, index, found.number, choose, print)
    assert (found.ids, found.undecided) == (["a"], [])
