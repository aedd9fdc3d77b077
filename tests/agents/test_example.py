"""The agent of examples/agent: it does its research whatever is killed."""

import json
import subprocess
import sys
from pathlib import Path

import psutil

from tests.conftest import BACKPROP, HANG_S, Runs, wait_for

EXAMPLES = Path(__file__).parents[2] / "examples"
VALUES = "32,256,8"


def start_agent(runs: Runs, log: Path) -> "subprocess.Popen[bytes]":
    agent = [sys.executable, str(EXAMPLES / "agent" / "agent.py"), "research"]
    with log.open("wb") as file:
        return runs.start_program([*agent, "--backprop", BACKPROP, "--values", VALUES], stdout=file, stderr=file)


def documents(runs: Runs) -> list[dict]:
    done = runs.call("list", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_goes_on_after_every_kill(runs: Runs, tmp_path: Path):
    """A supervisor, the server and the agent are killed; then it decides what it would have decided, on one run a seed."""
    folder, gate = runs.work / "research", tmp_path / "gate"
    folder.mkdir()
    held = (
        f"def main() -> None:\n    import time\n    while not Path({str(gate)!r}).exists():\n        time.sleep(0.01)\n"
    )
    (folder / "digits.py").write_text((EXAMPLES / "digits.py").read_text().replace("def main() -> None:\n", held))
    agent = start_agent(runs, tmp_path / "1.log")
    running = wait_for(lambda: [run for run in documents(runs) if run["status"] == "running"])[0]
    psutil.Process(running["pid"]).kill()
    wait_for(lambda: runs.document(running["id"])["status"] == "interrupted")
    (server,) = [one for one in psutil.Process(agent.pid).children() if "mcp" in one.cmdline()]
    server.kill()
    wait_for(lambda: "starting another" in (tmp_path / "1.log").read_text())
    agent.kill()
    agent.wait()
    gate.touch()
    again = start_agent(runs, tmp_path / "2.log")
    assert again.wait(HANG_S) == 0, (tmp_path / "2.log").read_text()
    printed = (tmp_path / "2.log").read_text()
    assert [line for line in printed.splitlines() if "BATCH" in line] == [
        "BATCH = 32: keep",
        "BATCH = 256: discard",
        "BATCH = 8: keep",
        "best: BATCH = 8",
    ]
    assert "\nBATCH = 8\n" in (folder / "digits.py").read_text()
    found = documents(runs)
    done = sorted((run["group"], run["params"]["seed"]) for run in found if run["status"] == "completed")
    assert done == sorted((f"batch-{value}", seed) for value in VALUES.split(",") for seed in (1, 2, 3))
    assert [run["id"] for run in found if run["status"] != "completed"] == [running["id"]]
    decisions = {(run["group"], run["decision"]) for run in found if run["decision"] is not None}
    assert decisions == {("batch-32", "keep"), ("batch-256", "discard"), ("batch-8", "keep")}
