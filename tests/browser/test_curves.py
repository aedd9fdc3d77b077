"""The curves on the page: what is drawn of many runs and metrics, what is zoomed, and who is who."""

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Page, Training, Ui
from tests.conftest import Runs

ZOOMED = "document.querySelector('#curves').dataset.zoomed"


def test_a_zoom_ends_with_the_selection(page: Page, served: Ui, training: Training):
    """A run that is unticked and ticked again is shown whole, not the part that was zoomed."""
    training.ended("long", 1000.0, steps=4000)
    page.open(served.address)
    page.until(lambda: page.points() == 4000)
    ActionChains(page.driver).drag_and_drop_by_offset(page.one(".u-over"), 120, 0).perform()
    page.until(lambda: page.js(ZOOMED) == "yes" and page.points() < 4000)
    page.one(".rows .row input").click()
    page.until(lambda: page.js(ZOOMED) == "no")
    page.one(".rows .row input").click()
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
    next(button for button in page.all("#selection button") if button.text == "All").click()
    page.until(lambda: page.points() == 10 * 12 * 3)
    assert len(page.all(".chart")) == 12
    assert len(page.all(".legend li")) == 10
    page.one("#curves .more").click()
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
    page.until(lambda: page.points() == 10)
    marks = "document.querySelector('#run-view .plot').dataset.marks"
    page.until(lambda: page.js(marks) == "")
    page.press("t")
    page.until(lambda: page.js(marks) == "session 2")
