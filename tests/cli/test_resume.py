"""`backprop resume`: the newest whole checkpoint, the same everything else."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HANG_S, Runs, recorded, wait_for

# Counts to a limit; saves its counter as JSON every 10 steps; continues from BACKPROP_RESUME_FROM.
COUNTER = """
    start = 0
    if path := os.environ.get("BACKPROP_RESUME_FROM"):
        start = json.load(open(path))["step"]
    for step in range(start + 1, 41):
        print(json.dumps({"step": step, "start": start}), flush=True)
        if step % 10 == 0:
            path = f"ckpt-{step}.json"
            open(path + ".new", "w").write(json.dumps({"step": step, "padding": "x" * 1000}))
            os.rename(path + ".new", path)
            print(json.dumps({"event": "checkpoint_saved", "path": path, "step": step}), flush=True)
        if step == 25 and start == 0:
            sys.exit(3)
"""


@recorded
def failed(runs: Runs) -> None:
    """A run that failed at step 25, with whole checkpoints of steps 10 and 20."""
    runs.script(COUNTER)
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 3


def test_resume_continues_from_the_newest_checkpoint(failed: Runs):
    """Another session of the same run, from step 20, to the end."""
    done = failed.call("resume", "r")
    assert done.returncode == 0
    newest = failed.work / "ckpt-20.json"
    assert f"offering checkpoint {newest} (step 20)\n" in done.stderr
    assert f"resumed from {newest} (step 20)\n" in done.stderr
    document = failed.document("r")
    assert (document["status"], document["last_step"], document["metrics"]["start"]) == ("completed", 40, 20)
    assert [s["resumed_from"] for s in document["sessions"]] == [None, str(failed.work / "ckpt-20.json")]
    assert [s["status"] for s in document["sessions"]] == ["failed", "completed"]
    assert [(c["step"], c["session"], c["valid"]) for c in document["checkpoints"]] == [
        (10, 1, True), (20, 1, True), (30, 2, True), (40, 2, True),
    ]  # fmt: skip


def test_a_failed_run_with_a_checkpoint_says_how_to_go_on(runs: Runs):
    """The last line has the resume command where there is something to resume from."""
    runs.script(COUNTER)
    assert "backprop resume r" in runs.call("run", "train.py", "--run-id", "r").stderr


BREAK = {
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-30]), "bytes long, and was"),
    "gone": (lambda path: path.unlink(), "does not exist"),
    "garbage": (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "not valid JSON"),
}


@pytest.mark.parametrize("how", BREAK)
def test_a_broken_checkpoint_is_skipped_with_the_reason(failed: Runs, how: str):
    """The one before is used, and a line says why."""
    spoil, reason = BREAK[how]
    spoil(failed.work / "ckpt-20.json")
    done = failed.call("resume", "r")
    assert done.returncode == 0
    assert "ckpt-20.json is skipped" in done.stderr
    assert reason in done.stderr
    assert failed.document("r")["metrics"]["start"] == 10
    skipped = [e for e in failed.journal("r") if e["event"] == "checkpoint_skipped"]
    assert [Path(e["path"]).name for e in skipped] == ["ckpt-20.json"]


def test_none_left_starts_fresh_and_says_so(failed: Runs):
    """Without a whole checkpoint the script starts from the beginning."""
    for name in ("ckpt-10.json", "ckpt-20.json"):
        (failed.work / name).unlink()
    done = failed.call("resume", "r")
    assert "no valid checkpoint is left: the script starts over, unless it finds one by itself" in done.stderr
    assert done.returncode == 3
    document = failed.document("r")
    assert document["sessions"][1]["resumed_from"] is None


def test_a_checkpoint_can_be_forced(failed: Runs):
    """-r takes the one that is named."""
    assert failed.call("resume", "r", "-r", "ckpt-10.json").returncode == 0
    document = failed.document("r")
    assert document["metrics"]["start"] == 10
    assert document["sessions"][1]["resumed_from"] == str(failed.work / "ckpt-10.json")


def test_a_forced_checkpoint_that_looks_broken_is_used_with_a_warning(failed: Runs):
    """The user knows better, but hears of it."""
    (failed.work / "odd.json").write_text("{not json")
    done = failed.call("resume", "r", "-r", "odd.json")
    assert "warning" in done.stderr
    assert failed.document("r")["sessions"][1]["resumed_from"] == str(failed.work / "odd.json")


def test_resume_runs_where_and_as_the_run_was_started(failed: Runs):
    """The working directory is the run's, wherever resume is called from."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("backprop")), "resume", "r"],
        cwd="/", env=failed.environment, capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (failed.work / "ckpt-40.json").exists()


def test_a_script_that_changed_since_is_mentioned(failed: Runs):
    """Same command, other code: the user is told."""
    failed.script(COUNTER + "\n    pass")
    assert "has changed since" in failed.call("resume", "r").stderr


def test_an_unchanged_script_is_not_mentioned(failed: Runs):
    """No false alarm."""
    assert "has changed" not in failed.call("resume", "r").stderr


def test_a_script_that_declares_resume_from_gets_it(runs: Runs):
    """argparse's own --resume-from receives the path without asking; other arguments stay as they were."""
    runs.script(
        """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--resume-from")
        parser.add_argument("--lr")
        args = parser.parse_args()
        print(json.dumps({"event": "seen", "from": args.resume_from, "lr": args.lr}))
        open("a.json", "w").write("{}")
        print(json.dumps({"event": "checkpoint_saved", "path": "a.json", "step": 1}))
        """
    )
    runs.call("run", "train.py", "--", "--lr", "3")
    done = runs.call("resume", "last", "--again")
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[0]) == {"event": "seen", "from": str(runs.work / "a.json"), "lr": "3"}


# Says which arguments it got, and saves.
TELLS_ARGUMENTS = """
    print(sys.argv[1:])
    open("a.json", "w").write("{}")
    print(json.dumps({"event": "checkpoint_saved", "path": "a.json", "step": 7}))
"""


def test_resume_arg_names_the_flag(runs: Runs):
    """--resume-arg FLAG adds FLAG PATH on resume, and only then; each resume replaces the one before."""
    runs.script(TELLS_ARGUMENTS)
    assert runs.call("run", "train.py", "--resume-arg", "--ckpt", "--", "x").stdout.splitlines()[0] == "['x']"
    for _ in range(2):
        done = runs.call("resume", "last", "--again")
        assert done.stdout.splitlines()[0] == f"['x', '--ckpt', '{runs.work / 'a.json'}']"


def test_resume_args_are_words_with_places_to_fill_in(runs: Runs):
    """Constants, folder and step; `resume --resume-arg` says it anew."""
    runs.script(TELLS_ARGUMENTS)
    words = ("--resume-arg", "--init_from=resume", "--resume-arg", "--at={dir}:{step}")
    runs.call("run", "train.py", *words, "--", "--init_from=scratch")
    assert (
        runs.call("resume", "last", "--again").stdout.splitlines()[0] == f"['--init_from=resume', '--at={runs.work}:7']"
    )
    done = runs.call("resume", "last", "--again", "--resume-arg", "+ckpt={path}")
    assert done.stdout.splitlines()[0] == f"['--init_from=scratch', '+ckpt={runs.work / 'a.json'}']"


def test_a_record_made_before_there_were_words_is_understood(runs: Runs):
    """It has one flag, as a text."""
    runs.script(TELLS_ARGUMENTS)
    runs.call("run", "train.py", "--run-id", "r", "--resume-arg", "--ckpt")
    path = runs.rundir("r") / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resume_arg": "--ckpt"}))
    assert runs.call("resume", "r", "--again").stdout.splitlines()[0] == f"['--ckpt', '{runs.work / 'a.json'}']"


def test_a_run_can_start_from_a_checkpoint(runs: Runs):
    """`run -r PATH` gives the script the path in BACKPROP_RESUME_FROM."""
    runs.script("print(os.environ['BACKPROP_RESUME_FROM'])")
    (runs.work / "base.json").write_text("{}")
    assert runs.call("run", "train.py", "-r", "base.json").stdout == f"{runs.work / 'base.json'}\n"


def test_the_limits_are_the_runs_unless_changed(runs: Runs):
    """Timebox and grace are remembered; -m changes them for one session."""
    runs.script("")
    runs.call("run", "train.py", "--run-id", "r", "-m", "7", "--grace", "3")
    runs.call("resume", "r", "--again")
    assert runs.document("r")["timebox_s"] == 420
    runs.call("resume", "r", "--again", "-m", "1")
    assert runs.document("r")["timebox_s"] == 60
    started = [e for e in runs.journal("r") if e["event"] == "session_started"]
    assert [(e["timebox_s"], e["grace_s"]) for e in started] == [(420, 3), (420, 3), (60, 3)]


def test_a_run_that_is_going_on_is_refused(runs: Runs):
    """Exit code 75, who has it, and how to stop it."""
    runs.script("print('ready', flush=True); time.sleep(60)")
    process = runs.start("run", "train.py", "--run-id", "r", stdout=subprocess.PIPE)
    process.stdout.readline()
    done = runs.call("resume", "r", "--again")
    assert done.returncode == 75
    assert f"process {process.pid}" in done.stderr
    assert "backprop stop r" in done.stderr


def test_a_run_whose_supervisor_was_killed_resumes(runs: Runs):
    """After SIGKILL to the supervisor, resume goes on from the newest checkpoint as if nothing had been."""
    runs.script(COUNTER.replace("sys.exit(3)", "time.sleep(60)"))
    process = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: '"step": 25' in runs.output("r"))
    process.kill()
    process.wait()
    done = runs.call("resume", "r")
    assert done.returncode == 0, done.stderr
    document = runs.document("r")
    assert [s["status"] for s in document["sessions"]] == ["interrupted", "completed"]
    assert document["metrics"]["start"] == 20


def test_a_run_whose_machine_restarted_is_interrupted(runs: Runs):
    """Another boot id: nothing is hunted for, and the reason says what happened."""
    runs.script("print(json.dumps({'step': 4}), flush=True); time.sleep(60)")
    process = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: "step" in runs.output("r"))
    process.kill()
    process.wait()
    wait_for(lambda: not runs.tree())
    journal = runs.rundir("r") / "journal.jsonl"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    journal.write_text(journal.read_text().replace(boot_id, "00000000-0000-0000-0000-000000000000"))
    document = runs.document("r")
    assert (document["status"], document["reason"]) == ("interrupted", "the machine was restarted")
    assert document["last_step"] == 4
    assert runs.call("resume", "r", "-m", "0.005", "--grace", "60").returncode == 0


@pytest.mark.parametrize("count", [2, 8])
def test_of_resumes_at_once_exactly_one_wins(runs: Runs, count: int):
    """However close they are, one session is added, and the losers are told while the winner is still at it."""
    runs.script("while os.environ['BACKPROP_SESSION'] == '2' and not os.path.exists('go'): time.sleep(0.02)")
    runs.call("run", "train.py", "--run-id", "r")
    resumes = [runs.start("resume", "r", "--again") for _ in range(count)]
    wait_for(lambda: [process.poll() for process in resumes].count(75) == count - 1)
    (runs.work / "go").touch()
    assert sorted(process.wait(HANG_S) for process in resumes) == [0] + [75] * (count - 1)
    assert len(runs.document("r")["sessions"]) == 2


def test_what_has_gone_is_named(failed: Runs):
    """Without its script a run cannot be resumed; one line, exit code 2, no session added."""
    (failed.work / "train.py").unlink()
    done = failed.call("resume", "r")
    assert done.returncode == 2
    assert "the script of this run no longer exists" in done.stderr
    assert len(failed.document("r")["sessions"]) == 1


def test_a_completed_run_can_go_on(runs: Runs):
    """More epochs: a completed run is resumed like any other."""
    runs.script(COUNTER)
    runs.call("run", "train.py", "--run-id", "r")
    runs.call("resume", "r")
    assert runs.document("r")["status"] == "completed"
    assert runs.call("resume", "r", "--again").returncode == 0
    assert runs.document("r")["sessions"][2]["resumed_from"] == str(runs.work / "ckpt-40.json")


def test_a_checkpoint_folder_is_checked_by_its_manifest(runs: Runs):
    """A folder with a file missing is skipped although what is left is fine."""
    runs.script(
        """
        print(os.environ.get("BACKPROP_RESUME_FROM"), flush=True)
        for step in (1, 2):
            os.makedirs(f"c{step}", exist_ok=True)
            open(f"c{step}/weights.bin", "w").write("w" * 100)
            open(f"c{step}/state.json", "w").write("{}")
            print(json.dumps({"event": "checkpoint_saved", "path": f"c{step}", "step": step}), flush=True)
        """
    )
    runs.call("run", "train.py", "--run-id", "r")
    (runs.work / "c2" / "weights.bin").unlink()
    done = runs.call("resume", "r", "--again")
    assert "weights.bin is missing" in done.stderr
    assert done.stdout.splitlines()[0] == str(runs.work / "c1")


def test_the_example_learns_stops_and_resumes_exactly(runs: Runs):
    """digits.py in two sessions ends with the very weights of one uninterrupted session, above 95 % accuracy."""
    example = Path(__file__).parents[2] / "examples" / "digits.py"
    assert runs.call("run", example, "--run-id", "whole", "--", "--out", "whole").returncode == 0
    document = runs.document("whole")
    assert document["status"] == "completed"
    assert document["metrics"]["test_accuracy"] > 0.95
    runs.call("run", example, "--run-id", "cut", "-m", "0.03", "--", "--out", "cut")
    sessions = 1
    while runs.document("cut")["status"] == "timeboxed":
        assert runs.call("resume", "cut", "-m", "0.03" if sessions < 2 else "5").returncode == 0
        sessions += 1
    assert sessions >= 2
    assert runs.document("cut")["status"] == "completed"
    last = "step-002640.npz"
    import numpy as np

    with np.load(runs.work / "whole" / last) as whole, np.load(runs.work / "cut" / last) as cut:
        assert set(whole) == set(cut)
        assert all((whole[name] == cut[name]).all() for name in whole)


SAVES_IN_PLACE = """
    print("from", os.environ.get("BACKPROP_RESUME_FROM", "nothing"))
    open("last.json", "w").write('{"of": "%s"}' % os.environ["BACKPROP_RUN_ID"])
    print(json.dumps({"event": "checkpoint_saved", "path": "last.json", "step": 1}))
"""


def test_a_checkpoint_that_another_run_has_saved_over_is_not_taken(runs: Runs):
    """Two runs of a script share its output folder: what lies there is the later one's."""
    runs.script(SAVES_IN_PLACE)
    for run_id in ("a", "b"):
        assert runs.call("run", "train.py", "--run-id", run_id).returncode == 0
    done = runs.call("resume", "a", "--again")
    assert "last.json is skipped: run b has saved over it since" in done.stderr
    assert "no valid checkpoint is left: the script starts over, unless it finds one by itself" in done.stderr
    assert done.stdout.startswith("from nothing\n")
    # now it is a's again
    assert runs.call("resume", "a", "--again").stdout.startswith("from /")
    assert "run a has saved over it since" in runs.call("resume", "b", "--again").stderr


def test_a_completed_run_is_trained_again_only_on_purpose(runs: Runs):
    """Where nobody can be asked, only with --again."""
    runs.script("")
    runs.call("run", "train.py", "--run-id", "a")
    done = runs.call("resume", "a")
    assert done.returncode == 2
    assert "run a has completed; for another session: backprop resume a --again" in done.stderr
    assert len(runs.document("a")["sessions"]) == 1
    done = runs.call("resume", "a", "--again")
    assert done.returncode == 0
    assert "no checkpoint was found: the script starts over, unless it finds one by itself" in done.stderr
    assert len(runs.document("a")["sessions"]) == 2


def test_on_a_terminal_a_completed_run_is_asked_about(runs: Runs):
    """Yes gives it another session; anything else leaves it as it is."""
    runs.script("")
    runs.call("run", "train.py", "--run-id", "a")
    for answer, sessions in (("n", 1), ("y", 2)):
        master, slave = pty.openpty()
        resumed = runs.start("resume", "a", stdin=slave, stderr=subprocess.PIPE)
        os.close(slave)
        os.write(master, f"{answer}\n".encode())
        _, stderr = resumed.communicate(timeout=HANG_S)
        os.close(master)
        assert b"Run a has completed. Start another session?" in stderr
        assert resumed.returncode == 0
        assert len(runs.document("a")["sessions"]) == sessions


def test_the_last_line_promises_no_more_than_a_resume_can_do(runs: Runs):
    runs.script("time.sleep(60)")
    done = runs.call("run", "train.py", "--run-id", "a", "-m", 0.005)
    assert "no checkpoint was found; resume with: backprop resume a (starts over, unless the script" in done.stderr
    runs.script(SAVES_IN_PLACE + "    time.sleep(60)")
    done = runs.call("run", "train.py", "--run-id", "b", "-m", 0.01)
    assert "resume with: backprop resume b" in done.stderr


def test_a_checkpoint_that_was_deleted_is_gone_and_not_broken(runs: Runs):
    """Frameworks delete their older ones: that is no damage."""
    runs.script(SAVES_IN_PLACE)
    runs.call("run", "train.py", "--run-id", "a")
    (runs.work / "last.json").unlink()
    assert "(missing)" in runs.call("status", "a").stdout
    (runs.work / "last.json").write_text("{")
    assert "(invalid)" in runs.call("status", "a").stdout


def test_the_trainers_own_folder_is_its_pwd(runs: Runs, tmp_path: Path):
    """By the name that its user's shell has for it, and wherever it is resumed from."""
    runs.script('print(os.environ["PWD"], flush=True)')
    link = tmp_path / "link"
    link.symlink_to(runs.work)
    assert runs.call("run", "--run-id", "r", "train.py", PWD=str(link)).returncode == 0
    assert runs.output("r") == f"{link}\n"
    assert runs.call("resume", "r", "--again", PWD="/").returncode == 0
    assert runs.output("r", 2) == f"{runs.work}\n"


# Saves last.json at step 1000, unless it is there; what is appended trains in the second session.
SAVES_ONCE = """
    if not os.path.exists("last.json"):
        json.dump({"step": 1000}, open("last.json", "w"))
        print(json.dumps({"event": "checkpoint_saved", "path": "last.json", "step": 1000}), flush=True)
        sys.exit(1)
"""


def _resumed(runs: Runs, *lines: str) -> tuple[str, dict]:
    """What `resume` says of a second session that does this, and the session's document."""
    runs.script(SAVES_ONCE + "".join(f"    {line}\n" for line in lines))
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 1
    stderr = runs.call("resume", "r").stderr
    return stderr, runs.document("r")["sessions"][1]


def test_a_session_that_starts_over_is_said_to_do_so(runs: Runs):
    """It trains and has not read what it was offered: a warning at once, and in every view."""
    stderr, session = _resumed(runs, 'print(json.dumps({"step": 1}))')
    last = runs.work / "last.json"
    assert f"offering checkpoint {last} (step 1000)" in stderr
    assert f"WARNING: training began without reading {last} (step 1000): it starts from the beginning, unless" in stderr
    assert "resumed from" not in stderr
    note = "trained without reading last.json"
    assert note in stderr.splitlines()[-1]
    assert (session["offered"], session["resumed_from"]) == (str(last), None)
    assert (session["checkpoint_read"], session["started_over"]) == (False, True)
    for command in (("status", "r"), ("list",)):
        assert note in runs.call(*command).stdout


def test_a_session_that_ends_before_it_trains_has_not_started_over(runs: Runs):
    """It read nothing, and nothing more is claimed."""
    stderr, session = _resumed(runs, "sys.exit(7)")
    assert "beginning" not in stderr
    assert (session["checkpoint_read"], session["resumed_from"], session["started_over"]) == (False, None, False)
    assert "last.json, not read" in runs.call("status", "r").stdout


@pytest.mark.parametrize(
    "read",
    [
        'os.system("cat last.json > /dev/null")',
        'os.system("cp last.json copy.json")',
        'import mmap; file = open("last.json", "rb"); mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[0]; file.close()',
    ],
    ids=["another program", "a copy", "a memory map that is closed"],
)
def test_whatever_reads_it_is_seen(runs: Runs, read: str):
    """A program in another language, a memory map."""
    stderr, session = _resumed(runs, read, 'print(json.dumps({"step": 1001}))')
    last = runs.work / "last.json"
    assert f"resumed from {last} (step 1000)" in stderr
    assert (session["checkpoint_read"], session["resumed_from"]) == (True, str(last))
    assert session["started_over"] is False


def test_a_checkpoint_that_is_copied_aside_is_not_resumed_from(runs: Runs):
    """Not even if our hooks look into the copy, which has the name of a checkpoint."""
    stderr, session = _resumed(
        runs, "import shutil", 'shutil.copy("last.json", "aside.ckpt")', 'print(json.dumps({"step": 1}))'
    )
    assert "training began without reading" in stderr
    assert "resumed from" not in stderr
    assert (session["checkpoint_read"], session["resumed_from"], session["started_over"]) == (False, None, True)


@pytest.mark.parametrize(
    "read",
    ['open("copy.json").read()', "subprocess.run([sys.executable, '-c', 'open(\"copy.json\").read()'], check=True)"],
)
def test_a_copy_that_is_read_is_resumed_from(runs: Runs, read: str):
    """On a faster disk, say; by the script, or by a program that it starts."""
    stderr, session = _resumed(
        runs,
        "import shutil, subprocess",
        'shutil.copy("last.json", "copy.json")',
        read,
        'print(json.dumps({"step": 1001}))',
    )
    last = runs.work / "last.json"
    assert f"resumed from {last} (step 1000)" in stderr
    assert (session["checkpoint_read"], session["resumed_from"]) == (True, str(last))


def test_a_checkpoint_that_is_read_after_training_began(runs: Runs):
    """By a second training of the script, or to be evaluated once more: that it was read is said, and no more."""
    stderr, session = _resumed(
        runs,
        'print(json.dumps({"step": 1}), flush=True)',
        'while "checkpoint_unread" not in open(os.environ["BACKPROP_RUN_DIR"] + "/journal.jsonl").read():',
        "    time.sleep(0.02)",
        'open("last.json").read()',
    )
    assert stderr.index("training began without") < stderr.index("was read after training had begun")
    assert "resumed from" not in stderr
    assert (session["checkpoint_read"], session["resumed_from"], session["started_over"]) == (True, None, False)
    assert "last.json, read after training had begun" in runs.call("status", "r").stdout


def test_who_looks_at_a_run_does_not_read_its_checkpoint(runs: Runs):
    """All views judge checkpoints; what a session has not read yet they leave unopened."""
    lines = ['open("waits", "w")', 'while not os.path.exists("go"):', "    time.sleep(0.02)", "print('{\"step\": 1}')"]
    runs.script(SAVES_ONCE + "".join(f"    {line}\n" for line in lines))
    runs.call("run", "train.py", "--run-id", "r")
    resumed = runs.start("resume", "r", stderr=subprocess.PIPE)
    wait_for((runs.work / "waits").exists)
    for command in (("status", "r"), ("status", "r", "--json"), ("list", "--json"), ("status", "--json")):
        assert "last.json" in runs.call(*command).stdout
    (runs.work / "go").touch()
    _, stderr = resumed.communicate(timeout=HANG_S)
    assert b"training began without reading" in stderr
    assert runs.document("r")["sessions"][1]["checkpoint_read"] is False


def test_what_our_own_hooks_look_at_is_not_read(runs: Runs):
    """They want to know whether a state was offered before they take weights for a checkpoint; the script reads none."""
    runs.script(
        """
        import pickle
        if not os.path.exists("last.pkl"):
            with open("last.pkl", "wb") as file:
                pickle.dump({"weights": [0.5] * 100, "optimizer": {"momentum": [0.1]}, "epoch": 3}, file)
            sys.exit(1)
        for epoch in range(3):
            with open(f"epoch-{epoch}.pkl", "wb") as file:
                pickle.dump({"weights": [0.5] * 100, "epoch": epoch}, file)
        print(json.dumps({"step": 1}))
        """
    )
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 1
    assert "training began without reading" in runs.call("resume", "r").stderr
    document = runs.document("r")
    assert document["sessions"][1]["checkpoint_read"] is False
    assert [Path(one["path"]).name for one in document["checkpoints"]] == ["last.pkl"]


COUNTING = """
import sys
from backprop.store.journal import entries, file, fold

parse, count = entries.parse, 0

def counted(data, *rest):
    global count
    count += len(data) > {size} / 2
    return parse(data, *rest)

file.parse = fold.parse = counted
sys.argv = ["backprop", "resume", "r", "--again"]
from backprop.cli.app import main
try:
    main()
finally:
    print("read", count)
"""


def test_a_resume_reads_nothing_of_a_long_journal_again(runs: Runs):
    """It continues from the state in the index: what a session costs hardly grows with those before it."""
    runs.script("")
    runs.call("run", "train.py", "--run-id", "r")
    path = runs.rundir("r") / "journal.jsonl"
    first = [line for line in path.read_bytes().splitlines() if b'"session":1' in line]
    with path.open("ab") as journal:
        for number in range(2, 300):
            journal.writelines(line.replace(b'"session":1', b'"session":%d' % number) + b"\n" for line in first)
    runs.call("reindex")
    done = subprocess.run(
        [sys.executable, "-c", COUNTING.format(size=path.stat().st_size)],
        cwd=runs.work,
        env=runs.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "read 0", done.stderr
    assert len(runs.document("r")["sessions"]) == 300
