"""The home folder: its disk, its file system, its locks, and the index in it."""

import errno
import fcntl
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from backprop import host
from backprop.cli.doctor.findings import note, ok, problem
from backprop.errors import BackpropError
from backprop.records import Finding, Limits
from backprop.store import experiments_json, filesystem
from backprop.store.home import Home
from backprop.store.index import SCHEMA_VERSION
from backprop.views.terminal import formatting

_TRIAL_BYTES = 65_536
_SKEW_S = 2.0  # file times are coarse on some file systems
_INDEX_LOOK_S = 5.0
_ELSEWHERE = "Set BACKPROP_HOME to a folder on a local disk; checkpoints may stay where they are."
_FOR_SLURM = f"Runs on Slurm need it so. For others: {_ELSEWHERE[0].lower()}{_ELSEWHERE[1:]}"

_IN_MEMORY = {"ramfs", "tmpfs"}


def file_system() -> Iterator[Finding]:
    """What the home folder lies on, and what that means."""
    path = Home.from_environment().path
    mount = filesystem.mount_of(path, filesystem.mounts())
    if mount is None:
        yield note("file system", f"unknown for {path}")
    elif filesystem.is_shared(mount.kind):
        text = (
            f"{path} is on a network file system ({mount.kind}, {mount.source}): this machine has an index of its own "
            "there; file locks decide who runs a run, and SQLite keeps the index: both are slow there, and fail where "
            "the server or a mount option does not support locks"
        )
        yield note("file system", text, _FOR_SLURM)
    elif mount.kind in _IN_MEMORY:
        yield note("file system", f"{path} is in memory ({mount.kind}): runs are gone after a restart", _ELSEWHERE)
    elif mount.kind == "overlay" and mount.point == "/":
        text = f"{path} is in a container's own layer: runs are gone with the container"
        yield note("file system", text, "Mount a volume, and set BACKPROP_HOME to it.")
    else:
        yield ok("file system", f"{path} is on {mount.kind}")


def disks(limits: Limits, folder: str) -> Iterator[Finding]:
    """Room and permission in the home folder and here."""
    home = Home.from_environment().path
    for path in dict.fromkeys((home, Path(folder))):
        yield from _disk(path, limits.min_free_disk_bytes)


def _disk(path: Path, needed_bytes: int) -> Iterator[Finding]:
    there = next(one for one in (path, *path.parents) if one.exists())
    system = os.statvfs(there)
    free = system.f_bavail * system.f_frsize
    text = f"{formatting.size(free)} free for {path}"
    if (wrong := _cannot_write(there)) is not None:
        yield problem("disk", f"{path}: {wrong}", "Make room or permission there, or set BACKPROP_HOME elsewhere.")
    elif free < needed_bytes:
        advice = "No run starts: make room, or lower --min-free-disk."
        yield problem("disk", f"{text}; a start needs {formatting.size(needed_bytes)}", advice)
    elif system.f_files and not system.f_favail:
        yield problem("disk", f"{text}, but no file can be made: it has no inodes left", "Remove small files there.")
    elif there != path:
        yield ok("disk", f"{text}, which the first run creates")
    else:
        yield ok("disk", text)


def _cannot_write(folder: Path) -> str | None:
    """Why nothing can be written there: tried, because a quota shows in no other way."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".backprop-doctor-") as file:
            file.write(os.urandom(_TRIAL_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        words = {errno.EROFS: "it is read-only", errno.EDQUOT: "your quota is used up", errno.ENOSPC: "it is full"}
        return words.get(error.errno or 0, f"nothing can be written: {error.strerror}")
    return None


def locks() -> Iterator[Finding]:
    """Whether locks lock, SQLite works and file times are ours, in the home folder: tried."""
    home = Home.from_environment().path
    if not home.exists():
        return
    with tempfile.NamedTemporaryFile(dir=home, prefix=".backprop-doctor-") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        is_locked = _is_refused_to_others(file.name)
        file.write(b"x")
        file.flush()
        skew_s = os.stat(file.name).st_mtime - time.time()  # noqa: PTH116
    if is_locked:
        yield ok("locks", "a locked file is locked for others")
    else:
        yield problem("locks", f"file locks do not work in {home}: two processes could execute one run", _ELSEWHERE)
    if (wrong := _sqlite_problem(home)) is not None:
        yield problem("sqlite", f"does not work in {home}: {wrong}", _ELSEWHERE)
    if abs(skew_s) > _SKEW_S:
        text = f"the clock of the file system in {home} differs from this machine's by {skew_s:+.0f} s"
        yield note("clock", text, "Set both by NTP: the length of a session that died is taken from file times.")


def _is_refused_to_others(path: str) -> bool:
    """Asks a process of its own: over NFS a process has no quarrel with itself."""
    try:
        pid = os.fork()
    except OSError as error:
        raise BackpropError(f"a second process {host.why_not_started(error)}") from error
    if pid == 0:
        code = 1
        try:
            fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _sqlite_problem(home: Path) -> str | None:
    """What is wrong with a database there; None when nothing is."""
    with tempfile.TemporaryDirectory(dir=home, prefix=".backprop-doctor-") as folder:
        try:
            database = sqlite3.connect(Path(folder) / "trial.db", timeout=2)
            (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
            database.execute("CREATE TABLE trial (x)")
            database.execute("INSERT INTO trial VALUES (1)")
            database.commit()
            database.close()
        except sqlite3.Error as error:
            return str(error)
        return None if mode == "wal" else f"no write-ahead log, but {mode!r}"


def index() -> Iterator[Finding]:
    """Whether the index is sound, and whether there is something of an older tool."""
    home = Home.from_environment()
    if home.has_old_runs_only():
        yield note("index", f"{home.old_snapshot_path} is an older tool's", "Its runs are imported by: backprop list")
    elif home.snapshot_path.exists() and not experiments_json.is_sound(home.snapshot_path):
        yield note("index", f"{home.snapshot_path} is damaged", "It is set aside and rebuilt by: backprop list")
    if home.index_path.exists():
        yield _index_health(home.index_path)
    else:
        yield ok("index", "none yet: the first command creates it")


def _index_health(path: Path) -> Finding:
    give_up_at = time.monotonic() + _INDEX_LOOK_S
    try:
        database = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=2)
        database.set_progress_handler(lambda: time.monotonic() > give_up_at, 10_000)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            return note("index", "was written by another version of Backprop", "It is rebuilt by: backprop list")
        (count,) = database.execute("SELECT count(*) FROM runs").fetchone()
        (health,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if time.monotonic() > give_up_at:
            size = formatting.size(path.stat().st_size)
            return note("index", f"{size}: too large to be checked in {_INDEX_LOOK_S:g} s")
        return problem("index", f"{path} cannot be read: {error}", "If that persists: backprop reindex")
    except sqlite3.DatabaseError as error:
        return problem("index", f"{path} is damaged: {error}", "Nothing is lost: backprop reindex")
    if health != "ok":
        return problem("index", f"{path} is damaged: {health}", f"Nothing is lost: remove {path}; backprop reindex")
    return ok("index", f"{count} runs, {formatting.size(path.stat().st_size)}, sound")
