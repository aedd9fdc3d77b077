"""What is done to several runs at once."""

import pytest

from tests.conftest import Runs, wait_for
from tests.web.conftest import Server, start_endless


def three(runs: Runs) -> list[str]:
    script = runs.script('print(json.dumps({"step": 1, "loss": 0.5}))')
    return [runs.call("run", "-d", "--run-id", name, script).stdout.strip() for name in ("a1", "b2", "c3")]


def ended(runs: Runs, ids: list[str]) -> None:
    assert runs.call("wait", *ids).returncode == 0


def test_tags_archive_and_removal(server: Server, runs: Runs):
    """As `tag`, `archive` and `rm` do, for several runs in one request."""
    ids = three(runs)
    ended(runs, ids)
    told = server.post("/api/many", action="tag", runs=ids[:2], words=["+good", "+kept"])
    assert told.status == 202
    wait_for(lambda: runs.document("b2")["tags"] == ["good", "kept"])
    server.post("/api/many", action="tag", runs=["b2"], words=["-good"])
    wait_for(lambda: runs.document("b2")["tags"] == ["kept"])
    server.post("/api/many", action="archive", runs=["b2", "c3"])
    wait_for(lambda: [row["id"] for row in server.get("/api/runs").json["runs"]] == ["a1"])
    server.post("/api/many", action="rm", runs=["a1", "c3"])
    wait_for(lambda: [row["id"] for row in server.get("/api/runs", filter="archived=any").json["runs"]] == ["b2"])


def test_a_run_is_renamed(server: Server, runs: Runs):
    ids = three(runs)
    ended(runs, ids)
    assert server.post("/api/many", action="rename", runs=["a1"], words=["--better"]).status == 202
    wait_for(lambda: runs.document("a1")["name"] == "--better")


def test_several_are_stopped(server: Server, runs: Runs):
    """And the message comes, if it takes long, with the events."""
    run_id = start_endless(runs)
    server.post("/api/many", action="stop", runs=[run_id])
    wait_for(lambda: runs.document(run_id)["status"] == "stopped")


@pytest.mark.parametrize(
    "body",
    [
        {"action": "reindex", "runs": ["a"]},
        {"action": "rm", "runs": []},
        {"action": "rm", "runs": ["--all"]},
        {"action": "rm", "runs": ["a"], "words": ["--checkpoints"]},
        {"action": "tag", "runs": ["a"], "words": ["--all"]},
        {"action": "tag", "runs": ["a"], "words": ["b"]},
        {"action": "rename", "runs": ["a", "b"], "words": ["c"]},
        {"action": "rename", "runs": ["a"]},
    ],
)
def test_only_what_is_meant_is_done(server: Server, body: dict[str, object]):
    """No request becomes an option of the command."""
    assert server.post("/api/many", **body).status == 400


def test_a_row_for_each_run(server: Server, runs: Runs):
    """As `compare --csv`."""
    ids = three(runs)
    ended(runs, ids)
    lines = server.get("/api/csv", run=ids).text.splitlines()
    assert [line.split(",")[0] for line in lines] == ["id", "a1", "b2", "c3"]
    assert server.get("/api/csv", run="nobody").status == 404


def test_runs_in_one_file(server: Server, runs: Runs):
    """As `report`."""
    ids = three(runs)
    ended(runs, ids)
    told = server.get("/api/report", run=ids[:2])
    assert told.headers["content-type"] == "application/octet-stream"
    assert "a1" in told.text
    assert "c3" not in told.text
