"""The journal of a sweep: a lost entry of a trial is an error, half a line at the end is none."""

from pathlib import Path

import pytest

from backprop.lifecycle.sweep import journal
from backprop.lifecycle.sweep.journal import Began, SweepEntry
from backprop.store.files import UnreadableError
from backprop.store.journal.entries import encode
from tests.unit.lifecycle.sweep.test_standing import NOW, asked, ended

BEGAN = Began(at=NOW, pid=1, host="h")


def written(path: Path, *entries: SweepEntry, end: bytes = b"") -> Path:
    path.write_bytes(b"".join(encode(entry) + b"\n" for entry in entries) + end)
    return path


def test_entries_come_back_without_half_a_line(tmp_path: Path):
    """A sweeper that is killed while it writes leaves one."""
    entries = [BEGAN, asked(0), ended(0), asked(1)]
    assert journal.read(written(tmp_path / "j", *entries, end=b'{"t": "asked", "tri')) == entries
    assert journal.read(written(tmp_path / "empty")) == []


@pytest.mark.parametrize("entries", [(asked(1),), (asked(0), asked(2)), (asked(1), asked(0))])
def test_a_trial_whose_entry_is_lost_is_not_made_again(tmp_path: Path, entries: tuple[SweepEntry]):
    """Its number would be given to other parameters, whose run exists already."""
    with pytest.raises(UnreadableError, match="no entry of trial"):
        journal.read(written(tmp_path / "j", *entries))


@pytest.mark.parametrize("data", [b"garbage\n", b"\x00" * 50 + b"\n"])
def test_a_journal_without_any_entry_is_damaged(tmp_path: Path, data: bytes):
    with pytest.raises(UnreadableError, match="there is no entry in it"):
        journal.read(written(tmp_path / "j", end=data))
