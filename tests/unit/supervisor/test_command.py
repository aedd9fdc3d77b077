"""What is executed: the user's words, the Python they run on, and the parameters they tell."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.errors import UsageError
from backprop.supervisor.command import (
    declares_resume_flag,
    find_python,
    for_command,
    for_script,
    script_arguments,
    why_not_started,
    with_checkpoint,
)
from tests.conftest import scaled


def words(text: str) -> list[str]:
    return text.split()


def interpreter(path: Path) -> str:
    """An executable where a Python would be."""
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


# -- the script's arguments


@pytest.mark.parametrize(
    ("argv", "arguments"),
    [
        ("python train.py --lr 1", ["--lr", "1"]),
        ("torchrun --nproc-per-node 2 train.py --lr 1", ["--lr", "1"]),
        ("python a.py b.py", ["b.py"]),
        ("python train.py", []),
        ("python -m package --lr 1", ["-m", "package", "--lr", "1"]),
        ("./train --lr 1", ["--lr", "1"]),
        ("ls", []),
    ],
)
def test_the_arguments_of_the_script(argv: str, arguments: list[str]):
    """What follows the first Python script is the script's; without one, what follows the program."""
    assert list(script_arguments(words(argv))) == arguments


# -- the checkpoint's path


@pytest.mark.parametrize(
    ("argv", "templates", "checkpoint", "expected"),
    [
        ("py t.py", "", "new", "py t.py"),
        ("py t.py", "--resume", None, "py t.py"),
        ("py t.py", "", None, "py t.py"),
        ("py t.py", "--resume", "new", "py t.py --resume new"),
        ("py t.py --lr 1", "--resume", "new", "py t.py --lr 1 --resume new"),
        ("py t.py --resume old --lr 1", "--resume", "new", "py t.py --lr 1 --resume new"),
        ("py t.py --resume=old --lr 1", "--resume", "new", "py t.py --lr 1 --resume new"),
        ("py t.py --resume", "--resume", "new", "py t.py --resume new"),
        ("py t.py --resume-all x", "--resume", "new", "py t.py --resume-all x --resume new"),
        ("py t.py -r a -r=b", "-r", "new", "py t.py -r new"),
        ("py t.py --lr 1", "--ckpt={path}", "/a/new", "py t.py --lr 1 --ckpt=/a/new"),
        ("py t.py --ckpt old --ckpt=x", "--ckpt={path}", "/a/new", "py t.py --ckpt=/a/new"),
        ("py t.py --init_from=scratch", "--init_from=resume", "/a/new", "py t.py --init_from=resume"),
        ("py t.py --ckptx=1", "--ckpt={dir}/", "/a/new", "py t.py --ckptx=1 --ckpt=/a/"),
        ("py t.py a.b=old lr=1", "+a.b={path}", "/a/new", "py t.py lr=1 +a.b=/a/new"),
        ("py t.py ++a.b=old ~c", "a.b={path}", "/a/new", "py t.py ~c a.b=/a/new"),
        ("py t.py a.b", "a.b={path}", "/a/new", "py t.py a.b a.b=/a/new"),
        ("py t.py", "{path}", "/a/new", "py t.py /a/new"),
        ("py t.py", "--at={step} --resume --in={dir}", "/a/new", "py t.py --at=70 --resume /a/new --in=/a"),
        ("py t.py", "x=${a}{path}", "/a/{step}", "py t.py x=${a}/a/{step}"),
        ("py t.py --at=1", "--at={step}", None, "py t.py --at=1"),
    ],
)
def test_the_checkpoint_takes_the_place_of_the_one_before(
    argv: str, templates: str, checkpoint: str | None, expected: str
):
    """The script gets the newest checkpoint exactly once, and nothing else of its command changes."""
    assert with_checkpoint(words(argv), words(templates), checkpoint, 70) == tuple(words(expected))


def test_a_step_that_nobody_knows_is_not_made_up():
    """What asks for it is left out, and the rest is not."""
    assert with_checkpoint(["t.py"], ["--at={step}", "--resume"], "c") == ("t.py", "--resume", "c")


@given(
    st.lists(st.sampled_from(["a", "--lr", "1", "--resume", "--resume=x", "--resume-from"]), max_size=6),
    st.sampled_from(["new", "--odd", ""]),
)
@settings(max_examples=scaled(200), deadline=None)
def test_a_second_resume_replaces_the_first(argv: list[str], checkpoint: str):
    """However often a run is resumed, its command names one checkpoint: the last."""
    once = with_checkpoint(argv, ["--resume"], "first")
    assert with_checkpoint(once, ["--resume"], checkpoint) == (*once[:-1], checkpoint)


# -- the Python


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Interpreters everywhere one could be looked for; the script lies in project/src."""
    (tmp_path / "project" / "src").mkdir(parents=True)
    return {
        "venv": interpreter(tmp_path / "active" / "bin" / "python"),
        "conda": interpreter(tmp_path / "conda" / "bin" / "python"),
        "beside": interpreter(tmp_path / "project" / "src" / ".venv" / "bin" / "python"),
        "above": interpreter(tmp_path / "project" / ".venv" / "bin" / "python"),
        "path": interpreter(tmp_path / "path" / "python3"),
    }


@pytest.mark.parametrize(
    ("missing", "found"),
    [
        ([], "venv"),
        (["venv"], "conda"),
        (["venv", "conda"], "beside"),
        (["venv", "conda", "beside"], "above"),
        (["venv", "conda", "beside", "above"], "path"),
    ],
)
def test_the_active_environment_comes_before_the_one_beside_the_script(
    tmp_path: Path, places: dict[str, str], missing: Sequence[str], found: str
):
    """Active environment, then .venv beside the script, then above it, then python3 on PATH."""
    for place in missing:
        Path(places[place]).unlink()
    environment = {
        "VIRTUAL_ENV": str(tmp_path / "active"),
        "CONDA_PREFIX": str(tmp_path / "conda"),
        "PATH": str(tmp_path / "path"),
    }
    assert find_python(None, tmp_path / "project" / "src", environment) == places[found]


def test_without_any_other_it_is_our_own_python(tmp_path: Path):
    """Where there is no Python at all, the one that Backprop runs on is used."""
    assert find_python(None, tmp_path, {"PATH": str(tmp_path)}) == sys.executable


def test_an_interpreter_that_cannot_be_executed_does_not_count(tmp_path: Path, places: dict[str, str]):
    """A python without permission to be executed is passed by."""
    Path(places["venv"]).chmod(0o644)
    environment = {"VIRTUAL_ENV": str(tmp_path / "active"), "CONDA_PREFIX": str(tmp_path / "conda")}
    assert find_python(None, tmp_path, environment) == places["conda"]


def test_a_chosen_interpreter_comes_first(tmp_path: Path, places: dict[str, str]):
    """--python wins over everything, as a path and as a name on PATH."""
    environment = {"VIRTUAL_ENV": str(tmp_path / "active"), "PATH": str(tmp_path / "path")}
    assert find_python(places["above"], tmp_path, environment) == places["above"]
    assert find_python("python3", tmp_path, environment) == places["path"]


def test_a_chosen_interpreter_is_not_resolved(tmp_path: Path):
    """A link stays a link: what it leads to would leave its virtual environment."""
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    assert find_python(str(link), tmp_path, {}) == str(link)


def test_a_relative_interpreter_becomes_absolute(
    tmp_path: Path, places: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    """The record names an interpreter that is found from anywhere."""
    monkeypatch.chdir(tmp_path)
    assert find_python("active/bin/python", tmp_path, {}) == places["venv"]


def test_a_chosen_interpreter_that_is_missing_is_an_error(tmp_path: Path):
    """An interpreter that was asked for is never replaced by another."""
    with pytest.raises(UsageError, match="--python no/such: no such interpreter"):
        find_python("no/such", tmp_path, {"PATH": "/usr/bin"})


# -- scripts and commands


def test_the_command_of_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A script runs as it was named, on the interpreter that was found, with its arguments untouched."""
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("")
    python = os.path.abspath(sys.executable)
    made = for_script("train.py", ["--lr", "1", "--", "ü"], python, {})
    assert made.argv == (python, "train.py", "--lr", "1", "--", "ü")
    assert made.script == str(tmp_path / "train.py")
    assert made.python == python


@pytest.mark.parametrize(
    ("name", "content"),
    [("train.py", "#!/bin/bash\n"), ("train", "#!/usr/bin/env python3\n"), ("train", "print()\n"), ("train", "")],
)
def test_what_counts_as_a_python_script(tmp_path: Path, name: str, content: str):
    """A .py file, or a file that does not say it is for another program."""
    path = tmp_path / name
    path.write_text(content)
    assert for_script(str(path), [], sys.executable, {}).script == str(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.py", None, "no such script: {}."),
        ("folder", "/", "{} is a folder; name the script inside it."),
        ("book.ipynb", "{}", "jupyter nbconvert --to script {}"),
        ("train.sh", "#!/bin/bash\n", "backprop run -- ./{}"),
        ("train", "#!/usr/bin/env bash\n", "{} is not a Python script"),
    ],
)
def test_a_script_that_cannot_be_run_is_an_error_that_names_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | None, said: str
):
    """What is wrong with the script is said, and what to do instead."""
    monkeypatch.chdir(tmp_path)
    if content == "/":
        Path(name).mkdir()
    elif content is not None:
        Path(name).write_text(content)
    with pytest.raises(UsageError) as caught:
        for_script(name, [], None, {})
    assert said.format(name) in str(caught.value)


def test_a_program_where_a_script_should_be_gets_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`backprop run torchrun` is told how a command is run."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="To run a command: backprop run -- sh"):
        for_script("sh", [], None, {})


def test_a_command_stays_as_it_is():
    """A command after `--` is executed word for word."""
    assert for_command(["sh", "-c", "echo  $HOME"]).argv == ("sh", "-c", "echo  $HOME")


def test_a_command_that_is_missing_is_an_error():
    """A command that nobody can execute is refused before anything starts."""
    with pytest.raises(UsageError, match="no such command: no-such-program"):
        for_command(["no-such-program", "x"])


def test_a_script_where_a_command_should_be_gets_a_hint(tmp_path: Path):
    """A script that is not executable is told how scripts are run."""
    script = tmp_path / "train.py"
    script.write_text("")
    with pytest.raises(UsageError, match="as a script it goes before '--'"):
        for_command([str(script)])


def test_an_argument_that_is_not_text_is_an_error(tmp_path: Path):
    """Bytes that are not UTF-8 could not be written into the record."""
    script = tmp_path / "train.py"
    script.write_text("")
    with pytest.raises(UsageError, match="not valid UTF-8"):
        for_script(str(script), [os.fsdecode(b"\xff")], sys.executable, {})


# -- --resume-from

ARGPARSE = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--resume-from", default=None)
"""
CLICK = """
import click
@click.command()
@click.option("-r", "--resume-from", type=click.Path())
def main(resume_from): ...
"""


@pytest.mark.parametrize(
    ("source", "declares"),
    [
        (ARGPARSE, True),
        (CLICK, True),
        ("f('--resume-from')", True),
        ("# --resume-from", False),
        ("flag = '--resume-from'", False),
        ("f(help='see --resume-from')", False),
        ("f('--resume-from-best')", False),
        ("f('--resume')", False),
        ("", False),
        ("def broken(:", False),
        ("f('--resume-from'", False),
        ("\0", False),
        ("(" * 1000 + ")" * 1000, False),
        ("-" * 10_000 + "1", False),
        ("f('--resume-from')\n" + "x" + ".a" * 50_000, False),
    ],
    ids=lambda part: repr(part)[:30],
)
def test_a_script_declares_the_flag_in_a_call(tmp_path: Path, source: str, declares: bool):
    """Only a call with the literal flag declares it, and a script nobody can read declares nothing."""
    script = tmp_path / "train.py"
    script.write_text(source)
    assert declares_resume_flag(str(script)) is declares


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_a_script_may_have_any_encoding(tmp_path: Path, encoding: str):
    """A script is read in the encoding that it declares."""
    script = tmp_path / "train.py"
    script.write_text(f"# -*- coding: {encoding.removesuffix('-sig')} -*-\nx = 'ü'\n" + ARGPARSE, encoding=encoding)
    assert declares_resume_flag(str(script))


def test_without_a_script_nothing_is_declared(tmp_path: Path):
    """Commands, and scripts that are not there, declare nothing."""
    assert not declares_resume_flag(None)
    assert not declares_resume_flag(str(tmp_path / "gone.py"))
    assert not declares_resume_flag(str(tmp_path))


@pytest.mark.parametrize("mode", ["always", "error"])
def test_what_python_would_warn_of_is_not_our_business(tmp_path: Path, mode: str):
    """A script with an escape that Python warns of is read in silence, and its flag is found."""
    script = tmp_path / "train.py"
    script.write_text("x = '\\d'\n" + ARGPARSE)
    code = "import sys; from backprop.supervisor.command import declares_resume_flag as d; print(d(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-W", mode, "-c", code, str(script)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("kind", ["fifo", "/dev/stdin", "/dev/null"])
def test_what_no_second_session_could_read_is_no_script(tmp_path: Path, kind: str):
    """Nor would the first: /dev/stdin is another one in the trainer, and a pipe would keep the command waiting."""
    if kind == "fifo":
        kind = str(tmp_path / "train.py")
        os.mkfifo(kind)
    with pytest.raises(UsageError, match="save the script first"):
        for_script(kind, [], sys.executable, {})


def test_a_shell_script_without_a_first_line_is_none_of_python(tmp_path: Path):
    """It is said how to run it."""
    (tmp_path / "train.sh").write_text("echo hi\n")
    with pytest.raises(UsageError, match="backprop run -- sh "):
        for_script(str(tmp_path / "train.sh"), [], sys.executable, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"echo hi\n", "Exec format error.*first line must name its interpreter"),
        (b"#!/bin/sh\r\necho hi\r\n", "CRLF"),
        (b"#!/no/such/python -u\n", "names /no/such/python -u, which does not exist"),
    ],
)
def test_why_a_script_could_not_be_started(tmp_path: Path, content: bytes, message: str):
    """The system's word for it is misleading: 'No such file', of a file that is there."""
    script = tmp_path / "train"
    script.write_bytes(content)
    script.chmod(0o755)
    with pytest.raises(OSError) as failed:
        subprocess.run([str(script)], check=False)
    assert re.search(message, why_not_started(str(script), failed.value))


def test_an_error_without_a_file_names_none():
    """Too many open files, say."""
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert why_not_started("python", error) == "cannot be started: Too many open files"
