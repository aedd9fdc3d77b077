"""What our code inside the trainer sees of files that are written, in an interpreter of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

BEGIN = """
import gc, os, pickle, sys
from backprop.trainer import file_events
plain_open = open
file_events.install()
def told(what):
    return lambda *paths: print(what, *map(os.path.basename, paths))
"""
SUBSCRIBED = """
file_events.on_open_for_writing(lambda path, mode: told("opening")(path))
file_events.on_close_after_writing(told("closed"), lambda path: not path.endswith(".log"))
file_events.on_replace(told("replacing"))
file_events.on_replaced(told("replaced"))
"""


def printed(folder: Path, body: str, begin: str = BEGIN + SUBSCRIBED, code: int = 0) -> list[str]:
    """What a script prints; every warning is an error in it."""
    program = begin + textwrap.dedent(body)
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


@pytest.mark.parametrize(
    "body",
    [
        "with open('a', 'wb') as file: file.write(b'1')",
        "file = open('a', mode='x'); file.write('1'); file.close(); file.close()",
        "import pathlib; pathlib.Path('a').write_text('1')",
        "import zipfile\nwith zipfile.ZipFile('a', 'w') as archive: archive.writestr('b', '1')",
        "import gzip\nwith gzip.open('a', 'wb') as file: file.write(b'1')",
        "file = open(b'a', 'a+', 1); file.close()",
    ],
    ids=["with", "close", "pathlib", "zipfile", "gzip", "bytes"],
)
def test_a_file_is_seen_before_it_is_opened_and_when_it_is_closed(tmp_path: Path, body: str):
    assert printed(tmp_path, body) == ["opening a", "closed a"]


def test_a_file_is_whole_when_it_is_told_to_be_closed(tmp_path: Path):
    """And untouched when it is about to be opened."""
    (tmp_path / "a").write_text("old")
    body = """
    import pathlib
    file_events.on_open_for_writing(lambda path, mode: print(pathlib.Path(path).read_text()))
    file_events.on_close_after_writing(lambda path: print(pathlib.Path(path).read_text()), lambda path: True)
    with open("a", "w") as file: file.write("new")
    """
    assert printed(tmp_path, body, BEGIN) == ["old", "new"]


def test_renames(tmp_path: Path):
    body = """
    import pathlib, shutil
    for name in "abc": plain_open(name, "w").close()
    os.rename("a", "a2"); os.replace("a2", "b"); pathlib.Path("b").rename("d"); os.mkdir("f"); shutil.move("d", "f")
    os.rename("c", "e", src_dir_fd=None)  # whose folder that is, is not for us to know
    try: os.replace("none", "more")
    except FileNotFoundError: print("failed")
    """
    expected = [line for pair in ("a a2", "a2 b", "b d", "d d") for line in (f"replacing {pair}", f"replaced {pair}")]
    assert printed(tmp_path, body) == [*expected, "replacing none more", "failed"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["d", "e", "f"]


def test_what_is_no_event(tmp_path: Path):
    """Reads, descriptors, files that nobody wants, what a subscriber does itself, and nameless temporary files."""
    body = """
    import tempfile
    file_events.on_open_for_writing(lambda path, mode: (open(path + "2", "w").close(), os.replace(path + "2", path + "3")))
    open(sys.executable, "rb").close()
    os.fdopen(os.open("a", os.O_WRONLY | os.O_CREAT), "w").close()
    with tempfile.NamedTemporaryFile(dir=".") as file: file.write(b"1")
    open("b.log", "w").close()
    """
    assert printed(tmp_path, body) == ["opening b.log"]
    assert (tmp_path / "b.log3").exists()


@pytest.mark.parametrize(
    ("body", "is_read"),
    [
        ("open('last').close()", True),
        ("os.symlink('last', 'link'); open('link').close()", True),
        ("os.link('last', 'hard'); os.replace('other', 'last'); open('hard').close()", True),
        ("file_events.was_opened_for_reading('last')", True),  # by C code
        ("os.replace('other', 'last'); open('last').close()", False),
        ("open('last', 'w').close(); open('last').close()", False),
        ("open('other').close(); open(0, closefd=False); file_events.was_opened_for_reading(None)", False),
    ],
)
def test_a_file_that_is_read_by_any_name_until_it_is_written_anew(tmp_path: Path, body: str, is_read: bool):
    for name in ("last", "other"):
        (tmp_path / name).write_text(name)
    os.utime(tmp_path / "last", (0, 0))
    begin = BEGIN + "file_events.on_first_read(os.path.realpath('last'), told('read'))\n"
    assert printed(tmp_path, body, begin) == ["read"] * is_read


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("shutil.copy('last', 'copy')", ["copied copy"]),
        ("shutil.copy('last', 'copy'); open('last').close()", ["copied copy"]),
        ("shutil.copy2('last', 'folder'); open('folder/last').close()", ["copied last", "read"]),
        ("os.link('last', 'hard'); shutil.copyfile('hard', 'copy'); open('./copy').close()", ["copied copy", "read"]),
        ("shutil.copytree('ckpt', 'aside')", ["copied aside"]),
        ("shutil.copytree('ckpt', 'aside'); open('aside/a/model').close()", ["copied aside", "read"]),
    ],
)
def test_a_copy_is_read_when_the_copy_is(tmp_path: Path, body: str, told: list[str]):
    """Made by shutil: a script may keep it aside and start over."""
    (tmp_path / "last").write_text("1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "ckpt/a").mkdir(parents=True)
    (tmp_path / "ckpt/a/model").write_text("1")
    place = "ckpt" if "ckpt" in body else "last"
    begin = (
        BEGIN
        + f"import shutil\nfile_events.on_first_read(os.path.realpath({place!r}), told('read'), 'x', told('copied'))\n"
    )
    assert printed(tmp_path, body, begin) == told


def test_what_a_subscriber_reads_is_no_read(tmp_path: Path):
    (tmp_path / "last").write_text("1")
    body = """
    import pathlib
    file_events.on_first_read(os.path.realpath("last"), told("read"))
    file_events.on_open_for_writing(lambda path, mode: pathlib.Path("last").read_text())
    open("a", "w").close()
    """
    assert printed(tmp_path, body, BEGIN) == []


def test_a_subscriber_that_fails_is_off_and_the_script_goes_on(tmp_path: Path):
    body = """
    def fail(*paths): raise ValueError("ours")
    file_events.on_open_for_writing(fail, "one")
    file_events.on_close_after_writing(fail, lambda path: True, "two")
    file_events.on_close_after_writing(told("closed"), fail, "three")
    file_events.on_replace(fail, "four")
    for name in "ab":
        with open(name, "w") as file: file.write(name)
        os.replace(name, name + "2")
    """
    lines = printed(tmp_path, body, BEGIN)
    names = ("one", "three", "two", "four")
    assert [line.partition(" is off")[0] for line in lines] == [f"backprop: the hook for {name}" for name in names]
    assert [(tmp_path / name).read_text() for name in ("a2", "b2")] == ["a", "b"]


@pytest.mark.parametrize(
    "body",
    [
        "open('a', 'w').write('1')",
        "file = open('a', 'w'); file.write('1')",
        "import atexit; atexit.register(lambda: open('a', 'w').write('1')); open('b', 'w').close()",
    ],
    ids=["at-once", "at-the-end", "after-the-end"],
)
def test_a_file_that_nobody_closes_is_written_as_ever(tmp_path: Path, body: str):
    printed(tmp_path, "import warnings; warnings.simplefilter('ignore')\n" + body)
    assert (tmp_path / "a").read_text() == "1"


def test_a_file_that_nobody_closes_is_seen_at_the_end(tmp_path: Path):
    body = "import warnings; warnings.simplefilter('ignore')\nfile = open('a', 'w'); file.write('1')"
    assert printed(tmp_path, body) == ["opening a", "closed a"]


FORGETFUL = """
    import sys

    def save(place):
        file = {opens}
        file.write({data})
    sys.unraisablehook = lambda raised: print("ignored", type(raised.exc_value).__name__, raised.exc_value)
    save("a")
    print(len(plain_open("a").read()))
"""


@pytest.mark.parametrize("flags", [["-W", "default"], ["-W", "error"], ["-X", "dev"], ["-W", "ignore"]], ids=" ".join)
@pytest.mark.parametrize(("opens", "data"), [("open(place, 'w')", "'1'"), ("open(place, 'wb')", "b'1'")])
def test_a_file_that_is_not_closed_is_the_scripts_matter(tmp_path: Path, flags: list[str], opens: str, data: str):
    """Python's warning of it names the line that it names without us, and is an error where that is so without us."""
    script = tmp_path / "train.py"

    def warned(*, is_watched: bool) -> list[str]:
        begin = BEGIN + f"file_events.on_close_after_writing(lambda path: None, lambda path: {is_watched})"
        script.write_text(begin + textwrap.dedent(FORGETFUL).format(opens=opens, data=data))
        command = [sys.executable, *flags, str(script)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
        return [*done.stdout.splitlines(), *done.stderr.splitlines()]

    assert warned(is_watched=True) == warned(is_watched=False)


def test_open_is_what_it_was(tmp_path: Path):
    """In a class it is no method, pickled it is itself, and what a wrong call raises is Python's own."""
    body = """
    import inspect, io
    class Files:
        open, rename, replace = open, os.rename, os.replace
    with Files().open("a", "w"): pass
    Files().rename("a", "b")
    assert open is io.open
    assert all(pickle.loads(pickle.dumps(each)) is each for each in (open, os.rename, os.replace))
    assert inspect.signature(open) == inspect.signature(plain_open)
    assert os.rename in os.supports_dir_fd
    for wrong in (lambda: open(), lambda: open("a", 7), lambda: open("a", "w", none=1), lambda: os.rename("a")):
        try: wrong()
        except TypeError: pass
        else: print("no error")
    """
    assert "no error" not in printed(tmp_path, body, BEGIN)
