"""A run whose name, parameters and metrics are an attack is shown as text, wherever it is shown."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from backprop.views.terminal.screen import cells
from tests.cli.test_look import in_terminal
from tests.conftest import HANG_S, Runs, recorded

EVIL = "\x1b]0;pwned\x07\x1b[2J</script><img src=x onerror=alert(1)>{{uplot_js}}$x^$\r\n\u202eabc"
FORMULA = "=cmd|'/C calc'!A0"
OWN_STYLE = re.compile(r"\x1b\[[0-9;]*m")


@recorded
def hostile(runs: Runs) -> None:
    """Runs a and b, called and measured with all that is bad, a megabyte of it."""
    script = """
    evil = json.loads(os.environ["EVIL"])
    long = evil + "y" * 400_000
    print(json.dumps({"event": "params", "params": {evil: evil, "f": json.loads(os.environ["FORMULA"]), long: len(sys.argv)}}))
    for step in range(30):
        print(json.dumps({"step": step, "loss": 1 / (step + 1), evil: step, "=1+1": step}))
    print(json.dumps({"step": 31, long: 1}))
    """
    runs.script(script)
    runs.environment |= {"EVIL": json.dumps(EVIL), "FORMULA": json.dumps(FORMULA)}
    for number, run_id in enumerate("ab"):
        runs.call("run", "train.py", "--run-id", run_id, "--", *["x"] * number)
        path = runs.rundir(run_id) / "run.json"
        # no command takes such a name, but a record may come from anywhere
        path.write_text(json.dumps({**json.loads(path.read_text()), "name": EVIL + "x" * 1_000_000}))
    assert runs.call("reindex").returncode == 0


@pytest.mark.parametrize("words", [["list"], ["resume", "a", "--dry-run"], ["compare", "a", "b"], ["compare", "a", "b", "--all"], ["status", "a"], ["plot", "a", "b"], ["plot", "a", "-y", EVIL]])  # fmt: skip
def test_a_terminal_obeys_nothing_of_it(hostile: Runs, words: list[str]):
    """Only our own colours; lines that fit, but for whole words of `status`."""
    shown = OWN_STYLE.sub("", in_terminal(hostile, *words, columns=100))
    assert shown.replace("\n", "").isprintable()
    if words[0] not in {"status", "resume"}:
        assert all(cells(line) <= 100 for line in shown.splitlines())


def test_what_a_trainer_wrote_is_text_in_a_terminal(runs: Runs):
    """logs, status and what `wait` says of a failure; with --raw it is obeyed. Ends of lines and tabs stay."""
    body = "[1]\tßé\r[2]\r\nend\x1b[31m \x9b2J \udcff \u202e\n"
    runs.environment["EVIL"] = json.dumps(body)
    runs.script(
        """
        for stream in (sys.stdout, sys.stderr):
            stream.buffer.write(json.loads(os.environ["EVIL"]).encode(errors="surrogateescape") * 5000)
            stream.flush()
        raise ValueError(json.loads(os.environ["EVIL"]).encode(errors="replace").decode())
        """
    )
    assert runs.start("run", "train.py", "--run-id", "a").wait(HANG_S) == 1
    shown = body.replace("end\x1b[31m \x9b2J \udcff \u202e", r"end\x1b[31m \x9b2J \xff \u202e") * 5000
    assert in_terminal(runs, "logs", "a", "--stdout", columns=100) == shown  # larger than what is copied at once
    assert "\x1b" not in in_terminal(runs, "logs", "a", columns=100)
    assert "\x1b[31m" in in_terminal(runs, "logs", "a", "--raw", columns=100)
    for told in (runs.call("wait", "a").stderr, in_terminal(runs, "status", "a", columns=100)):
        assert "[31m" in told
        assert told.replace("\n", "").isprintable()


@pytest.mark.parametrize("words", [["list"], ["compare", "a", "b"], ["status", "a"], ["plot", "a", "b"]])
def test_a_pipe_gets_it_as_text(hostile: Runs, words: list[str]):
    """One line a row, every character printable."""
    done = hostile.call(*words)
    assert done.returncode == 0
    assert done.stdout.replace("\n", "").isprintable()
    if words == ["list"]:
        assert len(done.stdout.splitlines()) == 3


def test_a_spreadsheet_computes_nothing(hostile: Runs):
    """Names and values that begin like a formula begin with an apostrophe."""
    text = hostile.call("compare", "a", "b", "--csv").stdout
    csv.field_size_limit(10_000_000)
    rows = list(csv.reader(io.StringIO(text)))
    assert len(rows) == 3
    texts = [cell for row in rows for cell in row if not re.fullmatch(r"-?[0-9.e+-]+|nan|-?inf", cell)]
    assert not [cell for cell in texts if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]
    assert f"'{FORMULA}" in texts


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


def test_a_page_has_no_element_of_theirs(hostile: Runs):
    """The same elements as the page of a harmless run, and the name whole inside."""
    assert hostile.call("plot", "a", "b", "-y", EVIL, "-o", "p.html").returncode == 0
    assert hostile.call("plot", "a", "b", "-y", "loss", "-o", "q.html").returncode == 0
    text = (hostile.work / "p.html").read_text()
    assert Elements(text).found == Elements((hostile.work / "q.html").read_text()).found
    assert "img" not in Elements(text).found
    found = re.search(r'<script type="application/json" id="plot">(.*?)</script>', text, re.DOTALL)
    assert found
    assert "onerror=alert(1)" in json.loads(found[1])["runs"][0]


def test_a_picture_has_it_as_text(hostile: Runs):
    """The SVG is XML that parses, and no formula is set from a dollar sign."""
    done = hostile.call("plot", "a", "b", "-y", EVIL, "-o", "p.svg")
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1
    texts = [
        element.text or "" for element in ET.parse(hostile.work / "p.svg").iter("{http://www.w3.org/2000/svg}text")
    ]
    assert any("</script>" in text for text in texts)


def test_what_we_say_of_it_is_one_line_that_nobody_obeys(runs: Runs):
    """A path that a script reported is in our own lines on stderr, and so is a path that a user typed."""
    path = "c\x1b]0;pwned\x07\nbackprop: all is well\u202e.bin"
    runs.environment["EVIL"] = json.dumps(path)
    runs.script(
        """
        path = json.loads(os.environ["EVIL"])
        open(path, "w").write("x")
        print(json.dumps({"event": "checkpoint_saved", "path": path, "step": 1}))
        """
    )
    assert runs.call("run", "train.py", "--run-id", "a").returncode == 0
    resumed = runs.call("resume", "a", "--again")
    assert "offering" in resumed.stderr
    refused = runs.call("resume", "a", "--again", "-r", f"{path}.gone")
    assert refused.returncode == 2
    for told in (resumed.stderr, refused.stderr):
        assert "pwned" in told
        assert told.replace("\n", "").isprintable()
        assert not [line for line in told.splitlines() if line.startswith("backprop: all is well")]


@pytest.mark.parametrize(
    "words", [["compare", "a", "b", "--csv"], ["export", "a", "--to", "csv", "-"], ["list", "--json"]]
)
def test_data_on_a_terminal_is_text(hostile: Runs, words: list[str]):
    """A pipe gets it as it is."""
    assert in_terminal(hostile, *words, columns=100).replace("\n", "").isprintable()
    assert json.dumps(EVIL)[1:-1] in hostile.call("list", "--json").stdout
    assert "\u202e" in hostile.call("compare", "a", "b", "--csv").stdout
