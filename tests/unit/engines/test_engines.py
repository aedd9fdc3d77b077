"""What Slurm is told of a run, and how its answers are understood."""

import os
import shlex
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from backprop.engines.base import Phase, Submission
from backprop.engines.slurm import client as slurm_client
from backprop.engines.slurm import engine as slurm
from backprop.engines.slurm import rendezvous
from backprop.engines.slurm.client import Job, SlurmError
from backprop.errors import UsageError
from backprop.records import Gpu, Limits, Run, RunSpec, Session, SlurmRequest, Status, Waiter
from backprop.store.rundir import RunDir
from backprop.supervisor import environment
from tests.conftest import wait_for
from tests.fakes.slurm import put
from tests.records import LIMITS

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
SPEC = RunSpec(
    id="r", command=("python", "x.py"), cwd="/", created_at=AT, host="h", user="u", limits=LIMITS, slurm=SlurmRequest()
)


def order(
    folder: str = "/home/me/runs/r", timebox_s: float = 600, limits: Limits = LIMITS, **asked: object
) -> Submission:
    spec = msgspec.structs.replace(SPEC, limits=limits, slurm=SlurmRequest(**asked))
    return Submission(RunDir(Path(folder)), spec, timebox_s, lambda: 0)


def told(given: Submission, tasks: int = 1) -> dict[str, str]:
    """The options, by name."""
    return dict(one.split("=", 1) if "=" in one else (one, "") for one in slurm.options(given, tasks))


def test_a_plain_run():
    """Held, requeueable, with a name that means nothing, a clock beyond timebox and grace, and a warning before it."""
    assert slurm.options(order(), 1) == [
        "--hold",
        "--requeue",
        "--job-name=backprop-r",
        "--chdir=/home/me",
        "--output=/dev/null",
        "--time=13",
        "--signal=B:USR1@90",
        "--export=ALL",
        "--nodes=1",
        "--ntasks-per-node=1",
    ]


@pytest.mark.parametrize(
    ("timebox_s", "grace_s", "finish_s", "minutes"),
    [
        (600, 30, None, 13),
        (570, 30, None, 12),
        (1, 30, None, 3),
        (0.5, 0.1, None, 3),
        (86400, 60, None, 1443),
        (600, 30, 600, 22),
        (600, 30, 0, 13),
    ],
)
def test_slurms_clock_is_a_backstop(timebox_s: float, grace_s: float, finish_s: float | None, minutes: int):
    """Timebox, time to finish or grace, and two minutes, rounded up; the warning leaves time for the whole ladder."""
    limits = msgspec.structs.replace(LIMITS, grace_s=grace_s, finish_s=finish_s)
    options = told(order(timebox_s=timebox_s, limits=limits))
    assert options["--time"] == str(minutes)
    warned_s = float(options["--signal"].removeprefix("B:USR1@"))
    assert grace_s + 60 <= warned_s <= minutes * 60 - timebox_s


@pytest.mark.parametrize(
    ("asked", "limits", "option", "value"),
    [
        ({"partition": "gpu"}, {}, "--partition", "gpu"),
        ({"cpus": 8}, {}, "--cpus-per-task", "8"),
        ({"nodes": 4}, {}, "--nodes", "4"),
        ({"arguments": ("--account=ml",)}, {}, "--account", "ml"),
        ({}, {"gpu_count": 2}, "--gpus-per-node", "2"),
        ({}, {"ram_limit_bytes": 8_000_000_000}, "--mem", "10000M"),
        ({"array": "first"}, {}, "--job-name", "backprop-first"),
    ],
)
def test_what_is_asked_for(asked: dict, limits: dict, option: str, value: str):
    """Each of our options in Slurm's words; and nothing of it unless it is asked for."""
    assert told(order(limits=msgspec.structs.replace(LIMITS, **limits), **asked))[option] == value
    if option not in {"--nodes", "--job-name"}:
        assert option not in told(order())


def test_the_users_own_options_come_last():
    """Of two that contradict one another sbatch takes the last: the user's."""
    assert slurm.options(order(arguments=("--time=5", "-p x")), 1)[-2:] == ["--time=5", "-p x"]


def test_an_array():
    """Several runs are the tasks of one, and none needs a folder that may be removed with another."""
    assert told(order(), 3)["--array"] == "0-2"
    assert not any("/runs/r" in word for word in slurm.options(order(), 3))
    assert "--array" not in told(order())


EXPORTED = [
    "PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH", "CONDA_PREFIX", "CUDA_HOME",
    "OMP_NUM_THREADS", "CUDA_DEVICE_ORDER", "LMOD_DIR", "XDG_CACHE_HOME", "NCCL_DEBUG", "TORCH_HOME", "HF_HOME", "BACKPROP_HOME", "BACKPROP_GRACE_SECONDS", "SLURM_CONF",
]  # fmt: skip
KEPT = [
    "HF_TOKEN", "FOO_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "BACKPROP_PASSWORD", "TORCH_AUTH", "SSH_AUTH_SOCK",
    "WANDB_API_KEY", "OMP_APIKEY", "MY_VARIABLE", "SLURM_JOB_ID", "PATHX", "XPATH", "TF_CREDENTIALS", "path",
    "HF_PRIVATE_KEY", "BASH_FUNC_ls%%", "DISPLAY", "FIGMA_PAT", "TF_VAR_ACCESS_KEY", "HF_PAT", "BACKPROP_MACHINE",
    "BACKPROP_NOTIFY", "CUDA_VISIBLE_DEVICES", "CONDA_PWD", "TF_PW", "XDG_RUNTIME_DIR", "SBATCH_ARRAY_INX", "SBATCH_WAIT",
    "SBATCH_CLUSTERS", "PWD",
]  # fmt: skip


def test_what_goes_along():
    """What a trainer needs to be found and to compute."""
    assert slurm.exported(dict.fromkeys(EXPORTED, "x")) == dict.fromkeys(EXPORTED, "x")


@pytest.mark.parametrize("name", KEPT)
def test_what_stays(name: str):
    """Secrets, whatever they are called after, and all that nobody needs there."""
    assert slurm.exported({name: "x"}) == {}


def test_a_password_in_an_address_stays():
    """Whatever the variable is called."""
    addresses = {"MLFLOW_TRACKING_URI": "https://me:pw@host/", "HF_ENDPOINT": "https://host:80/me@here"}
    assert slurm.exported(addresses) == {"HF_ENDPOINT": "https://host:80/me@here"}


@pytest.mark.parametrize(
    "argument",
    [
        "-Jx",
        "--job-name=x",
        "-a0-3",
        "--array=1",
        "--clusters=b",
        "-M",
        "--wrap=x",
        "--wait",
        "--arr=0-1",
        "--outp=x",
        "--hol",
        "--test-only",
        "--help",
        "-V",
        "-QH",
        "-sJx",
        "--export-file=x",
        "--get-user-env",
        "--",
        "--j",
    ],
)
def test_what_would_part_a_run_from_its_job_is_refused(argument: str):
    """A job of another name or kind, or none, would be taken for lost; so it is by the beginning of an option's name."""
    with pytest.raises(UsageError, match="is not allowed"):
        slurm.options(order(arguments=(argument,)), 1)


@pytest.mark.parametrize("argument", ["account=ml", "job.sh", ""])
def test_a_word_that_is_no_option_is_refused(argument: str):
    """sbatch would take it for the script."""
    with pytest.raises(UsageError, match="an option is one word, with its value: --slurm-arg=--account=ml"):
        slurm.options(order(arguments=(argument,)), 1)


@pytest.mark.parametrize(
    "argument", ["--account=ml", "-pgpu", "--wait-all-nodes=1", "--exclusive", "-Qs", "-QpJ", "-AaJ"]
)
def test_what_is_let_through(argument: str):
    """Whatever only begins like an option that is refused."""
    assert slurm.options(order(arguments=(argument,)), 1)[-1] == argument


@pytest.mark.parametrize("folder", ["/plain", "/a b", "/it's", '/$(touch x)"`', "/new\nline", "/é\\"])
def test_the_script_names_its_run(folder: str):
    """A shell reads from it exactly the words that we mean, and becomes them."""
    text = slurm.script([RunDir(Path(folder))])
    assert text.startswith("#!/bin/sh\n")
    asked = text.replace("\nexec ", "\nprintf '%s\\0' ")
    done = subprocess.run(["/bin/sh", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == [sys.executable, "-m", "backprop", "execute", folder]
    assert shlex.split(text.partition("exec ")[2])[-1] == folder


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH: what lies there is Slurm."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_the_jobs_of_a_user(client: Path):
    """Ours by id, with the state and the reason; a reason may hold anything, and so may other people's names."""
    put(client, "squeue", "cat <<'END'\n7|PENDING||AT|Resources|backprop-a\n8_1|RUNNING|n[1-2]|AT|None|backprop-b\n"
        "5|RUNNING|n1|AT|None|two\nlines|and bars\n9|PENDING||AT|(a|b, c)|backprop-x\n10|NODE_FAIL|n1|AT|NodeDown|backprop-y\n"
        "11|POWER_UP_NODE|n1|AT|None|backprop-z\nEND")  # fmt: skip
    found = slurm_client.jobs("me")
    assert set(found) == {"7", "8_1", "9", "10", "11"}
    assert found["7"] == Job(id="7", name="backprop-a", state="PENDING", queued_at="AT", reason="Resources")
    assert found["8_1"] == Job(id="8_1", name="backprop-b", state="RUNNING", nodes="n[1-2]", queued_at="AT")
    assert found["9"].reason == "(a|b, c)"
    phases = [job.phase for job in found.values()]
    assert phases == [Phase.PENDING, Phase.RUNNING, Phase.PENDING, Phase.ENDED, Phase.RUNNING]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1", "Invalid account"),
        ("exit 3", "exit code 3"),
        ("printf '\\377\\033[31mno' >&2; exit 1", "no"),
    ],
)
def test_a_refusal_is_told_in_slurms_words(client: Path, text: str, words: str):
    """Whatever it says, and where it says nothing, its exit code."""
    put(client, "sbatch", text)
    with pytest.raises(SlurmError, match=words):
        slurm_client.submit("job.sh", [], {"PATH": os.environ["PATH"]})


def test_a_federations_job_id(client: Path):
    """The name of the cluster is no part of it."""
    put(client, "sbatch", "echo '12;alpha'")
    assert slurm_client.submit("job.sh", [], {"PATH": os.environ["PATH"]}) == "12"


@pytest.mark.parametrize("told", ["", "Usage: sbatch [OPTIONS]", "12 jobs"])
def test_an_sbatch_that_names_no_job(client: Path, told: str):
    """It has submitted none that we could find."""
    put(client, "sbatch", f"echo '{told}'")
    with pytest.raises(SlurmError, match="instead of a job id"):
        slurm_client.submit("job.sh", [], {"PATH": os.environ["PATH"]})


def test_a_slurm_that_does_not_answer(client: Path, monkeypatch: pytest.MonkeyPatch):
    """Nobody waits for it for ever."""
    put(client, "squeue", "exec sleep 60")
    monkeypatch.setattr(slurm_client, "LOOK_LIMIT_S", 0.2)
    with pytest.raises(SlurmError, match="does not answer"):
        slurm_client.jobs("me")


def test_one_complaint_and_one_call_for_many_runs(client: Path):
    """While Slurm does not answer nobody is told twice, and no look pays for it twice."""
    put(client, "squeue", f"echo called >> {client}/calls; echo 'squeue: error: no' >&2; exit 1")
    cluster = slurm.SlurmEngine()
    run = Run(spec=SPEC, status=Status.QUEUED)
    assert [cluster.observe(run).phase for _ in range(5)] == [Phase.UNKNOWN] * 5
    assert (client / "calls").read_text() == "called\n"
    assert "squeue: no" in (cluster.complaint() or "")
    assert cluster.complaint() is None


def test_a_job_that_an_older_look_does_not_know_is_not_lost(client: Path):
    """One answer serves many runs, but a job that was submitted after it is asked for once more."""
    put(client, "squeue", f"cat {client}/jobs; echo called >> {client}/calls")
    jobs = client / "jobs"
    jobs.write_text("1|RUNNING|n1|AT|None|backprop-a\n")
    cluster = slurm.SlurmEngine()
    waiter = Waiter(session=1, host="h", supervisor_pid=0, since=datetime.now(timezone.utc))
    first, second = (
        Run(
            spec=msgspec.structs.replace(SPEC, id=run_id),
            status=Status.QUEUED,
            waiter=msgspec.structs.replace(waiter, job=job),
        )
        for run_id, job in (("a", "1"), ("b", "2"))
    )
    assert cluster.observe(first).phase is Phase.RUNNING
    jobs.write_text("1|RUNNING|n1|AT|None|backprop-a\n2|PENDING||AT|Priority|backprop-b\n")
    assert cluster.observe(second).phase is Phase.PENDING
    jobs.write_text("2|PENDING||AT|Priority|backprop-b\n")
    cluster.invalidate()
    assert cluster.observe(first).phase is Phase.ENDED


def test_many_jobs_that_are_gone_cost_one_call(client: Path):
    """An answer that is younger than they are serves all of them."""
    put(client, "squeue", f"echo called >> {client}/calls")
    cluster = slurm.SlurmEngine()
    for number in range(5):
        waiter = Waiter(session=1, host="h", supervisor_pid=0, since=SPEC.created_at, job=str(number))
        assert cluster.observe(Run(spec=SPEC, status=Status.QUEUED, waiter=waiter)).phase is Phase.ENDED
    assert (client / "calls").read_text() == "called\n"


def test_a_busy_controller_is_asked_less_often(client: Path):
    """An answer that took long serves for a longer while."""
    put(client, "squeue", f"echo called >> {client}/calls; sleep 0.3; echo '1|PENDING||AT|Priority|backprop-r'")
    waiter = Waiter(session=1, host="h", supervisor_pid=0, since=SPEC.created_at, job="1")
    cluster, run = slurm.SlurmEngine(), Run(spec=SPEC, status=Status.QUEUED, waiter=waiter)
    assert cluster.observe(run).phase is Phase.PENDING
    time.sleep(1.5)  # an answer that came at once is too old by now
    assert cluster.observe(run).phase is Phase.PENDING
    assert (client / "calls").read_text() == "called\n"


def test_a_requeued_job_is_not_hurried_too_soon_after_its_last_requeue(client: Path, monkeypatch: pytest.MonkeyPatch):
    """Slurm fails a job that starts right after its requeue, also where it was seen waiting after the requeue before."""
    now = [0.0]
    monkeypatch.setattr(slurm, "time", SimpleNamespace(monotonic=lambda: now[0]))
    put(client, "scontrol", f"case $1 in update) echo $* >> {client}/hurried;; *) cat {client}/shown;; esac")
    session = Session(number=1, status=Status.TIMEBOXED, started_at=AT, timebox_s=1, grace_s=1, host="h", supervisor_pid=1, job="1")  # fmt: skip
    waiter = Waiter(session=2, host="h", supervisor_pid=0, since=AT, job="1")
    run = Run(spec=SPEC, status=Status.QUEUED, latest=(session,), waiter=waiter)
    cluster = slurm.SlurmEngine()

    def look(at_s: float, queued_at: str, shown: str | None = None) -> bool:
        """Whether the job is hurried then. shown: how and since when it waits a moment after that look."""
        now[0] = at_s
        put(client, "squeue", f"echo '1|PENDING||{queued_at}|BeginTime|backprop-r'")
        (client / "shown").write_text(shown or f"JobState=PENDING Restarts=1 SubmitTime={queued_at} Requeue=1")
        cluster.hurry(run, cluster.observe(run))
        return (client / "hurried").exists()

    assert not look(0, "10:00:00")
    assert not look(60, "10:00:59")
    assert not look(70, "10:00:59", "JobState=PENDING SubmitTime=10:01:09")
    assert not look(80, "10:00:59", "JobState=COMPLETING SubmitTime=10:00:59")
    assert look(90, "10:00:59")
    assert look(100, "10:00:59")
    assert (client / "hurried").read_text() == "update JobId=1 StartTime=now\n"  # once


def test_why_a_job_ended_that_could_never_be_placed(client: Path):
    """One that waited for its time before it was looked at ends as failed: it is told apart from one that failed."""
    put(
        client,
        "squeue",
        "echo '1|FAILED||AT|BadConstraints|backprop-r'; echo '2|FAILED|n1|AT|NonZeroExitCode|backprop-r'",
    )
    waiter = Waiter(session=1, host="h", supervisor_pid=0, since=SPEC.created_at)
    run = Run(spec=SPEC, status=Status.QUEUED, waiter=msgspec.structs.replace(waiter, job="1"))
    seen = slurm.SlurmEngine().observe(run)
    assert (seen.phase, seen.is_unsatisfiable, seen.message) == (
        Phase.ENDED,
        True,
        "its Slurm job 1 ended: FAILED, BadConstraints",
    )
    run = msgspec.structs.replace(run, waiter=msgspec.structs.replace(waiter, job="2"))
    assert not slurm.SlurmEngine().observe(run).is_unsatisfiable


def test_a_task_has_all_that_its_node_has():
    """As many CPUs as the job has there: srun would give it one."""
    assert "--cpus-per-task=8" in rendezvous.launcher({"SLURM_CPUS_PER_TASK": "8"}, 2)
    assert not [word for word in rendezvous.launcher({}, 2) if word.startswith("--cpus")]


@pytest.mark.parametrize("option", ["--kill-on-bad-exit=0", "--wait=0", "--disable-status"])
def test_no_task_ends_another(option: str):
    """Whatever the cluster is configured for: where they are stopped, one may save for longer than another."""
    assert option in rendezvous.launcher({}, 2)


def test_sigterm_for_all_tasks(client: Path, monkeypatch: pytest.MonkeyPatch):
    """scancel sends it, with the settings of nobody's shell; nobody waits for it, and it may be missing."""
    put(client, "scancel", f'echo "$* $SCANCEL_BATCH." > {client}/said.new; mv {client}/said.new {client}/said')
    monkeypatch.setenv("SCANCEL_BATCH", "1")
    slurm_client.terminate_tasks("7")
    os.wait()
    assert (client / "said").read_text() == "--signal=TERM 7 .\n"
    monkeypatch.setenv("PATH", str(client / "nothing"))
    slurm_client.terminate_tasks("7")


def test_a_question_that_slurms_signal_ends_is_asked_again(client: Path):
    """Slurm signals all processes of a job that it ends: how the job stands is known all the same."""
    put(
        client,
        "scontrol",
        f"test -e {client}/asked || {{ : > {client}/asked; kill -TERM $$; }}; echo JobState=RUNNING Restarts=1",
    )
    assert slurm_client.standing("7") == ("RUNNING", 1)


def test_a_requeue_ends_the_call_that_asked_for_it(client: Path):
    """It is one of the job's processes. That is no refusal, which has words."""
    put(client, "scontrol", f"echo x >> {client}/asked; kill -TERM $$")
    slurm_client.requeue("7")
    assert (client / "asked").read_text() == "x\n"
    put(client, "scontrol", "echo 'Requested operation is presently disabled' >&2; exit 1")
    with pytest.raises(SlurmError, match="presently disabled"):
        slurm_client.requeue("7")


def test_a_call_that_takes_too_long_is_ended_with_all_it_started(client: Path, monkeypatch: pytest.MonkeyPatch):
    """A script in the place of Slurm's program leaves no program behind that submits later."""
    put(client, "sbatch", f"sleep 600 & echo $! > {client}/pid; wait")
    monkeypatch.setattr(slurm_client, "CALL_LIMIT_S", 1.0)
    with pytest.raises(SlurmError, match="does not answer"):
        slurm_client.submit("job.sh", [], {"PATH": os.environ["PATH"]})
    pid = int((client / "pid").read_text())
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(
    ("times", "was"),
    [
        ("EligibleTime=Unknown AccrueTime=Unknown", False),
        ("EligibleTime=2026-01-02T03:04:05 AccrueTime=2026-01-02T03:04:05", True),
        ("EligibleTime=Unknown AccrueTime=2026-01-02T03:04:05", True),
    ],
    ids=["never", "waiting", "held again"],
)
def test_whether_a_job_was_ever_released(client: Path, times: str, was: bool):
    """By the times that Slurm has told of it, of which a later hold takes one away."""
    put(client, "scontrol", f"echo JobId=7 Reason=JobHeldUser {times}")
    assert slurm_client.was_ever_released("7") is was


@pytest.mark.parametrize(("nodes", "seen"), [(1, "GPU-a"), (2, "0")])
def test_a_nodes_own_cards(monkeypatch: pytest.MonkeyPatch, nodes: int, seen: str):
    """Those of the first are no other node's: with several, each is told of its own by Slurm alone."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    spec = msgspec.structs.replace(SPEC, slurm=SlurmRequest(nodes=nodes), hooks=False)
    gpu = Gpu(index=0, uuid="GPU-a", name="card", vendor="nvidia")
    found = environment.for_trainer(spec, RunDir(Path("/r")), 1, LIMITS, None, [gpu])
    assert found["CUDA_VISIBLE_DEVICES"] == seen


def test_how_nodes_find_one_another(client: Path):
    """The first node, a port of the job's own, and what torchrun reads in place of options."""
    put(
        client,
        "scontrol",
        'case "$*" in *hostnames*) printf "n1\\nn2\\n";; *n1) echo "NodeName=n1 NodeAddr=a.b";; esac',
    )
    found = rendezvous.variables({"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "n[1-2]"}, 2)
    assert (found["MASTER_ADDR"], found["MASTER_PORT"], found["NNODES"]) == ("a.b", "22345", "2")
    assert (found["PET_RDZV_ENDPOINT"], found["PET_NNODES"], found["PET_RDZV_ID"]) == ("a.b:22345", "2", "12345")


@pytest.mark.parametrize(("name", "is_ours"), [("backprop-r", True), ("backprop-other", False)])
@pytest.mark.parametrize("way", ["cancel", "withdraw"])
def test_only_a_job_with_the_runs_name_is_cancelled(client: Path, name: str, is_ours: bool, way: str):
    """A record names a job by its number, which may be that of any other: by chance, or on purpose."""
    put(client, "squeue", f"echo '7|PENDING||AT|None|{name}'")
    put(client, "scontrol", "exit 0")
    put(client, "scancel", f'echo "$*" >> {client}/cancelled')
    waiter = Waiter(session=1, host="h", supervisor_pid=0, since=datetime.now(timezone.utc), job="7")
    run = Run(spec=order().spec, status=Status.QUEUED, waiter=waiter)
    getattr(slurm.SlurmEngine(), way)(run)
    assert (client / "cancelled").exists() is is_ours
