"""Which folders lie on a file system that several machines share."""

import re
from pathlib import Path

# names of the kernel, or of FUSE's programs
_NETWORKED = re.compile(
    r"nfs4?|cifs|smb3?|smbfs|afs|9p|ceph|lustre|gpfs|beegfs(_nodev)?|glusterfs|orangefs|pvfs2|wekafs|panfs"
    r"|fuse\.(sshfs|glusterfs|ceph|beegfs|juicefs|s3fs|rclone|goofys|mergerfs)"
)
_MOUNTS = Path("/proc/self/mountinfo")


def kind(path: Path) -> str | None:
    """The type of the networked file system that a folder lies, or would lie, on; None for a local one, or unknown."""
    try:
        return kind_in(_MOUNTS.read_text(errors="replace"), path)
    except OSError:  # not Linux
        return None


def kind_in(mounts: str, path: Path) -> str | None:
    """The same on a machine with these mounts, as the kernel tells them: proc(5), mountinfo. path: absolute. Pure."""
    found, longest = "", -1
    wanted = f"{path}/"
    for line in filter(None, mounts.split("\n")):  # a name may hold anything else that ends a line for Python
        fields, _, rest = line.partition(" - ")
        place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split(" ")[4])  # \040 is a blank
        if wanted.startswith(place if place.endswith("/") else f"{place}/") and len(place) >= longest:
            found, longest = rest.split(" ")[0], len(place)
    return found if _NETWORKED.fullmatch(found) else None
