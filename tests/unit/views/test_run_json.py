"""`--json` as a terminal sees it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backprop.records import Checkpoint, Measure, Run, RunView, Status
from backprop.views.documents import run_json
from backprop.views.terminal import run_details
from tests.records import AT, SPEC, session_record

SESSION = session_record(Status.COMPLETED, 2, timebox_s=1, grace_s=1, elapsed_s=1)
OBEYED = [chr(code) for code in (0x7F, 0x85, 0x9B, 0x61C, 0x200E, 0x200F, 0x2028, 0x2029, 0x202E, 0x2066, 0x2069)]


@pytest.mark.parametrize("character", OBEYED, ids=ascii)
def test_json_holds_nothing_that_a_terminal_obeys(character: str):
    """Escaped in keys and values, and the same to whoever reads it as JSON."""
    told = {f"a{character}": [f"{character}é\u4e2d\U0001f600", "\\u009b"]}
    text = run_json.encode(told)
    assert character not in text
    assert "é\u4e2d\U0001f600" in text
    assert json.loads(text) == told


def test_of_many_checkpoints_the_newest_that_are_there(tmp_path: Path):
    """A long life leaves no megabytes in documents: thousands were deleted long ago."""
    paths = [tmp_path / f"{number:05}" for number in range(3000)]
    for path in paths[1000:1040]:
        path.touch()
    measure = Measure(size_bytes=0, saved_at=AT)
    saved = tuple(Checkpoint(path=str(path), step=1, session=1, measure=measure) for path in paths)
    view = RunView(run=Run(spec=SPEC, status=Status.COMPLETED), run_dir="/r", checkpoints=saved)
    told = run_json.run_document(view, AT, lambda _: True)
    assert [one["path"] for one in told["checkpoints"]] == list(map(str, paths[1020:1040]))
    assert told["checkpoint_count"] == 3000
    assert len(run_json.run_document(view, AT, lambda _: True, is_whole=True)["checkpoints"]) == 3000
    lines = run_details.run_details(view, AT, lambda _: True).splitlines()
    shown = [line for line in lines if str(tmp_path) in line]
    assert [line.split()[1] for line in shown] == list(map(str, paths[1035:1040]))
    assert any(line.startswith("checkpoints") and "3,000" in line for line in lines)
    few = msgspec.structs.replace(view, checkpoints=saved[:5])
    assert (
        len(run_json.run_document(few, AT, lambda _: False)["checkpoints"]) == 5
    )  # a few are told though they are gone


def test_of_many_sessions_the_newest():
    """And how many there are; all of them only where they are asked for."""
    sessions = tuple(
        session_record(Status.TIMEBOXED, number, timebox_s=60.0, elapsed_s=60.0) for number in range(1, 1001)
    )
    view = RunView(run=Run(spec=SPEC, status=Status.TIMEBOXED, latest=sessions), run_dir="/r")
    told = run_json.run_document(view, AT, lambda _: True)
    assert [one["number"] for one in told["sessions"]] == list(range(901, 1001))
    assert (told["session_count"], told["started_at"]) == (1000, AT)
    assert len(run_json.run_document(view, AT, lambda _: True, is_whole=True)["sessions"]) == 1000
    shown = run_details.run_details(view, AT, lambda _: True)
    assert "1,000; the latest (--all shows all)" in shown
    assert shown.count("timeboxed, ") == 10
    assert run_details.run_details(view, AT, lambda _: True, is_whole=True).count("timeboxed, ") == 1000


@pytest.mark.parametrize(
    ("session", "resume"),
    [
        ({"number": 1}, None),
        ({"number": 2}, (None, None, False, "there was no valid checkpoint")),
        ({"offered": "/a", "resumed_from": "/a", "is_checkpoint_read": True}, ("/a", 7, True, None)),
        ({"offered": "/a", "resumed_from": "/b"}, ("/b", None, True, None)),
        ({"offered": "/a"}, ("/a", 7, False, "it is not known whether it read the checkpoint")),
        ({"offered": "/a", "is_checkpoint_read": False}, ("/a", 7, False, "it did not read the checkpoint")),
        (
            {"offered": "/a", "is_checkpoint_read": True, "has_started_over": True},
            ("/a", 7, False, "it trained without reading the checkpoint first"),
        ),
    ],
)
def test_how_a_session_continued(session: dict[str, Any], resume: tuple[Any, ...] | None):
    """From where, whether that was read, and why not."""
    checkpoint = Checkpoint(path="/a", step=7, session=1, measure=Measure(size_bytes=0, saved_at=AT))
    one = msgspec.structs.replace(SESSION, **session)
    view = RunView(run=Run(spec=SPEC, status=Status.COMPLETED, latest=(one,)), run_dir="/r", checkpoints=(checkpoint,))
    (document,) = run_json.run_document(view, AT, lambda _: True)["sessions"]
    found = document["resume"]
    assert (found and (found["from"], found["step"], found["was_read"], found["reason"])) == resume
