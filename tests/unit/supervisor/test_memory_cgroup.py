"""The kernel's hard limit around a trainer: for real with cgroup v1, with trees of files for v2.

v2 with the memory controller was on none of the machines that these tests were written on, so what a kernel does
there (fill a new group, empty and remove it, refuse) is played by `kernel` below.
"""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backprop.governor.probes import cgroups
from backprop.supervisor.process import memory_cgroup
from backprop.supervisor.process.memory_cgroup import MemoryCgroup, build, remove_leftover
from tests.conftest import HANG_S

MB = 1_000_000


def own_v1_group() -> Path | None:
    for place in cgroups.places():
        if place.version == 1 and place.is_own and os.access(place.folders[0], os.W_OK):
            return place.folders[0]
    return None


needs_v1 = pytest.mark.skipif(
    own_v1_group() is None, reason="needs cgroup v1's memory controller and the right to make groups (root)"
)


# ---- for real ----


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Iterator[MemoryCgroup]:
    """A cage of 100 MB."""
    built = build(f"test-{os.getpid()}", 1, 100 * MB)
    assert built is not None
    yield built
    built.remove()
    assert not built.path.exists()


def in_cage(made: MemoryCgroup | None, program: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=made.enter if made else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


GREEDY = "held = bytearray(1_000_000_000)\nfor at in range(0, len(held), 4096): held[at] = 1\nprint('held')"


@needs_v1
def test_the_kernel_kills_who_passes_the_limit(made: MemoryCgroup):
    """Nobody else: the same program outside lives."""
    assert made.oom_kill_count() == 0
    assert in_cage(made, GREEDY).returncode == -signal.SIGKILL
    assert made.oom_kill_count() == 1
    assert in_cage(None, GREEDY).stdout == "held\n"
    assert made.oom_kill_count() == 1


@needs_v1
def test_within_the_limit_nothing_happens(made: MemoryCgroup):
    done = in_cage(made, "held = bytearray(50_000_000); print('held')")
    assert (done.returncode, done.stdout) == (0, "held\n")
    assert made.oom_kill_count() == 0


@needs_v1
def test_what_a_trainer_starts_is_inside_too(made: MemoryCgroup):
    """A grandchild in a session of its own that passes the limit is killed, and the count says so."""
    child = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {GREEDY!r}]).returncode != -9)"
    program = f"""
import subprocess, sys
print(subprocess.run([sys.executable, "-c", {child!r}], start_new_session=True).returncode)
"""
    done = in_cage(made, program)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
    assert made.oom_kill_count() == 1


@needs_v1
def test_the_tree_is_counted_together(made: MemoryCgroup):
    """Two children of 70 MB are too much, though each alone is not."""
    one = "held = bytearray(70_000_000)\nfor at in range(0, len(held), 4096): held[at] = 1\ninput()"
    program = f"""
import os, subprocess, sys
first = subprocess.Popen([sys.executable, "-c", {"print(flush=True);" + one!r}], stdin=subprocess.PIPE)
second = subprocess.Popen([sys.executable, "-c", {one!r}], stdin=subprocess.PIPE)
pid, status = os.wait()
print(os.waitstatus_to_exitcode(status))
first.kill(), second.kill()
"""
    assert "-9\n" in in_cage(made, program).stdout
    assert made.oom_kill_count() == 1


@needs_v1
def test_usage_is_what_is_held(made: MemoryCgroup):
    """Memory counts; a file that was read once does not."""
    program = "import sys; held = bytearray(60_000_000); held[::4096] = b'x' * len(held[::4096]); print(flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        preexec_fn=made.enter,  # noqa: PLW1509  there are no other threads
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        usage = made.usage_bytes()
    finally:
        child.communicate(timeout=HANG_S)
    assert usage is not None
    assert 60 * MB < usage < 90 * MB


@needs_v1
def test_swap_is_limited_with_it(made: MemoryCgroup):
    """Else a trainer at its limit would take the machine's swap instead."""
    limits = {int(made.path.joinpath(f"memory.{name}limit_in_bytes").read_text()) for name in ("", "memsw.")}
    assert limits == {100 * MB // 4096 * 4096}


@needs_v1
def test_a_cage_with_somebody_in_it_stays(made: MemoryCgroup):
    """Removal neither raises nor waits for it; when the straggler is gone, a later try succeeds."""
    child = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        preexec_fn=made.enter,  # noqa: PLW1509  there are no other threads
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        made.remove()
        assert made.path.is_dir()
        assert build(f"test-{os.getpid()}", 1, MB) is None  # never two trainers in one cage
        assert int((made.path / "memory.limit_in_bytes").read_text()) > 99 * MB
    finally:
        child.communicate(b"\n", timeout=10)
    remove_leftover(str(made.path))
    assert not made.path.exists()
    assert (made.oom_kill_count(), made.usage_bytes()) == (None, None)
    made.remove()  # a second time: nothing happens
    with pytest.raises(OSError):
        made.enter()


@needs_v1
def test_an_empty_cage_of_that_name_is_replaced(made: MemoryCgroup):
    """Its count of kills is not the new trainer's."""
    in_cage(made, GREEDY)
    assert made.oom_kill_count() == 1
    again = build(f"test-{os.getpid()}", 1, 100 * MB)
    assert again == made
    assert again.oom_kill_count() == 0


@needs_v1
def test_a_limit_that_the_kernel_refuses_leaves_nothing_behind():
    own = own_v1_group()
    assert own is not None
    assert build("test-refused", 1, -5) is None
    assert not (own / "backprop-test-refused-1").exists()


def unified() -> Path | None:
    """Our own group in v2's hierarchy, where we may make groups below it."""
    for place in cgroups.places():
        if place.version == 2 and place.is_own and os.access(place.folders[0], os.W_OK):
            return place.folders[0]
    return None


@pytest.mark.skipif(unified() is None, reason="needs cgroup v2 mounted and the right to make groups (root)")
def test_v2_is_entered_and_removed_in_the_same_way():
    """A real v2 group, but one without memory's files: entering, leaving by dying, removal, unknown figures."""
    own = unified()
    assert own is not None
    real = MemoryCgroup(own / f"backprop-test-{os.getpid()}-1", 2)
    real.path.mkdir()
    try:
        inside = in_cage(real, "print(open('/proc/self/cgroup').read())").stdout
    finally:
        real.remove()
    assert real.path.name in inside
    assert not real.path.exists()
    assert (real.oom_kill_count(), real.usage_bytes()) == (None, None)


# ---- with files ----

Kernel = Callable[..., Path]
FILES = {
    "cgroup.procs": "",
    "cgroup.controllers": "memory pids",
    "cgroup.subtree_control": "",
    "memory.max": "max",
    "memory.high": "max",
    "memory.swap.max": "max",
    "memory.current": "0",
    "memory.stat": "anon 0\ninactive_file 0\n",
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
    "cpu.max": "max 100000",
    "cpuset.cpus": "",
    "pids.max": "4915",
}
V1_FILES = {"cgroup.procs": "", "memory.limit_in_bytes": "9223372036854771712", "memory.oom_control": "oom_kill 0\n"}


class Fake:
    """A v2 hierarchy made of files, in which only some groups are ours to write."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.proc = folder / "proc"
        self.mount = folder / "sys/fs/cgroup"
        self.writable: set[Path] = set()
        self.unlimitable = False
        self.files = FILES
        (self.proc / "self").mkdir(parents=True)
        self.mount.mkdir(parents=True)

    def stands(self, path: str) -> None:
        (self.proc / "self/cgroup").write_text(f"0::{path}\n")
        (self.proc / "self/mountinfo").write_text("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")

    def group(self, path: str, subtree: str = "", ours: bool = False, **files: str) -> Path:
        folder = self.mount / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        given = {name.replace("__", "."): text for name, text in files.items()}
        for name, text in {**FILES, "cgroup.subtree_control": subtree, **given}.items():
            (folder / name).write_text(text)
        if ours:
            self.writable |= {folder, folder / "cgroup.procs"}
        return folder

    def build(self, limit_bytes: int = 5000) -> MemoryCgroup | None:
        return build("r", 2, limit_bytes, self.proc, self.root)

    def cages(self) -> list[Path]:
        return sorted(self.root.rglob("backprop-*"))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Plays the kernel: new groups have files, a group is removed with its files unless somebody is in it."""
    made = Fake(tmp_path)
    real_mkdir, real_rmdir = Path.mkdir, Path.rmdir

    def mkdir(path: Path) -> None:
        real_mkdir(path)
        for name, text in made.files.items():
            (path / name).write_text(text)
        if made.unlimitable:
            for name in ("memory.max", "memory.limit_in_bytes"):
                (path / name).unlink(missing_ok=True)

    def rmdir(path: Path) -> None:
        if (path / "cgroup.procs").exists() and (path / "cgroup.procs").read_text():
            raise OSError(errno.EBUSY, "busy")
        for name in (*FILES, *V1_FILES):
            (path / name).unlink(missing_ok=True)
        real_rmdir(path)

    monkeypatch.setattr(
        memory_cgroup.Path,
        "mkdir",
        lambda path, *rest, **more: real_mkdir(path, *rest, **more) if rest or more else mkdir(path),
    )
    monkeypatch.setattr(memory_cgroup.Path, "rmdir", rmdir)
    monkeypatch.setattr(memory_cgroup.os, "access", lambda path, mode: Path(path) in made.writable)
    return made


USER = "/user.slice/user-1000.slice/user@1000.service"


def desktop(fake: Fake, own: str) -> None:
    """A user's systemd: what is below user@1000.service belongs to the user, what is above to root."""
    fake.group("/", subtree="cpuset cpu io memory pids")
    fake.group("/user.slice", subtree="cpu memory pids")
    fake.group("/user.slice/user-1000.slice", subtree="cpu memory pids")
    fake.group(USER, subtree="cpu memory pids", ours=True)
    fake.group(USER + "/app.slice", subtree="memory pids", ours=True)
    fake.group(own, ours=True)
    fake.stands(own)


@pytest.mark.parametrize(
    ("own", "parent"),
    [
        (USER + "/app.slice/run-r12.scope", "/app.slice"),  # systemd-run --user --scope
        (USER + "/app.slice/vte-spawn-1.scope", "/app.slice"),  # a terminal of the desktop
        (USER + "/run-r12.scope", ""),  # systemd-run --user --scope, before app.slice came
        (USER + "/app.slice/app-terminal.slice/vte-1.scope", "/app.slice"),  # a slice that hands nothing on
    ],
)
def test_a_users_own_systemd(fake: Fake, own: str, parent: str):
    """The cage stands beside our own group, in the nearest one that is ours and hands memory on."""
    desktop(fake, own)
    if "app-terminal" in own:
        fake.group(str(Path(own).parent), subtree="pids", ours=True)
    built = fake.build()
    assert built == MemoryCgroup(Path(f"{fake.mount}{USER}{parent}/backprop-r-2"), 2)
    assert {name: (built.path / name).read_text() for name in ("memory.max", "memory.swap.max")} == {
        "memory.max": "5000",
        "memory.swap.max": "0",
    }
    built.remove()
    assert fake.cages() == []


def test_a_login_over_ssh_has_none(fake: Fake):
    """The session's scope and all above it are root's."""
    desktop(fake, "/user.slice/user-1000.slice/session-3.scope")
    fake.writable.clear()
    assert fake.build() is None
    assert fake.cages() == []


def test_a_group_whose_processes_we_may_not_move_will_not_do(fake: Fake):
    """The kernel asks for write access to cgroup.procs of the common ancestor, not just to the folder."""
    desktop(fake, USER + "/app.slice/run-r12.scope")
    fake.writable.discard(fake.mount / f"{USER[1:]}/app.slice/cgroup.procs")
    built = fake.build()
    assert built is not None
    assert built.path.parent == fake.mount / USER[1:]


@pytest.mark.parametrize(
    ("name", "text"),
    [("memory__max", "4000000000"), ("memory__high", "1"), ("cpu__max", "50000 100000"), ("cpuset__cpus", "0-3")],
)
def test_a_trainer_is_not_taken_out_of_a_limit(fake: Fake, name: str, text: str):
    """`systemd-run -p MemoryMax=4G`: beside the scope the trainer would be free of it."""
    desktop(fake, USER + "/app.slice/run-r12.scope")
    fake.group(USER + "/app.slice/run-r12.scope", ours=True, **{name: text})
    assert fake.build() is None
    assert fake.cages() == []


def test_a_limit_that_stays_above_does_not_matter(fake: Fake):
    """The cage is below it."""
    desktop(fake, USER + "/app.slice/run-r12.scope")
    fake.group(USER + "/app.slice", subtree="memory", ours=True, memory__max="9000")
    built = fake.build()
    assert built is not None
    assert built.path.parent.name == "app.slice"


def test_a_group_that_is_not_surely_ours(fake: Fake):
    """A container that shows us the host's path: a cage below what we see would be somewhere else."""
    fake.group("/", subtree="memory", ours=True)
    fake.stands("/docker/abc")
    assert fake.build() is None
    fake.stands("/")
    assert fake.build() is not None


def test_a_kernel_without_swap_accounting(fake: Fake):
    fake.files = {name: text for name, text in FILES.items() if name != "memory.swap.max"}
    desktop(fake, USER + "/app.slice/run-r12.scope")
    built = fake.build()
    assert built is not None
    assert not (built.path / "memory.swap.max").exists()


def test_a_group_without_the_controller_is_taken_away_again(fake: Fake):
    fake.unlimitable = True
    desktop(fake, USER + "/app.slice/run-r12.scope")
    assert fake.build() is None
    assert fake.cages() == []


def test_figures_of_v2(fake: Fake):
    desktop(fake, USER + "/app.slice/run-r12.scope")
    built = fake.build()
    assert built is not None
    assert (built.oom_kill_count(), built.usage_bytes()) == (0, 0)
    (built.path / "memory.events").write_text("low 0\noom 9\noom_kill 2\noom_group_kill 1\n")
    (built.path / "memory.current").write_text("700\n")
    (built.path / "memory.stat").write_text("anon 1\ninactive_file 200\n")
    assert (built.oom_kill_count(), built.usage_bytes()) == (2, 500)
    built.enter()
    assert (built.path / "cgroup.procs").read_text() == "0"


def v1(fake: Fake, hierarchy: str = "1") -> Path:
    (fake.proc / "self/cgroup").write_text("4:memory:/a\n")
    (fake.proc / "self/mountinfo").write_text("35 32 0:32 / /sys/fs/cgroup rw - cgroup cgroup rw,memory\n")
    own = fake.group("/a", ours=True, memory__use_hierarchy=hierarchy)
    fake.files = V1_FILES
    return own


def test_v1_is_below_our_own_group(fake: Fake):
    """Without swap accounting the limit of RAM is all there is; the killer is switched on, it may be inherited off."""
    own = v1(fake)
    built = fake.build()
    assert built == MemoryCgroup(own / "backprop-r-2", 1)
    assert (built.path / "memory.limit_in_bytes").read_text() == "5000"
    assert (built.path / "memory.oom_control").read_text() == "0"
    assert not (built.path / "memory.memsw.limit_in_bytes").exists()


def test_v1_without_hierarchy_will_not_do(fake: Fake):
    """Kernels before 5.11: the limit of our own group would not hold in the cage."""
    v1(fake, hierarchy="0")
    assert fake.build() is None


def test_v1_that_is_not_ours_to_write(fake: Fake):
    v1(fake)
    fake.writable.clear()
    assert fake.build() is None


def test_no_cgroups_no_cage(tmp_path: Path):
    """macOS."""
    assert build("r", 1, 5000, tmp_path, tmp_path) is None


@pytest.mark.parametrize("name", ["backprop-r-1", "backprop-a-b_c.d-12"])
def test_a_leftover_is_removed(fake: Fake, name: str):
    folder = fake.group(name)
    remove_leftover(str(folder))
    assert not folder.exists()


@pytest.mark.parametrize("name", ["other", "backprop-r", "backprop-r-x", "xbackprop-r-1", "backprop-r-1.scope"])
def test_what_is_not_named_like_a_cage_stays(fake: Fake, name: str):
    folder = fake.group(name)
    remove_leftover(str(folder))
    assert folder.is_dir()


def test_what_is_no_empty_cage_stays(fake: Fake):
    """An ordinary folder; a cage with a process; nothing at all; no path at all."""
    ordinary = fake.root / "backprop-r-1"
    ordinary.mkdir(parents=True)
    remove_leftover(str(ordinary))
    assert ordinary.is_dir()
    full = fake.group("/backprop-r-2", cgroup__procs="12\n")
    remove_leftover(str(full))
    assert full.is_dir()
    for path in ("/nowhere/backprop-r-1", "", "backprop-\0-1"):
        remove_leftover(path)
