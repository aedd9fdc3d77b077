"""Requests with an id, which start something once; and resumes that need a checkpoint, or want none."""

import json

import pytest

from tests.conftest import Runs, wait_for

# a step each 20 ms until ROOM; saves each step, and continues from what it is offered
TRAIN = """
    step = 0
    path = os.environ.get("BACKPROP_RESUME_FROM")
    if path:
        step = int(open(path).read())
    while not os.path.exists("done"):
        step += 1
        with open("state.tmp", "w") as file:
            file.write(str(step))
        os.replace("state.tmp", "state.txt")
        print(json.dumps({"event": "checkpoint_saved", "path": "state.txt", "step": step}), flush=True)
        print(json.dumps({"step": step, "loss": 1 / step}), flush=True)
        time.sleep(0.02)
"""


def test_a_start_that_is_repeated_returns_the_same_run(runs: Runs):
    """By the id of the request: also in the foreground and as JSON. Another one makes another run."""
    runs.script("print('trained')")
    words = ("run", "train.py", "-d", "--request-id", "baseline of today")
    first, second = runs.call(*words), runs.call(*words)
    assert first.returncode == second.returncode == 0
    assert (first.stdout, "nothing is started" in second.stderr) == (second.stdout, True)
    run_id = first.stdout.strip()
    assert runs.call("wait", run_id).returncode == 0
    document = json.loads(runs.call(*words[:2], *words[3:], "--json").stdout)
    assert (document["id"], document["request_id"], len(document["sessions"])) == (run_id, "baseline of today", 1)
    assert document["sessions"][0]["request_id"] == "baseline of today"
    other = runs.call("run", "train.py", "--request-id", "another", "--json")
    assert json.loads(other.stdout)["id"] != run_id
    assert len(list(runs.home.glob("runs/*"))) == 2


def test_two_starts_at_once_make_one_run(runs: Runs):
    """Whoever comes later returns the run of the first."""
    runs.script("print('trained')")
    all_of_them = [runs.start("run", "train.py", "--request-id", "x") for _ in range(4)]
    assert [process.wait() for process in all_of_them] == [0, 0, 0, 0]
    assert len(list(runs.home.glob("runs/*"))) == 1


def test_a_request_for_something_else_is_refused(runs: Runs):
    """Another script, or other arguments, under an id that was used: not the run that was asked for. Settings may differ."""
    runs.script("print('trained')")
    runs.script("print('other')", name="other.py")
    request = ("--request-id", "x")
    assert runs.call("run", "train.py", *request, "--", "--lr", "1").returncode == 0
    for words in (("other.py", *request, "--", "--lr", "1"), ("train.py", *request, "--", "--lr", "2")):
        done = runs.call("run", *words)
        assert (done.returncode, "choose another --request-id" in done.stderr) == (2, True), done
    assert runs.call("run", "train.py", "-m", "9", *request, "--", "--lr", "1").returncode == 0
    assert len(list(runs.home.glob("runs/*"))) == 1


def test_varied_starts_that_are_repeated_return_the_same_runs(runs: Runs):
    """In one group; with more values the new ones start, and what was started for others is refused as a whole."""
    runs.script("print('trained')")
    vary = ("run", "train.py", "--request-id", "rates", "--vary")
    first = runs.call(*vary, "lr=1,2")
    assert first.returncode == 0, first.stderr
    ids = first.stdout.split()
    second = runs.call(*vary, "lr=1,2")
    assert (second.stdout, "2 of 2 runs were started" in second.stderr) == (first.stdout, True)
    more = json.loads(runs.call(*vary, "lr=1,2,3", "--json").stdout)
    assert [run["id"] for run in more[:2]] == ids
    assert runs.call("wait", *(run["id"] for run in more)).returncode == 0
    documents = [runs.document(run["id"]) for run in more]
    assert [(run["params"]["lr"], run["request_id"], len(run["sessions"])) for run in documents] == [
        (lr, "rates", 1) for lr in (1, 2, 3)
    ]
    assert len({run["group"] for run in documents}) == 1
    for words in ((*vary, "lr=1,3,4,5"), ("run", "train.py", "--request-id", "rates")):
        done = runs.call(*words)
        assert (done.returncode, "choose another --request-id" in done.stderr) == (2, True), done
    assert runs.call(*vary, "lr=1,2", "--dry-run").stdout.split() == ids
    assert len(list(runs.home.glob("runs/*"))) == 3


def test_an_id_for_several_runs_or_of_another_request_is_refused(runs: Runs):
    """An id names one run."""
    runs.script("print('trained')")
    assert runs.call("run", "train.py", "--run-id", "a").returncode == 0
    for words in (
        ("run", "train.py", "--vary", "lr=1,2", "--run-id", "x"),
        ("run", "train.py", "--run-id", "a", "--request-id", "x"),
        ("run", "train.py", "--request-id", ""),
        ("run", "train.py", "--sweep-trial", "a"),
    ):
        assert runs.call(*words).returncode == 2, words


def test_a_resume_that_is_repeated_starts_one_session(runs: Runs):
    """While that is active, and after it has ended."""
    runs.script(TRAIN)
    runs.own("r")
    assert runs.call("run", "train.py", "-d", "--run-id", "r").returncode == 0
    wait_for(lambda: runs.output("r").count("\n") > 4)
    assert runs.call("stop", "r").returncode == 0
    resume = ("resume", "r", "-d", "--strict", "--request-id", "go")
    assert runs.call(*resume).returncode == 0
    done = runs.call(*resume)
    assert (done.returncode, "nothing is started" in done.stderr) == (0, True)
    (runs.work / "done").touch()
    assert runs.call("wait", "r").returncode == 0
    assert runs.call(*resume, "--json").returncode == 0
    assert [session["request_id"] for session in runs.document("r")["sessions"]] == [None, "go"]
    assert runs.call("resume", "r", "-d", "--again", "--request-id", "more").returncode == 0
    assert runs.call("wait", "r").returncode == 0
    assert len(runs.document("r")["sessions"]) == 3


def test_a_resume_for_something_else_is_refused(runs: Runs):
    """By a request that has started a session with other arguments, or the run: no session that was not asked for."""
    runs.script("print(sys.argv[1:])")
    assert runs.call("run", "train.py", "--run-id", "r", "--request-id", "first").returncode == 0
    resume = ("resume", "r", "--again", "--request-id")
    assert runs.call(*resume, "go", "--", "--lr", "1").returncode == 0
    for words in (
        (*resume, "first"),
        (*resume, "go"),
        (*resume, "go", "--", "--lr", "2"),
        (*resume, "go", "--only-once", "--", "--lr", "1"),
        (*resume, "go", "--from-scratch", "--", "--lr", "1"),
    ):
        done = runs.call(*words)
        assert (done.returncode, "choose another --request-id" in done.stderr) == (2, True), done
    done = runs.call(*resume, "go", "-m", "9", "--", "--lr", "1")
    assert (done.returncode, "nothing is started" in done.stderr) == (0, True)
    assert len(runs.document("r")["sessions"]) == 2


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("-d",)])
def test_a_strict_resume_without_a_checkpoint_starts_nothing(runs: Runs, more: tuple[str, ...]):
    """Exit code 76, as the run was before; without --strict it starts over."""
    runs.script("sys.exit(3)")
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 3
    done = runs.call("resume", "r", "--strict", *more)
    assert (done.returncode, "no valid checkpoint" in done.stderr) == (76, True)
    assert [session["status"] for session in runs.document("r")["sessions"]] == ["failed"]
    assert runs.call("resume", "r").returncode == 3


@pytest.mark.parametrize("damage", ["", "12", None])
def test_a_strict_resume_skips_a_damaged_checkpoint(runs: Runs, damage: str | None):
    """Empty, cut or removed: it says why, starts nothing, and does not claim that the script starts over."""
    runs.script(
        """
        with open("state.txt", "w") as file:
            file.write("whole")
        print(json.dumps({"event": "checkpoint_saved", "path": "state.txt", "step": 1}), flush=True)
        sys.exit(3)
        """
    )
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 3
    if damage is None:
        (runs.work / "state.txt").unlink()
    else:
        (runs.work / "state.txt").write_text(damage)
    done = runs.call("resume", "r", "--strict")
    assert (done.returncode, "is skipped: " in done.stderr, "starts over" in done.stderr) == (76, True, False), done
    assert len(runs.document("r")["sessions"]) == 1


def test_a_resume_from_scratch_offers_nothing(runs: Runs):
    """The session trains from the beginning, though there is a checkpoint."""
    runs.script(TRAIN)
    runs.own("r")
    assert runs.call("run", "train.py", "-d", "--run-id", "r").returncode == 0
    wait_for(lambda: runs.output("r").count("\n") > 4)
    assert runs.call("stop", "r").returncode == 0
    assert runs.call("resume", "r", "-d", "--from-scratch").returncode == 0
    wait_for(lambda: '"step": 1,' in runs.output("r", 2))
    (runs.work / "done").touch()
    assert runs.call("wait", "r").returncode == 0
    assert runs.document("r")["sessions"][1]["offered"] is None
    assert runs.call("resume", "r", "--from-scratch", "--strict").returncode == 2
