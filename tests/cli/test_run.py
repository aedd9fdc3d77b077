"""`backprop run`, driven as a user drives it."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import BACKPROP, HANG_S, OWN_CLOCK, Runs, wait_for

COUNTING = """
    for step in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        print(json.dumps({"step": step, "loss": 1 / (step + 1), "total_steps": 3}), flush=True)
"""
SLOW = """
    for step in range(100_000):
        print(json.dumps({"step": step, "loss": 1.0}), flush=True)
        time.sleep(0.02)
"""


def test_a_script_runs_and_is_recorded(runs: Runs):
    """A script that ends by itself is completed, with its metrics in the record and exit code 0."""
    runs.script(COUNTING)
    done = runs.call("run", "train.py")
    assert done.returncode == 0
    document = runs.document()
    assert document["status"] == "completed"
    assert document["reason"] is None
    assert document["last_step"] == 2
    assert document["metrics"] == {"loss": pytest.approx(1 / 3), "total_steps": 3}
    assert document["exit_code"] == 0
    assert set(document) == {
        "id", "name", "status", "reason", "group", "tags", "notes", "parent", "decision", "archived", "command", "cwd", "python", "created_at", "started_at", "ended_at",
        "stopped_by", "elapsed_s", "timebox_s", "sessions", "last_step", "metrics", "best", "printed_metrics",
        "tracked_metrics", "sampled_metrics", "params", "default_params", "total_steps", "step_unit", "last_step_at",
        "steps_per_s",
        "remaining_s", "remaining_is_estimate", "silent_s", "stalled_s", "life", "checkpoints", "checkpoint_count",
        "git", "code_notes", "snapshot_of", "request_id", "sweep", "exit_code", "session_count", "usage",
        "host", "job", "pid", "run_dir",
    }  # fmt: skip
    assert set(document["sessions"][0]) == {
        "number", "status", "reason", "started_at", "ended_at", "elapsed_s", "exit_code", "host", "job",
        "stopped_by", "paused_by", "paused_s", "pauses",
        "resume", "offered", "checkpoint_read", "resumed_from", "started_over", "only_once", "training_finished", "leftovers", "request_id",
        "git", "patch", "code_changed",
    }  # fmt: skip


def test_the_trainers_output_passes_through_untouched(runs: Runs):
    """stdout and stderr come out byte for byte, control characters of a progress bar included."""
    runs.script(
        """
        sys.stdout.buffer.write(b"half\\xff a line {not json}\\n\\x00")
        sys.stderr.buffer.write(b"\\r 10%|#   |\\r 90%|### |\\n")
        """
    )
    process = runs.start("run", "train.py", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=HANG_S)
    assert out == b"half\xff a line {not json}\n\x00"
    assert b"\r 10%|#   |\r 90%|### |\n" in err


def test_piped_output_has_no_control_characters_of_ours(runs: Runs):
    """What Backprop itself says to a pipe is plain lines."""
    runs.script(SLOW)
    done = runs.call("run", "train.py", "-m", "0.01", "--json")
    said = [line for line in done.stderr.splitlines() if line.startswith("backprop:")]
    assert len(said) == 2
    assert all(line.isprintable() for line in said)


def test_the_first_line_tells_the_timebox_and_how_to_change_it(runs: Runs):
    """Nobody is surprised by the default limit: it is said at the start."""
    runs.script(COUNTING)
    first = runs.call("run", "train.py").stderr.splitlines()[0]
    assert "timebox 10 min" in first
    assert "ends " in first
    assert "-m MINUTES" in first


def test_the_last_line_tells_how_to_go_on(runs: Runs):
    """A timeboxed run ends with the exact command that continues it."""
    runs.script(SLOW)
    done = runs.call("run", "train.py", "-m", "0.01", "--run-id", "abc")
    assert done.returncode == 0
    assert "resume with: backprop resume abc" in done.stderr.splitlines()[-1]
    assert "timeboxed" in done.stderr.splitlines()[-1]


def test_a_script_with_argparse_runs_unchanged(runs: Runs):
    """No argument is added, and the script's own arguments become parameters."""
    runs.script(
        """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--lr", type=float)
        parser.add_argument("--layers", type=int, nargs="+")
        print(parser.parse_args())
        """
    )
    done = runs.call("run", "train.py", "--", "--lr", "1e-3", "--layers", "64", "32")
    assert done.returncode == 0
    assert "Namespace(lr=0.001, layers=[64, 32])" in done.stdout
    assert runs.document()["params"] == {"lr": 0.001, "layers": [64, 32]}


def test_a_command_runs_as_it_is(runs: Runs):
    """After `--` without a script comes a whole command, whose exit code is ours."""
    done = runs.call("run", "--", "bash", "-c", "echo hello; exit 7")
    assert done.returncode == 7
    assert done.stdout == "hello\n"
    document = runs.document()
    assert document["status"] == "failed"
    assert document["python"] is None


def test_params_events_join_the_parameters(runs: Runs):
    """What the script says of its parameters wins over what its arguments look like."""
    runs.script('print(json.dumps({"event": "params", "params": {"lr": 2, "seed": 7}}))')
    runs.call("run", "train.py", "--", "--lr", "1", "--amp")
    assert runs.document()["params"] == {"lr": 2, "seed": 7, "amp": True}


def test_a_crash_is_failed_with_the_last_line_of_stderr(runs: Runs):
    """The trainer's own exit code passes through and the reason names the exception."""
    runs.script('raise ValueError("no such layer")')
    done = runs.call("run", "train.py")
    assert done.returncode == 1
    document = runs.document()
    assert document["status"] == "failed"
    assert document["reason"] == "exit code 1: ValueError: no such layer"


def test_a_signal_that_nobody_here_sent_is_a_failure(runs: Runs):
    """A trainer killed by a stranger is failed, and exits as shells report signals."""
    runs.script("os.kill(os.getpid(), signal.SIGKILL)")
    done = runs.call("run", "train.py")
    assert done.returncode == 137
    document = runs.document()
    assert document["status"] == "failed"
    assert "SIGKILL" in document["reason"]


def test_nan_and_infinity_are_kept(runs: Runs):
    """Diverged metrics are in the record, as strings in JSON."""
    runs.script('print(json.dumps({"step": 1, "loss": float("nan"), "a": float("inf"), "b": float("-inf")}))')
    assert runs.call("run", "train.py").returncode == 0
    assert runs.document()["metrics"] == {"loss": "NaN", "a": "Infinity", "b": "-Infinity"}


def test_a_script_that_prints_nothing_is_fine(runs: Runs):
    """No metrics, no step, completed."""
    runs.script("")
    assert runs.call("run", "train.py").returncode == 0
    document = runs.document()
    assert (document["status"], document["last_step"], document["metrics"]) == ("completed", None, {})


def test_the_script_finds_what_it_was_promised_in_its_environment(runs: Runs):
    """The contract's variables are set; BACKPROP_RESUME_FROM only when there is something to resume."""
    runs.script(
        """
        names = ["RUN_ID", "RUN_DIR", "SESSION", "RESUME_FROM", "TIMEBOX_S", "CONTROL", "CHECKPOINT_EVERY_S",
                 "FRAMEWORK"]
        seen = {name: os.environ.get("BACKPROP_" + name) for name in names}
        seen["PYTHONUNBUFFERED"] = os.environ["PYTHONUNBUFFERED"]
        seen["control"] = json.load(open(os.environ["BACKPROP_CONTROL"]))
        seen["stdin"] = sys.stdin.read()
        print(json.dumps(seen))
        """
    )
    began = time.time()
    done = runs.call("run", "train.py", "-m", "2", "-c", "0.5", "-f", "pytorch", BACKPROP_RESUME_FROM="stale")
    seen = json.loads(done.stdout)
    document = runs.document()
    assert seen["RUN_ID"] == document["id"]
    assert seen["RUN_DIR"] == document["run_dir"]
    assert (seen["SESSION"], seen["RESUME_FROM"], seen["TIMEBOX_S"]) == ("1", None, "120")
    assert (seen["CHECKPOINT_EVERY_S"], seen["FRAMEWORK"], seen["PYTHONUNBUFFERED"]) == ("30", "pytorch", "1")
    assert seen["stdin"] == ""
    assert seen["control"]["stop_wanted"] is False
    assert began - 1 <= seen["control"]["deadline_unix_s"] - 120 <= time.time() + 1


def test_json_goes_alone_to_stdout(runs: Runs):
    """With --json stdout is one JSON document; the trainer's output is on stderr."""
    runs.script(COUNTING)
    done = runs.call("run", "train.py", "--json")
    assert json.loads(done.stdout)["status"] == "completed"
    assert '{"step": 2,' in done.stderr


def _interrupted(runs: Runs) -> tuple[int, dict]:
    """The exit code and the document of a run that gets one SIGINT when its script says that it is ready."""
    process = runs.start("run", "train.py", stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=HANG_S)
    return process.returncode, runs.document()


def test_ctrl_c_stops_gracefully(runs: Runs):
    """One SIGINT: the script's KeyboardInterrupt handler runs; stopped, exit code 130."""
    runs.script(
        """
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            print(json.dumps({"step": 5, "saved": 1}), flush=True)
        """
    )
    code, document = _interrupted(runs)
    assert (code, document["status"], document["reason"], document["last_step"]) == (130, "stopped", "Ctrl-C", 5)


def test_an_interrupt_that_python_drops(runs: Runs):
    """It comes again: a script that frees an object while it is stopped saves as any other."""
    runs.script(
        """
        import weakref
        class Model: pass
        model = Model()
        freed = weakref.ref(model, lambda _: (print("ready", flush=True), time.sleep(60)))
        try:
            del model
            print("dropped", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            print(json.dumps({"step": 5, "saved": 1}), flush=True)
        """
    )
    _, document = _interrupted(runs)
    assert (document["reason"], document["last_step"]) == ("Ctrl-C", 5)


def test_a_dropped_interrupt_waits_for_the_hook_to_return(runs: Runs):
    """What comes while `sys.unraisablehook` runs is dropped for good: a busy machine, or a slow hook of the script's."""
    runs.script(
        """
        import weakref
        class Model: pass
        model = Model()
        def dropped(what, then=sys.unraisablehook):
            then(what)
            time.sleep(0.3)
        sys.unraisablehook = dropped
        freed = weakref.ref(model, lambda _: (print("ready", flush=True), time.sleep(60)))
        try:
            del model
            time.sleep(60)
        except KeyboardInterrupt:
            print(json.dumps({"step": 5, "saved": 1}), flush=True)
        """
    )
    _, document = _interrupted(runs)
    assert (document["reason"], document["last_step"]) == ("Ctrl-C", 5)


# Python drops a KeyboardInterrupt that comes up in such a callback; its import system has one for every module.
IN_A_CALLBACK = """
import os, signal, sys, weakref
from backprop import __main__
from backprop.supervisor import early_sigint as interrupts

class Module: pass

interrupts.remember()
module = Module()
gone = weakref.ref(module, lambda _: os.kill(os.getpid(), signal.SIGINT))
del module
sys.argv[0] = "backprop"
__main__.main()
"""


def test_ctrl_c_that_python_drops_while_it_imports_us(runs: Runs):
    """It is not lost: whatever began is stopped at once."""
    runs.script(SLOW)
    process = runs.start_program([sys.executable, "-c", IN_A_CALLBACK, "run", "train.py"], stderr=subprocess.PIPE)
    _, told = process.communicate(timeout=HANG_S)
    assert b"Exception ignored in" in told
    assert process.returncode == 130
    assert runs.document()["status"] == "stopped"


def test_a_second_ctrl_c_kills(runs: Runs):
    """A script that ignores SIGINT is gone at the second one, long before its grace."""
    runs.script("signal.signal(signal.SIGINT, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)")
    process = runs.start("run", "train.py", "--grace", "50", stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    run_id = runs.only_id()
    wait_for(lambda: any(entry["event"] == "signalled" for entry in runs.journal(run_id)))
    time.sleep(0.3)  # a person's second press; faster ones are taken for an echo of the first
    process.send_signal(signal.SIGINT)
    assert process.wait(HANG_S) == 137
    assert runs.document()["reason"] == "Ctrl-C; had to be killed"
    assert runs.tree() == []


@pytest.mark.parametrize("code", [0, 130])
def test_a_signal_to_trainer_and_supervisor_at_once(runs: Runs, code: int):
    """It is what the session ended by, also when the trainer is gone before the supervisor, at work, hears of it."""
    runs.script(
        f"""
        print("".join(json.dumps({{"step": step}}) + "\\n" for step in range(200_000)))
        time.sleep(0.5)  # the supervisor has begun to read, and has enough of it
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit({code})
        """
    )
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    document = runs.document("r")
    assert (document["status"], document["reason"]) == ("stopped", "the supervisor received SIGTERM")


def test_a_sigterm_to_all_processes_that_reaches_the_supervisor_last(runs: Runs):
    """As `scancel` and `systemctl stop` send it: it is what the session ended by, not a failure of the trainer."""
    runs.script(
        """
        supervisor, trainer = os.getppid(), os.getpid()
        if os.fork() == 0:
            while os.getppid() == trainer:
                time.sleep(0.01)
            os.kill(supervisor, signal.SIGTERM)
            os._exit(0)
        os.kill(trainer, signal.SIGTERM)
        """
    )
    # however long a busy machine takes to send the second one
    patch = "from backprop.supervisor import session\nsession._SIGTERM_TO_ALL_S = 100"
    assert runs.call_patched(patch, "run", "train.py", "--run-id", "r").returncode == 0
    document = runs.document("r")
    assert (document["status"], document["reason"]) == ("stopped", "the supervisor received SIGTERM")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_closed_terminal_walks_the_ladder(runs: Runs, number: signal.Signals):
    """SIGTERM and SIGHUP to the supervisor stop the run gracefully."""
    runs.script("try:\n    print('ready', flush=True)\n    time.sleep(60)\nfinally:\n    print('saved', flush=True)")
    process = runs.start("run", "train.py", stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.stdout.read() == b"saved\n"
    assert process.wait(HANG_S) == 0
    document = runs.document()
    assert document["status"] == "stopped"
    assert number.name in document["reason"]


def test_a_detached_run_survives_its_terminal(runs: Runs):
    """-d gives the id at once; the run ignores SIGHUP and ends as it should."""
    runs.script("while not os.path.exists('go'): time.sleep(0.02)\nprint(json.dumps({'step': 9}))")
    done = runs.call("run", "-d", "train.py")
    assert done.returncode == 0
    run_id = done.stdout.strip()
    document = runs.document(run_id)
    assert document["status"] == "running"
    os.kill(document["pid"], signal.SIGHUP)
    (runs.work / "go").touch()
    wait_for(lambda: runs.document(run_id)["status"] == "completed")
    assert runs.document(run_id)["last_step"] == 9


def test_a_detached_trainer_can_be_hung_up_like_any_other(runs: Runs):
    """Only the supervisor ignores SIGHUP: its trainer starts with the signals it would have alone."""
    runs.script(
        "print(signal.getsignal(signal.SIGHUP) == signal.SIG_DFL, signal.getsignal(signal.SIGTERM), flush=True)"
    )
    run_id = runs.call("run", "-d", "train.py").stdout.strip()
    wait_for(lambda: runs.document(run_id)["status"] == "completed")
    assert runs.output(run_id) == f"True {signal.SIG_DFL}\n"


def test_a_detached_run_that_cannot_start_says_so(runs: Runs):
    """Errors come to the terminal that asked, not into a log nobody reads."""
    done = runs.call("run", "-d", "nope.py")
    assert done.returncode == 2
    assert "no such script: nope.py" in done.stderr


def test_head_does_not_stop_training(runs: Runs):
    """When nobody reads our stdout any more, training goes on."""
    runs.script(COUNTING)
    process = runs.start("run", "train.py", "--", "20000", stdout=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(HANG_S) == 0
    assert runs.document()["last_step"] == 19999


def test_a_reader_that_hangs_does_not_postpone_the_timebox(runs: Runs):
    """The trainer is ended in time although our stdout is a full pipe that nobody empties; and the run is free then."""
    runs.script("while True: print('x' * 1000)")
    process = runs.start_patched(OWN_CLOCK, "run", "train.py", "-m", "0.02", "--grace", "1", stdout=subprocess.PIPE)
    run_id = runs.only_id()
    wait_for(lambda: len(runs.output(run_id)) > 1_000_000)
    (runs.work / "clock").touch()
    wait_for(lambda: any(entry["event"] == "session_ended" for entry in runs.journal(run_id)))
    assert runs.tree() == []
    assert runs.call("wait", run_id).returncode == 0
    assert runs.call("resume", run_id, "-m", "0.02", "--detach").returncode == 0
    assert runs.call("stop", run_id, "--now").returncode in {0, 2}
    assert process.poll() is None
    process.stdout.close()
    assert process.wait(HANG_S) == 0


def test_dry_run_does_nothing_but_say_what_it_would(runs: Runs):
    """--dry-run shows command and limits and leaves no run behind."""
    runs.script(COUNTING)
    done = runs.call("run", "train.py", "--dry-run", "-m", "3", "--", "--lr", "2")
    assert done.returncode == 0
    assert "train.py --lr 2" in done.stdout
    assert "3 min" in done.stdout
    assert not runs.home.exists()


def test_a_dry_run_for_slurm_says_what_sbatch_would_be_told(runs: Runs):
    """This machine's room and GPUs are not spoken of: no session would start here. It takes no Slurm to say so."""
    runs.script(COUNTING)
    words = ("run", "train.py", "--dry-run", "--on", "slurm:gpu", "--gpus", "2", "--min-free-ram", "100000")
    done = runs.call(*words)
    assert done.returncode == 0, done.stderr
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith("params"))
    assert {"--partition=gpu", "--gpus-per-node=2"} <= set(rows["slurm"].split())
    assert not {"gpus", "start"} & set(rows)
    plan = json.loads(runs.call(*words, "--json").stdout)
    assert "--partition=gpu" in plan["sbatch"]
    assert not {"admitted", "reason", "gpus", "figures"} & set(plan)
    assert not runs.home.exists()


def test_a_dry_run_of_several_says_what_each_would_be(runs: Runs):
    """A line, and an entry, for each; on Slurm they are one array."""
    runs.script(COUNTING)
    words = ("run", "train.py", "--dry-run", "--vary", "lr=1,2,3", "--on", "slurm")
    told = runs.call(*words).stdout
    assert [line.split()[-1] for line in told.splitlines() if line.startswith("command")] == ["1", "2", "3"]
    assert "--array=0-2" in told
    plan = json.loads(runs.call(*words, "--json").stdout)
    assert [one["params"] for one in plan["runs"]] == [{"lr": 1}, {"lr": 2}, {"lr": 3}]
    assert "--array=0-2" in plan["sbatch"]
    assert not runs.home.exists()


def test_a_machine_without_room_refuses(runs: Runs):
    """Too little RAM: exit code 75, a word on what is missing, and a record of the refusal."""
    runs.script(COUNTING)
    done = runs.call("run", "train.py", "--min-free-ram", "100000", "--json")
    assert done.returncode == 75
    assert "--min-free-ram" in done.stderr
    document = json.loads(done.stdout)
    assert (document["status"], document["sessions"]) == ("refused", [])


BAD_INPUT = {
    "missing script": (["run", "nope.py"], "no such script: nope.py"),
    "folder": (["run", "."], "is a folder"),
    "nothing": (["run"], "name a script"),
    "no such command": (["run", "--", "nosuchcommand"], "no such command"),
    "unknown option": (["run", "train.py", "--lr", "3"], "go after '--'"),
    "extra argument": (["run", "train.py", "extra"], "go after '--'"),
    "zero minutes": (["run", "train.py", "-m", "0"], "-m/--max-run-minutes '0'"),
    "nan minutes": (["run", "train.py", "-m", "nan"], "'nan': invalid value"),
    "negative minutes": (["run", "train.py", "-m", "-1"], "'-1': invalid value"),
    "no number": (["run", "train.py", "-m", "ten"], "'ten': invalid value"),
    "negative grace": (["run", "train.py", "--grace", "-1"], "--grace '-1'"),
    "framework": (["run", "train.py", "-f", "jax"], "auto, pytorch or tensorflow"),
    "id with a slash": (["run", "train.py", "--run-id", "a/b"], "cannot be used"),
    "id dots": (["run", "train.py", "--run-id", ".."], "cannot be used"),
    "no such python": (["run", "train.py", "--python", "/nope"], "no such interpreter"),
    "no such config": (["run", "train.py", "--config", "nope.json"], "no such file"),
    "no such checkpoint": (["run", "train.py", "-r", "nope.pt"], "no such file"),
    "unknown command": (["frobnicate"], "no such command"),
    "python for a command": (["run", "--python", "x", "--", "true"], "needs a script"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_line_and_exit_code_2(runs: Runs, case: str):
    """One clear line on stderr, nothing on stdout, and no half-made run behind."""
    runs.script(COUNTING)
    words, expected = BAD_INPUT[case]
    done = runs.call(*words)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(runs.home.glob("runs/*")) == []


def test_an_id_that_exists_is_refused(runs: Runs):
    """A second run of the same id does not touch the first."""
    runs.script(COUNTING)
    runs.call("run", "train.py", "--run-id", "mine")
    done = runs.call("run", "train.py", "--run-id", "mine")
    assert done.returncode == 2
    assert "already exists" in done.stderr
    assert len(runs.document("mine")["sessions"]) == 1


def test_a_broken_configuration_names_file_key_value_and_what_is_allowed(runs: Runs):
    """A wrong value in a project file is an error with all four, and nothing is started."""
    runs.script(COUNTING)
    (runs.work / "backprop.config.json").write_text('{"maxRunMinutes": "soon"}')
    done = runs.call("run", "train.py")
    assert done.returncode == 2
    for word in ("backprop.config.json", "maxRunMinutes", "'soon'", "minutes > 0"):
        assert word in done.stderr


def test_a_home_that_cannot_be_written_is_named(runs: Runs):
    """A file where the home should be: one line, exit code 2."""
    runs.script(COUNTING)
    runs.home.write_text("")
    done = runs.call("run", "train.py")
    assert done.returncode == 2
    assert str(runs.home) in done.stderr
    assert "BACKPROP_HOME" in done.stderr


def test_git_state_and_patch_are_kept(runs: Runs):
    """Commit, branch and dirty flag are in the record, uncommitted changes in code.patch."""
    script = runs.script(COUNTING)
    for words in (
        ["init", "-q", "-b", "trunk"],
        ["add", "."],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first"],
    ):
        subprocess.run(["git", *words], cwd=runs.work, check=True)
    runs.call("run", "train.py", "--run-id", "clean")
    script.write_text(script.read_text() + "# changed\n")
    runs.call("run", "train.py", "--run-id", "dirty")
    runs.script(COUNTING, "new.py")
    runs.call("run", "new.py", "--run-id", "untracked")
    clean, dirty = runs.document("clean")["git"], runs.document("dirty")["git"]
    assert (clean["branch"], clean["dirty"], len(clean["commit"])) == ("trunk", False, 40)
    assert dirty["dirty"] is True
    assert "+# changed" in (runs.rundir("dirty") / "code.patch").read_text()
    assert not (runs.rundir("clean") / "code.patch").exists()
    assert runs.document("untracked")["git"]["dirty"] is True
    assert "+for step in" in (runs.rundir("untracked") / "code.patch").read_text().replace("    ", "")


def test_the_trainer_goes_first_when_memory_runs_out(runs: Runs):
    """The kernel is told to choose the trainer, not the desktop; the supervisor keeps its own standing."""
    runs.script("print(open('/proc/self/oom_score_adj').read(), flush=True)")
    process = runs.start("run", "train.py", stdout=subprocess.PIPE)
    own = int(Path(f"/proc/{process.pid}/oom_score_adj").read_text())
    assert int(process.stdout.readline()) > own


def test_the_module_runs_like_the_command(runs: Runs):
    """`python -m backprop` is the same program."""
    done = subprocess.run([sys.executable, "-m", "backprop", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == subprocess.run([BACKPROP, "--version"], capture_output=True, text=True, check=True).stdout


def test_windows_is_told_of_wsl2():
    """A clear message instead of a crash in a module that needs POSIX."""
    program = "import sys; sys.platform = 'win32'; from backprop.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "WSL2" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("stauts", "status"),
        ("lits", "list"),
        ("resum", "resume"),
        ("rnu", "run"),
        ("ls", "list"),  # what people type out of habit
        ("ps", "status"),
        ("kill", "stop"),
    ],
)
def test_a_misspelt_command_is_recognised(runs: Runs, word: str, meant: str):
    done = runs.call(word)
    assert (done.returncode, done.stderr) == (2, f"backprop: no such command '{word}': did you mean {meant}?\n")


def test_a_misspelt_option_is_recognised(runs: Runs):
    """Also of `run`, where it may be the script's, too; one that only looks alike by chance is not offered."""
    hint = "The script's own arguments go after '--': backprop run train.py -- --lr 0.1\n"
    for words, told in (
        (["run", "train.py", "--max-run-minuts", "3"], f"--max-run-minuts. Did you mean --max-run-minutes? {hint}"),
        (["run", "train.py", "--max-run", "3"], f"--max-run. Did you mean --max-run-minutes? {hint}"),
        (["run", "train.py", "--model", "x"], f"--model. {hint}"),
        (["list", "--jsn"], "--jsn. Did you mean --json?\n"),
    ):
        done = runs.call(*words)
        assert (done.returncode, done.stderr) == (2, f"backprop: no such option: {told}")


def test_what_is_no_whole_number_is_told_in_words(runs: Runs):
    """Not in those of a programmer."""
    assert "'x' is not a whole number" in runs.call("list", "--limit", "x").stderr


def test_runs_of_the_example_leave_one_anothers_checkpoints_alone(runs: Runs):
    """Each saves into a folder of its own."""
    example = Path(__file__).parents[2] / "examples" / "digits.py"
    for run_id in ("a", "b"):
        assert runs.call("run", example, "--run-id", run_id, "--", "--epochs", "1").returncode == 0
    assert {path.parent.name for path in (runs.work / "digits-checkpoints").rglob("*.npz")} == {"a", "b"}


def test_a_relative_checkpoint_is_looked_for_where_the_script_is(runs: Runs):
    """As Hydra's scripts, which change into a folder of their own; the same name elsewhere is none of theirs."""
    (runs.work / "last.json").write_text("{}")
    runs.script(
        """
        os.makedirs("outputs/1")
        os.chdir("outputs/1")
        open("last.json", "w").write('{"step": 7}')
        print(json.dumps({"event": "checkpoint_saved", "path": "last.json", "step": 7}), flush=True)
        while not os.path.exists("../../seen"):
            time.sleep(0.01)
        """
    )
    running = runs.start("run", "--run-id", "r", "--", "sh", "-c", f"{sys.executable} train.py; true")
    runs.only_id()
    wait_for(lambda: runs.document("r")["checkpoints"])
    (runs.work / "seen").touch()
    assert running.wait(HANG_S) == 0
    saved = str(runs.work / "outputs" / "1" / "last.json")
    assert [c["path"] for c in runs.document("r")["checkpoints"]] == [saved]
    assert runs.call("reindex").returncode == 0
    assert [c["path"] for c in runs.document("r")["checkpoints"]] == [saved]


def test_a_reported_checkpoint_that_does_not_exist_is_said_at_once(runs: Runs):
    """Once, though it is reported again; what exists is not mentioned."""
    runs.script(
        """
        open("there.json", "w").write("{}")
        for step, path in enumerate(("there.json", "nowhere.json", "nowhere.json"), start=1):
            print(json.dumps({"event": "checkpoint_saved", "path": path, "step": step}), flush=True)
            while open(os.path.join(os.environ["BACKPROP_RUN_DIR"], "journal.jsonl")).read().count("measured") < step:
                time.sleep(0.01)
        """
    )
    told = runs.call("run", "train.py").stderr
    assert told.count("a checkpoint was reported that does not exist") == 1
    assert str(runs.work / "nowhere.json") in told


def test_a_relative_checkpoint_of_a_script_that_has_ended(runs: Runs):
    """It was seen where it was; that it is gone when its only report is read is no matter."""
    runs.script(
        """
        os.mkdir("out")
        os.chdir("out")
        for path in (os.path.abspath("first.json"), "last.json"):
            open(path, "w").write("{}")
            print(json.dumps({"event": "checkpoint_saved", "path": path, "step": 7}), flush=True)
            journal = os.path.join(os.environ["BACKPROP_RUN_DIR"], "journal.jsonl")
            while path != "last.json" and "first.json" not in open(journal).read():
                time.sleep(0.01)
        os._exit(0)
        """
    )
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    assert runs.document("r")["checkpoints"][-1]["path"] == str(runs.work / "out" / "last.json")


@pytest.mark.parametrize("asks", ["input('sure? ')", "breakpoint()", "__import__('getpass').getpass()"])
def test_a_script_that_asks_is_told_that_nobody_answers(runs: Runs, asks: str):
    """Its stdin is empty, whatever that of the command is."""
    runs.script(asks)
    done = runs.call("run", "train.py")
    assert done.returncode == 1
    assert "(a run's stdin is /dev/null; `backprop run --stdin -` passes yours on)" in done.stderr.splitlines()[-1]


# -- stdin

READER = """
    print(json.dumps({"event": "params", "params": {"read": sys.stdin.read()}}), flush=True)
    """


def test_stdin_reaches_the_script_where_that_is_asked(runs: Runs):
    """A file, in a resumed session too; or the command's own. Else it is said that what is piped in does not."""
    runs.script(READER)
    (runs.work / "config.txt").write_text("from a file")
    done = runs.call("run", "train.py", "--run-id", "r", "--stdin", "config.txt")
    assert done.returncode == 0, done.stderr
    assert runs.document("r")["params"] == {"read": "from a file"}
    (runs.work / "config.txt").write_text("changed")
    assert runs.call("resume", "r", "--again").returncode == 0
    assert runs.document("r")["params"] == {"read": "changed"}

    for options, read, told in (((), "", b"--stdin -"), (("--stdin", "-"), "from a pipe", b"")):
        reader, writer = os.pipe()
        os.write(writer, b"from a pipe")
        os.close(writer)
        process = runs.start("run", "train.py", *options, stdin=reader, stderr=subprocess.PIPE)
        os.close(reader)
        _, stderr = process.communicate(timeout=HANG_S)
        assert runs.document()["params"] == {"read": read}
        assert (b"piped input does not reach the script" in stderr) == bool(told)


def test_a_script_can_ask_in_a_terminal(runs: Runs):
    """With --stdin -, input() and getpass work, though the trainer is in a session of its own."""
    runs.script("""
        import getpass
        print("got", input("overwrite? "), getpass.getpass("password: "), flush=True)
        """)
    master, slave = pty.openpty()
    process = runs.start("run", "train.py", "--run-id", "r", "--stdin", "-", stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    os.set_blocking(master, False)
    seen = b""

    def shows(text: bytes) -> bool:
        nonlocal seen
        with contextlib.suppress(BlockingIOError, OSError):
            seen += os.read(master, 65536)
        return text in seen

    wait_for(lambda: shows(b"overwrite? "))
    os.write(master, b"yes\n")
    wait_for(lambda: shows(b"password: "))
    os.write(master, b"secret\n")
    wait_for(lambda: shows(b"got yes secret"))
    assert process.wait(HANG_S) == 0
    assert b"secret" not in seen.partition(b"got yes")[0]
    os.close(master)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stdin", "none.txt"], "not a readable file"),
        (["--stdin", "."], "not a readable file"),
        (["--stdin", "-", "-d"], "in the foreground"),
        (["--stdin", "train.py", "--on", "slurm"], "runs on this machine"),
    ],
)
def test_stdin_that_cannot_be_given(runs: Runs, options: list[str], message: str):
    """Said before there is a run."""
    runs.script("pass")
    done = runs.call("run", "train.py", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(runs.home.glob("runs/*"))


def test_a_home_is_its_owners_alone(runs: Runs):
    """Whatever the umask: patches, logs and snapshots may hold secrets."""
    runs.script(
        """
        import backprop
        for step in backprop.loop(range(3)):
            backprop.log(step, loss=1.0)
            backprop.save({"step": step}, step, path="model.pkl")
        """
    )
    (runs.work / "module.py").write_text("x = 1\n")
    words = [BACKPROP, "run", "--snapshot", "train.py", "--run-id", "a"]
    assert runs.start_program(["sh", "-c", 'umask 0; exec "$@"', "sh", *words]).wait(HANG_S) == 0
    inside = runs.rundir("a") / "snapshot"  # which is closed itself
    open_to_others = [
        str(path)
        for path in [runs.home, *runs.home.rglob("*")]
        if "line" not in path.parts  # of the queue: see test_line.py
        if path.lstat().st_mode & 0o077 and not path.is_symlink() and inside not in path.parents
    ]
    assert open_to_others == []
