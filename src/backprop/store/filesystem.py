"""Which file system a folder lies on, and whether several machines share it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

# names of the kernel, or of FUSE's programs
_SHARED = re.compile(
    r"9p|afpfs|afs|beegfs(_nodev)?|ceph|cifs|coda|davfs|gfs2|glusterfs|gpfs|lustre|ncpfs|nfs4?|ocfs2|orangefs|panfs"
    r"|pvfs2|smb3?|smbfs|vboxsf|vmhgfs|webdav|wekafs"
    r"|fuse\.(beegfs|ceph|cephfs|davfs2?|glusterfs|goofys|gcsfuse|gvfsd-fuse|juicefs|mfs|mount_s3|rclone|s3fs|sshfs)"
)
_OCTAL = re.compile(r"\\([0-3][0-7]{2})")  # how the kernel writes blanks: proc(5)
_MOUNTINFO = Path("/proc/self/mountinfo")
_MOUNT_LINE = re.compile(r"(?P<source>.+) on (?P<point>.+) \((?P<kind>\w+).*\)")  # macOS


class Mount(NamedTuple):
    """Where a file system is mounted, and what it is."""

    point: str
    kind: str
    source: str


def mounts() -> list[Mount]:
    """All there are, in the order in which they were made. Starts a program where there is no /proc. Raises OSError."""
    if sys.platform != "linux":
        output = subprocess.run(["mount"], capture_output=True, text=True, timeout=5, check=False).stdout
        lines = (_MOUNT_LINE.fullmatch(line) for line in output.splitlines())
        return [Mount(line["point"], line["kind"], line["source"]) for line in lines if line]
    return parse(_MOUNTINFO.read_text(errors="surrogateescape"))


def parse(mountinfo: str) -> list[Mount]:
    """Parse the mounts of a process: proc(5), mountinfo. Pure."""
    found = []
    for line in filter(None, mountinfo.split("\n")):  # a name may hold anything else that ends a line for Python
        place, _, rest = line.partition(" - ")
        kind, source = (*rest.split(" "), "")[:2]
        found.append(Mount(_unescaped(place.split(" ")[4]), kind, _unescaped(source)))
    return found


def _unescaped(field: str) -> str:
    return _OCTAL.sub(lambda code: chr(int(code[1], 8)), field)


def mount_of(path: Path, among: list[Mount]) -> Mount | None:
    """The one that an absolute path lies, or would lie, on: the longest, and of several there the last. Pure."""
    holding = [mount for mount in among if path.is_relative_to(mount.point)]
    return max(reversed(holding), key=lambda mount: len(mount.point), default=None)


def is_shared(kind: str) -> bool:
    """Whether a file system of this kind lies on another machine, where others may have it, too."""
    return _SHARED.fullmatch(kind) is not None


def kind(path: Path) -> str | None:
    """The type of the shared file system that a folder lies, or would lie, on; None for a local one, or unknown.

    Starts no program: every command asks.
    """
    if sys.platform != "linux":
        return None
    try:
        mount = mount_of(path, mounts())
    except OSError:  # no /proc
        return None
    return mount.kind if mount is not None and is_shared(mount.kind) else None
