"""Which folders several machines share, by what the kernel tells of its mounts."""

from pathlib import Path

import pytest

from backprop.store import filesystem

MOUNTS = """
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /proc rw - proc proc rw
30 21 0:40 / /home rw,relatime shared:9 master:2 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/ada/local rw - xfs /dev/sdb1 rw
32 21 0:41 / /home2 rw - ext4 /dev/sdc1 rw
33 21 0:42 / /a\\040b\\134c rw - lustre mds@tcp:/work rw
34 21 0:43 / /cloud rw - fuse.sshfs me@there: rw
35 21 0:44 / /disk rw - fuse.ntfs-3g /dev/sdd1 rw
36 21 0:45 / /twice rw - nfs server:/twice rw
37 36 0:46 / /twice rw - tmpfs tmpfs rw
38 21 0:47 / /again rw - tmpfs tmpfs rw
39 38 0:48 / /again rw - nfs server:/again rw
40 21 0:49 / /café rw - cifs //server/café rw
41 21 0:50 / /form\ffeed rw - nfs server:/form rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", None),
        ("/tmp", None),
        ("/home", "nfs4"),
        ("/home/ada/.backprop", "nfs4"),
        ("/home/ada/local", None),
        ("/home/ada/local/x", None),
        ("/home/ada/localx", "nfs4"),
        ("/home2/ada", None),
        ("/a b\\c/d", "lustre"),
        ("/a b", None),
        ("/cloud/x", "fuse.sshfs"),
        ("/disk/x", None),
        ("/twice/x", None),
        ("/again/x", "nfs"),
        ("/café/x", "cifs"),
        ("/form\ffeed/x", "nfs"),
    ],
)
def test_the_mount_that_a_folder_lies_on_counts(path: str, expected: str | None):
    """The deepest one, and of two at the same place the later; a name that begins alike is another place."""
    mount = filesystem.mount_of(Path(path), filesystem.parse(MOUNTS))
    assert mount is not None
    assert (mount.kind if filesystem.is_shared(mount.kind) else None) == expected


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "lustre", "beegfs", "beegfs_nodev", "gpfs", "ceph", "fuse.juicefs"])
def test_what_is_shared(kind: str):
    """What servers give to many machines, by the kernel or by a program."""
    assert filesystem.is_shared(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuse", "fuse.ntfs-3g", "nfsd"])
def test_what_is_ones_own(kind: str):
    """What one machine has to itself needs no index for each."""
    assert not filesystem.is_shared(kind)


def test_where_a_mount_comes_from():
    """Its server, or its device."""
    mount = filesystem.mount_of(Path("/a b\\c/d"), filesystem.parse(MOUNTS))
    assert mount == filesystem.Mount("/a b\\c", "lustre", "mds@tcp:/work")


def test_this_machine_can_be_asked(tmp_path: Path):
    """Whatever it says, it says it in the words that are known; and of its own processes' folder that it is local."""
    assert filesystem.kind(Path("/proc/self")) is None
    assert filesystem.kind(tmp_path / "not" / "there") == filesystem.kind(tmp_path)
