"""The page in a real Chromium, served by a real `backprop ui`. Needs Debian's `chromium` and `chromium-driver`."""

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser.chromium import chromium_in
from tests.conftest import HANG_S, Runs, wait_for

T = TypeVar("T")
WIDE = (1300, 850)
_OWN_SCHEMES = {"data", "blob", "about", "chrome", "devtools", "file"}  # never leave the browser


class Page:
    """What a person sees and does."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.asked: list[str] = []  # addresses, by all that `requests` gave so far

    def open(self, address: str) -> None:
        self.driver.get(address)

    def all(self, css: str) -> list[WebElement]:
        """The elements that are to be seen now."""
        return self._as_drawn(
            lambda: [found for found in self.driver.find_elements(By.CSS_SELECTOR, css) if found.is_displayed()]
        )

    def one(self, css: str) -> WebElement:
        """An element, once it is there to be seen."""
        return self.until(lambda: self.all(css))[0]

    def texts(self, css: str) -> list[str]:
        return self._as_drawn(lambda: [element.text for element in self.all(css)])

    def text(self, css: str) -> str:
        return self.until(lambda: self.texts(css))[0]

    def click(self, css: str, text: str | None = None) -> None:
        """Click on the first of these elements, or on the one with a text, once it is there."""

        def clicked() -> bool:
            found = [element for element in self.all(css) if text in {None, element.text}]
            assert text is None or len(found) < 2
            if found:
                found[0].click()
            return bool(found)

        self.until(clicked)

    def _as_drawn(self, look: Callable[[], T]) -> T:
        """What is seen of one drawing: the page may have drawn an element anew before we read it."""
        return self.until(lambda: (look(),))[0]

    def until(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives once it is true."""
        wait = WebDriverWait(self.driver, HANG_S, 0.05, [StaleElementReferenceException])
        return wait.until(lambda _: condition())

    def press(self, *keys: str) -> None:
        """Keys, to whatever has the focus."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def write(self, css: str, text: str) -> None:
        """Another text in a field."""
        field = self.one(css)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text or Keys.DELETE)

    def js(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def resize(self, width: int, height: int) -> None:
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme: str) -> None:
        """Light or dark, as the system would say."""
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def unplug(self, *, is_out: bool) -> None:
        """Take the network away from the browser, or give it back."""
        self.cdp(
            "Network.emulateNetworkConditions", offline=is_out, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    def cdp(self, command: str, **arguments: Any) -> None:
        self.driver.execute_cdp_cmd(command, arguments)

    # -- words of this page

    def names(self) -> list[str]:
        """The runs in the table, from top to bottom."""
        rows = "[...document.querySelectorAll('.rows .row')]"
        return self.js(
            f"{rows}.sort((a, b) => a.index - b.index).map((row) => row.querySelector('.name-text').textContent)"
        )

    def status(self, name: str) -> str:
        """The status of a run in the table, as a word; "" while it is not there."""
        rows = "[...document.querySelectorAll('.rows .row')]"
        found = f"{rows}.find((row) => row.querySelector('.name-text').textContent === {json.dumps(name)})"
        return self.js(f"{found}?.querySelector('.status').textContent ?? ''")

    def points(self) -> int:
        """How many points the curves on the screen have in all."""
        return int(self.js("document.querySelector('main:not([hidden]) .curves')?.dataset.points ?? 0"))

    def open_run(self, name: str) -> None:
        self.click(".rows .name-text", name)
        self.until(lambda: self.text("#run-view h1") == name)

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        self.asked += urls
        return urls


class Ui:
    """A `backprop ui` of a home."""

    def __init__(self, runs: Runs, port: int = 0) -> None:
        self._process = runs.start("ui", "--no-open", "--port", port, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        found = re.search(r"http://\S+", line)
        assert found, f"no address in {line!r}"
        self.address = found.group(0)
        self.without_token = self.address.split("?", maxsplit=1)[0]
        self.port = urlsplit(self.address).port

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(HANG_S)


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    with tempfile.TemporaryDirectory(prefix="chromium-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        driver = chromium_in(Path(folder) / "profile")
        yield driver
        driver.quit()


@pytest.fixture
def page(chromium: webdriver.Chrome) -> Iterator[Page]:
    """A window, in light; afterwards nothing was asked of any other host, and nothing went wrong in silence."""
    page = Page(chromium)
    page.resize(*WIDE)
    page.prefer("light")
    yield page
    page.requests()
    problems = [entry["message"] for entry in chromium.get_log("browser")]
    chromium.get("about:blank")
    hosts = {urlsplit(url).hostname for url in page.asked if urlsplit(url).scheme not in _OWN_SCHEMES}
    assert hosts == {"127.0.0.1"}
    assert [text for text in problems if not _is_expected(text)] == []


def _is_expected(problem: str) -> bool:
    """The browser itself speaks of every answer that is an error, and of every server that cannot be reached."""
    return any(words in problem for words in ("Failed to load resource", "net::ERR_"))


@pytest.fixture
def served(runs: Runs) -> Ui:
    """The page of an empty home. What runs later appears in it."""
    return Ui(runs)


TRAINER = """
    lr, steps, pause = float(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    print(json.dumps({"event": "params", "params": {"lr": lr}}), flush=True)
    for step in range(1, steps + 1):
        print(json.dumps({"step": step, "loss": lr / step, "acc": 1 - 1 / step, "total_steps": steps}), flush=True)
        time.sleep(pause)
"""


class Training:
    """Runs of a small script, by name."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._script: Path = runs.script(TRAINER)

    def ended(self, name: str, lr: float, steps: int = 30) -> None:
        done = self._runs.call("run", "-n", name, self._script, "--", lr, steps, 0)
        assert done.returncode == 0, done.stderr

    def going_on(self, name: str, lr: float = 1.0, pause_s: float = 0.05) -> str:
        """Its id, once it has begun to train."""
        done = self._runs.call("run", "-d", "-n", name, self._script, "--", lr, 100_000, pause_s)
        assert done.returncode == 0, done.stderr
        run_id = done.stdout.strip()
        self._runs.own(run_id)
        wait_for(lambda: '"step": 3' in self._runs.output(run_id))
        return run_id


@pytest.fixture
def training(runs: Runs) -> Training:
    return Training(runs)
