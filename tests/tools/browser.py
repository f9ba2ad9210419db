"""Chromium without a screen, from Debian's packages, and what it finds in a page."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

_PROGRAMS = ("chromium", "chromedriver")
_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
# A busy machine takes a while.
_PATIENCE = 120.0


def missing() -> str | None:
    """Return why there is no browser, or None if there is one."""
    names = [name for name in _PROGRAMS if shutil.which(name) is None]
    if not names:
        return None
    return f"{' and '.join(names)} not installed: apt-get install chromium chromium-driver"


class Browser:
    """A window of Chromium.

    Attributes:
        driver: selenium's.
    """

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Open a page and wait until it has loaded; what was seen of the last one is forgotten."""
        self.driver.get("about:blank")
        self._log("performance")
        self._log("browser")
        self.driver.get(url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script returns, in the page."""
        return self.driver.execute_script(script, *arguments)

    def wait_for(self, what: str, script: str) -> Any:
        """Return what a script in the page returns, once that is true."""
        return self.wait_until(what, lambda: self.run(script))

    def wait_until(self, what: str, holds: Callable[[], Any]) -> Any:
        """Return what a function returns, once that is true."""
        wait = WebDriverWait(self.driver, _PATIENCE)
        return wait.until(lambda _: holds(), f"{what} did not appear")

    @property
    def text(self) -> str:
        """What the page shows in letters."""
        return str(self.run("return document.body.innerText"))

    def requests(self) -> tuple[list[str], list[str]]:
        """Return the addresses that the page asked for so far, and those that failed and why."""
        asked: dict[str, str] = {}
        failed: list[str] = []
        for entry in self._log("performance"):
            event = json.loads(entry["message"])["message"]
            method, details = event["method"], event["params"]
            number = details.get("requestId")
            if method == "Network.requestWillBeSent":
                asked[number] = details["request"]["url"]
            elif method == "Network.loadingFailed" and not details.get("canceled"):
                failed.append(f"{asked.get(number)}: {details['errorText']}")
            elif method == "Network.responseReceived" and details["response"]["status"] >= 400:
                failed.append(f"{asked.get(number)}: {details['response']['status']}")
        return list(asked.values()), failed

    def complaints(self, *levels: str) -> list[str]:
        """Return what the page has written to the console so far, of levels such as "SEVERE"."""
        return [entry["message"] for entry in self._log("browser") if entry["level"] in levels]

    def fit_page(self) -> None:
        """Make the window as high as the page."""
        height = self.run("return document.documentElement.scrollHeight")
        self.driver.set_window_size(self.driver.get_window_size()["width"], int(height) + 200)

    def screenshot(self, path: Path | None = None) -> np.ndarray[Any, Any]:
        """Return the window as pixels, (height, width, 3), from 0 to 255.

        Args:
            path: where to save it as well, as PNG; None for nowhere.
        """
        shot = self.driver.get_screenshot_as_png()
        if path is not None:
            path.write_bytes(shot)
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))

    def _log(self, kind: str) -> list[Any]:
        return self.driver.get_log(kind)


@contextmanager
def browser(profile: Path, width: int = 1280, height: int = 1600) -> Iterator[Browser]:
    """Run Chromium during the block.

    Args:
        profile: a folder for what it keeps, new and empty.
        width: of the window, in pixels.
        height: of the window, in pixels.
    """
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
