"""Whoever looks at a run on Slurm, or steers it, sees and does what is seen and done with one of this machine."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime

import psutil
import pytest
from textual.pilot import Pilot

from backprop.engines.slurm import client as slurm_client
from backprop.supervisor.signals import DOUBLE_PRESS_S
from backprop.views.watch.app import WatchApp
from backprop.views.watch.dialogs import Question
from tests.cli.test_look import in_terminal
from tests.cli.test_watch import Terminal
from tests.conftest import BACKPROP, HANG_S, wait_for
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import HeldBack, SlurmRuns
from tests.unit.views.test_watch import drive, lines_of, text_of, title_of, until
from tests.web.conftest import Server

IN_LINE = "--slurm-arg=--begin=now+1hour"


def ok(runs: SlurmRuns, *words: object) -> str:
    """What a command prints and says that is to succeed."""
    done = runs.call(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


# -- what is said of it


# Fails in its first two sessions and is paused by a user in the third.
FAILS_TWICE = """
    session = int(os.environ["BACKPROP_SESSION"])
    print("of the trainer", file=sys.stderr, flush=True)
    print(json.dumps({"step": session, "value": session * 3}), flush=True)  # whoever sees that, pauses
    while session == 3 and not os.path.exists("go"):
        time.sleep(0.05)
    sys.exit(session < 3)
"""


def said(runs: SlurmRuns, run_id: str, where: str) -> tuple[list[str], list[str]]:
    """What `run` passes on of a run that is tried three times, and paused once: the lines of both streams."""
    go = runs.work / "go"
    go.unlink(missing_ok=True)
    front = runs.start(
        "run", "--run-id", run_id, "--on", where, "--retries", 2, "train.py", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip
    runs.wait_for_steps(run_id, 1, session=3)
    ok(runs, "pause", run_id)
    ok(runs, "resume", run_id)
    go.touch()
    out, err = front.communicate(timeout=HANG_S)
    assert front.returncode == 0, err.decode()
    return out.decode().splitlines(), err.decode().replace(run_id, "RUN").splitlines()


def test_the_same_words_as_here(runs: SlurmRuns):
    """Whoever sits before it reads what is read of a run here, in the same order: but for the job, times, and waits."""
    runs.script(FAILS_TWICE)
    out_here, here = said(runs, "r-here", "here")
    out_there, there = said(runs, "r-there", "slurm")
    assert out_here == out_there == [f'{{"step": {step}, "value": {step * 3}}}' for step in (1, 2, 3)]
    assert without_figures(there) == without_figures(here)
    for words in ("of the trainer", "retry 2", "paused: `backprop pause`", "continuing", "completed"):
        assert any(words in line for line in here)
    runs.check("r-there", "failed", "failed", "completed")


PROGRESS = re.compile(r"^(backprop: )?(step \d|running).* (left|stopping)$")  # said twice a minute


def without_figures(lines: list[str]) -> list[str]:
    """But for what is waited for, which job it is, how far it is, times of day, and how long something took."""
    told = (
        re.sub(r" · Slurm job .*", "", line)
        for line in lines
        if not re.search(r"RUN (queued:|is Slurm job)", line) and not PROGRESS.search(line)
    )
    return [re.sub(r"\d\d:\d\d:\d\d|\d+(\.\d+)?", "N", line) for line in told]


# -- pauses


def test_a_pause_holds_a_run_in_its_job(runs: SlurmRuns):
    """It stands still, its clock too, and whoever sits before it is told; `resume` lets the same session go on."""
    front = Terminal(runs, [BACKPROP, "run", "--run-id", "r", "train.py", "--", "1000000", "0.05"])
    runs.wait_for_steps("r", 5)
    assert "run r paused · resume with: backprop resume r" in ok(runs, "pause", "r")
    document = runs.document("r")
    assert document["status"] == "paused"
    assert document["reason"].startswith("`backprop pause` by ")
    front.shows("backprop: paused: `backprop pause` by ", " left")
    wait_for_redraws(front, 2)  # of what was seen after that
    shown = wait_for(lambda: text if (text := front.text).rstrip().endswith(" left") else None)  # not half of a line
    wait_for(runs.stands_still)  # each process once it gets a core
    written, later = runs.output("r"), runs.document("r")
    assert (later["elapsed_s"], runs.output("r")) == (document["elapsed_s"], written)
    assert "run r is already paused" in ok(runs, "pause", "r")
    wait_for_redraws(front, 6)  # four a second, and the time left is shown in seconds
    wait_for(lambda: front.text == shown)
    assert "run r resumed" in ok(runs, "resume", "r")
    wait_for(lambda: re.search(rb"backprop: `backprop resume` by .*: continuing\r\n", front.written))
    runs.let_them_complete()
    assert front.process.wait(HANG_S) == 0
    wait_for(lambda: b"run r completed after" in front.written)
    document = runs.check("r", "completed")
    (continued,), (ended,) = runs.told("r", "continued"), runs.told("r", "session_ended")
    (launched,) = runs.told("r", "trainer_launched")
    lasted_s = (_time(ended) - _time(launched)).total_seconds()
    assert later["elapsed_s"] <= document["elapsed_s"]
    # about its length without the pause, of two seconds at least: it is measured by another clock, a little earlier
    assert document["elapsed_s"] < lasted_s - continued["paused_s"] / 2


def wait_for_redraws(front: Terminal, count: int) -> None:
    """Until its last line, with the time left, was drawn so many times more."""
    before = front.written.count(b" left")
    wait_for(lambda: front.written.count(b" left") >= before + count)


def _time(entry: dict) -> datetime:
    return datetime.fromisoformat(entry["at"].replace("Z", "+00:00"))


def test_a_pause_that_is_taken_back_before_it_is_heard(runs: SlurmRuns):
    """Both requests lie there when the job looks: it obeys them in their order, and goes on."""
    runs.submit("r")
    runs.wait_for_steps("r", 3)
    (supervisor,) = runs.supervisors()
    psutil.Process(supervisor).suspend()
    pausing = runs.start("pause", "r")
    wait_for(lambda: list(runs.rundir("r").glob("asked/[!.]*")))
    assert "run r resumed" in ok(runs, "resume", "r")
    assert len(list(runs.rundir("r").glob("asked/[!.]*"))) == 2
    pausing.kill()
    psutil.Process(supervisor).resume()
    wait_for(lambda: runs.told("r", "continued"))
    runs.let_them_complete()
    runs.wait_for_status("r", "completed")
    assert len(runs.told("r", "paused")) == len(runs.told("r", "continued")) == 1
    runs.check("r", "completed")


def test_slurms_warning_ends_a_pause(runs: SlurmRuns):
    """SIGUSR1 to a paused run: it saves, is put back into the line, and goes on there."""
    runs.submit("r")
    runs.wait_for_steps("r", 5)
    ok(runs, "pause", "r")
    paused_at = runs.output("r").count('"value"')
    assert runs.cluster.call("scancel", "--batch", "--signal=USR1", runs.job("r")).returncode == 0
    runs.wait_for_status("r", "queued", session=2)
    runs.let_them_complete()
    assert "run r completed" in ok(runs, "wait", "r")
    runs.check("r", "stopped", "completed")
    assert json.loads(runs.output("r", 2).splitlines()[0])["from"] >= paused_at


def test_a_job_that_slurm_suspends(runs: SlurmRuns):
    """Nobody takes that for a Ctrl-Z: who holds it is told, a stop is heard when it goes on, and its clock stands still."""
    front = runs.start("run", "--run-id", "r", "train.py", "--", 10**9, 0.05, stderr=subprocess.PIPE)
    runs.wait_for_steps("r", 5)
    assert runs.cluster.call("scontrol", "suspend", runs.job("r")).returncode == 0
    assert runs.wait_for_status("r", "paused")["reason"] == "suspended by Slurm"
    for command, words in (
        ("pause", "already suspended by Slurm"),
        ("resume", f"scontrol resume {runs.job('r')}"),
        ("stop", "will do so when Slurm resumes it"),
    ):
        done = runs.call(command, "r")
        assert done.returncode == 75, done.stderr
        assert words in done.stderr
    assert runs.cluster.call("scontrol", "resume", runs.job("r")).returncode == 0
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 0, told.decode()
    for words in ("backprop: suspended by Slurm\n", "backprop: resumed by Slurm\n"):
        assert told.decode().count(words) == 1
    document = runs.check("r", "stopped")
    assert document["checkpoints"][-1]["step"] == document["last_step"]


def test_a_suspension_that_never_comes(runs: SlurmRuns):
    """Announced, or heard of when it is over: whoever is not stopped within seconds goes on."""
    runs.submit("r")
    runs.wait_for_steps("r", 5)
    (supervisor,) = runs.supervisors()
    os.kill(supervisor, signal.SIGTSTP)
    wait_for(lambda: runs.told("r", "continued"))
    assert len(runs.told("r", "paused")) == len(runs.told("r", "continued")) == 1
    assert runs.document("r")["status"] == "running"
    runs.wait_for_steps("r", runs.output("r").count('"step"') + 5)
    ok(runs, "stop", "r")
    runs.check("r", "stopped")


def test_ctrl_c_twice_kills_what_slurm_suspends(runs: SlurmRuns):
    """Its supervisor hears of nothing: it is ended with the job."""
    front = runs.start("run", "--run-id", "r", "train.py", "--", 10**9, 0.05, stderr=subprocess.PIPE)
    runs.wait_for_steps("r", 5)
    assert runs.cluster.call("scontrol", "suspend", runs.job("r")).returncode == 0
    runs.wait_for_status("r", "paused")
    assert front.stderr is not None
    front.send_signal(signal.SIGINT)
    while b"will do so when Slurm resumes it" not in front.stderr.readline():
        assert front.poll() is None
    time.sleep(DOUBLE_PRESS_S)
    front.send_signal(signal.SIGINT)
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode in {130, 137}, told.decode()
    runs.wait_for_status("r", "interrupted", "stopped")
    assert runs.tree() == []


def test_ctrl_z_holds_the_run_with_its_front(runs: SlurmRuns):
    """As here: the trainer stands still, its clock too, until `fg`."""
    front = runs.start("run", "--run-id", "r", "train.py", "--", 10**9, 0.05, stderr=subprocess.PIPE)
    runs.wait_for_steps("r", 5)
    front.send_signal(signal.SIGTSTP)
    assert runs.wait_for_status("r", "paused")["reason"].startswith("`Ctrl-Z` by ")
    wait_for(lambda: psutil.Process(front.pid).status() == psutil.STATUS_STOPPED)
    front.send_signal(signal.SIGCONT)
    runs.wait_for_status("r", "running")
    runs.let_them_complete()
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 0, told.decode()
    assert len(runs.told("r", "paused")) == len(runs.told("r", "continued")) == 1
    runs.check("r", "completed")


def test_a_wait_for_what_was_cancelled_in_line(runs: SlurmRuns):
    """It has ended: nobody waits for a submission that is over."""
    runs.submit("r", IN_LINE)
    assert runs.cluster.call("scancel", runs.job("r")).returncode == 0
    runs.wait_for_status("r", "interrupted", session=0)
    assert runs.call("wait", "r").returncode != 0
    runs.check("r")


# -- a run that waits in Slurm's line


def test_why_a_run_waits_is_shown_everywhere(runs: SlurmRuns, monkeypatch: pytest.MonkeyPatch):
    """Slurm's reason: in list, also on a narrow terminal, in status, watch and on the page."""
    runs.submit("r", IN_LINE, "-n", "a-name-of-some-length")
    runs.wait_for_status("r", "queued")
    why = "Slurm: BeginTime"
    assert re.search(rf"r +a-name-of-some-length +queued .* {why} ", ok(runs, "list"))
    assert why in in_terminal(runs, "list", columns=80)
    assert re.search(rf"^status +queued: {why}$", ok(runs, "status", "r"), re.MULTILINE)
    server = Server(runs)
    (row,) = server.get("/api/runs").json["runs"]
    assert (row["status"], row["reason"]) == ("queued", why)
    assert server.get("/api/runs/r").json["waits_for"] == why

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await until(pilot, lambda: title_of(app) == f"r · queued: {why}")
        await pilot.press("d")
        await until(pilot, lambda: f"queued: {why}" in text_of(app, "#body"))

    monkeypatch.setenv("SLURM_CONF", str(runs.cluster.configuration))
    drive(runs, story)


def test_a_run_in_line_cannot_be_paused_or_removed(runs: SlurmRuns):
    """Both are refused with what to do; it waits on, and the page's stop button takes it out."""
    runs.submit("r", IN_LINE)
    runs.wait_for_status("r", "queued")
    paused = runs.call("pause", "r")
    assert paused.returncode == 75
    assert "run r is queued: there is nothing to pause yet. To stop it: backprop stop r" in paused.stderr
    removed = runs.call("rm", "--yes", "r")
    assert removed.returncode == 75
    job = runs.job("r")
    assert f"run r belongs to Slurm job {job}. Stop it first: backprop stop r" in removed.stderr
    assert [line.split()[:2] for line in runs.jobs()] == [[job, "PENDING"]]
    server = Server(runs, is_hurried=False)
    assert server.post("/api/runs/r/pause").status == 409
    stopped = server.post("/api/runs/r/stop")
    assert (stopped.status, stopped.json["said"]) == (202, "run r was asked to leave the queue.")
    assert runs.check("r")["status"] == "refused"


# -- buttons and keys


def test_the_pages_buttons(runs: SlurmRuns):
    """Each is answered at once, and then it comes to pass: pause, go on, stop, another session, kill."""
    runs.submit("r")
    runs.wait_for_steps("r", 3)
    server = Server(runs)
    for order, status in (("pause", "paused"), ("resume", "running"), ("stop", "stopped"), ("resume", "running")):
        answer = server.post(f"/api/runs/r/{order}")
        assert answer.status == 202, answer.text
        assert answer.json["said"]
        wait_for(lambda status=status: server.get("/api/runs/r").json["status"] == status)
    runs.wait_for_steps("r", 3, session=2)
    refused = runs.call("rm", "--yes", "r")
    assert refused.returncode == 75
    assert f"run r belongs to Slurm job {runs.job('r')}. Stop it first" in refused.stderr
    assert server.post("/api/runs/r/stop", now=True).status == 202
    wait_for(lambda: server.get("/api/runs/r").json["status"] == "stopped")
    runs.check("r", "stopped", "stopped")
    assert runs.told("r", "stop_asked")[-1]["now"]


def test_a_key_in_watch_stops_a_run(runs: SlurmRuns, monkeypatch: pytest.MonkeyPatch):
    """`p` holds it, `r` lets it go on, `s` and `y` stop it gracefully."""
    runs.submit("r")
    runs.wait_for_steps("r", 3)

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        for key, status in (("p", "paused"), ("r", "running")):
            await pilot.press(key)
            await until(pilot, lambda status=status: status in lines_of(app)[0])
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, Question))
        await pilot.press("y")
        await until(pilot, lambda: "stopped" in lines_of(app)[0])

    monkeypatch.setenv("SLURM_CONF", str(runs.cluster.configuration))
    drive(runs, story)
    document = runs.check("r", "stopped")
    assert document["reason"].startswith("`s in backprop watch` by ")
    assert document["checkpoints"][-1]["step"] == document["last_step"]


# -- between two sessions


def test_whoever_watches_hurries_the_job(runs: SlurmRuns):
    """`logs -f` alone, then `wait` alone: each lets the job begin that Slurm would let wait for two minutes."""
    warn = ["scancel", "--batch", "--signal=USR1"]
    runs.submit("r")
    following = runs.start("logs", "r", "-f", stdout=subprocess.PIPE)
    runs.wait_for_steps("r", 1)
    assert runs.cluster.call(*warn, runs.job("r")).returncode == 0
    runs.wait_for_steps("r", 1, session=2)
    following.send_signal(signal.SIGINT)
    following.wait(HANG_S)
    assert runs.cluster.call(*warn, runs.job("r")).returncode == 0
    wait_for(lambda: len(runs.told("r", "session_ended")) == 2)
    runs.let_them_complete()
    assert "run r completed" in ok(runs, "wait", "r")
    runs.check("r", "stopped", "stopped", "completed")


def test_a_stop_while_the_job_puts_itself_back(runs: SlurmRuns):
    """It has looked for requests, and is not in Slurm's line yet: it is taken from there as soon as it is."""
    held = HeldBack(runs, "scontrol", "requeue*")
    runs.submit("r", "--sessions", 2, "--until-step", 5)
    held.wait()
    stopping = runs.start("stop", "r", stderr=subprocess.PIPE)
    wait_for(lambda: list(runs.rundir("r").glob("asked/[!.]*")))
    held.go_on()
    _, told = stopping.communicate(timeout=HANG_S)
    assert stopping.returncode == 0, told.decode()
    document = runs.check("r", "timeboxed")
    assert document["status"] == "timeboxed"


@pytest.mark.parametrize("array", [(), ("--array=0-1",)], ids=["a job", "a task"])
def test_what_has_ended_does_not_wait(runs: SlurmRuns, array: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    """Slurm calls a job that puts itself back failed for a moment. To take it out of the line then is no error."""
    monkeypatch.setenv("SLURM_CONF", str(runs.cluster.configuration))
    submitted = runs.cluster.call("sbatch", "--parsable", "--output=/dev/null", *array, "--wrap=exit 1")
    assert submitted.returncode == 0, submitted.stderr
    job = f"{submitted.stdout.strip()}_1" if array else submitted.stdout.strip()
    wait_for(lambda: runs.cluster.line() == [])
    for known in (job, "9999_1" if array else "9999"):
        slurm_client.cancel(known, only_pending=True)


def test_status_between_two_sessions(runs: SlurmRuns):
    """What ran, on which node and in which job, and that it waits again: no process is named that is gone."""
    runs.submit("r")
    wait_for(lambda: runs.told("r", "trainer_launched"))
    shown = rows(ok(runs, "status", "r"))
    assert re.fullmatch(r"process \d+, trainer \d+, on node\d", shown["supervisor"])
    assert re.fullmatch(rf"running, .* of 10 min, Slurm job {runs.job('r')} on node\d", shown["session 1"])
    assert runs.cluster.call("scancel", "--batch", "--signal=USR1", runs.job("r")).returncode == 0
    runs.wait_for_status("r", "queued", session=2)
    shown = rows(ok(runs, "status", "r"))
    assert shown["status"].startswith("queued: ")
    assert shown["session 1"].startswith("stopped, ")
    assert re.fullmatch(rf"Slurm job {runs.job('r')}, queued for .*", shown["session 2"])
    assert "supervisor" not in shown
    ok(runs, "stop", "r")
    runs.check("r", "stopped")


def rows(text: str) -> dict[str, str]:
    """What `status` says, by its label; fails unless all of it begins in one column."""
    found = [match.groups() for line in text.splitlines() if (match := re.fullmatch(r"(\S.*?)(  +)(.*)", line))]
    assert len({len(label + gap) for label, gap, _ in found}) == 1, text
    return {label: told for label, _, told in found}


# -- runs that have ended


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[tuple[SlurmRuns, list[str]]]:
    """A home with two runs of one array that have completed, and their ids."""
    runs = SlurmRuns(tmp_path_factory.mktemp("ended"), cluster)
    runs.environment["LC_ALL"] = "C.UTF-8"
    runs.script("for n in range(30): print(json.dumps({'step': n, 'loss': 1 / (n + int(sys.argv[2]))}))")
    made = runs.call("run", "-n", "sweep", "--vary", "lr=1,2", "train.py")
    assert made.returncode == 0, made.stderr
    ids = made.stdout.split()
    ok(runs, "wait", *ids)
    yield runs, ids
    runs.clean_up()


def test_curves_are_drawn(ended: tuple[SlurmRuns, list[str]]):
    """One with dots, both in one frame with letters; and into a file."""
    runs, ids = ended
    drawn = ok(runs, "plot", ids[0])
    assert drawn.startswith(f"sweep-1 ({ids[0]})\nloss\n")
    assert any("\u2800" < dot <= "\u28ff" for dot in drawn)
    drawn = ok(runs, "plot", *ids)
    assert f"a sweep-1 ({ids[0]})  b sweep-2 ({ids[1]})" in drawn
    assert all(re.search(rf"[│┤].*{letter}", drawn) for letter in "ab")
    ok(runs, "plot", *ids, "-o", "curves.html")
    assert all(run_id in (runs.work / "curves.html").read_text() for run_id in ids)


def test_runs_are_compared(ended: tuple[SlurmRuns, list[str]]):
    """What differs between two tasks of an array: the parameter, and what became of it."""
    runs, ids = ended
    compared = ok(runs, "compare", *ids)
    assert re.search(r"^lr +1 +2$", compared, re.MULTILINE)
    assert re.search(r"^status +completed +completed$", compared, re.MULTILINE)
    assert [line.split(",")[0] for line in ok(runs, "compare", *ids, "--csv").splitlines()[1:]] == ids
    assert json.loads(ok(runs, "compare", *ids, "--json"))


def test_every_point_is_exported(ended: tuple[SlurmRuns, list[str]]):
    """With the step that the trainer wrote, and at a time within its session, by the clock of its node."""
    runs, ids = ended
    lines = [json.loads(line) for line in ok(runs, "export", *ids, "--to", "jsonl", "-").splitlines()]
    documents = {line["id"]: line for line in lines if line["kind"] == "run"}
    assert list(documents) == ids
    for number, run_id in enumerate(ids, start=1):
        points = [line for line in lines if line["kind"] == "point" and line["run"] == run_id]
        points = [point for point in points if point["metric"] == "loss"]  # not what was measured
        assert [(point["step"], point["value"]) for point in points] == [(n, 1 / (n + number)) for n in range(30)]
        assert {point["session"] for point in points} == {1}
        elapsed_s = documents[run_id]["elapsed_s"]
        assert all(0 <= point["time_s"] <= elapsed_s + 1 for point in points)


def test_an_ended_runs_status(ended: tuple[SlurmRuns, list[str]]):
    """Its job and node, its figures; nobody answers for it."""
    runs, ids = ended
    shown = rows(ok(runs, "status", ids[0]))
    assert shown["status"] == "completed"
    assert re.fullmatch(r"completed, .* of 10 min, Slurm job \d+_0 on node\d", shown["session 1"])
    assert shown["step"] == "29"
    assert "supervisor" not in shown


def test_an_ended_run_is_removed_with_all_that_its_job_left(runs: SlurmRuns):
    """Its folder, with the job's script and log; no job, no process, nothing of its supervisor's in the temporary files."""
    runs.environment["TMPDIR"] = str(runs.work / "temporary")
    os.mkdir(runs.environment["TMPDIR"])
    ok(runs, "run", "--run-id", "r", "train.py", "--", 5, 0.0)
    wait_for(lambda: not runs.supervisors())
    ok(runs, "rm", "--yes", "--checkpoints", "r")
    assert [path for path in runs.home.rglob("*") if "r" in path.name.split(".")] == []
    assert [path.name for path in (runs.home / "runs").iterdir()] == []
    assert os.listdir(runs.environment["TMPDIR"]) == []
    wait_for(lambda: not runs.cluster.line())
    assert runs.tree() == []
    assert json.loads(ok(runs, "list", "--json")) == []
