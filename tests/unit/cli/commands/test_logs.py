"""Lines of several sources on one stdout: none is torn, none is lost, the last ones can be chosen."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backprop.cli.commands import logs
from backprop.lifecycle import indexing
from backprop.records import Run, Status
from backprop.store.home import Home
from tests.records import SPEC, session_record


def lines(tail: int | None = None, pattern: str | None = None, *, is_text: bool = False) -> logs._Lines:
    return logs._Lines(logs._Stdout(is_text=is_text), tail, None if pattern is None else re.compile(pattern))


def test_another_source_begins_on_a_line_of_its_own(capsysbinary: pytest.CaptureFixture[bytes]):
    """stdout without a newline at its end, then stderr."""
    made = lines()
    for source, data in (("out", b"50 %"), ("err", b"warning\n"), ("out", b"a\n"), ("out", b"b\n")):
        made.write(source, data)
    assert capsysbinary.readouterr().out == b"50 %\nwarning\na\nb\n"


def test_the_last_lines_of_both_and_then_all(capsysbinary: pytest.CaptureFixture[bytes]):
    """`--tail 2`, then what a run that goes on writes: a line that had begun is whole."""
    made = lines(tail=2)
    made.write("out", b"1\n2\n")
    made.write("err", b"3\n")
    made.write("out", b"4")
    made.flush()
    made.write("out", b"4\n5\n")
    made.end()
    assert capsysbinary.readouterr().out == b"2\n3\n44\n5\n"


def test_a_pattern_matches_lines_however_they_were_read(capsysbinary: pytest.CaptureFixture[bytes]):
    """Also one without a newline at the very end, and progress bars, which end theirs with a carriage return."""
    made = lines(pattern="^epoch .*9$")
    for data in (b"epo", b"ch 1/9\nloss 9\nepoch 2/9\repoch", b" 3/9"):
        made.write("out", data)
    made.end()
    assert re.split(rb"[\r\n]+", capsysbinary.readouterr().out) == [b"epoch 1/9", b"epoch 2/9", b"epoch 3/9"]


def test_a_line_without_end_is_not_kept_in_memory(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logs, "_LONGEST_LINE", 10)
    made = lines(pattern="x")
    made.write("out", b"x" * 11)
    assert made._begun == {}
    assert capsysbinary.readouterr().out == b"x" * 11


def test_a_terminal_is_not_commanded(capsysbinary: pytest.CaptureFixture[bytes]):
    """And a character that was cut in two by the reading is put together."""
    made = lines(is_text=True)
    data = "é\x1b[2J\n".encode()
    made.write("out", data[:1])
    made.write("out", data[1:])
    shown = capsysbinary.readouterr().out
    assert b"\x1b" not in shown
    assert "é" in shown.decode()


def test_whether_another_session_follows_is_asked_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A run that looks ended when `logs -f` begins may be one whose job is about to begin its next session."""
    home = Home(tmp_path / "home")
    home.rundir(SPEC.id).path.mkdir(parents=True)
    between = Run(spec=SPEC, status=Status.TIMEBOXED, latest=(session_record(Status.TIMEBOXED),))
    later = Run(spec=SPEC, status=Status.RUNNING, latest=(*between.sessions, session_record(Status.RUNNING, 2)))
    answers = iter((between, later))
    monkeypatch.setattr(indexing, "refresh", lambda *_: True)  # it is answered for
    index = cast("Any", SimpleNamespace(get=lambda _: SimpleNamespace(run=next(answers))))
    current = logs._Current(home, index, between)
    assert not current.is_running(1)
    current.wait_for_session_after(1)
    assert current.run.newest_number == 2
