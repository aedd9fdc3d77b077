"""Where a process stands in the control groups, against trees of files laid out as kernels and containers do."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.governor.probes.cgroups import Room, keyed_number, memory_room, places

V1 = "35 32 0:32 {root} {mount} rw,relatime shared:9 - cgroup cgroup rw,memory"
V2 = "41 31 0:38 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
OTHER = (
    "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"
)


class System:
    """A /proc and a / made of files."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.proc = folder / "proc"
        (self.proc / "self").mkdir(parents=True)

    def stands(self, cgroup: str, *mounts: str) -> None:
        (self.proc / "self/cgroup").write_text(cgroup)
        (self.proc / "self/mountinfo").write_text("\n".join([OTHER, *mounts]) + "\n")

    def v1(self, path: str, limit: object, usage: int = 0, cache: int = 0) -> Path:
        # the first is the group's alone and must not be taken for that of all below it
        stat = f"cache 1\ninactive_file 77\nhierarchical_memory_limit 5\ntotal_inactive_file {cache}"
        return self.group(path, limit_in_bytes=limit, usage_in_bytes=usage, stat=stat)

    def v2(self, path: str, limit: object, usage: int = 0, cache: int = 0, high: object = "max") -> Path:
        stat = f"anon 1\ninactive_file {cache}\nactive_file 3"
        return self.group(path, max=limit, high=high, current=usage, stat=stat)

    def group(self, path: str, **files: object) -> Path:
        folder = self.root / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / f"memory.{name}").write_text(f"{value}\n")
        return folder

    def room(self) -> Room | None:
        return memory_room(self.proc, self.root)


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


UNIFIED = V2.format(root="/", mount="/sys/fs/cgroup")
MEMORY = V1.format(root="/", mount="/sys/fs/cgroup/memory")


def test_v2_counts_the_tightest_of_all_ancestors(system: System):
    """Not the smallest limit but the least that is left; page cache that nobody uses is not taken."""
    system.stands("0::/a/b/c\n", UNIFIED)
    system.v2("/sys/fs/cgroup/a", 1000, usage=900, cache=200)
    system.v2("/sys/fs/cgroup/a/b", "max", usage=10)
    system.v2("/sys/fs/cgroup/a/b/c", 500, usage=100)
    room = system.room()
    assert room == Room(limit_bytes=1000, used_bytes=700)
    assert room.free_bytes == 300


def test_v2_high_is_a_limit(system: System):
    """Above memory.high the kernel slows a process down until it stands still."""
    system.stands("0::/a\n", UNIFIED)
    system.v2("/sys/fs/cgroup/a", 1000, usage=100, high=800)
    assert system.room() == Room(limit_bytes=800, used_bytes=100)


def test_v1_counts_the_tightest_of_all_ancestors(system: System):
    system.stands("5:cpu,cpuacct:/elsewhere\n4:hugetlb,memory:/a/b\n", MEMORY)
    system.v1("/sys/fs/cgroup/memory", 9223372036854771712, usage=10**9)
    system.v1("/sys/fs/cgroup/memory/a", 600, usage=500, cache=150)
    system.v1("/sys/fs/cgroup/memory/a/b", 9223372036854771712, usage=1)
    assert system.room() == Room(limit_bytes=600, used_bytes=350)


def test_hybrid_looks_at_both(system: System):
    """v2 is mounted beside v1, usually without the memory controller."""
    system.stands("4:memory:/a\n0::/x\n", MEMORY, V2.format(root="/", mount="/sys/fs/cgroup/unified"))
    system.v1("/sys/fs/cgroup/memory/a", 500, usage=100)
    system.group("/sys/fs/cgroup/unified/x")
    assert system.room() == Room(limit_bytes=500, used_bytes=100)
    system.v2("/sys/fs/cgroup/unified/x", 300, usage=100)
    assert system.room() == Room(limit_bytes=300, used_bytes=100)


def test_a_container_with_a_cgroup_namespace(system: System):
    """It sees its own group as the root of all."""
    system.stands("0::/\n", UNIFIED)
    system.v2("/sys/fs/cgroup", 2000, usage=500)
    assert system.room() == Room(limit_bytes=2000, used_bytes=500)
    assert places(system.proc, system.root)[0].is_own


def test_docker_with_v1_mounts_the_containers_own_group(system: System):
    """The path is the host's; what mountinfo says is mounted has to be taken off its front."""
    system.stands("4:memory:/docker/abc/inner\n", V1.format(root="/docker/abc", mount="/sys/fs/cgroup/memory"))
    system.v1("/sys/fs/cgroup/memory", 2000, usage=1500)
    system.v1("/sys/fs/cgroup/memory/inner", 1000, usage=10)
    assert system.room() == Room(limit_bytes=2000, used_bytes=1500)
    (place,) = places(system.proc, system.root)
    assert place.is_own
    assert place.folders[0] == system.root / "sys/fs/cgroup/memory/inner"


def test_a_path_that_is_only_the_hosts(system: System):
    """Nothing of that name is mounted here: the mount point is all we see, and it is not said to be our own group."""
    system.stands("4:memory:/docker/abc\n0::/../../x.slice\n", MEMORY, V2.format(root="/", mount="/sys/fs/cgroup/u"))
    system.v1("/sys/fs/cgroup/memory", 2000, usage=500)
    system.v2("/sys/fs/cgroup/u", 3000, usage=500)
    assert system.room() == Room(limit_bytes=2000, used_bytes=500)
    assert [place.is_own for place in places(system.proc, system.root)] == [False, False]


def test_paths_that_lead_out_of_the_namespace(system: System):
    """The host's whole hierarchy is mounted in a container: the dots stand for groups whose names we are not told."""
    mount = V2.format(root="/../..", mount="/sys/fs/cgroup")
    system.v2("/sys/fs/cgroup", "max")
    system.v2("/sys/fs/cgroup/sibling", 100, usage=10)
    system.stands("0::/\n", mount)
    assert (system.room(), places(system.proc, system.root)[0].is_own) == (None, False)
    system.stands("0::/..\n", UNIFIED)  # what is above a mount point is no group
    assert places(system.proc, system.root)[0].folders == (system.root / "sys/fs/cgroup",)
    system.stands("0::/../../sibling\n", mount)  # here the dots are the same on both sides
    assert system.room() == Room(limit_bytes=100, used_bytes=10)


def test_the_mount_that_shows_our_group_is_taken(system: System):
    """A hierarchy may be mounted several times, and in parts."""
    system.stands("0::/a/b\n", V2.format(root="/other", mount="/mnt/part"), UNIFIED)
    system.v2("/mnt/part", 1, usage=1)
    system.v2("/sys/fs/cgroup/a/b", 700, usage=100)
    assert system.room() == Room(limit_bytes=700, used_bytes=100)


def test_escaped_names_and_colons(system: System):
    """mountinfo escapes blanks, tabs and backslashes in octal; /proc/self/cgroup escapes nothing."""
    system.stands("0::/my group:1\n", V2.format(root="/", mount=r"/mnt/c\040g\134\011\303\274"))
    system.v2("/mnt/c g\\\tü/my group:1", 700, usage=100)
    assert system.room() == Room(limit_bytes=700, used_bytes=100)


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", "18446744073709551615", "", "twelve"])
def test_no_limit(system: System, limit: str):
    system.stands("4:memory:/a\n0::/a\n", UNIFIED, MEMORY)
    system.v1("/sys/fs/cgroup/memory/a", limit, usage=100)
    system.v2("/sys/fs/cgroup/a", limit, usage=100)
    assert system.room() is None


def test_what_cannot_be_read_does_not_limit(system: System):
    """No /proc, as on macOS; a group that vanishes between two reads; a limit whose usage is secret."""
    assert system.room() is None
    system.stands("0::/a\n", UNIFIED)
    assert system.room() is None
    folder = system.v2("/sys/fs/cgroup/a", 100)
    (folder / "memory.current").unlink()
    assert system.room() is None


def test_usage_is_never_negative_nor_is_what_is_left(system: System):
    """The figures are read one after the other; and usage may pass a limit that was lowered."""
    system.stands("0::/a\n", UNIFIED)
    system.v2("/sys/fs/cgroup/a", 1000, usage=100, cache=150)
    assert system.room() == Room(limit_bytes=1000, used_bytes=0)
    system.v2("/sys/fs/cgroup/a", 1000, usage=1500)
    room = system.room()
    assert room is not None
    assert (room.used_bytes, room.free_bytes) == (1500, 0)


def test_a_missing_cache_figure_is_no_cache(system: System):
    system.stands("0::/a\n", UNIFIED)
    (system.v2("/sys/fs/cgroup/a", 1000, usage=100) / "memory.stat").unlink()
    assert system.room() == Room(limit_bytes=1000, used_bytes=100)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_nonsense_is_no_limit(tmp_path_factory: pytest.TempPathFactory, cgroup: bytes, mounts: bytes):
    """Whatever the two files say, nothing is raised."""
    folder = tmp_path_factory.mktemp("nonsense")
    (folder / "self").mkdir()
    (folder / "self/cgroup").write_bytes(b"0::/a\n" + cgroup)
    (folder / "self/mountinfo").write_bytes(b"41 31 0:38 / / rw - cgroup2 c rw\n1 1 1 " + mounts + b" - cgroup2 x y\n")
    assert memory_room(folder, folder) is None


def test_keyed_number(tmp_path: Path):
    """The whole key counts, not its beginning."""
    (tmp_path / "events").write_text("oom 7\noom_kill 3\noom_group_kill 1\nbroken\nword x\n")
    path = tmp_path / "events"
    assert [keyed_number(path, key) for key in (b"oom", b"oom_kill", b"broken", b"word", b"no")] == [
        7,
        3,
        None,
        None,
        None,
    ]
    assert keyed_number(tmp_path / "none", b"oom") is None


def test_this_machine_can_be_read():
    """A limit where there is one is positive; where there is none, None."""
    room = memory_room()
    assert room is None or room.limit_bytes > 0
