"""What a hook relies on: told early, stopped at the end of a step, never broken off in the middle of a save."""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from backprop.trainer.step_agreement import Agreement, StepRequest
from tests.conftest import HANG_S, OWN_CLOCK, Runs, wait_for

# the smallest framework there could be, with its hook: steps of `step_s`, saves of `save_s`
LOOP = """
    from _backprop_trainer import link as links, step_reports

    link = links.current()
    start = 0
    if link.resume_from:
        start = json.load(open(link.resume_from))["step"]

    def save(step, save_s):
        with link.saving():
            with open(f"ckpt-{step}.json.new", "w") as file:
                file.write('{"step": ')
                file.flush()
                time.sleep(save_s)
                file.write(f"{step}}}")
            os.replace(f"ckpt-{step}.json.new", f"ckpt-{step}.json")
        link.report_checkpoint(f"ckpt-{step}.json", step)

    def loop(steps, step_s, save_s=0.0):
        with link.training("loop"):
            for step in range(start + 1, steps + 1):
                time.sleep(step_s)
                link.steps.log(step, {"loss": 1 / step}, total_steps=steps)
                wish = link.at_step_end(step)
                if wish.save or wish.stop:
                    save(step, save_s)
                if wish.stop:
                    link.accept_stop()
                    break
        print("after training", flush=True)
"""


def ends(runs: Runs, body: str, *words: object, code: int = 0) -> dict:
    runs.script(LOOP + body)
    done = runs.call("run", "train.py", "--run-id", "r", *words)
    assert done.returncode == code, done.stderr
    return runs.document("r")


def test_a_loop_that_ends_by_itself_is_completed(runs: Runs):
    document = ends(runs, "    loop(5, 0.01)")
    assert (document["status"], document["last_step"], document["metrics"]["loss"]) == ("completed", 5, 0.2)
    assert runs.output("r") == "after training\n"


def test_a_timebox_ends_it_at_the_end_of_a_step_with_a_save(runs: Runs):
    """Saved once, at the last step that was made; what comes after training in the script is not done; resumed there."""
    runs.script(LOOP + "    loop(1_000_000, 0.02, 0.1)")
    running = runs.start_patched(OWN_CLOCK, "run", "train.py", "--run-id", "r", "-m", 0.03)
    wait_for(lambda: any('"loss"' in line for line in events(runs, "r")))
    runs.set_clock(1.5)  # half a second before its end at the latest
    assert running.wait(HANG_S) == 0
    document = runs.document("r")
    assert (document["status"], document["exit_code"]) == ("timeboxed", 0)
    assert [checkpoint["step"] for checkpoint in document["checkpoints"]] == [document["last_step"]]
    assert not [entry for entry in runs.journal("r") if entry["event"] == "signalled"]
    assert runs.output("r") == ""
    assert runs.call("resume", "r", "-m", 10, "--until-step", document["last_step"] + 1).returncode == 0
    resumed = runs.document("r")
    assert resumed["sessions"][1]["resumed_from"].endswith(f"ckpt-{document['last_step']}.json")
    curve = [json.loads(line)["step"] for line in events(runs, "r", 2) if '"loss"' in line]
    assert curve[0] == document["last_step"] + 1


RESTORES = """
    from _backprop_trainer.failsafe import guarded

    link.announce_inspection(may_be_ours={may_be_ours})

    @guarded("loop")
    def fails():
        raise RuntimeError("other shapes")

    with link.training("loop"):
        if link.is_resumed:
            link.set_resume_source(link.resume_from)
            {restore}
        for step in range({steps}):
            link.at_step_end(start + step + 1)
        save(start + {steps}, 0)
"""


@pytest.mark.parametrize(
    ("restore", "steps", "is_resumed"),
    [
        ("raise RuntimeError", 2, False),
        ("fails()", 2, False),
        ("link.end_script()", 2, False),
        ("pass", 2, True),
        ("pass", 0, True),
    ],
    ids=["it raises", "our hook fails", "it is stopped before the first step", "it fits", "nothing is missing"],
)
@pytest.mark.parametrize("may_be_ours", [True, False], ids=["chosen by the hook", "named by the script"])
def test_resumed_is_what_training_went_on_from(
    runs: Runs, restore: str, steps: int, *, is_resumed: bool, may_be_ours: bool
):
    """A checkpoint that a hook has chosen, and that then cannot be restored, was read; but nothing went on from it."""
    ends(runs, RESTORES.format(restore="pass", steps=1, may_be_ours=True))
    runs.script(LOOP + RESTORES.format(restore=restore, steps=steps, may_be_ours=may_be_ours))
    done = runs.call("resume", "r", "--again")
    session = runs.document("r")["sessions"][1]
    offered = str(runs.work / "ckpt-1.json")
    assert session["offered"] == offered
    assert (session["resumed_from"] == offered, "resumed from" in done.stderr) == (is_resumed, is_resumed), done.stderr
    assert not session["started_over"]
    assert ("resumed from" in runs.call("status", "r").stdout) == is_resumed


def events(runs: Runs, run_id: str, session: int = 1) -> list[str]:
    path = runs.rundir(run_id) / f"session-{session}.events"
    return path.read_text().splitlines() if path.exists() else []


def test_checkpoints_come_as_often_as_asked(runs: Runs):
    runs.script(LOOP + "    loop(1_000_000, 0.01)")
    running = runs.start("run", "train.py", "--run-id", "r", "-c", 0.01)
    wait_for(lambda: runs.rundir("r").exists() and len(runs.document("r")["checkpoints"]) >= 3)
    assert runs.call("stop", "r").returncode == 0
    assert running.wait(HANG_S) == 0
    document = runs.document("r")
    steps = [checkpoint["step"] for checkpoint in document["checkpoints"]]
    assert steps == sorted(set(steps))
    wanted = json.loads((runs.rundir("r") / "control.json").read_text())["checkpoint_wanted"]
    assert wanted >= 3
    assert 3 <= len(steps) <= wanted + 1  # one each time, and one at the stop


def test_a_stop_waits_for_the_end_of_the_step(runs: Runs):
    """However much longer than all before this step is: it is made, saved, and the loop ends."""
    body = """
    with link.training("loop"):
        link.at_step_end(1)
        link.at_step_end(2)
        print("long step", flush=True)
        while "signalled" not in open(os.environ["BACKPROP_RUN_DIR"] + "/journal.jsonl").read():
            pass
        wish = link.at_step_end(3)
        assert wish.stop
        save(3, 0)
        link.accept_stop()
    """
    document = ends(runs, body, "--until-step", 1, "--grace", 200)
    assert (document["status"], document["exit_code"]) == ("timeboxed", 0)
    assert [checkpoint["step"] for checkpoint in document["checkpoints"]] == [3]
    assert [entry["signal"] for entry in runs.journal("r") if entry["event"] == "signalled"] == ["SIGINT"]


def test_a_step_that_does_not_end_is_broken_off_late_in_the_grace(runs: Runs):
    """By SIGTERM, and so that `finally` is still carried out."""
    body = """
    try:
        with link.training("loop"):
            link.at_step_end(1)
            print("step", flush=True)
            while True:
                time.sleep(0.01)
    finally:
        print("finally", flush=True)
    """
    runs.script(LOOP + body)
    running = runs.start_patched(OWN_CLOCK, "run", "train.py", "--run-id", "r", "-m", 0.02, "--grace", 3)
    wait_for(lambda: runs.output("r") == "step\n")
    signals = lambda: [entry["signal"] for entry in runs.journal("r") if entry["event"] == "signalled"]  # noqa: E731
    runs.set_clock(1.0)
    wait_for(lambda: any(entry["event"] == "stop_asked" for entry in runs.journal("r")))
    runs.set_clock(1.5)  # its notice, of 0.4 s, is over
    wait_for(lambda: signals() == ["SIGINT"])
    runs.set_clock(1.2 + 2)
    assert running.wait(HANG_S) == 0
    assert runs.document("r")["status"] == "timeboxed"
    assert signals() == ["SIGINT", "SIGTERM"]
    assert runs.output("r") == "step\nfinally\n"


@pytest.mark.parametrize("signals", [["SIGINT"], ["SIGINT", "SIGINT"], ["SIGINT", "SIGTERM"]], ids="-".join)
def test_nothing_breaks_off_a_save(runs: Runs, signals: list[str]):
    """Signals that arrive while it is written wait until it is whole."""
    body = f"""
    try:
        with link.saving():
            for name in {signals}:
                os.kill(os.getpid(), getattr(signal, name))
            print("whole", flush=True)
        print("never", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    """
    ends(runs, body)
    assert runs.output("r") == "whole\ninterrupted\n"


def test_signals_outside_a_loop_are_as_without_us(runs: Runs):
    """KeyboardInterrupt at once; SIGTERM kills."""
    body = """
    with link.training("loop"):
        link.at_step_end(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with link.training("loop"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    """
    document = ends(runs, body, code=143)
    assert document["reason"] == "killed by SIGTERM, which Backprop did not send"


def test_an_interrupt_of_somebody_elses_is_no_completed_training(runs: Runs):
    """It is saved at the end of the step; but a loop that was cut short must not look as if it had been completed."""
    runs.script(LOOP + "    print(os.getpid(), flush=True)\n    loop(100_000, 0.01)")
    running = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: runs.document("r")["last_step"] if runs.output("r") else None)
    os.kill(int(runs.output("r")), signal.SIGINT)
    assert running.wait(HANG_S) == 130
    document = runs.document("r")
    assert (document["status"], document["reason"]) == ("failed", "killed by SIGINT, which Backprop did not send")
    assert [checkpoint["step"] for checkpoint in document["checkpoints"]] == [document["last_step"]]


def test_a_launcher_does_not_take_the_save_with_it(runs: Runs):
    """What it waits for said that it trains, and is interrupted first: it makes its step and its save."""
    body = """
    if len(sys.argv) == 1:
        sys.exit(subprocess.Popen([sys.executable, "train.py", "child"]).wait())
    with link.training("loop"):
        link.at_step_end(1)
        link.at_step_end(2)
        while "signalled" not in open(os.environ["BACKPROP_RUN_DIR"] + "/journal.jsonl").read():
            pass
        assert link.at_step_end(3).stop
        save(3, 0)
        link.accept_stop()
    """
    document = ends(runs, body, "--until-step", 1, "--grace", 200)
    assert document["status"] == "timeboxed"
    assert {entry["signal"] for entry in runs.journal("r") if entry["event"] == "signalled"} == {"SIGINT"}
    assert [checkpoint["step"] for checkpoint in document["checkpoints"]] == [3]


def test_what_was_agreed_for_a_loop_is_not_for_the_next(tmp_path: Path):
    """A step that never came in the first loop neither stops the second one nor keeps it from being stopped."""
    ranks = [Agreement(str(tmp_path / "agreed")) for _ in range(2)]
    stop = StepRequest(stop=True)
    assert [rank.agree(100, stop) for rank in ranks] == [StepRequest(), StepRequest()]  # agreed for step 101
    for rank in ranks:
        rank.begin_loop()
    assert [rank.agree(101, StepRequest()) for rank in ranks] == [StepRequest(), StepRequest()]
    assert [rank.agree(1, stop) for rank in ranks] == [StepRequest(), StepRequest()]
    assert [rank.agree(2, stop) for rank in ranks] == [stop, stop]


def test_an_agreement_that_comes_early_is_kept_for_its_loop(tmp_path: Path):
    """Rank 0 may be in the next loop already when another rank has not left the last one."""
    first, other = (Agreement(str(tmp_path / "agreed")) for _ in range(2))
    first.begin_loop()
    first.agree(1, StepRequest(stop=True))  # agreed for step 2 of the next loop
    assert other.agree(2, StepRequest()) == StepRequest()
    other.begin_loop()
    assert other.agree(1, StepRequest()) == StepRequest()
    assert other.agree(2, StepRequest()) == StepRequest(stop=True)


def test_on_gpus_the_step_after_the_next_is_agreed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """There a process runs ahead of its exchanges: it waits for the step before, and only then looks."""
    waited = []

    class Event:
        def record(self) -> None:
            self.number = len(waited)

        def synchronize(self) -> None:
            waited.append(self)

    cuda = SimpleNamespace(is_initialized=lambda: True, Event=Event)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    agreement, stop = Agreement(str(tmp_path / "agreed")), StepRequest(stop=True)
    assert [agreement.agree(step, stop) for step in (1, 2, 3)] == [StepRequest(), StepRequest(), stop]
    assert len(waited) == 2


@pytest.mark.parametrize(("number", "code", "said"), [("SIGINT", 0, "interrupted"), ("SIGTERM", 143, "")])
def test_a_signal_is_not_forgotten_over_a_save_that_fails(runs: Runs, number: str, code: int, said: str):
    body = f"""
    try:
        with link.saving():
            os.kill(os.getpid(), signal.{number})
            raise OSError("full")
    except OSError:
        print("went on", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    """
    ends(runs, body, code=code)
    assert runs.output("r").strip() == said


def test_a_script_hears_of_its_children_during_a_save(runs: Runs):
    body = """
    heard = []
    signal.signal(signal.SIGCHLD, lambda *_: heard.append(1))
    with link.saving():
        subprocess.run(["true"])
    print(len(heard), flush=True)
    """
    ends(runs, body)
    assert runs.output("r") == "1\n"


def test_rank_variables_around_the_supervisor_are_not_believed(runs: Runs):
    """A sweep by `srun`, each with a supervisor of its own, has no ranks that would keep quiet."""
    runs.environment |= {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}
    document = ends(runs, "    loop(5, 0.01)")
    assert document["last_step"] == 5
    runs.environment |= {"RANK": "1"}
    runs.script(LOOP + '    os.environ["RANK"] = "3"\n    loop(5, 0.01)', "below.py")
    assert runs.call("run", "below.py", "--run-id", "b").returncode == 0
    assert runs.document("b")["last_step"] is None  # what a launcher below says is believed


def test_handlers_of_the_scripts_own_stay(runs: Runs):
    body = """
    mine = lambda *_: print("mine", flush=True)
    signal.signal(signal.SIGINT, mine)
    with link.training("loop"), link.saving():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is mine
    """
    ends(runs, body)
    assert runs.output("r") == "mine\n"


def test_training_that_finishes_while_it_is_asked_to_stop_is_completed(runs: Runs):
    """The notice came, and there was nothing left to stop."""
    body = """
    with link.training("loop"):
        link.at_step_end(1)
        link.at_step_end(2)
        print("ready", flush=True)
        while not link.should_stop():
            time.sleep(0.01)
    print("after training", flush=True)
    """
    runs.script(LOOP + body)
    running = runs.start_patched(OWN_CLOCK, "run", "train.py", "--run-id", "r", "-m", 0.05)
    wait_for(lambda: runs.output("r") == "ready\n")
    runs.set_clock(2.6)  # the notice, which does not end
    assert running.wait(HANG_S) == 0
    document = runs.document("r")
    assert (document["status"], document["reason"]) == ("completed", None)
    assert any(entry["event"] == "stop_asked" for entry in runs.journal("r"))


def test_a_stop_by_the_user_is_a_stop_whatever_the_trainer_says(runs: Runs):
    body = """
    with link.training("loop"):
        print("ready", flush=True)
        while not link.should_stop():
            time.sleep(0.01)
    """
    runs.script(LOOP + body)
    running = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: runs.output("r") == "ready\n")
    assert runs.call("stop", "r").returncode == 0
    assert running.wait(HANG_S) == 0
    assert runs.document("r")["status"] == "stopped"


def test_a_loop_within_a_loop_keeps_quiet(runs: Runs):
    body = """
    with link.training("outer") as outer, link.training("inner") as inner:
        print(outer, inner, link.owner)
    """
    ends(runs, body)
    assert runs.output("r") == "True False outer\n"


# twelve steps of 0.4 s, by a clock of its own; metrics of the sixth alone
RARE_LOGS = """
    from _backprop_trainer import link as links, step_reports

    now = time.monotonic()
    links.monotonic = step_reports.monotonic = lambda: now
    link = links.current()

    def steps():
        global now
        for step in range(1, 13):
            now += 0.4
            yield step
"""


def test_a_step_is_known_each_second_though_metrics_are_rare(runs: Runs):
    """At the cost of a line without a point; the total, which is a metric, comes once."""
    runs.script(
        RARE_LOGS
        + """
    with link.training("loop"):
        for step in steps():
            link.at_step_end(step, total_steps=12)
            if step == 6:
                link.steps.log(step, {"loss": 0.5})
    """
    )
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    told = [line for line in map(json.loads, events(runs, "r")) if "step" in line]
    assert told == [{"step": 1, "total_steps": 12}, {"step": 4}, {"step": 6, "loss": 0.5}, {"step": 9}, {"step": 12}]
    document = runs.document("r")
    assert (document["last_step"], document["metrics"]) == (12, {"total_steps": 12.0, "loss": 0.5})


@pytest.mark.parametrize("ending", ["pass", "sys.exit(3)"])
@pytest.mark.parametrize(
    ("counted", "told"), [(False, [1, 8]), (True, [{"step": step, "counted": True} for step in (1, 8)])]
)
def test_the_last_step_is_known(runs: Runs, ending: str, counted: bool, told: list):
    """However quickly it came, and however the loop ends: how far a training was is what its last line says."""
    runs.script(
        RARE_LOGS
        + f"""
    step_reports.STEP_EVERY_S = 100
    with link.training("loop"):
        for step in range(1, 9):
            link.at_step_end(step, is_counted={counted})
        {ending}
    """
    )
    done = runs.call("run", "train.py", "--run-id", "r")
    assert done.returncode == (3 if "exit" in ending else 0), done.stderr
    assert [line if counted else line["step"] for line in map(json.loads, events(runs, "r")) if "step" in line] == told
    assert runs.document("r")["last_step"] == 8


def test_the_last_step_of_each_loop_is_known(runs: Runs):
    """Of a fold that is shorter than the one before, too."""
    runs.script(
        RARE_LOGS
        + """
    step_reports.STEP_EVERY_S = 100
    for last in (8, 5):
        with link.training("loop"):
            for step in range(1, last + 1):
                link.at_step_end(step)
    """
    )
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    assert [json.loads(line)["step"] for line in events(runs, "r") if '"step"' in line] == [1, 8, 1, 5]


def test_the_step_of_a_stop_is_known_though_metrics_are_rare(runs: Runs):
    """A run is not said to have stopped before the step that its checkpoint is of."""
    runs.script(
        LOOP
        + """
    step_reports.STEP_EVERY_S = 1e9
    with link.training("loop"):
        link.at_step_end(1)
        print("waits", flush=True)
        while not link.is_stop_requested():
            time.sleep(0.01)
        assert link.at_step_end(2).stop
        save(2, 0)
        link.accept_stop()
    """
    )
    running = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: "waits" in runs.output("r"))
    assert runs.call("stop", "r").returncode == 0
    assert running.wait(HANG_S) == 0
    document = runs.document("r")
    assert (document["last_step"], [one["step"] for one in document["checkpoints"]]) == (2, [2])


def test_steps_of_another_kind_than_the_script_reports_are_only_counted(runs: Runs):
    """A script may report an epoch as its step: what was reported wins."""
    runs.script(
        RARE_LOGS
        + """
    with link.training("loop"):
        for step in steps():
            if step == 6:
                print(json.dumps({"step": 1, "loss": 0.5}), flush=True)
            link.at_step_end(step, is_counted=True)
    """
    )
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    assert [json.loads(line)["step"] for line in events(runs, "r") if '"counted"' in line] == [1, 4, 7, 10, 12]
    assert runs.document("r")["last_step"] == 1


def test_what_was_told_is_kept_when_the_supervisor_is_killed(runs: Runs):
    """Every event counts exactly once, as every line of stdout does."""
    runs.script(
        LOOP
        + """
    for step in range(1, 20_001):
        link.steps.log(step, {"a": step})
        print(json.dumps({"step": step, "b": step}), flush=True)
    print("all", flush=True)
    time.sleep(60)
    """
    )
    running = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: '"step": 3000,' in runs.output("r"))
    running.kill()
    running.wait()
    wait_for(lambda: runs.call("list").returncode == 0 and not runs.tree())
    told = [json.loads(line)["a"] for line in events(runs, "r")]
    document = runs.document("r")
    assert document["status"] == "interrupted"
    assert document["metrics"]["a"] == told[-1]
    assert told == list(range(1, len(told) + 1))


@pytest.mark.parametrize("stop_at", [1, 2, 7])
def test_all_ranks_do_the_same_at_the_same_step(runs: Runs, stop_at: int):
    """Whenever rank 0 hears of a wish, and however late the others look."""
    runs.script(
        f"""
        import multiprocessing, random

        def train(rank, barrier, steps):
            os.environ |= {{"RANK": str(rank), "WORLD_SIZE": "3"}}
            from _backprop_trainer import link as links, step_reports
            from _backprop_trainer.step_agreement import StepRequest
            link = links.current()
            step = 0
            while True:
                step += 1
                barrier.wait(240)  # gradients are exchanged
                time.sleep(random.random() / 100)
                wish = link.agreement.agree(step, StepRequest(stop=rank == 0 and step >= {stop_at}))
                link.steps.log(step, {{"loss": 1}})
                if wish.stop:
                    break
            steps[rank] = step

        context = multiprocessing.get_context("fork")
        barrier, steps = context.Barrier(3), context.Array("i", 3)
        ranks = [context.Process(target=train, args=(rank, barrier, steps)) for rank in range(3)]
        for process in ranks: process.start()
        for process in ranks: process.join()
        print(*steps, flush=True)
        """
    )
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    last = stop_at + 1
    assert runs.output("r") == f"{last} {last} {last}\n"
    assert len(events(runs, "r")) == last  # only rank 0 reports


# how a main thread waits for `train`, which runs in another
MAIN_THREADS = {
    "join": """
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    """,
    "daemon": """
        thread = threading.Thread(target=train, daemon=True)
        thread.start()
        while thread.is_alive(): time.sleep(100)
    """,
    "work": """
        threading.Thread(target=train).start()
        while not is_over: sum(range(1000))
    """,
    "result": """
        with ThreadPoolExecutor() as pool: pool.submit(train).result()
    """,
    "queue": """
        results = queue.Queue()
        threading.Thread(target=lambda: results.put(train())).start()
        results.get()
    """,
    "asyncio": """
        asyncio.run(asyncio.to_thread(train))
    """,
}
IN_THREAD = """
    import asyncio, atexit, queue, threading
    from concurrent.futures import ThreadPoolExecutor
    is_over = False

    def train():
        global is_over
        loop({steps}, 0.01)
        is_over = True
        print("the thread goes on", flush=True)

    {before}
    atexit.register(print, "atexit", flush=True)
    try:
{main}
        print("main goes on", flush=True)
    finally:
        print("finally", flush=True)
"""
LISTENS = "link.interrupts.listen()  # as a hook does when its framework has been imported"
STOPS = "link.is_stop_requested = lambda: True; link.should_stop = lambda: link.pace.longest_step_s is not None"


def in_thread(main: str, before: str, steps: int = 100_000) -> str:
    return IN_THREAD.format(main=MAIN_THREADS[main], before=before, steps=steps)


def stderr(runs: Runs) -> str:
    return (runs.rundir("r") / "session-1.err").read_text()


@pytest.mark.parametrize("before", [LISTENS, "pass"], ids=["listens", "interrupted"])
@pytest.mark.parametrize("main", MAIN_THREADS)
def test_a_loop_that_is_stopped_in_a_thread_ends_the_main_thread_too(runs: Runs, main: str, before: str):
    """Whatever that waits for: its `finally` and its exit handlers are carried out, and nothing else."""
    document = ends(runs, in_thread(main, f"{before}\n    {STOPS}"))
    assert document["exit_code"] == 0
    assert [checkpoint["step"] for checkpoint in document["checkpoints"]] == [document["last_step"]]
    assert (runs.output("r"), stderr(runs)) == ("finally\natexit\n", "")


def test_a_loop_in_a_thread_is_stopped_by_the_supervisor(runs: Runs):
    runs.script(LOOP + in_thread("daemon", LISTENS))
    running = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: any('"loss"' in line for line in events(runs, "r")))
    assert runs.call("stop", "r").returncode == 0
    assert running.wait(HANG_S) == 0
    document = runs.document("r")
    assert (document["status"], document["exit_code"]) == ("stopped", 0)
    assert [checkpoint["step"] for checkpoint in document["checkpoints"]] == [document["last_step"]]
    assert (runs.output("r"), stderr(runs)) == ("finally\natexit\n", "")


def test_a_loop_that_ends_by_itself_in_a_thread_is_completed(runs: Runs):
    assert ends(runs, in_thread("join", LISTENS, steps=3))["status"] == "completed"
    assert runs.output("r") == "after training\nthe thread goes on\nmain goes on\nfinally\natexit\n"


def test_a_main_thread_that_has_ended_leaves_the_end_to_the_thread(runs: Runs):
    body = in_thread("join", f"{LISTENS}\n    {STOPS}").replace("thread.join()", "pass")
    body = body.replace("loop(100000", "threading.main_thread().join(); loop(100_000")
    assert ends(runs, body)["exit_code"] == 0
    assert (runs.output("r"), stderr(runs)) == ("main goes on\nfinally\natexit\n", "")


# somebody sends SIGINT at the third step
INTERRUPTS = """at_step_end = link.at_step_end
    link.at_step_end = lambda step: (step == 3 and os.kill(os.getpid(), signal.SIGINT), at_step_end(step))[1]
"""


def test_an_interrupt_from_elsewhere_waits_for_the_end_of_a_step_in_a_thread(runs: Runs):
    """And is a KeyboardInterrupt of the main thread then: it must not pass for a training that was completed."""
    document = ends(runs, in_thread("daemon", f"{LISTENS}\n    {INTERRUPTS}"), code=130)
    assert [checkpoint["step"] for checkpoint in document["checkpoints"]] == [document["last_step"]]
    assert runs.output("r") == "finally\natexit\n"
    assert "KeyboardInterrupt" in stderr(runs)


def test_an_interrupt_after_the_main_thread_has_ended_is_no_completed_training(runs: Runs):
    body = in_thread("join", f"{LISTENS}\n    {INTERRUPTS}").replace("thread.join()", "pass")
    body = body.replace("loop(100000", "threading.main_thread().join(); loop(100_000")
    document = ends(runs, body, code=130)
    assert document["status"] == "failed"
    assert [checkpoint["step"] for checkpoint in document["checkpoints"]] == [document["last_step"]]
    assert "the thread goes on" not in runs.output("r")
