"""A signal goes to one process and no other, and only where it can be told which is which."""

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from backprop import host
from backprop.cli.doctor import machine
from backprop.records import Level
from backprop.supervisor import roster
from backprop.supervisor.process import tree
from backprop.supervisor.roster import Roster


@pytest.fixture
def sleeper() -> "Iterator[subprocess.Popen[bytes]]":
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as started:
        try:
            yield started
        finally:
            started.kill()


def no_handles(error: int):
    def fail(pid: int) -> int:
        raise OSError(error, os.strerror(error))

    return fail


@pytest.mark.parametrize("error", [None, errno.ENOSYS, errno.EPERM, errno.EMFILE])
def test_the_process_that_is_meant_gets_the_signal(
    sleeper: "subprocess.Popen[bytes]", error: int | None, monkeypatch: pytest.MonkeyPatch
):
    """Also where the system has no handles for processes, or gives none."""
    if error is not None:
        monkeypatch.setattr(os, "pidfd_open", no_handles(error))
    assert not host.send(sleeper.pid, lambda: False, signal.SIGKILL)
    assert sleeper.poll() is None
    assert host.send(sleeper.pid, lambda: True, signal.SIGKILL)
    assert sleeper.wait() == -signal.SIGKILL
    assert not host.send(sleeper.pid, lambda: True, signal.SIGKILL)


@pytest.mark.parametrize("pid", [1, 0, -1, -os.getpgrp()])
def test_no_number_that_means_many_processes_or_the_systems_first(pid: int):
    """Whoever says that it is the one: os.kill would take it for groups of processes."""
    assert not host.send(pid, lambda: pytest.fail("asked"), signal.SIGCONT)


def test_one_that_ends_while_it_is_looked_at_is_not_signalled(sleeper: "subprocess.Popen[bytes]"):
    """Its number may be another's by then: the handle is no other's."""

    def end_and_agree() -> bool:
        sleeper.kill()
        sleeper.wait()
        return True

    assert not host.send(sleeper.pid, end_and_agree, signal.SIGCONT)


def test_a_process_of_the_tree_whose_number_was_given_away_is_not_signalled(sleeper: "subprocess.Popen[bytes]"):
    """Known by its start: the process with that number now has another."""
    gone = psutil.Process(sleeper.pid)
    gone._ident = (gone.pid, 1.0)
    assert tree.send([gone], signal.SIGKILL) == ()
    assert sleeper.poll() is None


def test_a_group_is_signalled_while_one_of_ours_is_in_it(sleeper: "subprocess.Popen[bytes]"):
    """Not one that no child of ours is a part of."""
    assert tree.signal_group(sleeper.pid, signal.SIGKILL)
    sleeper.wait()
    for pid in (sleeper.pid, 0, 1, -1):
        assert not tree.signal_group(pid, signal.SIGKILL)


def test_the_process_table_here_can_be_trusted():
    """On the machine of these tests."""
    assert host.table_problem() is None
    assert [finding.level for finding in machine.process_table()] == [Level.OK]


@pytest.mark.parametrize("is_there", [True, False])
def test_in_a_foreign_process_table_nobody_is_found(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]", is_there: bool, monkeypatch: pytest.MonkeyPatch
):
    """Of another namespace of pids, even where its number for us happens to be our own; or none at all."""
    Roster(tmp_path / "tree.json", 1, "boot").record([psutil.Process(sleeper.pid)])
    assert roster.living(tmp_path / "tree.json", 1, "boot")
    foreign, own = tmp_path / "proc", str(os.getpid())
    if is_there:
        (foreign / own).mkdir(parents=True)
        (foreign / "self").symlink_to(own)
        (foreign / own / "status").write_text(f"Name:\tpython\nNSpid:\t{own}\t17\n")
    monkeypatch.setattr(host, "_PROC", foreign)
    ours = host.namespace()
    monkeypatch.setattr(host, "namespace", lambda: ours)
    assert host.table_problem()
    assert [finding.level for finding in machine.process_table()] == [Level.NOTE]
    assert roster.living(tmp_path / "tree.json", 1, "boot") == []
    assert tree.marked(str(tmp_path)) == []


# -- whom the kernel killed for want of memory

KERNEL_LOG = [
    b"6,1,100000000,-;python3 invoked oom-killer: gfp_mask=0xcc0, order=0, oom_score_adj=0\n SUBSYSTEM=cpu\n",
    b"6,2,100000001,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),task=python3,pid=41,uid=0\n",
    b"3,3,100000002,-;Memory cgroup out of memory: Killed process 41 (python3) total-vm:103168kB, anon-rss:50000kB\n",
    b"3,4,200000000,-;Out of memory: Killed process 42 (a) b) total-vm:1kB\n",
    b"3,5,200000001,-;Out of memory: Kill process 43 (python) score 900 or sacrifice child\n",
    b"6,6,200000002,-;oom_reaper: reaped process 44 (python), now anon-rss:0kB\n",
    b"6,7,200000003,-;systemd[1]: Killed process 45 (python) with signal SIGKILL\n",
    b"12,8,200000004,-;somebody says: out of memory",
    b"garbage; Out of memory: Killed process 46 (x) ",
    b"",
]


@pytest.mark.parametrize(("since_s", "pids"), [(0.0, {41, 42, 43}), (150.0, {42, 43}), (300.0, set())])
def test_whom_the_kernel_killed_for_want_of_memory(since_s: float, pids: set[int]):
    """As its log names them, of old and new kernels, since then."""
    assert host.oom_killed_in(KERNEL_LOG, since_s) == pids


def test_who_cannot_read_the_kernels_log_knows_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nor who is in a namespace of pids of their own: the log's numbers are not theirs."""
    monkeypatch.setattr(host, "_KERNEL_LOG", tmp_path / "none")
    assert host.oom_killed_pids(0.0) is None
    monkeypatch.setattr(host, "namespace", lambda: "pid:[4026532000]")
    monkeypatch.setattr(host, "_KERNEL_LOG", Path(os.devnull))
    assert host.oom_killed_pids(0.0) is None
