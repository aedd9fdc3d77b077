"""Log and patch of a run, in bounded pieces: see store/files.py."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from backprop.records import Record, RunView
from backprop.store.files import last_lines, opened

MAX_LOG_BYTES = 1_000_000
MAX_PATCH_BYTES = 5_000_000
STREAMS = ("out", "err")


class LogPlace(Record, frozen=True):
    """A place in what a trainer wrote."""

    stream: str  # one of STREAMS
    session: int
    offset: int


def log_end(view: RunView, stream: str) -> LogPlace:
    """Where what a trainer writes from now on begins."""
    session = _newest_session(view)
    if session is None:
        return LogPlace(stream=stream, session=1, offset=0)
    with opened(view.run_dir, f"session-{session}.{stream}") as fd:
        size = 0 if fd is None else os.fstat(fd).st_size
    return LogPlace(stream=stream, session=session, offset=size)


def log_before(view: RunView, stream: str, session: int | None, end: int | None, max_bytes: int) -> dict[str, Any]:
    """The last whole lines before an offset; before the end of the file without one.

    session: the last without one. A line that is still being written is left out while the session goes on.
    """
    number = session if session is not None else _newest_session(view)
    document: dict[str, Any] = {"text": "", "begin": 0, "end": 0, "size": 0, "session": number}
    if number is None:
        return document
    with opened(view.run_dir, f"session-{number}.{stream}") as fd:
        if fd is None:
            return document
        piece = last_lines(fd, max_bytes, end=end)
    data = piece.data
    if piece.is_last and _is_growing(view, number):
        data = data[: _last_line_end(data)]
    text, begin = data.decode(errors="replace"), piece.begin
    return {**document, "text": text, "begin": begin, "end": begin + len(data), "size": piece.size}


def log_after(view: RunView, place: LogPlace, max_bytes: int) -> tuple[str, LogPlace, LogPlace] | None:
    """What was written since, in whole lines: the text, where it begins and where it ends; None when there is nothing.

    Of more than `max_bytes` the last.
    """
    with opened(view.run_dir, f"session-{place.session}.{place.stream}") as fd:
        if fd is None:
            return None
        piece = last_lines(fd, max_bytes, begin=place.offset)
    data, begin = piece.data, piece.begin
    if _is_growing(view, place.session):
        data = data[: _last_line_end(data)]
    if not data:
        return None
    ends = LogPlace(stream=place.stream, session=place.session, offset=begin + len(data))
    return data.decode(errors="replace"), LogPlace(stream=place.stream, session=place.session, offset=begin), ends


def _newest_session(view: RunView) -> int | None:
    last = view.run.last_session
    return None if last is None else last.number


def _is_growing(view: RunView, session: int) -> bool:
    last = view.run.last_session
    return last is not None and last.number == session and not last.status.is_final


def _last_line_end(data: bytes) -> int:
    """Where the last whole line ends. Progress bars end theirs with a carriage return; endless ones are cut."""
    end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    return end if end > 0 or len(data) < MAX_LOG_BYTES // 2 else len(data)


def has_patch(view: RunView) -> bool:
    """Whether there are uncommitted changes to show."""
    with _opened_patch(view) as fd:
        return fd is not None


def _opened_patch(view: RunView) -> AbstractContextManager[int | None]:
    name = view.run.code.patch
    return nullcontext() if name is None else opened(view.run_dir, name)


def patch(view: RunView) -> str | None:
    """The uncommitted changes that a run executed last, cut where they are too long; None where there are none."""
    with _opened_patch(view) as fd:
        if fd is None:
            return None
        data = os.pread(fd, MAX_PATCH_BYTES + 1, 0)
        size = os.fstat(fd).st_size
    text = data[:MAX_PATCH_BYTES].decode(errors="replace")
    if len(data) > MAX_PATCH_BYTES:
        place = f"{view.run_dir}/{view.run.code.patch}"
        text += f"\n… the first {MAX_PATCH_BYTES:,} of {size:,} bytes; all of it is in {place}\n"
    return text
