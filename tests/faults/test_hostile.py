"""What an attacker found: each of these once broke a promise."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from backprop.store.home import LOCK_PATIENCE_S, Home
from tests.conftest import BACKPROP, HANG_S, OWN_CLOCK, Runs, wait_for

REPORTING = """
    for path in sys.argv[1:]:
        print(json.dumps({"event": "checkpoint_saved", "path": path}), flush=True)
"""


@pytest.mark.parametrize("closed", ["0<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_does_not_touch_the_journal(runs: Runs, closed: str):
    """No file of ours gets the descriptor of a closed stream: what the trainer prints cannot end up in the journal."""
    runs.script(
        """
        forged = {"event": "session_ended", "at": "2026-11-23T16:00:00Z", "session": 1, "status": "completed",
                  "reason": None, "exit_code": 0, "elapsed_s": 1.0}
        print(json.dumps(forged), file=sys.stderr)
        print(json.dumps(forged), flush=True)
        sys.exit(3)
        """
    )
    line = f"{BACKPROP} run train.py --run-id r {closed}; exit $?"
    assert subprocess.run(["sh", "-c", line], cwd=runs.work, env=runs.environment, check=False).returncode == 3
    assert runs.document("r")["status"] == "failed"
    line = f"{BACKPROP} run -d train.py --run-id d {closed}"
    assert subprocess.run(["sh", "-c", line], cwd=runs.work, env=runs.environment, check=False).returncode == 0
    wait_for(lambda: runs.document("d")["status"] == "failed")


def test_rm_sees_through_a_link_to_a_project(runs: Runs):
    """A checkpoint that is a link to the folder a run lives in is left alone."""
    runs.script(REPORTING)
    link = runs.work.parent / "link"
    link.symlink_to(runs.work)
    runs.call("run", "train.py", "--run-id", "a", "--", link)
    assert "is kept" in runs.call("rm", "a", "--yes", "--checkpoints").stderr
    assert (runs.work / "train.py").exists()


def test_rm_leaves_alone_what_another_run_needs(runs: Runs):
    """Neither another run's folder, nor a checkpoint that another run reported too."""
    runs.script(REPORTING)
    other = runs.work / "other" / "project"
    other.mkdir(parents=True)
    (other / "q.py").write_text("")
    (runs.work / "last.bin").write_text("weights")
    assert subprocess.run([BACKPROP, "run", "q.py"], cwd=other, env=runs.environment, check=False).returncode == 0
    runs.call("run", "train.py", "--run-id", "a", "--", "other", "last.bin")
    runs.call("run", "train.py", "--run-id", "b", "--", "last.bin")
    done = runs.call("rm", "a", "--yes", "--checkpoints")
    assert done.stderr.count("is kept") == 2
    assert (other / "q.py").exists()
    assert (runs.work / "last.bin").exists()
    assert runs.call("rm", "b", "--yes", "--checkpoints").returncode == 0
    assert not (runs.work / "last.bin").exists()


def test_a_supervisor_that_was_suspended_still_asks_before_it_kills(runs: Runs):
    """It wakes up after timebox and grace: the trainer gets SIGINT and its grace all the same."""
    runs.script(
        "try:\n    print('ready', flush=True)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('saved')"
    )
    process = runs.start_patched(OWN_CLOCK, "run", "train.py", "-m", "0.02", "--grace", "2", stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    supervisor = psutil.Process(process.pid)
    supervisor.suspend()
    runs.set_clock(4)  # timebox and grace are over
    supervisor.resume()
    assert process.stdout.read() == b"saved\n"
    assert process.wait(HANG_S) == 0


@pytest.mark.parametrize("pause_s", [0, 0.002])
def test_a_daemon_that_forks_anew_all_the_time_does_not_get_away(runs: Runs, pause_s: float):
    """It is another process at every look, and is ended with its trainer."""
    runs.script(
        f"""
        if os.fork() == 0:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            end = time.monotonic() + 200
            while time.monotonic() < end:
                time.sleep({pause_s})
                if os.fork():
                    os._exit(0)
            open("outlived", "w")
            os._exit(0)
        time.sleep(0.3)
        """
    )
    done = runs.call("run", "train.py", "--grace", "1")
    assert done.returncode == 0
    time.sleep(0.2)
    assert runs.tree() == []
    assert not (runs.work / "outlived").exists()


def test_a_child_we_did_not_start_is_left_alone(runs: Runs):
    """A shell that started something in the background and became us by `exec`: that something lives on."""
    runs.script("print('trained')")
    line = f"sleep 1000 & echo $! > sleep.pid; exec {BACKPROP} run train.py"
    done = subprocess.run(["bash", "-c", line], cwd=runs.work, env=runs.environment, check=False, timeout=HANG_S)
    assert done.returncode == 0
    stranger = psutil.Process(int((runs.work / "sleep.pid").read_text()))
    assert stranger.status() == psutil.STATUS_SLEEPING
    stranger.kill()


def test_a_copied_run_directory_is_not_taken_for_the_run(runs: Runs):
    """A backup inside runs/ does not file the live run under its nose."""
    runs.script("print('ready', flush=True); time.sleep(60)")
    process = runs.start("run", "train.py", "--run-id", "live", stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)  # it replaces files
    wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    subprocess.run(["cp", "-r", runs.rundir("live"), runs.rundir("backup")], check=True)
    process.send_signal(signal.SIGCONT)
    shown = json.loads(runs.call("list", "--json").stdout)
    assert {d["id"]: d["status"] for d in shown} == {"live": "running", "backup": "unreadable"}
    assert runs.document("backup")["reason"] == "it is a copy of run live"
    assert runs.call("rm", "backup", "--yes").returncode == 0
    assert len(runs.tree()) == 1
    assert runs.call("stop", "live").returncode == 0
    assert process.wait(HANG_S) == 0


def test_a_checkpoint_from_the_far_future_is_a_checkpoint(runs: Runs):
    """A file time that no calendar holds ends neither the training nor `list`."""
    far = Path("/dev/shm") / f"backprop-test-{os.getpid()}"
    far.write_text("weights")
    os.utime(far, (3e11, 3e11))
    try:
        runs.script(REPORTING)
        assert runs.call("run", "train.py", "--", far).returncode == 0
        assert runs.document()["checkpoints"][0]["size_bytes"] == 7
    finally:
        far.unlink()


def test_two_dots_behind_a_link_lead_where_the_system_says(runs: Runs):
    """`link/../ck` is beside the link's target, not beside the link."""
    runs.script(REPORTING)
    (runs.work / "disk" / "sub").mkdir(parents=True)
    (runs.work / "disk" / "ck.bin").write_text("weights")
    (runs.work / "link").symlink_to("disk/sub")
    runs.call("run", "train.py", "--", "link/../ck.bin")
    assert [(c["size_bytes"], c["valid"]) for c in runs.document()["checkpoints"]] == [(7, True)]


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM])
def test_no_signal_that_can_be_caught_leaves_the_trainer_alone(runs: Runs, number: signal.Signals):
    """Ctrl-backslash and its like walk the ladder; they do not end the supervisor under its trainer."""
    runs.script("signal.signal(signal.SIGINT, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)")
    process = runs.start("run", "train.py", "--grace", "0.6", stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(number)
    assert process.wait(HANG_S) in {0, 137}
    assert runs.tree() == []
    assert runs.document()["status"] == "stopped"


def test_a_home_by_another_path_is_the_same_home(runs: Runs):
    """A trainer started through a link to the home is found, and ended, through the home itself."""
    runs.home.mkdir()
    link = runs.work.parent / "link-home"
    link.symlink_to(runs.home)
    runs.script("signal.signal(signal.SIGINT, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)")
    runs.environment["BACKPROP_HOME"] = str(link)
    process = runs.start("run", "train.py", stdout=subprocess.PIPE)
    process.stdout.readline()
    runs.environment["BACKPROP_HOME"] = str(runs.home)
    process.kill()
    process.wait()
    assert len(runs.tree()) == 1
    assert "interrupted" in runs.call("list").stdout
    assert runs.tree() == []


def test_a_folder_where_the_snapshot_should_be_is_set_aside(runs: Runs):
    """experiments.json as a folder is damage like any other."""
    runs.script("")
    runs.call("run", "train.py", "--run-id", "a")
    (runs.home / "experiments.json").unlink()
    (runs.home / "experiments.json").mkdir()
    assert "is kept as" in runs.call("list").stderr
    assert list(json.loads((runs.home / "experiments.json").read_text())) == ["a"]


def test_a_name_that_the_terminal_cannot_show_does_not_end_list(runs: Runs):
    """Characters outside the terminal's encoding are shown escaped."""
    runs.script("")
    runs.call("run", "train.py", "-n", "日本")
    done = runs.call("list", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "\\u65e5" in done.stdout


@pytest.mark.parametrize("words", [["run", "/bin/true"], ["run", "--", "true"], ["status"]])
def test_a_deleted_folder_is_named(runs: Runs, words: list[str]):
    """One line and exit code 2 where the current folder is gone."""
    gone = runs.work / "gone"
    line = f"mkdir {gone}; cd {gone}; rmdir {gone}; {BACKPROP} {' '.join(words)}"
    done = subprocess.run(["sh", "-c", line], env=runs.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "has been deleted" in done.stderr
    assert "Traceback" not in done.stderr


OLD_RUNS = 300


def leave_old_record(home: Path) -> None:
    """A home as an older tool leaves it, and nothing else."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    old = {
        f"old-{n}": {"id": f"old-{n}", "status": "completed", "startTime": n, "lastStep": n} for n in range(OLD_RUNS)
    }
    (home / "experiments.json").write_text(json.dumps(old))


def kill_reader(runs: Runs, when: Callable[[], bool]) -> None:
    """Start a reader and kill it when that is true, at the latest when the runs have appeared: all, or none."""
    reader = runs.start("list")
    published = runs.home / "runs"
    wait_for(lambda: when() or published.exists() or reader.poll() is not None)
    reader.kill()
    assert reader.wait() in {-signal.SIGKILL, 0}
    if published.exists():
        assert len(os.listdir(published)) == OLD_RUNS


def what_readers_say(runs: Runs) -> list[bytes]:
    """The stderr of three readers at the same time, all of which show every run."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    said = []
    for reader in [runs.start("list", "--json", "--fields", "id", "--limit", "0", **pipes) for _ in range(3)]:
        out, err = reader.communicate(timeout=HANG_S)
        assert reader.returncode == 0, err
        assert {run["id"] for run in json.loads(out)} == {f"old-{n}" for n in range(OLD_RUNS)}
        said.append(err)
    return sorted(said)


def test_an_import_that_is_killed_begins_anew(runs: Runs):
    """However often it is interrupted, an older tool's record is there as a whole or not at all; who brings it says so."""
    draft, leftover = runs.home / ".importing" / "runs", runs.home / ".importing" / "runs" / "leftover"
    leave_old_record(runs.home)
    for count in (0, 100, 200):  # runs that lie there when the blow falls

        def is_in_the_middle(count: int = count) -> bool:
            try:
                return not leftover.exists() and len(os.listdir(draft)) >= count
            except FileNotFoundError:  # not begun, or published
                return False

        kill_reader(runs, is_in_the_middle)
        while (runs.home / "runs").exists():  # the import was quicker than we could look
            leave_old_record(runs.home)
            kill_reader(runs, is_in_the_middle)
        leftover.mkdir()  # the next import must clear it away, with all that was done
    message = f"backprop: imported {OLD_RUNS} runs of an older tool from {runs.home / 'experiments.json'}.\n"
    assert what_readers_say(runs) == [b"", b"", message.encode()]


def test_a_reader_killed_after_its_import_leaves_all_of_it(runs: Runs):
    """As soon as the runs are there they are all there, whatever the index knows of them yet."""
    leave_old_record(runs.home)
    kill_reader(runs, lambda: False)
    assert what_readers_say(runs) == [b"", b"", b""]


def test_a_reader_waits_for_a_long_import(runs: Runs):
    """Another command's import may hold the home for longer than anything else does."""
    leave_old_record(runs.home)
    home = Home(runs.home)
    with home.lock():
        reader = runs.start("list", stderr=subprocess.PIPE)
        wait_for(lambda: str(home.lock_path) in {file.path for file in psutil.Process(reader.pid).open_files()})
        time.sleep(LOCK_PATIENCE_S + 0.5)  # its patience with everything else passes: that is what is tested
    err = reader.stderr.read()
    assert (reader.wait(HANG_S), err.startswith(b"backprop: imported")) == (0, True)


def test_a_detached_command_that_cannot_be_executed_says_why(runs: Runs):
    """The reason comes to the terminal that asked."""
    broken = runs.work / "tool"
    broken.write_text("#!/nonexistent/interpreter\n")
    broken.chmod(0o755)
    done = runs.call("run", "-d", "--", "./tool")
    assert done.returncode == 2
    assert "cannot be started" in done.stderr


def test_many_open_files_do_not_matter(runs: Runs):
    """Descriptors above 1023 can be waited for."""
    runs.script("")
    program = (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
        "for _ in range(1100): os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)\n"
        f"os.execv({BACKPROP!r}, [{BACKPROP!r}, 'run', 'train.py'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=runs.work, env=runs.environment, check=False, timeout=HANG_S
    )
    assert done.returncode == 0


def test_a_checkpoint_that_is_a_link_to_itself_can_be_forgotten(runs: Runs):
    """`rm --checkpoints` removes the record, and what can be removed."""
    runs.script(REPORTING)
    (runs.work / "loop").symlink_to("loop")
    runs.call("run", "train.py", "--run-id", "a", "--", "loop")
    done = runs.call("rm", "a", "--yes", "--checkpoints")
    assert (done.returncode, "removed 1 run(s)" in done.stderr) == (0, True)


@pytest.mark.parametrize("words", ["list --json", "status", "completion bash", "--help"])
def test_output_that_cannot_be_written_is_said_in_one_line(runs: Runs, words: str):
    """A redirection to a full disk."""
    with open("/dev/full", "w") as full:
        process = runs.start(*words.split(), stdout=full, stderr=subprocess.PIPE)
    assert process.stderr.read() == b"backprop: cannot write the output: No space left on device.\n"
    assert process.wait(HANG_S) == 2


def test_a_run_directory_that_cannot_be_read_for_a_while_ends_no_training(runs: Runs):
    """As on a shared file system that fails: training continues, and so does the record once it is back."""
    runs.script("import sys\nprint('loss 0.5', flush=True)\nsys.stdin.readline()\nprint('loss 0.25', flush=True)")
    words = ("run", "train.py", "--run-id", "r", "--no-hooks", "--stdin", "-")
    process = runs.start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    folder, aside = runs.rundir("r"), runs.work / "aside"
    folder.rename(aside)
    folder.write_text("")  # every access to what is below is an error, but not one of a missing file
    time.sleep(1)  # some looks of the supervisor
    folder.unlink()
    aside.rename(folder)
    said = process.communicate(b"on\n", timeout=HANG_S)[1].decode()
    assert process.returncode == 0, said
    assert runs.document("r")["metrics"]["loss"] == 0.25


@pytest.mark.parametrize("what", ["", "runs/r", "runs/r/journal.jsonl"], ids=["home", "run", "journal"])
def test_a_record_that_is_removed_under_a_run_is_missed_at_once(runs: Runs, what: str):
    """It is said, and the trainer is ended at its timebox all the same."""
    runs.script("print('ready', flush=True); time.sleep(600)")
    words = ("run", "train.py", "--run-id", "r", "-m", "0.05")
    process = runs.start_patched(OWN_CLOCK, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    lost = (runs.home / what).rename(runs.work / "lost")  # whole: the supervisor may write into it meanwhile
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    said = ""
    while "was removed" not in said:
        line = process.stderr.readline().decode()
        assert line
        said += line
    runs.set_clock(3)
    said += process.stderr.read().decode()
    assert process.wait(HANG_S) == 0
    assert said.count(f"{runs.rundir('r') / 'journal.jsonl'} was removed: no command can see this run any more") == 1
    assert "timeboxed" in said
    assert runs.tree() == []


@pytest.mark.parametrize("words", ["list --json", "logs r", "run train.py"])
def test_a_descriptor_that_does_not_block_gets_all_of_it(runs: Runs, words: str):
    """As that of a terminal or a pipe which another program shares: Python would drop what is not taken at once."""
    runs.script("for i in range(4000): print('x' * 60)")
    for number in range(40 if words == "list --json" else 1):
        assert runs.call("run", "train.py", "--run-id", "r" if number == 0 else f"r{number}").returncode == 0
    expected = runs.call(*words.split(), *(["--limit", "0"] if "json" in words else [])).stdout
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    limits = ("--limit", "0") if "json" in words else ()
    process = runs.start(*words.split(), *limits, stdout=writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        first = pipe.read(1)
        supervisor = psutil.Process(process.pid)
        wait_for(lambda: supervisor.status() in {psutil.STATUS_SLEEPING, psutil.STATUS_ZOMBIE})  # the pipe is full
        rest = pipe.read()
    assert process.wait(HANG_S) == 0
    assert len(first + rest) == len(expected) > 65_536


@pytest.mark.parametrize(
    "words",
    [
        "run train.py",
        "run train.py --json",
        "resume r --again -r some.pt",
        "resume r --again --script train.py",
        "run -- true",
    ],
)
def test_a_folder_that_was_deleted_is_said_to_be(runs: Runs, words: str):
    """As after `git checkout` of a branch without it, in the shell that is still there."""
    runs.script("print(1)")
    runs.call("run", "train.py", "--run-id", "r")
    (runs.work / "gone").mkdir()
    done = subprocess.run(
        ["sh", "-c", f"cd gone && rmdir ../gone && exec {BACKPROP} {words}"],
        cwd=runs.work,
        env=runs.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "backprop: the current directory has been deleted; change to another one.\n"


@pytest.mark.parametrize("make", ["mkdir", "mkfifo"])
def test_a_run_whose_journal_was_replaced_by_something_else_is_removed(runs: Runs, make: str):
    """It has ended, as far as the index knows: nobody can be running it by that."""
    runs.script("print(1)")
    runs.call("run", "train.py", "--run-id", "r")
    journal = runs.rundir("r") / "journal.jsonl"
    journal.unlink()
    subprocess.run([make, journal], check=True)
    assert runs.call("rm", "r", "--yes").stderr == "backprop: removed 1 run(s)\n"
    assert not runs.rundir("r").exists()
