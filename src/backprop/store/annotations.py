"""Annotations of a run, made by users at any time and from any machine: group, tags, notes, parent, decision.

RUN/annotations/ has a file for each of them. A file is made by a rename and never edited, so that several machines may
write at once without the lock of the journal. `fold` turns them into `Annotations`: the last one of a kind counts.
"""

import errno
import os
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from enum import Enum

import msgspec

from backprop.errors import UsageError
from backprop.records import Annotations, Decision, Note, StoredRecord
from backprop.store.files import UNDECODABLE, NotAFileError, opened, replace_file
from backprop.store.rundir import RUN_ID, RunDir
from backprop.text import is_utf8

MAX_FILES = 1000  # of a run
_MAX_TAGS = 100
_MAX_NOTE = 10_000  # characters
_MAX_GROUP = 100
_MAX_BYTES = 100_000  # of a file: a note in JSON
_NO_FOLDER = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES}  # or one that we may not read
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\.json")
_TAG = re.compile(r"\w[\w./@:+-]{0,63}")


class Kind(str, Enum):
    """What an annotation sets."""

    GROUP = "group"
    TAG = "tag"
    UNTAG = "untag"  # takes a tag away
    NOTE = "note"
    PARENT = "parent"  # the id of a run
    DECISION = "decision"
    ARCHIVE = "archive"  # its value is empty
    UNARCHIVE = "unarchive"


class Annotation(StoredRecord, frozen=True):
    """One annotation of a run by a user."""

    at: datetime
    by: str
    kind: Kind
    value: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (problem := _wrong(self.kind, self.value)) is not None:
            raise ValueError(problem)


def check(kind: Kind, value: str) -> None:
    """Raise UsageError for a value that cannot be recorded."""
    if (problem := _wrong(kind, value)) is not None:
        raise UsageError(f"{kind.value} {value[:_MAX_GROUP]!r}: invalid value: {problem}.")


def _wrong(kind: Kind, value: str) -> str | None:
    """What is wrong with a value, for a message."""
    if not value.isascii() and not is_utf8(value):
        return "not valid UTF-8"
    if kind in {Kind.TAG, Kind.UNTAG}:
        return (
            None
            if _TAG.fullmatch(value)
            else "expected 1 to 64 letters, digits, or any of . / @ : + - _ after the first"
        )
    if kind is Kind.GROUP:
        return (
            None if 0 < len(value) <= _MAX_GROUP and value.isprintable() else f"expected 1 to {_MAX_GROUP} characters"
        )
    if kind is Kind.NOTE:
        is_plain = all(line.isprintable() for line in value.replace("\t", " ").split("\n"))
        return (
            None
            if 0 < len(value) <= _MAX_NOTE and is_plain
            else (
                f"expected 1 to {_MAX_NOTE:,} characters, none of them a control character but tabs and ends of lines"
            )
        )
    if kind is Kind.PARENT:
        return None if RUN_ID.fullmatch(value) else "expected the id of a run"
    if kind is Kind.DECISION:
        words = [decision.value for decision in Decision]
        return None if value in words else f"expected one of {', '.join(words)}"
    return "expected none" if value else None


def write(rundir: RunDir, annotation: Annotation) -> None:
    """Add a file for this annotation. Raises UsageError where there are too many, or OSError."""
    folder = rundir.annotations_path
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink():
        raise NotAFileError(f"{folder} is a link, and nothing is written there: remove it.")
    if len(names(rundir)) >= MAX_FILES:
        raise UsageError(f"run {rundir.run_id} has {MAX_FILES:,} annotations, the most that a run can have.")
    name = f"{annotation.at:%Y%m%dT%H%M%S.%f}Z-{os.urandom(4).hex()}.json"
    replace_file(folder / name, msgspec.json.encode(annotation) + b"\n")


def names(rundir: RunDir) -> list[str]:
    """The names of a run's files of annotations, oldest first; of too many the newest. Empty where it has no folder.

    Raises OSError where a file system fails: what was known is known still.
    """
    try:
        fd = os.open(rundir.annotations_path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FOLDER:
            return []
        raise
    try:
        return sorted(name for name in os.listdir(fd) if _NAME.fullmatch(name))[-MAX_FILES:]  # noqa: PTH208
    finally:
        os.close(fd)


def stamp(names: Iterable[str]) -> int:
    """A checksum of these names; 0 for none. Files are never edited, so their names identify their content."""
    return zlib.crc32("\n".join(names).encode())


def read(rundir: RunDir, names: Sequence[str], say: Callable[[str], None]) -> Annotations:
    """The state after these files. A damaged one is skipped, and reported."""
    found: list[tuple[str, Annotation]] = []
    for name in names:
        with opened(rundir.annotations_path, name) as fd:
            data = b"" if fd is None else os.read(fd, _MAX_BYTES)
        try:
            found.append((name, msgspec.json.decode(data, type=Annotation)))
        except UNDECODABLE as error:
            say(f"run {rundir.run_id}: annotation {name} cannot be read and is left out: {error}")
    return fold(annotation for _, annotation in sorted(found, key=lambda item: (item[1].at, item[0])))


def fold(annotations: Iterable[Annotation]) -> Annotations:
    """The state after these annotations, in this order. Pure."""
    state = Annotations()
    for annotation in annotations:
        state = _with(state, annotation)
    return state


def _with(state: Annotations, annotation: Annotation) -> Annotations:
    value = annotation.value
    changes: dict[Kind, dict[str, object]] = {
        Kind.GROUP: {"group": value},
        Kind.PARENT: {"parent": value},
        Kind.TAG: {"tags": tuple(sorted({*state.tags, value})[:_MAX_TAGS])},
        Kind.UNTAG: {"tags": tuple(tag for tag in state.tags if tag != value)},
        Kind.NOTE: {"notes": (*state.notes, Note(at=annotation.at, by=annotation.by, text=value))},
        Kind.ARCHIVE: {"is_archived": True},
        Kind.UNARCHIVE: {"is_archived": False},
    }
    if annotation.kind is Kind.DECISION:
        return msgspec.structs.replace(state, decision=Decision(value))
    return msgspec.structs.replace(state, **changes[annotation.kind])
