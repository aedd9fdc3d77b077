"""A home with real runs, for pictures: some that ended in different ways, a group, two that train."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

BACKPROP = Path(sys.executable).with_name("backprop")
_SOURCE = Path(__file__).parents[2]
_FOLDER = Path("/tmp/digits")  # it is in the pictures
_LIVE_EPOCHS = 20_000  # far more than there is time for
_CUT_EPOCHS = 300  # more than fit into the timebox of those that it ends
_GRID = ("--vary", "lr=0.002,0.005,0.02,0.05", "--vary", "seed=1,2,3")
_LIVE_S = 5.0  # until there is something to see of those that train


class Demonstration:
    """Its folder, its environment, and the commands that make it. `end()` ends what it started, and removes it."""

    def __init__(self) -> None:
        if _FOLDER.exists():
            sys.exit(f"{_FOLDER} is where the runs for the pictures are made, and there is something: remove it.")
        self.folder = _FOLDER
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("BACKPROP_")},
            "BACKPROP_HOME": str(_FOLDER / "home"),
            "BACKPROP_MIN_FREE_RAM_GB": "0.5",
            **dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME"), "ada"),
        }

    def make(self) -> None:
        """Make the runs; takes half a minute."""
        self.folder.mkdir()
        (self.folder / ".venv").symlink_to(sys.prefix)
        for name in ("digits.py", "digits.csv.gz"):
            shutil.copy(_SOURCE / "examples" / name, self.folder)
        shutil.copy(Path(__file__).with_name("lr_range.py"), self.folder)
        self.folder.joinpath(".gitignore").write_text("home\n.venv\n*checkpoints*\nlow\nhigh\n")
        self._git("init", "-q")
        self._git("add", "-A")
        self._git("commit", "-qm", "digits")
        self._make_runs()

    def end(self) -> None:
        """Leave nothing behind."""
        going_on = ("--status", "queued", "--status", "running", "--status", "paused")
        for run in json.loads(self.call("list", *going_on, "--json") or "[]"):
            self.call("stop", run["id"], "--now")
        shutil.rmtree(self.folder)

    def call(self, *words: object) -> str:
        """What a `backprop` command prints. That a run fails is part of the picture."""
        done = subprocess.run(
            [BACKPROP, *map(str, words)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def run_id(self, name: str) -> str:
        """Of the run of that name."""
        run_id: str = json.loads(self.call("status", name, "--json"))["id"]
        return run_id

    def start(self, *words: object) -> "subprocess.Popen[str]":
        """A `backprop` command that goes on; its stdout can be read."""
        return subprocess.Popen(
            [BACKPROP, *map(str, words)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _make_runs(self) -> None:
        self.call("run", *_GRID, "--group", "rates", "digits.py", "--", "--epochs", 15)
        self.call("wait", "--all")
        self._digits("broken-folder", "--out", "/proc/digits")
        self.call("run", "-n", "lr-range", "lr_range.py")
        for lr in ("0.005", "0.01", "0.05", "0.1"):
            self._digits(f"lr-{lr}", "--lr", lr, "--epochs", 40)
        for seed in (1, 2):
            self._digits(f"seed-{seed}", "--seed", seed)
        script = self.folder / "digits.py"
        before = script.read_text()
        script.write_text(before.replace("0.9 * self.momentum", "0.95 * self.momentum"))
        self._digits("momentum", "--lr", "0.01", "--seed", 1)
        script.write_text(before)
        self._digits("timeboxed", "--lr", "0.02", "--epochs", _CUT_EPOCHS, minutes=0.04)
        self._digits("resumed", "--lr", "0.03", "--epochs", _CUT_EPOCHS, minutes=0.04)
        self.call("resume", "resumed", "--again", "-m", 5)
        # apart, or both would take the same checkpoints
        self._digits("long-low", "--lr", "0.002", "--epochs", _LIVE_EPOCHS, "--out", "low", is_live=True)
        self._digits("long-high", "--lr", "0.08", "--epochs", _LIVE_EPOCHS, "--out", "high", is_live=True)
        self._digits("next", "--seed", 3, is_live=True)
        time.sleep(_LIVE_S)
        self.call("pause", "long-high")
        self._wait_for("long-high", "paused")
        self.call("resume", "long-high")
        time.sleep(_LIVE_S)

    def _wait_for(self, name: str, status: str) -> None:
        while json.loads(self.call("status", name, "--json"))["status"] != status:
            time.sleep(0.1)

    def _git(self, *words: str) -> None:
        who = ("-c", "user.name=Ada", "-c", "user.email=ada@localhost", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *words], cwd=self.folder, check=True)

    def _digits(self, name: str, *arguments: object, minutes: float = 10, is_live: bool = False) -> None:
        self.call("run", *(["-d"] if is_live else []), "-n", name, "-m", minutes, "digits.py", "--", *arguments)
