"""Files of another user in a home: what `sudo backprop run` leaves in one's own."""

import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
import msgspec
import pytest

from backprop.cli import app
from backprop.cli.commands.init import init
from backprop.cli.commands.logs import logs
from backprop.cli.commands.pause import pause
from backprop.cli.commands.rename import rename
from backprop.cli.commands.status import status
from backprop.cli.commands.stop import stop
from backprop.errors import ConfigError, UsageError
from backprop.governor.run_queue import RunQueue
from backprop.lifecycle import catalog, recovery
from backprop.records import Checkpoint, Measure, Run, RunView, Status, Ticket
from backprop.store import checkpoints, experiments_json, filters, query
from backprop.store.home import Home
from backprop.store.journal.entries import SessionEnded, SessionStarted
from backprop.store.journal.file import Journal
from backprop.store.recorder import Recorder
from backprop.views.terminal import run_details
from tests.conftest import Runs
from tests.records import AT, SPEC

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: run the tests as root")
NOBODY = 65534
STARTED = SessionStarted(at=AT, session=1, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None)
ENDED = SessionEnded(at=AT, session=1, status=Status.COMPLETED, reason=None, exit_code=0, elapsed_s=1.0)
TICKET = Ticket(run_id="r", pid=1, user="u", since_unix_s=0.0, max_parallel=1)


@contextmanager
def as_nobody() -> Iterator[None]:
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def home() -> Iterator[Home]:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # every user can get there
    folder.chmod(0o755)
    os.chown(folder, NOBODY, NOBODY)
    made = Home(folder / "home")
    list(views(Home(folder / "imports")))  # all that is needed is imported while we may read it
    with as_nobody():
        made.make()
    yield made
    shutil.rmtree(folder)


def home_of(path: Path) -> Home:
    """As a command finds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKPROP_HOME", str(path))
        return Home.from_environment()


def add_run(home: Home, run_id: str) -> None:
    rundir = home.publish(home.begin(msgspec.structs.replace(SPEC, id=run_id), None), run_id)
    with closing(Journal(rundir.journal_path)) as journal:
        journal.append(STARTED, ENDED)


def views(home: Home) -> dict[str, RunView]:
    with catalog.caught_up(home, print) as index:
        return {view.run.spec.id: view for view in query.runs(index, filters.Wanted())}


def use(home: Home, run_id: str) -> None:
    """What `backprop run` and `list` do to the files of a home."""
    add_run(home, run_id)
    line = RunQueue(home.line_path, "here")
    with line.alone():
        line.join(TICKET).leave()
    home.mark_for_refresh(run_id)
    views(home)


@pytest.mark.parametrize("is_first", [False, True], ids=["second", "first"])
def test_one_command_as_root_locks_nobody_out(home: Home, is_first: bool):
    """What cannot be written is replaced, and what cannot be read is said to be so: everything else works."""
    if not is_first:
        with as_nobody():
            use(home, "mine")
    use(home, "theirs")
    for path in home.path.rglob("*"):
        if "mine" not in path.parts and path not in {home.runs_path, home.unsettled_path}:
            os.chown(path, 0, 0)
    with as_nobody():
        use(home, "new")
        shown = views(home)
        assert shown["new"].run.status is Status.COMPLETED
        assert is_first or shown["mine"].run.status is Status.COMPLETED
        theirs = shown["theirs"].run
        assert theirs.status is Status.UNREADABLE
        assert theirs.reason == "run.json cannot be read: it belongs to user root (Permission denied)"
        assert experiments_json.run_ids(home.snapshot_path) == shown.keys()
        with pytest.raises(UsageError, match="belongs to user root, who can remove it: rm -r"):
            recovery.remove(home, theirs, print)
        assert home.rundir("theirs").path.exists()
    recovery.remove(home, theirs, print)
    with as_nobody():
        assert "theirs" not in views(home)


def test_a_run_that_root_has_ended_is_roots_to_remove(home: Home):
    """Also when the index, which root has read it into, knows all of it."""
    with as_nobody():
        use(home, "mine")
    add_run(home, "theirs")
    known = views(home)["theirs"].run
    assert known.status is Status.COMPLETED
    with as_nobody(), pytest.raises(UsageError, match="belongs to user root, who can remove it: rm -r"):
        recovery.remove(home, known, print)


def test_a_run_that_root_has_resumed_is_read_without_that_session(home: Home, capsys: pytest.CaptureFixture[str]):
    """What came before and after it is there, also in an index that is built anew, and what is missing is named."""
    with as_nobody():
        rundir = home.publish(home.begin(msgspec.structs.replace(SPEC, id="mine"), None), "mine")
        with closing(Journal(rundir.journal_path)) as journal:
            for number in (1, 2, 3):
                journal.append(
                    msgspec.structs.replace(STARTED, session=number), msgspec.structs.replace(ENDED, session=number)
                )
                rundir.out_path(number).write_text(f'{{"step": {number}, "loss": 0.{number}}}\n')
    rundir.out_path(2).chmod(0o600)
    os.chown(rundir.out_path(2), 0, 0)
    with as_nobody():
        for _ in range(2):
            assert views(home)["mine"].last_step == 3
            for path in home.path.glob("index.db*"):
                path.unlink()
        with catalog.caught_up(home, print) as index:
            points = list(query.points(index, views(home)["mine"], "loss"))
        with (
            closing(recovery.claim(home, views(home)["mine"].run, print)) as journal,
            closing(Recorder(home, rundir, rundir.read_spec(), journal, print)) as recorder,
        ):
            assert recorder.whole_view(0) is not None  # it can be resumed
    assert [point.step for point in points] == [1, 3]
    assert "run mine is shown without what is in session-2.out: another user owns it" in capsys.readouterr().out


def test_a_checkpoint_in_a_folder_of_somebody_else_is_not_called_missing(home: Home):
    """Nobody knows whether it is there."""
    closed = home.path.parent / "closed"
    closed.mkdir(mode=0o700)
    measure = Measure(size_bytes=1, saved_at=AT)
    saved = tuple(
        Checkpoint(path=str(folder / "c"), step=1, session=1, measure=measure) for folder in (closed, home.path)
    )
    view = RunView(run=Run(spec=SPEC, status=Status.COMPLETED), run_dir="/r", checkpoints=saved)
    with as_nobody():
        told = run_details.run_details(view, AT, checkpoints.looks_valid)
    assert f"{closed}/c  step 1, 1 B  (cannot be read)" in told
    assert f"{home.path}/c  step 1, 1 B  (missing)" in told


def test_a_command_in_the_home_of_somebody_else_says_so(runs: Runs):
    """Whoever runs it as root hears of it, once."""
    runs.home.mkdir()
    os.chown(runs.home, NOBODY, NOBODY)
    runs.script("")
    owner = pwd.getpwuid(NOBODY).pw_name
    for words in (("list",), ("run", "train.py", "--run-id", "r"), ("resume", "r", "--again")):
        done = runs.call(*words)
        assert done.stderr.count(f"warning: the home folder {runs.home} belongs to user {owner}") == 1


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("command", [stop, pause, rename, logs], ids=lambda command: command.name)
def test_a_run_that_is_closed_to_us_is_said_to_be_its_owners(home: Home, command: click.Command, is_known: bool):
    """A run that root started in one's home. is_known: root has looked at it, and the index knows all of it."""
    with as_nobody():
        use(home, "mine")
    add_run(home, "theirs")
    if is_known:
        views(home)
    words = ["theirs", "name"] if command is rename else ["theirs"]
    with as_nobody(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKPROP_HOME", str(home.path))
        with pytest.raises(UsageError, match="belongs to user root"):
            command.main(words, standalone_mode=False)


def test_a_home_that_root_makes_for_somebody_else_is_told(runs: Runs):
    """`sudo backprop run`, before the user's own first run."""
    os.chown(runs.home.parent, NOBODY, NOBODY)
    runs.script("")
    owner = pwd.getpwuid(NOBODY).pw_name
    done = runs.call("run", "train.py")
    assert f"warning: {runs.home.parent} belongs to user {owner}, who cannot use the home folder" in done.stderr


@pytest.mark.parametrize("closed", ["", "runs"], ids=["home", "runs"])
def test_a_home_that_root_made_says_how_it_becomes_ones_own(home: Home, closed: str):
    """Nothing can be done in it, and nothing crashes."""
    folder = home.path / closed
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 0, 0)
    with (
        as_nobody(),
        pytest.raises(ConfigError, match=f"{folder} belongs to user root.*sudo chown -R {NOBODY} {folder}"),
    ):
        home_of(folder.parent if closed else folder)


def test_a_home_in_a_folder_that_is_closed_to_us(home: Home):
    """As with the HOME of another user, which `su` keeps."""
    os.chown(home.path.parent, 0, 0)
    home.path.parent.chmod(0o700)
    with as_nobody(), pytest.raises(ConfigError, match=f"{home.path} cannot be reached: Permission denied"):
        home_of(home.path)
    home.path.parent.chmod(0o755)
    os.chown(home.path.parent, 0, 0)
    os.chown(home.path, 0, 0)
    home.path.chmod(0o700)
    with as_nobody(), pytest.raises(ConfigError, match="Set BACKPROP_HOME to a folder of yours"):
        home_of(home.path)


@pytest.mark.parametrize(
    "words",
    [
        ("run", "{}/train.py"),
        ("run", "train.py", "--resume-from", "{}/last.pt"),
        ("run", "train.py", "--config", "{}/backprop.toml"),
        ("run", "train.py", "--stdin", "{}/answers"),
        ("resume", "mine", "--resume-from", "{}/last.pt"),
    ],
    ids=" ".join,
)
def test_a_path_in_a_folder_of_somebody_else_is_said_in_one_line(
    home: Home, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """It can be neither there nor missing, as far as we know."""
    closed = home.path.parent / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("BACKPROP_HOME", str(home.path))
    monkeypatch.chdir(home.path.parent)
    Path("train.py").write_text("")
    with as_nobody():
        use(home, "mine")

    def code_of(folder: Path) -> object:
        monkeypatch.setattr(sys, "argv", ["backprop", *(word.format(folder) for word in words)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        return ended.value.code

    assert code_of(home.path.parent / "nowhere") == 2  # now all modules are imported that only root may read
    capsys.readouterr()
    with as_nobody():
        assert code_of(closed) == 2
        assert views(home).keys() == {"mine"}
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"backprop: {words[-1].format(closed)}: Permission denied."


@pytest.mark.parametrize("command", [init, status], ids=lambda command: command.name)
def test_a_current_folder_of_somebody_else_is_said_in_one_line(
    home: Home, command: click.Command, monkeypatch: pytest.MonkeyPatch
):
    """After `su`, or with `sudo -u`, it may be closed to us."""
    closed = home.path.parent / "closed" / "below"
    closed.mkdir(parents=True)
    monkeypatch.setenv("BACKPROP_HOME", str(home.path))
    monkeypatch.chdir(closed)
    closed.parent.chmod(0o700)
    with as_nobody(), pytest.raises(UsageError, match=f"the current folder {closed} is closed to you"):
        command.main([], standalone_mode=False)


@pytest.mark.parametrize(("mode", "is_told"), [(0o755, False), (0o775, True), (0o777, True), (0o1777, False)])
def test_a_home_that_others_may_write_to_is_told(runs: Runs, mode: int, is_told: bool):
    """Its runs' folders are closed to them anyway, but may be replaced."""
    runs.home.mkdir()
    runs.home.chmod(mode)
    assert ("other users can write to the home folder" in runs.call("list").stderr) == is_told
