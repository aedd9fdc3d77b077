"""Many runs that differ little: columns of what differs, and groups with their mean."""

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Page, Training, Ui
from tests.conftest import Runs

SCRIPT = """
    lr, seed = float(sys.argv[1]), int(sys.argv[2])
    print(json.dumps({"event": "params", "params": {"lr": lr, "seed": seed}}))
    for step in range(1, 11):
        print(json.dumps({"step": step, "loss": lr * seed / step, "acc": lr}))
"""


def made(runs: Runs, *asked: tuple[str, float, int]) -> None:
    script = runs.script(SCRIPT)
    for group, lr, seed in asked:
        done = runs.call("run", "-n", f"{group}{lr}-{seed}", "--group", group, script, "--", lr, seed)
        assert done.returncode == 0, done.stderr


def heads(page: Page) -> list[str]:
    return page.js("[...document.querySelectorAll('.head .cell')].map((cell) => cell.textContent)")


def column(page: Page, place: int) -> list[str]:
    """The cells of a column that is not always there, from top to bottom."""
    rows = "[...document.querySelectorAll('.rows .row')].sort((a, b) => a.index - b.index)"
    return page.js(f"{rows}.map((row) => row.querySelectorAll('.c-extra')[{place}]?.textContent)")


def test_columns_are_chosen_sorted_and_kept(page: Page, served: Ui, runs: Runs):
    """First what differs; then what was chosen, by whose head the table is sorted; all of it is in the address."""
    made(runs, ("a", 0.1, 1), ("a", 0.3, 1), ("b", 0.2, 2))
    page.resize(1500, 850)
    page.open(served.address)
    page.until(lambda: column(page, 0) == ["0.2", "0.3", "0.1"])
    assert heads(page)[3:5] == ["lr", "seed"]

    page.click("#columns")
    page.write("dialog input[type=search]", "acc")
    assert page.texts("dialog label") == ["acc", "acc"]
    page.click("dialog label input")
    page.click("dialog button.main")
    page.until(lambda: heads(page)[3:6] == ["lr", "seed", "best acc"])
    assert column(page, 2) == ["0.2", "0.3", "0.1"]
    page.click(".head .c-x2 button")
    page.until(lambda: column(page, 2) == ["0.3", "0.2", "0.1"])  # greater is better: first
    page.click(".head .c-x0 button")
    page.until(lambda: column(page, 0) == ["0.1", "0.2", "0.3"])
    page.driver.refresh()
    page.until(lambda: column(page, 0) == ["0.1", "0.2", "0.3"])
    assert heads(page)[3:6] == ["lr", "seed", "best acc"]
    page.click("#columns")
    page.click("dialog button[value=usual]")
    page.until(lambda: heads(page)[3:6] == ["lr", "seed", "Command"])


def test_groups_open_and_their_mean_is_drawn(page: Page, served: Ui, runs: Runs):
    """By group and by a parameter: a row each; its check box draws mean and spread, its name opens its runs."""
    made(runs, ("a", 0.1, 1), ("a", 0.1, 3), ("b", 0.2, 2))
    page.open(f"{served.address}#/?runs=")
    page.until(lambda: len(page.names()) == 3)
    page.one("#by").send_keys("group")
    rows = lambda: [text.split() for text in page.texts("#groups tbody tr")]  # noqa: E731
    page.until(lambda: len(rows()) == 2)
    assert rows()[1][:4] == ["a", "2", "2", "completed"]
    assert page.text("#count") == "2 groups"
    page.click("#groups tbody tr:nth-child(2) input")
    page.until(lambda: page.texts(".legend li .faint") == ["mean ± sd of 2 runs"])
    label = "document.querySelector('#curves .plot')?.getAttribute('aria-label')"
    page.until(lambda: page.js(label) == "loss by step: last a 0.02")
    assert "band=" in page.driver.current_url
    page.write("#filter", "param.seed=1")  # the mean is of the runs that the table shows
    page.until(lambda: page.texts(".legend li .faint") == ["mean ± sd of 1 run"])
    assert page.js(label) == "loss by step: last a 0.01"
    page.write("#filter", "")
    page.until(lambda: page.texts(".legend li .faint") == ["mean ± sd of 2 runs"])

    page.one("#by").send_keys("lr")
    page.until(lambda: [row[0] for row in rows()] == ["0.2", "0.1"])
    page.click("#groups .link-like", "0.1")
    page.until(lambda: sorted(page.names()) == ["a0.1-1", "a0.1-3"])
    assert page.js("document.querySelector('#filter').value") == 'param.lr="0.1"'


def test_a_group_that_changes_keeps_the_focus_and_a_press(page: Page, served: Ui, runs: Runs):
    """Its check box stays the same element when it is ticked, and when a run joins; also while the mouse is down."""
    made(runs, ("a", 0.1, 1), ("b", 0.2, 2))
    page.open(f"{served.address}#/?runs=")
    page.until(lambda: len(page.names()) == 2)
    page.one("#by").send_keys("group")
    page.until(lambda: page.texts("#groups tbody .link-like") == ["b", "a"])
    box = page.one("#groups tbody tr:nth-child(2) input")
    box.send_keys(Keys.SPACE)
    page.until(lambda: page.texts(".legend li .faint") == ["mean ± sd of 1 run"])
    made(runs, ("c", 0.3, 1), ("a", 0.1, 3))
    page.until(lambda: page.texts("#groups tbody td:nth-child(3)") == ["2", "1", "1"])
    assert page.texts("#groups tbody .link-like") == ["a", "c", "b"]
    assert page.driver.switch_to.active_element == box
    ActionChains(page.driver).click_and_hold(page.one("#groups tbody tr .swatch")).perform()
    made(runs, ("a", 0.1, 4))
    page.until(lambda: page.texts("#groups tbody td:nth-child(3)") == ["3", "1", "1"])
    ActionChains(page.driver).release().perform()
    page.until(lambda: not page.texts(".legend li"))


def test_a_metric_column_follows_a_run(page: Page, served: Ui, training: Training):
    """A column with a metric of a run that trains changes, without a click."""
    training.going_on("live")
    page.open(f"{served.address}#/?cols=metric.acc")
    seen = page.until(lambda: column(page, 0) and column(page, 0)[0])
    page.until(lambda: column(page, 0)[0] not in {seen, ""})


def test_parameters_against_a_metric(page: Page, served: Ui, runs: Runs):
    """A scatter plot and parallel coordinates of all runs in the table; what is dragged over is selected."""
    made(runs, ("a", 0.1, 1), ("a", 0.3, 1), ("b", 0.2, 2))
    page.open(f"{served.address}#/?runs=&x=param.lr&y=best.loss&colour=param.seed")
    page.until(lambda: len(page.names()) == 3)
    drawn = "document.querySelector('#explore').dataset.drawn"
    page.click("#tabs button:nth-child(2)")
    page.until(lambda: page.js(drawn) == "3")
    assert "3 runs: best loss by lr" in page.text("#explore .plot-note")
    canvas = page.one("canvas.explore")
    page.requests()
    width, height = canvas.size["width"], canvas.size["height"]
    left_half = ActionChains(page.driver).move_to_element_with_offset(canvas, -width // 2 + 70, -height // 2 + 5)
    left_half.click_and_hold().move_by_offset(width // 2 - 60, height - 40).release().perform()
    chosen = "[...document.querySelectorAll('.rows .row[aria-selected=true] .name-text')].map((one) => one.textContent)"
    page.until(lambda: page.js(chosen) == ["a0.1-1"])

    page.click("#tabs button:nth-child(3)")
    page.until(lambda: "drag along an axis" in page.text("#explore .plot-note"))
    page.until(lambda: page.js(drawn) == "3")
    lr_axis = ActionChains(page.driver).move_to_element_with_offset(canvas, -width // 2 + 64, -height // 2 + 10)
    lr_axis.click_and_hold().move_by_offset(0, (height - 64) * 7 // 10).release().perform()
    page.until(lambda: page.js(chosen) == ["b0.2-2", "a0.3-1"])
    assert "view=parallel" in page.driver.current_url
    page.click("#tabs button:nth-child(1)")
    page.until(lambda: len(page.all(".legend li")) == 2)


def test_many_runs_are_selected_and_acted_on(page: Page, served: Ui, runs: Runs):
    """All, the best, a range; what is asked for is asked about once, with how many runs it is."""
    made(runs, ("a", 0.1, 1), ("b", 0.2, 1), ("c", 0.3, 1), ("d", 0.4, 1))
    page.open(f"{served.address}#/?runs=")
    page.until(lambda: len(page.names()) == 4)
    selected = lambda: page.texts("#selection .count")  # noqa: E731
    page.click("#selection button", "All")
    page.until(lambda: selected() == ["4 selected"])
    page.until(lambda: page.points() == 40)
    page.click("#selection button", "None")
    page.until(lambda: selected() == ["select"])
    boxes = page.all(".rows .row input")
    boxes[1].click()
    ActionChains(page.driver).key_down(Keys.SHIFT).click(boxes[3]).key_up(Keys.SHIFT).perform()
    page.until(lambda: selected() == ["3 selected"])

    page.click("#selection button", "Tag…")
    page.write("dialog input", "draft")
    page.press(Keys.ENTER)
    page.until(lambda: [runs.document(f"{name}-1")["tags"] for name in ("a0.1", "c0.3")] == [["draft"], ["draft"]])
    assert runs.document("d0.4-1")["tags"] == []
    page.click("#selection button", "Delete…")
    assert page.text("dialog h2") == "Delete 3 runs?"
    page.click("dialog button.main")
    page.until(lambda: page.names() == ["d0.4-1"])
    page.click("#selection button", "Best 5")
    page.until(lambda: selected() == ["1 selected"])
    page.until(lambda: page.points() == 10)
