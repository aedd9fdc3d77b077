"""Run directories that are damaged, or come from elsewhere: none of them stands in the way of the others."""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.lifecycle import indexing, recovery, requests
from backprop.records import RunView, Status
from backprop.store import checkpoints, filters, query
from backprop.store.home import Home
from backprop.store.index import Index, open_index
from backprop.store.journal.entries import (
    Admitted,
    CheckpointMeasured,
    CheckpointRead,
    OutputSeen,
    Paused,
    Queued,
    SessionEnded,
    SessionStarted,
    StopRequested,
    Submitted,
    TrainerLaunched,
)
from backprop.store.output.line_times import OffsetSample
from backprop.views.documents import run_json
from backprop.views.terminal import run_details, runs_table
from tests.conftest import scaled
from tests.records import AT, SPEC

NOW = datetime.now(timezone.utc)
_SESSION = {"at": AT, "session": 1}
ENTRIES = (
    Queued(**_SESSION, reason="no slot", figures={"free": 1}, host="h", supervisor_pid=1),
    Submitted(**_SESSION, job="1", host="h", limits=SPEC.limits),
    Admitted(at=AT, figures={}, gpus=("GPU-1",)),
    SessionStarted(**_SESSION, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None, offered="/c"),
    TrainerLaunched(**_SESSION, pid=1),
    OutputSeen(**_SESSION, source="out", growth=OffsetSample(offset=9, since_s=0.0, until_s=1.0)),
    CheckpointMeasured(**_SESSION, offset=0, path="/c", size_bytes=3, saved_at=AT, manifest=()),
    CheckpointRead(**_SESSION, path="/c"),
    Paused(**_SESSION, reason="hot", by=("governor",)),
    StopRequested(**_SESSION, by="user", detail="stop"),
    SessionEnded(**_SESSION, status=Status.STOPPED, reason="over", exit_code=0, elapsed_s=1.0),
)
OUTPUT = b'{"event": "checkpoint_saved", "path": "/c", "step": 1}\n{"step": 1, "loss": 2}\n'
FILES = {
    "run.json": msgspec.json.encode(msgspec.structs.replace(SPEC, id="bad", params={"lr": 1})),
    "journal.jsonl": b"".join(msgspec.json.encode(entry) + b"\n" for entry in ENTRIES),
    "session-1.out": OUTPUT,
    "session-1.err": b"",
    "session-1.events": OUTPUT,
    "session-1.trains": b"1\n",
    "control.json": b'{"deadline_unix_s": 1}',
    "tree.json": b'{"session": 1, "boot_id": null, "pid_namespace": null, "folder": [1, 2], "members": [[2, 3.0]]}',
    "notify.json": b'{"settings": [], "proof": ""}',
    "notify.log": b"",
    "code.patch": b"",
}
DEEP = b"[" * 900 + b"]" * 900
VALUES = [
    *(b"null", b"true", b"0", b"-1", b"9223372036854775807", b"9223372036854775808", b"1e308", b"-1e308", b"1e999"),
    *(b"NaN", b'""', b'"x"', b'"\\u0000"', b'"\\ud800"', b'"\xff"', b"[]", b"{}", b"[null]", DEEP, b"[" * 9000),
    *(b'"2026-01-01T00:00:00"', b'"9999-12-31T23:59:59-12:00"', b'"0001-01-01T00:00:00+12:00"', b'"running"'),
]  # of JSON, and some that are none
_PLACE = "the place of the value"


def places(value: Any) -> Iterator[list[Any]]:
    """The paths to all that is in a JSON document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield [key]
        yield from ([key, *path] for path in places(item))


@st.composite
def changed(draw: st.DrawFn, data: bytes) -> bytes:
    """Lines of JSON with another value in one place."""
    lines = data.split(b"\n")
    number = draw(st.integers(0, len(lines) - 1))
    value = json.loads(lines[number] or b"{}")
    *way, last = draw(st.sampled_from([*places(value)] or [["more"]]))
    target = value
    for key in way:
        target = target[key]
    target[last] = _PLACE
    lines[number] = json.dumps(value).encode().replace(f'"{_PLACE}"'.encode(), draw(st.sampled_from(VALUES)))
    return b"\n".join(lines)


def make_socket(path: Path) -> None:
    os.mknod(path, 0o140600)


KINDS = {
    "is missing": lambda _: None,
    "is a FIFO": os.mkfifo,
    "is a folder": os.mkdir,
    "is a link to itself": lambda path: path.symlink_to(path.name),
    "never ends": lambda path: path.symlink_to("/dev/zero"),
    "is a socket": make_socket,
}


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes | str]:
    """What lies in the folder of a run: bytes, or a kind of thing that is no file."""
    files: dict[str, bytes | str] = dict(FILES)
    for name in draw(st.lists(st.sampled_from(sorted(FILES)), min_size=1, max_size=3, unique=True)):
        sound = FILES[name]
        files[name] = draw(
            st.one_of(
                changed(sound) if sound.startswith(b"{") else st.binary(max_size=99),
                st.sampled_from(sorted(KINDS)),
                st.binary(max_size=99),
                st.integers(0, len(sound)).map(lambda end, sound=sound: sound[:end]),
            )
        )
    return files


def lay(home: Home, files: dict[str, bytes | str]) -> None:
    folder = home.rundir("bad").path
    folder.mkdir()
    for name, content in files.items():
        if isinstance(content, str):
            KINDS[content](folder / name)
        else:
            (folder / name).write_bytes(content)


def lay_sound(home: Home) -> None:
    rundir = home.rundir("sound")
    rundir.path.mkdir()
    rundir.spec_path.write_bytes(msgspec.json.encode(msgspec.structs.replace(SPEC, id="sound")))
    rundir.journal_path.write_bytes(FILES["journal.jsonl"])


def views(index: Index) -> dict[str, RunView]:
    """All runs, after every view has shown them."""
    found = query.runs(index, filters.Wanted())
    runs_table.runs_table(found, NOW, values=lambda *_: [])
    for view in found:
        run_json.encode(run_json.run_document(view, NOW, checkpoints.looks_valid))
        run_details.run_details(view, NOW, checkpoints.looks_valid)
        query.gpu_counts(view)
        list(query.points(index, view))
    return {view.run.spec.id: view for view in found}


def try_folder(folder: Path, files: dict[str, bytes | str]) -> None:
    home = Home(folder)
    home.make()
    lay_sound(home)
    lay(home, files)
    with closing(open_index(home, 5.0, print)) as index:
        for _ in range(2):
            indexing.catch_up(home, index, print)
            shown = views(index)
            assert shown["sound"].run.status is Status.STOPPED
        if (bad := shown.get("bad")) is not None:
            requests.supervisor_to_stop(home, bad.run)
            if not bad.run.status.is_final:  # waiting for Slurm, as far as anybody can know
                return
            recovery.remove(home, bad.run, print)
        elif home.rundir("bad").spec_path.exists():
            raise AssertionError("a run that is there is not shown")
        indexing.catch_up(home, index, print)
        assert views(index).keys() == {"sound"}
        assert bad is None or not home.rundir("bad").path.exists()


@settings(max_examples=scaled(200))
@given(files=folders())
def test_no_folder_stands_in_the_way(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes | str]):
    """Whatever lies in a run's folder, every view shows the other runs and this one; and it can be removed."""
    try_folder(tmp_path_factory.mktemp("bad"), files)
