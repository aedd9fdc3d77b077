"""The index as a recorder uses it: whatever happens to the file, what it does can be tried again."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from backprop.store.home import Home
from backprop.store.index import open_index
from backprop.store.index_connection import IndexConnection
from backprop.store.rundir import RunDir


@pytest.fixture
def connection(home: Home, rundir: RunDir) -> Iterator[IndexConnection]:
    with closing(IndexConnection(home, rundir, lambda _: None)) as made:
        yield made


def remove(home: Home) -> None:
    for path in home.path.glob("index.db*"):
        path.unlink()


def test_it_is_opened_once_and_again_when_its_file_is_replaced(home: Home, connection: IndexConnection):
    first = connection.open()
    assert connection.open() is first
    assert connection.openings == 1
    remove(home)
    connection.open().run_ids()
    assert connection.openings == 2


def test_a_removed_run_is_not_put_into_a_new_index(home: Home, rundir: RunDir, connection: IndexConnection):
    connection.open()
    remove(home)
    shutil.rmtree(rundir.path)
    with pytest.raises(FileNotFoundError):
        connection.open()


def test_what_cannot_be_done_now_is_tried_later(connection: IndexConnection):
    def fail() -> int:
        raise sqlite3.OperationalError("database is locked")

    assert connection.attempt(fail, otherwise=7) == 7
    assert connection.attempt(lambda: 3, otherwise=7) == 3


def test_a_damaged_file_is_set_aside(home: Home, connection: IndexConnection):
    connection.open()

    def fail() -> int:
        raise sqlite3.DatabaseError("malformed")

    assert connection.attempt(fail, otherwise=7) == 7
    assert len(list(home.path.glob("index.db.corrupt-*"))) == 1
    assert connection.open().run_ids() == set()


def test_a_borrowed_index_stays_open(home: Home, connection: IndexConnection):
    with closing(open_index(home, 5.0, lambda _: None)) as index:
        connection.borrow(index)
        assert connection.open() is index
        connection.close()
        assert index.run_ids() == set()
        connection.give_back()
        assert connection.open() is not index
