"""The JavaScript of the page and of plots: lines that fit on a screen, and third-party files as they were released."""

import hashlib
import re
from pathlib import Path

from backprop import views
from backprop.views.plots import html_page

STATIC = Path(views.__file__).parent / "web" / "static"
MAX_LINE = 120


def test_no_line_of_our_javascript_is_too_long():
    """As in Python; what the page of a plot does is in its template."""
    texts = [path.read_text() for path in STATIC.glob("*.js")]
    texts.append(html_page._TEMPLATE_PATH.read_text().partition('<script type="module">')[2])
    assert len(texts) > 10
    assert [line for text in texts for line in text.splitlines() if len(line) > MAX_LINE] == []


def test_third_party_files_are_those_of_the_release():
    """Each file is listed with the checksum that it has, and nothing else is there but the list and the licence."""
    folder = STATIC / "vendor"
    listed = dict(
        re.findall(r"^\| (\S+) \| dist/\S+ \| ([0-9a-f]{64}) \|$", (folder / "VENDORED.md").read_text(), re.MULTILINE)
    )
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert set(found) == {*listed, "VENDORED.md", "uPlot.LICENSE"}
    assert listed.items() <= found.items()
