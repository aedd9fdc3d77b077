"""What the server tells of runs, and what it makes of orders and of nonsense."""

import os
import socket
import subprocess

import pytest

from tests.conftest import HANG_S, Runs, wait_for
from tests.web.conftest import Server, start_endless

HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m\u202egnp\n\r\t'\"&"


def finished(runs: Runs, text: str, *words: object) -> str:
    """The id of a run that has ended."""
    done = runs.call("run", "-m", "10", *words, runs.script(text))
    assert done.returncode == 0, done.stderr
    return runs.document()["id"]


def test_a_row_says_what_a_table_shows(server: Server, runs: Runs):
    """The run as it ended, with its loss, and how many there are."""
    script = """
        for step in range(100):
            print(json.dumps({"step": step, "loss": abs(step - 60) + 1.0, "total_steps": 100}))
    """
    run_id = finished(runs, script, "-n", "digits")
    told = server.get("/api/runs").json
    (row,) = told["runs"]
    assert (told["total"], told["shown_of"]) == (1, 1)
    assert row["spark"][0] == 61.0
    assert len(row["spark"]) <= 41
    del row["spark"], row["created_at"], row["elapsed_s"]
    assert row == {
        "id": run_id, "name": "digits", "status": "completed", "reason": None, "timebox_s": 600.0, "last_step": 99,
        "earlier_s": 0, "session_timebox_s": 600.0,
        "total_steps": 100, "metric": "loss", "last": 40.0, "best": 1.0, "command": "train.py", "is_going_on": False,
        "can_resume": True, "sessions": 1, "is_stalled": False, "life_text": None, "pace": None, "cells": [],
    }  # fmt: skip


def test_the_table_is_searched_filtered_sorted_and_paged(server: Server, runs: Runs):
    """All in the server, whatever the number of runs."""
    for number in (3, 1, 2):
        finished(runs, f'print(json.dumps({{"step": 1, "loss": {number}.0}}))', "-n", f"trial-{number}")
    names = lambda **query: [row["name"] for row in server.get("/api/runs", **query).json["runs"]]  # noqa: E731
    assert names(sort="loss") == ["trial-1", "trial-2", "trial-3"]
    assert names(sort="loss", descending=1) == ["trial-3", "trial-2", "trial-1"]
    assert names(sort="loss", offset=1, limit=1) == ["trial-2"]
    assert names(search="TRIAL-2") == ["trial-2"]
    told = server.get("/api/runs", filter="loss>1", limit=1).json
    assert (told["total"], told["shown_of"], len(told["runs"])) == (3, 2, 1)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/runs", {"filter": "status=nonsense"}),
        ("/api/runs", {"column": "loss"}),
        ("/api/runs", {"column": "sys.peak_rum"}),
        ("/api/groups", {"by": "loss"}),
        ("/api/bands", {"filter": "=="}),
        ("/api/runs", {"filter": "=="}),
        ("/api/runs", {"limit": "many"}),
        ("/api/runs", {"limit": 501}),
        ("/api/runs", {"offset": -1}),
        ("/api/runs", {"offset": "9" * 400}),
        ("/api/runs", {"offset": "0" * 20 + "9" * 100}),
        ("/api/runs", {"limit": "0" * 20 + "9" * 100}),
        ("/api/runs", {"descending": "yes"}),
        ("/api/runs", {"search": "x" * 10_000}),
        ("/api/curves", {}),
        ("/api/curves", {"run": "x", "points": 1}),
        ("/api/curves", {"run": "x", "axis": "epoch"}),
        ("/api/curves", {"run": "x", "begin": "x"}),
        ("/api/curves", {"run": ["x"] * 101}),
        ("/api/events", {"curves": "["}),
        ("/api/events", {"curves": '[{"run": 1}]'}),
        ("/api/events", {"curves": "[" * 10_000}),
        ("/api/events", {"log": "x:passwd"}),
        ("/api/events", {"log": "x:out:1:a"}),
        ("/api/events", {"runs": ",".join("x" * 501)}),
        ("/api/runs/x/log", {"source": "../../etc/passwd"}),
        ("/api/runs/x/log", {"session": "0/../1"}),
        ("/api/runs/x/log", {"bytes": 10**9}),
        ("/api/events", {"log": "x:out:²:1"}),
    ],
)
def test_nonsense_is_answered_with_what_is_allowed(quiet_server: Server, path: str, query: dict):
    """400, and a sentence."""
    answer = quiet_server.get(path, **query)
    assert answer.status == 400
    assert 10 < len(answer.json["error"]) < 500


@pytest.mark.parametrize("path", ["/api/runs/{}", "/api/runs/{}/log", "/api/runs/{}/patch", "/api/curves?run={}"])
@pytest.mark.parametrize("run_id", ["nobody", "%2e%2e", "..%2f..%2fetc", "%00", "x" * 3000, "last", "%f0%9f%92%a9"])
def test_a_run_that_is_not_there_is_404(quiet_server: Server, path: str, run_id: str):
    """An id names a run by lookup, never by path."""
    answer = quiet_server.get(path.format(run_id))
    assert answer.status == 404
    assert len(answer.json["error"]) < 200


def test_a_wrong_method_or_path_is_said_in_json(quiet_server: Server):
    """405 and 404."""
    assert "error" in quiet_server.get("/api/nothing").json
    assert quiet_server.get("/api/runs/x/stop").status == 405
    assert quiet_server.post("/api/runs").status == 405


def test_details_hold_all_that_the_page_of_a_run_shows(server: Server, runs: Runs):
    """The document of --json, with best values, notes, and whether there is a patch."""
    script = """
        print(json.dumps({"event": "hello", "who": "world"}))
        for step, value in enumerate([0.5, 0.9, 0.7]):
            print(json.dumps({"step": step, "accuracy": value}))
    """
    run_id = finished(runs, script)
    told = server.get(f"/api/runs/{run_id}").json
    asked = runs.document(run_id)
    assert {key: told[key] for key in asked} == asked
    assert told["summaries"]["accuracy"] == {"count": 3, "last": 0.7, "last_step": 2, "best": 0.9, "best_step": 1}
    assert told["trainer_notes"][0]["kind"] == "hello"
    assert told["has_patch"] is False


def test_archived_runs_are_shown_only_when_they_are_asked_for(server: Server, runs: Runs):
    """As in `list`; by its id an archived run has its page, with what was said about it."""
    run_id = finished(runs, "print(1)")
    assert runs.call("tag", run_id, "+base").returncode == runs.call("archive", run_id).returncode == 0
    assert wait_for(lambda: server.get(f"/api/runs/{run_id}").json["archived"])
    assert server.get(f"/api/runs/{run_id}").json["tags"] == ["base"]
    assert server.get("/api/runs").json["runs"] == []
    assert [run["id"] for run in server.get("/api/runs", filter="archived=true").json["runs"]] == [run_id]


def test_a_curve_has_gaps_where_it_is_not_finite(server: Server, runs: Runs):
    """NaN and infinities are null in the line, and their places are told."""
    script = """
        for step, value in enumerate([1.0, float("nan"), 3.0, float("inf"), 5.0]):
            print(json.dumps({"step": step, "loss": value}))
    """
    run_id = finished(runs, script)
    (curve,) = server.get("/api/curves", run=run_id, metric="loss").json["curves"]
    assert curve["x"] == [0, 1, 2, 3, 4]
    assert curve["y"] == [1.0, None, 3.0, None, 5.0]
    assert curve["missing"] == [1, 3]
    assert server.get("/api/runs").json["runs"][0]["best"] == 1.0


def test_what_was_measured_has_its_unit(server: Server, runs: Runs):
    """Bytes of memory, per cent of a core; a metric of the script has none."""
    run_id = finished(runs, 'print(json.dumps({"step": 1, "loss": 2.0}))')
    runs.set_usage(run_id, '{"since":0,"until":2,"count":2,"values":{"cpu":[100,50],"ram":5}}\n')
    curves = server.get("/api/curves", run=run_id, metric=["loss", "sys/cpu", "sys/ram"]).json["curves"]
    assert {curve["metric"]: curve["unit"] for curve in curves} == {"loss": None, "sys/cpu": "%", "sys/ram": "B"}


def test_a_curve_that_is_asked_for_twice_is_told_once(server: Server, runs: Runs):
    """A long address costs no more than what is in it."""
    run_id = finished(runs, 'print(json.dumps({"step": 1, "loss": 2.0}))')
    assert len(server.get("/api/curves", run=[run_id] * 20).json["curves"]) == 1


def test_a_metric_without_a_name_has_a_curve(server: Server, runs: Runs):
    """The empty name is that of a metric, not that of none."""
    run_id = finished(runs, 'print(json.dumps({"step": 1, "loss": 2.0, "": 3.0}))')
    (curve,) = server.get("/api/curves", run=run_id, metric="").json["curves"]
    assert (curve["metric"], curve["y"]) == ("", [3.0])


def test_a_long_curve_is_reduced_and_keeps_its_spike(server: Server, runs: Runs):
    """Of a hundred thousand points about as many are sent as were asked for, and the one that matters is among them."""
    script = """
        for step in range(100_000):
            print(json.dumps({"step": step, "loss": 1e6 if step == 54_321 else 1.0}))
    """
    run_id = finished(runs, script)
    (curve,) = server.get("/api/curves", run=run_id, points=200).json["curves"]
    assert len(curve["x"]) <= 500
    assert curve["count"] == 100_000
    assert curve["reduced"] is True
    assert curve["x"][curve["y"].index(1e6)] == 54_321
    (part,) = server.get("/api/curves", run=run_id, begin=54_300, end=54_340).json["curves"]
    assert part["x"] == list(range(54_300, 54_341))


def test_a_log_is_read_backwards_in_whole_lines(server: Server, runs: Runs):
    """From the end, then what lies before, until the beginning: all of it, once."""
    run_id = finished(runs, 'for number in range(1000): print(f"line {number} ü")')
    text, end = "", None
    while end != 0:
        piece = server.get(f"/api/runs/{run_id}/log", bytes=1000, **({} if end is None else {"end": end})).json
        assert piece["text"].startswith("line")
        assert piece["text"].endswith("\n")
        text, end = piece["text"] + text, piece["begin"]
    assert text == runs.output(run_id)
    assert server.get(f"/api/runs/{run_id}/log", source="err").json["text"] == ""


def test_a_log_without_line_ends_is_read_all_the_same(server: Server, runs: Runs):
    """A megabyte on one line does not hang whoever pages through it."""
    run_id = finished(runs, 'sys.stdout.write("x" * 2_500_000 + "\\n")')
    end, pieces = None, 0
    while end != 0:
        piece = server.get(f"/api/runs/{run_id}/log", bytes=1_000_000, **({} if end is None else {"end": end})).json
        assert 0 < len(piece["text"]) <= 1_000_000
        assert end is None or piece["begin"] < end
        end, pieces = piece["begin"], pieces + 1
    assert pieces == 3


@pytest.mark.parametrize("name", ["session-1.out", "code.patch"])
def test_a_link_out_of_the_run_directory_is_not_followed(server: Server, runs: Runs, name: str):
    """A run directory that comes from elsewhere may hold links to anything the user can read."""
    subprocess.run(["git", "init", "-q"], cwd=runs.work, check=True)  # so that there is a patch
    run_id = finished(runs, "print('hello')")
    secret = runs.work / "secret"
    secret.write_text("the secret\n")
    path = runs.rundir(run_id) / name
    path.unlink(missing_ok=True)
    path.symlink_to(secret)
    assert "the secret" not in server.get(f"/api/runs/{run_id}/log").text
    assert server.get(f"/api/runs/{run_id}/patch").status == (404 if name == "code.patch" else 200)
    path.unlink()
    os.mkfifo(path)  # and nobody writes to it
    assert server.get(f"/api/runs/{run_id}/log").json["text"] in {"", "hello\n"}
    assert server.get(f"/api/runs/{run_id}/patch").status == (404 if name == "code.patch" else 200)


def test_a_huge_patch_is_cut_with_a_word_on_it(server: Server, runs: Runs):
    """At most 5 MB are sent."""
    subprocess.run(["git", "init", "-q"], cwd=runs.work, check=True)  # so that there is a patch
    run_id = finished(runs, "print('hello')")
    (runs.rundir(run_id) / "code.patch").write_text("+line\n" * 1_500_000)
    answer = server.get(f"/api/runs/{run_id}/patch")
    assert answer.headers["content-type"].startswith("text/plain")
    assert len(answer.text) < 5_001_000
    assert "9,000,000 bytes" in answer.text[-300:]


def test_hostile_texts_come_through_as_text_and_in_bounds(server: Server, runs: Runs):
    """Names of a megabyte, HTML and escapes stay JSON strings, and short enough to be shown."""
    script = """
        odd = HOSTILE
        print(json.dumps({"event": "params", "params": {odd: odd, "long": "x" * 900_000, "deep": [[[[[[[[[["x"]]]]]]]]]]}}))
        print(json.dumps({"event": "y" * 500_000, "text": "z" * 400_000}))
        print(json.dumps({"step": 1, odd: 2.0, "m" * 300_000: 1.0, "loss" + odd: 1.0}))
    """
    run_id = finished(runs, script.replace("HOSTILE", repr(HOSTILE)))
    table, details = server.get("/api/runs"), server.get(f"/api/runs/{run_id}")
    assert table.json["runs"][0]["metric"] == "loss" + HOSTILE
    assert details.json["params"][HOSTILE] == HOSTILE
    assert len(details.text) < 100_000
    assert "<img" not in "".join(f"{name}{value}" for name, value in details.headers.items())
    (curve,) = server.get("/api/curves", run=run_id, metric=HOSTILE).json["curves"]
    assert curve["y"] == [2.0]
    assert table.headers["content-type"] == "application/json"


def test_the_machine_is_told_with_its_slots(server: Server, runs: Runs):
    """Who holds a slot, out of how many; and the limits that a start is measured by."""
    run_id = start_endless(runs)
    told = server.get("/api/machine").json
    assert [ticket["run_id"] for ticket in told["slots"]["taken"]] == [run_id]
    assert told["slots"]["limit"] == told["limits"]["max_parallel"] == 1000
    assert told["machine"]["ram_total_bytes"] > 0
    assert told["queue"] == []


def status_of(server: Server, run_id: str) -> str:
    return server.get(f"/api/runs/{run_id}").json["status"]


def test_a_run_is_paused_goes_on_is_stopped_and_resumed(server: Server, runs: Runs):
    """The buttons: each is answered at once, and then it comes to pass."""
    run_id = start_endless(runs)
    for order, status in (("pause", "paused"), ("resume", "running"), ("stop", "stopped"), ("resume", "running")):
        answer = server.post(f"/api/runs/{run_id}/{order}")
        assert answer.status == 202, answer.text
        assert answer.json["said"]
        wait_for(lambda status=status: status_of(server, run_id) == status)
    assert len(server.get(f"/api/runs/{run_id}").json["sessions"]) == 2
    assert server.post(f"/api/runs/{run_id}/stop", now=True).status == 202
    wait_for(lambda: status_of(server, run_id) == "stopped")


def test_what_is_said_of_a_stop_is_what_will_happen(patient_server: Server, runs: Runs):
    """One that goes on gets its grace; one that is queued leaves the line, and nobody is killed."""
    runs.environment["BACKPROP_MAX_PARALLEL"] = "1"
    going_on = start_endless(runs)
    queued = runs.start("run", runs.script("print('hello')", "other.py"), "--run-id", "queued")
    wait_for(lambda: (runs.home / "runs" / "queued").exists() and status_of(patient_server, "queued") == "queued")
    said = patient_server.post("/api/runs/queued/stop").json["said"]
    assert said == "run queued was asked to leave the queue."
    queued.wait(HANG_S)
    said = patient_server.post(f"/api/runs/{going_on}/stop").json["said"]
    assert said == f"run {going_on} was asked to stop; it is killed after 20 s."


def test_an_order_that_cannot_be_is_refused_with_the_reason(patient_server: Server, runs: Runs):
    """409 for a run that has ended, 400 for nonsense, and nothing is written into the record."""
    run_id = finished(runs, "print('hello')")
    before = runs.journal(run_id)
    for order in ("stop", "pause"):
        answer = patient_server.post(f"/api/runs/{run_id}/{order}")
        assert answer.status == 409
        assert run_id in answer.json["error"]
    for minutes in (-1, 0, 1e9, "many"):
        assert patient_server.post(f"/api/runs/{run_id}/resume", minutes=minutes).status == 400
    assert patient_server.post(f"/api/runs/{run_id}/stop", now="x" * 20_000).status == 413
    assert runs.journal(run_id) == before


def test_the_server_outlives_its_index_and_its_runs(server: Server, runs: Runs):
    """Removed runs vanish, and an index that is deleted or damaged is made anew, without a restart."""
    first, second = (finished(runs, "print('hello')") for _ in range(2))
    assert server.get("/api/runs").json["total"] == 2
    runs.call("rm", "--yes", first)
    wait_for(lambda: server.get("/api/runs").json["total"] == 1)
    assert server.get(f"/api/runs/{first}").status == 404
    for path in runs.home.glob("index.db*"):
        path.unlink()
    wait_for(lambda: [row["id"] for row in server.get("/api/runs").json.get("runs", [])] == [second])
    runs.call("reindex")
    assert server.get("/api/runs").json["total"] == 1


def test_a_port_that_is_taken_is_said(runs: Runs):
    """With --port; without, another one is found."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = runs.call("ui", "--no-open", "--port", port)
        assert done.returncode == 2
        assert f"port {port} is taken" in done.stderr
    first, second = Server(runs, "--host", "127.0.0.1"), Server(runs, "--host", "127.0.0.1")
    assert first.port != second.port
    assert second.get("/api/runs").status == 200


def test_an_address_that_others_reach_is_warned_of(runs: Runs):
    """--host says what it means; and an address that is not ours is an error."""
    server = Server(runs, "--host", "0.0.0.0", "--port", "0")
    assert server.get("/api/runs").status == 200
    _, told = server.interrupt()
    assert "warning" in told
    assert runs.call("ui", "--no-open", "--host", "192.0.2.1").returncode == 2
