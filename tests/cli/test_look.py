"""list, status, logs, rm, reindex."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest

from backprop.views.terminal import formatting
from tests.conftest import BACKPROP, HANG_S, OWN_CLOCK, Runs, held_at, recorded, wait_for

LOSS = 'print(json.dumps({"step": 1, "loss": float(sys.argv[1])}))'


@recorded
def three(runs: Runs) -> None:
    """Runs a, b and c, in this order, with losses 2, 3 and 1; c failed; b is named."""
    runs.script(LOSS + "; sys.exit(len(sys.argv) - 2)")
    runs.call("run", "train.py", "--run-id", "a", "--", "2")
    runs.call("run", "train.py", "--run-id", "b", "-n", "my best", "--", "3")
    runs.call("run", "train.py", "--run-id", "c", "--", "1", "x")


def listed(runs: Runs, *words: str) -> list[str]:
    """Ids as `list --json` gives them."""
    return [document["id"] for document in json.loads(runs.call("list", "--json", *words).stdout)]


def test_list_is_newest_first(three: Runs):
    """An array of run documents, and a table with one line a run."""
    assert listed(three) == ["c", "b", "a"]
    lines = three.call("list").stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].split()[:3] == ["RUN", "NAME", "STATUS"]
    assert "my best" in lines[2]
    assert all(line.isprintable() for line in lines)


def test_list_can_be_filtered_sorted_and_cut(three: Runs):
    """--status, --sort by a metric or a column, --limit."""
    assert listed(three, "--status", "failed") == ["c"]
    assert listed(three, "--status", "failed", "--status", "completed") == ["c", "b", "a"]
    assert listed(three, "--sort", "loss") == ["c", "a", "b"]
    assert listed(three, "--sort", "name") == ["b", "c", "a"]
    assert listed(three, "--limit", "2") == ["c", "b"]
    assert "2 of 3 runs" in three.call("list", "--limit", "2").stderr


def test_list_can_be_turned_round(three: Runs):
    """--sort -KEY and --reverse say the same, and both together nothing."""
    assert listed(three, "--sort", "-loss") == ["b", "a", "c"]
    assert listed(three, "--sort", "loss", "--reverse") == ["b", "a", "c"]
    assert listed(three, "--sort", "-loss", "--reverse") == ["c", "a", "b"]
    assert listed(three, "--reverse") == ["a", "b", "c"]


def test_list_takes_a_filter(three: Runs):
    """Conditions that must all hold, in one --filter or several."""
    assert listed(three, "--filter", "status=completed loss>2.5") == ["b"]
    assert listed(three, "--filter", "status=completed", "--filter", "best.loss<2.5") == ["a"]
    assert listed(three, "--filter", 'name="my best"') == ["b"]
    done = three.call("list", "--filter", "loss")
    assert done.returncode == 2
    assert "cannot parse filter 'loss'" in done.stderr


def test_list_shows_the_metric_that_was_asked_for(runs: Runs):
    """Its last and its best value; by default the loss, whatever its usual name."""
    runs.script(
        'for n, v in enumerate((3.5, 1.25, 2.5)): print(json.dumps({"step": n, "train_loss": v, "acc": v / 10}))'
    )
    runs.call("run", "train.py")
    heading, row = runs.call("list").stdout.splitlines()
    assert re.search(r"train_loss +BEST", heading)
    assert re.search(r" 2\.5 +1\.25 ", row)
    assert "0.35" in runs.call("list", "--metric", "acc").stdout
    assert "0.35" in runs.call("list", "--sort", "acc").stdout
    for words in (["list"], ["list", "--json"]):
        done = runs.call(*words, "--sort", "ac")
        assert (done.returncode, done.stdout.startswith('{"error": ')) == (2, "--json" in words)
        assert "no run has a parameter or metric 'ac'; did you mean acc? Available: acc, train_loss" in done.stderr
    for words in (["list"], ["list", "--json"]):
        done = runs.call(*words, "--metric", "ac")
        assert (done.returncode, done.stdout.startswith('{"error": ')) == (2, "--json" in words)
        assert "no run has a metric 'ac'; did you mean acc? Available: acc, train_loss" in done.stderr


def test_a_key_that_nothing_can_be_sorted_by_is_an_error(three: Runs):
    """With what may have been meant: a column, a parameter or a metric of any run. What another run has is none."""
    done = three.call("list", "--sort", "-creatd")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no run has a parameter or metric 'creatd'; did you mean created? Available: loss" in done.stderr
    assert three.call("list", "--sort", "nope").returncode == 2
    assert three.call("list", "--sort", "param.loss").returncode == 2
    assert listed(three, "--sort", "metric.loss") == ["c", "a", "b"]
    assert listed(three, "--filter", "status=failed", "--sort", "best.loss") == ["c"]


def test_a_misspelt_status_is_recognised(three: Runs):
    """By --status, and in a filter."""
    for words in (["--status", "faild"], ["--filter", "status=faild"]):
        done = three.call("list", *words)
        assert done.returncode == 2
        assert "did you mean failed?" in done.stderr


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("stauts=failed", "no run has a parameter or metric 'stauts'; did you mean status?"),
        ("los>1", "no run has a parameter or metric 'los'; did you mean loss?"),
        ("best.los>1", "no run has a metric 'los'; did you mean loss?"),
        ("param.loss>1", "no run has a parameter 'loss'."),
        ("loss>9", "no matching runs."),
        ("status=timeboxed step>9", "no matching runs."),
    ],
)
def test_a_filter_that_nothing_can_pass_is_told_as_a_typo(three: Runs, condition: str, told: str):
    """A misspelt name looks like a metric that no run has."""
    done = three.call("list", "--filter", condition)
    assert done.returncode == 0
    assert done.stderr.rstrip().endswith(told)


def test_a_pipe_gets_every_word_and_no_drawings(three: Runs):
    """All columns, no symbol, no sparkline, whatever the width of a terminal somewhere else."""
    text = three.call("list", COLUMNS="40").stdout
    assert text.splitlines()[0].split() == [
        "RUN", "NAME", "STATUS", "AGE", "TIME", "STEP", "loss", "BEST", "WHY", "SCRIPT",
    ]  # fmt: skip
    assert text.isascii()
    assert "exit code 1" in text


@pytest.mark.parametrize("columns", [30, 80, 200])
def test_list_fits_into_the_terminal(three: Runs, columns: int):
    """No line is wider; what matters most is there even in a narrow one."""
    shown = in_terminal(three, "list", columns=columns)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert all(len(line) <= columns for line in plain.splitlines())
    assert "✗ failed" in plain
    assert ("exit code 1" in plain) == (columns == 200)


def test_a_terminal_without_block_characters_gets_plain_ones(three: Runs):
    """In a C locale the table is ASCII; with NO_COLOR it has no escape sequences either."""
    three.environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "NO_COLOR": "1"}
    shown = in_terminal(three, "list", columns=200)
    assert shown.isascii()
    assert "\x1b" not in shown


def test_an_unknown_status_is_an_error(runs: Runs):
    """A typo does not look like an empty list."""
    done = runs.call("list", "--status", "finished")
    assert done.returncode == 2
    assert "completed" in done.stderr


def test_an_empty_home_lists_nothing(runs: Runs):
    """No runs: an empty array, or a word on how to begin."""
    assert json.loads(runs.call("list", "--json").stdout) == []
    assert "backprop run" in runs.call("list").stderr


@pytest.mark.parametrize("word", ["b", "my best", "last"])
def test_a_run_is_named_by_id_name_or_last(three: Runs, word: str):
    """Each word that the design allows finds its run."""
    assert three.document(word)["id"] == ("c" if word == "last" else "b")


def test_a_beginning_must_be_unique(runs: Runs):
    """A unique beginning of an id is enough; an ambiguous one is an error that lists them; an exact id always wins."""
    runs.script("")
    for run_id in ("abc1", "abd2", "ab"):
        runs.call("run", "train.py", "--run-id", run_id)
    assert runs.document("abc")["id"] == "abc1"
    assert runs.document("ab")["id"] == "ab"
    done = runs.call("status", "a")
    assert done.returncode == 2
    assert "abc1" in done.stderr
    assert "abd2" in done.stderr


@pytest.mark.parametrize("command", ["status", "resume", "logs", "stop"])
def test_no_such_run_is_exit_code_3(runs: Runs, command: str):
    """Every command that takes a run says so in one line."""
    done = runs.call(command, "nope")
    assert done.returncode == 3
    assert "'nope'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_status_of_a_run_shows_it_in_full(three: Runs):
    """Command, Python, time, metrics, sessions."""
    text = three.call("status", "b").stdout
    for word in ("my best", "completed", "train.py", "best 3 at step 1", "session 1", str(three.rundir("b"))):
        assert word in text


def test_status_of_several_runs(three: Runs):
    """One after the other, in their order; as JSON an array."""
    ids = [line.split()[1] for line in three.call("status", "c", "a").stdout.splitlines() if line.startswith("run ")]
    assert ids == ["c", "a"]
    documents = json.loads(three.call("status", "c", "a", "--json").stdout)
    assert [document["id"] for document in documents] == ["c", "a"]
    assert three.call("status", "c", "nobody").returncode == 3


def test_status_shows_the_machine_and_what_runs(runs: Runs):
    """RAM, disk and the runs that are going on; as JSON too."""
    runs.script("print('ready', flush=True); time.sleep(60)")
    process = runs.start("run", "train.py", "--run-id", "r", stdout=subprocess.PIPE)
    process.stdout.readline()
    text = runs.call("status").stdout
    assert "ram" in text
    assert "running" in text
    document = json.loads(runs.call("status", "--json").stdout)
    assert document["machine"]["ram_available_bytes"] > 0
    assert [run["id"] for run in document["running"]] == ["r"]


def test_logs_prints_what_the_trainer_wrote(runs: Runs):
    """Both streams, or one; any session; of several runs each under its name."""
    runs.script("print('err', file=sys.stderr); print('out', os.environ['BACKPROP_SESSION'], end='')")
    runs.call("run", "train.py", "--run-id", "a", "-n", "first")
    runs.call("resume", "last", "--again")
    assert runs.call("logs").stdout == "err\nout 2"  # neither breaks into a line of the other
    assert runs.call("logs", "last", "--session", "1", "--stdout").stdout == "out 1"
    assert runs.call("logs", "last", "--stderr").stdout == "err\n"
    assert runs.call("logs", "last", "--session", "3").returncode == 2
    runs.call("run", "train.py", "--run-id", "b")
    done = runs.call("logs", "a", "b", "--stdout", "--session", "2")
    assert (done.returncode, done.stdout) == (2, "==> a (first) <==\nout 2\n==> b <==\n")
    assert runs.call("logs", "a", "b", "-f").returncode == 2


def test_logs_shows_both_streams_in_the_order_they_were_written(runs: Runs):
    """As far as the supervisor saw it, also of a run that has ended, and while it is followed."""
    runs.script(
        """
        order = os.environ["BACKPROP_RUN_DIR"] + "/session-1.order"
        for n in range(3):
            print("out", n, flush=True)
            print("err", n, file=sys.stderr, flush=True)
            while not os.path.exists(order) or os.path.getsize(order) < (n + 1) * 16:
                time.sleep(0.01)
        print("last", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
        """
    )
    told = "out 0\nerr 0\nout 1\nerr 1\nout 2\nerr 2\nlast\n"
    runs.call("run", "-d", "train.py", "--run-id", "r")
    wait_for(lambda: "last" in runs.output("r"))
    assert runs.call("logs").stdout == told
    follower = runs.start("logs", "-f", stdout=subprocess.PIPE)
    assert b"".join(follower.stdout.readline() for _ in range(7)).decode() == told
    (runs.work / "go").touch()
    assert follower.wait(HANG_S) == 0
    assert runs.call("logs", "--stdout").stdout == "out 0\nout 1\nout 2\nlast\n"


def test_logs_follows_a_session_whose_trainer_is_about_to_be_launched(runs: Runs):
    """It has begun, and there is no file yet: that is not the end."""
    runs.script('print("one", flush=True); print("two", file=sys.stderr, flush=True)')
    running = runs.start_patched(held_at("backprop.supervisor.start", "launch"), "run", "train.py", "--run-id", "r")
    wait_for((runs.work / "held").exists)
    follower = runs.start("logs", "r", "-f", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        follower.wait(2)
    (runs.work / "go-on").touch()
    out, err = follower.communicate(timeout=HANG_S)
    assert (set(out.splitlines()), err) == ({b"one", b"two"}, b"")
    assert running.wait(HANG_S) == 0


def test_logs_of_the_lines_that_are_wanted(runs: Runs):
    """The last ones, those that match, or the last of those that match; a progress bar is a line each time."""
    runs.script(
        """
        for n in range(5):
            print("step", n, flush=True)
        print("Größe: ß")
        print("bar 1\\rbar 2\\r", end="")
        print("no end", end="")
        """
    )
    assert runs.call("run", "train.py", "--run-id", "a").returncode == 0
    assert runs.call("logs", "--tail", "3").stdout == "bar 1\rbar 2\rno end"
    assert runs.call("logs", "--grep", "step [34]$").stdout == "step 3\nstep 4\n"
    assert runs.call("logs", "--grep", "^step", "--tail", "1").stdout == "step 4\n"
    assert runs.call("logs", "--grep", "(?i)^GR.SSE|[ö]..: .$").stdout == "Größe: ß\n"
    assert runs.call("logs", "--grep", "[Ã¶]").stdout == ""
    assert runs.call("logs", "--tail", "0").stdout == ""
    assert runs.call("logs", "--grep", "nothing").stdout == ""
    done = runs.call("logs", "--grep", "(")
    assert (done.returncode, "--grep" in done.stderr) == (2, True)
    runs.call("run", "train.py", "--run-id", "b")
    assert runs.call("logs", "a", "b", "--tail", "1").stdout == "==> a <==\nno end\n==> b <==\nno end"


def test_logs_follows_the_lines_that_are_wanted(runs: Runs):
    """The last ones of those that are there, and then all that come, as soon as they do."""
    runs.script(
        """
        print("one\\ntwo\\nthree", flush=True)
        while not os.path.exists("go"): time.sleep(0.02)
        print("four\\nfive", flush=True)
        """
    )
    runs.call("run", "-d", "train.py", "--run-id", "r")
    wait_for(lambda: "three" in runs.output("r"))
    followers = [
        runs.start("logs", "last", "-f", *wanted, stdout=subprocess.PIPE)
        for wanted in (["--tail", "1"], ["--grep", "^t|v"])
    ]
    assert [follower.stdout.readline() for follower in followers] == [b"three\n", b"two\n"]
    (runs.work / "go").touch()
    rest = [follower.stdout.read() for follower in followers]
    assert rest == [b"four\nfive\n", b"three\nfive\n"]
    assert [follower.wait(HANG_S) for follower in followers] == [0, 0]


def test_logs_follows_until_the_run_ends(runs: Runs):
    """-f shows lines as they come and returns when the run is over."""
    runs.script("print('first', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.02)\nprint('second')")
    runs.call("run", "-d", "train.py")
    follower = runs.start("logs", "last", "-f", stdout=subprocess.PIPE)
    assert follower.stdout.readline() == b"first\n"
    (runs.work / "go").touch()
    assert follower.stdout.readline() == b"second\n"
    assert follower.wait(HANG_S) == 0


def test_the_traceback_of_a_failed_run_is_shown(runs: Runs):
    """By `status` and `wait`; under the last line of `run` only where more came after it."""
    runs.script(
        "import atexit\nif len(sys.argv) > 1: atexit.register(print, '\\nbye', file=sys.stderr)\nraise ValueError('bad')"
    )
    traceback = '  Traceback (most recent call last):\n    File "'
    done = runs.call("run", "train.py", "--run-id", "a")
    assert traceback not in done.stderr
    done = runs.call("run", "train.py", "--run-id", "b", "--", "bye")
    assert traceback in done.stderr.partition("run b failed")[2]
    done = runs.call("wait", "a")
    assert traceback in done.stderr.partition("run a failed")[2]
    assert done.stderr.endswith("  ValueError: bad\n")
    shown = runs.call("status", "a").stdout
    assert re.search(
        r"^traceback +Traceback \(most recent call last\):\n +File .*\n( .*\n)* +ValueError: bad\n", shown, re.MULTILINE
    )
    runs.script("")
    runs.call("resume", "a")
    assert "Traceback" not in runs.call("status", "a").stdout


def test_output_that_was_removed_is_not_said_to_have_never_been(runs: Runs):
    """`logs` says what became of it."""
    runs.script("print(1)")
    runs.call("run", "train.py", "--run-id", "r")
    (runs.rundir("r") / "session-1.out").unlink()
    assert "session-1.out does not exist: it was removed." in runs.call("logs", "r").stderr


def test_how_far_a_run_is_and_how_long_it_took(runs: Runs):
    """TIME is that of all sessions, in seconds where it is short; thousands have commas; epochs are no metric."""
    runs.script(
        "print(json.dumps({'step': 12000, 'loss': 1.5, 'acc': 0.5, 'epoch': 3, 'total_steps': 44000}), flush=True)\n"
        "open('clock', 'w').close()\ntime.sleep(60 if os.environ['BACKPROP_SESSION'] == '1' else 0)"
    )
    runs.call_patched(OWN_CLOCK, "run", "train.py", "--run-id", "r", "-m", "0.02")
    document = runs.document("r")
    runs.call("resume", "r")
    row = runs.call("list").stdout.splitlines()[1]
    total_s = runs.document("r")["elapsed_s"]
    assert total_s > document["elapsed_s"]
    assert f" {formatting.used(total_s, 2.4)} " in row
    assert " 12,000/44,000 " in row
    shown = runs.call("status", "r").stdout
    assert re.search(r"^step +12,000 of 44,000$", shown, re.MULTILINE)
    assert "at step 12,000" in shown
    assert " of 1.2 s: timebox of 1.2 s ended" in shown
    metrics = {"loss": 1.5, "acc": 0.5, "epoch": 3.0, "total_steps": 44_000.0}  # for programs all there is
    assert runs.document("r")["metrics"] == metrics
    (runs.work / "clock").unlink()
    runs.call_patched(OWN_CLOCK, "run", "train.py", "--run-id", "again", "-m", "0.02")
    for text in (shown, runs.call("compare", "r", "again").stdout, runs.call("plot", "-y", "nope").stderr):
        assert "acc" in text
        assert "epoch" not in text
        assert "total_steps" not in text
    assert runs.call("plot", "r", "-y", "epoch").returncode == 0


def test_list_piped_into_head_is_quiet(three: Runs):
    """A reader that goes away is not an error."""
    done = subprocess.run(
        f"{BACKPROP} list --json | head -1",
        shell=True,
        env=three.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


def test_rm_removes_the_record_and_nothing_else(runs: Runs):
    """The run vanishes everywhere; the checkpoint stays."""
    runs.script("open('c.json', 'w').write('{}'); print(json.dumps({'event': 'checkpoint_saved', 'path': 'c.json'}))")
    runs.call("run", "train.py", "--run-id", "a")
    runs.call("run", "train.py", "--run-id", "b")
    done = runs.call("rm", "a", "--yes")
    assert done.returncode == 0
    assert listed(runs) == ["b"]
    assert not runs.rundir("a").exists()
    assert list(json.loads((runs.home / "experiments.json").read_text())) == ["b"]
    assert (runs.work / "c.json").exists()


def test_rm_can_remove_the_reported_checkpoints(runs: Runs):
    """--checkpoints deletes the files that were reported, and nothing else that lies in a reported folder."""
    runs.script(
        """
        os.makedirs("c/deep", exist_ok=True)
        open("c/deep/w.bin", "w").write("w")
        open("one.json", "w").write("{}")
        for path in ("c", "one.json"):
            print(json.dumps({"event": "checkpoint_saved", "path": path}), flush=True)
        """
    )
    runs.call("run", "train.py", "--run-id", "a")
    (runs.work / "c" / "mine.txt").write_text("not a checkpoint")
    assert runs.call("rm", "a", "--yes", "--checkpoints").returncode == 0
    assert not (runs.work / "one.json").exists()
    assert not (runs.work / "c" / "deep").exists()
    assert (runs.work / "c" / "mine.txt").exists()
    assert (runs.work / "train.py").exists()


def test_rm_does_not_delete_somebodys_home(runs: Runs):
    """A run that reports the folder everything lies in as its checkpoint does not take it with it."""
    runs.script(f"print(json.dumps({{'event': 'checkpoint_saved', 'path': {str(runs.work)!r}}}))")
    (runs.work / "later.txt").write_text("precious")
    runs.call("run", "train.py", "--run-id", "a")
    (runs.work / "after.txt").write_text("precious too")
    done = runs.call("rm", "a", "--yes", "--checkpoints")
    assert "is kept" in done.stderr
    assert (runs.work / "train.py").exists()
    assert (runs.work / "later.txt").exists()
    assert (runs.work / "after.txt").exists()


def test_rm_refuses_a_run_that_is_going_on(runs: Runs):
    """Exit code 75, and the run goes on."""
    runs.script("print('ready', flush=True); time.sleep(60)")
    process = runs.start("run", "train.py", "--run-id", "r", stdout=subprocess.PIPE)
    process.stdout.readline()
    assert runs.call("rm", "r", "--yes").returncode == 75
    assert runs.document("r")["status"] == "running"


def test_rm_asks_before_it_deletes(three: Runs):
    """Without a terminal to ask on and without --yes nothing is removed."""
    assert three.call("rm", "a").returncode == 2
    assert listed(three) == ["c", "b", "a"]


def test_reindex_gives_the_same_records(three: Runs):
    """Index and snapshot are caches: rebuilt from the run directories they say the same."""
    before = three.call("list", "--json").stdout
    snapshot = json.loads((three.home / "experiments.json").read_text())
    for name in ("index.db", "index.db-wal", "index.db-shm", "experiments.json"):
        (three.home / name).unlink(missing_ok=True)
    assert three.call("reindex").returncode == 0
    assert three.call("list", "--json").stdout == before
    assert json.loads((three.home / "experiments.json").read_text()) == snapshot


def test_experiments_json_has_the_documented_form(three: Runs):
    """Other tools read this file: exactly these keys, times in milliseconds."""
    entry = json.loads((three.home / "experiments.json").read_text())["b"]
    assert set(entry) == {
        "id", "name", "scriptPath", "status", "startTime", "endTime", "lastStep", "lastLoss", "lastCheckpoint",
        "checkpoints",
    }  # fmt: skip
    assert (entry["id"], entry["name"], entry["status"], entry["lastLoss"]) == ("b", "my best", "completed", 3.0)
    assert entry["scriptPath"] == str(three.work / "train.py")
    (session,) = three.document("b")["sessions"]
    assert entry["startTime"] / 1000 == pytest.approx(datetime.fromisoformat(session["started_at"]).timestamp(), abs=1)


def test_an_older_tools_experiments_are_imported(runs: Runs):
    """experiments.json without an index: its runs are taken over, not overwritten, and can be shown and resumed."""
    runs.script("print(os.environ['BACKPROP_RESUME_FROM'])")
    (runs.work / "old.json").write_text("{}")
    runs.home.mkdir()
    old = {
        "exp-1": {
            "id": "exp-1", "name": "first", "scriptPath": str(runs.work / "train.py"), "status": "completed",
            "startTime": 1_700_000_000_000, "endTime": 1_700_000_060_000, "lastStep": 50, "lastLoss": 0.25,
            "lastCheckpoint": str(runs.work / "old.json"), "checkpoints": [str(runs.work / "old.json")],
        },
        "exp-2": {"id": "exp-2", "status": "running", "scriptPath": "gone.py", "startTime": 1_700_000_100_000},
        "../evil": {"id": "../evil", "status": "completed"},
    }  # fmt: skip
    (runs.home / "experiments.json").write_text(json.dumps(old))
    done = runs.call("list", "--json")
    first, second = sorted(json.loads(done.stdout), key=lambda document: document["id"])
    assert (first["id"], first["status"], first["last_step"], first["metrics"]["loss"]) == (
        "exp-1",
        "completed",
        50,
        0.25,
    )
    assert first["elapsed_s"] == 60
    assert (second["id"], second["status"]) == ("exp-2", "interrupted")
    assert set(json.loads((runs.home / "experiments.json").read_text())) == set(old)
    assert "'../evil' cannot name a folder" in done.stderr
    assert runs.call("resume", "exp-1", "--again").stdout == f"{runs.work / 'old.json'}\n"


def test_a_metric_is_visible_while_the_run_goes_on(runs: Runs):
    """What a running script printed is in `list` of another terminal."""
    runs.script("print(json.dumps({'step': 3, 'loss': 9}), flush=True); time.sleep(60)")
    runs.start("run", "train.py", "--run-id", "r")
    document = wait_for(
        lambda: next((d for d in json.loads(runs.call("list", "--json").stdout) if d["last_step"]), None)
    )
    assert (document["status"], document["metrics"]) == ("running", {"loss": 9.0})


def test_a_foreign_folder_among_the_runs_is_left_alone(three: Runs):
    """A folder without a record is nobody's run: not listed, not deleted. With half of one it was a run."""
    (three.home / "runs" / "stranger").mkdir()
    (three.home / "runs" / "halfway").mkdir()
    (three.home / "runs" / "halfway" / "run.json").write_text("{")
    assert sorted(listed(three)) == ["a", "b", "c", "halfway"]
    assert three.document("halfway")["reason"].startswith("run.json is damaged: ")
    assert three.call("rm", "halfway", "--yes").returncode == 0
    assert (three.home / "runs" / "stranger").exists()


def test_names_cannot_play_tricks_on_the_terminal(runs: Runs):
    """Control characters that a script reports come out as text."""
    runs.script('print(json.dumps({"event": "params", "params": {"x\\x1b[31m": "\\x1b]0;evil\\x07"}}))')
    runs.call("run", "train.py")
    text = runs.call("status", "last").stdout
    assert "\x1b" not in text
    assert "\\x1b[31m" in text


def test_no_color_and_pipes_are_plain(three: Runs):
    """No escape sequence in piped output, whatever the environment says."""
    done = three.call("list", TERM="xterm-256color", FORCE_COLOR="1", COLUMNS="40")
    assert "\x1b" not in done.stdout
    assert "completed" in done.stdout
    assert os.linesep.join(done.stdout.splitlines()) in done.stdout


def test_long_texts_are_wrapped_between_words_in_a_terminal(runs: Runs):
    """Below one another, each word whole; a pipe gets one line a fact."""
    runs.script("")
    assert runs.call("run", "train.py", "--run-id", "r", "--", *["--flag", "word"] * 30).returncode == 0
    piped = runs.call("status", "r").stdout
    shown = in_terminal(runs, "status", "r", columns=60)
    assert all(len(line) <= 60 or " " not in line[12:].strip() for line in shown.splitlines())
    assert shown.split() == piped.split()
    assert len(shown.splitlines()) > len(piped.splitlines())
    assert all(re.match(r"\S+( \d+)?  |  ", line) for line in shown.splitlines())


def in_terminal(runs: Runs, *words: str, columns: int) -> str:
    """What a command shows in a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    running = runs.start(*words, stdout=slave)
    os.close(slave)
    shown = b""
    with suppress(OSError):  # the terminal's other end is closed
        while more := os.read(master, 65_536):
            shown += more
    os.close(master)
    assert running.wait(HANG_S) == 0
    return shown.decode(errors="surrogateescape").replace("\r\n", "\n")


@pytest.mark.parametrize("name", ["run.json", "journal.jsonl"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_run_whose_record_is_no_file_is_unreadable(three: Runs, name: str, make: Callable[[Path], None]):
    """Nobody waits for a FIFO: the others are shown, and it is said why this one is not; it can be removed."""
    path = three.rundir("b") / name
    path.unlink()
    make(path)
    done = three.call("reindex")
    assert done.returncode == 0
    shown = three.document("b")
    assert (shown["status"], f"{path} is not a file" in shown["reason"]) == ("unreadable", True)
    resumed = three.call("resume", "b")
    assert (resumed.returncode, f"{path} is not a file" in resumed.stderr) == (2, True)
    assert three.call("rm", "b", "--yes").returncode == 0
    assert listed(three) == ["c", "a"]


def test_a_request_to_a_run_whose_journal_is_no_file_is_refused(runs: Runs):
    """Without a word of Python's."""
    runs.script("print(1, flush=True); time.sleep(60)")
    runs.start("run", "train.py", "--run-id", "a")
    wait_for(lambda: runs.output("a"))
    assert runs.document("a")["status"] == "running"
    path = runs.rundir("a") / "journal.jsonl"
    path.rename(path.with_name("elsewhere"))
    os.mkfifo(path)
    done = runs.call("stop", "a")
    assert done.returncode == 2
    assert done.stderr.startswith(f"backprop: run a cannot be read: {path} is not a file")
    path.unlink()
    path.with_name("elsewhere").rename(path)
    assert runs.call("stop", "a", "--now").returncode == 0


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
def test_logs_shows_files_of_the_run_only(three: Runs, make: Callable[[Path], None]):
    """A FIFO hangs nobody, and a link shows nothing from elsewhere."""
    path = three.rundir("a") / "session-1.err"
    path.unlink()
    make(path)
    done = three.call("logs", "a", "--stderr")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{path} is not a file" in done.stderr


def test_a_best_value_that_nobody_knows_is_said_to_be_none(runs: Runs):
    """Where runs are filtered or sorted by it: by the smallest, unless the user says otherwise."""
    runs.script('print(json.dumps({"step": 1, "elo": 1200, "loss": 1}))')
    runs.call("run", "train.py")
    for words in (["--filter", "best.elo>1"], ["--sort", "best.elo"], ["--metric", "elo"]):
        assert "no best value of elo" in runs.call("list", *words).stderr
        assert runs.call("list", *words, "--goal", "max:elo").stderr == ""
    assert runs.call("list", "--filter", "best.loss>0").stderr == ""
