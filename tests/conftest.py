"""What the tests that drive the installed command share: a home of their own, scripts, and processes by id."""

import atexit
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

from backprop.trainer import failsafe
from tests.forked_commands import ForkedProcess, ForkServer, needs_interpreter
from tests.leftovers import forbidden_folder, nothing_is_left, owned_by_session  # noqa: F401  fixtures of every test

IS_NIGHTLY = os.environ.get("TEST_DEPTH") == "full"


def scaled(count: int) -> int:
    """How many examples, kills or rounds: all of them in `make nightly`, a tenth elsewhere."""
    return count if IS_NIGHTLY else max(1, count // 10)


# how long an example takes says something about the machine's other work, and nothing about us
settings.register_profile(
    "backprop", max_examples=scaled(100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("backprop")

# Only a hang takes so long, no load does; less than what pytest itself gives a test, so that it fails where it waits.
HANG_S = 240.0

# `make test &` in a script: whatever we start would be deaf to it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# `nohup make test`: so they would be to a closed terminal, which we ourselves go on to survive
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

_PAUSES = 3.0  # so much longer than a look at a condition, which may be a program that is started

BACKPROP = str(Path(sys.executable).with_name("backprop"))
_STREAMS = {"stdin", "stdout", "stderr"}

# For `start_patched`: how long a session has lasted is what the file `clock` in the working folder says, in seconds. While
# that is empty, time passes as anywhere; before there is one, none does, however long a trainer takes to start.
OWN_CLOCK = """
import os, time
from backprop.supervisor import session

path, began = os.path.abspath("clock"), time.monotonic()
passed, seen, has_begun = 0.0, began, False
begin, real = session.RunningSession.begin, session.Clock

def begins(self):
    global has_begun
    has_begun = True
    begin(self)

def now():
    global passed, seen
    last, seen = seen, time.monotonic()
    if has_begun and os.path.exists(path):
        with open(path) as file:
            text = file.read()
        passed = float(text) if text else passed + seen - last
    return began + passed

session.RunningSession.begin, session.Clock = begins, lambda: real(now=now)
"""


@functools.cache
def fork_server() -> ForkServer:
    """The one of this process of pytest."""
    made = ForkServer()
    owned_by_session.append(lambda: {made.pid})
    atexit.register(made.close)
    return made


class Runs:
    """A home of its own, a folder to work in, and the installed `backprop` command."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.work = folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.environment = {
            **{
                key: value
                for key, value in os.environ.items()
                # pytest-xdist sets the latter two, `make test` those of make
                if not key.startswith(("BACKPROP_", "MAKE")) and key not in {"MFLAGS", "COLUMNS", "LINES"}
            },
            "BACKPROP_HOME": str(self.home),
            "XDG_STATE_HOME": str(folder / "state"),
            "BACKPROP_PYTHON": sys.executable,
            "BACKPROP_MIN_FREE_RAM_GB": "0",
            "BACKPROP_MIN_FREE_DISK_GB": "0",
            "BACKPROP_MAX_PARALLEL": "1000",
            "BACKPROP_GPU_PROBE": "none",
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self._owned: list[str] = []

    def script(self, text: str, name: str = "train.py") -> Path:
        """Write a script into the working folder."""
        path = self.work / name
        # each costs milliseconds of every run: only those that it names
        used = sorted({"json", "os", "signal", "subprocess", "sys", "time"}.intersection(re.findall(r"\w+", text)))
        path.write_text((f"import {', '.join(used)}" if used else "") + "\n" + textwrap.dedent(text))
        return path

    def call(self, *words: object, timeout_s: float = HANG_S, **changes: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        command, environment = [BACKPROP, *map(str, words)], {**self.environment, **changes}
        if not needs_interpreter(environment):
            return fork_server().call(command, self.work, environment, timeout_s)
        return subprocess.run(
            command,
            cwd=self.work,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *words: object, **options: object) -> "subprocess.Popen[bytes]":
        """Start a command and go on. Its stdout and stderr are thrown away unless told otherwise."""
        command = [BACKPROP, *map(str, words)]
        if needs_interpreter(self.environment) or not options.keys() <= _STREAMS:
            return self.start_program(command, **options)
        streams = {**dict.fromkeys(_STREAMS, subprocess.DEVNULL), **options}
        process = ForkedProcess(fork_server(), command, self.work, env=self.environment, **streams)
        self._started.append(process)
        return process

    def start_program(self, command: list[str], **options: object) -> "subprocess.Popen[bytes]":
        """The same for another program."""
        defaults: dict[str, object] = dict.fromkeys(_STREAMS, subprocess.DEVNULL)
        process = subprocess.Popen(  # type: ignore[call-overload]
            command,
            cwd=self.work,
            env=self.environment,
            **{**defaults, **options},
        )
        self._started.append(process)
        return process

    def call_patched(self, patch: str, *words: object) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, after these lines of Python in its process."""
        process = self.start_patched(patch, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=HANG_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out.decode(), err.decode())

    def start_patched(self, patch: str, *words: object, **options: object) -> "subprocess.Popen[bytes]":
        """Start one, and go on."""
        return self.start_program([*patched(patch), *map(str, words)], **options)

    def set_clock(self, seconds: float) -> None:
        """For a session with OWN_CLOCK."""
        draft = self.work / "clock.draft"
        draft.write_text(str(seconds))
        draft.rename(self.work / "clock")

    def stands_still(self) -> bool:
        """Whether no process of `tree` moves.

        One that starts a child with vfork is not stopped before that has executed its program, and does not move either.
        """
        moving = [process for process in self.tree() if process.status() != psutil.STATUS_STOPPED]
        return all(
            process.status() == psutil.STATUS_DISK_SLEEP
            and psutil.STATUS_STOPPED in {child.status() for child in process.children()}
            for process in moving
        )

    def own(self, run_id: str) -> None:
        """Let this fixture end a run that goes on in the background."""
        self._owned.append(run_id)

    def document(self, run: str = "last") -> dict:
        """`status RUN --json`, with all of its checkpoints."""
        done = self.call("status", run, "--json", "--all")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def journal(self, run_id: str) -> list[dict]:
        """The entries of a run's journal."""
        return [json.loads(line) for line in self.rundir(run_id).joinpath("journal.jsonl").read_text().splitlines()]

    def rundir(self, run_id: str) -> Path:
        return self.home / "runs" / run_id

    def set_usage(self, run_id: str, text: str = "") -> None:
        """Make this what was measured of each of a run's sessions, however long they took; by default nothing."""
        for session in self.document(run_id)["sessions"]:
            (self.rundir(run_id) / f"session-{session['number']}.usage").write_text(text)
        self.call("reindex")

    def output(self, run_id: str, session: int = 1) -> str:
        """What the trainer wrote to stdout so far."""
        path = self.rundir(run_id) / f"session-{session}.out"
        return path.read_text() if path.exists() else ""

    def deadline_s(self, run_id: str) -> float:
        """When the timebox ends, as the trainer is told it; by `time.monotonic`."""
        return json.loads((self.rundir(run_id) / "control.json").read_text())["deadline_monotonic_s"]

    def only_id(self) -> str:
        """The id of the only run there is, once it is there."""
        return wait_for(lambda: [p.name for p in self.home.glob("runs/*") if not p.name.startswith(".")])[0]

    def tree(self) -> list[psutil.Process]:
        """Living processes that belong to runs of this home, trainers and their descendants."""
        prefix = str(self.home / "runs")
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.environ().get("BACKPROP_RUN_DIR", "").startswith(prefix)
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def clean_up(self) -> None:
        """End what `start` started, with all that it started itself, and runs that are ours.

        What is left besides fails the test: see leftovers.
        """
        for run_id in self._owned:
            self.call("stop", run_id, "--now")
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGSTOP)  # so that it does nothing about what follows
                supervisor = psutil.Process(process.pid)
                while living := [one for one in supervisor.children(recursive=True) if is_alive(one)]:
                    for one in living:
                        with suppress(psutil.NoSuchProcess):  # it has ended since it was seen
                            one.kill()
                process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def held_at(module: str, function: str) -> str:
    """For `start_patched`: each call of this function makes a file `held`, and waits until there is one `go-on`."""
    return f"""
import os, time
import {module} as module

folder, real = os.getcwd(), module.{function}

def waits(*arguments):
    open(os.path.join(folder, "held"), "w").close()
    while not os.path.exists(os.path.join(folder, "go-on")):
        time.sleep(0.02)
    return real(*arguments)

module.{function} = waits
"""


def patched(patch: str) -> list[str]:
    """The command `backprop`, in a process that has executed these lines of Python before."""
    main = "\nimport sys\nsys.argv[0] = 'backprop'\nfrom backprop.__main__ import main\nmain()\n"
    return [sys.executable, "-c", patch + main]


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs, or might: not when it only waits to be reaped."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_for(
    condition: Callable[[], object],
    timeout_s: float = HANG_S,
    why_not: Callable[[], str] = lambda: "the condition did not come true in time",
) -> object:
    """What the condition gives once it is true; fails after the timeout. Leaves the machine to what is waited for."""
    deadline = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        if result := condition():
            return result
        assert began < deadline, why_not()
        time.sleep(min(1.0, max(0.01, _PAUSES * (time.monotonic() - began))))


def nightly(*values: object) -> object:
    """Values of a parametrized test that only `make nightly` takes."""
    return pytest.param(*values, marks=pytest.mark.nightly)


@pytest.fixture(autouse=True)
def hooks_are_on(monkeypatch: pytest.MonkeyPatch):
    """What failed in the test before is not off in this one."""
    monkeypatch.setattr(failsafe, "_off", set())


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    yield made
    made.clean_up()


def recorded(record: Callable[[Runs], None]) -> Callable[..., Iterator[Runs]]:
    """A fixture: home and working folder as `record` has left them.

    It runs once in each process of pytest, and what it leaves is copied, at the same paths, for each test, which may
    change it: to record a run costs as much as to look at it ten times.
    """
    kept: list[tuple[Path, dict[str, str]]] = []

    @pytest.fixture(name=record.__name__)
    def fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
        if not kept:
            folder = tmp_path_factory.mktemp(record.__name__)
            first = Runs(folder / "original")
            try:
                record(first)
            finally:
                first.clean_up()
            (folder / "original").rename(folder / "kept")
            kept.append((folder, first.environment))
        folder, environment = kept[0]
        shutil.copytree(folder / "kept", folder / "original", symlinks=True)
        made = Runs(folder / "original")
        made.environment = {**environment}
        yield made
        try:
            made.clean_up()
        finally:
            shutil.rmtree(folder / "original")

    return fixture


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those that may take longest come first: what starts last must not keep the other workers waiting.

    Nightly ones only at full depth.

    $TEST_ORDER_SEED: in an order drawn with it instead, the same in all workers.
    """
    if not IS_NIGHTLY and (nightly := [item for item in items if item.get_closest_marker("nightly")]):
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in nightly]
    if seed := os.environ.get("TEST_ORDER_SEED"):
        items.sort(key=lambda item: item.nodeid)
        random.Random(seed).shuffle(items)
    else:
        items.sort(key=lambda item: _timeout_s(item, float(config.getini("timeout"))), reverse=True)


def _timeout_s(item: pytest.Item, default: float) -> float:
    marker = item.get_closest_marker("timeout")
    return default if marker is None else float(marker.args[0])
