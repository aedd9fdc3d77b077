"""Log and patch out of a run's directory, and out of nowhere else, in bounded pieces.

What lies there may come from anybody's archive: a link that leads elsewhere is not followed, a pipe not waited for.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from backprop.records import Record, RunView

MAX_LOG_BYTES = 1_000_000
MAX_PATCH_BYTES = 5_000_000
STREAMS = ("out", "err")
_PATCH = "code.patch"


class LogPlace(Record, frozen=True):
    """A place in what a trainer wrote."""

    stream: str  # one of STREAMS
    session: int
    offset: int


@contextmanager
def _opened(run_dir: str, name: str) -> Iterator[int | None]:
    """A regular file that lies in the directory itself; None where there is none."""
    fd = None
    with suppress(OSError):  # not there, not readable, a link: nothing to show
        folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
    try:
        yield fd if fd is not None and stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        if fd is not None:
            os.close(fd)


def log_end(view: RunView, stream: str) -> LogPlace:
    """Where what a trainer writes from now on begins."""
    session = _newest_session(view)
    if session is None:
        return LogPlace(stream=stream, session=1, offset=0)
    with _opened(view.run_dir, f"session-{session}.{stream}") as fd:
        size = 0 if fd is None else os.fstat(fd).st_size
    return LogPlace(stream=stream, session=session, offset=size)


def log_before(view: RunView, stream: str, session: int | None, end: int | None, max_bytes: int) -> dict[str, Any]:
    """The last whole lines before an offset; before the end of the file without one.

    session: the last without one. A line that is still being written is left out while the session goes on.
    """
    number = session if session is not None else _newest_session(view)
    told: dict[str, Any] = {"text": "", "begin": 0, "end": 0, "size": 0, "session": number}
    if number is None:
        return told
    with _opened(view.run_dir, f"session-{number}.{stream}") as fd:
        if fd is None:
            return told
        size = os.fstat(fd).st_size
        end = size if end is None else min(end, size)
        begin = max(0, end - max_bytes)
        data = os.pread(fd, end - begin, begin)
    if begin > 0:
        data = data[(cut := _first_line_end(data)) :]
        begin += cut
    if end == size and _is_growing(view, number):
        data = data[: _last_line_end(data)]
    return {**told, "text": data.decode(errors="replace"), "begin": begin, "end": begin + len(data), "size": size}


def log_after(view: RunView, place: LogPlace, max_bytes: int) -> tuple[str, LogPlace, LogPlace] | None:
    """What was written since, in whole lines: the text, where it begins and where it ends; None when there is nothing.

    Of more than `max_bytes` the last.
    """
    with _opened(view.run_dir, f"session-{place.session}.{place.stream}") as fd:
        size = 0 if fd is None else os.fstat(fd).st_size
        if fd is None or size <= place.offset:
            return None
        begin = max(place.offset, size - max_bytes)
        data = os.pread(fd, size - begin, begin)
    if begin > place.offset:
        data = data[(cut := _first_line_end(data)) :]
        begin += cut
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


def _first_line_end(data: bytes) -> int:
    """Where the first whole line begins in what was cut out of a file; 0 when none does."""
    end = data.find(b"\n", 0, len(data) - 1)
    return end + 1


def _last_line_end(data: bytes) -> int:
    """Where the last whole line ends. Progress bars end theirs with a carriage return; endless ones are cut."""
    end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    return end if end > 0 or len(data) < MAX_LOG_BYTES // 2 else len(data)


def has_patch(view: RunView) -> bool:
    """Whether there are uncommitted changes to show."""
    with _opened(view.run_dir, _PATCH) as fd:
        return fd is not None


def patch(view: RunView) -> str | None:
    """The uncommitted changes that a run was started with, cut where they are too long; None where there are none."""
    with _opened(view.run_dir, _PATCH) as fd:
        if fd is None:
            return None
        data = os.pread(fd, MAX_PATCH_BYTES + 1, 0)
        size = os.fstat(fd).st_size
    text = data[:MAX_PATCH_BYTES].decode(errors="replace")
    if len(data) > MAX_PATCH_BYTES:
        text += f"\n… the first {MAX_PATCH_BYTES:,} of {size:,} bytes; all of it is in {view.run_dir}/{_PATCH}\n"
    return text
