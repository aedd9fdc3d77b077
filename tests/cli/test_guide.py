"""guide: a page for coding agents, whose commands work."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from backprop.cli.commands.guide import GUIDE
from tests.conftest import Runs

SCRIPT = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--lr", type=float, default=0.1)
args = parser.parse_args()
begin = 0
if "BACKPROP_RESUME_FROM" in os.environ:
    begin = json.load(open(os.environ["BACKPROP_RESUME_FROM"]))
print(json.dumps({"step": begin + 10, "val_accuracy": 0.9 + args.width / 10_000}))
path = os.path.join(os.environ["BACKPROP_RUN_DIR"], "c.json")
with open(path, "w") as file:
    json.dump(begin + 10, file)
print(json.dumps({"event": "checkpoint_saved", "path": path, "step": begin + 10}))
"""
# exit codes that the guide names, where they are not 0
CODES = {"verdict": {0, 20, 21, 22}, "wait": {0, 124}, "doctor": {0, 1}}


def test_every_command_in_it_runs(runs: Runs):
    """In its order, in one folder, as they are written."""
    runs.script(SCRIPT)
    text = runs.call("guide").stdout
    assert text == GUIDE.read_text()
    assert len(text.splitlines()) <= 25
    commands = [found for found in re.findall(r"`backprop ([^`]+)`", text) if "COMMAND" not in found]
    assert {
        "doctor",
        "status",
        "run",
        "resume",
        "wait",
        "best",
        "list",
        "plot",
        "logs",
        "verdict",
        "note",
        "sweep",
        "stop",
    } == {command.split()[0] for command in commands}
    for command in commands:
        name, *words = shlex.split(command)
        done = runs.call(name, *words)
        assert done.returncode in CODES.get(name, {0}), f"{command}: {done.stderr}"
        if name in {"run", "resume"}:  # the guide waits, with a limit
            assert runs.call("wait", "--all").returncode == 0
        if name == "status" and "proof" in words:
            assert json.loads(done.stdout)["sessions.-1.resume"]["was_read"]


def test_the_options_it_names_exist(runs: Runs):
    """Those outside of a whole command, too."""
    told = runs.call("run", "--help").stdout
    for option in re.findall(r"`(--[a-z-]+)`", GUIDE.read_text()):
        assert option in told or option == "--seed", option


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "{guide}\n"),
        ("# Mine\n", "# Mine\n\n{guide}\n"),
        ("# Mine", "# Mine\n\n{guide}\n"),
        ("above\n{old}\nbelow, no end of line", "above\n{guide}\nbelow, no end of line"),
    ],
)
def test_it_is_written_between_marks(runs: Runs, before: str, after: str):
    """The rest of the file stays byte for byte; a second time changes nothing."""
    path = runs.work / "AGENTS.md"
    if before:
        old = "<!-- backprop guide: made by `backprop guide --write`, which replaces it -->\nold\n<!-- end of backprop guide -->"
        path.write_text(before.format(old=old))
    assert runs.call("guide", "--write", path.name).returncode == 0
    section = re.search(r"<!-- backprop guide.*<!-- end of backprop guide -->", path.read_text(), re.DOTALL)[0]
    assert GUIDE.read_text() in section
    assert path.read_text() == after.format(guide=section)
    stamp = path.stat().st_mtime_ns
    assert "is up to date" in runs.call("guide", "--write", path.name).stderr
    assert path.stat().st_mtime_ns == stamp


def test_the_file_keeps_its_mode(runs: Runs):
    """What only its owner could read, only its owner can read."""
    path = runs.work / "AGENTS.md"
    path.write_text("# Mine\n")
    path.chmod(0o600)
    assert runs.call("guide", "--write", path).returncode == 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_windows_line_ends_stay(runs: Runs):
    """A file with CRLF gets a section with CRLF."""
    path = runs.work / "AGENTS.md"
    path.write_bytes(b"# Mine\r\n")
    assert runs.call("guide", "--write", path).returncode == 0
    assert path.read_bytes().count(b"\r\n") == path.read_bytes().count(b"\n")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"<!-- end of backprop guide -->\nx", "damaged"),
        (b"<!-- backprop guide: made by `backprop guide --write`, which replaces it -->\nx", "damaged"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_what_cannot_be_replaced_stays(runs: Runs, content: bytes, why: str):
    """A mark without its other, and what is no text, are left as they are."""
    path = Path(runs.work, "AGENTS.md")
    path.write_bytes(content)
    done = runs.call("guide", "--write", "AGENTS.md")
    assert (done.returncode, why in done.stderr) == (2, True)
    assert path.read_bytes() == content
    assert runs.call("guide", "--write", "missing/AGENTS.md").returncode == 2
    os.mkfifo(runs.work / "fifo")
    assert "is not a file" in runs.call("guide", "--write", "fifo").stderr
