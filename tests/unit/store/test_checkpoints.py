"""Is a checkpoint whole, and which one to resume from? With the containers that real trainers write."""

import io
import json
import os
import pickle
import random
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.records import Checkpoint, Measure, Run, Session, Status
from backprop.store.checkpoints import (
    CheckpointChoice,
    changed_size,
    choose,
    is_complete,
    looks_valid,
    measure,
    problem,
    without_opening_offered,
)
from tests.conftest import scaled
from tests.records import SPEC, session_record

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
NOISE = random.Random(1).randbytes(4096)


def npz_bytes() -> bytes:
    file = io.BytesIO()
    np.savez(file, weights=np.frombuffer(NOISE, dtype=np.uint8), step=np.array(12))
    return file.getvalue()


def zip_bytes(method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.0.0"}')
        archive.writestr("model.weights.h5", NOISE)
    return file.getvalue()


def safetensors_bytes(data: bytes = NOISE) -> bytes:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "U8", "shape": [10], "data_offsets": [0, 10]},
        "b": {"dtype": "U8", "shape": [len(data) - 10], "data_offsets": [10, len(data)]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def pickle_bytes() -> bytes:
    return pickle.dumps({"weights": NOISE, "step": 12}, protocol=2)


CONTAINERS: dict[str, Callable[[], bytes]] = {
    "model.npz": npz_bytes,
    "model.keras": lambda: zip_bytes(zipfile.ZIP_DEFLATED),
    "zip.pt": zip_bytes,
    "old.pth": pickle_bytes,
    "model.safetensors": safetensors_bytes,
    "state.json": lambda: json.dumps({"step": 12, "losses": [0.5] * 50}).encode(),
    "model.bin": lambda: NOISE,
}
TELLS_ITSELF = [name for name in CONTAINERS if name not in {"old.pth", "model.bin"}]  # cut off, by its content alone


def saved(folder: Path, name: str, data: bytes | None = None) -> Path:
    path = folder / name
    path.write_bytes(CONTAINERS[name]() if data is None else data)
    return path


def checkpoint(path: Path, step: int = 1) -> Checkpoint:
    return Checkpoint(path=str(path), step=step, session=1, measure=measure(str(path)))


# -- measure


def test_the_measure_of_a_file(tmp_path: Path):
    """Size and modification time of a file, whoever measures it when."""
    path = saved(tmp_path, "model.bin")
    os.utime(path, (0, NOW.timestamp()))
    assert measure(str(path)) == Measure(size_bytes=len(NOISE), saved_at=NOW)


def test_the_measure_of_a_folder(tmp_path: Path):
    """A folder's files with their sizes, in a fixed order, and the newest modification time of all."""
    (tmp_path / "b").mkdir()
    for name, size, at in (("b/two", 2, 50), ("a", 1, 99), ("b/one", 0, 10)):
        (tmp_path / name).write_bytes(b"x" * size)
        os.utime(tmp_path / name, (at, at))
    told = measure(str(tmp_path))
    assert told.size_bytes == 3
    assert told.saved_at == datetime.fromtimestamp(99, timezone.utc)
    assert told.manifest is not None
    assert [(entry.path, entry.size_bytes) for entry in told.manifest] == [("a", 1), ("b/one", 0), ("b/two", 2)]


def test_the_measure_of_an_empty_folder(tmp_path: Path):
    """An empty folder is there, with nothing in it."""
    os.utime(tmp_path, (0, NOW.timestamp()))
    assert measure(str(tmp_path)) == Measure(size_bytes=0, saved_at=NOW, manifest=())


def test_the_files_of_a_folder_are_listed_in_a_fixed_order(tmp_path: Path):
    """Folder after folder by name, whatever order they were made in or the disk gives them in."""
    names = [f"{folder}/{name}" for folder in "hcfadgbe" for name in "21"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    told = measure(str(tmp_path))
    assert told.manifest is not None
    assert [entry.path for entry in told.manifest] == sorted(names)


def test_a_time_that_is_none_does_not_keep_a_file_from_being_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Some file systems keep any number; then it counts as saved now."""
    path = saved(tmp_path, "model.bin")
    info = list(path.stat())
    info[stat.ST_MTIME] = 10**17
    monkeypatch.setattr(Path, "stat", lambda _: os.stat_result(info))
    before = datetime.now(timezone.utc)
    told = measure(str(path))
    assert told.size_bytes == len(NOISE)
    assert before <= told.saved_at <= datetime.now(timezone.utc)


@pytest.mark.parametrize("path", ["missing", "missing/deeper", "x" * 5000])
def test_the_measure_of_what_is_not_there(tmp_path: Path, path: str):
    """A report is only a claim: what is not there has no size."""
    told = measure(str(tmp_path / path))
    assert told.size_bytes is None
    assert told.manifest is None


def test_the_measure_of_a_folder_with_a_link_to_nowhere(tmp_path: Path):
    """A link that leads nowhere does not make the folder around it disappear."""
    saved(tmp_path, "model.bin")
    (tmp_path / "latest").symlink_to("gone")
    assert measure(str(tmp_path)).size_bytes == len(NOISE)


def test_a_folder_with_a_link_to_nowhere_is_whole(tmp_path: Path):
    """A link that leads nowhere is no reason to throw a checkpoint away."""
    saved(tmp_path, "model.bin")
    (tmp_path / "latest").symlink_to("gone")
    assert problem(str(tmp_path), measure(str(tmp_path))) is None


def test_a_name_that_is_not_text_is_left_out_of_the_manifest(tmp_path: Path):
    """A file name that cannot be written into the record does not keep the rest out of it."""
    (tmp_path / "good").write_bytes(b"1")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")).write_bytes(b"22")
    told = measure(str(tmp_path))
    assert told.manifest is not None
    assert [entry.path for entry in told.manifest] == ["good"]
    assert problem(str(tmp_path), told) is None


def test_a_folder_of_as_many_files_as_a_checkpoint_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The limit itself is allowed; folders count as well, at whatever depth. A folder with more is a data set."""
    monkeypatch.setattr("backprop.store.checkpoints.MAX_MANIFEST_FILES", 4)
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "one").touch()
    (tmp_path / "a/b/two").touch()
    assert measure(str(tmp_path)).size_bytes == 0
    (tmp_path / "a/three").touch()
    assert measure(str(tmp_path)).size_bytes is None
    assert problem(str(tmp_path)) == "it cannot be read: more than 4 files in it"


# -- problem: files


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.parametrize("name", CONTAINERS)
def test_a_whole_file_has_no_problem(tmp_path: Path, name: str, thorough: bool):
    """Every container that trainers write is recognised as whole, with its report and without."""
    path = saved(tmp_path, name)
    assert problem(str(path), thorough=thorough) is None
    assert problem(str(path), measure(str(path)), thorough=thorough) is None


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_shorter_than_reported_is_not_whole(tmp_path: Path, name: str):
    """A file that lost bytes since it was reported is refused, with both sizes in the reason."""
    path = saved(tmp_path, name)
    reported = measure(str(path))
    os.truncate(path, path.stat().st_size - 1)
    reason = problem(str(path), reported, thorough=False)
    assert reason is not None
    assert str(reported.size_bytes) in reason
    assert str(path.stat().st_size) in reason


@pytest.mark.parametrize("kept", [0, 1, 3, 7, 8, 9, 0.1, 0.5, 0.9, -30, -2, -1])
@pytest.mark.parametrize("name", TELLS_ITSELF)
def test_a_truncated_container_tells_so_itself(tmp_path: Path, name: str, kept: float):
    """A container cut off anywhere is refused even when nobody knows how long it was."""
    data = CONTAINERS[name]()
    path = saved(tmp_path, name, data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    assert problem(str(path), thorough=False) is not None


@pytest.mark.parametrize("name", ["model.npz", "model.keras", "zip.pt"])
def test_a_flipped_byte_in_a_zip_is_found_by_a_thorough_look(tmp_path: Path, name: str):
    """Bit rot in the middle of a member breaks its checksum, and the reason names the member."""
    data = bytearray(CONTAINERS[name]())
    data[len(data) // 2] ^= 0xFF
    path = saved(tmp_path, name, bytes(data))
    reason = problem(str(path), measure(str(path)))
    assert reason is not None
    assert "zip container is broken" in reason


def test_the_member_of_a_zip_that_is_broken_is_named(tmp_path: Path):
    data = bytearray(npz_bytes())
    data[len(data) // 2] ^= 0xFF
    reason = problem(str(saved(tmp_path, "model.npz", bytes(data))))
    assert reason == "its zip container is broken: Bad CRC-32 for file 'weights.npy'"


def test_an_error_without_a_message_is_named(tmp_path: Path):
    """A member that is said to be longer than the file ends in a bare EOFError (in some versions of Python)."""
    data = bytearray(zip_bytes())
    header = data.rindex(b"PK\1\2")  # the last member's, in the table of contents; both of its sizes
    data[header + 20 : header + 28] = struct.pack("<II", 1_000_000, 1_000_000)
    reason = problem(str(saved(tmp_path, "zip.pt", bytes(data)))) or ""
    assert reason.startswith("its zip container is broken: ")
    assert reason.removeprefix("its zip container is broken: ")


def test_a_flipped_byte_is_not_looked_for_in_a_hurry(tmp_path: Path):
    """A look that is not thorough reads tables of contents only, so that lists are shown at once."""
    data = bytearray(npz_bytes())
    data[len(data) // 2] ^= 0xFF
    assert problem(str(saved(tmp_path, "model.npz", bytes(data))), thorough=False) is None


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name != "model.bin"])
def test_a_file_of_zeros_is_not_a_checkpoint(tmp_path: Path, name: str):
    """A file that a crash left full of zeros, at its full length, is refused."""
    path = saved(tmp_path, name, bytes(len(CONTAINERS[name]())))
    reported = Measure(size_bytes=path.stat().st_size, saved_at=NOW)
    assert problem(str(path), reported) is not None


def test_a_file_that_grew_is_whole(tmp_path: Path):
    """A checkpoint that was saved over by a larger one is still a checkpoint."""
    path = saved(tmp_path, "model.bin")
    assert problem(str(path), Measure(size_bytes=10, saved_at=NOW)) is None


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path):
    """What was deleted is not resumed from."""
    assert problem(str(tmp_path / "gone.pt"), Measure(size_bytes=10, saved_at=NOW)) == "it does not exist"


def test_a_path_that_cannot_be_looked_at_is_a_problem(tmp_path: Path):
    """A path that the system refuses is refused with the system's reason."""
    assert problem(str(tmp_path / ("x" * 5000))) == "it cannot be read: File name too long"


def test_an_empty_file_is_empty(tmp_path: Path):
    """A file without a byte that nobody measured is no checkpoint."""
    assert problem(str(saved(tmp_path, "model.bin", b""))) == "it is empty"


def test_a_long_json_file_is_not_read_in_a_hurry(tmp_path: Path):
    """A megabyte is; more would keep a list waiting, and is read before a resume only."""
    short, long = saved(tmp_path, "short.json", b"[" * 1_000_000), saved(tmp_path, "long.json", b"[" * 1_000_001)
    assert problem(str(short), thorough=False) is not None
    assert problem(str(long), thorough=False) is None
    assert problem(str(long)) is not None


def test_what_torch_did_not_save_is_not_a_torch_file(tmp_path: Path):
    """The reason shows how it begins."""
    assert problem(str(saved(tmp_path, "model.PT", b"<html>"))) == "it is not a .pt file (it begins with b'<htm')"


@pytest.mark.parametrize("thorough", [True, False])
@pytest.mark.timeout(20)
def test_a_fifo_is_refused_at_once(tmp_path: Path, thorough: bool):
    """A named pipe where a checkpoint should be is not waited for."""
    path = tmp_path / "model.pt"
    os.mkfifo(path)
    assert problem(str(path), thorough=thorough) == "it is neither a file nor a folder"


SAFETENSORS_HEADERS = [
    "[]",
    "null",
    "{",
    '{"a": 1}',
    '{"a": {}}',
    '{"a": {"data_offsets": 5}}',
    '{"a": {"data_offsets": [0]}}',
    '{"a": {"data_offsets": [0, "x"]}}',
    '{"a": {"data_offsets": [0, null]}}',
    '{"a": {"data_offsets": {"1": 2}}}',
    '{"a": {"data_offsets": [0, NaN]}}',
    '{"a": {"data_offsets": [0, Infinity]}}',
    '{"a": {"data_offsets": [0, 1e999]}}',
    '{"a": {"data_offsets": [0, 99999999999999999999999999]}}',
    '{"a": {"data_offsets": [0, ' + "9" * 4300 + "]}}",
    '{"a": {"data_offsets": [0, ' + "9" * 9999 + "]}}",
    "[" * 50_000,
    '"\\ud800"',
]


@pytest.mark.parametrize("header", SAFETENSORS_HEADERS, ids=lambda header: header[:40])
def test_a_strange_safetensors_header_is_a_reason(tmp_path: Path, header: str):
    """Whatever the header says, the verdict is a reason and not a crash."""
    data = struct.pack("<Q", len(header)) + header.encode() + b"1234"
    assert problem(str(saved(tmp_path, "model.safetensors", data))) is not None


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_a_wrong_safetensors_length_is_a_reason(tmp_path: Path, length: int):
    """A header length that cannot be is refused without reading so much."""
    data = struct.pack("<Q", length) + safetensors_bytes()[8:]
    assert problem(str(saved(tmp_path, "model.safetensors", data))) is not None


@pytest.mark.parametrize("extra", [b"x", b"\0" * 8])
def test_a_safetensors_file_with_a_tail_is_not_whole(tmp_path: Path, extra: bytes):
    """Bytes that no tensor accounts for mean that the file is not what its header says."""
    assert problem(str(saved(tmp_path, "model.safetensors", safetensors_bytes() + extra))) is not None


@pytest.mark.parametrize("header", [b"{}", b'{"__metadata__": {"format": "pt"}}'])
def test_a_safetensors_file_without_tensors_is_whole(tmp_path: Path, header: bytes):
    """Its header is all there is, and accounts for every byte."""
    data = struct.pack("<Q", len(header)) + header
    assert problem(str(saved(tmp_path, "model.safetensors", data))) is None


# -- problem: folders


def folder_checkpoint(folder: Path) -> Path:
    path = folder / "checkpoint-500"
    (path / "shards").mkdir(parents=True)
    saved(path, "model.safetensors")
    saved(path, "state.json")
    saved(path / "shards", "model.npz")
    return path


@pytest.mark.parametrize("thorough", [True, False])
def test_a_whole_folder_has_no_problem(tmp_path: Path, thorough: bool):
    """A folder whose files are all there and whole is whole, with its report and without."""
    path = folder_checkpoint(tmp_path)
    assert problem(str(path), measure(str(path)), thorough=thorough) is None
    assert problem(str(path), thorough=thorough) is None


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "shards/model.npz"])
def test_a_folder_with_a_missing_file_is_not_whole(tmp_path: Path, name: str):
    """A file that was reported and is gone is named in the reason."""
    path = folder_checkpoint(tmp_path)
    reported = measure(str(path))
    (path / name).unlink()
    assert problem(str(path), reported) == f"{name} is missing from it"


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "shards/model.npz"])
def test_a_folder_with_a_truncated_file_is_not_whole(tmp_path: Path, name: str):
    """A file of a folder that was cut off is named in the reason, with its report and without."""
    path = folder_checkpoint(tmp_path)
    reported = measure(str(path))
    os.truncate(path / name, (path / name).stat().st_size // 2)
    assert (problem(str(path), reported) or "").startswith(f"{name}: ")
    assert (problem(str(path)) or "").startswith(f"{name}: ")


def test_an_empty_folder_is_empty(tmp_path: Path):
    """A folder with nothing in it is no checkpoint, whether it was reported so or not."""
    assert problem(str(tmp_path)) == "the folder is empty"
    assert problem(str(tmp_path), measure(str(tmp_path))) == "the folder is empty"


def test_a_file_of_a_folder_may_have_been_empty_from_the_beginning(tmp_path: Path):
    """What was reported without a byte has lost none; nobody knows that of a folder that was never measured."""
    path = folder_checkpoint(tmp_path)
    saved(path, "marker", b"")
    assert problem(str(path), measure(str(path))) is None


def test_a_new_file_in_a_folder_is_no_problem(tmp_path: Path):
    """What came into the folder after the report does not matter."""
    path = folder_checkpoint(tmp_path)
    reported = measure(str(path))
    saved(path, "zip.pt", b"half")
    assert problem(str(path), reported) is None


@pytest.mark.timeout(20)
def test_a_fifo_in_a_folder_is_not_waited_for(tmp_path: Path):
    """A named pipe inside a checkpoint folder is passed over."""
    path = folder_checkpoint(tmp_path)
    os.mkfifo(path / "pipe")
    assert problem(str(path), measure(str(path))) is None


# -- without reading, or opening, all of it


def test_a_checkpoint_looks_valid_by_its_beginning(tmp_path: Path):
    """Lists are shown at once: a flipped byte is not looked for, what was cut off is found."""
    data = bytearray(npz_bytes())
    data[len(data) // 2] ^= 0xFF
    one = checkpoint(saved(tmp_path, "model.npz", bytes(data)))
    assert looks_valid(one) is True
    os.truncate(one.path, len(data) - 1)
    assert looks_valid(one) is False


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_changed_size_is_seen_without_opening_a_file(tmp_path: Path, is_folder: bool):
    """The size that was reported, or more, will do, whatever is in the file."""
    folder = folder_checkpoint(tmp_path)
    file = folder / "model.safetensors"
    path = str(folder if is_folder else file)
    reported, size_bytes = measure(path), file.stat().st_size
    file.write_bytes(bytes(size_bytes + 1))
    assert changed_size(path, reported) is None
    os.truncate(file, size_bytes)
    assert changed_size(path, reported) is None
    os.truncate(file, size_bytes - 1)
    told = f"it is {size_bytes - 1} bytes long, and was {size_bytes} when it was reported"
    assert changed_size(path, reported) == told
    file.unlink()
    assert changed_size(path, reported) == "it cannot be read: No such file or directory"


AWAITED = session_record(Status.RUNNING, 2, offered="/offered")  # its trainer has not read /offered yet


def opens(path: Path, last: Session | None, **more: object) -> bool:
    """Whether the check of a checkpoint opens it; one that is opened is said to be broken here, the others are whole."""
    run = Run(spec=SPEC, status=Status.RUNNING, latest=() if last is None else (last,))
    opened: list[Checkpoint] = []
    check = without_opening_offered(run, lambda one: bool(opened.append(one)))
    one = msgspec.structs.replace(checkpoint(saved(path.parent, path.name, b"12")), **more)
    assert check(one) is not bool(opened)
    os.truncate(path, 1)
    assert check(one) is False
    return bool(opened)


@pytest.mark.parametrize(
    ("session", "expected"),
    [
        (None, True),
        (AWAITED, False),
        (msgspec.structs.replace(AWAITED, status=Status.PAUSED), False),
        (msgspec.structs.replace(AWAITED, status=Status.FAILED), True),
        (msgspec.structs.replace(AWAITED, offered=None), True),
        (msgspec.structs.replace(AWAITED, resumed_from="/offered"), True),
    ],
    ids=["no session", "awaited", "paused", "ended", "nothing offered", "read"],
)
def test_a_checkpoint_is_not_opened_while_its_first_read_is_awaited(
    tmp_path: Path, session: Session | None, expected: bool
):
    """That read would be taken for the trainer's."""
    assert opens(tmp_path / "one", session) is expected


def test_a_checkpoint_of_the_session_itself_is_opened(tmp_path: Path):
    """It was not there when the session began; a backup that was made since may be the file that was offered."""
    path = tmp_path / "one"
    assert opens(path, AWAITED, session=2)
    assert not opens(path, AWAITED, session=2, is_kept=True)
    assert not opens(path, msgspec.structs.replace(AWAITED, offered=str(path)), session=2)


# -- choose


def test_the_newest_whole_one_is_chosen(tmp_path: Path):
    """The newest of all is chosen when it is whole, and nothing is passed over."""
    all_of_them = [checkpoint(saved(tmp_path, name), step) for step, name in enumerate(CONTAINERS)]
    choice = choose(all_of_them)
    assert choice.checkpoint == all_of_them[-1]
    assert choice.skipped == ()


def test_broken_ones_are_passed_over_with_their_reasons(tmp_path: Path):
    """The newest whole one is chosen; what was newer is listed, newest first, each with its reason."""
    old, good, cut, gone = (
        checkpoint(saved(tmp_path, name), step)
        for step, name in enumerate(("model.npz", "model.keras", "model.safetensors", "state.json"))
    )
    os.truncate(cut.path, 100)
    Path(gone.path).unlink()
    choice = choose([old, good, cut, gone])
    assert choice.checkpoint == good
    assert [skipped for skipped, _ in choice.skipped] == [gone, cut]
    assert choice.skipped[0][1] == "it does not exist"
    assert choice.skipped[1][1].startswith("it is 100 bytes long")


def test_what_another_run_has_saved_over_is_passed_over(tmp_path: Path):
    """It is whole, and not this run's: that run is named. Of what is broken nobody asks whose it is."""
    good, shared, gone = (
        checkpoint(saved(tmp_path, name), step) for step, name in enumerate(("model.bin", "zip.pt", "old.pth"))
    )
    Path(gone.path).unlink()
    asked: list[Checkpoint] = []

    def saved_over_by(one: Checkpoint) -> str | None:
        asked.append(one)
        return "run7" if one == shared else None

    assert choose([good, shared, gone], saved_over_by) == CheckpointChoice(
        checkpoint=good, skipped=((gone, "it does not exist"), (shared, "run run7 has saved over it since"))
    )
    assert asked == [shared, good]


def test_none_is_chosen_when_none_is_whole(tmp_path: Path):
    """Where nothing is whole nothing is chosen, and every one has its reason."""
    reported = [checkpoint(saved(tmp_path, name)) for name in CONTAINERS]
    for one in reported:
        Path(one.path).unlink()
    choice = choose(reported)
    assert choice.checkpoint is None
    assert len(choice.skipped) == len(reported)


def test_nothing_is_chosen_from_nothing():
    """A run that saved nothing has nothing to resume from."""
    assert choose([]).checkpoint is None


# -- whatever lies there


@given(st.integers(0, len(npz_bytes()) - 1))
@settings(max_examples=scaled(150), deadline=None)
def test_a_truncated_npz_is_never_called_whole(tmp_path_factory: pytest.TempPathFactory, size: int):
    """However much of it is left, half an archive is not resumed from."""
    path = saved(tmp_path_factory.mktemp("cut"), "model.npz", npz_bytes()[:size])
    assert problem(str(path), thorough=False) is not None


@given(st.sampled_from(TELLS_ITSELF), st.integers(0, 6000), st.binary(min_size=1, max_size=40), st.booleans())
@settings(max_examples=scaled(300), deadline=None)
def test_no_damage_makes_it_raise(
    tmp_path_factory: pytest.TempPathFactory, name: str, at: int, damage: bytes, thorough: bool
):
    """Random bytes written over a container give a verdict, never a crash."""
    data = CONTAINERS[name]()
    at %= len(data)
    path = saved(tmp_path_factory.mktemp("damaged"), name, data[:at] + damage + data[at + len(damage) :])
    verdict = problem(str(path), thorough=thorough)
    assert verdict is None or verdict.startswith("it")


@given(st.binary(max_size=60), st.sampled_from(list(CONTAINERS)))
@settings(max_examples=scaled(200), deadline=None)
def test_no_content_makes_it_raise(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str):
    """Arbitrary bytes under any name give a verdict, and an empty file is never whole."""
    verdict = problem(str(saved(tmp_path_factory.mktemp("any"), name, data)))
    assert verdict is None or verdict.startswith("it")
    assert data or verdict == "it is empty"


def test_a_zip_without_checksums_is_whole(tmp_path: Path):
    """torch.save can be told not to compute checksums and writes zeros; torch.load reads such a file, and so do we."""
    path = tmp_path / "model.pt"
    content = b"weights" * 1000
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", content)
    checksum = zlib.crc32(content).to_bytes(4, "little")
    data = path.read_bytes()
    assert data.count(checksum) == 2  # in the member's own header, and in the table of contents
    path.write_bytes(data.replace(checksum, b"\0" * 4))
    assert problem(str(path)) is None
    path.write_bytes(path.read_bytes()[:-10])
    assert problem(str(path)) is not None


def test_what_was_saved_in_an_emergency_is_not_chosen(tmp_path: Path):
    """The script may not know how to load it: it is taken only when somebody names it."""
    good = checkpoint(saved(tmp_path, "good.bin", b"x"), 1)
    emergency = msgspec.structs.replace(checkpoint(saved(tmp_path, "newer.bin", b"x"), 2), is_emergency=True)
    assert choose([good, emergency]) == CheckpointChoice(checkpoint=good)
    assert choose([emergency]) == CheckpointChoice(checkpoint=None)


# -- what was kept


def kept_checkpoint(path: Path, step: int | None, session: int) -> Checkpoint:
    path.write_bytes(b"weights")
    return Checkpoint(path=str(path), step=step, session=session, measure=measure(str(path)), is_kept=True)


@pytest.mark.parametrize(
    ("kept_step", "later", "expected"),
    [
        (10, (2, 3), "kept"),  # session and step of what was saved after it
        (10, (2, 10), "later"),
        (10, (2, 11), "later"),
        (10, (3, 9), "kept"),
        (None, (2, 3), "kept"),  # nobody knows, but that session kept it
        (10, (2, None), "kept"),
        (None, (3, 3), "later"),
        (10, (3, None), "later"),
        (10, (1, 3), "later"),  # saved before it was kept
    ],
)
def test_one_that_was_kept_comes_before_what_holds_less(
    tmp_path: Path, kept_step: int | None, later: tuple[int, int | None], expected: str
):
    kept = kept_checkpoint(tmp_path / "kept", kept_step, 2)
    path = tmp_path / "later"
    path.write_bytes(b"weights")
    saved = Checkpoint(path=str(path), step=later[1], session=later[0], measure=measure(str(path)))
    choice = choose([kept, saved])
    assert choice.checkpoint is not None
    assert Path(choice.checkpoint.path).name == expected
    assert len(choice.skipped) == (expected == "kept")


@pytest.mark.parametrize("session", [2, 3])
@pytest.mark.parametrize("is_read", [True, False])
def test_where_no_step_tells_the_newest_of_a_session_that_read_its_checkpoint_is_chosen(
    tmp_path: Path, session: int, is_read: bool
):
    """The journal knows of reads that the keeping process did not see. No step is claimed that nobody knows."""
    kept = kept_checkpoint(tmp_path / "kept", None, 2)
    (tmp_path / "later").write_bytes(b"weights")
    later = Checkpoint(path=str(tmp_path / "later"), step=None, session=session, measure=kept.measure)
    ran = session_record(Status.STOPPED, session, started_at=NOW, timebox_s=60, is_checkpoint_read=is_read)  # fmt: skip
    choice = choose([kept, later], sessions=lambda: [ran])
    assert choice.checkpoint == (later if is_read else kept)
    why = f"session {session} was not seen to read its checkpoint, and no step shows that it came as far"
    assert choice.skipped == (() if is_read else ((later, why),))


def test_one_that_was_kept_and_is_gone_is_no_reason(tmp_path: Path):
    kept = kept_checkpoint(tmp_path / "kept", 10, 2)
    Path(kept.path).unlink()
    (tmp_path / "later").write_bytes(b"weights")
    saved = Checkpoint(path=str(tmp_path / "later"), step=1, session=2, measure=measure(str(tmp_path / "later")))
    assert choose([kept, saved]).checkpoint == saved


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_whether_a_pickle_has_its_end(tmp_path: Path, protocol: int):
    """At whatever byte it was broken off. One format that does not tell says so."""
    path = tmp_path / "state.pkl"
    whole = pickle.dumps({"step": 1, "weights": [0.5] * 20, "data": b"." * 50}, protocol=protocol)
    for length in range(2, len(whole)):
        path.write_bytes(whole[:length])
        assert is_complete(str(path)) is False
    path.write_bytes(whole * 2)  # several in one file
    assert is_complete(str(path)) is True
    path.write_bytes(b"something else")
    assert is_complete(str(path)) is None


def test_whether_a_long_pickle_has_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its last byte alone is read; walking through gigabytes would take minutes."""
    whole = pickle_bytes()
    broken = whole[:100] + b"\xff" * (len(whole) - 101) + b"."
    path = saved(tmp_path, "state.pkl", broken)
    for limit_bytes, expected in ((len(whole), False), (len(whole) - 1, True)):
        monkeypatch.setattr("backprop.store.checkpoints._MAX_WALKED_PICKLE_BYTES", limit_bytes)
        assert is_complete(str(path)) is expected
    os.truncate(path, len(whole) - 1)
    monkeypatch.setattr("backprop.store.checkpoints._MAX_WALKED_PICKLE_BYTES", 10)
    assert is_complete(str(path)) is False


@pytest.mark.parametrize("name", ["model.npz", "model.keras", "zip.bin", "model.safetensors", "STATE.JSON"])
def test_whether_a_file_of_another_format_has_its_end(tmp_path: Path, name: str):
    """A zip is one under any name."""
    data = zip_bytes() if name == "zip.bin" else CONTAINERS[name.lower()]()
    assert is_complete(str(saved(tmp_path, name, data))) is True
    assert is_complete(str(saved(tmp_path, name, data[:-1]))) is False


@pytest.mark.parametrize("name", ["old.pth", "model.bin"])
def test_a_file_whose_format_does_not_tell_has_no_verdict(tmp_path: Path, name: str):
    """torch.save wrote several pickles and raw data after them."""
    assert is_complete(str(saved(tmp_path, name))) is None


def named(folder: Path, name: str, step: int | None, **more: object) -> Checkpoint:
    return msgspec.structs.replace(checkpoint(saved(folder, name, b"x"), step), **more)


@pytest.mark.parametrize(
    "reported",
    [
        [("last.bin", 5, False), ("model.bin", 9, True)],
        [("last.bin", 5, False), ("best.bin", 5, False)],
        [("last.bin", None, False), ("run/best-0.31.bin", None, False)],
        [("model_best.bin", 5, False), ("last.bin", 5, False), ("stripped.bin", 5, True)],
        [("old.bin", 5, False), ("weights.bin", 7, True), ("last.bin", 6, False), ("BEST.bin", 6, False)],
    ],
    ids=["weights", "best", "best-without-a-step", "all", "old"],
)
def test_weights_and_the_best_never_win_over_the_last_state(
    tmp_path: Path, reported: list[tuple[str, int | None, bool]]
):
    """Whatever was reported last, and although they are whole."""
    (tmp_path / "run").mkdir()
    checkpoints = [named(tmp_path, name, step, is_weights_only=only) for name, step, only in reported]
    found = choose(checkpoints).checkpoint
    assert found is not None
    assert Path(found.path).name == "last.bin"


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ("last-100 best-3", "last-100 best-3"),  # a copy of the best one, made at the end
        ("last-1 best-1 last-2 best-2 last-3", "last-3 last-2 best-2 last-1 best-1"),
        ("last-2 best-2 best-3", "best-3 last-2 best-2"),  # best is the newest of all
        ("last-100 best-5@2", "best-5@2 last-100"),  # the user may have gone back to step 3
        ("last-1 best-1 last-100 last-1@2 best-1@2", "last-1@2 best-1@2 last-100 last-1 best-1"),
        ("last- best- last-5", "last-5 last- best-"),
        ("best- best-2", "best-2 best-"),
        ("last-4 weights-9 best-5", "best-5 last-4 weights-9"),
        ("last-0 best-1", "best-1 last-0"),
        ("last-9 last-2 last-7 best-5", "last-7 last-2 last-9 best-5"),  # the steps went back in between
    ],
)
def test_the_best_comes_after_all_that_hold_as_much(reported: str, expected: str):
    """Of the same session. What cannot be compared stays in the order of time."""

    def made(word: str) -> Checkpoint:
        name, _, session = word.partition("@")
        kind, _, step = name.partition("-")
        one = checkpoint(Path("/nowhere", word), int(step) if step else None)
        return msgspec.structs.replace(one, session=int(session or 1), is_weights_only=kind == "weights")

    skipped = choose([made(word) for word in reported.split()]).skipped
    assert [one.path.removeprefix("/nowhere/") for one, _ in skipped] == expected.split()


def test_a_file_in_a_folder_that_is_called_best_is_one(tmp_path: Path):
    """As transformers and accelerate name their folders."""
    checkpoints = []
    for folder in ("last", "Best_model"):
        (tmp_path / folder).mkdir()
        checkpoints.append(named(tmp_path, f"{folder}/state.bin", 5))
    assert choose(checkpoints).checkpoint == checkpoints[0]


@pytest.mark.parametrize("name", ["weights.bin", "best.bin"])
def test_they_are_better_than_nothing(tmp_path: Path, name: str):
    """And a best state than an older one: what it was trained since would be lost."""
    newest = named(tmp_path, name, 9, is_weights_only=name == "weights.bin")
    assert choose([newest]).checkpoint == newest
    older = named(tmp_path, "last.bin", 5)
    assert choose([older, newest]).checkpoint == (older if newest.is_weights_only else newest)
    Path(older.path).unlink()
    assert choose([older, newest]).checkpoint == newest
