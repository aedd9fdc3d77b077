"""The home folder: its run directories, its lock, its index, and the markers of runs that need another look."""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from backprop.errors import ConfigError, NoRoomError, UsageError
from backprop.records import RunSpec
from backprop.store import filesystem
from backprop.store.files import NotAFileError, foreign_owner, make_own_folder, replacing_foreign, write_plain
from backprop.store.output.protocol import json_safe
from backprop.store.rundir import NO_ROOM, RUN_ID, RunDir

RUNS_FOLDER = "runs"
_ROOM_BYTES, _ROOM_SHARE = 64_000_000, 0.05  # of a disk, the lesser of both: what no curve takes
LOCK_PATIENCE_S = 2.0  # the home's lock is held for milliseconds


class HomeBusyError(Exception):
    """Another process has held the home's lock for longer than any operation under it takes."""


def user_home() -> Path:
    """The user's home directory; that of the account if $HOME is empty. Raises RuntimeError if there is none."""
    if os.environ.get("HOME") != "":
        return Path.home()
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError as error:
        raise RuntimeError("no account") from error


class Home:
    """The folder with all runs of a user: $BACKPROP_HOME, or ~/.backprop.

    Where several machines share it, only the run directories are common: SQLite's and the kernel's locks hold on one
    machine. Each has an index, marks and a line of its own.
    """

    def __init__(self, path: Path, own_path: Path | None = None) -> None:
        """own_path: the folder for files of this machine only; None: no other machine shares the home."""
        own = own_path or path
        self.path = path
        self.runs_path = path / RUNS_FOLDER
        self.machines_path = path / "machines"
        self.unsettled_path = own / "unsettled"
        self.line_path = own / "line"
        self.index_path = own / "index.db"
        self.lock_path = own / "lock"
        self.snapshot_path = own / "experiments.json"
        self.old_snapshot_path = path / "experiments.json"  # of an older tool
        self.user_config_path = path / "config.toml"

    @classmethod
    def from_environment(cls) -> "Home":
        """Raises ConfigError if there is neither, or it belongs to another user and is closed to us."""
        chosen = os.environ.get("BACKPROP_HOME")
        try:
            path = Path(chosen).expanduser() if chosen else user_home() / ".backprop"
        except RuntimeError as error:
            raise ConfigError("this user has no home folder; set BACKPROP_HOME to a folder of yours.") from error
        home = cls.at(path)
        try:
            home.path.lstat()
        except PermissionError as error:  # su, or sudo -u, with another user's $HOME
            raise ConfigError(
                f"the home folder {home.path} cannot be reached: {error.strerror}. "
                "Set HOME to your own folder, or BACKPROP_HOME to a folder of yours."
            ) from error
        except OSError:  # not there yet
            pass
        for folder in (home.path, home.runs_path):
            if (owner := foreign_owner(folder)) is not None:
                raise _closed(folder, owner)
        return home

    @classmethod
    def at(cls, path: Path) -> "Home":
        """The home in this folder, as this machine sees it. Raises ConfigError."""
        path = path.resolve()  # one folder, one name: the trainers' environment is compared with it
        machine = os.environ.get("BACKPROP_MACHINE") or (os.uname().nodename if filesystem.kind(path) else None)
        if machine is None:
            return cls(path)
        if not RUN_ID.fullmatch(machine):
            raise ConfigError(
                f"invalid BACKPROP_MACHINE {machine!r}: expected 1 to 64 letters, digits, '.', '_' or '-'."
            )
        return cls(path, path / "machines" / machine)

    def has_room(self, size_bytes: int = 0) -> bool:
        """Whether an index may grow by this many bytes: it must leave some of the disk to others."""
        try:
            space = os.statvfs(self.index_path.parent)
        except OSError:
            return False
        kept_free = min(_ROOM_BYTES, _ROOM_SHARE * space.f_blocks * space.f_frsize)
        return space.f_bavail * space.f_frsize - size_bytes > kept_free and not self.is_read_only()

    def is_read_only(self) -> bool:
        """Whether nothing can be written. Of a disk that failed the kernel says so only to those who try."""
        try:
            os.utime(self.path)
        except OSError as error:
            return error.errno == errno.EROFS
        return False

    def server_unix_s(self) -> float:
        """The time of day by the clock of the file system's server; by our own where nothing can be written."""
        try:
            os.utime(self.path)
            return self.path.stat().st_mtime
        except OSError:
            return time.time()

    def has_old_runs_only(self) -> bool:
        """Whether there is an experiments.json but no run directory: one of an older tool, to be imported."""
        return not self.runs_path.exists() and self.old_snapshot_path.exists()

    def make(self) -> None:
        """Create the folder, readable by its owner only: patches and logs may hold secrets. Raises ConfigError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.runs_path.mkdir(mode=0o700, exist_ok=True)
            self.make_own()
        except OSError as error:
            raise self.unusable(error) from error

    def make_own(self) -> None:
        """Create the folders for files of this machine only. Raises OSError."""
        own = self.unsettled_path.parent
        above = [self.machines_path] if own.parent == self.machines_path else []
        for folder in (*above, own):  # `parents` would be readable by others
            folder.mkdir(mode=0o700, exist_ok=True)
        make_own_folder(self.unsettled_path)

    def unusable(self, error: OSError) -> ConfigError:
        """The error to raise if nothing can be written here: NoRoomError if the disk is full, or read-only."""
        kind = NoRoomError if error.errno in NO_ROOM else ConfigError
        hint = " (too many files: no inode is free, see df -i)" if self._lacks_inodes(error) else ""
        return kind(
            f"cannot write to the home folder {self.path}: {error.strerror}{hint}. "
            "Make room or permission there, or set BACKPROP_HOME to another folder."
        )

    def _lacks_inodes(self, error: OSError) -> bool:
        """Whether a disk is full of files, not of bytes. Some file systems do not count files: 0 of 0 are free."""
        try:
            space = os.statvfs(self.path)
        except OSError:
            return False
        return error.errno == errno.ENOSPC and space.f_files > 0 and space.f_favail == 0 and space.f_bavail > 0

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Context for writes to the home. Raises ConfigError if they fail."""
        try:
            yield
        except NotAFileError:  # its message is complete
            raise
        except OSError as error:
            raise self.unusable(error) from error

    @contextmanager
    def lock(self, patience_s: float = LOCK_PATIENCE_S) -> Iterator[None]:
        """Hold the home's lock, for replacing its files. Raises HomeBusyError or OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        fd = replacing_foreign(self.lock_path, lambda path: os.open(path, flags, 0o600))
        try:
            deadline = time.monotonic() + patience_s
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise HomeBusyError(str(self.lock_path)) from error
                    time.sleep(0.01)
            yield
        finally:
            os.close(fd)

    def rundir(self, run_id: str) -> RunDir:
        """The directory of a run, whether or not it exists."""
        return RunDir(self.runs_path / run_id)

    def run_ids(self) -> Iterator[str]:
        """The ids of all runs on disk, unordered. Other folders are no runs, or are being created or removed."""
        try:
            with os.scandir(self.runs_path) as entries:
                yield from (entry.name for entry in entries if RUN_ID.fullmatch(entry.name))
        except FileNotFoundError:
            return

    def mark_for_refresh(self, run_id: str) -> None:
        """Mark the run for refresh: every process must read it again, whatever its index has.

        Done before anything happens to a run, and undone when the index has all of it. Raises OSError.
        """
        self.mark_here(run_id)
        for folder in self._marks_of_others():
            with suppress(FileNotFoundError):  # a home that was made a moment ago
                (folder / run_id).touch(mode=0o600)

    def mark_here(self, run_id: str) -> float:
        """The same for this machine alone. The time of day there and then, by the clock of the file system's server.

        Raises OSError.
        """
        mark = self.unsettled_path / run_id
        while True:
            replacing_foreign(mark, lambda path: path.touch(mode=0o600))
            with suppress(FileNotFoundError):  # another process has just removed it: see `mark_refreshed`
                return mark.stat().st_mtime

    def _marks_of_others(self) -> Iterator[Path]:
        try:
            machines = [self.path, *self.machines_path.iterdir()]
        except FileNotFoundError:  # this home is not shared
            machines = [self.path]
        return (folder / "unsettled" for folder in machines if folder / "unsettled" != self.unsettled_path)

    def mark_refreshed(self, run_id: str) -> None:
        """Remove the needs-refresh marker: the index is complete for this run. Raises OSError."""
        with suppress(IsADirectoryError, PermissionError):  # another user's folder of that name
            (self.unsettled_path / run_id).unlink(missing_ok=True)

    def unsettled(self) -> list[str]:
        """The ids of runs that need a refresh: they are active, or were when their supervisor died."""
        return os.listdir(self.unsettled_path)  # noqa: PTH208  names, not paths

    def change_mark(self) -> object:
        """Differs from an earlier one when a run was added or removed, or has changed its state. Raises OSError.

        Then experiments.json is replaced, unless there is no room for it.
        """
        snapshot, runs, index = self.snapshot_path.stat(), self.runs_path.stat(), self.index_path.stat()
        return snapshot.st_ino, snapshot.st_mtime_ns, runs.st_mtime_ns, index.st_ino

    def begin(self, spec: RunSpec, patch: bytes | None) -> RunDir:
        """A hidden folder with run.json in it, to be made visible by `publish`. Raises ConfigError."""
        self.make()
        draft = RunDir(self.runs_path / f".new-{spec.id}-{os.getpid()}")
        try:
            draft.path.mkdir(mode=0o700)
            writable = msgspec.structs.replace(spec, params=json_safe(spec.params))
            write_plain(draft.spec_path, msgspec.json.format(msgspec.json.encode(writable)) + b"\n")
            if patch is not None:
                write_plain(draft.patch_path, patch)
            draft.journal_path.touch(mode=0o600)
        except OSError as error:
            shutil.rmtree(draft.path, ignore_errors=True)
            raise self.unusable(error) from error
        return draft

    def publish(self, draft: RunDir, run_id: str) -> RunDir:
        """Make a run directory visible, by one rename. Raises UsageError if the id is taken."""
        rundir = self.rundir(run_id)
        try:
            draft.path.rename(rundir.path)  # fails on a folder that is not empty, and a run's never is
        except OSError as error:
            shutil.rmtree(draft.path, ignore_errors=True)
            if rundir.path.exists():
                raise UsageError(f"a run {run_id!r} exists already; choose another --run-id.") from error
            raise self.unusable(error) from error
        return rundir


def _closed(folder: Path, owner: str) -> ConfigError:
    message = f"the folder {folder} belongs to user {owner}, and is closed to you"
    if foreign_owner(folder.parent) is None:  # one command with sudo in one's own
        advice = f"`sudo backprop` made it, perhaps. Make it yours: sudo chown -R {os.geteuid()} {folder}"
        return ConfigError(f"{message}: {advice}")
    return ConfigError(f"{message}. Set BACKPROP_HOME to a folder of yours.")


def set_aside(path: Path) -> Path:
    """Rename a damaged file to a name with the date, and return that. Raises OSError."""
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")
    aside, number = path.with_name(f"{path.name}.corrupt-{stamp}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    return path.rename(aside)
