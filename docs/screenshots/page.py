"""Pictures of `backprop ui`: wide, dark, narrow, a run's page, groups, plots of parameters, and a comparison."""

import re
import tempfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

from docs.screenshots.demonstration import Demonstration
from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait
from tests.browser.chromium import chromium_in

_PATIENCE_S = 30.0
_CHOSEN = ("long-high", "long-low", "resumed", "lr-range", "lr-0.005")
_COMPARED = ("lr-0.01", "momentum", "seed-1")
_RATES = "filter=group%3Drates&x=param.lr&y=best.test_accuracy"
# what is there once a view is drawn
_CURVES = "[...document.querySelectorAll('main:not([hidden]) .plot canvas')].some(painted)"
_PLOT = "painted(document.querySelector('canvas.explore'))"
_COMPARISON = "document.querySelector('.patch .added') !== null"


def take(demonstration: Demonstration, folder: Path) -> None:
    """All of them, as ui-NAME.png."""
    server = demonstration.start("ui", "--no-open", "--port", "0")
    assert server.stdout is not None
    found = re.search(r"http://\S+", server.stdout.readline())
    assert found, "backprop ui printed no address"
    address = found.group(0)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        browser = chromium_in(Path(own) / "profile")
        try:
            browser.get(address)
            for name, place, size, scheme, drawn in _views(demonstration):
                where = f"{address.split('?', maxsplit=1)[0]}#/{place}"
                _take(browser, where, size, scheme, drawn, folder / f"ui-{name}.png")
        finally:
            browser.quit()
            server.terminate()
            server.wait()


def _views(demonstration: Demonstration) -> Iterator[tuple[str, str, tuple[int, int], str, str]]:
    """Name, address, size of the window, colours, and what is there once it is drawn."""
    shown = f"runs={_ids(demonstration, _CHOSEN)}"
    yield "wide", f"?{shown}&log=1&smooth=0.7", (1360, 860), "light", _CURVES
    yield "dark", f"?{shown}&axis=time&log=1&metric=*", (1360, 860), "dark", _CURVES
    yield "narrow", f"?{shown}&log=1&smooth=0.7", (390, 1180), "light", _CURVES
    yield "run", f"run/{demonstration.run_id('resumed')}", (1440, 1000), "light", _CURVES
    yield "usage", f"run/{demonstration.run_id('long-high')}?axis=time", (1100, 1460), "light", _CURVES
    yield from _of_groups(demonstration)


def _of_groups(demonstration: Demonstration) -> Iterator[tuple[str, str, tuple[int, int], str, str]]:
    means = "".join(f"&band=param.lr%3D%22{lr}%22" for lr in ("0.002", "0.005", "0.05"))
    groups = f"?by=param.lr&runs=&log=1&metric=loss{means}"
    yield "groups", groups, (1100, 740), "light", _CURVES
    yield "scatter", f"?{_RATES}&runs=&view=scatter&colour=best.loss", (1100, 760), "light", _PLOT
    yield "parallel", f"?{_RATES}&runs=&view=parallel", (1100, 760), "dark", _PLOT
    yield "compare", f"compare?runs={_ids(demonstration, _COMPARED)}", (1100, 900), "light", _COMPARISON


def _ids(demonstration: Demonstration, names: Iterable[str]) -> str:
    return ",".join(demonstration.run_id(name) for name in names)


def _take(browser: webdriver.Chrome, address: str, size: tuple[int, int], scheme: str, drawn: str, path: Path) -> None:
    _show(browser, size, scheme)
    browser.get("about:blank")  # or only the part behind the # would be another
    browser.get(address)
    painted = (
        "const painted = (canvas) => canvas.width > 0 && canvas.getContext('2d')"
        ".getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean);"
        f"return document.querySelector('#link').textContent === 'live' && {drawn};"
    )
    WebDriverWait(browser, _PATIENCE_S).until(lambda _: browser.execute_script(painted))
    settle = (
        "const done = arguments[0]; setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 1500);"
    )
    browser.execute_async_script(settle)  # the first events have come
    with Image.open(BytesIO(browser.get_screenshot_as_png())) as picture:
        # a page has few colours: a third of the bytes
        picture.convert("RGB").quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)


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
