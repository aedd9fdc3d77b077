"""doctor: what it finds on real and on spoilt machines."""

import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from backprop.cli.doctor import scripts
from backprop.cli.doctor.findings import Check, examine, ok
from backprop.records import Finding, Level
from tests.cli.test_look import in_terminal
from tests.conftest import BACKPROP, HANG_S, Runs, wait_for

FAKES = Path(__file__).parents[1] / "fakes"
FRAMEWORKS = (Path(__file__).parents[2] / "docs" / "guides" / "frameworks" / "index.md").read_text()


def found(runs: Runs, check: str, **changes: str) -> list[dict]:
    """The findings of one check that are not just fine, and that the exit code fits them."""
    done = runs.call("doctor", "--json", **changes)
    findings = json.loads(done.stdout)
    has_problem = any(finding["level"] == "problem" for finding in findings)
    assert done.returncode == (1 if has_problem else 0), done.stderr
    assert all(finding["advice"] for finding in findings if finding["level"] == "problem")
    return [finding for finding in findings if finding["check"] == check and finding["level"] != "ok"]


def programs(runs: Runs, **texts: str) -> str:
    """A PATH with programs of these texts in front."""
    folder = runs.work / "programs"
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("_", "-")).write_text(text)
        (folder / name.replace("_", "-")).chmod(0o755)
    # a python3 that is a script of pyenv's would take ten times as long
    return f"{folder}:{Path(sys.executable).parent}:{runs.environment['PATH']}"


@pytest.mark.parametrize(("terminal", "has_colours"), [("xterm", True), ("dumb", False)])
def test_colours_are_for_terminals_that_know_them(runs: Runs, terminal: str, has_colours: bool):
    """A dumb one would show the codes."""
    runs.environment["TERM"] = terminal
    assert ("\x1b[" in in_terminal(runs, "doctor", columns=80)) == has_colours


def test_a_sound_machine_has_no_problem(runs: Runs):
    """Every check has its say, nothing is made in the home folder, and the exit code is 0."""
    done = runs.call("doctor")
    assert done.returncode == 0, done.stdout
    assert "no problem" in done.stdout.splitlines()[-1]
    for check in (
        "backprop",
        "settings",
        "python",
        "hooks",
        "memory",
        "limits",
        "disk",
        "file system",
        "index",
        "clock",
    ):
        assert any(f" {check} " in line for line in done.stdout.splitlines()), check
    assert not runs.home.exists()


def test_nothing_is_left_in_the_home_folder(runs: Runs):
    """What is tried there is taken away."""
    runs.home.mkdir()
    assert runs.call("doctor").returncode == 0
    assert list(runs.home.iterdir()) == []


def test_broken_settings_are_a_problem(runs: Runs):
    """With the file, the key and what is allowed."""
    (runs.work / "backprop.toml").write_text("maxParalel = 2\n")
    (finding,) = found(runs, "settings")
    assert "backprop.toml: unknown key 'maxParalel': did you mean 'maxParallel'" in finding["text"]
    assert found(runs, "python") == []  # told once: what hangs on the settings says nothing


def test_a_misspelt_variable_is_noted(runs: Runs):
    """It would be ignored in silence."""
    (finding,) = found(runs, "settings", BACKPROP_MAX_PARALEL="3")
    assert "BACKPROP_MAX_PARALLEL" in finding["advice"]


def test_a_notification_that_cannot_be_sent_is_a_problem(runs: Runs):
    """Before the night in which it is missed."""
    (finding,) = found(runs, "notify", BACKPROP_NOTIFY='[{"command": ["no-such-program"]}]')
    assert finding["level"] == "problem"


def test_a_damaged_index_is_a_problem(runs: Runs):
    """And what mends it is said; doctor itself mends nothing."""
    runs.script("pass")
    runs.call("run", "train.py")
    (runs.home / "index.db").write_bytes(b"rubbish" * 1000)
    (finding,) = found(runs, "index")
    assert finding["level"] == "problem"
    assert "backprop reindex" in finding["advice"]
    assert (runs.home / "index.db").read_bytes() == b"rubbish" * 1000


def test_an_older_experiments_json_is_noted(runs: Runs):
    """It is taken over by the next command that looks, not by this one."""
    runs.home.mkdir()
    (runs.home / "experiments.json").write_text("{}")
    (finding,) = found(runs, "index")
    assert "older tool" in finding["text"]
    assert not (runs.home / "runs").exists()


def test_a_home_that_cannot_be_written_is_a_problem(runs: Runs):
    """It is tried, not asked for: quotas and read-only mounts show in no other way."""
    (finding,) = found(runs, "disk", BACKPROP_HOME="/proc/backprop")
    assert finding["text"].startswith("/proc/backprop: ")


@pytest.mark.parametrize(
    ("limit", "words"),
    [("-n 200", "only 200 open files"), ("-t 500", "500 s of CPU time"), ("-f 1000000", "no file may be larger")],
)
def test_what_ulimit_takes_is_told(runs: Runs, limit: str, words: str):
    """With the words that lift it."""
    done = subprocess.run(
        ["bash", "-c", f"ulimit -S {limit}; {shlex.quote(BACKPROP)} doctor --json"],
        cwd=runs.work,
        env=runs.environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    (finding,) = [one for one in json.loads(done.stdout) if one["check"] == "limits"]
    assert words in finding["text"]
    assert "ulimit" in finding["advice"]


def test_a_driver_that_hangs_is_a_problem_and_hangs_nobody(runs: Runs):
    """Whatever the tool does, everything else is still told."""
    path = programs(runs, nvidia_smi="#!/bin/sh\nexec sleep 1000\n")
    (finding,) = found(runs, "gpu", PATH=path)
    assert finding["level"] == "problem"
    assert "did not answer" in finding["text"] or "no answer" in finding["text"]


def test_a_framework_that_sees_no_gpu_is_a_problem(runs: Runs):
    """Where there is one: the usual mistake of installing a build for CPUs."""
    (runs.work / "cards.json").write_text(
        json.dumps({"gpus": [{"index": 0, "uuid": "GPU-0", "name": "card", "memory.total": 81559, "memory.used": 1}]})
    )
    path = programs(runs)
    shutil.copy(FAKES / "nvidia-smi", runs.work / "programs")
    packages = runs.work / "packages"
    (packages / "torch-2.13.0.dist-info").mkdir(parents=True)
    (packages / "torch-2.13.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n"
    )
    (packages / "torch.py").write_text(
        "class cuda:\n    is_available = staticmethod(lambda: False)\nclass version:\n    cuda = None\n"
    )
    environment = {"PATH": path, "FAKE_NVIDIA_SMI": str(runs.work / "cards.json"), "PYTHONPATH": str(packages)}
    (finding,) = found(runs, "frameworks", **environment)
    assert finding["text"].startswith("torch sees none of 1 GPUs (built for CUDA None")
    (packages / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    (finding,) = found(runs, "frameworks", **environment)
    assert "libcudart.so.12" in finding["text"]


def test_a_version_that_was_not_tried_is_noted(runs: Runs):
    """With those that were."""
    info = runs.work / "packages" / "lightgbm-0.dist-info"
    info.mkdir(parents=True)
    metadata = "Metadata-Version: 2.1\nName: lightgbm\nVersion: {}\n"
    (info / "METADATA").write_text(metadata.format("3.1.0"))
    (finding,) = found(runs, "frameworks", PYTHONPATH=str(info.parent))
    assert finding["text"] == "lightgbm 3.1.0 was not tried with Backprop (4.7, 4.5 was)"
    (info / "METADATA").write_text(metadata.format("4.6.0"))
    assert found(runs, "frameworks", PYTHONPATH=str(info.parent)) == []


@pytest.mark.parametrize(("name", "versions"), scripts.TRIED.items())
def test_versions_are_those_of_the_documentation(name: str, versions: tuple[str, ...]):
    """What is called tried is what docs/guides/frameworks/index.md says."""
    assert all(version in FRAMEWORKS for version in versions)


def test_a_python_that_keeps_hooks_out_is_a_problem(runs: Runs):
    """A wrapper with -E, for one: scripts would run without being stopped or resumed."""
    programs(runs, python_wrapped=f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -E "$@"\n')
    (finding,) = found(runs, "hooks", BACKPROP_PYTHON=str(runs.work / "programs" / "python-wrapped"))
    assert "not loaded" in finding["text"]


def test_a_python_that_is_not_there_is_a_problem(runs: Runs):
    (finding,) = found(runs, "python", BACKPROP_PYTHON="/no/python")
    assert "/no/python" in finding["text"]


# -- checks that go wrong


def fine() -> Iterator[Finding]:
    yield ok("fine", "all is well")


def hang() -> Iterator[Finding]:
    subprocess.run(["sleep", "1000"], check=False)
    yield from fine()


def crash() -> Iterator[Finding]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield from fine()


def fail() -> Iterator[Finding]:
    yield ok("fail", "so far")
    raise ValueError("spoilt")


def chatter() -> Iterator[Finding]:
    os.write(1, b"a driver says hello\n")
    os.write(2, b"and complains\n")
    yield ok("chatter", "x" * 1_000_000)  # more than a pipe holds


def test_a_check_that_goes_wrong_is_a_finding(capfd: pytest.CaptureFixture[str]):
    """One that hangs, crashes or raises takes nobody with it, and all others are heard, in order."""
    checks = [
        Check("hang", hang, 2.0),
        Check("crash", crash),
        Check("fail", fail),
        Check("chatter", chatter),
        Check("fine", fine),
    ]
    findings = examine(checks)
    assert [finding.check for finding in findings] == ["hang", "crash", "fail", "chatter", "fine"]
    assert [finding.level for finding in findings] == [Level.PROBLEM] * 3 + [Level.OK] * 2
    assert "timed out after 2 s" in findings[0].text
    assert "signal 9" in findings[1].text
    assert "ValueError: spoilt" in findings[2].text
    assert len(findings[3].text) == 1_000_000
    assert capfd.readouterr() == ("", "")


def test_what_a_hanging_check_started_is_ended(tmp_path: Path):
    """A tool that hangs is not left behind."""
    pid_file = tmp_path / "pid"

    def start_and_hang() -> Iterator[Finding]:
        pid_file.write_text(str(subprocess.Popen(["sleep", "1000"]).pid))
        time.sleep(1000)
        yield from fine()

    examine([Check("hang", start_and_hang, 3.0)])
    sleeper = Path(f"/proc/{pid_file.read_text()}/stat")
    wait_for(lambda: not sleeper.exists() or sleeper.read_text().rpartition(")")[2].split()[0] in {"Z", "X"})


SLURM = dict.fromkeys(("squeue", "scancel", "scontrol"), "#!/bin/sh\n") | {
    "sbatch": "#!/bin/sh\necho slurm-wlm 22.05.8\n"
}


def test_a_slurm_without_its_controller_is_noted(runs: Runs):
    """Told in Slurm's words, before a run waits for it."""
    silent = {"squeue": "#!/bin/sh\necho 'squeue: error: Unable to contact slurm controller' >&2; exit 1\n"}
    (finding,) = found(runs, "slurm", PATH=programs(runs, **SLURM | silent))
    assert finding["level"] == "note"
    assert "Unable to contact slurm controller" in finding["text"]


def test_a_home_that_nodes_do_not_see_is_noted(runs: Runs):
    """A job would find no run there, and could tell nobody."""
    (finding,) = found(runs, "slurm", PATH=programs(runs, **SLURM))
    assert finding["level"] == "note"
    assert "BACKPROP_HOME" in finding["advice"]


def test_half_a_slurm_is_noted(runs: Runs):
    """All four commands are needed. That none is there is none."""
    only = {"PATH": f"{programs(runs, sbatch=SLURM['sbatch'])}:/nowhere".partition(":")[0]}
    (finding,) = found(runs, "slurm", **only)
    assert "squeue, scancel, scontrol not found" in finding["text"]
    (runs.work / "programs" / "sbatch").unlink()
    assert found(runs, "slurm", **only) == []


def answered(runs: Runs, answer: str) -> str:
    """What `doctor` shows in a terminal in which the user answers its question."""
    master, slave = pty.openpty()
    doctor = runs.start("doctor", stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    os.write(master, f"{answer}\n".encode())
    shown = b""
    with suppress(OSError):  # the terminal's other end is closed
        while more := os.read(master, 65_536):
            shown += more
    os.close(master)
    doctor.wait(HANG_S)
    return shown.decode()


@pytest.mark.parametrize("way", ["settings", "environment"])
def test_a_python_that_the_folder_names_is_not_started_unasked(runs: Runs, way: str):
    """The folder may come from anybody. On a terminal the user is asked; elsewhere it is said how to say yes."""
    del runs.environment["BACKPROP_PYTHON"]
    runs.environment.pop("VIRTUAL_ENV", None)
    python = runs.work / ("py" if way == "settings" else ".venv/bin/python")
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f'#!/bin/sh\ntouch {runs.work}/started\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    if way == "settings":
        (runs.work / "backprop.toml").write_text('python = "./py"\n')
    (finding,) = found(runs, "python")
    assert f"{python} was not run" in finding["text"]
    assert f"--python {python}" in finding["advice"]
    assert not (runs.work / "started").exists()
    assert "which this directory configures, to check it?" in answered(runs, "n")
    assert not (runs.work / "started").exists()
    assert runs.call("doctor", "--python", python).returncode in {0, 1}
    assert (runs.work / "started").exists()


def test_no_module_of_the_folder_is_imported(runs: Runs):
    """Python would look there first, for its own as well."""
    (runs.work / "json.py").write_text("open('imported', 'w')\nraise SystemExit(1)\n")
    assert found(runs, "python") == []
    assert not (runs.work / "imported").exists()
