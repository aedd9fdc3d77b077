"""Tells people of a run's states, as the `notify` setting says: see notification.py, which does the telling.

Where to tell lies in the run directory, so that whoever finds a dead supervisor's run can tell of it, too. A run
directory may come from anybody's archive, and a command in it must not be carried out: what lies there counts only with
a proof that this user wrote it, made with a key that no run directory holds. Each time a process of its own is started,
which descends from nobody: telling touches no run and keeps nobody waiting.
"""

import errno
import hashlib
import hmac
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from backprop.records import Notification, Record, Run, Status
from backprop.store.files import read_plain, replace_file, write_plain
from backprop.store.home import user_home
from backprop.store.rundir import RunDir
from backprop.supervisor.process.launch import start_and_wait, start_detached

_LOG_LINE = 300
_KEY_BYTES = 32


def put(rundir: RunDir, notifications: Sequence[Notification]) -> None:
    """Remember with a run where to tell of it from now on. Raises OSError."""
    if notifications:
        asked = tuple(notifications)
        proven = _Proven(notifications=asked, proof=_proof(_key(), rundir, asked))
        replace_file(rundir.notify_path, msgspec.json.encode(proven))
    else:
        rundir.notify_path.unlink(missing_ok=True)


def read(rundir: RunDir) -> tuple[Notification, ...]:
    """Where to tell of a run. Never raises: what cannot be read, or was not written by this user, is nowhere."""
    with suppress(OSError, msgspec.MsgspecError):
        proven = msgspec.json.decode(read_plain(rundir.notify_path), type=_Proven)
        if hmac.compare_digest(proven.proof, _proof(_read_key(), rundir, proven.notifications)):
            return proven.notifications
    return ()


class _Proven(Record, frozen=True):
    """What notify.json holds."""

    notifications: tuple[Notification, ...]
    proof: str


def _proof(key: bytes, rundir: RunDir, notifications: tuple[Notification, ...]) -> str:
    """For this run alone, by its id."""
    return hmac.new(key, msgspec.json.encode((rundir.path.name, notifications)), hashlib.sha256).hexdigest()


def _key_path() -> Path:
    folder = os.environ.get("XDG_STATE_HOME", "")
    # as the XDG Base Directory Specification has it: a path that is not absolute is ignored
    state = Path(folder) if os.path.isabs(folder) else user_home() / ".local" / "state"  # noqa: PTH117
    return state / "backprop" / "notify.key"


def _key() -> bytes:
    """The user's key, made where there is none. Raises OSError."""
    path = _key_path()
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_suffix(f".{secrets.token_hex(8)}")
        try:
            write_plain(draft, secrets.token_bytes(_KEY_BYTES))
            with suppress(FileExistsError):
                path.hardlink_to(draft)  # of several that make one at once the first wins
        finally:
            draft.unlink(missing_ok=True)
    return _read_key()


def _read_key() -> bytes:
    key = read_plain(_key_path())
    if len(key) != _KEY_BYTES:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(_key_path()))  # anybody could guess an empty one
    return key


_LINE_S = 5.0  # a job that puts itself back has no time to lose


class Notifier:
    """Tells of one run's states as they come; for its supervisor. Nothing here raises, or blocks unless it says so."""

    def __init__(self, rundir: RunDir, index_path: Path, *, is_in_job: bool = False) -> None:
        """index_path: where this machine has the run's metrics.

        is_in_job: of Slurm, which kills what is left when its job ends; that it waited is told of by then.
        """
        self._rundir = rundir
        self._index_path = index_path
        self._wanted = {status for notification in read(rundir) for status in notification.on}
        self._is_in_job = is_in_job
        self._last = Status.QUEUED if is_in_job else None

    def changed(self, run: Run, journal_bytes: int) -> None:
        """Tell of a state that a run is in for a while. Its end is told when nothing follows it: see `ended`."""
        if not run.status.is_final and run.status is not self._last:
            self._tell(run.status, journal_bytes, is_awaited=self._is_in_job and run.status is Status.QUEUED)
        self._last = run.status

    def ended(self, run: Run, journal_bytes: int) -> None:
        """Tell how a run ended; also whoever filed it for a supervisor that died."""
        if run.status.is_final:
            self._tell(run.status, journal_bytes, is_awaited=self._is_in_job)

    def _tell(self, status: Status, journal_bytes: int, *, is_awaited: bool) -> None:
        """is_awaited: return when it has been told, and not at once."""
        if status not in self._wanted:
            return
        words = [str(self._rundir.path), str(journal_bytes), str(self._index_path)]
        command = [sys.executable, "-m", "backprop.views.notification", *words]
        try:
            if is_awaited:
                start_and_wait(command, limit_s=_LINE_S if status is Status.QUEUED else None)
            else:
                start_detached(command)
        except (OSError, subprocess.SubprocessError) as error:  # no process to be had: the run matters more
            log(self._rundir, status, "all", f"failed: cannot be started: {type(error).__name__}")


def log(rundir: RunDir, status: Status, target: str, told: str) -> None:
    """Add a line to notify.log: what came of telling `target`."""
    from backprop.text import printable

    line = printable(f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ} {status.value}: {target} {told}")
    with suppress(OSError):  # the run was removed, or the disk is full: there is no place left to say it
        fd = os.open(rundir.notify_log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{line[:_LOG_LINE]}\n".encode(errors="replace"))
        finally:
            os.close(fd)
