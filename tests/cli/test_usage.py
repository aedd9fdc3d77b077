"""What a run used, as users of the installed command see it: in every view, apart from what the script reports."""

import csv
import json
import os

import pytest

import backprop
from tests.cli.test_governor import Machine, trainer_pid
from tests.conftest import HANG_S, Runs, recorded, wait_for

WORKS = """
    held = bytearray(60_000_000)
    held[::4096] = b"x" * len(held[::4096])
    began = time.monotonic()
    step = 0
    while not os.path.exists("go"):
        step += 1
        sum(range(20_000))
        print(json.dumps({"step": step, "loss": 1 / step}), flush=True)
"""


def figures(runs: Runs, run: str) -> dict:
    """The peaks that are known so far, of a run that may have just begun."""
    if not runs.rundir(run).exists():
        return {}
    return ((runs.document(run)["usage"] or {}).get("peak")) or {}


@recorded
def used(runs: Runs) -> None:
    """A run that used CPU and memory for some seconds."""
    runs.script(WORKS)
    running = runs.start("run", "train.py", "--run-id", "a")
    wait_for(lambda: "cpu" in (peak := figures(runs, "a")) and peak.get("ram", 0) >= 60e6 and runs.output("a"))
    (runs.work / "go").touch()
    assert running.wait(HANG_S) == 0


def test_a_run_shows_what_it_used(used: Runs):
    """In JSON and for people; nothing of it is a metric of the script."""
    document = used.document("a")
    usage = document["usage"]
    assert usage["peak"]["ram"] >= 60e6
    assert usage["peak"]["cpu"] > 1
    assert usage["mean"]["cpu"] <= usage["peak"]["cpu"]
    assert 0 < usage["measured_s"] <= document["elapsed_s"] + 1
    assert usage["energy_wh"] is None  # without a GPU
    of_python = backprop.find_run("a", home=used.home).usage
    assert of_python is not None
    assert of_python._asdict() == usage
    assert list(document["metrics"]) == ["loss"]
    assert "used " in used.call("status", "a").stdout
    assert "RAM" in used.call("status", "a").stdout
    assert json.loads((used.home / "experiments.json").read_text())["a"]["lastLoss"] == document["metrics"]["loss"]


def test_runs_are_found_and_sorted_by_what_they_used(used: Runs):
    """One that was not measured matches nothing, and comes last."""
    used.script("print('short')", "short.py")
    used.call("run", "short.py", "--run-id", "b")
    (used.rundir("b") / "session-1.usage").write_text("")  # it may have taken a second
    used.call("reindex")
    listed = json.loads(used.call("list", "--sort", "sys.peak_ram", "--json").stdout)
    assert [run["id"] for run in listed] == ["a", "b"]
    assert "sys.peak_ram" in used.call("list", "--sort", "sys.peak_ram").stdout
    for condition, found in [("sys.peak_ram>50MB", ["a"]), ("sys.peak_ram>8GB", []), ("sys.mean_cpu>=0", ["a"])]:
        listed = json.loads(used.call("list", "--filter", condition, "--json").stdout)
        assert [run["id"] for run in listed] == found, condition


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--filter", "sys.peak_rma>1GB"), "did you mean sys.peak_ram?"),
        (("--filter", "sys.peak_ram>1XB"), "expected a size such as 800MB or 8GB"),
        (("--filter", "sys.mean_cpu>much"), "expected a number"),
        (("--filter", "sys.peak_ram~8"), "is a number"),
        (("--sort", "sys.peak_rma"), "did you mean sys.peak_ram?"),
    ],
)
def test_a_figure_that_makes_no_sense_is_refused(used: Runs, words: tuple[str, str], message: str):
    done = used.call("list", *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_curves_are_over_time(used: Runs):
    """Beside a metric, too; over steps there are none."""
    shown = used.call("plot", "a", "-y", "loss,sys/cpu", "--width", 60, "--height", 8).stdout
    assert "sys/cpu" in shown
    assert "seconds of training" in shown
    refused = used.call("plot", "a", "-y", "sys/cpu", "-x", "step")
    assert refused.returncode == 2
    assert "-x time" in refused.stderr
    assert "sys/cpu" not in used.call("plot", "a", "--width", 60, "--height", 8).stdout
    assert "sys/ram" in used.call("plot", "a", "-y", "sys/gpu_util").stderr  # what there is instead


def test_compare_shows_it_without_a_star(used: Runs):
    used.call("run", "train.py", "--run-id", "b")
    table = used.call("compare", "a", "b").stdout
    section = table.partition("USED")[2]
    assert "RAM, peak" in section
    assert "*" not in section
    document = json.loads(used.call("compare", "a", "b", "--json").stdout)
    assert document["runs"][0]["usage"]["peak"]["ram"] >= 60e6
    assert "sys/ram" not in document["best_runs"]
    rows = list(csv.DictReader(used.call("compare", "a", "b", "--csv").stdout.splitlines()))
    assert float(rows[0]["sys.peak_ram"]) >= 60e6


def test_exports_have_the_points(used: Runs):
    """With the second of training in the place of a step."""
    rows = list(csv.DictReader(used.call("export", "a", "--to", "csv", "-").stdout.splitlines()))
    ram = [row for row in rows if row["metric"] == "sys/ram"]
    assert max(float(row["value"]) for row in ram) >= 60e6
    assert all(int(row["step"]) == int(float(row["time_s"])) for row in ram)


def test_reindex_rebuilds_it(used: Runs):
    before = used.document("a")["usage"]
    (used.home / "index.db").unlink()
    used.call("reindex")
    assert used.document("a")["usage"] == before


def test_a_run_without_the_file_has_none(used: Runs):
    """As those of older versions."""
    (used.rundir("a") / "session-1.usage").unlink()
    used.call("reindex")
    assert used.document("a")["usage"] is None
    assert "used " not in used.call("status", "a").stdout
    assert used.call("compare", "a", "a").returncode == 2


def test_a_metric_of_the_script_of_that_name_is_its_own(runs: Runs):
    runs.script("""
        while not os.path.exists("go"):
            print(json.dumps({"step": 1, "sys/ram": 42.0}), flush=True)
            time.sleep(0.1)
    """)
    running = runs.start("run", "train.py", "--run-id", "a")
    wait_for(lambda: "cpu" in figures(runs, "a") and runs.output("a"))
    (runs.work / "go").touch()
    assert running.wait(HANG_S) == 0
    document = runs.document("a")
    assert document["metrics"] == {"sys/ram": 42.0}
    assert document["usage"]["peak"]["ram"] > 1e6
    rows = list(csv.DictReader(runs.call("export", "a", "--to", "csv", "-").stdout.splitlines()))
    assert {row["value"] for row in rows if row["metric"] == "sys/ram"} == {"42.0"}


def test_what_a_run_used_of_its_gpu(runs: Runs, tmp_path):
    """Utilization, memory of the run and of others, power, energy, temperature, and why it was throttled."""
    machine = Machine(runs, tmp_path)
    throttled = {"clocks_throttle_reasons.active": "0x0000000000000024"}
    machine.card(0, **{"utilization.gpu": 40, "power.draw": 300, **throttled})
    runs.script("""
        while not os.path.exists("go"):
            time.sleep(0.05)
    """)
    running = runs.start("run", "train.py", "--run-id", "a")
    wait_for((runs.rundir("a") / "journal.jsonl").exists)
    machine.holds(os.getpid(), 500)  # first: a look between the two ends the wait
    machine.holds(trainer_pid(runs, "a"), 3000)
    wait_for(lambda: figures(runs, "a").get("vram"))
    (runs.work / "go").touch()
    assert running.wait(HANG_S) == 0
    usage = runs.document("a")["usage"]
    assert usage["peak"]["vram"] == pytest.approx(3000 * 1.048576e6, abs=1e6)
    assert usage["peak"]["vram_others"] == pytest.approx(500 * 1.048576e6, abs=1e6)
    assert usage["mean"]["gpu_util"] == 40
    assert usage["mean"]["gpu_power"] == 300
    assert usage["energy_wh"] > 0
    assert usage["mean"]["gpu_throttle_thermal"] == 100
    assert usage["mean"]["gpu_throttle_power"] == 100
    assert usage["mean"]["gpu_throttle_hardware"] == 0
    assert "throttled by heat 100 % of the time" in runs.call("status", "a").stdout
    listed = runs.call("list", "--sort", "sys.peak_vram").stdout
    assert "3.1 GB" in listed
    assert usage["peak"]["vram_total"] == pytest.approx(80_000 * 1.048576e6, abs=1e6)
