"""`make chaos` itself: a few steps of it, and that its model permits what may be and nothing else."""

import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from backprop.records import Status
from tests.chaos.actions import ACTIONS, plan
from tests.chaos.model import (
    Deed,
    Facts,
    expected_checkpoint,
    is_explained,
    names_fault,
    notices_permitted,
    permitted,
    permitted_exit_codes,
    permitted_exit_codes_on_slurm,
    permitted_failures,
    permitted_without_session,
)
from tests.chaos.output import read_output

REPOSITORY = Path(__file__).parents[2]


def chaos(tmp_path: Path, *words: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.chaos", *words],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path), **changes},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(2400)
def test_some_steps_find_nothing_and_leave_nothing(tmp_path: Path):
    """All kinds of actions in one short round; its folder is gone afterwards."""
    done = chaos(tmp_path, "--steps", "60", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 1: 60 steps" in done.stdout
    assert "findings: 0" in done.stdout
    assert list(tmp_path.glob("backprop-chaos-*")) == []


# what is broken on purpose, by a module that every interpreter imports at its start
BROKEN = """
import sys
if any("tests.chaos" in word or word == "-m" for word in sys.orig_argv):
    from backprop.store.index import Index
    real = Index.add_output

    def add_output(self, run_id, session, start, end, *words, **options):
        self._db.execute("DELETE FROM tails WHERE run_id = ? AND session = ?", (run_id, session))
        self._db.execute("INSERT INTO tails VALUES (?, ?, ?, ?)", (run_id, session, "out", start))
        return real(self, run_id, session, start, end, *words, **{**options, "earlier_bytes": None})

    Index.add_output = add_output
"""


@pytest.mark.timeout(2400)
@pytest.mark.nightly
def test_an_index_without_its_compare_and_swap_is_found_out(tmp_path: Path):
    """With the product broken on purpose, the same steps end with findings, and what they are about is kept."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BROKEN)
    done = chaos(tmp_path, "--steps", "60", "--seed", "1", PYTHONPATH=str(folder))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the index has" in done.stdout
    (kept,) = tmp_path.glob("backprop-chaos-*")
    assert (kept / "log.jsonl").exists()
    assert list(kept.glob("findings/*/finding.txt"))


def test_what_needs_slurm_is_done_only_with_it():
    names = {step.action for step in islice(plan(7), 2000)}
    assert not any(ACTIONS[name].needs_slurm for name in names)
    assert names == {name for name, action in ACTIONS.items() if not action.needs_slurm}
    assert {step.action for step in islice(plan(7, with_slurm=True), 2000)} == set(ACTIONS)


def test_a_seed_decides_every_choice():
    assert list(islice(plan(7), 200)) == list(islice(plan(7), 200))
    assert list(islice(plan(7), 200)) != list(islice(plan(8), 200))


def facts(*deeds: Deed, **changes: object) -> Facts:
    return Facts(deeds=frozenset(deeds), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "states"),
    [
        (facts(), set()),
        (facts(has_counted=True), {Status.COMPLETED}),
        (facts(crash_code=3), {Status.FAILED}),
        (facts(is_short=True), {Status.TIMEBOXED}),
        (facts(Deed.CTRL_C), {Status.STOPPED}),
        (facts(Deed.STOP, has_counted=True), {Status.STOPPED, Status.COMPLETED}),
        (facts(Deed.KILL_TRAINER), {Status.FAILED}),
        (facts(Deed.KILL_SUPERVISOR), {Status.INTERRUPTED}),
        (facts(Deed.KILL_SUPERVISOR, Deed.STOP, is_short=True, died_open=True), {Status.INTERRUPTED}),
        (facts(Deed.KILL_SUPERVISOR, Deed.STOP_NOW, died_open=True), {Status.STOPPED, Status.INTERRUPTED}),
        (facts(Deed.DAMAGED_INDEX), set()),
        (facts(Deed.STOP_NOW), {Status.STOPPED, Status.INTERRUPTED}),
        (facts(Deed.FULL_DISK), {Status.FAILED, Status.STOPPED}),
        (facts(Deed.READ_ONLY), {Status.FAILED}),
        (facts(Deed.READ_ONLY, is_on_slurm=True), {Status.FAILED, Status.INTERRUPTED}),
        (facts(Deed.KILL_NOTIFIER), set()),
    ],
)
def test_a_session_may_be_filed_as_what_was_done_to_it_permits(known: Facts, states: set[Status]):
    assert permitted(known) == states


def test_a_trainer_fails_with_the_code_that_ended_it():
    assert permitted_failures(facts(crash_code=3)) == {3}
    assert permitted_failures(facts(Deed.KILL_TRAINER)) == {137}
    assert permitted_failures(facts()) == set()


def test_a_full_disk_stops_a_session_only_with_that_reason():
    deeds = frozenset({Deed.FULL_DISK})
    assert is_explained(Status.STOPPED, "the disk has 1 MB left", deeds)
    assert not is_explained(Status.STOPPED, "it was too hot", deeds)
    assert not is_explained(Status.FAILED, None, deeds)
    assert is_explained(Status.STOPPED, None, deeds | {Deed.STOP})


def test_a_command_that_a_fault_ends_names_it():
    assert names_fault("backprop: cannot write to the home folder /h: Read-only file system.")
    assert names_fault("backprop: the index was damaged and will be rebuilt; try again.")
    assert not names_fault("backprop: the run is not there")


def test_nobody_is_told_twice_and_of_a_clean_end_once():
    assert list(notices_permitted(2, last_is_clean=True)) == [1, 2]
    assert list(notices_permitted(2, last_is_clean=False)) == [0, 1, 2]
    assert list(notices_permitted(0, last_is_clean=True)) == [0]


def test_a_command_that_followed_a_job_exits_with_what_a_session_came_to():
    assert permitted_exit_codes_on_slurm((), frozenset()) == {0, 75}
    assert permitted_exit_codes_on_slurm((), frozenset({Deed.KILL_SUPERVISOR})) == {0, 75, 137}
    assert permitted_exit_codes_on_slurm((), frozenset({Deed.READ_ONLY})) == {0, 2, 75}


def test_a_run_without_a_session_was_stopped_before_it_or_killed():
    assert permitted_without_session(frozenset()) == set()
    assert permitted_without_session(frozenset({Deed.STOP})) == {Status.REFUSED}
    assert permitted_without_session(frozenset({Deed.KILL_SUPERVISOR})) == {Status.INTERRUPTED}


@pytest.mark.parametrize(
    ("status", "trainer_code", "deeds", "codes"),
    [
        (Status.COMPLETED, 0, (), {0}),
        (Status.FAILED, 3, (), {3}),
        (Status.STOPPED, 0, (Deed.CTRL_C,), {0, 130}),
        (Status.STOPPED, 137, (Deed.STOP,), {137}),
        (Status.TIMEBOXED, 0, (), {0}),
        (None, None, (), {75}),
        (Status.INTERRUPTED, None, (), set()),
        (Status.COMPLETED, 0, (Deed.FULL_DISK,), {0}),
        (None, None, (Deed.FULL_DISK,), {2, 75}),
    ],
)
def test_a_front_exits_with_what_its_last_session_came_to(
    status: Status | None, trainer_code: int | None, deeds: tuple[Deed, ...], codes: set[int]
):
    assert permitted_exit_codes(status, trainer_code, frozenset(deeds)) == codes


def test_a_session_begins_from_the_newest_whole_checkpoint_before_it():
    reported = [(1, "a.json"), (1, "b.json"), (2, "c-torn.json"), (3, "d.json")]
    assert expected_checkpoint(reported, {}, 1) is None
    assert expected_checkpoint(reported, {}, 2) == "b.json"
    assert expected_checkpoint(reported, {}, 3) == "b.json"
    assert expected_checkpoint(reported, {"b.json": 3}, 2) == "b.json"
    assert expected_checkpoint(reported, {"b.json": 3}, 3) == "a.json"
    assert expected_checkpoint(reported, {}, 4) == "d.json"


def test_only_whole_lines_count(tmp_path: Path):
    path = tmp_path / "session-1.out"
    path.write_text(
        '{"event": "started", "from": 0, "path": null}\n{"step": 1, "value": 3}\nplain\n{"step": 2, "va{"step": 3}\n'
        '{"event": "checkpoint_saved", "path": "c.json", "step": 1}\n{"step": 4, "value": 12}'
        '{"event": "checkpoint_saved", "path": "d.json", "step": 4}\n'
    )
    output = read_output(path, tmp_path)
    assert (list(output.steps), list(output.values)) == ([1, 4], [3, 12])
    assert output.saved == [(1, str(tmp_path / "c.json")), (4, str(tmp_path / "d.json"))]
    assert not output.has_counted


@pytest.mark.timeout(2400)
@pytest.mark.nightly
def test_an_interrupted_trial_ends_all_that_it_started(tmp_path: Path):
    """SIGTERM in the middle: no process below it is left, and nothing is mounted."""
    trial = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", "--steps", "100000", "--seed", "3"],
        cwd=REPOSITORY, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with trial:
        assert trial.stdout is not None
        for line in trial.stdout:
            if "round 1:" in line:
                break
        trial.send_signal(signal.SIGTERM)
        trial.stdout.read()
    assert trial.returncode in {1, 130}
    marks = [path for path in Path("/proc").glob("[0-9]*/environ") if str(tmp_path).encode() in _read(path)]
    assert marks == []
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
