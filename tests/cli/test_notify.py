"""Notifications: commands, webhooks and messages on the desktop, which never touch the run."""

import hmac
import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from backprop.lifecycle import notifier
from backprop.records import Notification
from backprop.views import notification as messenger
from tests.conftest import HANG_S, Runs, wait_for

# writes what it was given into a file of its own: told-<state>-<pid>.json
RECORD = """
    told = {key: value for key, value in os.environ.items() if key.startswith("BACKPROP_")}
    told["document"] = json.load(sys.stdin)
    path = f"told-{os.environ['BACKPROP_EVENT']}-{os.getpid()}.json"
    with open(path + ".new", "w") as file:
        json.dump(told, file)
    os.rename(path + ".new", path)
"""


def configure(runs: Runs, *notifications: dict) -> None:
    (runs.work / "backprop.config.json").write_text(json.dumps({"notify": notifications}))


def recorder(runs: Runs) -> list[str]:
    return [sys.executable, str(runs.script(RECORD, "record.py"))]


def told(runs: Runs, state: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in runs.work.glob(f"told-{state}-*.json")]


def log(runs: Runs, run_id: str) -> str:
    path = runs.rundir(run_id) / "notify.log"
    return path.read_text() if path.exists() else ""


def messengers(runs: Runs) -> list[int]:
    """Processes that are still telling of runs of this home."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "backprop.views.notification" in (words := process.info["cmdline"] or [])
        and str(runs.home) in " ".join(words)
    ]


class Server(ThreadingHTTPServer):
    """A real server on loopback that answers as it is told."""

    def __init__(self, code: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.code = code
        self.bodies: list[dict] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/services/T0P-S3CRET?key=hidden"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(json.loads(body))
        self.server.may_answer.wait(HANG_S)
        self.send_response(self.server.code)
        if self.server.code == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.bodies.append({"got": self.path})

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.may_answer.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_command_is_told_how_a_run_ended(runs: Runs):
    """Environment variables say what happened, stdin has the whole document, and notify.log that it was done."""
    configure(runs, {"command": recorder(runs)})
    runs.script('print(json.dumps({"step": 3, "loss": 0.5})); sys.exit(4)')
    assert runs.call("run", "train.py", "--run-id", "a", "-n", "mine").returncode == 4
    (event,) = wait_for(lambda: told(runs, "failed"))
    assert (event["BACKPROP_RUN_ID"], event["BACKPROP_RUN_NAME"]) == ("a", "mine")
    assert event["BACKPROP_REASON"] == "exit code 4"
    assert event["BACKPROP_TEXT"].startswith("run a (mine) failed after ")
    assert event["BACKPROP_TEXT"].endswith("at step 3: exit code 4")
    assert event["document"]["metrics"] == {"loss": 0.5}
    assert event["document"]["sessions"][0]["exit_code"] == 4
    wait_for(
        lambda: log(runs, "a").endswith("failed: command python done\n".replace("python", Path(sys.executable).name))
    )


def test_only_the_chosen_states_are_told(runs: Runs):
    """`on` names them; nothing is started for another."""
    configure(runs, {"command": recorder(runs), "on": ["failed"]})
    runs.script("sys.exit(len(sys.argv) - 1)")
    runs.call("run", "train.py", "--run-id", "good")
    runs.call("run", "train.py", "--run-id", "bad", "--", "x")
    assert [event["BACKPROP_RUN_ID"] for event in wait_for(lambda: told(runs, "failed"))] == ["bad"]
    assert told(runs, "completed") == []
    assert log(runs, "good") == ""


def test_an_end_that_another_session_follows_is_not_told(runs: Runs):
    """Retries and further timeboxes are one story, told when it is over."""
    configure(runs, {"command": recorder(runs)})
    runs.script("sys.exit(5)")
    runs.call("run", "train.py", "--run-id", "a", "--retries", "1")
    (event,) = wait_for(lambda: told(runs, "failed"))
    assert len(event["document"]["sessions"]) == 2
    wait_for(lambda: log(runs, "a"))
    assert log(runs, "a").count("failed: command") == 1


def test_queued_and_paused_are_told_when_asked_for(runs: Runs):
    """In the midst of things, without disturbing the line or the trainer."""
    configure(runs, {"command": recorder(runs), "on": ["queued", "paused", "completed"]})
    runs.environment["BACKPROP_MAX_PARALLEL"] = "1"
    runs.script("""
        print("here", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.02)
        # an orphan that must not get away, although somebody was told in the middle of the session
        subprocess.Popen([sys.executable, "-c", "import os, time\\nif os.fork() == 0: time.sleep(1000)"]).wait()
    """)
    first = runs.start("run", "train.py", "--run-id", "first")
    wait_for(lambda: runs.output("first"))
    runs.call("run", "train.py", "--run-id", "second", "-d")
    assert wait_for(lambda: told(runs, "queued"))[0]["BACKPROP_RUN_ID"] == "second"
    first.send_signal(signal.SIGTSTP)
    assert wait_for(lambda: told(runs, "paused"))[0]["BACKPROP_REASON"] == "Ctrl-Z"
    wait_for(lambda: psutil.Process(first.pid).status() == psutil.STATUS_STOPPED)
    first.send_signal(signal.SIGCONT)
    wait_for(lambda: runs.document("first")["status"] == "running")
    (runs.work / "go").touch()
    assert first.wait(HANG_S) == 0
    assert runs.call("wait", "second").returncode == 0
    wait_for(lambda: len(told(runs, "completed")) == 2)
    assert runs.tree() == []


def test_a_webhook_gets_json(runs: Runs):
    """A sentence for chat servers and the run's figures, but neither its command nor its parameters."""
    with serving(Server()) as server:
        configure(runs, {"webhook": server.address})
        runs.script('print(json.dumps({"step": 3, "loss": float("nan")}))')
        runs.call("run", "train.py", "--run-id", "a", "--", "--token", "very-secret")
        wait_for(lambda: "delivered (200)" in log(runs, "a"))
    (body,) = server.bodies
    assert body["event"] == "completed"
    assert body["text"].startswith("run a completed after ")
    assert body["run"]["metrics"] == {"loss": "NaN"}
    assert "very-secret" not in json.dumps(body)


def test_a_secret_in_an_address_is_never_shown(runs: Runs):
    """`status` and notify.log have only the host; files are readable by their owner alone."""
    with serving(Server(500)) as server:
        configure(runs, {"webhook": server.address})
        runs.script("pass")
        runs.call("run", "train.py", "--run-id", "a")
        wait_for(lambda: log(runs, "a"))
    shown = runs.call("status", "a").stdout
    assert "notified" in shown
    assert "completed: webhook http://127.0.0.1 failed: the server answered 500" in shown
    assert "S3CRET" not in shown + log(runs, "a") + runs.call("status", "a", "--json").stdout
    assert stat.S_IMODE(runs.rundir("a").stat().st_mode) == 0o700


def test_a_redirect_is_not_followed(runs: Runs):
    """What is posted goes where the user said, and nowhere else."""
    with serving(Server(302)) as server:
        configure(runs, {"webhook": server.address})
        runs.script("pass")
        runs.call("run", "train.py", "--run-id", "a")
        wait_for(lambda: "the server answered 302" in log(runs, "a"))
    assert len(server.bodies) == 1


def test_a_server_that_hangs_keeps_nobody_waiting(runs: Runs):
    """The run has ended, and its command has exited, while the server still says nothing."""
    server = Server()
    server.may_answer.clear()
    with serving(server):
        configure(runs, {"webhook": server.address}, {"command": ["sleep", "1000"]}, {"command": recorder(runs)})
        runs.script("pass")
        done = runs.call("run", "train.py", "--run-id", "a")
        assert done.returncode == 0
        wait_for(lambda: server.bodies)
        assert runs.document("a")["status"] == "completed"
        assert "delivered" not in log(runs, "a")
        wait_for(lambda: told(runs, "completed"))  # the others are told meanwhile
        (sleeper,) = wait_for(lambda: [one for one in psutil.process_iter(["cmdline"]) if is_sleeper(one)])
        sleeper.kill()


def is_sleeper(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # one of somebody else's, which has ended
        return process.info["cmdline"] == ["sleep", "1000"] and process.environ().get("BACKPROP_RUN_ID") == "a"
    return False


@pytest.mark.parametrize(
    ("notification", "told_why"),
    [
        ({"command": ["/nonexistent/program"]}, "command program failed: cannot be started: No such file or directory"),
        ({"command": ["sh", "-c", "cat > /dev/null; echo first; echo no luck; exit 3"]}, "exit code 3: no luck"),
        ({"webhook": "http://127.0.0.1:1/x"}, "webhook http://127.0.0.1 failed: Connection refused"),
        ({"command": ["sh", "-c", "kill -9 $$"]}, "exit code -9"),
        ({"command": ["sh", "-c", "echo 'a\x1b[31mb'; exit 1"]}, r"exit code 1: a\x1b[31mb"),
    ],
)
def test_a_failing_notification_leaves_a_trace(runs: Runs, notification: dict, told_why: str):
    """In notify.log, which `status` shows; the run is as good as ever."""
    configure(runs, notification)
    runs.script("pass")
    assert runs.call("run", "train.py", "--run-id", "a").returncode == 0
    wait_for(lambda: log(runs, "a"))
    assert told_why in log(runs, "a")
    assert told_why in runs.call("status", "a").stdout


def test_what_a_command_leaves_behind_is_its_own_affair(runs: Runs):
    """A program that goes on in the background does not make its notification fail."""
    configure(runs, {"command": ["sh", "-c", "sleep 1000 & echo $! > sleeper"]})
    runs.script("pass")
    runs.call("run", "train.py", "--run-id", "a")
    wait_for(lambda: log(runs, "a").endswith("command sh done\n"))
    os.kill(int((runs.work / "sleeper").read_text()), signal.SIGKILL)


def test_a_message_on_the_desktop_is_text(runs: Runs):
    """The desktop's own program gets it, with nothing in it that would be taken for markup or an option."""
    programs = runs.work / "programs"
    programs.mkdir()
    fake = programs / "notify-send"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > shown.new\nmv shown.new ' + str(runs.work / "shown") + "\n")
    fake.write_text(fake.read_text().replace("shown.new", str(runs.work / "shown.new")))
    fake.chmod(0o755)
    runs.environment["PATH"] = f"{programs}:{runs.environment['PATH']}"
    configure(runs, {"desktop": True})
    runs.script("pass")
    runs.call("run", "train.py", "--run-id", "a", "-n", "<b>bold</b>")
    wait_for((runs.work / "shown").exists)
    option, dashes, title, text = (runs.work / "shown").read_text().splitlines()
    assert (option, dashes, title) == ("--app-name=Backprop", "--", "Backprop: completed")
    assert text.startswith("run a (&lt;b&gt;bold&lt;/b&gt;) completed")


def test_a_run_that_somebody_else_files_is_told_once(runs: Runs):
    """Whoever finds a supervisor dead tells in its place, and nobody after."""
    configure(runs, {"command": recorder(runs)})
    runs.script('print("here", flush=True); time.sleep(1000)')
    supervisor = runs.start("run", "train.py", "--run-id", "a")
    wait_for(lambda: runs.output("a"))
    supervisor.kill()
    looks = [runs.start("list") for _ in range(4)]
    for look in looks:
        look.wait(HANG_S)
    runs.call("reindex")  # looks at every run again
    (event,) = wait_for(lambda: told(runs, "interrupted"))
    assert event["document"]["status"] == "interrupted"
    wait_for(lambda: not messengers(runs))
    assert log(runs, "a").count("interrupted") == 1


def test_a_resume_tells_whom_the_settings_name_now(runs: Runs):
    """Taken out of the configuration, a notification is not sent any more."""
    configure(runs, {"command": ["true"]})
    runs.script("pass")
    runs.call("run", "train.py", "--run-id", "a")
    wait_for(lambda: log(runs, "a"))
    runs.call("resume", "a", "--again", BACKPROP_NOTIFY="[]")
    assert not (runs.rundir("a") / "notify.json").exists()
    assert log(runs, "a").count("\n") == 1


def test_without_notifications_nothing_is_written(runs: Runs):
    """Nobody pays for what he does not use."""
    runs.script("pass")
    runs.call("run", "train.py", "--run-id", "a")
    assert not list(runs.rundir("a").glob("notify*"))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"desktop": True}, "Expected `array`, got `object`"),
        ([{}], "One of command, webhook and desktop is wanted - at `notify[0]`"),
        ([{"desktop": True}, {"desktop": False}], "at `notify[1]`"),
        ([{"desktop": True, "webhook": "http://a/S3CRET"}], "One of command"),
        ([{"command": []}], "The command is empty"),
        ([{"command": "mail me"}], "Expected `array | null`, got `str` - at `notify[0].command`"),
        ([{"webhook": "file:///etc/S3CRET"}], "not an http or https address"),
        ([{"webhook": "https://"}], "not an http or https address"),
        ([{"webhook": "https://host:99999/S3CRET"}], "not an http or https address"),
        ([{"webhook": "https://host/\nS3CRET"}], "not an http or https address"),
        ([{"webhook": "https://ada:S3CRET@host/x"}], "has a user or a password before its host"),
        ([{"webhook": "https://S3CRET@host"}], "has a user or a password before its host"),
        ([{"desktop": True, "on": ["finished"]}], "Invalid enum value 'finished' - at `notify[0].on[0]`"),
        ([{"desktop": True, "on": ["running"]}], "Invalid enum value 'running' in on"),
        ([{"desktop": True, "only": ["failed"]}], "unknown field `only` - at `notify[0]`"),
    ],
)
def test_a_wrong_setting_is_an_error_that_shows_no_secret(runs: Runs, value: object, named: str):
    """File, key, place and what is allowed; and never an address."""
    (runs.work / "backprop.config.json").write_text(json.dumps({"notify": value}))
    done = runs.call("run", runs.script("pass"))
    assert done.returncode == 2
    assert "backprop.config.json: notify: invalid value: " in done.stderr
    assert named in done.stderr
    assert "xpected a list, each with one of command" in done.stderr
    assert "S3CRET" not in done.stderr


def test_the_environment_may_say_whom_to_tell(runs: Runs):
    """As JSON, like any other setting."""
    runs.script("pass")
    runs.call("run", "train.py", "--run-id", "a", BACKPROP_NOTIFY='[{"command": ["true"]}]')
    wait_for(lambda: "command true done" in log(runs, "a"))
    assert runs.call("run", "train.py", BACKPROP_NOTIFY="{").returncode == 2


def killed_run(runs: Runs) -> None:
    """A run `r` whose supervisor was killed, and that nobody has looked at since."""
    runs.script("import time\nprint(os.getpid(), flush=True)\ntime.sleep(1000)")
    process = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: runs.output("r"))
    process.kill()
    process.wait(HANG_S)
    wait_for(lambda: not runs.tree())


def test_whoever_finds_a_dead_run_tells_of_it(runs: Runs):
    """Whom its user has named: the proof is the user's, not a process's."""
    configure(runs, {"command": recorder(runs), "on": ["interrupted"]})
    killed_run(runs)
    runs.call("list")
    wait_for(lambda: told(runs, "interrupted"))


@pytest.mark.parametrize(
    "planted", ["as it was", "with a proof of nobody", "of another run", "with an empty key", "fifo"]
)
def test_what_came_with_a_run_folder_is_not_carried_out(runs: Runs, planted: str):
    """A folder from elsewhere, whose supervisor is dead, may name any command; `list` only files the run."""
    killed_run(runs)
    command = [{"command": ["touch", str(runs.work / "owned")], "on": ["interrupted"]}]
    path = runs.rundir("r") / "notify.json"
    match planted:
        case "as it was":
            path.write_text(json.dumps(command))
        case "with a proof of nobody":
            path.write_text(json.dumps({"notifications": command, "proof": "0" * 64}))
        case "of another run":
            configure(runs, *command)
            runs.script("", "other.py")
            runs.call("run", "other.py", "--run-id", "other")
            path.write_bytes((runs.rundir("other") / "notify.json").read_bytes())
        case "with an empty key":
            key = Path(runs.environment["XDG_STATE_HOME"]) / "backprop" / "notify.key"
            key.parent.mkdir(parents=True)
            key.touch()
            told_by = json.dumps(["r", [{**command[0], "webhook": None, "desktop": None}]], separators=(",", ":"))
            path.write_text(
                json.dumps({"notifications": command, "proof": hmac.digest(b"", told_by.encode(), "sha256").hex()})
            )
        case "fifo":
            os.mkfifo(path)
    assert "interrupted" in runs.call("list").stdout
    wait_for(lambda: not messengers(runs))
    assert not (runs.work / "owned").exists()
    assert not log(runs, "r")


def test_where_no_thread_can_be_started_all_are_told_all_the_same(runs: Runs, monkeypatch: pytest.MonkeyPatch):
    """One after the other: the user has as many as `ulimit -u` allows."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    runs.script("pass")
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    wanted = tuple(Notification(command=("touch", f"told-{number}")) for number in range(2))
    monkeypatch.setattr(notifier, "read", lambda rundir: wanted)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    size = (runs.rundir("r") / "journal.jsonl").stat().st_size
    messenger.main(str(runs.rundir("r")), size, str(runs.home / "index.db"))
    assert sorted(path.name for path in runs.work.glob("told-*")) == ["told-0", "told-1"]
