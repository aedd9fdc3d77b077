"""What `resume` may change of a run: arguments, its Python, its folder, its script; and what is remembered of that."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from backprop.views import python_api
from tests.conftest import Runs, recorded
from tests.fakes.slurm import put

# Says with what it was started, where, and by which Python; reports a relative checkpoint.
TELLER = """
    print(json.dumps([sys.argv[1:], os.getcwd(), sys.executable]))
    number = os.environ["BACKPROP_SESSION"]
    open(f"state-{number}.bin", "w").write("state")
    print(json.dumps({"event": "checkpoint_saved", "path": f"state-{number}.bin", "step": int(number)}))
    print(json.dumps({"step": int(number), "loss": 1.0}), flush=True)
    if os.path.exists("fail"):
        sys.exit(3)
"""


def told(runs: Runs, session: int) -> list:
    """[arguments, folder, Python] of a session."""
    return json.loads(runs.output("r", session).splitlines()[0])


@recorded
def made(runs: Runs) -> None:
    """A run with one session and one argument."""
    runs.script(TELLER)
    done = runs.call("run", "train.py", "--run-id", "r", "--", "--lr", "0.1")
    assert done.returncode == 0, done.stderr


def resume(runs: Runs, *words: object, **options: object) -> str:
    """Resume and give stderr."""
    done = runs.call("resume", "r", "--again", *words, **options)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_arguments_are_added_for_this_and_later_sessions(made: Runs):
    """`-- ARGS` end up behind the run's own, are remembered, and all views show them."""
    resume(made, "--", "--lr", "0.01", "--amp")
    resume(made)
    resume(made, "--", "--epochs", "3")
    assert [told(made, session)[0] for session in (1, 2, 3, 4)] == [
        ["--lr", "0.1"],
        ["--lr", "0.1", "--lr", "0.01", "--amp"],
        ["--lr", "0.1", "--lr", "0.01", "--amp"],
        ["--lr", "0.1", "--lr", "0.01", "--amp", "--epochs", "3"],
    ]
    document = made.document("r")
    assert document["command"][2:] == told(made, 4)[0]
    assert document["params"] == {"lr": 0.01, "amp": True, "epochs": 3}
    assert "--epochs 3" in made.call("status", "r").stdout
    assert [run.id for run in python_api.runs(search="--epochs 3", home=made.home)] == ["r"]
    original = json.loads((made.rundir("r") / "run.json").read_text())
    assert original["command"][2:] == ["--lr", "0.1"]
    assert made.call("reindex").returncode == 0
    assert made.document("r") == document


def test_arguments_may_be_for_one_session_only(made: Runs):
    """`--only-once`: the session has them, says so, and the next one has not."""
    resume(made, "--only-once", "--", "--reset")
    document = made.document("r")
    assert document["command"][2:] == ["--lr", "0.1"]
    assert [session["only_once"] for session in document["sessions"]] == [[], ["--reset"]]
    assert "one-time arguments --reset" in made.call("status", "r").stdout
    resume(made)
    assert [told(made, session)[0][2:] for session in (2, 3)] == [["--reset"], []]
    done = made.call("resume", "r", "--again", "--only-once")
    assert (done.returncode, "--only-once needs arguments after '--'" in done.stderr) == (2, True)


def test_what_is_for_once_is_shown_while_it_is_executed(made: Runs):
    """The command of a session that is going on is the one that is executed."""
    made.script(TELLER + "    while not os.path.exists('go'):\n        time.sleep(0.01)\n")
    made.own("r")
    assert made.call("resume", "r", "--again", "--only-once", "-d", "--", "--reset").returncode == 0
    assert made.document("r")["command"][2:] == ["--lr", "0.1", "--reset"]
    (made.work / "go").touch()
    assert made.call("wait", "r").returncode == 0
    assert made.document("r")["command"][2:] == ["--lr", "0.1"]


def test_a_retry_has_the_arguments_for_once_and_the_next_timebox_has_not(made: Runs):
    """A retry continues the timebox that the arguments were for; remembered ones are in all."""
    (made.work / "fail").touch()
    made.script(TELLER + "    if '--reset' not in sys.argv:\n        time.sleep(60)\n")
    made.call("resume", "r", "--again", "--only-once", "--retries", "1", "--", "--reset")
    assert [told(made, session)[0][2:] for session in (2, 3)] == [["--reset"], ["--reset"]]
    (made.work / "fail").unlink()
    made.script(TELLER + "    time.sleep(60)\n")
    resume(made, "--until-step", "1", "--sessions", "2", "--only-once", "--", "--reset")
    assert [told(made, session)[0][2:] for session in (4, 5)] == [["--reset"], []]
    resume(made, "--until-step", "1", "--sessions", "2", "--", "--amp")
    assert [told(made, session)[0][2:] for session in (6, 7)] == [["--amp"], ["--amp"]]


def test_a_session_that_never_began_changed_nothing(made: Runs):
    """Refused with arguments, and asked again: they are there once."""
    done = made.call("resume", "r", "--again", "--no-wait", "--min-free-ram", "100000", "--", "--amp")
    assert done.returncode == 75
    assert made.document("r")["command"][2:] == ["--lr", "0.1"]
    resume(made, "--", "--amp")
    assert told(made, 2)[0] == ["--lr", "0.1", "--amp"]


def test_another_flag_for_the_checkpoint_is_remembered(made: Runs):
    """`resume --resume-arg` says it for later sessions, too; and an argument that says the same is refused."""
    resume(made, "--resume-arg", "--load-ckpt")
    resume(made)
    assert told(made, 3)[0] == ["--lr", "0.1", "--load-ckpt", str(made.work / "state-2.bin")]
    done = made.call("resume", "r", "--again", "--", "--load-ckpt=mine.bin")
    assert (done.returncode, "--load-ckpt is set by Backprop" in done.stderr) == (2, True)
    assert "-r PATH" in done.stderr


def test_a_run_that_moved_as_a_whole(made: Runs, tmp_path: Path):
    """--cwd: the script's relative path counts from there, absolute checkpoints stay, relative ones are each session's."""
    moved = tmp_path / "moved"
    shutil.move(made.work, moved)
    made.work.mkdir()
    shutil.copy(moved / "state-1.bin", made.work)
    done = made.call("resume", "r", "--again")
    assert (done.returncode, "--script PATH" in done.stderr) == (2, True)
    assert f"offering checkpoint {made.work / 'state-1.bin'}" in resume(
        made, "--cwd", os.path.relpath(moved, made.work)
    )
    assert told(made, 2)[:2] == [["--lr", "0.1"], str(moved)]
    resume(made)
    assert told(made, 3)[1] == str(moved)
    document = made.document("r")
    assert document["cwd"] == str(moved)
    assert [one["path"] for one in document["checkpoints"]] == [
        str(made.work / "state-1.bin"), str(moved / "state-2.bin"), str(moved / "state-3.bin"),
    ]  # fmt: skip
    assert made.call("reindex").returncode == 0
    assert made.document("r") == document


def test_another_folder_for_a_script_that_stays(made: Runs, tmp_path: Path):
    """A script that is not in the new folder is run from where it is."""
    other = tmp_path / "other"
    other.mkdir()
    resume(made, "--cwd", other)
    assert told(made, 2)[1] == str(other)
    assert made.document("r")["command"][1] == str(made.work / "train.py")


def test_a_script_that_moved(made: Runs):
    """--script is relative to where it is typed, and remembered."""
    (made.work / "code").mkdir()
    (made.work / "train.py").rename(made.work / "code" / "renamed.py")
    resume(made, "--script", "code/renamed.py")
    resume(made)
    assert told(made, 3)[:2] == [["--lr", "0.1"], str(made.work)]
    assert made.document("r")["command"][1] == str(made.work / "code" / "renamed.py")
    done = made.call("resume", "r", "--again", "--script", "nowhere.py")
    assert (done.returncode, "no such script" in done.stderr) == (2, True)


def test_another_python(made: Runs):
    """--python is relative to where it is typed, and remembered."""
    (made.work / "env").symlink_to(Path(sys.executable).parent)
    name = Path(sys.executable).name
    resume(made, "--python", f"env/{name}")
    resume(made)
    assert told(made, 3)[2] == str(made.work / "env" / name)
    assert made.document("r")["python"] == str(made.work / "env" / name)
    done = made.call("resume", "r", "--again", "--python", "env/nothing")
    assert (done.returncode, "no such interpreter" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("gone", "option"), [("folder", "--cwd DIR"), ("script", "--script PATH"), ("python", "--python PATH")]
)
def test_what_is_gone_names_the_option(gone: str, option: str, runs: Runs, tmp_path: Path):
    """Each error says how to go on."""
    folder = tmp_path / "apart"
    folder.mkdir()
    runs.script(TELLER).rename(folder / "train.py")
    os.symlink(sys.executable, folder / "python")
    runs.work, work = folder, runs.work
    words = () if gone != "python" else ("--python", "./python")
    assert runs.call("run", "--run-id", "r", "train.py", *words).returncode == 0
    runs.work = work
    if gone == "folder":
        shutil.rmtree(folder)
    else:
        (folder / ("train.py" if gone == "script" else "python")).unlink()
    done = runs.call("resume", "r", "--again")
    assert done.returncode == 2
    assert f"the {gone if gone != 'python' else 'program'} of this run " in done.stderr
    assert option in done.stderr


def test_a_command_has_arguments_and_a_folder_but_no_script(runs: Runs, tmp_path: Path):
    """What follows '--' goes to the command's end; --script and --python mean nothing there. Its program is its own."""
    script = runs.script("#!/bin/sh\n", "train.sh")
    script.write_text('#!/bin/sh\necho "[\\"$*\\", \\"$PWD\\"]"\n')
    script.chmod(0o700)
    assert runs.call("run", "--run-id", "r", "--", "./train.sh", "a").returncode == 0
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(script, other)
    resume(runs, "--cwd", other, "--", "b")
    assert told(runs, 2) == ["a b", str(other)]
    for option in ("--script", "--python"):
        done = runs.call("resume", "r", "--again", option, "train.sh")
        assert (done.returncode, f"{option} is only for runs of a script" in done.stderr) == (2, True)
    (other / "train.sh").unlink()
    assert "put it on PATH" in runs.call("resume", "r", "--again").stderr


def test_a_dry_run_says_what_would_be_executed(made: Runs, tmp_path: Path):
    """All of it, with the checkpoint; and nothing is done or remembered."""
    before = made.journal("r")
    words = ("--resume-arg", "--at={step}:{path}", "--cwd", tmp_path, "-m", "3")
    done = made.call("resume", "r", "--again", "--dry-run", "--json", *words, "--", "--amp")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    checkpoint = str(made.work / "state-1.bin")
    assert plan["command"][1:] == [
        str(made.work / "train.py"), "--lr", "0.1", "--amp", f"--at=1:{checkpoint}",
    ]  # fmt: skip
    assert (plan["cwd"], plan["resumed_from"], plan["limits"]["timebox_s"]) == (str(tmp_path), checkpoint, 180)
    done = made.call("resume", "r", "--again", "--dry-run", "--only-once", "--", "--reset")
    assert "--lr 0.1 --reset" in done.stdout
    assert made.journal("r") == before
    assert len(made.document("r")["sessions"]) == 1


def test_a_slurm_job_executes_what_was_changed(runs: Runs, programs: Path):
    """What was asked for at the terminal reaches the job, and the session after it on this machine."""
    runs.script(TELLER)
    done = runs.call("run", "--on", "here", "--run-id", "r", "train.py", "--", "--lr", "0.1")
    assert done.returncode == 0, done.stderr
    put(programs, "scontrol", "exit 0")
    put(programs, "squeue", 'echo "7|PENDING||AT|None|backprop-r"')
    (runs.work / "moved.py").write_text((runs.work / "train.py").read_text())
    words = ("--on", "slurm", "-d", "--script", "moved.py", "--only-once")
    assert runs.call("resume", "r", "--again", *words, "--", "--reset").returncode == 0
    assert runs.call("execute", runs.rundir("r"), SLURM_JOB_ID="7").returncode == 0
    put(programs, "squeue", 'echo "7|COMPLETED||AT|None|backprop-r"')
    resume(runs, "--on", "here", "--", "--amp")
    assert [told(runs, session)[0][2:] for session in (2, 3)] == [["--reset"], ["--amp"]]
    assert runs.document("r")["command"][1:] == [str(runs.work / "moved.py"), "--lr", "0.1", "--amp"]
