"""Runs side by side on the page, and how their code differs."""

import subprocess

from selenium.webdriver.common.keys import Keys

from tests.browser.conftest import Page, Ui
from tests.conftest import Runs

SCRIPT = """
    lr = float(sys.argv[1])
    print(json.dumps({"event": "params", "params": {"lr": lr, "layers": 2}}))
    for step in range(1, 11):
        print(json.dumps({"step": step, "loss": lr / step}))
"""
CELLS = (
    "[...document.querySelectorAll('.comparison tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
)


def git(runs: Runs, *words: str) -> None:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=runs.work, capture_output=True, check=True)


def made(runs: Runs, *names: str) -> None:
    """Runs in a git repository, each with another learning rate; the script of each is a line longer."""
    script = runs.script(SCRIPT)
    git(runs, "init", "-q")
    git(runs, "add", "-A")
    git(runs, "commit", "-qm", "first")
    for number, name in enumerate(names, start=1):
        script.write_text(f"{script.read_text()}\nrate{number} = {number}\n")
        done = runs.call("run", "-n", name, "--run-id", f"r{number}", script, "--", number / 10)
        assert done.returncode == 0, done.stderr


def rows(page: Page) -> dict[str, list[str]]:
    """The table, once the code is compared as well: until then the server has a temporary folder."""
    told = page.until(lambda: "".join(page.texts(".code-difference [role=status]")))
    return {} if told == "comparing…" else {cells[0]: cells[1:] for cells in page.js(CELLS)}


def test_selected_runs_are_compared(page: Page, served: Ui, runs: Runs):
    """From the selection, by a key: what differs is marked, the best too; what is the same is shown if it is asked for."""
    made(runs, "one", "two", "three")
    page.open(f"{served.address}#/?runs=r1")
    page.until(lambda: len(page.names()) == 3)
    compare = next(button for button in page.all("#selection button") if button.text == "Compare")
    assert not compare.is_enabled()
    page.js("document.querySelector('#grid').focus()")
    page.press(Keys.HOME, "x")
    page.until(compare.is_enabled)
    page.press("c")
    page.until(lambda: page.text("#compare-view h1") == "Compare 2 runs")
    page.until(lambda: page.js("document.activeElement.tagName") == "H1")
    assert page.js("document.title") == "Compare · Backprop"
    assert "#/compare?runs=r1,r3" in page.driver.current_url
    found = page.until(lambda: rows(page))
    assert found["lr"] == ["0.1", "0.3"]
    assert found["loss"] == ["0.01*", "0.03"]
    assert "layers" not in found
    assert page.texts(".comparison .other") == ["0.3"]
    assert page.texts(".comparison .best") == ["0.01*", "0.01* (10)"]

    page.click(".with-all")
    page.until(lambda: rows(page).get("layers") == ["2", "2"])
    assert page.texts(".comparison .other") == ["0.3"]  # no more is marked
    page.press(Keys.ESCAPE)
    page.until(lambda: len(page.names()) == 3)
    page.driver.back()
    page.until(lambda: rows(page).get("layers") == ["2", "2"])


def test_a_run_is_left_out_or_opened(page: Page, served: Ui, runs: Runs):
    """By links in the head of its column; one run alone is not compared, which is said."""
    made(runs, "one", "two", "three")
    page.open(f"{served.address}#/compare?runs=r1,r2,r3")
    heads = lambda: page.texts(".comparison thead th .cut") if rows(page) else []  # noqa: E731
    page.until(lambda: heads() == ["one", "two", "three"])
    page.click(".comparison [aria-label='Leave out two']")
    page.until(lambda: heads() == ["one", "three"])
    page.click(".comparison thead a.cut", "three")
    page.until(lambda: page.text("#run-view h1") == "three")
    page.driver.back()
    page.until(lambda: heads() == ["one", "three"])
    page.click(".comparison [aria-label='Leave out one']")
    page.until(lambda: "Select two runs" in page.text("#compare-view .hint"))
    page.js("location.hash = '#/compare?runs=r1,nobody,r3'")  # one that was removed
    page.until(lambda: heads() == ["one", "three"])


def test_the_code_of_two_runs_is_compared(page: Page, served: Ui, runs: Runs):
    """The first two; of more, others can be chosen, and the choice is in the address."""
    made(runs, "one", "two", "three")
    page.open(f"{served.address}#/compare?runs=r1,r2,r3")
    page.until(lambda: page.texts(".files summary bdi") == ["train.py"])
    assert page.texts(".files .counts") == ["+2 −0"]
    assert page.texts(".patch .added") == ["+", "+rate2 = 2"]
    page.one(".code-difference select").send_keys("three")
    page.until(lambda: page.texts(".patch .removed") == ["-", "-rate3 = 3"])
    assert "code=r3,r2" in page.driver.current_url
    page.driver.refresh()
    page.until(lambda: page.texts(".patch .removed") == ["-", "-rate3 = 3"])


def test_runs_without_git_say_so(page: Page, served: Ui, runs: Runs):
    """What is known of their code, in words."""
    script = runs.script(SCRIPT)
    for run_id in ("a", "b"):
        assert runs.call("run", "--run-id", run_id, script, "--", "1").returncode == 0
    page.open(f"{served.address}#/compare?runs=a,b")
    page.until(lambda: "their scripts were the same, byte for byte" in page.text(".code-difference"))


def test_a_large_difference_of_hostile_code_is_bounded_text(page: Page, served: Ui, runs: Runs):
    """Nothing of it is markup or runs; long values and lines scroll inside; what is left out is counted."""
    hostile = "<img src=x onerror=alert(1)><script>alert(1)</script>\u202etxt.exe\x1b[31m"
    script = runs.script(f"""
        hostile = {hostile!r} + sys.argv[1]
        print(json.dumps({{"event": "params", "params": {{hostile: "v", "long": "w " * 20_000 + sys.argv[1]}}}}))
        print(json.dumps({{"step": 1, "loss": 1.0, hostile: 2.0}}))
    """)
    git(runs, "init", "-q")
    git(runs, "add", "-A")
    git(runs, "commit", "-qm", "first")
    assert runs.call("run", "-n", "<img src=x onerror=alert(1)>", "--run-id", "a", script, "--", "1").returncode == 0
    name = "<b>é\u202e.py"
    runs.work.joinpath(name).write_text("".join(f"x{number} = '{hostile}{'z' * 1500}'\n" for number in range(3000)))
    git(runs, "add", "-A")
    assert runs.call("run", "-n", "other", "--run-id", "b", script, "--", "2").returncode == 0
    page.open(f"{served.address}#/compare?runs=a,b")
    page.until(lambda: page.all(".files summary"))
    assert page.text(".comparison thead .cut").startswith("<img src=x onerror=alert(1)>")
    assert page.all("main img, main script, main b") == []
    assert "This prints all of it: backprop compare a b --diff" in page.text(".code-difference [role=status]")
    page.js("document.querySelector('.files details').open = true")
    page.until(lambda: "more lines not shown" in page.text(".files .left-out"))
    assert "\\x1b[31m" in page.text(".patch .added")
    for width in (1300, 360):
        page.resize(width, 850)
        page.until(lambda: page.js("document.documentElement.scrollWidth <= innerWidth"))
        patch, table = (f"document.querySelector('{css}')" for css in (".patch", ".comparison"))
        assert page.js(f"{patch}.scrollWidth > {patch}.clientWidth && {patch}.clientWidth <= innerWidth")
        assert page.js(f"{patch}.scrollHeight > {patch}.clientHeight && {patch}.clientHeight < 800")
        assert page.js(f"{table}.clientWidth <= innerWidth && {table}.clientHeight < 800")
        heights = (
            "[...document.querySelectorAll('.comparison .value')].map((one) => [one.clientHeight, one.scrollHeight])"
        )
        assert any(height < whole for height, whole in page.js(heights))
        assert all(height < 200 for height, _ in page.js(heights))
    assert any("(differs beyond what is shown)" in label for label in rows(page))


def test_a_comparison_follows_runs_that_train(page: Page, served: Ui, runs: Runs):
    """New values appear by themselves, and the place where one reads stays."""
    script = runs.script("""
        for step in range(10**9):
            print(json.dumps({"step": step, "loss": 1 / (step + 1)}), flush=True)
            time.sleep(0.05)
    """)
    for run_id in ("a", "b"):
        assert runs.call("run", "-d", "--run-id", run_id, script).returncode == 0
        runs.own(run_id)
    page.open(f"{served.address}#/compare?runs=a,b")
    page.until(lambda: "loss" in rows(page))
    seen = rows(page)["loss"]
    page.until(lambda: rows(page)["loss"] != seen)
