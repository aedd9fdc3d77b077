"""Validates checkpoints, and chooses the one to resume from. Only reads.

The recorder calls `measure` when a trainer reports a save, `resume` calls `choose`, views call `problem` with
`thorough=False`.
"""

import json
import os
import re
import stat
import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from itertools import accumulate
from pathlib import Path

from backprop.records import Checkpoint, ManifestEntry, Measure, Record, Run, Session, is_showable
from backprop.text import is_utf8

MAX_MANIFEST_FILES = 10_000  # a folder with more is a data set, not a checkpoint, and is not walked
_MAX_SAFETENSORS_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself
_READ_BYTES = 1 << 20
_QUICK_JSON_BYTES = 1_000_000  # parsing more is too slow for a quick check
_MAX_WALKED_PICKLE_BYTES = 64 << 20
_ALWAYS_ZIP = {".npz", ".keras"}
_BEST_FOLDER = re.compile("best([-_](model|checkpoint|ckpt))?|(model|checkpoint|ckpt)[-_]best", re.IGNORECASE)
_ZIP_OR_PICKLE = {".pt", ".pth"}  # torch.save: a zip since PyTorch 1.6, a pickle before


def measure(path: str) -> Measure:
    """The current sizes of a checkpoint; `size_bytes` is None if it does not exist.

    `saved_at` is the newest modification time, so that it does not depend on when it is measured.
    """
    try:
        info = Path(path).stat()
        if not stat.S_ISDIR(info.st_mode):
            return Measure(size_bytes=info.st_size, saved_at=_utc(info.st_mtime))
        files = list(_files_below(path))
    except OSError:  # deleted, or it never existed: a report is only a claim
        return Measure(size_bytes=None, saved_at=datetime.now(timezone.utc))
    return Measure(
        size_bytes=sum(info.st_size for _, info in files),
        saved_at=_utc(max((info.st_mtime for _, info in files), default=info.st_mtime)),
        manifest=tuple(ManifestEntry(path=name, size_bytes=info.st_size) for name, info in files),
    )


def _utc(seconds: float) -> datetime:
    try:
        saved_at = datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):  # some file systems store any number
        return datetime.now(timezone.utc)
    return saved_at if is_showable(saved_at) else datetime.now(timezone.utc)


def _files_below(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    count = 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        count += len(folders) + len(names)
        if count > MAX_MANIFEST_FILES:
            raise OSError(f"more than {MAX_MANIFEST_FILES} files in it")
        for name in sorted(names):
            path = os.path.join(parent, name)  # noqa: PTH118  pathlib is slow on ten thousand files
            with suppress(FileNotFoundError):  # a broken link, or a file that was just deleted
                info = os.stat(path)  # noqa: PTH116
                if stat.S_ISREG(info.st_mode) and is_utf8(path):
                    yield os.path.relpath(path, folder), info


class CheckpointChoice(Record, frozen=True):
    """The checkpoint to resume from, and the newer ones that were skipped."""

    checkpoint: Checkpoint | None
    skipped: tuple[tuple[Checkpoint, str], ...] = ()  # newest first, each with the reason


def choose(
    checkpoints: Sequence[Checkpoint],
    saved_over_by: Callable[[Checkpoint], str | None] = lambda _: None,
    sessions: Callable[[], Sequence[Session]] = tuple,
) -> CheckpointChoice:
    """The latest valid training state that the script itself saved. checkpoints: oldest first.

    A backup of an overwritten checkpoint is preferred to later ones that are not as far; without steps, to those of a
    session that had not read its checkpoint. Emergency checkpoints are never chosen: the script may not know how to
    load them. Reads every byte of the candidates.

    saved_over_by: returns another run that has saved to the same path since. sessions: gives those of the run.
    """
    skipped: list[tuple[Checkpoint, str]] = []
    kept = [one for one in checkpoints if one.is_kept and problem(one.path, one.measure) is None]
    was_read = {one.number: one.is_checkpoint_read for one in sessions()} if kept else {}
    for checkpoint in _preferred_first([checkpoint for checkpoint in checkpoints if not checkpoint.is_emergency]):
        reason = problem(checkpoint.path, checkpoint.measure)
        if reason is None and (other := saved_over_by(checkpoint)) is not None:
            reason = f"run {other} has saved over it since"
        if reason is None:
            reason = next((why for one in kept if (why := _why_less(checkpoint, one, was_read)) is not None), None)
        if reason is None:
            return CheckpointChoice(checkpoint=checkpoint, skipped=tuple(skipped))
        skipped.append((checkpoint, reason))
    return CheckpointChoice(checkpoint=None, skipped=tuple(skipped))


def looks_valid(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint looks valid, without reading all of it."""
    return problem(checkpoint.path, checkpoint.measure, thorough=False) is None


def without_opening_offered(run: Run, is_valid: Callable[[Checkpoint], bool]) -> Callable[[Checkpoint], bool]:
    """The same check, but without opening checkpoints whose first read by the trainer is awaited.

    Our own read would be taken for the trainer's: see supervisor/checkpoint_reads.py.
    """
    last = run.last_session
    if last is None or last.status.is_final or last.offered is None or last.resumed_from is not None:
        return is_valid
    number, offered = last.number, last.offered

    def is_valid_unopened(one: Checkpoint) -> bool:
        # all that existed when the session began; a backup that was made since may be the same file
        if one.session != number or one.path == offered or one.is_kept:
            return changed_size(one.path, one.measure) is None
        return is_valid(one)

    return is_valid_unopened


def changed_size(path: str, reported: Measure) -> str | None:
    """Why it cannot be complete, judged by file sizes alone; None if they are as reported. Opens no file."""
    entries = (
        [(path, reported.size_bytes)]
        if reported.manifest is None
        else [(os.path.join(path, entry.path), entry.size_bytes) for entry in reported.manifest]  # noqa: PTH118
    )
    for name, expected_bytes in entries:
        try:
            size_bytes = os.stat(name).st_size  # noqa: PTH116
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        if (shrunk := _shrunk(size_bytes, expected_bytes)) is not None:
            return shrunk
    return None


def _shrunk(size_bytes: int, expected_bytes: int | None) -> str | None:
    if expected_bytes is None or size_bytes >= expected_bytes:
        return None
    return f"it is {size_bytes} bytes long, and was {expected_bytes} when it was reported"


def _why_less(other: Checkpoint, kept: Checkpoint, was_read: Mapping[int, bool | None]) -> str | None:
    """Why a checkpoint that was saved after a backup was made is considered behind it; None if it is not.

    was_read: session -> whether it read the checkpoint that it was offered.
    """
    if other.session < kept.session:
        return None
    if kept.step is not None and other.step is not None:
        is_less = kept.step > other.step
        return f"session {other.session} had not come as far as step {kept.step} again" if is_less else None
    read = was_read.get(other.session)
    if read or other.is_kept or (read is None and other.session > kept.session):
        return None
    return f"session {other.session} was not seen to read its checkpoint, and no step shows that it came as far"


def _preferred_first(checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """Newest first, but weights without an optimizer state last."""
    newest_first = checkpoints[::-1]
    return [
        *_best_later([checkpoint for checkpoint in newest_first if not checkpoint.is_weights_only]),
        *_best_later([checkpoint for checkpoint in newest_first if checkpoint.is_weights_only]),
    ]


def _best_later(newest_first: list[Checkpoint]) -> list[Checkpoint]:
    """The same order, but a checkpoint named "best" comes after all others of its session that are as far or farther.

    It may be a copy of an older one, made at the end.
    """
    others: dict[tuple[int, bool], list[tuple[int, int]]] = defaultdict(list)  # (-step, position)
    for place, one in enumerate(newest_first):
        if not _is_called_best(one):
            others[one.session, one.step is None].append((-(one.step or 0), place))
    for those in others.values():  # each with the oldest position of all that are as far
        those[:] = accumulate(sorted(those), lambda one, other: (other[0], max(one[1], other[1])))

    def order(place: int) -> tuple[int, bool]:
        one = newest_first[place]
        if not _is_called_best(one):
            return place, False
        those = others[one.session, one.step is None]
        count = bisect_right(those, (-(one.step or 0), len(newest_first)))
        return max(place, those[count - 1][1] if count else 0), True

    return [newest_first[place] for place in sorted(range(len(newest_first)), key=order)]


def _is_called_best(checkpoint: Checkpoint) -> bool:
    path = Path(checkpoint.path)
    return "best" in path.name.lower() or _BEST_FOLDER.fullmatch(path.parent.name) is not None


def problem(path: str, reported: Measure | None = None, *, thorough: bool = True) -> str | None:
    """Why this checkpoint must not be resumed from; None if it is valid.

    reported: its sizes when the trainer reported it; None: only the file itself is checked. thorough: verify the
    checksums of zip files, which takes as long as loading the checkpoint; else only read their tables of contents.
    """
    try:
        if not Path(path).exists():
            return "it does not exist"
        if Path(path).is_dir():
            return _folder_problem(Path(path), reported, thorough=thorough)
        expected_bytes = reported.size_bytes if reported else None
        return _file_problem(Path(path), expected_bytes, thorough=thorough)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"


def _folder_problem(folder: Path, reported: Measure | None, *, thorough: bool) -> str | None:
    manifest = reported.manifest if reported else None
    if manifest is None:
        manifest = tuple(ManifestEntry(path=name, size_bytes=info.st_size) for name, info in _files_below(str(folder)))
    if not manifest:
        return "the folder is empty"
    for entry in manifest:
        if not (folder / entry.path).exists():
            return f"{entry.path} is missing from it"
        reason = _file_problem(folder / entry.path, entry.size_bytes, thorough=thorough)
        if reason is not None:
            return f"{entry.path}: {reason}"
    return None


def _file_problem(path: Path, expected_bytes: int | None, *, thorough: bool) -> str | None:
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        return "it is neither a file nor a folder"
    size_bytes = info.st_size
    if (shrunk := _shrunk(size_bytes, expected_bytes)) is not None:
        return shrunk
    if expected_bytes is None and size_bytes == 0:
        return "it is empty"
    with path.open("rb") as file:
        magic = file.read(4)
    kind = path.suffix.lower()
    if kind == ".safetensors":
        return _safetensors_problem(path, size_bytes)
    if kind == ".json":
        return _json_problem(path) if thorough or size_bytes <= _QUICK_JSON_BYTES else None
    if magic.startswith(b"PK") or kind in _ALWAYS_ZIP:
        return _zip_problem(path, thorough=thorough)
    if kind in _ZIP_OR_PICKLE and not magic.startswith(b"\x80"):
        return f"it is not a {kind} file (it begins with {magic!r})"
    return None


def is_complete(path: str) -> bool | None:
    """Whether this file is complete; None if its format does not tell. Usually reads all of it. Raises OSError."""
    place = Path(path)
    with place.open("rb") as file:
        magic = file.read(2)
    if magic == b"PK" or place.suffix.lower() in {*_ALWAYS_ZIP, ".safetensors", ".json"}:
        return problem(path) is None
    return _is_complete_pickle(place) if magic[:1] == b"\x80" and place.suffix not in _ZIP_OR_PICKLE else None


def _is_complete_pickle(path: Path) -> bool:
    import pickletools

    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        if size_bytes > _MAX_WALKED_PICKLE_BYTES:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"."  # the opcode that ends every pickle
        try:
            while file.tell() < size_bytes:
                for _ in pickletools.genops(file):  # parses, and executes nothing
                    pass
        except (ValueError, UnicodeDecodeError):
            return False
    return True


def _zip_problem(path: Path, *, thorough: bool) -> str | None:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist() if thorough else ():
                # torch.save writes 0 for all of them after torch.serialization.set_crc32_options(False)
                if member.CRC != 0:
                    with archive.open(member) as file:
                        while file.read(_READ_BYTES):
                            pass
    except Exception as error:  # noqa: BLE001  zlib.error, lzma.LZMAError...: whatever a decoder makes of garbage
        return f"its zip container is broken: {str(error) or type(error).__name__}"
    return None


def _safetensors_problem(path: Path, size_bytes: int) -> str | None:
    # 8 bytes little-endian length, a JSON header of that length, then the tensors: the format's README
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            return f"its safetensors header is cut off: {size_bytes} bytes in all"
        (header_bytes,) = struct.unpack("<Q", prefix)
        if header_bytes > min(size_bytes - 8, _MAX_SAFETENSORS_HEADER_BYTES):
            return f"its safetensors header would be {header_bytes} bytes long, in a file of {size_bytes}"
        header = file.read(header_bytes)
    try:
        tensors = json.loads(header)
        data_bytes = max(
            (int(t["data_offsets"][1]) for name, t in tensors.items() if name != "__metadata__"), default=0
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        return "its safetensors header is not readable"
    if not 0 <= data_bytes < 1 << 63:
        return "its safetensors header is not readable"
    expected = 8 + header_bytes + data_bytes
    return None if size_bytes == expected else f"it is {size_bytes} bytes long, and its header says {expected}"


def _json_problem(path: Path) -> str | None:
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        return f"it is not valid JSON: {error}"
    return None
