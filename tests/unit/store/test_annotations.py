"""What users say about a run: a file each, folded in the order of their times, whoever wrote them."""

import resource
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.errors import UsageError
from backprop.records import Annotations, Decision
from backprop.store import annotations
from backprop.store.annotations import Annotation, Kind
from backprop.store.rundir import RunDir

AT = datetime(2026, 1, 2, tzinfo=timezone.utc)


def saying(kind: Kind, value: str = "", *, age_s: float = 0) -> Annotation:
    return Annotation(at=AT - timedelta(seconds=age_s), by="me", kind=kind, value=value)


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "r1")
    made.path.mkdir()
    return made


def read(rundir: RunDir, told: list[str] | None = None) -> Annotations:
    return annotations.read(rundir, annotations.names(rundir), (told if told is not None else []).append)


def test_the_last_word_counts_and_notes_stay(rundir: RunDir):
    """By the time at which it was said, not the order in which the files came."""
    annotations.write(rundir, saying(Kind.GROUP, "new"))
    annotations.write(rundir, saying(Kind.GROUP, "old", age_s=5))
    annotations.write(rundir, saying(Kind.UNTAG, "a"))
    annotations.write(rundir, saying(Kind.TAG, "a", age_s=9))
    annotations.write(rundir, saying(Kind.TAG, "b", age_s=1))
    annotations.write(rundir, saying(Kind.NOTE, "first\nof two lines", age_s=3))
    annotations.write(rundir, saying(Kind.NOTE, "second"))
    annotations.write(rundir, saying(Kind.DECISION, "keep"))
    annotations.write(rundir, saying(Kind.ARCHIVE, age_s=2))
    told = read(rundir)
    assert (told.group, told.tags, told.decision, told.is_archived) == ("new", ("b",), Decision.KEEP, True)
    assert [note.text for note in told.notes] == ["first\nof two lines", "second"]


def test_a_file_is_its_owners_alone_and_never_edited(rundir: RunDir):
    """Every saying has a name of its own, so that the names tell what was said since."""
    annotations.write(rundir, saying(Kind.TAG, "a"))
    before = annotations.names(rundir)
    annotations.write(rundir, saying(Kind.TAG, "a"))
    assert len(annotations.names(rundir)) == 2
    assert set(before) < set(annotations.names(rundir))
    assert annotations.stamp(before) != annotations.stamp(annotations.names(rundir))
    assert {path.stat().st_mode & 0o077 for path in (rundir.annotations_path, *rundir.annotations_path.iterdir())} == {
        0
    }


def test_damaged_and_foreign_files_are_left_out_with_a_word(rundir: RunDir, tmp_path: Path):
    """Half a record, a control character, a link: the others count."""
    annotations.write(rundir, saying(Kind.TAG, "good"))
    folder = rundir.annotations_path
    damaged = {
        "20260101T000000.000000Z-00000001.json": b'{"at": "2026',
        "20260101T000000.000000Z-00000002.json": msgspec.json.encode(
            {"at": AT, "by": "me", "kind": "note", "value": "\x1b[2J"}
        ),
        "20260101T000000.000000Z-00000003.json": b"[" * 100_000,
    }
    for name, data in damaged.items():
        (folder / name).write_bytes(data)
    (tmp_path / "elsewhere").write_bytes(msgspec.json.encode(saying(Kind.TAG, "linked")))
    (folder / "20260101T000000.000000Z-00000004.json").symlink_to(tmp_path / "elsewhere")
    (folder / "README").write_text("no annotation")
    told: list[str] = []
    assert read(rundir, told).tags == ("good",)
    assert len(told) == 4
    assert all("cannot be read and is left out" in line for line in told)


def test_a_link_in_the_place_of_the_folder_is_not_followed(rundir: RunDir, tmp_path: Path):
    """Neither is read what lies there, nor is anything written there."""
    other = RunDir(tmp_path / "r2")
    other.path.mkdir()
    annotations.write(other, saying(Kind.TAG, "elsewhere"))
    rundir.annotations_path.symlink_to(other.annotations_path)
    assert read(rundir) == Annotations()
    with pytest.raises(OSError, match="is a link"):
        annotations.write(rundir, saying(Kind.TAG, "a"))
    assert len(annotations.names(other)) == 1


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.TAG, ""),
        (Kind.TAG, "two words"),
        (Kind.TAG, "-a"),
        (Kind.TAG, "a" * 65),
        (Kind.TAG, "a\n"),
        (Kind.GROUP, ""),
        (Kind.GROUP, "a\x07b"),
        (Kind.NOTE, ""),
        (Kind.NOTE, "a" * 10_001),
        (Kind.NOTE, "\x1b[31m"),
        (Kind.NOTE, "\udcff"),
        (Kind.DECISION, "maybe"),
        (Kind.PARENT, "../r1"),
        (Kind.ARCHIVE, "yes"),
    ],
)
def test_what_cannot_be_recorded_is_refused(kind: Kind, value: str):
    """By name, before anything is written."""
    with pytest.raises(UsageError, match="invalid value"):
        annotations.check(kind, value)


def test_there_is_an_end_to_them(rundir: RunDir, monkeypatch: pytest.MonkeyPatch):
    """A loop that annotates does not fill the folder."""
    monkeypatch.setattr(annotations, "MAX_FILES", 2)
    annotations.write(rundir, saying(Kind.TAG, "a"))
    annotations.write(rundir, saying(Kind.TAG, "b"))
    with pytest.raises(UsageError, match="the most that a run can have"):
        annotations.write(rundir, saying(Kind.TAG, "c"))


@given(st.lists(st.tuples(st.sampled_from([Kind.TAG, Kind.UNTAG]), st.sampled_from("abc"))))
def test_tags_are_what_was_said_of_each_last(said: list[tuple[Kind, str]]):
    """In any order of the others."""
    last = {value: kind for kind, value in said}
    told = annotations.fold(saying(kind, value) for kind, value in said)
    assert set(told.tags) == {value for value, kind in last.items() if kind is Kind.TAG}


def test_a_folder_of_nobodys_is_no_annotation(tmp_path: Path):
    """A run without any, or one that was removed."""
    assert annotations.names(RunDir(tmp_path / "none")) == []
    assert annotations.stamp([]) == 0


def test_a_folder_that_fails_is_not_an_empty_one(rundir: RunDir):
    """Else the index would forget what it knows of the run."""
    annotations.write(rundir, saying(Kind.TAG, "a"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            annotations.names(rundir)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read(rundir).tags == ("a",)
