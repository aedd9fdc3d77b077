"""What a script gets that says `import backprop`, in real runs; no framework but NumPy."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from backprop.trainer import checkpoint_io, checkpoints
from tests.conftest import HANG_S, OWN_CLOCK, Runs, wait_for

# Trains weights with all of NumPy's and Python's randomness, in an order that is drawn anew in each epoch. Waits at the
# steps that it is given for the stop; writes its weights down when it has come to its end.
NUMPY = """
    import random
    import numpy as np
    import backprop

    random.seed(1)
    np.random.seed(2)
    rng = np.random.default_rng(3)
    weights = np.zeros(7)
    state = {"weights": weights, "nested": {"rng": rng, "sums": []}, "seen": 0}

    def batches():
        for index in rng.permutation(7):
            yield int(index), random.random()

    cuts = [int(word) for word in sys.argv[1:]]
    for epoch, (index, factor) in backprop.loop(batches, epochs=4, state=state):
        weights[index] += rng.normal() * factor + np.random.rand() + epoch
        state["seen"] += 1
        state["nested"]["sums"].append(float(weights.sum()))
        backprop.log(loss=weights.sum())
        if state["seen"] in cuts:
            open(f"at-{state['seen']}", "w").close()
            while not backprop.should_stop():
                time.sleep(0.005)
    if not backprop.should_stop():
        json.dump([weights.tolist(), state["nested"]["sums"], rng.random(), random.random()], open("result.json", "w"))
"""


def bare(script: Path, *words: str) -> str:
    """What a script prints without Backprop."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BACKPROP_")}
    command = [sys.executable, str(script), *words]
    done = subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(runs: Runs, run_id: str = "r", session: int = 1) -> list[dict]:
    """What our code inside the trainer told."""
    return [json.loads(line) for line in (runs.rundir(run_id) / f"session-{session}.events").read_text().splitlines()]


def saved_steps(runs: Runs, run_id: str = "r") -> list[int]:
    return [checkpoint["step"] for checkpoint in runs.document(run_id)["checkpoints"]]


# for the beginning of a script: the time of a session with OWN_CLOCK, in seconds
SET_CLOCK = """
        def set_clock(seconds):
            with open("clock.draft", "w") as file:
                file.write(str(seconds))
            os.replace("clock.draft", "clock")
"""


def run(runs: Runs, text: str, *words: object, code: int = 0, patch: str = "") -> str:
    """What a script prints in a run of its own; its id is r."""
    runs.script(text)
    words = "run", "--run-id", "r", *words, "train.py"
    done = runs.call_patched(patch, *words) if patch else runs.call(*words)
    assert done.returncode == code, done.stderr
    return done.stdout


# -- loop


@pytest.mark.parametrize(("hooks", "cuts"), [("--hooks", [3, 9, 10, 14, 28]), ("--no-hooks", [9])])
def test_a_run_cut_anywhere_is_the_same_run(runs: Runs, hooks: str, cuts: list[int]):
    """Cut in an epoch, twice in the next, at an epoch's end and at the last step: same losses, weights and draws."""
    script = runs.script(NUMPY)
    bare(script)
    expected = (runs.work / "result.json").read_bytes()
    (runs.work / "result.json").unlink()
    running = runs.start("run", "--run-id", "r", hooks, "train.py", "--", *cuts)
    for cut in cuts:
        wait_for(lambda cut=cut: (runs.work / f"at-{cut}").exists())
        assert runs.call("stop", "r").returncode == 0
        assert running.wait(HANG_S) == 0
        assert not (runs.work / "result.json").exists()
        assert (runs.document("r")["status"], saved_steps(runs)[-1]) == ("stopped", cut)
        running = runs.start("resume", "r")
    assert running.wait(HANG_S) == 0
    assert (runs.work / "result.json").read_bytes() == expected
    losses = [
        (event["step"], event["loss"])
        for session in range(1, len(cuts) + 2)
        for event in told(runs, session=session)
        if "loss" in event
    ]
    assert losses == list(enumerate(json.loads(expected)[1], start=1))
    assert runs.document("r")["status"] == "completed"


def test_a_timebox_ends_the_loop_in_time_and_the_next_has_its_own(runs: Runs):
    """It is told early enough to save; the code after the loop learns that it was stopped; time begins anew."""
    out = run(
        runs,
        """
        import backprop
        began = backprop.progress()
        for epoch, batch in backprop.loop(range(10**6), state={}):
            time.sleep(0.01)
        print(began, backprop.progress(), backprop.should_stop(), backprop.time_left_s() < 4.8)
        """,
        "-m", 0.08,
    )  # fmt: skip
    began, ended, *rest = out.split()
    assert 0.0 < float(began) < 0.6 < float(ended) <= 1.0  # notice is given a third of the timebox before at most
    assert rest == ["True", "True"]
    document = runs.document("r")
    assert document["status"] == "timeboxed"
    assert document["exit_code"] == 0
    (step,) = saved_steps(runs)
    resumed = runs.call("resume", "r")
    assert float(resumed.stdout.split()[0]) < 0.6
    assert saved_steps(runs)[-1] > step


def test_the_interrupt_that_follows_a_stop_breaks_nothing_off(runs: Runs):
    """The supervisor sends SIGINT to who does not leave at once: what is done after the loop is done nevertheless."""
    runs.script(
        """
        import backprop
        for epoch, batch in backprop.loop(range(10**6), state={}):
            time.sleep(0.01)
            open("training", "w").close()
        while '"SIGINT"' not in open(os.environ["BACKPROP_RUN_DIR"] + "/journal.jsonl").read():
            time.sleep(0.01)
        print("went on")
        """
    )
    running = runs.start("run", "--run-id", "r", "train.py")
    wait_for((runs.work / "training").exists)
    assert runs.call("stop", "r").returncode == 0
    assert running.wait(HANG_S) == 0
    assert runs.output("r") == "went on\n"
    assert runs.document("r")["exit_code"] == 0
    assert "SIGINT" in [entry["signal"] for entry in runs.journal("r") if "signal" in entry]


def test_a_completed_run_can_have_more_epochs(runs: Runs):
    """The end of a loop is saved, so that a longer one goes on from it as if it had always been longer."""
    script = runs.script(NUMPY)
    bare(script)
    expected = (runs.work / "result.json").read_bytes()
    text = script.read_text()
    script.write_text(text.replace("epochs=4", "epochs=2"))
    assert runs.call("run", "--run-id", "r", "train.py").returncode == 0
    script.write_text(text)
    assert runs.call("resume", "r", "--again").returncode == 0
    assert (runs.work / "result.json").read_bytes() == expected
    assert saved_steps(runs) == [14, 28]


def test_a_stop_while_batches_are_dropped_is_heard(runs: Runs):
    """On the way to where it was, nothing new is to be saved: it just ends, and the next session starts as this one."""
    run(
        runs,
        """
        import backprop

        def batches():
            for batch in range(8):
                if batch == 2 and backprop.resume_from() and not os.path.exists("dropping"):
                    open("dropping", "w").close()
                    while not backprop.should_stop():
                        time.sleep(0.01)
                yield batch

        for _, batch in backprop.loop(batches, state={}):
            print(batch, flush=True)
            if batch == 4 and not backprop.resume_from():
                os.kill(os.getpid(), signal.SIGINT)
        """,
    )
    resumed = runs.start("resume", "r", "--again")
    wait_for((runs.work / "dropping").exists)
    assert runs.call("stop", "r").returncode == 0
    assert resumed.wait(HANG_S) == 0
    assert (runs.document("r")["status"], runs.output("r", 2), saved_steps(runs)) == ("stopped", "", [5])
    assert runs.call("resume", "r", "--again").stdout.split() == ["5", "6", "7"]
    assert saved_steps(runs) == [5, 8]


def test_a_checkpoint_is_saved_when_it_is_wanted(runs: Runs):
    """--checkpoint-every-minutes: at the end of the step, and once for each wish."""
    out = run(
        runs,
        SET_CLOCK + """
        import backprop
        for epoch, batch in backprop.loop(range(6), state={"a": 1}):
            if batch in {1, 3}:
                set_clock(20 * (batch + 1))
                while not backprop.checkpoint_due():
                    time.sleep(0.01)
            print(batch, backprop.checkpoint_due())
        """,
        "-c", 0.5, patch=OWN_CLOCK,
    )  # fmt: skip
    assert out.splitlines() == ["0 False", "1 True", "2 False", "3 True", "4 False", "5 False"]
    assert saved_steps(runs) == [2, 4, 6]


def test_batches_that_make_one_step_are_not_separated(runs: Runs):
    """accumulate: it saves and stops only where gradients are empty."""
    run(
        runs,
        """
        import backprop
        for epoch, batch in backprop.loop(range(40), state={}, accumulate=8):
            if batch == 9:
                os.kill(os.getpid(), signal.SIGINT)
        """,
    )
    assert saved_steps(runs) == [16]


def test_an_interrupt_waits_for_the_end_of_the_step(runs: Runs):
    """SIGINT breaks nothing off: the step is finished and saved, and the code after the loop runs."""
    out = run(
        runs,
        """
        import backprop
        for epoch, batch in backprop.loop(range(40), state={}):
            if batch == 4:
                os.kill(os.getpid(), signal.SIGINT)
                print("finished the step")
        print(batch, backprop.should_stop())
        for epoch, batch in backprop.loop(range(40), state={}):
            print("never")
        """,
    )
    assert out.splitlines() == ["finished the step", "4 True"]
    assert saved_steps(runs) == [5]


@pytest.mark.parametrize("leave", ["break", "raise KeyError", "backprop.loop"])
def test_leaving_the_loop_releases_everything(runs: Runs, leave: str):
    """By break, by an exception or at its end: signals do what they did, and another loop may begin."""
    out = run(
        runs,
        f"""
        import backprop
        try:
            for epoch, batch in backprop.loop(range(3), state={{}}):
                inside = signal.getsignal(signal.SIGINT)
                if batch == 1:
                    {leave}
        except KeyError:
            pass
        after = signal.getsignal(signal.SIGINT)
        print(inside is signal.default_int_handler, after is signal.default_int_handler)
        print(len(list(backprop.loop(range(3), state={{}}))))
        """,
    )
    assert out.splitlines() == ["False True", "3"]


def test_a_second_loop_goes_on_from_where_the_first_one_ended(runs: Runs):
    """Cut in the second, the first is not repeated, and what it left behind is there."""
    script = """
        import backprop
        first, second = {"sum": 0}, {"sum": 0}
        for _, batch in backprop.loop(range(5), state=first):
            first["sum"] += batch
            print("first", batch)
        for _, batch in backprop.loop(range(5), state=second):
            second["sum"] += batch * first["sum"]
            if batch == 2 and backprop.resume_from() is None:
                os.kill(os.getpid(), signal.SIGINT)
        if not backprop.should_stop():
            print(first["sum"], second["sum"])
    """
    assert run(runs, script).split() == ["first", "0", "first", "1", "first", "2", "first", "3", "first", "4"]
    assert saved_steps(runs) == [5, 8]
    assert runs.call("resume", "r", "--again").stdout.split() == ["10", "100"]
    assert saved_steps(runs) == [5, 8, 10]


def test_a_loop_within_a_loop_only_iterates(runs: Runs):
    """Steps, saves and stops are the outer one's."""
    out = run(
        runs,
        """
        import backprop
        for _, batch in backprop.loop(range(3), state={}):
            for _, inner in backprop.loop(range(2), epochs=2):
                backprop.log(inner=inner)
            print(batch)
        """,
    )
    assert out.split() == ["0", "1", "2"]
    assert [event["step"] for event in told(runs) if "inner" in event] == [1] * 4 + [2] * 4 + [3] * 4
    assert saved_steps(runs) == [3]


def test_what_cannot_be_saved_is_said_at_the_beginning(runs: Runs):
    """Not at the end of the timebox, when the work would be lost."""
    text = """
        import backprop
        for _ in backprop.loop(range(3), state={"good": 1, "bad": {"worse": lambda: 0}}):
            print("never")
    """
    assert run(runs, text, code=1) == ""
    assert "state['worse'] cannot be saved" in (runs.rundir("r") / "session-1.err").read_text()


def test_a_generator_can_be_gone_through_only_once(runs: Runs):
    """A second epoch of nothing would go unnoticed."""
    text = "import backprop\nnext(backprop.loop((x for x in range(3)), epochs=2))"
    assert run(runs, text, code=1) == ""
    assert "pass the function" in (runs.rundir("r") / "session-1.err").read_text()


def test_a_save_that_fails_on_the_way_does_not_end_training(runs: Runs):
    """It is said, and the next one may succeed."""
    out = run(
        runs,
        SET_CLOCK + """
        import backprop
        open("backprop-checkpoints", "w").close()  # where the folder should be
        for _, batch in backprop.loop(range(4), state={}):
            if batch == 1:
                set_clock(100)
                while not backprop.checkpoint_due():
                    time.sleep(0.01)
            if batch == 2:
                print(backprop.checkpoint_due())
                os.unlink("backprop-checkpoints")
        """,
        "-c", 1, patch=OWN_CLOCK,
    )  # fmt: skip
    assert out.split()[-1] == "False"
    assert "the checkpoint of step 2 was not saved" in (runs.rundir("r") / "session-1.err").read_text()
    assert saved_steps(runs)[-1] == 4


def test_a_checkpoint_of_somebody_else_is_left_alone(runs: Runs):
    """-r with a file that the loop did not write: the script may load it, the loop begins at its beginning."""
    text = """
        import backprop
        print(backprop.resume_from(), len(list(backprop.loop(range(3), state={}))))
    """
    run(runs, text)
    other = runs.work / "other.pkl"
    other.write_bytes(pickle.dumps({"weights": [1, 2]}))
    done = runs.call("resume", "r", "--again", "-r", other)
    assert done.stdout.split() == [str(other), "3"]
    assert "other.pkl was not saved by backprop.save" in (runs.rundir("r") / "session-2.err").read_text()


# -- the parts


def test_a_loop_of_ones_own_saves_stops_and_resumes(runs: Runs):
    """load, save, should_stop, checkpoint_due, by hand: the same run, too."""
    script = runs.script(
        """
        import random
        import numpy as np
        import backprop
        random.seed(1)
        weights = np.zeros(3)
        state = {"weights": weights, "total": 0.0}
        step = backprop.load(state)
        while step < 20:
            step += 1
            weights[step % 3] += random.random()
            state["total"] += random.random()
            backprop.log(step, total=state["total"])
            if str(step) in sys.argv[1:]:
                open("waiting", "w").close()
                while not backprop.should_stop():
                    time.sleep(0.005)
            if backprop.should_stop() or backprop.checkpoint_due():
                assert backprop.save(state, step) == os.path.abspath(f"backprop-checkpoints/r/step-{step}.pkl")
            if backprop.should_stop():
                sys.exit()
        json.dump([weights.tolist(), state["total"]], open("result.json", "w"))
        """
    )
    bare(script)
    expected = (runs.work / "result.json").read_bytes()
    (runs.work / "result.json").unlink()
    running = runs.start("run", "--run-id", "r", "train.py", "--", "13")
    wait_for((runs.work / "waiting").exists)
    wait_for(lambda: {"event": "listening"} in told(runs))
    assert runs.call("stop", "r").returncode == 0
    assert running.wait(HANG_S) == 0
    assert not (runs.work / "result.json").exists()
    assert runs.document("r")["exit_code"] == 0
    assert runs.call("resume", "r").returncode == 0
    assert (runs.work / "result.json").read_bytes() == expected
    assert saved_steps(runs) == [13]


def test_who_asks_is_not_interrupted(runs: Runs):
    """After should_stop was called, a first SIGINT is its answer; a second one is a KeyboardInterrupt."""
    out = run(
        runs,
        """
        import backprop
        assert not backprop.should_stop()
        os.kill(os.getpid(), signal.SIGINT)
        print(backprop.should_stop())
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        except KeyboardInterrupt:
            print("enough")
        """,
    )
    assert out.split() == ["True", "enough"]


def test_log_counts_steps_and_takes_only_numbers(runs: Runs):
    """Numbers of NumPy, too; NaN is one; text and arrays are none."""
    run(
        runs,
        """
        import numpy as np
        import backprop
        backprop.params(lr=0.1, layers=[1, 2])
        backprop.log(loss=np.float32(0.5), text="a", array=np.zeros(2), count=np.int64(3), flag=True)
        backprop.log(loss=float("nan"))
        backprop.log(step=9, **{"a/b": 1})
        backprop.log(loss=1)
        """,
    )
    first, *lines = told(runs)
    assert first == {"event": "params", "params": {"lr": 0.1, "layers": [1, 2]}}
    assert lines[0] == {"step": 1, "loss": 0.5, "count": 3}
    assert [line["step"] for line in lines] == [1, 2, 9, 3]
    document = runs.document("r")
    assert document["params"] == {"lr": 0.1, "layers": [1, 2]}
    assert document["metrics"]["a/b"] == 1


def test_a_save_is_whole_or_not_there(runs: Runs):
    """One that breaks off in the middle leaves the file that was there, no draft, and no report."""
    out = run(
        runs,
        """
        import backprop
        class Bad:
            def __reduce__(self):
                raise ValueError("in the middle")
        path = backprop.save({"a": list(range(1000))}, 1, path="good.pkl")
        try:
            backprop.save({"a": list(range(10**5)), "bad": Bad()}, 2, path="good.pkl")
        except ValueError as error:
            print(error)
        state = {}
        print(backprop.load(state, path), len(state["a"]), sorted(os.listdir()))
        """,
    )
    assert out.splitlines() == ["in the middle", "1 1000 ['good.pkl', 'train.py']"]
    assert saved_steps(runs) == [1]


def test_a_part_of_the_state_saved_within_a_loop_is_no_checkpoint(runs: Runs):
    """The loop could not continue from it; a save of all of its state counts."""
    run(
        runs,
        """
        import backprop
        state = {"model": 1, "optimizer": 2}
        for _, batch in backprop.loop(range(4), state=state):
            if batch == 0:
                assert os.path.exists(backprop.save({"model": 1}, path="best.pkl"))
            if batch == 1:
                backprop.save(state, path="all.pkl")
        """,
    )
    assert saved_steps(runs) == [2, 4]


def test_hooks_and_script_share_one_link(runs: Runs):
    """The package that the hooks live in is the one that answers, and the installed one stays out of it."""
    text = """
        import backprop
        print(backprop.log.__module__, "backprop.trainer" in sys.modules)
    """
    assert run(runs, text).split() == ["_backprop_trainer.api", "False"]


# -- outside


def test_outside_a_run_nothing_happens(runs: Runs):
    """The loop iterates; nothing is written, printed or raised."""
    script = runs.script(
        """
        import backprop
        assert list(backprop.loop([1, 2], epochs=2, state={"a": lambda: 0})) == [(0, 1), (0, 2), (1, 1), (1, 2)]
        assert list(backprop.loop(lambda: iter("ab"))) == [(0, "a"), (0, "b")]
        assert backprop.log(loss=1) is backprop.params(a=1) is backprop.save({"a": 1}, 1) is None
        assert backprop.resume_from() is None
        assert not backprop.should_stop() and not backprop.checkpoint_due()
        assert backprop.time_left_s() == float("inf") and backprop.progress() == 0.0
        state = {"a": 1}
        assert backprop.load(state) == 0 and state == {"a": 1}
        assert set(backprop.__all__) <= set(dir(backprop))
        try:
            backprop.nothing
        except AttributeError:
            print(os.listdir())
        """
    )
    assert bare(script) == "['train.py']\n"


def test_types_are_known_to_checkers(runs: Runs):
    """mypy, strictly, on an author's script: right uses pass, and wrong ones are found."""
    script = runs.script(
        """
        import backprop

        weights: list[float] = [0.0]
        for epoch, batch in backprop.loop([1.5, 2.5], epochs=2, state={"weights": weights}):
            reveal_type(batch)
            backprop.log(loss=batch, epoch=epoch)
        for _, text in backprop.loop(lambda: iter(["a"])):
            reveal_type(text)
        path: str | None = backprop.save({"weights": weights}, step=3)
        step: int = backprop.load({"weights": weights}, path)
        left: float = backprop.time_left_s() * backprop.progress()
        if backprop.should_stop() or backprop.checkpoint_due():
            backprop.params(lr=0.1)
        backprop.log("three", loss=1)
        len(backprop.resume_from())
        backprop.lag(loss=1)
        """
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(runs.home), str(script)],
        cwd=runs.work,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    notes = [line.split('"')[1].removeprefix("builtins.") for line in lines if line.startswith("note: Revealed")]
    assert notes == ["float", "str"]
    errors = [line.split("[")[-1] for line in lines if line.startswith("error")]
    assert errors == ["arg-type]", "arg-type]", "attr-defined]"], done.stdout


def test_a_rank_takes_no_part_of_another_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Where one file is saved over and over, the others' parts may be of a save before: the step is rank 0's."""
    path = str(tmp_path / "last.pkl")
    checkpoint_io.write(path, {"step": 200, "epoch": 3, "random": "of rank 0"})
    checkpoint_io.write(str(tmp_path / "last.rank-1.pkl"), {"step": 100, "epoch": 1, "random": "of rank 1"})
    monkeypatch.setattr(checkpoints.distributed, "rank", lambda: 1)
    saved = checkpoints.read(path)
    assert (saved["step"], saved["epoch"]) == (200, 3)
    assert saved["random"] not in ("of rank 0", "of rank 1")
    assert "from another step" in capsys.readouterr().err
    checkpoint_io.write(str(tmp_path / "last.rank-1.pkl"), {"step": 200, "random": "of rank 1"})
    assert checkpoints.read(path)["random"] == "of rank 1"
