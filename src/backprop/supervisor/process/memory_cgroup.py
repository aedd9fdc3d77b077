"""A memory cgroup around one trainer: the kernel's own hard limit, which no allocation can exceed, however fast.

`build` makes one before the trainer is launched, `MemoryCgroup.enter` is called in the trainer between fork and exec,
and `MemoryCgroup.remove` when the tree is gone. Where that is not possible (no cgroups, no permission, macOS) there is
none, and only the resource monitor watches the memory of the tree.

v1: below our own memory group. v2: a group that enables the memory controller for its children cannot contain processes
itself, hence not below our own group but beside it, below the nearest ancestor that we may write and that enables it:
`app.slice` of the user's systemd for a desktop terminal and for `systemd-run --user --scope backprop run ...`. Never
where the trainer would leave a group that has a limit of its own.

v2 has been tested against fake file trees only: no machine that we test on has v2 with the memory controller.
"""

import errno
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backprop.governor.probes import cgroups

_OURS = re.compile(r"backprop-.+-\d+")
_UNLIMITED = {  # content of v2 files without a limit; not `pids.max`, which systemd always sets
    "memory.max": "max",
    "memory.high": "max",
    "memory.swap.max": "max",
    "cpu.max": "max",
    "cpuset.cpus": "",
}
_REMOVE_WITHIN_S = 0.2  # v1 reports a group as busy for some milliseconds after its last process was reaped


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """A cgroup with a hard memory limit."""

    path: Path
    version: int  # of cgroups: 1 or 2

    def enter(self) -> None:
        """Move the calling process in, and so all that it will start. For use between fork and exec. Raises OSError."""
        group = os.open(f"{self.path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(group, b"0")  # the writer itself
        finally:
            os.close(group)

    def oom_kill_count(self) -> int | None:
        """Processes in this cgroup that the out-of-memory killer has killed so far.

        Nearly always at this limit, but a kill because the whole machine ran out of memory counts as well.
        """
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        return cgroups.keyed_number(self.path / name, b"oom_kill")

    def usage_bytes(self) -> int | None:
        """Memory in use now, without inactive page cache."""
        return cgroups.usage_bytes(self.path, self.version)

    def remove(self) -> None:
        """Remove the cgroup. Blocks up to 0.2 s. One with living processes stays: `remove_leftover` may try later."""
        _remove(self.path)


def build(
    run_id: str, session: int, limit_bytes: int, proc: Path = cgroups.PROC, root: Path = cgroups.ROOT
) -> MemoryCgroup | None:
    """A cgroup with a hard memory limit, swap included, for one trainer; None where that is not possible.

    proc, root: where /proc and / are. Blocks up to 0.2 s where a cgroup of that name was left behind.
    """
    name = f"backprop-{run_id}-{session}"
    for place in cgroups.places(proc, root):
        parent = _parent(place)
        if parent is not None and _make(parent / name):
            cgroup = MemoryCgroup(parent / name, place.version)
            if _limit(cgroup, limit_bytes):
                return cgroup
            cgroup.remove()
    return None


def remove_leftover(path: str) -> None:
    """Remove the empty cgroup of a supervisor that was killed. Does nothing to any other path."""
    cgroup = Path(path)
    with suppress(OSError, ValueError):
        if _OURS.fullmatch(cgroup.name) and (cgroup / "cgroup.procs").exists():
            _remove(cgroup)


def _parent(place: cgroups.CgroupPlace) -> Path | None:
    """The group to make a cgroup below; None when there is none that we may and should use."""
    if not place.is_own:
        return None  # a child of some other group would escape the limits of ours
    if place.version == 1:
        own = place.folders[0]
        # "0" (kernels before 5.11): the limits of a group would not hold for its children
        return own if _read(own / "memory.use_hierarchy") != "0" and _is_writable(own) else None
    for folder in place.folders:
        enables_memory = "memory" in (_read(folder / "cgroup.subtree_control") or "").split()
        if enables_memory and _is_writable(folder):
            return folder
        if _is_limited(folder):
            return None
    return None


def _is_writable(folder: Path) -> bool:
    """True when we may make groups below and move ourselves there.

    For the move the kernel wants write access to the common ancestor of both groups: cgroups(7), delegation.
    """
    return os.access(folder, os.W_OK | os.X_OK) and os.access(folder / "cgroup.procs", os.W_OK)


def _is_limited(folder: Path) -> bool:
    # cpu.max has a period behind the quota
    return any((_read(folder / name) or free).split()[:1] != free.split() for name, free in _UNLIMITED.items())


def _make(path: Path) -> bool:
    """True when there is a new group at `path` now. An empty one there is replaced: counts start at zero."""
    if path.exists():
        _remove(path)
    try:
        path.mkdir()
    except OSError:  # one with processes is still there, or we may not
        return False
    return True


def _limit(cgroup: MemoryCgroup, limit_bytes: int) -> bool:
    """True when the kernel has accepted the limit."""
    limit = str(limit_bytes)
    try:
        if cgroup.version == 1:
            _write(cgroup.path / "memory.limit_in_bytes", limit)
            # Inherited: with the killer off, a trainer at its limit would not die but hang.
            _write(cgroup.path / "memory.oom_control", "0")
            swap = ("memory.memsw.limit_in_bytes", limit)  # RAM and swap together: must not be set first
        else:
            _write(cgroup.path / "memory.max", limit)
            swap = ("memory.swap.max", "0")
        if (cgroup.path / swap[0]).exists():  # not on a kernel that does not account for swap
            _write(cgroup.path / swap[0], swap[1])
    except OSError:
        return False
    return True


def _write(path: Path, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)  # never creates what the kernel does not offer
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # a controller that is not on has no files
        return None


def _remove(path: Path) -> None:
    deadline = time.monotonic() + _REMOVE_WITHIN_S
    while True:
        try:
            path.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                return  # not empty, gone already, or not ours
        else:
            return
        time.sleep(0.01)
