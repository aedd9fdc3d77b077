"""The check that no test leaves anything finds what is left, ends it, and fails the test that left it, and no other."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each leaves one thing behind; between them are tests that leave nothing.
TESTS = """
    import fcntl, os, subprocess, sys, tempfile
    from pathlib import Path

    kept = open("kept", "w")
    pids = Path("pids").resolve()

    def note(pid):
        with pids.open("a") as file:
            file.write(f"{pid}\\n")

    def test_daemon():
        "Has left its parent, its session and its environment."
        code = "import os, time; os.fork() and os._exit(0); os.setsid(); print(os.getpid(), flush=True); os.close(1); time.sleep(600)"
        note(int(subprocess.run([sys.executable, "-c", code], env={}, stdout=subprocess.PIPE, check=True).stdout))

    def test_clean_after_daemon():
        pass

    def test_child():
        note(subprocess.Popen(["sleep", "600"]).pid)

    def test_lock():
        fcntl.flock(kept, fcntl.LOCK_EX)

    def test_working_folder():
        Path("result.json").touch()

    def test_temporary_file():
        tempfile.mkstemp()

    def test_default_home():
        Path(os.environ["BACKPROP_HOME"]).mkdir()

    def test_clean_after_all():
        pass
"""
LEFT = {
    "daemon": "process ",
    "child": "process ",
    "lock": "lock FLOCK ADVISORY WRITE",
    "working_folder": "cwd/result.json",
    "temporary_file": "tmp/tmp",
    "default_home": "/home",
}


def run_pytest(folder: Path, tests: str, ending_s: float) -> str:
    """What pytest prints, with the check and no other plug-in, over these tests. Whatever does not end in time was left."""
    (folder / "test_made.py").write_text(textwrap.dedent(tests))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.leftovers", f"--basetemp={folder / 'temporary'}", "test_made.py"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "TEST_ENDING_S": str(ending_s),
        },
        capture_output=True,
        text=True,
        check=False,
    ).stdout


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[int]]:
    """What pytest said of those tests, and the processes that they left."""
    folder = tmp_path_factory.mktemp("made")
    said = run_pytest(folder, TESTS, 0)
    return said, [int(pid) for pid in (folder / "pids").read_text().split()]


@pytest.mark.parametrize(("name", "word"), LEFT.items())
def test_what_is_left_fails_the_test_that_left_it(report: tuple[str, list[int]], name: str, word: str):
    _, _, after = report[0].partition(f"ERROR at teardown of test_{name} ")
    assert after.splitlines()[1] == "this test left behind:"
    assert word in after.splitlines()[2]


def test_no_other_fails(report: tuple[str, list[int]]):
    assert f"8 passed, {len(LEFT)} errors" in report[0]


def test_what_is_left_is_ended(report: tuple[str, list[int]]):
    """Also a process that has left its session, its parent and its environment."""
    assert [pid for pid in report[1] if psutil.pid_exists(pid)] == []
    assert len(report[1]) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_mount(tmp_path: Path):
    said = run_pytest(
        tmp_path,
        """
        import subprocess

        def test_mount(tmp_path):
            subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
        """,
        0,
    )
    assert "1 passed, 1 error" in said
    assert "mount /" in said.partition("this test left behind:")[2]
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_process_that_is_ending_is_waited_for(tmp_path: Path):
    """It was told to end: a busy machine may take its time."""
    said = run_pytest(tmp_path, "def test_it():\n    __import__('subprocess').Popen(['sleep', '0.2'])\n", 60)
    assert "1 passed in" in said
