"""What a page hears while it is open: what changed, and nothing else."""

import json
from contextlib import ExitStack

import psutil

from tests.conftest import Runs, wait_for
from tests.web.conftest import Server, start_endless


def test_the_first_words_are_all_of_it_and_then_only_what_changed(server: Server, runs: Runs):
    """A run that has ended is told once; one that goes on again and again."""
    runs.call("run", runs.script("print(json.dumps({'step': 1, 'loss': 1.0}))", "other.py"))
    ended = runs.only_id()
    run_id = start_endless(runs)
    with server.stream(runs=f"{ended},{run_id},nobody") as stream:
        assert stream.next_of("table")["total"] == 2
        assert {row["id"] for row in stream.next_of("rows")} == {ended, run_id}
        step = 0
        for _ in range(3):
            (row,) = stream.next_of("rows")
            assert row["id"] == run_id
            assert row["last_step"] > step
            step = row["last_step"]


def test_a_curve_grows_by_what_was_added(server: Server, runs: Runs):
    """What comes is put in the place of what begins there: nothing is lost, and nothing is sent twice over and over."""
    run_id = start_endless(runs)
    (curve,) = wait_for(lambda: server.get("/api/curves", run=run_id).json["curves"])
    xs, ys = curve["x"], curve["y"]
    watch = json.dumps([{"run": run_id, "metric": "loss", "axis": "step", "mark": curve["mark"]}])
    with server.stream(curves=watch) as stream:
        for _ in range(3):
            more = stream.next_of("curve")
            assert more["begin"] == xs[-1]
            kept = [x for x in xs if x < more["begin"]]
            xs, ys = kept + more["x"], ys[: len(kept)] + more["y"]
    assert xs == list(range(len(xs)))
    assert ys == [1 / (x + 1) for x in xs]


def test_a_resumed_run_takes_the_place_of_what_it_trains_again(server: Server, runs: Runs):
    """The whole curve comes anew, without the steps that were lost with the stop."""
    # the second session takes minutes to get as far
    text = """
        for step in range(10**9):
            print(json.dumps({"step": step, "loss": 1 / (step + 1)}), flush=True)
            time.sleep(1 if os.environ["BACKPROP_SESSION"] == "2" or step > 300 else 0)
    """
    run_id = start_endless(runs, text)
    wait_for(lambda: (runs.document(run_id)["last_step"] or 0) > 300)
    runs.call("stop", run_id)
    (curve,) = server.get("/api/curves", run=run_id).json["curves"]
    watch = json.dumps([{"run": run_id, "metric": "loss", "mark": curve["mark"]}])
    with server.stream(curves=watch) as stream:
        assert server.post(f"/api/runs/{run_id}/resume").status == 202
        more = stream.next_of("curve")
    assert more["begin"] is None
    assert more["x"] == list(range(len(more["x"])))
    assert len(more["x"]) < len(curve["x"])


def test_a_page_that_asks_for_a_new_curve_gets_all_of_it(server: Server, runs: Runs):
    """Without a mark, or with one that is none."""
    run_id = start_endless(runs)
    for mark in (None, "nonsense", "[1]"):
        with server.stream(curves=json.dumps([{"run": run_id, "metric": "loss", "mark": mark}])) as stream:
            told = stream.next_of("curve")
            assert told["begin"] is None
            assert told["x"][0] == 0


def test_a_log_is_followed_from_where_the_page_has_it(server: Server, runs: Runs):
    """Piece after piece, each beginning where the last one ended, across a resume."""
    run_id = start_endless(runs, 'for n in range(10**9): print(f"line {n}", flush=True); time.sleep(0.05)')
    piece = server.get(f"/api/runs/{run_id}/log").json
    text = piece["text"]
    with server.stream(log=f"{run_id}:out:{piece['session']}:{piece['end']}") as stream:
        end = piece["end"]
        for _ in range(3):
            told = stream.next_of("log")
            assert told["begin"] == end
            text, end = text + told["text"], told["end"]
        server.post(f"/api/runs/{run_id}/stop")
        wait_for(lambda: runs.document(run_id)["status"] == "stopped")
        server.post(f"/api/runs/{run_id}/resume")
        second = stream.next_of("log", lambda told: told["session"] == 2)
    assert runs.output(run_id).startswith(text)
    assert second["begin"] == 0
    assert second["text"].startswith("line 0\n")


def test_a_run_that_is_stopped_by_the_page_is_seen_to_stop(server: Server, runs: Runs):
    """POST, then the row and the details say so, and the table is said to be another."""
    run_id = start_endless(runs)
    with server.stream(runs=run_id, details=run_id) as stream:
        before = stream.next_of("table")["version"]
        assert server.post(f"/api/runs/{run_id}/stop").status == 202
        seen = {}
        while set(seen) != {"rows", "run", "table"}:
            name, data = stream.next()
            if name == "rows" and data[0]["status"] == "stopped":
                seen[name] = data[0]["is_going_on"]
            elif (name == "run" and data["status"] == "stopped") or (name == "table" and data["version"] > before):
                seen[name] = data
    assert seen["rows"] is False
    assert "page" in seen["run"]["reason"]


def test_a_new_run_and_a_removed_one_change_the_table(server: Server, runs: Runs):
    """So that the page asks for its part of it again."""
    with server.stream() as stream:
        assert stream.next_of("table")["total"] == 0
        runs.call("run", runs.script("print('hello')"))
        assert stream.next_of("table", lambda told: told["total"] == 1)
        runs.call("rm", "--yes", "last")
        assert stream.next_of("table", lambda told: told["total"] == 0)


def test_details_of_a_run_that_is_removed_say_so(server: Server, runs: Runs):
    """A page that shows it can tell its user."""
    runs.call("run", runs.script("print('hello')"))
    run_id = runs.only_id()
    with server.stream(details=run_id) as stream:
        assert stream.next_of("run")["status"] == "completed"
        runs.call("rm", "--yes", run_id)
        assert stream.next_of("run") == {"id": run_id, "gone": True}


def test_a_quiet_run_is_a_quiet_stream(server: Server, runs: Runs):
    """When a run that goes on says nothing, nothing is sent: time alone is not news."""
    run_id = start_endless(runs, 'print(json.dumps({"step": 1, "loss": 1.0}), flush=True); time.sleep(600)')
    wait_for(lambda: (document := runs.document(run_id))["last_step"] == 1 and document["life"] is not None)
    wait_for(lambda: "cpu" in ((runs.document(run_id)["usage"] or {}).get("peak") or {}))  # all of its curves are there
    talking = start_endless(runs)
    with server.stream(runs=run_id, details=run_id) as stream:
        for name in ("table", "rows", "run"):
            stream.next_of(name)
        with server.stream(runs=talking) as other:
            for _ in range(4):  # looks at both
                other.next_of("rows")
        runs.call("run", runs.script("print('hello')"))
        name, _ = stream.next()
        assert name == "table"


def test_the_machine_is_told_again_and_again(server: Server):
    """As long as somebody looks at its gauges."""
    with server.stream(machine=1) as stream:
        for _ in range(2):
            assert stream.next_of("machine")["machine"]["ram_available_bytes"] > 0


def test_twenty_pages_hear_the_same(server: Server, runs: Runs):
    """One look serves all."""
    run_id = start_endless(runs)
    with ExitStack() as stack:
        streams = [stack.enter_context(server.stream(runs=run_id, machine=1)) for _ in range(20)]
        for stream in streams:
            stream.next_of("rows")
        for stream in streams:
            assert stream.next_of("rows")[0]["id"] == run_id


def test_what_keeps_the_index_from_being_brought_up_to_date_is_told(server: Server, runs: Runs):
    """And when it is over, that too."""
    folder = runs.home / "unsettled"
    with server.stream() as stream:
        stream.next_of("table")
        folder.rename(runs.home / "elsewhere")
        folder.write_text("")
        assert stream.next_of("trouble")["error"]
        folder.unlink()
        (runs.home / "elsewhere").rename(folder)
        assert stream.next_of("trouble")["error"] is None


def test_ctrl_c_ends_the_server_with_streams_open(patient_server: Server, runs: Runs):
    """Promptly, with exit code 0, a whole last event, and the run goes on."""
    run_id = start_endless(runs)
    with patient_server.stream(runs=run_id) as stream:
        stream.next_of("rows")
        code, told = patient_server.interrupt()
        assert code == 0
        assert stream.rest()[-1:] in {b"", b"\n"}
    assert told.endswith("the page is closed.\n")
    assert runs.document(run_id)["status"] == "running"


def test_a_page_that_does_not_take_what_it_is_sent_costs_nobody_anything(server: Server, runs: Runs):
    """No other page waits for it, no memory is spent on it, and Ctrl-C does not wait for it either."""
    run_id = start_endless(runs, 'for step in range(3000): print(json.dumps({"step": step, "loss": 1 / (step + 1)}))')
    wait_for(lambda: runs.document(run_id)["status"] == "completed")
    # the first words to it are megabytes, which no socket between us takes
    curves = json.dumps([{"run": run_id, "metric": "loss"}] * 100)
    with server.stream(curves=curves), server.stream(machine=1) as attentive:
        attentive.next_of("machine")
        before = psutil.Process(server.process.pid).memory_info().rss
        for _ in range(3):
            attentive.next_of("machine")
        assert psutil.Process(server.process.pid).memory_info().rss - before < 10_000_000
        code, _ = server.interrupt()
        assert code == 0
