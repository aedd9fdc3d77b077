"""plot: curves in the terminal and in files."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

from tests.cli.test_look import in_terminal
from tests.conftest import Runs, recorded

SCRIPT = """
for step in range(1, 101):
    loss = float(sys.argv[1]) / step
    print(json.dumps({"step": step, "loss": float("nan") if 40 < step < 60 else loss, "lr": 0.1}))
    if step % 10 == 0:
        print(json.dumps({"step": step, "val_loss": loss * 2}))
"""


@recorded
def two(runs: Runs) -> None:
    """Runs a and b with loss, val_loss and lr; in the middle the loss is NaN."""
    runs.script(SCRIPT)
    for run_id, height in (("a", "2"), ("b", "4")):
        runs.call("run", "train.py", "--run-id", run_id, "-n", f"run {run_id}", "--", height)


def test_plot_draws_the_loss_and_its_twin(two: Runs):
    """A panel each, one below the other; the run is the title."""
    text = two.call("plot", "a").stdout
    lines = text.splitlines()
    assert lines[0] == "run a (a)"
    assert lines.index("loss") < lines.index("val_loss")
    assert "lr" not in lines
    assert "step" in text
    assert "19 values are not finite, from step 41 to step 59" in text


def test_plot_draws_what_was_asked_for(two: Runs):
    """Metrics by -y, together or one after the other; time by -x; a logarithmic scale; smoothed."""
    lines = two.call("plot", "a", "b", "-y", "lr,val_loss", "-y", "loss", "--log", "--smooth", "5").stdout.splitlines()
    titles = [line for line in lines if line.endswith("(smoothed 5, logarithmic)")]
    assert [title.split()[0] for title in titles] == ["lr", "val_loss", "loss"]
    assert lines[0] == "a run a (a)  b run b (b)"
    assert "of training" in two.call("plot", "a", "-x", "time").stdout


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_plot_fits_into_the_terminal(two: Runs, columns: int):
    """Curves in colour, no line wider than it."""
    shown = in_terminal(two, "plot", "a", "b", columns=columns)
    assert "\x1b[38;5;33m" in shown
    assert all(len(line) <= columns for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines())
    two.environment["NO_COLOR"] = "1"
    assert "\x1b" not in in_terminal(two, "plot", "a", "b", columns=columns)


def test_a_piped_plot_has_the_size_it_was_asked_for(two: Runs):
    """80 by 20 unless told; plain text."""
    text = two.call("plot", "a", "-y", "lr", "--width", "50", "--height", "9").stdout
    frame = [line for line in text.splitlines() if "│" in line or "┤" in line or "┌" in line]
    assert all(len(line) == 50 for line in frame)
    assert len(frame) == 9 - 3  # title of the axis, its ticks and its line
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-y", "los"], "Available: loss, lr, val_loss"),
        (["--smooth", "1.5"], "a whole number of points"),
        (["-o", "a.gif"], ".png, .svg, .html"),
        (["-o", "no/such/folder/a.html"], "cannot write"),
        (["-x", "epoch"], "'step', 'time'"),
    ],
)
def test_what_cannot_be_drawn_is_said(two: Runs, words: list[str], told: str):
    """Exit code 2 and one line."""
    done = two.call("plot", "a", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_run_without_metrics_is_told_from_a_typo(runs: Runs):
    """It says how metrics are reported."""
    runs.script("")
    runs.call("run", "train.py")
    done = runs.call("plot", "last")
    assert done.returncode == 2
    assert "no metrics to plot" in done.stderr


def test_pictures_are_real_files(two: Runs):
    """PNG of the size that was asked for, SVG that parses and holds its texts as text."""
    assert two.call("plot", "a", "b", "-o", "p.png", "--width", "640", "--height", "300").returncode == 0
    data = (two.work / "p.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (640, 600)  # two panels
    assert two.call("plot", "a", "b", "-o", "p.svg", "--smooth", "0.5").returncode == 0
    texts = {element.text for element in ET.parse(two.work / "p.svg").iter("{http://www.w3.org/2000/svg}text")}
    assert {"run a (a)", "run b (b)", "loss (smoothed 0.5)"} <= texts


def test_without_matplotlib_one_line_says_what_to_install(two: Runs):
    """And into which environment; other plots go on working."""
    (two.work / "matplotlib.py").write_text("raise ModuleNotFoundError('gone', name='matplotlib')")
    done = two.call("plot", "a", "-o", "p.png", PYTHONPATH=str(two.work))
    assert done.returncode == 2
    assert "pip install 'backprop-cli[plot]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert two.call("plot", "a", "-o", "p.html", PYTHONPATH=str(two.work)).returncode == 0


def test_a_page_asks_nothing_of_any_network(two: Runs):
    """One file: its policy forbids all requests, and nothing in it is loaded from elsewhere."""
    assert two.call("plot", "a", "b", "-o", "p.html").returncode == 0
    text = (two.work / "p.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"<(script|img|iframe)[^>]+src=|<link|@import|\bfetch\(", text)
    found = re.search(r'<script type="application/json" id="plot">(.*?)</script>', text, re.DOTALL)
    assert found
    document = json.loads(found[1])
    assert document["runs"] == ["run a (a)", "run b (b)"]
    assert [panel["title"] for panel in document["panels"]] == ["loss", "val_loss"]
    ys = document["panels"][0]["lines"][0]["ys"]
    assert (len(ys), ys.count(None)) == (100, 19)


def test_plot_prints_the_points(two: Runs):
    """As JSON, for programs: so many of all curves together, with the extremes of each stretch."""
    document = json.loads(two.call("plot", "a", "b", "-y", "loss,lr", "--json", "--points", "40").stdout)
    assert document["axis"] == "step"
    assert [(curve["metric"], curve["run"], curve["reduced"]) for curve in document["curves"]] == [
        ("loss", "a", True),
        ("loss", "b", True),
        ("lr", "a", True),
        ("lr", "b", True),
    ]
    assert all(3 <= len(curve["points"]) <= 16 for curve in document["curves"])
    loss = document["curves"][0]["points"]
    assert (loss[0], loss[-1]) == ([1, 2], [100, 0.02])
    assert "NaN" in [y for _, y in loss]
    whole = json.loads(two.call("plot", "a", "--json", "--points", "1000").stdout)["curves"]
    assert [(curve["metric"], len(curve["points"]), curve["reduced"]) for curve in whole] == [
        ("loss", 100, False),
        ("val_loss", 10, False),
    ]
    assert whole[0]["points"][2] == [3, 0.666667]
    done = two.call("plot", "a", "--json", "-o", "a.png")
    assert (done.returncode, "leave -o/--output out" in done.stderr) == (2, True)
