"""The curves on the page: what is drawn of many runs and metrics, what is zoomed, and who is who."""

import re

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Page, Training, Ui
from tests.conftest import Runs

PIXELS = """((hex) => {
    const canvas = document.querySelector('#run-view .plot canvas');
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 0; at < data.length; at += 4) if (data[at] === r && data[at + 1] === g && data[at + 2] === b) return true;
    return false;
})"""  # whether a colour is in the first chart
ZOOMED = "document.querySelector('#curves').dataset.zoomed"


def test_a_zoom_ends_with_the_selection(page: Page, served: Ui, training: Training):
    """A run that is unticked and ticked again is shown whole, not the part that was zoomed."""
    training.ended("long", 1000.0, steps=4000)
    page.open(served.address)
    page.until(lambda: page.points() == 4000)
    ActionChains(page.driver).drag_and_drop_by_offset(page.one(".u-over"), 120, 0).perform()
    page.until(lambda: page.js(ZOOMED) == "yes" and page.points() < 4000)
    page.click(".rows .row input")
    page.until(lambda: page.js(ZOOMED) == "no")
    page.click(".rows .row input")
    page.until(lambda: page.points() == 4000)


def test_many_runs_with_many_metrics_are_all_there(page: Page, served: Ui, runs: Runs):
    """More curves than the server gives at once: every metric has its chart or is behind "Show more"."""
    script = runs.script("""
        print(json.dumps({"event": "params", "params": {"lr": float(sys.argv[1])}}))
        for step in range(1, 4):
            print(json.dumps({"step": step, "loss": 1 / step, **{f"m{n:02}": n for n in range(14)}}))
    """)
    done = runs.call("run", "-p", "3", "--vary", "seed=1,2,3,4,5,6,7,8,9,10", script, "--", "0.1")
    assert done.returncode == 0, done.stderr
    page.open(f"{served.address}#/?metric=*&runs=")
    page.until(lambda: len(page.names()) == 10)
    page.click("#selection button", "All")
    page.until(lambda: page.points() == 10 * 12 * 3)
    assert len(page.all(".chart")) == 12
    assert len(page.all(".legend li")) == 10
    page.click("#curves .more")
    page.until(lambda: page.points() == 10 * 15 * 3)
    assert len(page.all(".chart")) == 15
    assert page.all("#curves .more") == []


def test_a_run_that_diverged_does_not_flatten_the_others(page: Page, served: Ui, runs: Runs, training: Training):
    """The axis is that of most values; what is beyond it is marked and said."""
    training.ended("good", 1.0)
    script = runs.script("""
        for step in range(1, 31):
            print(json.dumps({"step": step, "loss": 1e9 if step > 28 else 1 / step}))
    """)
    assert runs.call("run", "-n", "diverged", script).returncode == 0
    page.open(served.address)
    page.until(lambda: page.points() == 60)
    assert page.text(".plot-note") == "▲▼ values beyond the axis, up to 1e+9"


def test_a_part_is_shown_and_moved_by_keys(page: Page, served: Ui, training: Training):
    """Tab leads to a plot; + and - zoom, the arrows move, z shows all."""
    training.ended("long", 1000.0, steps=4000)
    page.open(served.address)
    page.until(lambda: page.points() == 4000)
    page.js("document.querySelector('#curves .plot').focus()")
    page.requests()
    page.press("+", "+")
    page.until(lambda: page.points() < 2500)
    assert page.js(ZOOMED) == "yes"
    asked = [url for url in page.requests() if "begin=" in url]
    page.press(Keys.ARROW_RIGHT)
    page.until(lambda: [url for url in page.requests() if "begin=" in url and url not in asked])
    page.press("-", "-")
    page.until(lambda: page.js(ZOOMED) == "no")
    page.press("+")
    page.until(lambda: page.js(ZOOMED) == "yes")
    page.press("z")
    page.until(lambda: page.js(ZOOMED) == "no")


def test_keys_count_that_come_before_the_one_before_them_is_drawn(page: Page, served: Ui, training: Training):
    """As on a busy machine, or when a key is held down."""
    training.ended("long", 1000.0, steps=4000)
    page.open(served.address)
    page.until(lambda: page.points() == 4000)
    for keys in ("++", "--"):
        plot, press = "document.querySelector('#curves .plot')", "new KeyboardEvent('keydown', {key})"
        page.js(f"[...'{keys}'].forEach((key) => {plot}.dispatchEvent({press}))")
        page.until(lambda few=keys == "++": page.points() < 1300 if few else page.points() == 4000)


def test_a_curve_without_a_name_is_known_by_its_parameters(page: Page, served: Ui, runs: Runs):
    """In the legend and beside the pointer: what differs between the chosen runs."""
    script = runs.script("""
        print(json.dumps({"event": "params", "params": {"lr": float(sys.argv[1]), "layers": 2}}))
        for step in range(1, 31):
            print(json.dumps({"step": step, "loss": 1 / step}))
    """)
    assert runs.call("run", script, "--", "0.5").returncode == 0
    assert runs.call("run", "-n", "named", script, "--", "0.1").returncode == 0
    page.open(served.address)
    page.until(lambda: page.points() == 60)
    assert page.texts(".legend li bdi") == ["named", "lr=0.5"]
    assert page.texts(".legend li .faint") == ["lr=0.1"]
    ActionChains(page.driver).move_to_element(page.one(".u-over")).perform()
    assert sorted(page.until(lambda: page.texts(".reading li bdi"))) == ["lr=0.5", "named"]


def test_sessions_are_marked_over_time(page: Page, served: Ui, runs: Runs):
    """Where the second session began, on the curves of the run's page by time; over steps there are no marks."""
    script = runs.script("""
        begin = int(os.environ.get("STEPS_BEFORE", 0))
        for step in range(begin + 1, begin + 6):
            print(json.dumps({"step": step, "loss": 1 / step}), flush=True)
            time.sleep(0.05)
    """)
    assert runs.call("run", "-n", "twice", "--run-id", "r", script).returncode == 0
    assert runs.call("resume", "r", "--again", STEPS_BEFORE="5").returncode == 0
    page.open(f"{served.address}#/run/r?axis=step")
    page.until(lambda: page.points() >= 10)  # and what was measured of sessions that took a second
    marks = "document.querySelector('#run-view .plot').dataset.marks"
    page.until(lambda: page.js(marks) == "")
    page.press("t")
    page.until(lambda: page.js(marks) == "session 2")


def test_pauses_are_marked_over_time(page: Page, served: Ui, training: Training, runs: Runs):
    """Where the training was paused, and for how long; while it is paused, at the end of the curve."""
    run_id = training.going_on("live")
    page.open(f"{served.address}#/run/{run_id}?axis=time")
    page.until(page.points)
    marks = "document.querySelector('#run-view .plot').dataset.marks"
    page.until(lambda: page.js(marks) == "")
    assert runs.call("pause", run_id).returncode == 0
    page.until(lambda: page.js(marks) == "paused now")
    assert runs.call("resume", run_id).returncode == 0
    page.until(lambda: re.fullmatch(r"paused [\d.:]+( s)?", page.js(marks)))
    (session,) = runs.document(run_id)["sessions"]
    (pause,) = session["pauses"]
    assert 0 < pause["after_s"] < session["elapsed_s"]
    assert pause["paused_s"] == session["paused_s"]
    label = "document.querySelector('#run-view .plot').getAttribute('aria-label')"
    page.until(lambda: re.search(r"paused .* after ", page.js(label)))
    colours = "getComputedStyle(document.documentElement).getPropertyValue('--pause-ink').trim()"
    assert page.js(f"{PIXELS}({colours})")
    page.press("t")
    page.until(lambda: page.js(marks) == "")


def test_axes_have_titles(page: Page, served: Ui, training: Training, runs: Runs):
    """Of every chart, in all views: what is across and what is up."""
    written = """
        window.written = [];
        const plain = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
          window.written.push(text);
          return plain.call(this, text, ...rest);
        };
    """
    training.ended("one", 1.0)
    training.ended("two", 2.0)
    run_id = runs.document("one")["id"]
    runs.set_usage(run_id, '{"since":0,"until":2,"count":2,"values":{"cpu":[100,50]}}\n')
    added = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": written})
    try:
        for address, titles in {
            "#/": {"step", "loss"},
            "#/?axis=time&log=1&metric=acc": {"time of training", "acc (log)"},
            "#/?metric=*": {"step", "loss", "acc"},
            "#/?runs=&by=param.lr&band=param.lr%3D1": {"step", "loss"},
            f"#/run/{run_id}?axis=time": {"time of training", "loss", "acc", "sys/cpu"},
            f"#/run/{run_id}": {"step", "time of training", "loss", "acc", "sys/cpu"},
            "#/?view=scatter&x=param.lr&y=best.loss": {"lr", "best loss"},
            "#/?view=parallel": {"lr", "best acc"},
        }.items():
            page.open("about:blank")
            page.open(served.address + address)
            page.until(lambda titles=titles: titles <= set(page.js("window.written")))
    finally:  # the browser is used by other tests, too
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
