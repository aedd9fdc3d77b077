"""What lies where a run's file belongs is read only if it is a file."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from backprop.lifecycle import notifier
from backprop.records import Status
from backprop.store.files import NotAFileError, open_plain, open_to_append, read_plain
from backprop.store.journal.file import Journal, read
from backprop.store.rundir import RunDir


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _link(path: Path) -> None:
    path.with_name("secret").write_text("secret")
    path.symlink_to(path.with_name("secret"))


STRANGE = [os.mkfifo, Path.mkdir, _socket, _link, lambda path: path.symlink_to("/dev/zero")]


@pytest.mark.parametrize("make", STRANGE)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable):
    """A FIFO, a folder, a socket, and a link wherever it leads: an error that names it, and no waiting."""
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    path = Path("journal.jsonl")
    make(path)
    for opens in (read_plain, open_plain, open_to_append, read, Journal):
        with pytest.raises(NotAFileError, match=r"journal\.jsonl is not a file"):
            opens(path)


def test_a_file_is_read(tmp_path: Path):
    (tmp_path / "f").write_bytes(b"\0\xff")
    assert read_plain(tmp_path / "f") == b"\0\xff"


def test_a_file_that_is_not_there_is_missing(tmp_path: Path):
    """As ever: no other error than that of `open`."""
    with pytest.raises(FileNotFoundError):
        read_plain(tmp_path / "f")


def test_what_is_written_is_appended(tmp_path: Path):
    """To a file of the owner alone, by a descriptor that blocks: a trainer gets it as its stdout."""
    for _ in range(2):
        fd = open_to_append(tmp_path / "f")
        assert os.get_blocking(fd)
        os.write(fd, b"line\n")
        os.close(fd)
    assert (tmp_path / "f").read_bytes() == b"line\nline\n"
    assert (tmp_path / "f").stat().st_mode & 0o077 == 0


def test_nothing_is_written_through_a_link(tmp_path: Path):
    """Not by the log of notifications: a run directory may come from anybody's archive."""
    (tmp_path / "mine").write_text("")
    rundir = RunDir(tmp_path)
    rundir.notify_log_path.symlink_to("mine")
    notifier.log(rundir, Status.FAILED, "all", "sent")
    assert (tmp_path / "mine").read_text() == ""
