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
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    found, longest = "", -1
    wanted = f"{path}/"
    for line in lines:
        fields, _, rest = line.partition(" - ")
        place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split(" ")[4])  # \040 is a blank
        if wanted.startswith(place if place.endswith("/") else f"{place}/") and len(place) >= longest:
            found, longest = rest.split(" ")[0], len(place)
    return found if _NETWORKED.fullmatch(found) else None
