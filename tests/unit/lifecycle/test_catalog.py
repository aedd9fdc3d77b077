"""Which run a word names, and what becomes of an index that fails meanwhile."""

import sqlite3
from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest

from backprop.errors import ConfigError, NoSuchRunError, UsageError
from backprop.lifecycle import catalog
from backprop.records import Run, Status
from backprop.store.home import Home, HomeBusyError
from backprop.store.index import Index
from tests.records import AT, SPEC


@pytest.fixture
def index(home: Home) -> Iterator[Index]:
    """Runs in the index that are on no disk: the youngest is abc3."""
    with_names = {"abc1": None, "abc2": "twice", "xyz": "twice", "other": "abc", "abc3": "xyz"}
    opened = Index(home.index_path, 5.0)
    for age, (run_id, name) in enumerate(with_names.items()):
        spec = msgspec.structs.replace(SPEC, id=run_id, name=name, created_at=AT + timedelta(seconds=age))
        opened.put_run(Run(spec=spec, status=Status.COMPLETED), 10)
    yield opened
    opened.close()


def found(home: Home, index: Index, word: str) -> str:
    return catalog.find_run(home, index, word, print).run.spec.id


@pytest.mark.parametrize(
    ("word", "run_id"),
    [
        ("abc1", "abc1"),
        ("abc", "other"),  # a name comes before the beginning of an id
        ("xyz", "xyz"),  # an id comes before a name
        ("ot", "other"),
        ("last", "abc3"),
    ],
)
def test_a_word_names_a_run(home: Home, index: Index, word: str, run_id: str):
    assert found(home, index, word) == run_id


@pytest.mark.parametrize("word", ["twice", "ab"])
def test_a_word_that_names_several_runs_lists_them(home: Home, index: Index, word: str):
    """It is not guessed which of them is meant."""
    with pytest.raises(UsageError, match="matches several runs: .*abc2"):
        found(home, index, word)


@pytest.mark.parametrize("word", ["nothing", "--all", "abc4"])
def test_a_word_that_names_none(home: Home, index: Index, word: str):
    with pytest.raises(NoSuchRunError, match="no run named"):
        found(home, index, word)


def test_a_run_that_was_removed_is_not_there_any_more(home: Home, index: Index):
    """One that was in a list a moment ago."""
    index.remove("abc1")
    with pytest.raises(NoSuchRunError, match="run abc1 was removed"):
        catalog.get_run(home, index, "abc1", print)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (HomeBusyError("lock"), "another process has locked"),
        (sqlite3.OperationalError("database is locked"), "cannot use the index"),
        (sqlite3.DatabaseError("malformed"), "backprop reindex"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
    ],
)
def test_an_index_that_fails_is_an_error_of_the_configuration(
    home: Home, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
):
    """One line that says what to do, and no traceback."""

    def fail(*_: object) -> Index:
        raise error

    monkeypatch.setattr("backprop.lifecycle.indexing.open_caught_up", fail)
    with pytest.raises(ConfigError, match=words), catalog.caught_up(home, print):
        pass
