"""Control groups (Linux): which ones this process is in, and how much memory they leave it.

There are two generations: v1 has a hierarchy for memory alone, v2 one for everything, and a system may mount both.
Nothing here raises: what cannot be read does not limit. Used by the governor's probes and the trainer's memory cgroup.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from backprop.records import Record

PROC = Path("/proc")
ROOT = Path("/")
_UNLIMITED_BYTES = 1 << 60  # v1 expresses "no limit" as the largest number of pages: 2**63 - 4096
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")  # how mountinfo writes blanks, newlines and backslashes: proc(5)


class Room(Record, frozen=True):
    """A memory limit and how much of it is taken."""

    limit_bytes: int
    used_bytes: int  # without page cache that the kernel would drop first

    @property
    def free_bytes(self) -> int:
        """What may be taken of it yet; at least 0."""
        return max(0, self.limit_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupPlace:
    """The group of this process in a hierarchy that may limit memory."""

    version: int  # 1 or 2
    folders: tuple[Path, ...]  # the nearest group first, the mount point last
    is_own: bool  # the first folder is this process's group, not merely one above it


def memory_room(proc: Path = PROC, root: Path = ROOT) -> Room | None:
    """The tightest memory limit among this process's cgroup and its ancestors; None when unlimited or unreadable."""
    tightest = None
    for place in places(proc, root):
        for folder in place.folders:
            limit = limit_bytes(folder, place.version)
            used = None if limit is None else usage_bytes(folder, place.version)
            if limit is None or used is None:
                continue
            room = Room(limit_bytes=limit, used_bytes=used)
            if tightest is None or limit - used < tightest.limit_bytes - tightest.used_bytes:
                tightest = room
    return tightest


def places(proc: Path = PROC, root: Path = ROOT) -> tuple[CgroupPlace, ...]:
    """Our place in v1's memory hierarchy and in v2's, where they are mounted.

    proc, root: where /proc and / are.
    """
    try:
        paths = dict(_paths((proc / "self/cgroup").read_bytes()))
        mounts = list(_mounts((proc / "self/mountinfo").read_bytes(), root))
    except (OSError, ValueError):
        return ()
    found = []
    for version, path in paths.items():
        place = _place(version, path, [(top, folder) for kind, top, folder in mounts if kind == version])
        if place is not None:
            found.append(place)
    return tuple(found)


def _place(version: int, path: PurePosixPath, mounts: list[tuple[PurePosixPath, Path]]) -> CgroupPlace | None:
    """The place at `path` of a hierarchy that is mounted, from its group `top` on, at each of the folders."""
    for top, mount in mounts:
        rest = path.parts[len(top.parts) :]
        # ".." stands for groups outside the cgroup namespace, whose names are hidden
        if path.parts[: len(top.parts)] == top.parts and ".." not in rest:
            folder = mount.joinpath(*rest)
            if folder.is_dir():
                above = folder.parents[: len(rest)]
                return CgroupPlace(version=version, folders=(folder, *above), is_own=True)
    # A container shows its own group as the whole hierarchy, while the path may still be the host's.
    visible = [mount for _, mount in mounts if mount.is_dir()]
    return CgroupPlace(version=version, folders=(visible[0],), is_own=False) if visible else None


def _paths(text: bytes) -> Iterator[tuple[int, PurePosixPath]]:
    """Version and path of this process's groups, from /proc/self/cgroup: cgroups(7)."""
    for line in text.split(b"\n"):
        if line:
            number, controllers, path = line.split(b":", 2)
            if b"memory" in controllers.split(b","):
                yield 1, PurePosixPath(os.fsdecode(path))
            elif (number, controllers) == (b"0", b""):
                yield 2, PurePosixPath(os.fsdecode(path))


def _mounts(text: bytes, root: Path) -> Iterator[tuple[int, PurePosixPath, Path]]:
    """Version, the group that is mounted, and where, from /proc/self/mountinfo: proc(5)."""
    for line in text.split(b"\n"):
        # blanks inside a field are escaped, so that the first lone "-" is the separator
        place, _, kind = line.partition(b" - cgroup")
        if not kind:
            continue
        generation, _, options = kind.split(b" ", 2)
        top, mount = (PurePosixPath(_unescape(field)) for field in place.split(b" ")[3:5])
        if generation == b"2":
            yield 2, top, root / mount.relative_to("/")
        elif generation == b"" and b"memory" in options.split(b","):
            yield 1, top, root / mount.relative_to("/")


def _unescape(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))


def limit_bytes(folder: Path, version: int) -> int | None:
    """What this group may hold; None when it has no limit of its own.

    v2's `memory.high` counts as one: above it the kernel slows a process down almost to a halt.
    """
    names = ("memory.limit_in_bytes",) if version == 1 else ("memory.max", "memory.high")
    limits = [limit for limit in (_number(folder / name) for name in names) if limit is not None]
    return min((limit for limit in limits if limit < _UNLIMITED_BYTES), default=None)


def usage_bytes(folder: Path, version: int) -> int | None:
    """What this group and those below it hold, without page cache that has not been used lately."""
    usage = _number(folder / ("memory.usage_in_bytes" if version == 1 else "memory.current"))
    if usage is None:
        return None
    # v1: without "total_" it is this group's alone, while the usage is that of all below it, too
    cache = keyed_number(folder / "memory.stat", b"total_inactive_file" if version == 1 else b"inactive_file")
    return max(0, usage - (cache or 0))


def keyed_number(path: Path, key: bytes) -> int | None:
    """The number behind `key` in a file of lines "key number"; None when there is none."""
    try:
        for line in path.read_bytes().split(b"\n"):
            name, _, value = line.partition(b" ")
            if name == key:
                return int(value)
    except (OSError, ValueError):
        pass  # the group is gone, or the kernel does not keep this figure
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):  # not there (the root group has no limit), or "max"
        return None
