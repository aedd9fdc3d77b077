"""`backprop sweep` with real sessions of about a second: what it records, what it survives, what it refuses."""

import json
import os
import re
import signal
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from backprop.cli.commands import sweep as commands
from backprop.errors import BusyError
from backprop.lifecycle.sweep.journal import SweepJournal
from backprop.lifecycle.sweep.spec import find
from backprop.store.home import Home
from tests.conftest import HANG_S, Runs, recorded, wait_for

# its score depends on --lr alone, so that a sweep is the same however long a step takes. A stop comes between two steps:
# what is saved is reported
TRAIN = """
    import signal
    stops = {signal.SIGINT, signal.SIGTERM}
    options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    state, step = f"state-{os.environ['BACKPROP_RUN_ID']}", 0
    if os.environ.get("BACKPROP_RESUME_FROM"):
        with open(os.environ["BACKPROP_RESUME_FROM"]) as file:
            step = int(file.read())
    while step < int(options.get("--steps", 10_000)):
        step += 1
        signal.pthread_sigmask(signal.SIG_BLOCK, stops)
        with open(state + ".draft", "w") as file:
            file.write(str(step))
        os.replace(state + ".draft", state)
        score = float(options["--lr"]) + 0.01 * float(options.get("--seed", 0))
        saved, seen = {"event": "checkpoint_saved", "path": state, "step": step}, {"step": step, "score": score}
        print(json.dumps(saved), json.dumps(seen), sep="\\n", flush=True)  # at once: the step may end the session
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)
        time.sleep(0.02)
"""
# three steps; all but the first of the grid go on until there is a file, and complete when they are resumed then
GATED = TRAIN.replace(
    'step < int(options.get("--steps", 10_000))',
    'step < 3 or (options["--lr"] != "0.1" and not os.path.exists("go"))',
)
FORGETFUL = TRAIN.replace('os.environ.get("BACKPROP_RESUME_FROM")', "False")
SECOND = 1 / 60  # minutes
PARAM = ("--param", "lr=0.1..0.9")
UNHURRIED = ("--rung", 1, "--budget", 40)  # for scripts that end by themselves: the clock decides nothing
IN_STEPS = (*UNHURRIED, "--rung-steps", 4)  # for those that do not
OPTIONS = ("--goal", "max:score", "--sampler", "random", "--rung", SECOND, "--eta", 2, "--max-rungs", 3, "-p", 2)


def sweep(runs: Runs, *words: object, script: str = TRAIN, seconds: float = 8) -> "subprocess.CompletedProcess[str]":
    """Start a sweep called `s`, and run it to its end."""
    runs.script(script)
    param = () if "--param" in words else PARAM
    return runs.call("sweep", "train.py", "-n", "s", *OPTIONS, *param, "--budget", seconds * SECOND, *words)


def journal_path(runs: Runs) -> Path:
    """Of the only sweep."""
    return next(runs.home.glob("sweeps/*/journal.jsonl"))


def entries(runs: Runs, *events: str) -> list[dict]:
    """The entries of the only sweep, of these events, as far as they are whole."""
    lines = journal_path(runs).read_text().split("\n")[:-1]
    found = [json.loads(line) for line in lines]
    return [entry for entry in found if not events or entry["event"] in events]


def status(runs: Runs) -> dict:
    done = runs.call("sweep", "status", "s", "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.encode()) <= 1500
    return json.loads(done.stdout)


def documents(runs: Runs) -> dict[int, dict]:
    """The runs by the number of their trial."""
    found = json.loads(runs.call("list", "--json", "--limit", 0).stdout)
    assert len({run["sweep"]["trial"] for run in found}) == len(found)
    return {run["sweep"]["trial"]: run for run in found}


def check_whole(runs: Runs) -> None:
    """Nothing is lost or doubled: a run for each trial, a session for each request, all of them in the budget."""
    asked = {entry["trial"]: entry for entry in entries(runs, "asked")}
    found = documents(runs)
    assert {number: run["id"] for number, run in found.items()} == {n: entry["run_id"] for n, entry in asked.items()}
    assert sorted(asked) == list(range(len(asked))) == [entry["trial"] for entry in entries(runs, "asked")]
    requested = [
        entry["run_id"] if entry["event"] == "asked" else entry["request_id"]
        for entry in entries(runs, "asked", "promoted", "continued")
    ]
    sessions = [session["request_id"] for run in found.values() for session in run["sessions"]]
    assert sorted(sessions) == sorted(set(sessions))
    assert set(sessions) <= set(requested)
    ended = entries(runs, "ended")
    rungs = [(entry["trial"], entry["rung"]) for entry in ended]
    assert len(set(rungs)) == len(rungs)


def test_a_sweep_halves_within_its_budget(runs: Runs):
    """Promoted trials go on from their checkpoints, the best wins, and every run belongs to the sweep."""
    done = sweep(runs, "--rung", 4 * SECOND, seconds=24)  # the first trial starts twice in its first rung
    assert done.returncode == 0, done.stderr
    state = status(runs)
    assert (state["state"], state["goal"], state["exit_code"]) == ("finished", "max:score", 0)
    assert state["trials"] >= 2
    found = documents(runs)
    best = max(found.values(), key=lambda run: run["params"]["lr"])
    assert state["best"]["value"] == pytest.approx(max(e["value"] for e in entries(runs, "ended")))
    assert {run["group"] for run in found.values()} == {"s"}
    assert f"backprop resume {state['best']['run']}" in done.stderr
    promoted = entries(runs, "promoted")
    assert promoted
    for entry in promoted:
        run = found[entry["trial"]]
        session = next(one for one in run["sessions"] if one["request_id"] == entry["request_id"])
        assert session["resumed_from"] is not None
    given = sum(entry["timebox_s"] for entry in entries(runs, "asked", "promoted", "continued"))
    assert given <= 24 + 1e-6
    assert state["spent_s"] == pytest.approx(sum(run["elapsed_s"] for run in found.values()), abs=0.01)
    assert runs.call("sweep", "best", "s").stdout.split()[0] == "--lr"
    assert runs.call("sweep", "wait", "s").returncode == 0
    assert best["name"].startswith("s-")
    check_whole(runs)


def test_the_first_trial_must_continue_from_its_checkpoint(runs: Runs):
    """Exit code 78 before a second trial costs anything, with what to do. With --from-scratch it is no condition."""
    done = sweep(runs, *IN_STEPS, script=FORGETFUL)
    assert done.returncode == 78
    assert "--from-scratch" in done.stderr
    assert len(documents(runs)) == 1
    assert (status(runs)["state"], status(runs)["exit_code"]) == ("failed", 78)


def test_reading_a_checkpoint_is_not_continuing_from_it(runs: Runs):
    """It starts over, and saves over the checkpoint."""
    done = sweep(runs, *IN_STEPS, script=TRAIN.replace("step = int(file.read())", "file.read()"))
    assert (done.returncode, "it began at step 1 again" in done.stderr) == (78, True), done.stderr


def test_without_a_checkpoint_the_first_trial_cannot_continue(runs: Runs):
    """The strict resume starts nothing."""
    done = sweep(runs, *IN_STEPS, script=TRAIN.replace("checkpoint_saved", "note"))
    assert (done.returncode, "no valid checkpoint" in done.stderr) == (78, True)
    [run] = documents(runs).values()
    assert len(run["sessions"]) == 1
    assert status(runs)["spent_s"] == pytest.approx(run["elapsed_s"], abs=0.01)  # also when it is resumed
    text = runs.call("sweep", "status", "s").stdout
    assert ("no trial has finished a rung" in text, "no valid checkpoint" in text) == (True, True)


def test_from_scratch_each_rung_trains_anew(runs: Runs):
    """No checkpoint is offered, and the budget counts it."""
    param = ("--sampler", "grid", "--param", "lr=0.1,0.3,0.5,0.9")
    done = sweep(runs, *IN_STEPS, *param, "--from-scratch", script=FORGETFUL)
    assert done.returncode == 0, done.stderr
    assert entries(runs, "promoted")
    sessions = [session for run in documents(runs).values() for session in run["sessions"]]
    assert {session["offered"] for session in sessions} == {None}
    assert not entries(runs, "checked")
    check_whole(runs)


def test_rungs_in_steps_end_at_their_steps(runs: Runs):
    """However fast a trial is: each is compared by what it had come to at the step, and goes on from its checkpoint."""
    script = TRAIN.replace("score = float(options", "score = step / 1000 + float(options").replace(
        "time.sleep(0.02)", "time.sleep(0.005 if float(options['--lr']) < 0.5 else 0.02)"
    )
    words = ("--rung-steps", 10, "--param", "lr=0.2,0.3,0.6,0.7", "--sampler", "grid", *UNHURRIED)
    done = sweep(runs, *words, script=script)
    assert done.returncode == 0, done.stderr
    ended = entries(runs, "ended")
    assert {entry["rung"] for entry in ended} == {0, 1, 2}
    found = documents(runs)
    for entry in ended:
        reached = 10 * 2 ** entry["rung"]
        assert entry["value"] == pytest.approx(reached / 1000 + found[entry["trial"]]["params"]["lr"])
    assert "rungs end at step 10, 20, 40\n" in done.stderr
    sessions = [session for run in found.values() for session in run["sessions"]]
    assert {session["stopped_by"] for session in sessions} == {"step"}
    check_whole(runs)


def test_long_starts_are_told(runs: Runs):
    """Once while it searches, and at its end: what they took of the first rungs, and what to do."""
    script = "    time.sleep(2)\n" + TRAIN.lstrip("\n")
    words = (*IN_STEPS, "--sampler", "grid", "--param", "lr=0.1,0.2,0.3,0.4", "--max-rungs", 1)
    done = sweep(runs, *words, script=script)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("with more --rung-steps, less of the budget goes into starts") == 2, done.stderr
    assert 0.5 < status(runs)["start_share"] <= 1


def test_the_same_error_three_times_stops_the_sweep(runs: Runs):
    """Exit code 66, with the error."""
    done = sweep(runs, *UNHURRIED, script="raise ValueError('no such data')")
    assert (done.returncode, "ValueError: no such data" in done.stderr) == (66, True)
    assert len(documents(runs)) == 3


def test_a_goal_that_no_trial_reports_stops_the_sweep(runs: Runs):
    """Exit code 65, with the name."""
    done = sweep(runs, *IN_STEPS, "--goal", "max:accuracy")
    assert (done.returncode, "'accuracy'" in done.stderr) == (65, True)


def test_trials_that_complete_are_not_resumed(finished: Runs):
    """A grid ends when all of it has completed; a script that needs no second session passes the check."""
    found = documents(finished)
    assert [len(run["sessions"]) for run in found.values()] == [1, 1, 1]
    assert finished.call("sweep", "best", "s").stdout == "--lr 0.5\n"
    assert status(finished)["reason"] == "every trial was trained as far as possible"


def test_a_failed_trial_is_worst(runs: Runs):
    """And does not end the sweep."""
    failing = TRAIN.replace("while step", "if options['--lr'] == '0.9':\n        raise ValueError(9)\n    while step")
    done = sweep(runs, "--sampler", "grid", "--param", "lr=0.9,0.5,0.3", *UNHURRIED, "--", "--steps", 3, script=failing)
    assert done.returncode == 0, done.stderr
    assert (status(runs)["failed"], runs.call("sweep", "best", "s").stdout) == (1, "--lr 0.5\n")


def test_the_best_are_repeated_on_common_seeds(runs: Runs):
    """Within the budget, and `best` ranks by their mean."""
    words = ("--seed-param", "seed", "--confirm", "2x2", "--sampler", "grid", "--param", "lr=0.1,0.5,0.3")
    done = sweep(runs, *words, *UNHURRIED, "--", "--steps", 3)
    assert done.returncode == 0, done.stderr
    repeats = [entry for entry in entries(runs, "asked") if entry["repeats"] is not None]
    assert sorted((entry["params"]["lr"], entry["seed"]) for entry in repeats) == [
        ("0.3", 1), ("0.3", 2), ("0.5", 1), ("0.5", 2)
    ]  # fmt: skip
    best = json.loads(runs.call("sweep", "best", "s", "--json").stdout)
    assert (best["params"], best["n"], best["mean"]) == ({"lr": "0.5"}, 2, pytest.approx(0.515))
    assert best["ties"] == [2]  # two seeds that differ alike prove nothing, as `verdict` has it


@recorded
def stopped(runs: Runs) -> None:
    """A sweep that was stopped when one trial had completed, two trained, and one more was to come."""
    runs.script(GATED)
    param = ("--sampler", "grid", "--param", "lr=0.1,0.3,0.5,0.9")
    done = runs.call("sweep", "train.py", "-n", "s", *OPTIONS, *param, *UNHURRIED, "-d")
    assert (done.returncode, done.stdout) == (0, "s\n"), done.stderr
    wait_for(lambda: len([run for run in documents(runs).values() if run["last_step"]]) == 3)
    assert runs.call("sweep", "resume", "s").returncode == 75
    assert runs.call("sweep", "stop", "s").returncode == 0
    assert runs.call("sweep", "wait", "s").returncode == 75


@recorded
def finished(runs: Runs) -> None:
    """A grid of three trials, all of them completed."""
    done = sweep(runs, "--sampler", "grid", "--param", "lr=0.1,0.5,0.3", *UNHURRIED, "--", "--steps", 3)
    assert done.returncode == 0, done.stderr


def test_a_stopped_sweep_goes_on(stopped: Runs):
    """Its trials end gracefully with it, a tick does nothing, and `resume` finishes their rungs."""
    assert status(stopped)["state"] == "stopped"
    assert [run["status"] for _, run in sorted(documents(stopped).items())] == ["completed", "stopped", "stopped"]
    assert stopped.call("sweep", "wait", "s").returncode == 75
    before = len(entries(stopped))
    assert stopped.call("sweep", "tick", "s").returncode == 0
    assert len(entries(stopped)) == before
    done = go_on(stopped)
    assert done.returncode == 0, done.stderr
    check_whole(stopped)
    assert status(stopped)["state"] == "finished"
    assert stopped.call("sweep", "resume", "s").returncode == 0


def go_on(runs: Runs) -> "subprocess.CompletedProcess[str]":
    """Resume the sweep; what its trials wait for has come."""
    (runs.work / "go").touch()
    return runs.call("sweep", "resume", "s")


def append(runs: Runs, **entry: object) -> None:
    """What a sweeper writes last before it is killed."""
    with journal_path(runs).open("a") as file:
        file.write(json.dumps({"at": "2026-01-01T00:00:00Z", **entry}) + "\n")


def test_a_run_that_was_asked_for_is_made(stopped: Runs):
    """The sweeper was killed between the entry and the run."""
    number = len(entries(stopped, "asked"))
    append(stopped, event="asked", trial=number, run_id="lost", params={"lr": "0.95"}, source="random", timebox_s=60.0)
    done = go_on(stopped)
    assert done.returncode == 0, done.stderr
    check_whole(stopped)
    assert documents(stopped)[number]["id"] == "lost"
    assert status(stopped)["best"]["run"] == "lost"


def test_a_trial_whose_run_was_removed_is_counted_once(stopped: Runs):
    """It has no value, it is not trained again, and the sweep goes on."""
    newest = entries(stopped, "asked")[-1]
    assert newest["trial"] not in {entry["trial"] for entry in entries(stopped, "ended")}
    assert stopped.call("rm", newest["run_id"], "--yes").returncode == 0
    done = go_on(stopped)
    assert done.returncode == 0, done.stderr
    assert (status(stopped)["state"], status(stopped)["failed"]) == ("finished", 1)
    [end] = [entry for entry in entries(stopped, "ended") if entry["trial"] == newest["trial"]]
    assert (end["value"], end["reason"]) == (None, "its run was removed")
    assert newest["trial"] not in documents(stopped)


def test_a_run_that_was_made_is_adopted(stopped: Runs):
    """The sweeper was killed after the run was made, and its supervisor before the session."""
    number = len(entries(stopped, "asked"))
    append(stopped, event="asked", trial=number, run_id="made", params={"lr": "0.95"}, source="random", timebox_s=1.0)
    sweep_id = journal_path(stopped).parent.name
    words = ("--run-id", "made", "--request-id", "made", "--sweep-trial", f"{sweep_id}:{number}", "--group", "s")
    assert stopped.call("run", "train.py", *words, "-m", SECOND, "--", "--lr", "0.95").returncode == 0
    done = go_on(stopped)
    assert done.returncode == 0, done.stderr
    check_whole(stopped)


def test_a_promotion_that_was_written_is_done(runs: Runs):
    """The sweeper was killed between the entry and the resume, or after it: one session follows."""
    assert sweep(runs, *IN_STEPS, "--sampler", "grid", "--param", "lr=0.1,0.3", "--max-rungs", 1).returncode == 0
    lines = [line for line in journal_path(runs).read_text().splitlines() if '"finished"' not in line]
    journal_path(runs).write_text("\n".join(lines) + "\n")
    run_id = documents(runs)[0]["id"]
    what = {"trial": 0, "rung": 1, "request_id": f"{run_id}-9", "timebox_s": 60.0, "until_step": 8}
    append(runs, event="promoted", reason="killed here", **what)
    words = ("-d", "--strict", "--request-id", f"{run_id}-9", "-m", 1, "--until-step", 8)
    assert runs.call("resume", run_id, *words).returncode == 0
    done = runs.call("sweep", "resume", "s")
    assert done.returncode == 0, done.stderr
    check_whole(runs)
    assert [entry["rung"] for entry in entries(runs, "ended") if entry["trial"] == 0] == [0, 1]


def test_a_sweeper_that_is_killed_loses_nothing(runs: Runs):
    """At some instants, one after the other: the trials end their rungs, and the next sweeper goes on."""
    runs.script(TRAIN)
    param = ("--sampler", "grid", "--param", "lr=0.1,0.3,0.5,0.9")
    process = runs.start("sweep", "train.py", "-n", "s", *OPTIONS, *param, *IN_STEPS)
    for count in (2, 5, 8, 11, 14):
        wait_for(partial(has_come_to, runs, count, process))
        process.kill()
        process.wait()
        process = runs.start("sweep", "resume", "s")
    assert process.wait() == 0
    check_whole(runs)
    assert status(runs)["state"] == "finished"


def has_come_to(runs: Runs, count: int, process: "subprocess.Popen[bytes]") -> bool:
    """Whether the journal has so many entries, or the sweeper has ended."""
    found = list(runs.home.glob("sweeps/*/journal.jsonl"))
    return process.poll() is not None or (bool(found) and found[0].read_text().count("\n") >= count)


def test_people_and_programs_propose_parameters(stopped: Runs):
    """What is added is tried next; what the sweep does not search is refused."""
    asked = stopped.call("sweep", "ask", "s", "--json")
    assert set(json.loads(asked.stdout)["params"]) == {"lr"}
    for words in (("lr=2",), ("lr=high",), ("lr=0.5", "hidden=3"), ("momentum=0.9",), ("lr=0.5", "lr=0.6"), ("lr",)):
        assert stopped.call("sweep", "add", "s", *words).returncode == 2
    assert stopped.call("sweep", "add", "s", "lr=0.9", "--note", "as in the paper").returncode == 0
    assert go_on(stopped).returncode == 0
    added = [entry for entry in entries(stopped, "asked") if entry["source"] == "added"]
    assert [entry["params"] for entry in added] == [{"lr": "0.9"}]
    assert [note["text"] for note in documents(stopped)[added[0]["trial"]]["notes"]] == ["as in the paper"]
    assert status(stopped)["best"]["params"] == {"lr": "0.9"}


@pytest.mark.parametrize(
    "words",
    [
        ("--goal", "score"),
        ("--param", "lr=3"),
        ("--param", "lr=1..2", "--param", "lr=1..2"),
        ("--sampler", "grid", "--param", "lr=0.1..0.2"),
        ("--confirm", "3x5"),
        ("--confirm", "3", "--seed-param", "seed"),
        ("--until", "25:00"),
        ("--seed-param", "lr"),
        ("-n", "s" * 101),
        ("--cpus", 2),
        ("--rung", "100"),
        ("--rung", "nan"),
        ("--budget", "nan"),
        ("--eta", "nan"),
    ],
)
def test_what_cannot_be_searched_starts_nothing(runs: Runs, words: tuple[object, ...]):
    """With what is expected."""
    done = sweep(runs, *words)
    assert (done.returncode, done.stderr.startswith("backprop: ")) == (2, True), done.stderr
    assert not list(runs.home.glob("sweeps/*")) + list(runs.home.glob("runs/*"))


def test_unknown_sweeps_and_scripts(runs: Runs):
    """Exit codes 3 and 2."""
    assert runs.call("sweep", "status", "nothing").returncode == 3
    assert runs.call("sweep", "stauts", *OPTIONS, *PARAM, "--budget", 1).returncode == 2


def test_a_sweep_ends_by_the_clock(stopped: Runs):
    """No session starts after --until; what was asked for before ends."""
    path = journal_path(stopped).with_name("spec.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "until": "2026-01-01T00:00:00Z"}))
    before = len(entries(stopped, "asked", "promoted"))
    done = go_on(stopped)
    assert done.returncode == 0, done.stderr
    assert len(entries(stopped, "asked", "promoted")) == before
    assert status(stopped)["reason"].startswith("no session would end before ")
    check_whole(stopped)


def test_what_ends_a_sweeper_in_the_background_is_said(runs: Runs):
    """At once, by the command that started it, with what it said."""
    assert sweep(runs, *UNHURRIED, script="raise ValueError('no such data')").returncode == 66
    (journal_path(runs).parent / "sweeper.log").mkdir()
    done = runs.call("sweep", "resume", "s", "-d")
    assert (done.returncode, "sweeper.log" in done.stderr, " within 30 s" in done.stderr) == (2, True, False), (
        done.stderr
    )


def test_who_comes_second_is_told_so_even_if_the_first_is_gone_by_then(runs: Runs, monkeypatch: pytest.MonkeyPatch):
    """`sweep resume -d` exits with 75, not as after an error."""
    assert sweep(runs, *UNHURRIED, script="raise ValueError('no such data')").returncode == 66
    home = Home(runs.home)
    spec = find(home, "s")
    with closing(SweepJournal(journal_path(runs))) as first:
        assert first.own()
        read_to_end = commands._read_to_end

        def and_the_first_goes(fd: int, limit_s: float) -> bytes | None:
            answer = read_to_end(fd, limit_s)
            first.unlock()
            return answer

        monkeypatch.setattr(commands, "_read_to_end", and_the_first_goes)
        with pytest.raises(BusyError, match="^sweep s is run by another process"):
            commands._start_in_background(home, spec)


def test_a_stop_holds_where_a_tick_was_at_work(runs: Runs):
    """Whoever has the sweep just then may end without stopping the trials: then `stop` does that itself."""
    runs.script(GATED)
    param = ("--sampler", "grid", "--param", "lr=0.3,0.5,0.9")
    assert runs.call("sweep", "train.py", "-n", "s", *OPTIONS, *param, *UNHURRIED, "-d").returncode == 0
    wait_for(lambda: any(run["last_step"] for run in documents(runs).values()))
    os.kill(entries(runs, "began")[-1]["pid"], signal.SIGKILL)
    with closing(SweepJournal(journal_path(runs))) as ours:
        wait_for(ours.own)
        stopping = runs.start("sweep", "stop", "s")
        wait_for(lambda: entries(runs, "stop_asked"))
    assert stopping.wait(HANG_S) == 0
    assert [entry["event"] for entry in entries(runs, "stop_asked", "stopped")] == ["stop_asked", "stopped"]
    assert {run["status"] for run in documents(runs).values()} == {"stopped"}


def test_a_sweep_is_removed_without_its_runs(runs: Runs):
    """While no trial is active; then its name is free."""
    runs.script(TRAIN)
    words = ("sweep", "train.py", "-n", "s", *OPTIONS, *PARAM, *IN_STEPS, "-d")
    assert runs.call(*words).returncode == 0
    assert runs.call("sweep", "rm", "s", "--yes").returncode == 75
    assert runs.call("sweep", "stop", "s").returncode == 0
    assert runs.call("sweep", "rm", "s").returncode == 2
    count = len(documents(runs))
    assert runs.call("sweep", "rm", "s", "--yes").returncode == 0
    assert (runs.call("sweep", "status", "s").returncode, len(documents(runs))) == (3, count)
    assert not list(runs.home.glob("sweeps/*"))


def test_nobody_is_notified_of_rungs(runs: Runs):
    """A sweep has many of them; `sweep wait` waits for its end."""
    (runs.work / "backprop.toml").write_text('notify = [{ command = ["true"] }]')
    done = sweep(runs, "--sampler", "grid", "--param", "lr=0.1,0.5", *UNHURRIED, "--", "--steps", 3)
    assert done.returncode == 0, done.stderr
    assert len(list(runs.home.glob("runs/*/run.json"))) == 2
    assert not list(runs.home.glob("runs/*/notify.json"))


def test_a_sweep_has_one_driver_on_all_machines(finished: Runs):
    """By its heartbeat, as its lock may not be visible here; requests are left for it in files of their own."""
    path = journal_path(finished)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [{**line, "host": "elsewhere"} if line["event"] == "began" else line for line in lines[:-1]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert status(finished)["state"] == "running"
    assert finished.call("sweep", "resume", "s").returncode == 75
    size = path.stat().st_size
    assert finished.call("sweep", "add", "s", "lr=0.5").returncode == 0
    assert (path.stat().st_size, len(list(path.with_name("asked").iterdir()))) == (size, 1)
    os.utime(path, (0, 0))
    assert status(finished)["state"] == "interrupted"
    assert finished.call("sweep", "resume", "s").returncode == 0
    assert [entry["source"] for entry in entries(finished, "asked")] == ["grid", "grid", "grid", "added"]
    assert not list(path.with_name("asked").iterdir())


def test_what_cannot_be_read_is_said_in_a_line(finished: Runs):
    """A sweep whose files are damaged or gone: no command begins it anew."""
    folder = journal_path(finished).parent
    for path in (folder / "journal.jsonl", folder / "spec.json"):
        whole = path.read_bytes()
        for damaged in (
            b"\0" * 4096 + b"\n",
            whole.replace(b'"trial":0', b'"trial":9').replace(b'"goal"', b'"gaol"'),
            None,
        ):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            for words in (
                ("status",),
                ("resume",),
                ("resume", "-d"),
                ("tick",),
                ("stop",),
                ("add", "lr=0.5"),
                ("wait",),
            ):
                done = finished.call("sweep", words[0], "s", *words[1:])
                expected = 3 if damaged is None and path.name == "spec.json" else 2
                assert (done.returncode, done.stderr.count("\n")) == (expected, 1), (words, done.stderr)
            assert path.exists() == (damaged is not None)
            path.write_bytes(whole)
    assert status(finished)["state"] == "finished"


def test_a_sweep_that_is_over_takes_no_requests(finished: Runs):
    """Nobody is told that it goes on."""
    before = len(entries(finished))
    assert finished.call("sweep", "add", "s", "lr=0.5").returncode == 2
    for words in (("stop", "s"), ("resume", "s", "-d")):
        done = finished.call("sweep", *words)
        assert (done.returncode, "has ended already" in done.stderr) == (0, True), done.stderr
    assert len(entries(finished)) == before


ARGPARSE = TRAIN.replace(
    "options = dict(zip(sys.argv[1::2], sys.argv[2::2]))",
    """import argparse
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float)
    parser.add_argument("--mode")
    parser.add_argument("--seed", default=0)
    given = parser.parse_args()
    options = {"--lr": given.lr, "--seed": given.seed, "--steps": 3}""",
)


def test_values_reach_the_script_as_they_are(runs: Runs):
    """Also those that look like an option, or have spaces; and `best` prints them for a shell."""
    values = ("--param", "lr=-1e-05,-2e-05", "--param", "mode=--fast,a b")
    done = sweep(runs, "--sampler", "grid", *values, *UNHURRIED, "--seed-param", "--seed", script=ARGPARSE)
    assert done.returncode == 0, done.stderr
    found = {(run["params"]["lr"], run["params"]["mode"]) for run in documents(runs).values()}
    assert found == {(lr, mode) for lr in (-1e-05, -2e-05) for mode in ("--fast", "a b")}
    assert runs.call("sweep", "best", "s").stdout == "--lr=-1e-05 --mode=--fast\n"


def test_a_metric_without_a_value_ends_with_its_code(runs: Runs):
    """Each trial reports it, and it is never finite."""
    script = TRAIN.replace('"score": score', '"score": float("nan")')
    done = sweep(
        runs, "--sampler", "grid", "--param", "lr=0.1,0.5,0.3,0.2", *UNHURRIED, "--", "--steps", 3, script=script
    )
    assert (done.returncode, "no trial has a value of 'score'" in done.stderr) == (65, True), done.stderr
    assert len(documents(runs)) == 4


def test_what_was_understood_is_said_at_the_start(runs: Runs):
    """The day of --until, that a range is of integers, and what a rung is."""
    words = ("--sampler", "grid", "--param", "lr=1..2", "--until", "00:00", *UNHURRIED, "--", "--steps", 3)
    done = sweep(runs, *words)
    assert re.search(r"within 40 min, until \d{4}-\d\d-\d\d 00:00, grid\n", done.stderr), done.stderr
    assert "lr: integers from 1 to 2; for numbers: 1.0.." in done.stderr
    assert "rungs last 1, 2, 4 min, which favours small and fast models; if the script reports steps, " in done.stderr


def test_an_edited_script_is_told_of(stopped: Runs):
    """The trials that follow execute the new one."""
    assert not status(stopped)["script_changed"]
    stopped.script(GATED + "    # edited\n")
    done = go_on(stopped)
    assert done.returncode == 0, done.stderr
    assert "the script was changed meanwhile" in done.stderr
    assert status(stopped)["script_changed"]
