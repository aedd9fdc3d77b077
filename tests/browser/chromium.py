"""A headless Chromium that talks to nobody but the pages it is told to open."""

import os
import shutil
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.conftest import HANG_S

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium_in(profile: Path) -> webdriver.Chrome:
    """The Chromium that is installed, with a new profile in this folder and temporary files beside it. `quit()` ends it."""
    driver_path = shutil.which("chromedriver")  # or Selenium would download one
    assert driver_path, "chromedriver is missing: apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    environment = {**os.environ, "TMPDIR": str(profile.parent)}  # a socket among its temporary files: a short path
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path, env=environment))
    driver.set_script_timeout(HANG_S)
    return driver
