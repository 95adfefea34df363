"""A headless Chromium, driven over its own debugging protocol: JSON texts through two pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--hide-scrollbars",
    "--lang=en-US",
    "--no-first-run",
    "--remote-debugging-pipe",
)


def executable() -> str:
    """Empty: there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")


class BrowserError(AssertionError):
    """The browser refused, or the page's script failed."""


class Page:
    """A tab of the browser, with cookies of its own.

    :param call: sends a command of the protocol to this tab.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self("Page.enable")
        self("Runtime.enable")
        self("Network.enable")
        self("Log.enable")
        self.resize(1500, 950)

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, params, self._session)

    def resize(self, width: int, height: int) -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def dark(self, is_dark: bool = True) -> None:
        """As the user's system prefers it."""
        value = "dark" if is_dark else "light"
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def cookie(self, name: str, value: str, url: str) -> None:
        self("Network.setCookie", name=name, value=value, url=url)

    def open(self, url: str) -> None:
        self("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript; a promise's once it is there."""
        try:
            done = self("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        except BrowserError as error:
            if "navigated" not in str(error):  # the page before was still there
                raise
            done = self("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise BrowserError(json.dumps(done["exceptionDetails"])[:2000])
        return done["result"].get("value")

    def text(self, selector: str = ".cj") -> str:
        """What is to be read there; empty: there is no such element."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def count(self, selector: str) -> int:
        return int(self.run(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def wait_for_text(self, text: str, selector: str = ".cj", seconds: float = 240.0) -> None:
        end = time.monotonic() + seconds
        while text not in (seen := self.text(selector)):
            if not seen and self._browser.take_network_change(self._session):
                self("Page.reload")
            if time.monotonic() > end:
                body = self.run("document.body?.innerText ?? ''")
                raise BrowserError(
                    f"{text!r} is not in {selector} after {seconds:g} s: {seen!r}; the page: {body[:1500]!r}"
                )
            time.sleep(0.2)

    def picture(self, path: Path) -> None:
        data = self("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def troubles(self) -> list[str]:
        """What the page's console and network said went wrong since the last call."""
        return self._browser.troubles_of(self._session)


class Browser:
    """
    :param to: file descriptor that Chromium reads from.
    """

    def __init__(self, to: int, answers: int) -> None:
        self._to, self._answers = to, os.fdopen(answers, "rb", 0)
        self._numbers = count(1)
        self._rest = b""
        self._events: list[dict[str, Any]] = []

    def page(self) -> Page:
        """A new one, which shares nothing with the others."""
        context = self.call("Target.createBrowserContext", {})["browserContextId"]
        target = self.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})["targetId"]
        return Page(self, self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"])

    def call(self, method: str, params: dict[str, Any], session: str = "") -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") != number:
                self._events.append(answer)
            elif "error" in answer:
                raise BrowserError(f"{method}: {answer['error']}")
            else:
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = self._answers.read(1 << 16)
            if not read:
                raise BrowserError("Chromium has ended")
            self._rest += read
        text, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(text))

    def take_network_change(self, session: str) -> bool:
        """Whether requests were broken off since a network came or went, as those of Docker do: Chromium's own idea."""
        mine = [event for event in self._events if event.get("sessionId") == session and NETWORK_CHANGED in str(event)]
        self._events = [event for event in self._events if event not in mine]
        return bool(mine)

    def troubles_of(self, session: str) -> list[str]:
        mine = [event for event in self._events if event.get("sessionId") == session]
        self._events = [event for event in self._events if event.get("sessionId") != session]
        return [text for event in mine if (text := _trouble(event))]


def _trouble(event: dict[str, Any]) -> str:
    params = event.get("params", {})
    match event.get("method"):
        case "Runtime.exceptionThrown":
            return json.dumps(params["exceptionDetails"])[:1000]
        case "Runtime.consoleAPICalled" if params["type"] == "error":
            return " ".join(str(arg.get("value", arg.get("description", ""))) for arg in params["args"])[:1000]
        case "Network.loadingFailed" if not params.get("canceled"):
            return str(params["errorText"])
        case "Log.entryAdded" if params["entry"]["level"] == "error":
            return f"{params['entry']['text']} {params['entry'].get('url', '')}"
    return ""


@contextmanager
def chromium() -> Iterator[Browser]:
    """One process of it, ended on leaving."""
    from_us, to_us = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="customjob-browser-", ignore_cleanup_errors=True) as profile:
        command = f'exec "$0" "$@" 3<&{from_us[0]} 4>&{to_us[1]}'
        process = subprocess.Popen(
            ["bash", "-c", command, executable(), *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(from_us[0], to_us[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us[0])
        os.close(to_us[1])
        browser = Browser(from_us[1], to_us[0])
        try:
            yield browser
        finally:
            os.close(from_us[1])  # Chromium ends with its pipe
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
