"""No test leaves a process, a mount, a lock or a file outside its own folder: what it left is ended, and it fails.

Loaded by conftest.py. On Linux the process of pytest becomes a child sub-reaper, so that whatever a test started, however
often it forked and called setsid, has a living ancestor among our children: one read of the kernel's list of them
answers for the whole tree. Elsewhere only files are checked.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
# What was told to end is given the time to: a busy machine takes a while to run an exit. Nothing waits where nothing is left.
ENDING_S = float(os.environ.get("TEST_ENDING_S", "20"))

# Process ids that outlive a test because a fixture of the whole session owns them: the daemons of a cluster, a browser.
owned_by_session: list[Callable[[], set[int]]] = []


@dataclass(frozen=True)
class Surroundings:
    """What a test must leave as it found it."""

    processes: frozenset[int]  # our children, by id
    mounts: frozenset[str]  # below the folder of pytest's temporary files, by path
    locks: frozenset[str]  # held by this very process; the kernel's lines for them
    files: frozenset[str]  # in the folders where a test has no business, by path


@pytest.fixture(scope="session", autouse=True)
def forbidden_folder() -> Iterator[Path]:
    """Working folder, TMPDIR and BACKPROP_HOME of whatever does not say otherwise: files that appear in it were left.

    Its name is short, because programs make sockets in TMPDIR, and a socket's path has at most 108 letters.
    """
    folder = Path(tempfile.mkdtemp(prefix="left-"))
    for name in ("cwd", "tmp"):
        (folder / name).mkdir()
    os.chdir(folder / "cwd")
    os.environ |= {"TMPDIR": str(folder / "tmp"), "BACKPROP_HOME": str(folder / "home")}
    tempfile.tempdir = None  # Python remembers the old one
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield folder
    os.chdir("/")
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_is_left(forbidden_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails, at its teardown, the test that left something, after ending that."""
    temporary = tmp_path_factory.getbasetemp()
    before = look(forbidden_folder, temporary)
    yield
    _wait_for_ends(before)
    after = look(forbidden_folder, temporary)
    found = [
        *(f"process {_described(pid)}" for pid in sorted(_left(before))),
        *(f"mount {path}" for path in sorted(after.mounts - before.mounts)),
        *(f"lock {line}" for line in sorted(after.locks - before.locks)),
        *(f"file {path}" for path in sorted(after.files - before.files)),
    ]
    if found:
        _end(_left(before))
        for path in sorted(after.mounts - before.mounts, reverse=True):
            subprocess.run(["umount", "--lazy", path], check=False)
        for path in after.files - before.files:
            _remove(Path(path))
        pytest.fail("this test left behind:\n" + "\n".join(found), pytrace=False)


def look(forbidden: Path, temporary: Path) -> Surroundings:
    """How things are now; a millisecond. temporary: where pytest makes the folders of its tests."""
    return Surroundings(
        processes=frozenset(_children()),
        mounts=frozenset(_mounts(temporary)),
        locks=frozenset(_locks()),
        files=frozenset(
            str(path)
            for folder in (forbidden, forbidden / "cwd", forbidden / "tmp")
            for path in folder.iterdir()
            if path.name not in {"cwd", "tmp"}
        ),
    )


def _children() -> set[int]:
    """Ids of our direct children that live, orphans that we inherited included. Those that have ended are reaped."""
    found = set()
    for thread in Path("/proc/self/task").glob("*"):
        with suppress(FileNotFoundError):  # a thread that has just ended
            found |= {int(pid) for pid in (thread / "children").read_text().split()}
    return {pid for pid in found if not _has_ended(pid)}


def _has_ended(pid: int) -> bool:
    """Also reaps it, if nobody here waits for it: an orphan, or a process that a test forgot."""
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return True


def _left(before: Surroundings) -> set[int]:
    return _children() - before.processes - {pid for owned in owned_by_session for pid in owned()}


def _wait_for_ends(before: Surroundings) -> None:
    deadline = time.monotonic() + ENDING_S
    while _left(before) and time.monotonic() < deadline:
        time.sleep(0.01)


def _mounts(folder: Path) -> set[str]:
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except FileNotFoundError:
        return set()
    return {path for path in (line.split()[4] for line in lines) if path.startswith(str(folder))}


def _locks() -> set[str]:
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except FileNotFoundError:
        return set()
    # 1: FLOCK  ADVISORY  WRITE 3643 fe:00:2146658 0 EOF; the number in front changes
    return {" ".join(words[1:]) for words in map(str.split, lines) if str(os.getpid()) in words}


def _described(pid: int) -> str:
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return f"{pid} ({process.status()}): {' '.join(process.cmdline()) or process.name()}"
    return str(pid)


def _end(doomed: set[int]) -> None:
    """These and their descendants, those that become our children meanwhile included."""
    ours = _children() - doomed
    while living := _children() - ours:
        for pid in living:
            with suppress(psutil.NoSuchProcess):
                for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
        time.sleep(0.01)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
