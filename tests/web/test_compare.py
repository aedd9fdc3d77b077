"""Runs side by side, and how their code differs, as the page gets it."""

import subprocess
from pathlib import Path

import pytest

from backprop.store.code.diff import Difference
from backprop.views.web.comparison import difference_document
from tests.conftest import Runs
from tests.web.conftest import Server

SCRIPT = """
    lr = float(sys.argv[1])
    print(json.dumps({"event": "params", "params": {"lr": lr, "layers": 2, "note": sys.argv[2]}}))
    print(json.dumps({"step": 1, "loss": lr, "epoch": 1}))
"""


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, check=True)


def two(runs: Runs, notes: tuple[str, str] = ("n", "n")) -> None:
    script = runs.script(SCRIPT)
    for run_id, lr, note in (("a", "0.5", notes[0]), ("b", "0.25", notes[1])):
        assert runs.call("run", "--run-id", run_id, "-n", f"name-{run_id}", script, "--", lr, note).returncode == 0


def rows(document: dict) -> dict[str, dict]:
    return {row["label"]: row for row in document["rows"]}


def test_what_differs_and_what_is_best(server: Server, runs: Runs):
    """As `compare`: parameters that differ, metrics with the best marked; what is the same if it is asked for."""
    two(runs)
    document = server.get("/api/compare", run=["a", "b"]).json
    assert [(run["id"], run["name"], run["status"]) for run in document["runs"]] == [
        ("a", "name-a", "completed"),
        ("b", "name-b", "completed"),
    ]
    found = rows(document)
    assert found["lr"]["cells"] == ["0.5", "0.25"]
    assert (found["lr"]["section"], found["lr"]["other"]) == ("params", [1])
    assert found["loss"]["cells"] == ["0.5", "0.25*"]
    assert found["loss"]["best"] == [1]
    assert found["loss"]["other"] == []  # a result, no setting
    assert {"layers", "epoch", "host"}.isdisjoint(found)
    everything = rows(server.get("/api/compare", run=["a", "b"], all="1").json)
    assert everything["layers"]["cells"] == ["2", "2"]
    assert everything["layers"]["other"] == []
    assert {"epoch", "host"} <= everything.keys()


def test_runs_that_differ_in_their_seed(server: Server, runs: Runs):
    """Their spread, as `compare` shows it."""
    script = runs.script("""
        print(json.dumps({"step": 1, "loss": 1.0 + int(sys.argv[2])}))
    """)
    for seed in (1, 3):
        assert runs.call("run", "--run-id", f"s{seed}", script, "--", "--seed", seed).returncode == 0
    found = server.get("/api/compare", run=["s1", "s3"]).json["over_seeds"]
    assert found == {"metrics": ["loss"], "sets": [{"runs": ["s1", "s3"], "cells": ["3 ± 1.414 (2)"]}]}


def test_long_values_that_differ_where_they_are_cut(server: Server, runs: Runs):
    """It is said that they differ."""
    two(runs, ("x" * 5000 + "1", "x" * 5000 + "2"))
    note = rows(server.get("/api/compare", run=["a", "b"]).json)["note"]
    assert [len(cell) for cell in note["cells"]] == [2000, 2000]
    assert note["is_cut"]
    assert note["other"] == [1]


@pytest.mark.parametrize("path", ["/api/compare", "/api/compare/code"])
def test_only_runs_are_compared(server: Server, runs: Runs, path: str):
    """Two or more that there are; of code, two."""
    two(runs)
    for ids in ([], ["a"], ["a", "a"], [f"r{number}" for number in range(21)]):
        assert server.get(path, run=ids).status == 400
    assert server.get(path, run=["a", "nobody"]).status == 404
    assert server.get("/api/compare/code", run=["a", "b", "c"]).status == 400


def test_how_their_code_differs(server: Server, runs: Runs):
    """From the first to the second, by file; the same code is said to be the same."""
    script = runs.script(SCRIPT)
    git(runs.work, "init", "-q")
    git(runs.work, "add", "-A")
    git(runs.work, "commit", "-qm", "first")
    assert runs.call("run", "--run-id", "a", script, "--", "1", "n").returncode == 0
    assert runs.call("run", "--run-id", "same", script, "--", "1", "n").returncode == 0
    script.write_text(script.read_text() + "rate = 3\n")
    runs.work.joinpath("model.py").write_text("layers = 2\n")
    git(runs.work, "add", "-A")
    assert runs.call("run", "--run-id", "b", script, "--", "1", "n").returncode == 0

    document = server.get("/api/compare/code", run=["a", "b"]).json
    assert {file["name"]: (file["added"], file["removed"], file["lines_left_out"]) for file in document["files"]} == {
        "model.py": (1, 0, 0),
        "train.py": (1, 0, 0),
    }
    assert "+rate = 3" in document["files"][1]["text"].split("\n")
    assert (document["notes"], document["files_left_out"], document["is_cut"]) == ([], 0, False)
    back = server.get("/api/compare/code", run=["b", "a"]).json
    assert [file["removed"] for file in back["files"]] == [1, 1]
    assert server.get("/api/compare/code", run=["a", "same"]).json["notes"] == ["their code is the same."]


def test_a_difference_of_any_size_is_bounded():
    """Files, lines and characters; how much is left out is counted."""

    def file(name: str, line: str, count: int) -> str:
        return f"diff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n" + f"+{line}\n" * count

    patch = file("long", "x", 10_000) + "".join(file(f"f{number}", "y", 1) for number in range(300))
    document = difference_document(Difference(patch=patch.encode(), notes=(), is_cut=True))
    first = document["files"][0]
    assert (first["name"], first["added"], first["lines_left_out"]) == ("long", 10_000, 8_004)
    assert len(first["text"].split("\n")) == 2_000
    assert (len(document["files"]), document["files_left_out"], document["is_cut"]) == (200, 101, True)

    wide = "".join(file(f"f{number}", "z" * 100_000, 600) for number in range(2))
    shown = difference_document(Difference(patch=wide.encode(), notes=()))["files"]
    assert sum(len(file["text"]) for file in shown) < 1_010_000
    assert [file["lines_left_out"] > 0 for file in shown] == [True, True]
    assert [file["added"] for file in shown] == [600, 600]


def test_files_that_went_moved_or_are_not_text():
    """Each is called by its name."""
    patch = (
        "diff --git a/gone b/gone\ndeleted file mode 100644\n--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n--- a/no\n"
        "diff --git a/old b/new\nsimilarity index 100%\nrename from old\nrename to new\n"
        "diff --git a/image b/image\nBinary files a/image and b/image differ\n"
    )
    files = difference_document(Difference(patch=patch.encode(), notes=()))["files"]
    assert [file["name"] for file in files] == ["gone", "new", "a/image b/image"]
    assert [file["removed"] for file in files] == [2, 0, 0]
