"""Notifies people of a run's statuses, as the `notify` setting says: see notification.py, which delivers.

The recipients are kept in the run directory, so that a process that finds the run of a dead supervisor can notify
them, too. A run directory may come from anyone's archive, and a command in it must not be executed: it counts only with
a proof that this user wrote it, made with a key that no run directory holds. Each notification is delivered by a
detached process of its own, so that it affects no run and blocks no one.
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
from backprop.store.files import open_to_append, read_plain, replace_file, write_plain
from backprop.store.home import user_home
from backprop.store.rundir import RunDir
from backprop.supervisor.process.launch import start_and_wait, start_detached

_LOG_LINE = 300
_KEY_BYTES = 32


def put(rundir: RunDir, notifications: Sequence[Notification]) -> None:
    """Keep with a run who to notify from now on. Raises OSError."""
    if notifications:
        asked = tuple(notifications)
        proven = _Proven(notifications=asked, proof=_proof(_key(), rundir, asked))
        replace_file(rundir.notify_path, msgspec.json.encode(proven))
    else:
        rundir.notify_path.unlink(missing_ok=True)


def read(rundir: RunDir) -> tuple[Notification, ...]:
    """Who to notify of a run. Never raises: none, where it cannot be read or was not written by this user."""
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
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(_key_path()))  # an empty one could be guessed
    return key


_LINE_S = 5.0  # a job that puts itself back has no time to lose


class Notifier:
    """Notifies of one run's statuses as they change; for its supervisor. Never raises, blocks only where stated."""

    def __init__(self, rundir: RunDir, index_path: Path, *, is_in_job: bool = False) -> None:
        """index_path: where this machine has the run's metrics.

        is_in_job: a Slurm job, which kills its processes when it ends; that the run was queued is already known.
        """
        self._rundir = rundir
        self._index_path = index_path
        self._wanted = {status for notification in read(rundir) for status in notification.on}
        self._is_in_job = is_in_job
        self._last = Status.QUEUED if is_in_job else None

    def changed(self, run: Run, journal_bytes: int) -> None:
        """Notify of a status that lasts. Of the end only when no other session follows: see `ended`."""
        if not run.status.is_final and run.status is not self._last:
            self._notify(run.status, journal_bytes, is_awaited=self._is_in_job and run.status is Status.QUEUED)
        self._last = run.status

    def ended(self, run: Run, journal_bytes: int) -> None:
        """Notify how a run ended; also for a supervisor that died."""
        if run.status.is_final:
            self._notify(run.status, journal_bytes, is_awaited=self._is_in_job)

    def _notify(self, status: Status, journal_bytes: int, *, is_awaited: bool) -> None:
        """is_awaited: return when it is delivered, not at once."""
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


def log(rundir: RunDir, status: Status, target: str, result: str) -> None:
    """Add a line to notify.log: what came of notifying `target`."""
    from backprop.text import printable

    line = printable(f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ} {status.value}: {target} {result}")
    with suppress(OSError):  # the run was removed, or the disk is full: there is no place left to say it
        fd = open_to_append(rundir.notify_log_path)
        try:
            os.write(fd, f"{line[:_LOG_LINE]}\n".encode(errors="replace"))
        finally:
            os.close(fd)
