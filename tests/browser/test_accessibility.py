"""Every view of the page, checked by axe-core: names, roles, contrast, headings, what the keyboard reaches."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.conftest import WIDE, Page, Ui
from tests.conftest import Runs

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
FOUND = """
    const done = arguments[arguments.length - 1];
    axe.run().then(({ violations }) => done(violations.flatMap(({ id, impact, nodes }) =>
        nodes.map((node) => `${impact} ${id}: ${node.html.slice(0, 200)} ${node.failureSummary.slice(0, 300)}`))));
"""
DRAWN = "document.querySelector('#curves').dataset.points > 0"
# name -> address, and what is there once it is drawn
VIEWS = {
    "runs": ("#/", DRAWN),
    "all metrics": ("#/?metric=*", "document.querySelectorAll('#curves .chart').length > 1"),
    "groups": (
        "#/?by=group&band=group%3D%22g%22&runs=",
        "document.querySelector('#groups tbody tr') && document.querySelector('.legend li')",
    ),
    "scatter plot": ("#/?view=scatter", "document.querySelector('#explore').dataset.drawn > 1"),
    "parallel coordinates": ("#/?view=parallel", "document.querySelector('#explore').dataset.drawn > 1"),
    "run": ("#/run/r1?axis=time", "document.querySelectorAll('#run-view .chart').length > 3"),
    "comparison": ("#/compare?runs=r1,r2,r3&all=1", "document.querySelector('.patch .added')"),
    "nothing to compare": ("#/compare?runs=r1", "document.querySelector('#compare-view div:not([hidden]) > .hint')"),
    "wrong filter": ("#/?filter=lr%3E", "document.querySelector('#filter-problem:not([hidden])')"),
}
SIZES = {"wide": WIDE, "narrow": (360, 740)}


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """The page of runs that differ, in a group, with uncommitted changes, what they used, and one that failed."""
    runs = Runs(tmp_path_factory.mktemp("home"))
    script = runs.script("""
        lr = float(sys.argv[1])
        print(json.dumps({"event": "params", "params": {"lr": lr, "note": "n" * 500 + sys.argv[1]}}))
        for step in range(1, 31):
            print(json.dumps({"step": step, "loss": lr / step, "acc": 1 - 1 / step}))
        print(json.dumps({"event": "checkpoint_saved", "path": __file__, "step": 30}))
        print(json.dumps({"event": "remark", "text": "a note"}))
    """)
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *words], cwd=runs.work, check=True)
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, "commit", "-qm", "first"], cwd=runs.work, check=True)
    for number in range(1, 4):
        script.write_text(f"{script.read_text()}\nrate{number} = {number}\n")
        named = ["-n", f"run {number}", "--run-id", f"r{number}", "--group", "g", "--tag", "t"]
        assert runs.call("run", *named, script, "--", number).returncode == 0
        runs.set_usage(f"r{number}", '{"since":0,"until":2,"count":2,"values":{"cpu":[100,50],"ram":5}}\n')
    assert runs.call("run", "-n", "failed", script, "--", "no number").returncode == 1
    yield Ui(runs)
    runs.clean_up()


def violations(page: Page) -> list[str]:
    page.driver.execute_script(AXE.read_text())
    return page.driver.execute_async_script(FOUND)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing(page: Page, ui: Ui, scheme: str, size: str):
    """In no view, light or dark, wide or narrow."""
    page.prefer(scheme)
    page.resize(*SIZES[size])
    for name, (address, drawn) in VIEWS.items():
        page.open("about:blank")
        page.open(ui.address + address)
        page.until(lambda drawn=drawn: page.js(f"Boolean({drawn})"))
        page.until(lambda: page.text("#link") == "live")
        assert violations(page) == [], name


def test_axe_finds_nothing_in_dialogs(page: Page, ui: Ui):
    """Of columns, of keys, and before something is done."""
    page.open(ui.address)
    page.until(lambda: page.js(DRAWN))
    for button in ("#columns", "#help", "#selection .danger"):
        page.click(button)
        page.one("dialog")
        assert violations(page) == [], button
        page.js("document.querySelector('dialog').close()")
        page.until(lambda: not page.all("dialog"))


def test_axe_would_find_something(page: Page, ui: Ui):
    """It runs, and sees the page: a button without a name, and text that cannot be read, are found."""
    page.open(ui.address)
    page.until(lambda: page.js(DRAWN))
    page.js("document.querySelector('#columns').replaceChildren()")
    page.js("document.querySelector('#count').style.color = '#eee'")
    found = violations(page)
    assert any("button-name" in text for text in found)
    assert any("color-contrast" in text for text in found)


def test_axe_finds_nothing_where_nothing_was_printed(page: Page, served: Ui, runs: Runs):
    """The log has its name without text, too."""
    assert runs.call("run", "-n", "silent", runs.script("pass")).returncode == 0
    page.open(served.address)
    page.until(lambda: page.names() == ["silent"])
    page.open_run("silent")
    page.until(lambda: page.text("#link") == "live")
    assert page.js("document.querySelector('pre.log').textContent") == ""
    assert violations(page) == []
