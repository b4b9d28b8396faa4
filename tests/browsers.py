"""A real headless Chromium, spoken to over its own protocol: what a reader does, and what pages ask for."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0"),
)
ANSWER_SECONDS = 120


class Browser:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self._session = ""
        self.requests: list[str] = []
        """Every address that a page asked for."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._connection.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        return self._wait(lambda found: found.get("id") == self._number)["result"]

    def _wait(self, is_wanted: Any) -> dict[str, Any]:
        while True:
            found = json.loads(self._connection.recv(ANSWER_SECONDS))
            if found.get("method") == "Network.requestWillBeSent":
                self.requests.append(found["params"]["request"]["url"])
            assert found.get("method") != "Runtime.exceptionThrown", found["params"]["exceptionDetails"]
            if is_wanted(found):
                assert "error" not in found, found
                return found

    def open(self, page: Path, fragment: str = "") -> None:
        """Load a page, anew even if only the fragment differs."""
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=f"{page.resolve().as_uri()}{'#' if fragment else ''}{fragment}")
        self._wait(lambda found: found.get("method") == "Page.loadEventFired")
        if self.ask("document.readyState") != "complete":
            self._wait(lambda found: found.get("method") == "Page.loadEventFired")

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page, or what it promises."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def point_at(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Move the pointer to a share of an element's box."""
        self.ask(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.ask(f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect();"
                       "return [b.left, b.top, b.width, b.height]; })()")  # fmt: skip
        place = {"x": box[0] + x * box[2], "y": box[1] + y * box[3]}
        self.send("Input.dispatchMouseEvent", type="mouseMoved", **place)

    def press(self, selector: str, key: str) -> None:
        """Press a key on an element."""
        self.ask(f"document.querySelector({selector!r}).focus()")
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, code=key)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """The size of the window in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale}
        self.send("Emulation.setDeviceMetricsOverride", mobile=width < 600, **size)

    def shoot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])


@contextmanager
def opening(profile: Path) -> Iterator[Browser]:
    """A browser that ends with the block."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            address = next(
                found[1] for line in process.stderr if (found := re.search(r"listening on (ws://\S+)", line))
            )
            with connect(address, max_size=None) as connection:
                yield Browser(connection)
        finally:
            process.terminate()
