"""The machine fails: the disk is full, the clock is set back, memory runs out."""

import json
import os
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import pytest

from backprop.records import StopReason
from backprop.store.journal.entries import StopRequested
from backprop.store.journal.file import Journal, read
from tests.conftest import BACKPROP, HANG_S, OWN_CLOCK, Runs, patched
from tests.fakes.slurm import cancelled, make_programs, put
from tests.faults.test_kills import check_record
from tests.web.conftest import Server

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: run the tests as root")


@pytest.fixture
def small_home(runs: Runs) -> Iterator[Runs]:
    """A home on a file system of 4 MB."""
    runs.home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", runs.home], check=True)
    yield runs
    runs.clean_up()
    subprocess.run(["umount", "--lazy", runs.home], check=True)  # a failed test may hold a file open


def make_room(runs: Runs) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", runs.home], check=True)


FILLING = """
    counter, path = 0, os.environ.get("BACKPROP_RESUME_FROM")
    if path:
        counter = json.load(open(path))["counter"]
    while True:
        counter += 1
        print(json.dumps({"step": counter, "value": counter}), flush=True)
        if path:
            time.sleep(0.01)  # there is room for the second session
        if counter % 1000 == 0:
            open(f"ckpt-{counter}.json", "w").write(json.dumps({"counter": counter}))
            report = {"event": "checkpoint_saved", "path": f"ckpt-{counter}.json", "step": counter}
            print(json.dumps(report), flush=True)
        if counter == 20_000:  # the rest at once: the governor stops a run that fills it slowly before it is full
            try:
                os.write(os.open(os.environ["BACKPROP_HOME"] + "/hog", os.O_CREAT | os.O_WRONLY), bytes(4 << 20))
            except OSError:
                pass
"""


@needs_root
def test_a_disk_that_fills_up_loses_nothing(small_home: Runs):
    """Every line that reached the file is counted once there is room again, and resume takes the newest checkpoint."""
    runs = small_home
    runs.script(FILLING)
    runs.call_patched(OWN_CLOCK, "run", "train.py", "--run-id", "r", "--grace", "2")
    assert runs.tree() == []
    assert len(runs.output("r")) > 500_000
    make_room(runs)
    document = check_record(runs, "r")
    assert document["status"] in {"failed", "interrupted", "stopped"}  # whichever comes first
    newest = document["checkpoints"][-1]["path"]
    resumed = runs.call("resume", "r", "--until-step", document["checkpoints"][-1]["step"] + 1, "--grace", "60")
    assert resumed.returncode == 0, resumed.stderr
    document = check_record(runs, "r")
    assert document["sessions"][1]["resumed_from"] == newest
    assert document["sessions"][1]["status"] == "timeboxed"


FLOODING = """
    lines = b'{"step": 1, "loss": 2}\\n' * 10_000
    while True:
        os.write(1, lines)
"""


def fill(runs: Runs) -> None:
    """Take the last byte that is free in the home."""
    with (runs.home / "hog").open("wb", buffering=0) as hog, suppress(OSError):
        while True:
            hog.write(bytes(65_536))
    assert os.statvfs(runs.home).f_bavail == 0


@needs_root
def test_with_no_room_left_runs_are_seen_and_can_be_removed(small_home: Runs):
    """At 0 bytes free a run that ended is not running, views show what its folder says, and `rm` makes room."""
    runs = small_home
    runs.script("print(json.dumps({'step': 3, 'loss': 0.5}))")
    assert runs.call("run", "train.py", "--run-id", "old").returncode == 0
    runs.script(FLOODING)
    runs.call("run", "train.py", "--run-id", "r", "--grace", "2")
    fill(runs)
    for _ in range(2):
        done = runs.call("list", "--json")
        assert done.returncode == 0, done.stderr
        assert "no room" in done.stderr
        old, new = (next(d for d in json.loads(done.stdout) if d["id"] == run_id) for run_id in ("old", "r"))
        assert (old["status"], old["last_step"]) == ("completed", 3)
        assert new["status"] in {"failed", "interrupted"}
        assert new["last_step"] == 1
    assert runs.call("logs", "r").returncode == 0
    assert runs.call("status").returncode == 0
    removed = runs.call("rm", "r", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert os.statvfs(runs.home).f_bavail > 0
    done = runs.call("list", "--json")
    assert (done.stderr, [d["id"] for d in json.loads(done.stdout)]) == ("", ["old"])


@needs_root
def test_a_disk_without_an_inode_left_is_told_from_a_full_one(small_home: Runs):
    """What has ended can be seen and removed; why nothing can be started is said, as `df` would not show it."""
    runs = small_home
    subprocess.run(["mount", "-o", "remount,nr_inodes=60", runs.home], check=True)
    runs.script("print(json.dumps({'step': 3, 'loss': 0.5}))")
    assert runs.call("run", "train.py", "--run-id", "old").returncode == 0
    with suppress(OSError):
        for number in range(100):
            (runs.home / f"small-{number}").touch()
    (listed,) = json.loads(runs.call("list", "--json").stdout)
    assert (listed["status"], listed["last_step"]) == ("completed", 3)
    done = runs.call("run", "train.py")
    assert done.returncode == 2
    assert "No space left on device (too many files: no inode is free, see df -i)" in done.stderr
    assert runs.call("rm", "old", "--yes").returncode == 0


@needs_root
def test_the_page_shows_runs_on_a_full_disk(small_home: Runs):
    """As `list` does, with the reason; and goes back to the index on the disk once there is room."""
    runs = small_home
    runs.script("print(json.dumps({'step': 3, 'loss': 0.5}))")
    assert runs.call("run", "train.py", "--run-id", "old").returncode == 0
    server = Server(runs)
    runs.script(FLOODING)
    runs.call("run", "train.py", "--run-id", "r", "--grace", "2")
    for name in ("index.db", "index.db-wal", "index.db-shm"):
        (runs.home / name).unlink(missing_ok=True)
    fill(runs)
    for _ in range(2):
        answer = server.get("/api/runs")
        assert answer.status == 200, answer.text
        rows = {row["id"]: row for row in answer.json["runs"]}
        assert (rows["old"]["status"], rows["old"]["last_step"]) == ("completed", 3)
        assert (rows["r"]["status"], rows["r"]["last_step"]) == ("failed", 1)
    assert server.get("/api/curves", run="old").status == 200
    with server.stream(runs="old") as stream:
        stream.next_of("trouble", lambda told: "no room" in json.dumps(told))
    (runs.home / "hog").unlink()
    make_room(runs)
    assert server.get("/api/runs").json["total"] == 2
    assert (runs.home / "index.db").exists()


@needs_root
def test_the_end_of_a_session_finds_room_on_a_full_disk(small_home: Runs):
    """However full it is, and stays: what is needed no more makes room, and nobody takes the session for interrupted."""
    runs = small_home
    runs.script(
        """
        home = os.environ["BACKPROP_HOME"]
        journal = os.environ["BACKPROP_RUN_DIR"] + "/journal.jsonl"
        while "trainer_launched" not in open(journal).read():
            time.sleep(0.01)
        with open(home + "/hog", "wb", buffering=0) as hog:
            try:
                while True:
                    hog.write(bytes(4096))
            except OSError:
                pass
        # what is left of the journal's last page
        size = os.path.getsize(journal)
        with open(journal, "ab", buffering=0) as file:
            file.write(b"x" * (-size % 4096 - 1) + b"\\n")
        assert os.path.getsize(journal) % 4096 == 0
        sys.exit(7)
        """
    )
    assert runs.call_patched(OWN_CLOCK, "run", "train.py", "--run-id", "r").returncode == 7
    assert os.statvfs(runs.home).f_bavail < 4
    (listed,) = json.loads(runs.call("list", "--json").stdout)
    assert (listed["status"], listed["exit_code"]) == ("failed", 7)
    make_room(runs)
    assert runs.document("r")["status"] == "failed"


@needs_root
@pytest.mark.nightly
def test_the_index_leaves_room_for_others(small_home: Runs):
    """Curves do not take the room that was made: how the run ended is stored, and the disk is not full again."""
    runs = small_home
    subprocess.run(["mount", "-o", "remount,size=32m", runs.home], check=True)
    runs.script(FLOODING)
    runs.call("run", "train.py", "--run-id", "r", "--grace", "2")
    os.truncate(runs.rundir("r") / "session-1.out", 22_000_000)
    for _ in range(2):
        assert runs.document("r")["status"] == "failed"
    space = os.statvfs(runs.home)
    assert space.f_bavail > 0.04 * space.f_blocks
    assert runs.call("rm", "r", "--yes").returncode == 0


@needs_root
def test_a_disk_that_is_full_from_elsewhere_does_not_end_training(small_home: Runs):
    """A trainer that prints little goes on while the home is full; its record is complete when there is room again."""
    runs = small_home
    runs.script(
        """
        with open(os.environ["BACKPROP_HOME"] + "/hog", "wb") as hog:
            try:
                while True:
                    hog.write(b"x" * 4096)
                    hog.flush()
            except OSError:
                pass
            try:
                hog.close()
            except OSError:
                pass
        time.sleep(1.5)
        os.truncate(os.environ["BACKPROP_HOME"] + "/hog", 0)
        print(json.dumps({"step": 8, "value": 1}), flush=True)
        """
    )
    done = runs.call_patched(OWN_CLOCK, "run", "train.py", "--run-id", "r")
    assert done.returncode == 0, done.stderr
    document = check_record(runs, "r")
    assert (document["status"], document["last_step"]) == ("completed", 8)


@needs_root
def test_a_journal_on_a_full_disk_keeps_its_entries_until_there_is_room(small_home: Runs):
    """Every entry is in the file once and in order afterwards; what was cut short in between swallows none of them."""
    path = small_home.home / "journal.jsonl"
    journal = Journal(path)
    entries = [
        StopRequested(at=datetime.now(timezone.utc), session=number, by=StopReason.USER, detail="x" * 1000)
        for number in range(6000)
    ]
    written = [journal.append(entry) for entry in entries]
    assert written[0] is True
    assert written[-1] is False
    make_room(small_home)
    assert journal.append() is True
    journal.close()
    assert read(path)[0] == entries


@needs_root
def test_a_disk_that_is_full_once_slurm_has_the_job(small_home: Runs, tmp_path: Path):
    """The journal cannot say whose job it is: the job is cancelled, and never released."""
    runs = small_home
    programs = make_programs(runs, tmp_path / "slurm")
    put(programs, "sbatch", f"cat /dev/zero > {runs.home}/hog 2>/dev/null; echo 7")
    put(programs, "scontrol", f"echo $* >> {programs}/asked")
    done = runs.call("run", "train.py", "--run-id", "r")
    assert done.returncode == 75, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert cancelled(programs) == ["7"]
    assert not (programs / "asked").exists()


@needs_root
def test_a_full_home_is_said_before_anything_is_started(small_home: Runs):
    """One line, exit code 2, no half-made run behind."""
    runs = small_home
    runs.script("open('was-here', 'w')")
    hog = os.open(runs.home / "hog", os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while os.write(hog, b"x" * 4096):
            pass
    os.close(hog)
    done = runs.call("run", "train.py")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Make room" in done.stderr
    assert not (runs.work / "was-here").exists()
    make_room(runs)
    assert json.loads(runs.call("list", "--json").stdout) == []


def test_a_clock_set_back_does_not_move_the_timebox(runs: Runs):
    """The wall clock jumps back an hour in the middle of a session: it ends in time, and its length is the true one."""
    runs.script("print('ready', flush=True)\nopen('clock', 'w').close()\ntime.sleep(60)")
    set_back = textwrap.dedent(
        """
        import datetime

        def is_training():
            path = os.path.join(os.environ["BACKPROP_HOME"], "runs", "r", "session-1.out")
            return os.path.exists(path) and os.path.getsize(path) > 0

        def wall():
            now = datetime.datetime.now(datetime.timezone.utc)
            return now - datetime.timedelta(hours=1) if is_training() else now

        time.time = lambda: wall().timestamp()
        session.Clock = lambda: real(now=now, wall=wall)
        """
    )
    done = runs.call_patched(OWN_CLOCK + set_back, "run", "train.py", "--run-id", "r", "-m", "0.04")
    assert done.returncode == 0, done.stderr
    document = runs.document("r")
    assert document["status"] == "timeboxed"
    assert document["elapsed_s"] >= 2.4
    assert document["ended_at"] < document["started_at"]  # the record shows what the clock showed


def memory_group(limit_bytes: int) -> Path | None:
    """A memory control group of this test's own; None where none can be made."""
    for parent, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(parent) / f"backprop-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(limit_bytes))
        except OSError:
            if group.exists():
                group.rmdir()
            continue
        return group
    return None


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[Path]:
    """As large as the test says, in bytes."""
    made = memory_group(request.param)
    if made is None:
        pytest.skip("no memory control group can be made here")
    yield made
    made.rmdir()


@pytest.mark.parametrize("group", [150_000_000], indirect=True)
def test_the_kernels_out_of_memory_killer_is_named(runs: Runs, group: Path):
    """A trainer that the kernel kills for want of memory is failed, never completed, and the reason says so."""
    runs.script(
        f"""
        open({str(group / "cgroup.procs")!r}, "w").write(str(os.getpid()))
        hoard = []
        while True:
            hoard.append(bytearray(10_000_000))
        """
    )
    done = runs.call("run", "train.py")
    assert done.returncode == 137
    document = runs.document()
    assert document["status"] == "failed"
    assert "the kernel's out-of-memory killer" in document["reason"]
    if os.access("/dev/kmsg", os.R_OK):
        assert document["reason"].endswith("killed a process of its tree")


# -- the machine runs out, and the governor sees it coming

SAVES = """
    def save(step):
        name = f"ckpt-{step}.json"
        open(name, "w").write(json.dumps({"step": step}))
        print(json.dumps({"event": "checkpoint_saved", "path": name, "step": step}), flush=True)

    def is_wanted(seen=[0]):
        wanted = json.load(open(os.environ["BACKPROP_CONTROL"]))["checkpoint_wanted"]
        is_new, seen[0] = wanted > seen[0], wanted
        return is_new
"""


def governed(runs: Runs) -> list[dict]:
    return [entry for entry in runs.journal("r") if entry["event"] == "governed"]


@pytest.mark.alone
@pytest.mark.parametrize("group", [3_000_000_000], indirect=True)
def test_memory_that_runs_out_is_seen_coming(runs: Runs, group: Path):
    """A leak without a limit of its own, where a machine has 3 GB: a checkpoint first, then a graceful stop in time."""
    runs.script(
        SAVES
        + """
    kept, step = [], 0
    try:
        while True:
            kept.append(b"x" * 25_000_000)
            step += 1
            print(json.dumps({"step": step}), flush=True)
            if is_wanted():
                save(step)
            time.sleep(0.1)
    except KeyboardInterrupt:
        save(step)
    """
    )
    join = f"echo $$ > {group}/cgroup.procs && exec {BACKPROP} run train.py --run-id r"
    running = runs.start_program(["sh", "-c", join])
    assert running.wait(HANG_S) == 0
    document = runs.document("r")
    assert document["status"] == "stopped"
    assert "GB of RAM are left, at this rate for" in document["reason"]
    assert document["checkpoints"][-1]["valid"]
    last = governed(runs)[-1]
    assert last["action"] == "stop"
    assert last["figures"]["forecast_s"] > 0
    assert last["figures"]["ram_available_bytes"] > 30_000_000


@pytest.fixture
def small_work(runs: Runs) -> Iterator[Runs]:
    """A folder to work in on a file system of 1.5 GB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500m", "tmpfs", runs.work], check=True)
    yield runs
    runs.clean_up()
    subprocess.run(["umount", "--lazy", runs.work], check=True)


@needs_root
def test_a_disk_that_runs_out_is_seen_coming(small_work: Runs):
    """A script that fills the disk: a checkpoint is asked for while there is room, and it is stopped before it is full."""
    runs = small_work
    runs.script(
        SAVES
        + """
    step = 0
    try:
        while True:
            open("log", "ab").write(b"x" * 8_000_000)
            step += 1
            print(json.dumps({"step": step}), flush=True)
            if is_wanted():
                save(step)
            time.sleep(0.1)
    except KeyboardInterrupt:
        save(step)
    """
    )
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    document = runs.document("r")
    assert document["status"] == "stopped"
    assert f"GB of disk are left in {runs.work}, at this rate for" in document["reason"]
    assert len(document["checkpoints"]) >= 2  # the one that was asked for, and the one at the end
    assert [entry["action"] for entry in governed(runs)] == ["save", "stop"]
    assert governed(runs)[-1]["figures"]["disk_free_bytes"] > 50_000_000


# It ends of SIGKILL only, and has a child in its own process group. In the shell: who is nobody's business here.
STUBBORN = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "1000"])
    open("child.pid", "w").write(str(child.pid))
    try:
        open("clock", "w").close()
        time.sleep(1000)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        time.sleep(1000)
"""
IN_A_NAMESPACE = """
{hide_table}
{backprop} run train.py --run-id r -m 0.02 --grace 3 &
for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done
wait %1
echo "code $?"
kill -0 $(cat child.pid) 2> /dev/null && echo "its child lives"
echo "$(jobs -r | wc -l) others live"
"""


@needs_root
@pytest.mark.parametrize("hide_table", ["", "mount -t tmpfs tmpfs /proc"], ids=["another namespace's", "none"])
def test_who_cannot_see_the_tree_signals_nobody_else(runs: Runs, hide_table: str):
    """The process table is of other numbers, or there is none: the trainer's own group is ended, and that is said."""
    runs.script(STUBBORN)
    apart = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    done = subprocess.run(
        [*apart, "bash", "-c", IN_A_NAMESPACE.format(hide_table=hide_table, backprop=shlex.join(patched(OWN_CLOCK)))],
        cwd=runs.work,
        env=runs.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert "10 others live" in done.stdout, done.stdout + done.stderr
    assert "its child lives" not in done.stdout
    assert "code 137" in done.stdout
    assert runs.output("r") == "interrupted\n"
    assert "Only the trainer's process group can be watched and stopped" in done.stderr


def call_with_processes(runs: Runs, count: int, *words: str) -> "subprocess.CompletedProcess[str]":
    """A command of a user who may have so many processes and threads; root's are not limited."""
    user = 1_000_000 + os.getpid()  # nobody else's: the limit counts all processes of a user
    capabilities = "-all,+dac_override,+dac_read_search"  # the command may be in a folder that is closed to others
    return subprocess.run(
        [
            *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"),
            *(f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}"),
            *("prlimit", f"--nproc={count}", BACKPROP, *words),
        ],
        cwd=runs.work,
        env=runs.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


@needs_root
def test_training_goes_on_where_no_thread_can_be_started(runs: Runs):
    """`ulimit -u` leaves room for a supervisor and a trainer, and for no thread of either."""
    line = '{"step": 3, "loss": 0.5}'
    done = call_with_processes(runs, 2, "run", "--run-id", "r", "--", "echo", line)
    assert (done.returncode, done.stdout) == (0, f"{line}\n"), done.stderr
    assert runs.document("r")["last_step"] == 3


@needs_root
@pytest.mark.parametrize("options", [(), ("-d",), ("-d", "--json"), ("--vary", "lr=1,2")], ids=" ".join)
def test_a_process_that_cannot_be_started_is_said_in_one_line(runs: Runs, options: tuple[str, ...]):
    """`ulimit -u` leaves room for the command alone: the run has not started, whoever was to start it."""
    done = call_with_processes(runs, 1, "run", *options, "--", "touch", "was-here")
    assert done.returncode not in {0, 1}
    assert "Traceback" not in done.stderr
    assert "cannot be started: Resource temporarily unavailable (see ulimit -u)" in done.stderr
    assert not (runs.work / "was-here").exists()
    for document in json.loads(runs.call("list", "--json").stdout):
        assert document["status"] in {"failed", "refused"}
        assert "see ulimit -u" in document["reason"] or "which came before it" in document["reason"]


@needs_root
def test_the_completion_script_needs_no_process(runs: Runs):
    """click asks bash for its version, and warns of an old one; where it cannot, the script is printed all the same."""
    done = call_with_processes(runs, 1, "completion", "bash")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == runs.call("completion", "bash").stdout


@needs_root
@pytest.mark.parametrize(
    "words",
    [
        "sweep train.py --goal min:loss --param lr=0.1,0.2 --budget 1",
        "run --on slurm -- true",
        "export r --to csv -",
        "status",
        "list",
    ],
)
def test_no_command_ends_in_a_traceback_where_no_process_can_be_started(runs: Runs, words: str):
    """Whatever it would start: a trial, a tool of Slurm's, git."""
    runs.script("print(1)")
    sbatch = runs.work / "sbatch"
    sbatch.write_text("#!/bin/sh\n")
    sbatch.chmod(0o755)
    runs.environment["PATH"] = f"{runs.work}:{runs.environment['PATH']}"
    done = call_with_processes(runs, 1, *words.split())
    assert "Traceback" not in done.stderr
    if words.startswith(("sweep", "run")):
        assert "cannot be started: Resource temporarily unavailable (see ulimit -u)" in done.stderr
        assert done.returncode != 0


@needs_root
def test_doctor_says_what_it_cannot_check_where_no_process_can_be_started(runs: Runs):
    """Each check is a process of its own."""
    done = call_with_processes(runs, 1, "doctor")
    assert "Traceback" not in done.stderr
    assert "ulimit -u" in done.stdout + done.stderr


@needs_root
def test_the_page_says_at_once_that_no_thread_can_be_started(runs: Runs):
    """It would answer nothing."""
    done = call_with_processes(runs, 1, "ui", "--port", "0", "--no-open")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("backprop: can't start new thread (see ulimit -u).\n")
