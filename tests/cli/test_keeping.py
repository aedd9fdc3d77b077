"""Nothing that a script saves destroys the best there was, whatever the script is, and whenever it is killed."""

import os
from pathlib import Path

import pytest

from tests.conftest import Runs

# Counts to $LAST and fails. Saves over and over in one place, as $WAY says; reads it only if $READS is set.
RESTARTS = """
    import pickle, shutil

    way, path = os.environ["WAY"], os.path.abspath("last.pkl")
    offered = os.environ.get("BACKPROP_RESUME_FROM")
    print("offered", offered and pickle.load(open(offered + ("/state.pkl" if os.path.isdir(offered) else ""), "rb"))
          if os.environ.get("READS") else offered, flush=True)

    def dump(step, path):
        with open(path, "wb") as file:
            pickle.dump({"step": step, "data": [0.5] * 1000}, file)

    def save(step):
        if way == "in place":
            dump(step, path)
        elif way == "rename":
            dump(step, "new.pkl")
            os.replace("new.pkl", path)
        elif way == "copy":
            dump(step, "new.pkl")
            shutil.copyfile("new.pkl", path)
        elif way == "link":
            if not os.path.islink("link.pkl"):
                os.symlink("last.pkl", "link.pkl")
            dump(step, "link.pkl")
        elif way == "folder":
            os.makedirs("last", exist_ok=True)
            dump(step, "last/state.pkl")
        elif way == "child":
            program = f"import pickle; pickle.dump({{'step': {step}}}, open({path!r}, 'wb'))"
            subprocess.run([sys.executable, "-c", program], check=True)
        print(json.dumps({"event": "checkpoint_saved", "path": "last" if way == "folder" else path, "step": step}))

    first = 1
    if os.environ.get("READS") and offered:
        first = pickle.load(open(offered, "rb"))["step"] + 1
    for step in range(first, int(os.environ["LAST"]) + 1):
        save(step)
    sys.exit(1)
"""

# Prints the step of the checkpoint that it is offered.
READS = """
    import pickle
    offered = os.environ["BACKPROP_RESUME_FROM"]
    print(pickle.load(open(os.path.join(offered, "state.pkl") if os.path.isdir(offered) else offered, "rb"))["step"])
"""


def session(runs: Runs, *words: str, **variables: str) -> str:
    """What is said of another session of the script, which fails, on stderr."""
    done = runs.call(*words, **variables)
    assert done.returncode == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("way", ["in place", "rename", "copy", "link", "folder", "child"])
def test_a_script_that_begins_anew_does_not_destroy_what_there_was(runs: Runs, way: str):
    """What it never read is kept, said, listed, and resumed from as long as nothing holds more."""
    runs.script(RESTARTS)
    session(runs, "run", "--run-id", "r", "train.py", WAY=way, LAST="9")
    told = session(runs, "resume", "r", WAY=way, LAST="3")
    assert "the old one (step 9) is kept as" in told
    steps = [checkpoint["step"] for checkpoint in runs.document("r")["checkpoints"] if checkpoint["session"] == 2]
    assert (steps[0], steps[-1]) == (9, 3)
    runs.script(READS)
    done = runs.call("resume", "r")
    assert done.stdout == "9\n"
    assert "session 2 had not come as far as step 9 again" in done.stderr


def test_what_was_kept_is_removed_when_the_run_is_further(runs: Runs):
    """And a script that reads what it is offered leaves no second file."""
    runs.script(RESTARTS)
    session(runs, "run", "--run-id", "r", "train.py", WAY="in place", LAST="3")
    session(runs, "resume", "r", WAY="in place", LAST="2")
    assert len(pickles(runs.work)) == 2
    session(runs, "resume", "r", WAY="in place", LAST="5")
    assert pickles(runs.work) == ["last.pkl"]
    session(runs, "resume", "r", WAY="in place", LAST="7", READS="1")
    assert pickles(runs.work) == ["last.pkl"]
    runs.script(READS)
    assert runs.call("resume", "r").stdout == "7\n"


def pickles(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".pkl")


# Saves twice in one place, and is killed in the midst of the third time.
KILLED = """
    import pickle

    def known(step):
        '''Wait until the supervisor has heard of a step's checkpoint.'''
        while f'"last.pkl":[{step},' not in open(os.environ["BACKPROP_CONTROL"]).read().replace(os.getcwd() + "/", ""):
            time.sleep(0.01)

    class Deadly:
        def __reduce__(self):
            os.kill(os.getpid(), signal.SIGKILL)

    for step in (1, 2, 3):
        with open("last.pkl", "wb") as file:
            pickle.dump({"step": step, "data": bytes(100_000), "end": Deadly() if step == 3 else None}, file)
        print(json.dumps({"event": "checkpoint_saved", "path": "last.pkl", "step": step}), flush=True)
        known(step)
"""


@pytest.mark.parametrize("is_supervisor_killed", [False, True])
def test_a_save_that_is_killed_in_its_midst_loses_nothing(runs: Runs, is_supervisor_killed: bool):
    """The file that was there before is put back under the name that the script knows, and resumed from."""
    runs.script(
        KILLED.replace(
            "os.kill(os.getpid()", "os.kill(os.getppid(), signal.SIGKILL); os.kill(os.getpid()", is_supervisor_killed
        )
    )
    running = runs.start("run", "--run-id", "r", "train.py")
    assert running.wait() != 0
    runs.script(READS)
    done = runs.call("resume", "r")
    assert done.stdout == "2\n", done.stderr
    assert f"from {runs.work / 'last.pkl'} (step 2)" in done.stderr
    assert pickles(runs.work) == ["last.pkl"]


def test_a_save_that_is_killed_is_said_to_be_so(runs: Runs):
    runs.script(KILLED)
    done = runs.call("run", "train.py")
    assert f"a save to {runs.work / 'last.pkl'} was interrupted: the previous checkpoint is restored" in done.stderr


def test_a_save_of_a_hook_that_is_killed_in_its_midst(runs: Runs):
    """The same for what is reported by our own code: no line on stdout, no control.json."""
    runs.script(
        """
        from _backprop_trainer.link import current
        for step in (1, 2):
            with open("last.json", "w") as file:
                file.write('{"step": ')
                file.flush()
                if step == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                file.write(f"{step}}}")
            current().report_checkpoint("last.json", step)
        """
    )
    assert runs.call("run", "--run-id", "r", "train.py").returncode == 137
    assert (runs.work / "last.json").read_text() == '{"step": 1}'
    assert [name for name in os.listdir(runs.work) if name.endswith(".json")] == ["last.json"]


def test_what_another_run_has_saved_there_since_stays(runs: Runs):
    """A broken-off save of ours is no reason to write over theirs."""
    runs.script(KILLED.replace("os.kill(os.getpid()", "os.kill(os.getppid(), signal.SIGKILL); os.kill(os.getpid()"))
    runs.start("run", "--run-id", "a", "train.py").wait()
    runs.script(
        """
        open("last.pkl", "w").write("theirs")
        print(json.dumps({"event": "checkpoint_saved", "path": "last.pkl", "step": 1}), flush=True)
        """,
        "other.py",
    )
    assert runs.call("run", "--run-id", "b", "other.py").returncode == 0
    runs.script("")
    runs.call("resume", "a")
    assert (runs.work / "last.pkl").read_text() == "theirs"


def test_a_file_that_is_added_to_loses_nothing(runs: Runs):
    """Neither that, nor reading, nor a new file makes anything beside it."""
    runs.script(
        """
        from _backprop_trainer.link import current
        open("new.bin", "wb").write(b"1")
        current().report_checkpoint("new.bin", 1)
        open("new.bin", "ab").write(b"2")
        open("new.bin", "rb").read()
        print(*os.listdir("."))
        """
    )
    assert sorted(runs.call("run", "train.py").stdout.split()) == ["new.bin", "train.py"]


def test_a_save_that_is_renamed_when_it_is_whole_was_not_broken_off(runs: Runs):
    """As timm's saver does; the session before was stopped between the two, and its draft is what is offered."""
    runs.script(
        """
    import pickle
    offered = os.environ.get("BACKPROP_RESUME_FROM")
    first = pickle.load(open(offered, "rb"))["step"] + 1 if offered else 1
    with open("tmp.pkl", "wb") as file:
        pickle.dump({"params": [0.5], "opt_state": [0.5], "step": first}, file)
    if not offered:
        sys.exit(1)
    os.replace("tmp.pkl", "last.pkl")
    """
    )
    session(runs, "run", "--run-id", "r", "train.py")
    done = runs.call("resume", "r")
    assert done.returncode == 0, done.stderr
    assert "broken off" not in done.stderr
    assert sorted(path.name for path in runs.work.iterdir() if path.suffix == ".pkl") == ["last.pkl"]
