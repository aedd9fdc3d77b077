"""One object names every file a run owns.

<home>/runs/<run-id>/
  run.json                     what was asked; written once
  journal.jsonl                what the supervisor did and why; its lock is the right to change the run
  session-N.out session-N.err  what the trainer wrote
  session-N.order              in which order the two grew
  session-N.events             events of our code inside the trainer
  session-N.printed            metrics that were read in what it printed for people
  session-N.tracked            metrics that it logged to trackers
  session-N.usage              what it took of the machine: see usage/blocks.py
  session-N.tracker-runs       ids of the W&B and MLflow runs that it began
  session-N.trains             which of its processes train
  session-N.live               how it does while it runs: signs of life, rate, time that remains
  tree.json                    the processes of a live session's trainer
  control.json                 deadline and requests, from the supervisor to the trainer
  code.patch                   uncommitted changes when it was submitted
  snapshot/                    the work tree as it was submitted; only with --snapshot
  session-N.modules            the user's modules that its processes imported, with their checksums
  code-HASH.patch              the same when a session started, where that is something else
  supervisor.log               messages of a detached supervisor
  notify.json                  who to notify; only if anyone is
  notify.log                   what came of that
  annotations/                 a file for each thing that users say about it: group, tags, notes; see annotations.py
  asked/                       requests from other machines, until the supervisor has written them into its journal
  job.sh slurm-JOB.log         what Slurm executes; its output
"""

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from backprop.errors import UsageError
from backprop.records import LiveProgress, RunSpec, Source
from backprop.store.files import (
    UnreadableError,
    foreign_owner,
    is_allowed,
    open_plain,
    read_plain,
    read_record,
    write_plain,
)
from backprop.trainer import module_sources

LAST = "last"  # the word by which commands name the newest run
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# no vowels and nothing that looks like something else: an id is typed, read aloud and never spells a word
_ALPHABET = "bcdfghjkmnpqrstvwxz23456789"
_LETTER_COUNT = 19
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})  # nothing more can be written there
_ID_LENGTH = 8  # 27**8 = 2.8e11: among 100,000 runs a new id is taken once in three million times, and then redrawn


def new_run_id() -> str:
    """A short random id that begins with a letter."""
    return _run_id(os.urandom(16))  # `secrets` costs 15 ms to import


def derived_run_id(request_id: str) -> str:
    """The id of the run that is made by a request of this id: always the same one."""
    import hashlib

    return _run_id(hashlib.sha256(request_id.encode()).digest()[:16])


def _run_id(bits: bytes) -> str:
    # 128 bits for an id of 38: which letters come is as good as even
    rest, first = divmod(int.from_bytes(bits, "big"), _LETTER_COUNT)
    letters = [_ALPHABET[first]]
    while len(letters) < _ID_LENGTH:
        rest, position = divmod(rest, len(_ALPHABET))
        letters.append(_ALPHABET[position])
    return "".join(letters)


def check_run_id(run_id: str) -> None:
    """Raise UsageError unless the id can name a folder, and cannot be mistaken for an option or a command."""
    if not RUN_ID.fullmatch(run_id) or run_id == LAST:
        raise UsageError(
            f"--run-id {run_id!r} cannot be used: 1 to 64 letters, digits, '.', '_' or '-', "
            f"beginning with a letter or digit, and not {LAST!r}."
        )


class _Folder(Protocol):
    @property
    def path(self) -> Path: ...


class FileIn:
    """An attribute of a folder's class: the path of a file or folder in it, whether or not that exists."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: _Folder | None, owner: type) -> Path:
        if folder is None:
            raise AttributeError(f"{owner.__name__} itself is no folder")
        return folder.path / self._name


@dataclass(frozen=True, slots=True)
class RunDir:
    """The folder of one run. Making the object touches nothing."""

    path: Path

    spec_path = FileIn("run.json")  # what was asked
    journal_path = FileIn("journal.jsonl")  # what the supervisor did, and why
    control_path = FileIn("control.json")  # what the supervisor tells the trainer
    annotations_path = FileIn("annotations")  # a folder: what users say about the run
    roster_path = FileIn("tree.json")  # the processes of the tree
    patch_path = FileIn("code.patch")  # the uncommitted changes at submission
    snapshot_path = FileIn(module_sources.SNAPSHOT)  # a folder: the copy of the code
    job_script_path = FileIn("job.sh")  # of Slurm
    supervisor_log_path = FileIn("supervisor.log")  # of one in the background
    notify_path = FileIn("notify.json")  # who to notify
    notify_log_path = FileIn("notify.log")  # what came of it

    @property
    def run_id(self) -> str:
        """The name of the folder."""
        return self.path.name

    def keep_patch(self, patch: bytes) -> str:
        """The name of the file that has these uncommitted changes; made where none has. Raises OSError."""
        import hashlib

        name = f"code-{hashlib.sha256(patch).hexdigest()[:12]}.patch"
        if self.read_patch(self.patch_path.name) == patch:
            return self.patch_path.name
        if self.read_patch(name) != patch:
            write_plain(self.path / name, patch)
        return name

    def read_patch(self, name: str | None) -> bytes | None:
        """Kept uncommitted changes; None where there are none."""
        if name is None:
            return None
        try:
            return read_plain(self.path / name)
        except FileNotFoundError:
            return None

    def job_log_path(self, job: str) -> Path:
        return self.path / f"slurm-{job}.log"

    def source_path(self, session: int, source: Source) -> Path:
        """The file of a source of a session, whether or not it exists."""
        return self.path / f"session-{session}.{source.value}"

    def source_sizes(self, sessions: Iterable[int], closed: list[str]) -> dict[tuple[int, Source], int]:
        """How many bytes each source of these sessions has, where there is one.

        closed: gets the names of those that another user keeps from us, which are left out. Raises OSError.
        """
        found: dict[tuple[int, Source], int] = {}
        for session in sessions:
            for source in Source:
                path = self.source_path(session, source)
                with suppress(FileNotFoundError):
                    info = os.lstat(path)
                    if not stat.S_ISREG(info.st_mode):
                        continue
                    if info.st_uid == os.geteuid() or is_allowed(path, os.R_OK):
                        found[session, source] = info.st_size
                    elif info.st_size:
                        closed.append(path.name)
        return found

    def sync(self) -> None:
        """Have what was asked for on the disk, to survive a power failure: without it nobody can read the rest.

        Raises OSError.
        """
        for path in (self.spec_path, self.patch_path, self.path, self.path.parent):
            is_folder = path in {self.path, self.path.parent}  # which holds the names
            with suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY) if is_folder else open_plain(path)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def out_path(self, session: int) -> Path:
        return self.source_path(session, Source.OUT)

    def err_path(self, session: int) -> Path:
        return self.path / f"session-{session}.err"

    def order_path(self, session: int) -> Path:
        return self.path / f"session-{session}.order"

    def live_path(self, session: int) -> Path:
        return self.path / f"session-{session}.live"

    def read_live(self, session: int) -> LiveProgress | None:
        """How a running session does, as its supervisor wrote it last; None where it wrote nothing."""
        try:
            return read_record(self.live_path(session), LiveProgress)
        except (FileNotFoundError, UnreadableError):
            return None

    def read_modules(self, session: int) -> bytes:
        """The list of modules that its processes imported; empty where there is none."""
        try:
            return read_plain(self.path / f"session-{session}.modules")
        except FileNotFoundError:
            return b""

    def announced_path(self, session: int) -> Path:
        return self.path / f"session-{session}.trains"

    def read_spec(self) -> RunSpec:
        """What was asked. Raises FileNotFoundError or UnreadableError."""
        return read_record(self.spec_path, RunSpec)

    def discard(self) -> None:
        """Delete a draft, which no other process has seen."""
        shutil.rmtree(self.path, ignore_errors=True)

    def remove(self) -> None:
        """Delete the record. It vanishes from sight in one rename, however long the deleting takes.

        Raises OSError, or UsageError for another user's.
        """
        if self.path.is_symlink() or not self.path.is_dir():  # not ours
            self.path.unlink()
            return
        if (owner := foreign_owner(self.path)) is not None:
            raise UsageError(f"run {self.run_id} belongs to user {owner}, who can remove it: rm -r {self.path}")
        doomed = self.path.with_name(f".removed-{self.run_id}-{os.getpid()}")
        self.path.rename(doomed)
        shutil.rmtree(doomed)
