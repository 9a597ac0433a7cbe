"""A headless Chromium that a test drives by its DevTools protocol, and a server of static files.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_SECONDS, ANSWER_SECONDS, PATIENCE_SECONDS = 120.0, 60.0, 120.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-extensions",
    "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--remote-debugging-port=0",
)


def chromium() -> str:
    """Return the browser's path, or skip the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here, which runs the page; on Debian: apt-get install chromium")
    return found


class Tab:
    """A page in the browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._numbers = connection, itertools.count(1)
        self.requested: list[str] = []
        """All addresses that were asked for."""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the answer to a command; what is told meanwhile is noted."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(timeout=ANSWER_SECONDS))
            if message.get("method") == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def value(self, expression: str) -> Any:
        """Return what an expression comes to; promises are waited for."""
        answer = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not self.value(expression):
            said = self.value("document.body && document.body.innerText")
            assert time.monotonic() < end, f"{expression} did not come; the page says: {said}"
            time.sleep(0.05)

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file in an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


@contextmanager
def tab(address: str, microphone: Path, profile: Path) -> Iterator[Tab]:
    """Open a page in a browser of its own.

    Args:
        address: of the page.
        microphone: a WAV file that is heard once.
        profile: an empty folder.
    """
    command = [chromium(), *FLAGS, f"--user-data-dir={profile}"]
    command.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    process = subprocess.Popen(
        [*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        port_file, end = profile / "DevToolsActivePort", time.monotonic() + START_SECONDS
        while not (port_file.exists() and port_file.read_text().strip()):
            assert process.poll() is None and time.monotonic() < end, "Chromium did not start"
            time.sleep(0.05)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            targets = json.loads(answer.read())
        page = next(item for item in targets if item["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as connection:
            opened = Tab(connection)
            opened.call("Network.enable")
            opened.call("Page.enable")
            opened.call("Page.navigate", url=address)
            yield opened
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder's files on loopback, and yield the address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
