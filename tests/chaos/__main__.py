"""`make chaos`: random faults at random instants, and every record compared with what it must say.

    python -m tests.chaos --minutes 60 [--seed N] [--steps N]

A round is a stretch of faults and a quiet point where all is compared, so that what is found is near its cause. One
seed decides all choices; the instants of processes cannot be replayed. Exit code 1: something was found, and the folder
with the log and the records concerned is kept.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos import clock
from tests.chaos.actions import ACTIONS, Step, plan
from tests.chaos.checks import check_front, check_instant, check_reindex, check_rest, judge_command, wait_for_rest
from tests.chaos.model import Deed
from tests.chaos.population import SLOTS, Member, Population, Process, preload
from tests.chaos.sweep import MAX_ROUNDS
from tests.slurm.cluster import missing_programs

ROUND_STEPS = 100
MAX_SESSIONS = 30  # a run with more is removed
REST_S = 120.0
_STAGE = "CHAOS_FOLDER"


def main() -> None:
    options = _options()
    if _STAGE not in os.environ:
        _enter_own_place()
    folder = Path(os.environ.pop(_STAGE))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    chaos = Chaos(folder, options)
    sys.exit(chaos.run())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--steps", type=int, help="end after so many steps, and not by the clock")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--slurm", action="store_true", help="with a throw-away cluster; the clock is then left alone")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(4), "big")
    return options


def _enter_own_place() -> None:
    """Start again with a clock and mounts of our own, which end with us."""
    folder = Path(tempfile.mkdtemp(prefix="backprop-chaos-"))
    # the daemons of a cluster, and what they ask of each other, need one clock
    own_clock = {} if "--slurm" in sys.argv else clock.build(folder) or {}
    environment = {**os.environ, **own_clock, _STAGE: str(folder)}
    words = [sys.executable, "-m", "tests.chaos", *sys.argv[1:]]
    apart = ["unshare", "--mount", "--propagation", "private"]
    if shutil.which("unshare") and subprocess.run([*apart, "true"], capture_output=True, check=False).returncode == 0:
        words = [*apart, *words]
        environment["CHAOS_MOUNTS"] = "1"
    os.execvpe(words[0], words, environment)


_interrupted: list[int] = []  # signals that ask for the end: Python drops what is raised in some of its callbacks


def _interrupt(number: int, _frame: Any) -> None:
    _interrupted.append(number)
    raise KeyboardInterrupt


class Chaos:
    """One run of the program."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._folder = folder
        self._options = options
        self._log = (folder / "log.jsonl").open("a", buffering=1)
        self._began_at = time.monotonic()
        self._population = Population(folder, self._note)
        self._done: Counter[str] = Counter()
        self._sweep_ends: Counter[str] = Counter()
        self._trials = 0  # of sweeps that were removed
        self._checks = 0
        self._findings: list[str] = []
        self._blamed: list[Member] = []
        self._fronts: list[Process] = []
        self._round = 0
        self._step = 0

    def run(self) -> int:
        """All rounds; the exit code."""
        missing = self._prepare()
        print(f"seed {self._options.seed}; log: {self._folder / 'log.jsonl'}", flush=True)
        for text in missing:
            print(f"does not take part: {text}", flush=True)
        is_interrupted = False
        try:
            self._rounds()
        except KeyboardInterrupt:
            is_interrupted = True
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # it is ending already
            self._population.end_everything()
            self._log.close()
        self._report(missing)
        if not self._findings:
            shutil.rmtree(self._folder, ignore_errors=True)
        return 1 if self._findings else 130 if is_interrupted else 0

    def _prepare(self) -> list[str]:
        missing = []
        if not self._options.slurm:
            missing.append("Slurm (front, supervisor in a job, node daemon): not asked for by --slurm")
        elif absent := missing_programs():
            missing.append(f"Slurm (front, supervisor in a job, node daemon): {', '.join(absent)} not installed")
        if os.environ.pop("CHAOS_MOUNTS", None) is None or not self._population.mount_home():
            missing.append("full disk, read-only home: no file system can be mounted here (root can)")
        if clock.OFFSET_VARIABLE not in os.environ:
            missing.append(f"clock steps: {'not with --slurm' if self._options.slurm else 'no C compiler'}")
        preload()
        if self._options.slurm and not missing_programs():
            self._population.start_cluster()
        return missing

    def _rounds(self) -> None:
        steps = plan(self._options.seed, with_slurm=self._population.cluster is not None)
        deadline = self._began_at + self._options.minutes * 60
        while True:
            self._round += 1
            left = ROUND_STEPS if self._options.steps is None else min(ROUND_STEPS, self._options.steps - self._step)
            if left <= 0 or (self._options.steps is None and time.monotonic() > deadline):
                return
            for _ in range(left):
                self._take(next(steps))
            self._come_to_rest()
            self._check()
            self._tidy()
            print(
                f"{time.monotonic() - self._began_at:6.0f} s  round {self._round}: {self._fault_count()} faults, "
                f"{self._checks} records compared, {len(self._findings)} findings",
                flush=True,
            )

    # -- a round

    def _take(self, step: Step) -> None:
        population = self._population
        self._step += 1
        for turn in range(SLOTS):  # the first from that slot on to which it can be done
            member = population.members[(step.slot + turn) % SLOTS]
            if (done := ACTIONS[step.action].do(population, member, step)) is not None:
                self._done[step.action] += 1
                self._note(f"{step.action}: {done}")
                break
        self._attend()
        population.look_for_sweeper()
        check_instant(population, self._found)
        until = time.monotonic() + step.pause_s
        while time.monotonic() < until:
            time.sleep(min(0.02, max(0.0, until - time.monotonic())))
            self._attend()

    def _attend(self) -> None:
        if _interrupted:
            raise KeyboardInterrupt
        population = self._population
        population.undo_due()
        population.reap()
        for process in population.ended:
            judge_command(population, process, self._found)
            if process.purpose == "front":
                self._fronts.append(process)
            self._note(f"{process} ended with {process.code}: {process.stderr[-300:].strip()}")
        population.ended.clear()

    def _come_to_rest(self) -> None:
        population = self._population
        population.undo_due(everything=True)
        population.adopt_guests()
        self._end_viewers({"view"}, signal.SIGKILL)
        rng = random.Random(f"{self._options.seed}/{self._round}")
        self._end_sweep(rng.random())
        population.adopt_guests()
        ways = {slot: rng.random() for slot in range(len(population.members))}
        for slot, member in enumerate(population.everybody()):
            self._end(member, ways.get(slot, 0.0))
        give_up_at = time.monotonic() + REST_S
        while (alive := wait_for_rest(population, 4.0)) and time.monotonic() < give_up_at:
            population.adopt_guests()
            for member in population.everybody():
                self._end(member, 0.0)
        population.adopt_guests()
        self._end_viewers({"page"}, signal.SIGTERM if rng.random() < 0.5 else signal.SIGKILL)
        self._attend()
        if alive:
            self._found(None, f"after {REST_S:g} s these have not ended: {alive}")
            for process in population.descendants():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            wait_for_rest(population, 10.0)

    def _end_sweep(self, way: float) -> None:
        """Let nobody drive the sweep any more; its trials go on."""
        population = self._population
        deadline = time.monotonic() + REST_S
        interrupted: set[int] = set()
        while population.fronts_of_sweep() or population.sweeper() is not None:
            self._attend()
            pid = population.sweeper()
            if pid is not None:
                if way < 0.4:
                    population.send(pid, signal.SIGKILL)
                elif way < 0.7:
                    population.call_now("sweep", "stop", population.sweep.name, is_real=False)
                elif pid not in interrupted:
                    interrupted.add(pid)
                    population.send(pid, signal.SIGINT)
            if time.monotonic() > deadline:
                self._found(None, f"after {REST_S:g} s the sweep is still driven by {pid}")
                for process in population.fronts_of_sweep():
                    population.send(process.pid, signal.SIGKILL)
                if pid is not None:
                    population.send(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _end_viewers(self, purposes: set[str], number: signal.Signals) -> None:
        """End who looks on, and wait until they have ended: what the next one finds is its alone."""
        population = self._population
        viewers = [process for process in population.processes.values() if process.purpose in purposes]
        for process in viewers:
            population.send(process.pid, number)
        for process in viewers:
            if not population.wait_for_end(process, 30):
                self._found(None, f"{process} has not ended within 30 s of {number.name}")
                population.send(process.pid, signal.SIGKILL)
                population.wait_for_end(process, 30)

    def _end(self, member: Member, way: float) -> None:
        population = self._population
        if member.is_on_slurm:
            if population.jobs() and not any(
                p.words[:2] == ("stop", member.run_id) for p in population.processes.values()
            ):
                population.happened(member, Deed.STOP)
                population.spawn("stop", member.run_id, purpose="order")
            return
        pid = population.supervisor_of(member)
        if pid is None:
            return
        if way < 0.5:
            population.happened(member, Deed.TERMINATE)
            population.send(pid, signal.SIGTERM)
        elif way < 0.7:
            population.happened(member, Deed.CTRL_C)
            population.send(pid, signal.SIGINT)
        else:
            population.happened(member, Deed.KILL_SUPERVISOR, pid)
            if population.kill_and_reap(pid):
                population.note_death(member, pid)
        self._note(f"end of round: {member.run_id}, {way:.2f}")

    def _check(self) -> None:
        population = self._population
        population.wait_for_notifiers()
        self._checks += check_rest(population, self._found)
        for process in self._fronts:
            if process.member not in self._blamed:
                check_front(population, process, self._found)
        if self._round % 4 == 0:
            check_reindex(population, self._found)
        population.ended.clear()

    def _tidy(self) -> None:
        """Forget the round; remove what has become large."""
        population = self._population
        self._fronts.clear()
        population.machine_faults.clear()
        population.is_vary_killed = population.is_index_damaged = False
        for member in [*population.members, *population.guests, *population.slurm_members]:
            member.happenings.clear()
            member.died_open.clear()
            member.trainers_killed.clear()
            folder = population.rundir(member.run_id)
            if member.is_trial and member in self._blamed:
                population.sweep.is_doomed = True
            elif member in self._blamed or (member.is_doomed and not folder.exists()):
                shutil.rmtree(folder, ignore_errors=True)
                population.replace(member)
                continue
            member.is_doomed = False
            if member.is_trial:
                continue
            if member.is_guest or member.checked > MAX_SESSIONS:
                population.call_now("rm", member.run_id, "--yes", is_real=False)
                population.replace(member)
        self._tidy_sweep()
        self._blamed.clear()
        population.ended.clear()
        for path in [*population.calls.iterdir(), *population.home.glob("*.corrupt-*")]:
            if not any(process.files.name == path.stem for process in population.processes.values()):
                path.unlink(missing_ok=True)

    def _tidy_sweep(self) -> None:
        sweep = self._population.sweep
        sweep.killed_commands.clear()
        self._population.sweep_drivers.clear()
        sweep.rounds += sweep.spec() is not None
        if not (sweep.is_doomed or sweep.finished() is not None or sweep.rounds > MAX_ROUNDS):
            return
        self._note(f"{sweep.name} is removed: {sweep.finished()}")
        self._trials += len(sweep.run_ids())
        end = sweep.finished()
        self._sweep_ends["not at its end" if end is None else f"exit code {end.exit_code}"] += 1
        for process in self._population.remove_sweep():
            if process.code != 0:
                self._found(None, f"{process} exited with {process.code}:\n{process.stderr[-1000:]}")

    # -- words

    def _note(self, text: str) -> None:
        entry = {"t": round(time.monotonic() - self._began_at, 3), "round": self._round, "step": self._step}
        self._log.write(json.dumps({**entry, "what": text}) + "\n")

    def _found(self, member: Member | None, text: str) -> None:
        """A finding: said, written down, and kept with the records it is about."""
        whose = "" if member is None else f"{member.run_id}: "
        self._findings.append(f"round {self._round}, step {self._step}: {whose}{text}")
        self._note(f"FOUND {whose}{text}")
        print(f"FOUND in {self._findings[-1]}", flush=True)
        place = self._folder / "findings" / f"{len(self._findings):03}"
        place.mkdir(parents=True)
        (place / "finding.txt").write_text(self._findings[-1] + "\n")
        members = [member] if member is not None else self._population.everybody()
        for one in members[:10]:
            (place / f"{one.run_id}.txt").write_text(f"{one}\n")
            with contextlib.suppress(OSError, shutil.Error):
                shutil.copytree(self._population.rundir(one.run_id), place / one.run_id)
        with contextlib.suppress(OSError, shutil.Error):
            shutil.copy(self._population.home / "index.db", place)
            shutil.copytree(self._population.home / "sweeps", place / "sweeps")
        if member is not None and member not in self._blamed:
            self._blamed.append(member)

    def _fault_count(self) -> int:
        return sum(count for name, count in self._done.items() if ACTIONS[name].is_fault)

    def _report(self, missing: list[str]) -> None:
        duration_s = time.monotonic() - self._began_at
        print(f"\nseed {self._options.seed}: {self._step} steps in {self._round} rounds, {duration_s:.0f} s")
        for title, is_fault in (("faults", True), ("other actions", False)):
            some = {name: n for name, n in self._done.items() if ACTIONS[name].is_fault is is_fault}
            count = sum(some.values())
            print(
                f"{title} ({count}, {count / duration_s:.1f}/s):",
                ", ".join(f"{name} {n}" for name, n in sorted(some.items())),
            )
        ends = ", ".join(f"{name} {count}" for name, count in sorted(self._sweep_ends.items())) or "none ended"
        print(f"sweeps: {ends}; trials: {self._trials}")
        for text in missing:
            print(f"did not take part: {text}")
        print(f"records compared: {self._checks}; findings: {len(self._findings)}")
        for finding in self._findings:
            print(f"  {finding}")
        if self._findings:
            print(f"kept: {self._folder}. The same choices again: --seed {self._options.seed} (instants differ)")


if __name__ == "__main__":
    main()
