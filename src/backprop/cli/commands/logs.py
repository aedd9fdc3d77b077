"""The command that prints what trainers wrote: `logs`."""

import codecs
import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click

from backprop.cli.context import check_readable, open_caught_up, say
from backprop.cli.several import EVERY, Choice, each, several_runs
from backprop.errors import NoSuchRunError, UsageError
from backprop.records import Run, RunView
from backprop.store import output_order
from backprop.store.files import foreign_owner, open_plain, unreadable
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.store.rundir import LAST, RunDir
from backprop.text import printable_lines

_FOLLOW_POLL_S = 0.1
_FOLLOW_REFRESH_S = 1.0
_COPY_BYTES = 1 << 16
_DECODER = codecs.getincrementaldecoder("utf-8")
_LINE_ENDS = (b"\n", b"\r")  # progress bars know only the latter
_LINE = re.compile(rb"(?<=\n)|(?<=\r)(?=[^\n])")  # where one begins
_LONGEST_LINE = 1 << 20  # bytes; what is longer counts as several


@click.command()
@several_runs("All runs.", of_all=EVERY, default=LAST)
@click.option("-f", "--follow", is_flag=True, help="Keep printing until the run ends.")
@click.option("--stdout", is_flag=True, help="Only stdout.")
@click.option("--stderr", is_flag=True, help="Only stderr.")
@click.option("--session", type=click.IntRange(min=1), metavar="N", help="Only this session. [default: the last]")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of each run.")
@click.option("--grep", metavar="PATTERN", help="Only lines that match this regular expression (Python's).")
@click.option("--raw", is_flag=True, help="Pass control characters through to the terminal.")
def logs(
    *,
    choice: Choice,
    follow: bool,
    stdout: bool,
    stderr: bool,
    session: int | None,
    tail: int | None,
    grep: str | None,
    raw: bool,
) -> None:
    """Print the output of runs: stdout and stderr, in their order as far as it is known.

    Without RUN, print the output of the last run. In a terminal, control characters are shown as text.
    """
    pattern = _pattern(grep)
    home = Home.from_environment()
    with open_caught_up(home) as index:
        views = choice.find(home, index)
        if follow and len(views) > 1:
            raise UsageError(f"-f/--follow takes one RUN, not {len(views)}.")
        is_wanted = (stdout or not stderr, stderr or not stdout)

        place = _Stdout(is_text=not raw and os.isatty(sys.stdout.fileno()))

        def show(view: RunView) -> None:
            if len(views) > 1:
                name = f" ({view.run.spec.name})" if view.run.spec.name else ""
                place.write(None, f"==> {view.run.spec.id}{name} <==\n".encode())
            if foreign_owner(home.rundir(view.run.spec.id).path) is not None:
                check_readable(view.run)
            lines = _Lines(place, tail, pattern)
            _show(_Current(home, index, view.run), lines, is_wanted, session, follow=follow)

        code = each(views, show)
    raise click.exceptions.Exit(code)


def _pattern(text: str | None) -> re.Pattern[str] | None:
    """Raises UsageError."""
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise UsageError(f"--grep {text!r}: not a regular expression: {error}.") from error


def _show(
    current: "_Current", lines: "_Lines", is_wanted: tuple[bool, bool], session: int | None, *, follow: bool
) -> None:
    """One session of a run; with `follow`, what it and those after it write until the run ends.

    is_wanted: its stdout, its stderr.
    """
    if follow:
        current.wait_for_session_after(0)  # it may be queued for its first
    number = _number_to_show(current.run, session)
    while True:
        if follow:
            current.wait_for_output(number)
        if not (path := current.rundir.out_path(number)).exists():
            was_launched = any(one.number == number and one.launched_at is not None for one in current.run.sessions)
            say(f"{path} does not exist: {'it was removed' if was_launched else 'the trainer was never launched'}.")
            return
        with closing(_Output(current.rundir, number, is_wanted, lines)) as output:
            while follow and current.is_running(number):
                output.copy()
                lines.flush()
                time.sleep(_FOLLOW_POLL_S)
            output.copy(is_over=True)
            lines.end()
        if not follow or session is not None:
            break
        current.wait_for_session_after(number)
        if current.run.newest_number == number:
            break
        number = current.run.newest_number
    if follow and os.isatty(sys.stdout.fileno()):
        say(f"run {current.run.spec.id} is not running.")


def _number_to_show(run: Run, wanted: int | None) -> int:
    """Raises UsageError when there is no such session."""
    newest = run.newest_number
    if newest == 0:
        raise UsageError(f"run {run.spec.id} never started: {run.reason or run.status.value}.")
    if wanted is not None and wanted > newest:
        raise UsageError(f"run {run.spec.id} has {newest} session(s), not {wanted}.")
    return wanted or newest


class _Stdout:
    """Our stdout, and its last source: output of another source begins on a line of its own."""

    def __init__(self, *, is_text: bool) -> None:
        """is_text: nothing in it is to be obeyed by a terminal."""
        self._decoders: dict[object, codecs.IncrementalDecoder] | None = {} if is_text else None
        self._last: object = None
        self._ends_line = True

    def write(self, source: object, data: bytes) -> None:
        if source is not self._last and not self._ends_line:
            sys.stdout.buffer.write(b"\n")
        self._last, self._ends_line = source, data.endswith(b"\n")
        if self._decoders is not None:
            decoder = self._decoders.setdefault(source, _DECODER(errors="backslashreplace"))
            data = printable_lines(decoder.decode(data)).encode()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


class _Lines:
    """The lines that are wanted of what is written, passed on to a place."""

    def __init__(self, place: _Stdout, tail: int | None, pattern: re.Pattern[str] | None) -> None:
        """tail: the last so many of what comes before the first `flush`; after that, all. None: all."""
        self._place = place
        self._pattern = pattern
        self._held: deque[tuple[object, bytes]] | None = None if tail is None else deque(maxlen=tail)
        self._begun: dict[object, bytes] = {}  # lines without their end, by source

    def write(self, source: object, data: bytes) -> None:
        data = self._begun.pop(source, b"") + data
        if self._pattern is None and self._held is None:
            self._place.write(source, data)
            return
        *lines, begun = _LINE.split(data)
        for line in lines:
            self._pass_on(source, line)
        if len(begun) <= _LONGEST_LINE:
            self._begun[source] = begun
        else:
            self._pass_on(source, begun)

    def flush(self) -> None:
        """What was held back is written; a line that has not ended stays."""
        held, self._held = self._held, None
        for source, line in held or ():
            self._place.write(source, line)

    def end(self) -> None:
        """No more will be written: lines without an end are lines, too."""
        for source, line in self._begun.items():
            if line:
                self._pass_on(source, line)
        self._begun.clear()
        self.flush()

    def _pass_on(self, source: object, line: bytes) -> None:
        if self._pattern is not None and not self._pattern.search(os.fsdecode(line.rstrip(b"\r\n"))):
            return
        if self._held is None:
            self._place.write(source, line)
        else:
            self._held.append((source, line))


class _Current:
    """A run that is followed, refreshed once a second."""

    def __init__(self, home: Home, index: Index, run: Run) -> None:
        self.run = run
        self.rundir = home.rundir(run.spec.id)
        self._home = home
        self._index = index
        self._looked_at = -math.inf  # what the index has does not tell whether a session follows
        self._is_answered_for = False  # True between two sessions of one command, too: more is to come

    def is_running(self, number: int) -> bool:
        """Whether the session of that number has not ended yet."""
        self._refresh()
        return any(session.number == number and not session.status.is_final for session in self.run.sessions)

    def wait_for_output(self, number: int) -> None:
        """Wait until the trainer of that session is launched, or the session has ended without it."""
        paths = (self.rundir.out_path(number), self.rundir.err_path(number))
        while not all(path.exists() for path in paths) and self.is_running(number):
            time.sleep(_FOLLOW_POLL_S)

    def wait_for_session_after(self, number: int) -> None:
        """Wait for a newer one, or until the run has ended."""
        while self.run.newest_number <= number and (self._is_answered_for or not self.run.status.is_final):
            time.sleep(_FOLLOW_POLL_S)
            self._refresh()

    def _refresh(self) -> None:
        from backprop.lifecycle import indexing

        if time.monotonic() - self._looked_at > _FOLLOW_REFRESH_S:
            self._looked_at = time.monotonic()
            self._is_answered_for = indexing.refresh(self._home, self._index, self.rundir, say)
            view = self._index.get(self.run.spec.id)
            if not self.rundir.path.exists():
                raise NoSuchRunError(f"run {self.run.spec.id} was removed.")
            if view is not None:  # else the index is being rebuilt: the next look has it
                self.run = view.run


class _Stream:
    """One of the two files, and how far it has been copied."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, or UnreadableError for another user's."""
        try:
            self._file = os.fdopen(open_plain(path), "rb", buffering=0)
        except PermissionError as error:
            raise unreadable(path, error) from error
        self.close = self._file.close
        self.at = 0

    def size_bytes(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def take(self, end: int) -> Iterator[bytes]:
        """What lies between here and `end`."""
        self._file.seek(self.at)
        while self.at < end and (data := self._file.read(min(_COPY_BYTES, end - self.at))):
            self.at += len(data)
            yield data

    def last_line_end(self, end: int) -> int:
        """Where the last line that is whole by `end` ends; where we are if none is."""
        begin = end
        while begin > self.at:
            stop, begin = begin, max(self.at, begin - _COPY_BYTES)
            self._file.seek(begin)
            data = self._file.read(stop - begin)
            if (found := max(data.rfind(mark) for mark in _LINE_ENDS)) >= 0:
                return begin + found + 1
        return self.at


class _Output:
    """What one session wrote, copied to our stdout as it was written, as far as the order is known.

    Where the order is not known, stdout comes first, and neither stream breaks into a line of the other.
    """

    def __init__(self, rundir: RunDir, session: int, is_wanted: tuple[bool, bool], lines: _Lines) -> None:
        self._order_path = rundir.order_path(session)
        paths = (rundir.out_path(session), rundir.err_path(session))
        # what an older tool recorded has no stderr
        self._streams = [
            _Stream(path) for path, wants in zip(paths, is_wanted, strict=True) if wants and os.path.lexists(path)
        ]
        self._lines = lines

    def close(self) -> None:
        for stream in self._streams:
            stream.close()

    def copy(self, *, is_over: bool = False) -> None:
        """What has come since the last call. is_over: no more will."""
        sizes = [stream.size_bytes() for stream in self._streams]
        if len(self._streams) == len(output_order.OrderNote._fields):
            for note in output_order.read(self._order_path):
                if note.err_bytes > self._streams[1].at:
                    self._advance([min(pair) for pair in zip(note, sizes, strict=True)])
        self._advance(sizes, is_over=is_over)

    def _advance(self, ends: list[int], *, is_over: bool = False) -> None:
        news = [(stream, end) for stream, end in zip(self._streams, ends, strict=True) if end > stream.at]
        for stream, end in news:
            is_last = len(news) == 1 or (is_over and stream is news[-1][0])
            self._put(stream, end if is_last else stream.last_line_end(end))
        if is_over and news:
            self._put(*news[0])  # the end of its last line

    def _put(self, stream: _Stream, end: int) -> None:
        for data in stream.take(end):
            self._lines.write(stream, data)
