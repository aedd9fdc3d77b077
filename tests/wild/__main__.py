"""`make wild`: trainings of other people's libraries, whole, cut and killed; a table of what was seen.

    python -m tests.wild [NAME...]

Each file in programs/ is a training as the library's own quick start has it. It prints a line `step N ...` for each step
and at its end `final DIGEST STEPS`, its own word against which Backprop's is held. What it requires is installed into an
environment, which is kept; all else happens in a temporary folder. What Backprop said goes to stderr, the table to stdout.
"""

import argparse
import ast
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import psutil

from tests.conftest import wait_for
from tests.frameworks.conftest import FrameworkRuns
from tests.leftovers import PR_SET_CHILD_SUBREAPER

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
TORCH = "torch==2.13.0"
MAX_SESSIONS = 4
HANG_S = 1800.0  # only a hang takes so long
_LIMITS = ("--max-run-minutes", "60", "--checkpoint-every-minutes", "0.03")  # where hooks save, something can be killed
_STEP = re.compile(r"^step (\d+)\b", re.MULTILINE)
_FINAL = re.compile(r"^final (\S+) (\d+)$", re.MULTILINE)
_SAID = re.compile(r"backprop: (.*)$", re.MULTILINE)  # behind half a line of a progress bar, too
_CHECKPOINT_WAS_MISSED = "no checkpoint was found"
HEAD = (
    "program",
    "version",
    "tried",
    "noticed",
    "stopped and resumed",
    "killed and resumed",
    "what Backprop said that is false",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.wild", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a file in tests/wild/programs; else all")
    names = parser.parse_args().names or sorted(path.stem for path in PROGRAMS.glob("*.py"))
    if unknown := [name for name in names if not (PROGRAMS / f"{name}.py").exists()]:
        parser.error(f"no such program: {', '.join(unknown)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # commands are forks, to be waited for: ForkServer
    print(_line(HEAD), _line(["---"] * len(HEAD)), sep="\n", flush=True)
    for name in names:
        print(_line(try_program(Program.read(PROGRAMS / f"{name}.py"))), flush=True)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


@dataclass(frozen=True, kw_only=True)
class Program:
    """One of programs/, and what the comments below its docstring say."""

    path: Path
    title: str
    requires: tuple[str, ...]  # of pip; the first is the library that it is about
    arguments: tuple[str, ...]
    options: tuple[str, ...]  # of `backprop run`
    tried: tuple[str, ...]  # where else its library is resumed: a module in tests/frameworks

    @classmethod
    def read(cls, path: Path) -> "Program":
        text = path.read_text()
        said = {
            key: tuple(shlex.split(words))
            for key, words in re.findall(r"^# (requires|arguments|options|tried) (.*)$", text, re.MULTILINE)
        }
        title = (ast.get_docstring(ast.parse(text)) or path.stem).splitlines()[0].rstrip(".")
        known = {key: said.get(key, ()) for key in ("requires", "arguments", "options", "tried")}
        return cls(path=path, title=title, **known)


def try_program(program: Program) -> Sequence[str]:
    """Its row of the table."""
    _tell(f"{program.path.stem}: {program.title}")
    python, problem = install(program)
    version = _version(python, program.requires[0])
    if problem is not None:
        return program.title, version, f"not tried: {problem}", "", "", "", ""
    tried = " ".join(program.tried) or "by hand"
    whole = attempt(program, python, "whole")
    if whole.final is None:
        return program.title, version, tried, f"the whole run {whole.end}", "", "", ""
    halfway = (whole.first + whole.last + 1) // 2
    rows = [attempt(program, python, way, halfway) for way in ("stop", "kill")]
    is_repeatable = all(one.final == whole.final for one in rows) or (
        attempt(program, python, "whole").final == whole.final
    )
    false = [text for one in (whole, *rows) for text in one.falsehoods(whole)]
    words = [one.words(whole, is_repeatable=is_repeatable) for one in rows]
    return program.title, version, tried, whole.noticed(), *words, "; ".join(dict.fromkeys(false)) or "nothing"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- environments


def install(program: Program) -> tuple[str, str | None]:
    """The Python of an environment that has what the program requires; and why it has not."""
    pinned = [one for one in program.requires if one.startswith(("torch==", "torchvision=="))] or [TORCH]
    suffix = "" if pinned == [TORCH] else f"-{pinned[0].replace('==', '-')}"
    folder = ROOT / f".venv-wild{suffix}"
    python, constraints = str(folder / "bin/python"), folder / "constraints.txt"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    if not constraints.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([*pip, *pinned], check=True, stdout=sys.stderr)
        constraints.write_text("\n".join(pinned) + "\n")
    installed = folder / f".installed-{program.path.stem}"
    if not installed.exists() or installed.read_text() != shlex.join(program.requires):
        words = [*pip, "-c", str(constraints), *program.requires]
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
        _tell(done.stderr)
        if done.returncode:
            errors = re.findall(r"^ERROR: (.*)|^\s*(\w+Error: .*)", done.stderr, re.MULTILINE)
            return python, f"pip fails: {''.join(errors[0]) if errors else done.returncode}"
        installed.write_text(shlex.join(program.requires))
    return python, None


def _version(python: str, requirement: str) -> str:
    name = re.split(r"[\[=<>]", requirement)[0]
    program = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    done = subprocess.run([python, "-c", program, name], capture_output=True, text=True, check=False)
    return f"{name} {done.stdout.strip() or '(not installed)'}"


# -- three ways


@dataclass(kw_only=True)
class Attempt:
    """What was seen of a run."""

    document: dict[str, Any] = field(default_factory=dict)
    steps: list[list[int]] = field(default_factory=list)  # of each session, as the program printed them
    final: tuple[str, int] | None = None
    said: str = ""  # by Backprop
    was_cut: bool = False

    @property
    def first(self) -> int:
        return self.steps[0][0]

    @property
    def last(self) -> int:
        return max(max(steps, default=0) for steps in self.steps)

    @property
    def end(self) -> str:
        """How the run ended."""
        return f"{self.document['status']}: {self.document['reason']}"

    def noticed(self) -> str:
        """What Backprop noticed of it."""
        checkpoints = [one for one in self.document["checkpoints"] if not one["emergency"]]
        weights = sum(one["weights_only"] for one in checkpoints)
        steps = self.document["last_step"]
        return ", ".join(
            [
                f"{len(self.document['metrics'])} metrics",
                "no steps" if steps is None else f"{steps} steps",
                f"{len(checkpoints)} checkpoints" + (f" ({weights} of weights only)" if weights else ""),
            ]
        )

    def words(self, whole: "Attempt", *, is_repeatable: bool) -> str:
        """How it went on after it was cut, and how exact."""
        if not self.was_cut:
            return f"ended before it was cut ({self.end})"
        parts = []
        for session, steps in zip(self.document["sessions"][1:], self.steps[1:], strict=True):
            if session["resumed_from"]:
                said = f"said so ({PurePath(session['resumed_from']).name})"
            elif session["started_over"]:
                said = "said that it started over"
            else:
                said = "said that it noticed no checkpoint" if self._missed(session) else "said neither"
            began = f"from step {steps[0]} of {whole.last}" if steps else "made no step"
            parts.append(f"{'again ' if steps and steps[0] <= whole.first else ''}{began}, {said}")
        return "; ".join([*parts, self._exactness(whole, is_repeatable=is_repeatable)])

    def _exactness(self, whole: "Attempt", *, is_repeatable: bool) -> str:
        assert whole.final is not None
        if self.final is None:
            return f"did not get to its end: {self.end}"
        if self.final == whole.final:
            return "the same bits"
        if self.final[1] != whole.final[1]:
            return f"{self.final[1]} steps in all, not {whole.final[1]}"
        return f"the same steps, other weights{'' if is_repeatable else ' (as two whole runs have)'}"

    def _missed(self, session: dict[str, Any]) -> bool:
        return session["offered"] is None and _CHECKPOINT_WAS_MISSED in self.said

    def falsehoods(self, whole: "Attempt") -> Iterator[str]:
        """What Backprop said that the program's own output contradicts."""
        for session, steps in zip(self.document["sessions"][1:], self.steps[1:], strict=True):
            has_gone_on = bool(steps) and steps[0] > whole.first
            if steps and not has_gone_on and session["resumed_from"]:
                yield f"“resumed from {PurePath(session['resumed_from']).name}”: it began at step {steps[0]}"
            if has_gone_on and session["started_over"]:
                yield f"“started from the beginning”: it went on at step {steps[0]}"
        counted = self.document["last_step"]
        if self.final is not None and self.final == whole.final and counted != whole.document["last_step"]:
            yield f"step {counted} at its end, step {whole.document['last_step']} where it was not cut"


def attempt(program: Program, python: str, way: str, halfway: int = 0) -> Attempt:
    """Run it: `whole`, or cut at this step by `stop` or `kill`, and resumed until it completes."""
    with _runs(python) as runs:
        script = shutil.copy(program.path, runs.work)
        seen = Attempt()
        words = ["--run-id", way, *_LIMITS, *program.options, script, "--", *program.arguments]
        command = _start(runs, "run", *words)
        if way != "whole":
            seen.was_cut = _wait_for_cut(runs, way, halfway, command)
            if seen.was_cut and way == "stop":
                runs.stop_here(way)
            elif seen.was_cut:
                _kill(runs, command)
        command.wait(HANG_S)
        for _ in range(MAX_SESSIONS if seen.was_cut else 0):
            if runs.document(way)["status"] in {"completed", "failed"}:
                break
            _start(runs, "resume", way).wait(HANG_S)
        seen.document = runs.document(way)
        outputs = [runs.output(way, session["number"]) for session in seen.document["sessions"]]
        seen.steps = [[int(step) for step in _STEP.findall(output)] for output in outputs]
        if finals := _FINAL.findall(outputs[-1]):
            seen.final = finals[-1][0], int(finals[-1][1])
        said = _SAID.findall((runs.work.parent / "said").read_text(errors="replace"))
        seen.said = "\n".join(said)
        _tell("\n".join(f"  {way}: {line}" for line in said))
        if seen.final is None or seen.document["status"] != "completed":
            number = len(outputs)
            _tell(
                outputs[-1][-2000:] + (runs.rundir(way) / f"session-{number}.err").read_text(errors="replace")[-4000:]
            )
        return seen


@contextmanager
def _runs(python: str) -> Iterator[FrameworkRuns]:
    with tempfile.TemporaryDirectory(prefix="backprop-wild-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        runs = FrameworkRuns(folder)
        runs.python = python
        (folder / "tmp").mkdir()
        runs.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # imports would take longer than the training
        runs.environment.pop("PYTHONPATH", None)  # what a program imports must not come from the folder that we are in
        runs.environment |= {
            "BACKPROP_PYTHON": python,
            "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
            "TMPDIR": str(folder / "tmp"),
            "HOME": str(folder),  # for what libraries keep there
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        try:
            yield runs
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was started is ended first
            runs.clean_up()
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _start(runs: FrameworkRuns, *words: object) -> "subprocess.Popen[bytes]":
    with (runs.work.parent / "said").open("ab") as said:
        return runs.start(*words, stderr=said)


def _wait_for_cut(runs: FrameworkRuns, run_id: str, halfway: int, command: "subprocess.Popen[bytes]") -> bool:
    """Until the first session is halfway, and for a kill a checkpoint is recorded; False if it ends before that."""

    def step() -> int:
        return max(map(int, _STEP.findall(runs.output(run_id))), default=-1)

    def has_checkpoint() -> bool:
        return run_id == "stop" or '"checkpoint_saved"' in runs.events(run_id)

    wait_for(lambda: command.poll() is not None or step() >= halfway, HANG_S)
    late = halfway + halfway // 2  # whatever is not recorded by then will not be
    wait_for(lambda: command.poll() is not None or step() >= late or has_checkpoint(), HANG_S)
    return command.poll() is None


def _kill(runs: FrameworkRuns, command: "subprocess.Popen[bytes]") -> None:
    """SIGKILL to the supervisor and all its descendants, all of which stand still by then."""
    supervisor = psutil.Process(command.pid)
    supervisor.suspend()
    tree = supervisor.children(recursive=True)
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    for process in (supervisor, *tree, *supervisor.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    command.wait()
    psutil.wait_procs(tree)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
