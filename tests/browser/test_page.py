"""The page of `backprop ui`, as a person uses it."""

import json
import re
from pathlib import Path

from bench import archive
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from backprop.store.home import Home
from backprop.views.web.login_redirect import LoginRedirect
from tests.browser.conftest import Page, Training, Ui
from tests.conftest import HANG_S, Runs, wait_for


def test_an_empty_home_says_what_to_type(page: Page, served: Ui):
    """Who has no runs yet reads how to start one; the token does not stay in the address."""
    page.open(served.address)
    assert "backprop run train.py" in page.text("#empty")
    assert "token" not in page.driver.current_url


def test_without_the_token_there_is_nothing(page: Page, served: Ui, training: Training):
    """No token, no page and no data: one sentence says how to get in."""
    training.ended("secret", 1.0)
    page.open(served.without_token)
    said = page.text("#banner")
    assert "token" in said
    assert "backprop ui" in said
    page.open(f"{served.without_token}api/runs")
    assert "secret" not in page.text("body")


def test_a_file_of_ones_own_leads_in(page: Page, served: Ui, tmp_path: Path):
    """So a browser is opened without the token in its command line; it stays in from the first page on."""
    way_in = LoginRedirect(tmp_path, served.address)
    page.open(way_in.url)
    page.until(lambda: page.text("#link") == "live")
    assert page.driver.current_url.startswith(served.without_token)
    way_in.close()


def test_runs_are_searched_filtered_and_sorted(page: Page, served: Ui, training: Training):
    """The words in the two fields and a click on a head say which runs are shown, and in which order."""
    for name, lr in (("red", 3.0), ("green", 1.0), ("blue", 2.0)):
        training.ended(name, lr)
    page.open(served.address)
    page.until(lambda: page.names() == ["blue", "green", "red"])
    assert page.text("#count") == "3 runs"

    page.write("#search", "gre")
    page.until(lambda: page.names() == ["green"])
    assert page.text("#count") == "1 of 3 runs"
    page.write("#search", "")
    page.write("#filter", "lr>1.5 status=completed")
    page.until(lambda: page.names() == ["blue", "red"])

    page.write("#filter", "lr>")
    page.until(lambda: page.text("#filter-problem") != "")
    assert page.names() == []  # no rows that answer another filter
    page.write("#filter", "")
    page.until(lambda: page.all("#filter-problem") == [])

    page.click(".head .c-last button", "loss")
    page.until(lambda: page.names() == ["green", "blue", "red"])
    page.click(".head .c-last button")
    page.until(lambda: page.names() == ["red", "blue", "green"])
    head = "document.querySelector('.head .c-best button')"
    assert page.js(f"{head}.tabIndex") == 0  # Tab leads there
    page.js(f"{head}.focus()")
    page.press(Keys.ENTER)
    page.until(lambda: page.names() == ["green", "blue", "red"])


def test_a_wrong_filter_is_asked_about_once(page: Page, served: Ui, training: Training):
    """What the server does not understand is not asked again until it is another question."""
    training.ended("only", 1.0)
    page.open(served.address)
    page.until(lambda: page.names() == ["only"])
    page.requests()
    page.write("#filter", "lr>")
    page.until(lambda: page.text("#filter-problem") != "")
    training.ended("later", 1.0)  # a change of the table, too, asks for nothing
    asked = [url for url in page.requests() if "/api/runs?" in url and "filter=lr%3E&" in url]
    assert len(asked) == 1
    page.write("#filter", "")
    page.until(lambda: page.names() == ["later", "only"])


def test_the_log_of_a_failed_run_begins_with_its_traceback(page: Page, served: Ui, runs: Runs):
    """That is on stderr; one that failed without a word there shows its stdout."""
    script = runs.script("""
        print("begun", flush=True)
        if sys.argv[1] == "loud":
            raise RuntimeError("no such data")
        os._exit(3)
    """)
    for name in ("loud", "mute"):
        assert runs.call("run", "-n", name, script, "--", name).returncode != 0
    page.open(served.address)
    page.until(lambda: page.names() == ["mute", "loud"])
    page.open_run("loud")
    page.until(lambda: "RuntimeError: no such data" in page.text("pre.log"))
    page.press(Keys.ESCAPE)
    page.open_run("mute")
    page.until(lambda: page.text("pre.log") == "begun")


def test_a_run_that_never_was_is_not_said_to_be_removed(page: Page, served: Ui):
    """An address with a typo."""
    page.open(served.address)
    page.until(lambda: page.text("#link") == "live")
    page.js("location.hash = '#/run/nope'")
    page.until(lambda: "there is no run 'nope'" in page.text("#run-view"))


# connects when the test lets it, as on a busy machine
LATE_EVENTS = """
const Now = window.EventSource;
window.EventSource = class extends EventTarget {
  constructor(address) {
    super();
    const open = () => {
      if (!window.mayConnect) return setTimeout(open, 20);
      this.source = new Now(address);
      for (const name of ["open", "rows", "table", "machine", "curve", "run", "log", "trouble", "told", "error"])
        this.source.addEventListener(name, (event) => {
          this.dispatchEvent(new MessageEvent(name, { data: event.data }));
        });
    };
    open();
  }
  close() { this.source?.close(); }
};
"""


def test_a_run_that_starts_before_the_page_has_connected_is_shown(page: Page, served: Ui, training: Training):
    """Between the first rows and the first event: it is in neither."""
    added = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": LATE_EVENTS})
    try:
        page.open(served.address)
        page.one("#empty")
    finally:  # the browser is used by other tests, too
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    training.going_on("live")
    page.js("window.mayConnect = true")
    page.until(lambda: page.status("live") == "running")


def test_a_run_is_watched_stopped_and_resumed(page: Page, served: Ui, training: Training):
    """A running run's curve grows by itself; its buttons stop it, after asking, and resume it."""
    page.open(served.address)
    page.one("#empty")
    training.going_on("live")
    page.until(lambda: page.status("live") == "running")
    page.click(".rows .row input")
    seen = page.until(page.points)
    page.until(lambda: page.points() > seen)

    page.open_run("live")
    page.until(lambda: '"step"' in page.text("pre.log"))
    page.click("button.stop")
    assert "latest valid checkpoint" in page.text("dialog")
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all("dialog"))
    seen = page.points()
    page.until(lambda: page.points() > seen + 20)
    assert page.text("#run-view h1 ~ .status") == "running"
    assert page.all(".toast") == []
    page.click("button.stop")
    page.click("dialog button.main")
    page.until(lambda: page.text("#run-view h1 ~ .status") == "stopped")
    assert page.text(".reason") != ""

    page.click("button.resume")
    page.write("dialog input", "5")
    page.press(Keys.ENTER)
    page.until(lambda: page.text("#run-view h1 ~ .status") == "running")
    assert page.text(".run-head .times").endswith(("/ 5 min", "/ 300 s"))  # in seconds during the first minute


def test_a_run_is_paused_and_goes_on(page: Page, served: Ui, training: Training, runs: Runs):
    """Pause stops it in place; Go on lets it train further, in the same session."""
    run_id = training.going_on("live")
    page.open(f"{served.address}#/")
    page.until(lambda: page.status("live") == "running")
    page.open_run("live")
    page.click("button.pause")
    page.until(lambda: page.text("#run-view h1 ~ .status") == "paused")
    page.click("button.resume")
    page.until(lambda: page.text("#run-view h1 ~ .status") == "running")
    assert len(runs.document(run_id)["sessions"]) == 1


def test_a_run_is_killed(page: Page, served: Ui, training: Training):
    """Kill ends it at once, after saying what is lost."""
    training.going_on("live")
    page.open(served.address)
    page.until(lambda: page.status("live") == "running")
    page.open_run("live")
    page.click("button.kill")
    assert "without time to save" in page.text("dialog")
    page.press(Keys.ENTER)
    page.until(lambda: page.text("#run-view h1 ~ .status") == "stopped")


def test_curves_zoom_and_log_scale(page: Page, served: Ui, training: Training):
    """Dragging shows a part at full resolution, a double click resets the zoom; a log scale has other labels."""
    training.ended("long", 1000.0, steps=4000)
    page.open(served.address)
    page.until(lambda: page.points() == 4000)
    page.requests()  # from here on
    over = page.one(".u-over")
    ActionChains(page.driver).drag_and_drop_by_offset(over, 120, 0).perform()
    page.until(lambda: page.js("document.querySelector('#curves').dataset.zoomed") == "yes")
    asked = page.until(lambda: [url for url in page.requests() if "/api/curves" in url])
    assert "begin=" in asked[0]
    page.one("button.reset-zoom")
    ActionChains(page.driver).double_click(page.one(".u-over")).perform()
    page.until(lambda: page.js("document.querySelector('#curves').dataset.zoomed") == "no")

    canvas = "document.querySelector('.plot canvas').toDataURL()"
    before = page.js(canvas)
    page.click("input.log-scale")
    page.until(lambda: page.js(canvas) != before)
    assert "log=1" in page.driver.current_url


def test_a_link_shows_the_same_and_back_goes_back(page: Page, served: Ui, training: Training):
    """Chosen runs, filter, metric and axis are in the address; Back goes from a run to the table as it was."""
    for name, lr in (("red", 3.0), ("green", 1.0)):
        training.ended(name, lr)
    page.open(served.address)
    page.until(lambda: page.points() == 60)
    page.open(f"{served.without_token}#/?filter=lr>2&metric=acc&axis=time&log=1&smooth=0.5")
    page.driver.refresh()
    page.until(lambda: page.names() == ["red"])
    assert page.js("document.querySelector('#filter').value") == "lr>2"
    page.until(lambda: page.js("document.querySelector('select.metric').value") == "acc")
    assert page.js("document.querySelector('select.axis').value") == "time"
    page.open_run("red")
    page.driver.back()
    page.until(lambda: page.names() == ["red"])
    assert page.js("document.querySelector('#run-view').hidden")

    page.open(f"{served.without_token}#/run/nobody")
    page.until(lambda: "nobody" in page.text("#run-view"))


def test_what_a_run_used_is_beside_its_metrics(page: Page, served: Ui, runs: Runs):
    """After the metrics, over time whatever the axis of those is; and its figures among the facts."""
    script = runs.script('print(json.dumps({"step": 1, "loss": 0.5}))')
    assert runs.call("run", "-n", "measured", "--run-id", "r", script).returncode == 0
    runs.set_usage("r", '{"since":0,"until":2,"count":2,"values":{"cpu":[100,50],"ram":5}}\n')
    page.open(served.address)
    page.until(lambda: page.names() == ["measured"])
    page.open_run("measured")
    labels = "[...document.querySelectorAll('#run-view .plot')].map((plot) => plot.getAttribute('aria-label'))"
    page.until(lambda: len(page.js(labels)) == 3)
    page.until(
        lambda: (page.js(labels)[1] or "").startswith("sys/cpu by time: last measured 50")
    )  # none until it is drawn
    assert [label.partition(":")[0] for label in page.js(labels)] == [
        "loss by step",
        "sys/cpu by time",
        "sys/ram by time",
    ]
    assert "CPU 75 % (peak 100 %)" in page.text("#run-view .facts")


def test_a_value_that_is_no_number_is_a_gap_with_a_mark(page: Page, served: Ui, runs: Runs):
    """A loss that becomes NaN is said so, in the table and at its curve."""
    script = runs.script("""
        for step in range(1, 21):
            print(json.dumps({"step": step, "loss": float("nan") if step > 10 else 1 / step}))
    """)
    assert runs.call("run", "-n", "diverged", script).returncode == 0
    page.open(served.address)
    page.until(lambda: page.names() == ["diverged"])
    assert page.text(".rows .c-last") == "NaN"
    page.until(lambda: "NaN" in page.text(".legend li"))


def test_a_hostile_run_is_only_text(page: Page, served: Ui, runs: Runs):
    """Markup, escapes, newlines, a megabyte and marks that turn text around are shown, and do nothing."""
    hostile = "<img src=x onerror=alert(1)><script>alert(1)</script>\u202etxt.exe\x1b[31m\nnext"
    script = runs.script(f"""
        hostile = {hostile!r}
        print(json.dumps({{"event": "params", "params": {{hostile: hostile, "long": "x" * 900_000}}}}))
        print(json.dumps({{"step": 1, "loss": 1.0, hostile: 2.0, "m" * 5000: 3.0}}))
        print(json.dumps({{"event": hostile, "text": hostile}}))
        print(hostile, "y" * 1_000_000)
    """)
    assert runs.call("run", script, "--", hostile).returncode == 0
    run_json = runs.rundir(runs.only_id()) / "run.json"
    spec = json.loads(run_json.read_text())
    run_json.write_text(json.dumps({**spec, "name": hostile + "n" * 1_000_000}))  # as it may come from elsewhere
    assert runs.call("reindex").returncode == 0
    page.open(served.address)
    page.until(lambda: page.names() and page.names()[0].startswith("<img src=x onerror=alert(1)>"))
    assert "\\u202etxt.exe\\x1b[31m\\nnext" in page.names()[0]
    page.click(".rows .name-text")
    page.until(lambda: "\\x1b[31m" in page.text("pre.log") or "yyy" in page.text("pre.log"))
    page.until(lambda: any(text.startswith("<img") for text in page.texts(".chart figcaption bdi")))
    assert page.all("main img, main script") == []
    assert page.js("document.documentElement.scrollWidth <= innerWidth")
    head = page.one(".run-head").size
    assert head["height"] < 200


def test_everything_can_be_done_with_the_keyboard(page: Page, served: Ui, training: Training):
    """Search, walk, choose, open, stop and go back without a mouse; the focus can be seen."""
    for name in ("first", "second"):
        training.ended(name, 1.0)
    training.going_on("live")
    page.open(f"{served.address}#/?runs=")
    page.until(lambda: page.names() == ["live", "second", "first"])
    page.press("?")
    assert "search" in page.text("dialog")
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all("dialog"))

    page.press("/", Keys.ESCAPE, "j", "k")
    assert page.js("document.querySelector('#search').value") == ""
    page.press("/", "second", Keys.ENTER)
    page.until(lambda: page.names() == ["second"])
    page.until(lambda: page.js("document.activeElement.id") == "grid")
    assert page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("/", Keys.DELETE, Keys.ENTER)
    page.until(lambda: page.names() == ["live", "second", "first"])

    page.press("j", Keys.ARROW_DOWN, "k", "x")
    page.until(lambda: page.texts(".legend bdi") == ["second"])
    page.press("x")
    page.until(lambda: page.texts(".legend bdi") == [])
    page.press(Keys.ENTER)
    page.until(lambda: page.text("#run-view h1") == "second")
    page.press(Keys.ESCAPE)
    page.until(lambda: page.names() == ["live", "second", "first"])

    page.press(Keys.HOME, "s")
    page.one("dialog")
    page.press(Keys.ENTER)
    page.until(lambda: page.status("live") == "stopped")


def test_a_long_table_scrolls(page: Page, runs: Runs):
    """It holds only what is in sight, and the last of very many runs is there when the bar is at the end."""
    archive.fill(Home(runs.home), 3000)
    ui = Ui(runs)
    page.open(ui.address)
    page.until(lambda: page.text("#count") == "3,000 runs")
    page.until(lambda: "r0002999" in page.names())
    page.js("document.querySelector('#grid').scrollTo(0, 1e9)")
    page.until(lambda: "trial-0" in page.names())
    assert len(page.names()) < 60
    page.one("#grid").send_keys(Keys.HOME)
    page.until(lambda: "r0002999" in page.names())


def test_a_narrow_window_has_no_sideways_scroll(page: Page, served: Ui, training: Training):
    """At 360 pixels columns drop and curves stack; nothing sticks out, on both screens."""
    training.ended("narrow", 1.0)
    page.resize(360, 740)
    page.open(served.address)
    page.until(lambda: page.points() == 30)
    assert page.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.js("document.querySelector('#grid').scrollWidth <= document.querySelector('#grid').clientWidth")
    page.open_run("narrow")
    page.until(lambda: page.points() >= 60)  # and what was measured of a run that took a second
    assert page.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_dark_follows_the_system_until_told_otherwise(page: Page, served: Ui):
    """Colours are the system's; the button chooses, and the choice outlives the page."""
    page.prefer("dark")
    page.open(served.address)
    page.one("#empty")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.js(ground)
    page.prefer("light")
    page.until(lambda: page.js(ground) != dark)
    while page.text("#theme") != "Dark":
        page.click("#theme")
    assert page.js(ground) == dark
    page.driver.refresh()
    page.one("#empty")
    assert page.js(ground) == dark


def test_a_lost_connection_is_said_and_found_again(page: Page, served: Ui, training: Training):
    """Without the network the page says so, keeps what it shows, and goes on by itself when there is one again."""
    training.ended("kept", 1.0)
    page.open(f"{served.address}#/?runs=")
    page.until(lambda: page.names() == ["kept"])
    page.until(lambda: page.text("#link") == "live")
    page.unplug(is_out=True)
    page.press("x")  # it wants to hear of something else
    page.until(lambda: "lost" in "".join(page.texts("#banner")))
    assert page.names() == ["kept"]
    training.ended("later", 1.0)
    page.unplug(is_out=False)
    page.until(lambda: page.names() == ["later", "kept"])
    page.until(lambda: page.texts("#banner") == [])
    page.until(lambda: page.points() == 30)


def test_a_server_that_was_started_anew_is_said(page: Page, served: Ui, runs: Runs):
    """An old page has no token for a new server: it says which address to open."""
    page.open(served.address)
    page.until(lambda: page.text("#link") == "live")
    served.end()
    page.until(lambda: "lost" in "".join(page.texts("#banner")))
    Ui(runs, served.port)
    page.until(lambda: "address that it printed" in "".join(page.texts("#banner")))


def test_the_machine_is_shown(page: Page, served: Ui, training: Training, runs: Runs):
    """Memory, disk, load and slots; and who waits, with what for."""
    training.going_on("live")
    waiting = runs.start("run", "-p", "1", "-n", "waiting", runs.work / "train.py", "--", "1", "10", "0")
    wait_for(lambda: json.loads(runs.call("status", "--json").stdout)["queue"])
    page.open(served.address)
    page.until(lambda: page.status("waiting") == "queued")
    values = page.until(lambda: dict(zip(page.texts(".gauge .label"), page.texts(".gauge .value"), strict=True)))
    assert {"Slots", "Load", "RAM", "Disk"} <= set(values)
    assert re.fullmatch(r"(full: )?[\d.]+ GB of [\d.]+ GB", values["RAM"])  # used, as its bar
    page.until(
        lambda: "live" in "".join(page.texts(".queue li"))
    )  # what for is known a little later than that it waits
    (queued,) = page.texts(".queue li")
    assert queued.startswith("waiting queued for")
    waiting.terminate()
    waiting.wait(HANG_S)
