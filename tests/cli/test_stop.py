"""The stop ladder, on real process trees."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress

import psutil
import pytest

from tests.conftest import HANG_S, OWN_CLOCK, Runs, held_at, is_alive, wait_for

STUBBORN = """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
"""
# a child in a session of its own, a daemon that forked twice, and a daemon that also forgot where it comes from
FAMILY = """
    subprocess.Popen(["setsid", "sleep", "1000"])
    subprocess.Popen(["env", "-i", "/usr/bin/setsid", "/bin/sleep", "1001"])
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    os.wait()
    print("ready", flush=True)
"""
# of a session with OWN_CLOCK
STARTS_THE_CLOCK = '    open("clock", "w").close()\n'


SAVES = """
    try:
        print(json.dumps({"step": 1}), flush=True)
        time.sleep(1000)
    except KeyboardInterrupt:
        print("saved")
"""


def sleepers(runs: Runs) -> list[psutil.Process]:
    """What FAMILY left, by its argument and folder; for those without a mark in their environment."""
    family = (["/bin/sleep", "1001"], ["sleep", "1000"])
    return [
        p
        for p in psutil.process_iter(["cmdline", "cwd"])
        if p.info["cmdline"] in family and p.info["cwd"] == str(runs.work)
    ]


def test_the_whole_tree_is_gone_after_timebox_and_grace(runs: Runs):
    """Children that called setsid, double-forked daemons, and those without our mark: none outlives the session."""
    runs.script(STUBBORN + FAMILY + STARTS_THE_CLOCK + "    time.sleep(1000)")
    done = runs.call_patched(OWN_CLOCK, "run", "train.py", "-m", "0.02", "--grace", "1.5")
    assert done.returncode == 137
    assert "had to be killed" in done.stderr
    assert runs.tree() == []
    assert sleepers(runs) == []
    assert runs.document()["status"] == "timeboxed"


def test_a_tree_is_not_ended_before_its_time(runs: Runs):
    """A stubborn trainer lives until timebox plus grace: the ladder gives what it promises."""
    runs.script(STUBBORN + STARTS_THE_CLOCK + "    time.sleep(1000)")
    done = runs.call_patched(OWN_CLOCK, "run", "train.py", "-m", "0.02", "--grace", "1.5", "--json")
    assert done.returncode == 137
    assert runs.document()["elapsed_s"] >= 1.2 + 1.5


def test_what_a_trainer_leaves_behind_is_ended(runs: Runs):
    """A trainer that exits with code 0 is completed, and its daemons end with it."""
    runs.script(FAMILY)
    done = runs.call("run", "train.py", "--grace", "1")
    assert done.returncode == 0
    assert runs.tree() == []
    assert sleepers(runs) == []
    assert runs.document()["status"] == "completed"


def test_a_shells_pipeline_is_interrupted_where_it_matters(runs: Runs):
    """In `bash -c "python train.py | tee log"` the Python program hears SIGINT, and tee lives."""
    runs.script(
        """
        try:
            print(json.dumps({"step": 1}), flush=True)
            time.sleep(1000)
        except KeyboardInterrupt:
            print("saved", flush=True)
        """
    )
    pipeline = f"{sys.executable} train.py | tee log; true"
    done = runs.call("run", "--until-step", 1, "--grace", "200", "--", "bash", "-c", pipeline)
    assert done.stdout == '{"step": 1}\nsaved\n'
    assert (runs.work / "log").read_text() == done.stdout
    document = runs.document()
    assert [e["signal"] for e in runs.journal(document["id"]) if e["event"] == "signalled"] == ["SIGINT"]


def test_a_tree_of_ranks_ends_with_its_launcher(runs: Runs):
    """A launcher that starts ranks and waits for them (as torchrun does) leaves none of them behind."""
    runs.script(
        """
        if len(sys.argv) > 1:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            time.sleep(1000)
        ranks = [subprocess.Popen([sys.executable, __file__, str(rank)], start_new_session=True) for rank in range(3)]
        try:
            [rank.wait() for rank in ranks]
        except KeyboardInterrupt:
            [rank.terminate() for rank in ranks]
            sys.exit(1)
        """
    )
    assert runs.call("run", "train.py", "-m", "0.02").returncode == 0
    assert runs.document()["status"] == "timeboxed"
    assert runs.tree() == []


def test_an_interrupt_reaches_a_trainer_whose_shell_ignores_it(runs: Runs):
    """Shells start background jobs with SIGINT ignored; the trainer gets it all the same."""
    runs.script(SAVES)
    process = runs.start(
        "run", "train.py", "--until-step", 1, stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert process.stdout.read() == b'{"step": 1}\nsaved\n'
    assert process.wait(HANG_S) == 0


def test_a_trainer_that_somebody_stopped_hears_of_the_end_of_its_timebox(runs: Runs):
    """SIGCONT comes with SIGINT, to its workers too: it saves with their help, and nobody has to be killed."""
    runs.script(
        """
        worker = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            print("ready", flush=True)
            time.sleep(1000)
        except KeyboardInterrupt:
            print(worker.communicate(b"saved")[0].decode(), flush=True)
        """
    )
    words = ("run", "train.py", "-m", "0.1", "--grace", "60")
    process = runs.start_patched(OWN_CLOCK, *words, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    stopped = runs.tree()
    assert len(stopped) == 2
    for one in stopped:
        one.suspend()
    runs.set_clock(6)
    assert process.stdout.read() == b"saved\n"
    assert process.wait(HANG_S) == 0
    document = runs.document()
    assert [e["signal"] for e in runs.journal(document["id"]) if e["event"] == "signalled"] == ["SIGINT"]


def test_a_stopped_trainer_hears_sigterm_too(runs: Runs):
    """SIGCONT comes with every signal of the ladder: somebody may stop it again while it saves."""
    runs.script(
        """
        signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), os._exit(0)))
        signal.signal(signal.SIGINT, lambda *_: None)
        print("ready", flush=True)
        while True:
            time.sleep(1000)
        """
    )
    words = ("run", "train.py", "-m", "0.05", "--grace", "9", "--run-id", "r")
    process = runs.start_patched(OWN_CLOCK, *words, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    runs.set_clock(3)
    wait_for(lambda: any(entry["event"] == "signalled" for entry in runs.journal("r")))  # SIGINT, and SIGCONT
    (trainer,) = runs.tree()
    trainer.suspend()
    wait_for(lambda: trainer.status() == psutil.STATUS_STOPPED)
    runs.set_clock(3 + 6)
    assert process.stdout.read() == b"saved\n"
    assert process.wait(HANG_S) == 0
    assert runs.document()["status"] == "timeboxed"


def test_stop_from_another_terminal(runs: Runs):
    """`backprop stop` walks the ladder, waits for the end and says what came of it."""
    runs.script(SAVES)
    process = runs.start("run", "train.py", stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'{"step": 1}\n'
    done = runs.call("stop", "last")
    assert done.returncode == 0
    assert "stopped" in done.stderr
    assert process.stdout.read() == b"saved\n"
    assert process.wait(HANG_S) == 0
    document = runs.document()
    assert document["status"] == "stopped"
    assert "backprop stop" in document["reason"]
    assert [e["by"] for e in runs.journal(document["id"]) if e["event"] == "stop_asked"] == ["user"]


# a supervisor answers, however long a busy machine takes to let it
PATIENT = f"from backprop.lifecycle import requests\nrequests.STOP_NOW_S = {HANG_S}"


def test_stop_now_kills(runs: Runs):
    """`stop --now` does not wait for the grace."""
    runs.script(STUBBORN + "    print('ready', flush=True); time.sleep(60)")
    process = runs.start("run", "train.py", "--grace", "50", stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    assert runs.call_patched(PATIENT, "stop", "last", "--now").returncode == 0
    assert process.wait(HANG_S) == 137
    assert runs.tree() == []


def test_stop_now_works_on_a_supervisor_that_hangs(runs: Runs):
    """A supervisor that does not answer is killed, and its tree with it."""
    runs.script(STUBBORN + "    print('ready', flush=True); time.sleep(60)")
    process = runs.start("run", "train.py", "--grace", "2", stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    hang = psutil.Process(process.pid)
    hang.suspend()
    # `stop` wakes a supervisor that Ctrl-Z suspended; one that hangs for good is stopped again and again
    stopper = runs.start("stop", "last", "--now", stderr=subprocess.PIPE)
    while stopper.poll() is None and hang.is_running() and process.poll() is None:
        try:
            hang.suspend()
        except psutil.NoSuchProcess:
            break
        time.sleep(0.001)
    assert stopper.wait(HANG_S) == 0, stopper.stderr.read()
    assert runs.tree() == []
    assert (runs.document()["status"], runs.call("wait", "last").returncode) == ("stopped", 137)


def test_stop_now_works_on_a_supervisor_that_hangs_with_the_index_locked(runs: Runs):
    """What somebody else is in the middle of writing is read from the run directories: by `list`, too."""
    runs.script("print('ready', flush=True); time.sleep(600)")
    process = runs.start("run", "train.py", "--run-id", "r", "--grace", "2", stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    wait_for(lambda: "trainer_launched" in (runs.rundir("r") / "journal.jsonl").read_text())
    with closing(sqlite3.connect(runs.home / "index.db", isolation_level=None)) as hanging:
        hanging.execute("BEGIN IMMEDIATE")
        listed = runs.call("list", "--json")
        assert [run["status"] for run in json.loads(listed.stdout)] == ["running"]
        assert "another process has locked the index" in listed.stderr
        done = runs.call_patched(PATIENT, "stop", "r", "--now")
        assert done.returncode == 0, done.stderr
        assert process.wait(HANG_S) == 137
    assert runs.document("r")["status"] == "stopped"


def remove(runs: Runs, what: str, *, is_kept: bool = False) -> None:
    """At once: a supervisor may write into a folder that is being removed. is_kept: moved away, as to the trash."""
    path, away = runs.home / what, runs.work / "trash"
    if path.is_file():
        path.unlink()
        return
    away.mkdir()
    path.rename(away / path.name)
    if not is_kept:
        shutil.rmtree(away)


def run_whose_record_is_removed(
    runs: Runs, what: str, script: str = "", *, is_kept: bool = False
) -> "subprocess.Popen[bytes]":
    """It is called `baseline`, and its supervisor has missed its record."""
    runs.script(script + "    print('ready', flush=True); time.sleep(600)")
    words = ("run", "train.py", "--run-id", "r", "--name", "baseline")
    process = runs.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    remove(runs, what, is_kept=is_kept)
    while b"was removed" not in (line := process.stderr.readline()):
        assert line
    assert b"backprop stop r" in line
    return process


REACHES = ("baseline", "r", "last", "--all")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an open file that was removed cannot be opened again")
@pytest.mark.parametrize(
    ("what", "words"),
    [
        *(("", words) for words in REACHES),
        ("runs/r", "baseline"),
        ("runs/r/journal.jsonl", "last"),
        *(
            pytest.param(what, words, marks=pytest.mark.nightly)
            for what in ("runs/r", "runs/r/journal.jsonl")
            for words in REACHES
            if (what, words) not in {("runs/r", "baseline"), ("runs/r/journal.jsonl", "last")}
        ),
    ],
)
def test_stop_reaches_a_run_whose_record_was_removed(runs: Runs, what: str, words: str):
    """By its name, its id, as the last one, or with all others: its supervisor has the journal open still."""
    process = run_whose_record_is_removed(runs, what)
    done = runs.call("stop", words)
    assert done.returncode == 0, done.stderr
    assert "run r stopped: `backprop stop`" in done.stderr
    assert "its record was removed" in done.stderr
    assert process.wait(HANG_S) == 0
    said = process.stderr.read()
    assert b"stopped" in said
    assert b"completes this record" not in said
    assert runs.tree() == []
    assert "'r'" in runs.call("stop", "r").stderr or what == "runs/r/journal.jsonl"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an open file that was removed cannot be opened again")
def test_stop_reaches_a_run_whose_home_was_moved(runs: Runs):
    """To the trash, say: by the mark of its trainer."""
    process = run_whose_record_is_removed(runs, "", is_kept=True)
    done = runs.call("stop", "baseline")
    assert done.returncode == 0, done.stderr
    assert process.wait(HANG_S) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an open file that was removed cannot be opened again")
@pytest.mark.parametrize("hangs", [False, True])
def test_stop_now_kills_a_run_whose_record_was_removed(runs: Runs, hangs: bool):
    """Its supervisor too, where that does not answer."""
    process = run_whose_record_is_removed(runs, "", STUBBORN)
    if not hangs:
        assert runs.call_patched(PATIENT, "stop", "r", "--now").returncode == 0
        assert process.wait(HANG_S) == 137
        assert runs.tree() == []
        return
    supervisor = psutil.Process(process.pid)
    supervisor.suspend()
    stopper = runs.start("stop", "r", "--now", stderr=subprocess.PIPE)
    while stopper.poll() is None and process.poll() is None:  # woken by `stop`, it is stopped again and again
        with suppress(psutil.NoSuchProcess):
            supervisor.suspend()
        time.sleep(0.001)
    assert stopper.wait(HANG_S) == 0, stopper.stderr.read()
    assert runs.tree() == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an open file that was removed cannot be opened again")
def test_who_looks_hears_of_a_run_whose_record_was_removed(runs: Runs):
    """Where nothing is found; and of several that a word may mean none is stopped. Its end waits for no home."""
    words = ("run", "-d", "train.py", "--name", "baseline")
    runs.script("time.sleep(600)")
    for run_id in ("r1", "r2"):
        assert runs.call(*words, "--run-id", run_id).returncode == 0
    remove(runs, "")
    for view in (["list"], ["status", "r1"], ["logs", "last"]):
        said = runs.call(*view).stderr
        assert "Run r1 is running although its record was removed; to stop it: backprop stop r1" in said
        assert "backprop stop r2" in said
    done = runs.call("stop", "r")
    assert (done.returncode, "'r' matches several runs: r1, r2" in done.stderr) == (2, True)
    done = runs.call("stop", "r1", "r2")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: "record was removed" not in runs.call("list").stderr)


def test_a_run_of_another_home_is_not_stopped(runs: Runs):
    """A removed journal counts for the home that it was in, and for no other."""
    process = run_whose_record_is_removed(runs, "")
    other = str(runs.home) + "-2"
    assert runs.call("stop", "r", BACKPROP_HOME=other).returncode == 3
    assert runs.call("stop", "--all", BACKPROP_HOME=other).returncode == 0
    assert runs.call("stop", "q").returncode == 3
    assert process.poll() is None


def test_a_run_without_its_journal_is_not_said_to_have_ended(runs: Runs):
    """It cannot be read, which is all that is known; and nothing is written in the journal's place."""
    process = run_whose_record_is_removed(runs, "runs/r/journal.jsonl")
    runs.call("list")
    assert not (runs.rundir("r") / "journal.jsonl").exists()
    assert "journal.jsonl is missing" in runs.call("resume", "r").stderr
    assert runs.call("stop", "r").returncode == 0
    process.wait(HANG_S)
    (listed,) = json.loads(runs.call("list", "--json").stdout)
    assert (listed["status"], listed["reason"]) == ("unreadable", "journal.jsonl is missing")


def test_stop_of_a_run_that_has_ended_says_so(runs: Runs):
    """It cannot be done: exit 2, as for every other command, with --now too."""
    runs.script("")
    runs.call("run", "train.py")
    for words in (["stop", "last"], ["stop", "last", "--now"], ["pause", "last"]):
        done = runs.call(*words)
        assert done.returncode == 2
        assert "is not running (completed)" in done.stderr


def test_a_script_that_listens_is_warned_early_enough(runs: Runs):
    """A listener hears of the end before the timebox, and its save is over when the timebox ends."""
    runs.script(
        """
        print(json.dumps({"event": "listening"}), flush=True)
        for step in range(1_000_000):
            time.sleep(0.02)
            print(json.dumps({"step": step}), flush=True)
            if json.load(open(os.environ["BACKPROP_CONTROL"]))["stop_wanted"]:
                open("ckpt.json", "w").write("{}")
                print(json.dumps({"event": "checkpoint_saved", "path": "ckpt.json", "step": step}), flush=True)
                break
        """
    )
    process = runs.start_patched(OWN_CLOCK, "run", "train.py", "--run-id", "r", "-m", "0.06")
    wait_for(lambda: "step" in runs.output("r"))
    runs.set_clock(3.2)
    assert process.wait(HANG_S) == 0
    document = runs.document()
    assert document["status"] == "timeboxed"
    assert document["exit_code"] == 0
    # it had left before the timebox ended: there was nobody to interrupt
    assert not [e for e in runs.journal(document["id"]) if e["event"] == "signalled"]
    assert [c["valid"] for c in document["checkpoints"]] == [True]


def test_a_script_that_begins_to_listen_late_is_warned_all_the_same(runs: Runs):
    """Imports may take all of a short timebox: the save then comes out of the grace, not into a KeyboardInterrupt."""
    runs.script(
        """
        while not os.path.exists("clock"):
            time.sleep(0.02)
        print(json.dumps({"event": "listening"}), flush=True)
        while not json.load(open(os.environ["BACKPROP_CONTROL"]))["stop_wanted"]:
            time.sleep(0.02)
        print("heard", flush=True)
        while not os.path.exists("over"):
            time.sleep(0.02)
        for step in (1, 2):  # two looks of the supervisor
            open(f"ckpt-{step}.json", "w").write("{}")
            print(json.dumps({"event": "checkpoint_saved", "path": f"ckpt-{step}.json", "step": step}), flush=True)
            while open(os.environ["BACKPROP_RUN_DIR"] + "/journal.jsonl").read().count("checkpoint_measured") < step:
                time.sleep(0.02)
        os._exit(0)
        """
    )
    process = runs.start_patched(OWN_CLOCK, "run", "train.py", "--run-id", "r", "-m", "0.1")
    runs.set_clock(5.9)
    wait_for(lambda: "heard" in runs.output("r"))
    runs.set_clock(6.2)  # it has half a second from when it heard
    (runs.work / "over").touch()
    assert process.wait(HANG_S) == 0
    document = runs.document("r")
    assert (document["status"], document["exit_code"]) == ("timeboxed", 0)
    assert [c["valid"] for c in document["checkpoints"]] == [True, True]
    assert not [e for e in runs.journal("r") if e["event"] == "signalled"]


def test_a_script_that_listens_hears_when_a_checkpoint_is_wanted(runs: Runs):
    """With -c the wish in control.json grows by one each time."""
    runs.script(
        """
        control = os.environ["BACKPROP_CONTROL"]
        while (wanted := json.load(open(control))["checkpoint_wanted"]) < 2:
            time.sleep(0.02)
        print(json.dumps({"step": wanted}))
        """
    )
    assert runs.call("run", "train.py", "-c", "0.01").returncode == 0
    assert runs.document()["last_step"] >= 2


def test_who_asked_first_is_who_ended_it(runs: Runs):
    """Ctrl-C during the grace of a timebox does not turn a timeboxed run into a stopped one."""
    runs.script(STUBBORN + "    print('ready', flush=True); time.sleep(1000)")
    process = runs.start_patched(OWN_CLOCK, "run", "train.py", "-m", "0.01", "--grace", "3", stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    run_id = runs.only_id()
    asked = lambda: [e["by"] for e in runs.journal(run_id) if e["event"] == "stop_asked"]  # noqa: E731
    runs.set_clock(0.6)
    wait_for(lambda: asked() == ["timebox"])
    process.send_signal(signal.SIGINT)
    wait_for(lambda: asked() == ["timebox", "ctrl-c"])
    runs.set_clock(0.6 + 3)
    assert process.wait(HANG_S) == 137
    assert runs.document()["status"] == "timeboxed"


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signal is Linux's")
def test_the_trainer_hears_of_its_supervisors_death(runs: Runs):
    """SIGKILL to the supervisor: the kernel sends SIGINT to the trainer, which saves and ends by itself."""
    runs.script(
        """
        try:
            print("ready", flush=True)
            time.sleep(1000)
        except KeyboardInterrupt:
            print(json.dumps({"step": 77}), flush=True)
        """
    )
    process = runs.start("run", "train.py", stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    wait_for(lambda: not runs.tree())
    document = runs.document()
    assert (document["status"], document["last_step"]) == ("interrupted", 77)
    assert f"pid {process.pid}" in document["reason"]


def test_whoever_looks_ends_what_is_left_of_a_dead_supervisors_tree(runs: Runs):
    """A stubborn trainer whose supervisor was killed does not survive the next `list`."""
    runs.script(STUBBORN + "    print('ready', flush=True); time.sleep(600)")
    process = runs.start("run", "train.py", stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    process.wait()
    assert len(runs.tree()) == 1
    done = runs.call("list")
    assert "interrupted" in done.stdout
    assert runs.tree() == []


HIDES = """
    child = subprocess.Popen(["env", "-i", "/usr/bin/setsid", "/bin/sleep", "1001"])
    print(child.pid, flush=True)
    time.sleep(600)
"""


def hide_and_kill(runs: Runs, process: "subprocess.Popen[bytes]") -> psutil.Process:
    """The child of HIDES, once it has been written down, its supervisor was killed and its trainer is gone."""
    hidden = psutil.Process(int(process.stdout.readline()))
    path = runs.rundir("r") / "tree.json"
    wait_for(lambda: path.exists() and hidden.pid in dict(json.loads(path.read_text())["members"]))
    wait_for(lambda: hidden.name() == "sleep")
    process.kill()
    process.wait()
    wait_for(lambda: not runs.tree())
    assert hidden.is_running()
    return hidden


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such a process is not found in the first place")
def test_a_process_without_our_mark_does_not_outlive_its_supervisor_for_long(runs: Runs):
    """With another title, as vLLM and Ray give themselves, the environment is gone: it is known by pid and start."""
    runs.script(HIDES)
    hidden = hide_and_kill(runs, runs.start("run", "train.py", "--run-id", "r", stdout=subprocess.PIPE))
    done = runs.call("list")
    assert "interrupted" in done.stdout
    assert not is_alive(hidden)
    assert not (runs.rundir("r") / "tree.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such a process is not found in the first place")
@pytest.mark.parametrize("change", ["start", "boot", "namespace", "session"])
def test_a_pid_that_may_be_anothers_is_left_alone(runs: Runs, change: str):
    """Whoever has the pid now, but another start, or was seen on another boot or in another namespace, lives on."""
    runs.script(HIDES)
    hidden = hide_and_kill(runs, runs.start("run", "train.py", "--run-id", "r", stdout=subprocess.PIPE))
    path = runs.rundir("r") / "tree.json"
    tree = json.loads(path.read_text())
    match change:
        case "start":
            tree["members"] = [(pid, start + 1) for pid, start in tree["members"]]
        case "boot":
            tree["boot_id"] = "another"
        case "namespace":
            tree["pid_namespace"] = "pid:[1]"
        case "session":
            tree["session"] = 2
    path.write_text(json.dumps(tree))
    assert "interrupted" in runs.call("list").stdout
    assert is_alive(hidden)
    hidden.kill()
    wait_for(lambda: not is_alive(hidden))


def test_nothing_is_left_of_what_was_known_of_the_tree(runs: Runs):
    """The file is there while the session lasts, and not after it."""
    runs.script("while not os.path.exists('go'): time.sleep(0.02)")
    process = runs.start("run", "train.py", "--run-id", "r")
    path = runs.home / "runs" / "r" / "tree.json"
    wait_for(path.exists)
    (runs.work / "go").touch()
    assert process.wait(HANG_S) == 0
    assert not path.exists()


def test_ctrl_z_suspends_the_tree_and_its_clock(runs: Runs):
    """Ctrl-Z stops trainer and supervisor, shows the run as paused, and the time does not count."""
    runs.script(
        """
        step = 0
        while not os.path.exists("go"):
            step += 1
            print(json.dumps({"step": step}), flush=True)
            time.sleep(0.02)
        """
    )
    process = runs.start("run", "train.py", "--run-id", "r", stdout=subprocess.DEVNULL)
    wait_for(lambda: runs.output("r"))
    deadline_s = runs.deadline_s("r")
    process.send_signal(signal.SIGTSTP)
    supervisor = psutil.Process(process.pid)
    wait_for(lambda: supervisor.status() == psutil.STATUS_STOPPED)
    wait_for(lambda: [p.status() for p in runs.tree()] == [psutil.STATUS_STOPPED])  # once it gets a core
    document = runs.document()
    assert (document["status"], document["reason"]) == ("paused", "Ctrl-Z")
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 1)  # what is tested is that time passes and does not count
    os.kill(process.pid, signal.SIGCONT)
    wait_for(lambda: runs.deadline_s("r") - deadline_s > 0.5)
    (runs.work / "go").touch()
    assert process.wait(HANG_S) == 0
    assert runs.document()["status"] == "completed"


def test_without_a_sub_reaper_the_tree_is_found_by_its_mark(runs: Runs):
    """macOS has no sub-reaper: sessions of their own and double-forked daemons are ended all the same."""
    runs.script(STUBBORN + FAMILY.replace('    subprocess.Popen(["env", "-i", "/usr/bin/setsid", "/bin/sleep", "1001"])\n', "")
                + STARTS_THE_CLOCK + "    time.sleep(1000)")  # fmt: skip
    patch = OWN_CLOCK + "from backprop.supervisor.process import launch\nlaunch.HAS_SUBREAPER = False\n"
    done = runs.call_patched(patch, "run", "train.py", "-m", "0.02", "--grace", "1")
    assert done.returncode == 137
    assert runs.tree() == []
    assert sleepers(runs) == []
    assert runs.document()["status"] == "timeboxed"


def test_what_a_launcher_leaves_running_is_named_when_it_is_ended(runs: Runs):
    """In the end line, in `wait`, in status and in the record: what was ended may have been the training."""
    runs.script(
        """
        import multiprocessing
        multiprocessing.get_context("spawn").Pool(1)  # has helpers that end with it
        print("over", flush=True)
        """,
        "tidy.py",
    )
    # however long a busy machine takes to end them
    patch = "from backprop.supervisor import session\nsession._HELPERS_END_WITHIN_S = 100"
    done = runs.call_patched(patch, "run", "tidy.py", "--run-id", "tidy")
    assert (done.returncode, runs.document("tidy")["reason"]) == (0, None)
    assert "ended" not in done.stderr.splitlines()[-1]

    runs.script("print('step', flush=True)\ntime.sleep(600)")
    (runs.work / "launch.sh").write_text(
        f"{sys.executable} train.py &\nwhile ! [ -s $BACKPROP_RUN_DIR/*.out ]; do sleep 0.02; done\n"
    )
    done = runs.call("run", "--run-id", "r", "--", "sh", "launch.sh")
    assert done.returncode == 0
    told = f"its command exited, and what it left running was ended: {sys.executable} train.py"[:90]
    document = runs.document("r")
    assert (document["status"], document["reason"]) == ("completed", None)
    (leftover,) = document["sessions"][0]["leftovers"]
    assert leftover.startswith(f"{sys.executable} train.py"[:60])
    assert told in done.stderr.splitlines()[-1]
    for command in ("status", "wait"):
        done = runs.call(command, "r")
        assert told in done.stdout + done.stderr, command
    assert runs.tree() == []


def test_between_two_sessions_a_stop_is_for_the_next(runs: Runs):
    """It is not said to be over: the next one would begin all the same."""
    runs.script("time.sleep(600 if os.environ['BACKPROP_SESSION'] == '2' else sys.exit(1))")
    held = held_at("backprop.lifecycle.driver", "choose_checkpoint")
    running = runs.start_patched(held, "run", "train.py", "--retries", "1", "--run-id", "r")
    wait_for((runs.work / "held").exists)
    assert runs.document("r")["status"] == "failed"
    stopping = runs.start("stop", "r", stderr=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        stopping.wait(1)
    (runs.work / "go-on").touch()
    _, told = stopping.communicate(timeout=HANG_S)
    assert stopping.returncode == 0, told
    running.wait(HANG_S)
    document = runs.document("r")
    assert len(document["sessions"]) == 1 or document["status"] == "stopped"
