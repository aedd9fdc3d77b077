"""The folder of a run, and the home that all runs live in."""

import math
import os
import pwd
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from backprop.errors import ConfigError, UsageError
from backprop.records import GitState, RunSpec
from backprop.store.files import UnreadableError
from backprop.store.home import Home, HomeBusyError, set_aside
from backprop.store.rundir import RUN_ID, check_run_id, new_run_id
from tests.records import LIMITS

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)


def spec(run_id: str = "run1", **changes: Any) -> RunSpec:
    told: dict[str, Any] = {
        "id": run_id,
        "command": ("python", "train.py", "--name", "Größe"),
        "cwd": "/tmp",
        "created_at": AT,
        "host": "here",
        "user": "me",
        "limits": LIMITS,
        **changes,
    }
    return RunSpec(**told)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


# -- ids


def test_a_new_id_can_be_typed_and_is_never_the_same():
    """Eight letters and digits, beginning with a letter, different every time."""
    ids = [new_run_id() for _ in range(2000)]
    assert len(set(ids)) == len(ids)
    assert all(len(run_id) == 8 and run_id[0].isalpha() and run_id.isalnum() for run_id in ids)
    for run_id in ids:
        check_run_id(run_id)


def test_the_letters_of_new_ids_are_even():
    """No letter comes noticeably more often than another: ids are as hard to hit as they look."""
    letters = Counter("".join(new_run_id()[1:] for _ in range(4000)))
    assert len(letters) == 27
    assert max(letters.values()) < 1.3 * min(letters.values())


@pytest.mark.parametrize("run_id", ["a", "A1", "7", "a.b", "my_run-2", "x" * 64, "a..", "LAST", "lasting"])
def test_an_id_that_can_be_used(run_id: str):
    """Letters, digits, dots, dashes and underscores, up to 64."""
    check_run_id(run_id)
    assert RUN_ID.fullmatch(run_id)


@pytest.mark.parametrize(
    "run_id",
    ["", ".", "..", ".hidden", "-x", "_x", "a/b", "../x", "a b", "a\n", "ü", "x" * 65, "last", "a\0", "\udcff"],
)
def test_an_id_that_cannot_be_used_is_an_error(run_id: str):
    """What could not name a folder, or means something else on the command line, is refused with the rule."""
    with pytest.raises(UsageError, match=r"--run-id .* cannot be used: 1 to 64 letters"):
        check_run_id(run_id)


# -- making and removing a run


def test_a_run_is_nowhere_until_it_is_published(home: Home):
    """A folder that is being made is not a run; in one step it is, with all its files."""
    draft = home.begin(spec(), b"the patch")
    assert list(home.run_ids()) == []
    rundir = home.publish(draft, "run1")
    assert list(home.run_ids()) == ["run1"]
    assert rundir.path == home.runs_path / "run1"
    assert rundir.run_id == "run1"
    assert rundir.patch_path.read_bytes() == b"the patch"
    assert rundir.journal_path.read_bytes() == b""
    assert rundir.read_spec() == spec()
    assert not draft.path.exists()


def test_without_changes_there_is_no_patch(home: Home):
    """code.patch is there only when there is something in it."""
    assert not home.begin(spec(), None).patch_path.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "n", "script": "/t.py", "python": "/bin/python", "framework": "pytorch", "resume_arg": "--r"},
        {"git": GitState(commit="a" * 40, branch="main", dirty=True)},
        {"git": GitState()},
        {"params": {"lr": 0.001, "layers": [64, 64], "amp": True, "seed": 10**30, "name": "Größe\n"}},
    ],
)
def test_run_json_tells_what_was_asked(home: Home, changes: dict[str, Any]):
    """What is written into run.json is what is read from it."""
    assert home.begin(spec(**changes), None).read_spec() == spec(**changes)


@pytest.mark.parametrize(("value", "text"), [(math.inf, "Infinity"), (-math.inf, "-Infinity"), (math.nan, "NaN")])
def test_a_parameter_that_json_cannot_say_is_not_lost(home: Home, value: float, text: str):
    """`--clip inf` is still known after the index was rebuilt from the run directories."""
    assert home.begin(spec(params={"clip": value}), None).read_spec().params == {"clip": text}


def test_run_json_is_for_people_too(home: Home):
    """run.json is indented and ends with a newline."""
    text = home.begin(spec(), None).spec_path.read_text()
    assert text.startswith('{\n  "id": "run1"')
    assert text.endswith("}\n")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"id": 3}', b"\0" * 50])
def test_a_broken_run_json_is_an_error(home: Home, content: bytes):
    """A run.json that a crash damaged is not guessed at."""
    rundir = home.begin(spec(), None)
    rundir.spec_path.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"run\.json is damaged: "):
        rundir.read_spec()


def test_a_taken_id_is_an_error_and_the_run_keeps_its_files(home: Home):
    """Two runs never share a folder: the second is told so, and nothing of it stays."""
    first = home.publish(home.begin(spec(name="first"), None), "run1")
    draft = home.begin(spec(name="second"), None)
    with pytest.raises(UsageError, match="a run 'run1' exists already; choose another --run-id"):
        home.publish(draft, "run1")
    assert first.read_spec().name == "first"
    assert not draft.path.exists()


def test_what_a_run_wrote_is_private(home: Home):
    """Patches and logs may hold secrets: nobody but the owner can look into the home."""
    rundir = home.publish(home.begin(spec(), None), "run1")
    for folder in (home.path, home.runs_path, home.unsettled_path, rundir.path):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_each_file_has_its_own_name(home: Home):
    """All files of a run lie in its folder, each session's output apart."""
    rundir = home.rundir("run1")
    paths = [
        rundir.spec_path,
        rundir.journal_path,
        rundir.control_path,
        rundir.patch_path,
        rundir.supervisor_log_path,
        *(path(number) for number in (1, 2) for path in (rundir.out_path, rundir.err_path)),
    ]
    assert len(set(paths)) == len(paths)
    assert {path.parent for path in paths} == {rundir.path}


def test_a_removed_run_is_gone(home: Home):
    """Removing takes the folder with all that is in it, and nothing of it is seen any more."""
    rundir = home.publish(home.begin(spec(), None), "run1")
    other = home.publish(home.begin(spec("run2"), None), "run2")
    (rundir.path / "deep" / "er").mkdir(parents=True)
    rundir.out_path(1).write_text("x")
    rundir.remove()
    assert list(home.run_ids()) == ["run2"]
    assert list(home.runs_path.iterdir()) == [other.path]


def test_a_run_that_is_half_removed_is_not_seen(home: Home):
    """What a kill left of a removal, or of a run that was being made, is not a run."""
    home.make()
    (home.runs_path / ".removed-run1-123").mkdir()
    (home.runs_path / ".new-run2-123").mkdir()
    assert list(home.run_ids()) == []


def test_a_home_without_runs_has_none(home: Home):
    """Looking into a home that was never made finds nothing, and makes nothing."""
    assert list(home.run_ids()) == []
    assert not home.path.exists()


def test_a_home_that_cannot_be_made_is_an_error(tmp_path: Path):
    """Where a file is in the way, the message names the folder and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to the home folder .*/file/home: .*BACKPROP_HOME"):
        Home(tmp_path / "file" / "home").make()


def test_a_home_may_be_made_twice(home: Home):
    """Every command may make the home; what is in it stays."""
    home.publish(home.begin(spec(), None), "run1")
    home.make()
    assert list(home.run_ids()) == ["run1"]


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("/x/y", "/x/y"),
        ("~/elsewhere", "{home}/elsewhere"),
        ("rel", "{cwd}/rel"),
        (None, "{home}/.backprop"),
        ("", "{home}/.backprop"),
    ],
)
def test_where_the_home_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, expected: str):
    """$BACKPROP_HOME, with ~ and relative paths understood, else ~/.backprop."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.delenv("BACKPROP_HOME", raising=False)
    if variable is not None:
        monkeypatch.setenv("BACKPROP_HOME", variable)
    assert str(Home.from_environment().path) == expected.format(home=tmp_path / "me", cwd=tmp_path)


def test_old_runs_are_there_when_there_is_nothing_newer(home: Home):
    """An experiments.json beside no run directories is an older tool's; once there are runs it is ours."""
    home.path.mkdir()
    assert not home.has_old_runs_only()
    home.snapshot_path.write_text("{}")
    assert home.has_old_runs_only()
    home.make()
    assert not home.has_old_runs_only()


def test_an_older_tools_runs_are_found_from_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They lie in the home itself, which a tool of one machine had to itself."""
    monkeypatch.setenv("BACKPROP_MACHINE", "a")
    home = Home.at(tmp_path)
    (tmp_path / "experiments.json").write_text("{}")
    assert home.has_old_runs_only()
    assert home.index_path == tmp_path / "machines" / "a" / "index.db"


def test_a_mark_that_is_removed_as_it_is_made_is_made_again(home: Home, monkeypatch: pytest.MonkeyPatch):
    """By a process that has just refreshed the run: it is not as if the run were removed."""
    home.make()
    touch = Path.touch

    def removes(path: Path, *words: Any, **options: Any) -> None:
        monkeypatch.setattr(Path, "touch", touch)
        touch(path, *words, **options)
        home.mark_refreshed("run1")

    monkeypatch.setattr(Path, "touch", removes)
    home.mark_for_refresh("run1")
    assert home.unsettled() == ["run1"]


def test_a_run_is_unsettled_until_it_is_settled(home: Home):
    """The mark that somebody must look again is set and taken away, each as often as one likes."""
    home.make()
    for _ in range(2):
        home.mark_for_refresh("run1")
    home.mark_for_refresh("run2")
    assert sorted(home.unsettled()) == ["run1", "run2"]
    for _ in range(2):
        home.mark_refreshed("run1")
    assert home.unsettled() == ["run2"]


# -- the lock

HOLDER = """
import sys
from pathlib import Path
from backprop.store.home import Home
with Home(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    sys.stdin.readline()
"""


def test_the_lock_excludes_another_process_for_as_long_as_it_is_patient(home: Home):
    """While somebody holds the home, others wait their patience and then say so; after that it is free."""
    home.make()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        before = time.monotonic()
        with pytest.raises(HomeBusyError, match=str(home.lock_path)), home.lock(patience_s=0.2):
            pytest.fail("two hold the home at once")
        assert time.monotonic() - before >= 0.2
        holder.communicate("\n")
    with home.lock(patience_s=0.0):
        pass


def test_the_lock_is_free_once_its_holder_is_killed(home: Home):
    """A process that dies while it holds the home does not keep it."""
    home.make()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        holder.kill()
        holder.wait()
        with home.lock(patience_s=0.0):
            pass


def _descriptor_count() -> int:
    """How many files this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


def test_the_lock_is_free_after_an_error(home: Home):
    """Whatever goes wrong under the lock, it is given back, and no descriptor is left open."""
    home.make()
    before = _descriptor_count()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), home.lock(patience_s=0.0):
            raise ZeroDivisionError
    assert _descriptor_count() == before


def test_setting_aside_keeps_every_damaged_file(tmp_path: Path):
    """A damaged file gets a name with the date; several of one second get different ones."""
    kept = []
    for number in range(3):
        (tmp_path / "x.json").write_text(str(number))
        kept.append(set_aside(tmp_path / "x.json"))
    assert [path.read_text() for path in kept] == ["0", "1", "2"]
    assert all(path.name.startswith("x.json.corrupt-2") for path in kept)
    assert not (tmp_path / "x.json").exists()


def test_an_empty_home_variable_is_none(monkeypatch: pytest.MonkeyPatch):
    """The account's folder counts, and not the root of the file system."""
    monkeypatch.delenv("BACKPROP_HOME", raising=False)
    monkeypatch.setenv("HOME", "")
    assert Home.from_environment().path == (Path(pwd.getpwuid(os.getuid()).pw_dir) / ".backprop").resolve()
