"""Pictures of `backprop ui`: wide, dark, narrow, and a run's page."""

import re
import tempfile
from pathlib import Path

from docs.screenshots.demonstration import Demonstration
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from tests.browser.chromium import chromium_in

_PATIENCE_S = 30.0
_CHOSEN = ("long-high", "long-low", "resumed", "lr-range", "lr-0.005")


def take(demonstration: Demonstration, folder: Path) -> None:
    """ui-wide.png, ui-dark.png, ui-narrow.png and ui-run.png."""
    server = demonstration.start("ui", "--no-open", "--port", "0")
    assert server.stdout is not None
    found = re.search(r"http://\S+", server.stdout.readline())
    assert found, "backprop ui printed no address"
    address = found.group(0)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        browser = chromium_in(Path(own) / "profile")
        try:
            _show(browser, (1360, 860), "light")
            browser.get(address)
            chosen = _ids(browser)
            shown = f"runs={','.join(chosen[name] for name in _CHOSEN)}"
            place = address.split("?", maxsplit=1)[0]
            _take(browser, f"{place}#/?{shown}&log=1&smooth=0.7", (1360, 860), "light", folder / "ui-wide.png")
            _take(browser, f"{place}#/?{shown}&axis=time&log=1&metric=*", (1360, 860), "dark", folder / "ui-dark.png")
            _take(browser, f"{place}#/?{shown}&log=1&smooth=0.7", (390, 1180), "light", folder / "ui-narrow.png")
            _take(browser, f"{place}#/run/{chosen['resumed']}", (1440, 1000), "light", folder / "ui-run.png")
        finally:
            browser.quit()
            server.terminate()
            server.wait()


def _ids(browser: webdriver.Chrome) -> dict[str, str]:
    """The runs in the table: name -> id."""
    rows = (
        "return [...document.querySelectorAll('.rows .row')]"
        ".map((row) => ['.name-text', '.id'].map((css) => row.querySelector(css).textContent))"
    )
    found: dict[str, str] = {}
    WebDriverWait(browser, _PATIENCE_S).until(
        lambda _: found.update(browser.execute_script(rows)) or set(_CHOSEN) <= set(found)
    )
    return found


def _take(browser: webdriver.Chrome, address: str, size: tuple[int, int], scheme: str, path: Path) -> None:
    _show(browser, size, scheme)
    browser.get("about:blank")  # or only the part behind the # would be another
    browser.get(address)
    drawn = (
        "return document.querySelector('main:not([hidden]) .plot canvas') !== null"
        " && document.querySelector('#link').textContent === 'live'"
    )
    WebDriverWait(browser, _PATIENCE_S).until(lambda _: browser.execute_script(drawn))
    WebDriverWait(browser, _PATIENCE_S).until(
        lambda _: len(browser.find_elements(By.CSS_SELECTOR, "main:not([hidden]) .legend li")) > 0
    )
    settle = (
        "const done = arguments[0]; setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 1500);"
    )
    browser.execute_async_script(settle)  # the first events have come
    painted = (
        "const canvas = document.querySelector('main:not([hidden]) .plot canvas');"
        " return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean);"
    )
    WebDriverWait(browser, _PATIENCE_S).until(lambda _: browser.execute_script(painted))
    browser.save_screenshot(str(path))


def _show(browser: webdriver.Chrome, size: tuple[int, int], scheme: str) -> None:
    """A window of that size, on a system that prefers light or dark."""
    width, height = size
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
