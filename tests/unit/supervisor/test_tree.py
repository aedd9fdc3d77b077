"""How a tree is ended, with processes that are none: what is asked of them, and in which order."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from signal import Signals

import psutil
import pytest

from backprop.supervisor.process import tree
from backprop.supervisor.process.launch import RUN_DIR_VARIABLE
from tests.conftest import wait_for


class Tree:
    """Ends after a number of looks at it, or when it is killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
        self._looks = looks
        self.log: list[str] = []
        self.pid = 42
        monkeypatch.setattr(tree, "send", self._send)
        monkeypatch.setattr(tree, "kill", self._kill)
        monkeypatch.setattr(tree, "own_children", frozenset)
        monkeypatch.setattr(tree, "HAS_SUBREAPER", True)

    def find(self) -> list[object]:
        self._looks -= 1
        return [self] if self._looks >= 0 else []

    def _send(self, targets: Iterable[object], number: Signals) -> tuple[int, ...]:
        assert list(targets)
        self.log.append(number.name)
        return (42,)

    def _kill(self, *_: object) -> list[int]:
        self.log.append("SIGKILL")
        return []


def test_orphans_that_end_in_time_are_only_continued(monkeypatch: pytest.MonkeyPatch):
    """They may be saving; a paused one could not."""
    orphans = Tree(monkeypatch, looks=3)
    assert tree.end_orphans(orphans.find, 5.0) == [42]  # type: ignore[arg-type]
    assert orphans.log == ["SIGCONT"]


def test_orphans_that_do_not_end_are_killed(monkeypatch: pytest.MonkeyPatch):
    orphans = Tree(monkeypatch, looks=10**6)
    monkeypatch.setattr(tree, "wait_gone", lambda *_: False)
    assert tree.end_orphans(orphans.find, 0.0) == [42]  # type: ignore[arg-type]
    assert orphans.log == ["SIGCONT", "SIGTERM", "SIGKILL"]


def test_where_there_are_none_nothing_is_sent(monkeypatch: pytest.MonkeyPatch):
    orphans = Tree(monkeypatch, looks=0)
    assert tree.end_orphans(orphans.find, 5.0) == ()  # type: ignore[arg-type]
    assert orphans.log == []


@pytest.mark.parametrize(("is_gone_after", "timeout_s", "found"), [(0, 0.0, True), (2, 9.0, True), (10**6, 0.0, False)])
def test_a_wait_ends_with_the_tree_or_with_its_time(is_gone_after: int, timeout_s: float, found: bool):
    """One that is gone already costs no time, however short the timeout."""
    looks = iter(range(10**6))
    assert tree.wait_gone(lambda: next(looks) >= is_gone_after, timeout_s) is found


def test_no_group_of_others_is_signalled():
    """1 is init, 0 our own group, and a number that no child of ours leads may be anybody's."""
    for pid in (0, 1, 2**22):
        assert not tree.signal_group(pid, Signals.SIGCONT)


def test_a_process_that_is_ending_is_in_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nor in ours. Linux forgets its folder before it is a zombie, and psutil says "" then."""
    with started(str(tmp_path)) as process:
        members = [psutil.Process(process.pid)]
        assert tree.folders(members) == (str(Path.cwd()),)
        monkeypatch.setattr(psutil.Process, "cwd", lambda _: "")
        assert tree.folders(members) == ()


@pytest.mark.skipif(sys.platform != "linux", reason="psutil reads all of them elsewhere")
def test_only_processes_that_name_the_run_are_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A machine has hundreds, and psutil takes a tenth of a millisecond for each."""
    looked_into: list[int] = []
    environ = psutil.Process.environ

    def counted(process: psutil.Process) -> dict[str, str]:
        looked_into.append(process.pid)
        return environ(process)

    run_dir = f"{tmp_path}/a"  # which no process of another test names
    with started(run_dir) as ours, started(f"{tmp_path}/b"), started(f"{run_dir}/b") as similar:
        monkeypatch.setattr(psutil.Process, "environ", counted)
        assert [one.pid for one in tree.marked(run_dir)] == [ours.pid]
        assert set(looked_into) == {ours.pid, similar.pid}


def started(run_dir: str) -> "subprocess.Popen[bytes]":
    """A process with the mark of a run, which ends with its stdin."""
    process = subprocess.Popen(["/bin/cat"], env={RUN_DIR_VARIABLE: run_dir}, stdin=subprocess.PIPE)
    wait_for(lambda: process.pid in {one.pid for one in tree.marked(run_dir)})
    return process
