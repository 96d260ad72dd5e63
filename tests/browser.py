"""A headless Chromium for tests, spoken to over a pipe (the DevTools protocol); the standard library is enough."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    """Where a Chromium is, or ``None``."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page of a browser of its own.

    Attributes:
        requests: URLs the page asked for.
        complaints: exceptions, console errors and refusals of the page's own policy.
    """

    def __init__(self, program: str, profile: Path) -> None:
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        flags = (
            "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --hide-scrollbars "
            f"--disable-background-networking --remote-debugging-pipe --user-data-dir={profile}"
        )
        # the protocol wants the file descriptors 3 and 4, which may be those of our pipes already, the wrong way round
        moved = f"30<&{to_read} 31>&{to_write} 3<&30 4>&31 30<&- 31>&-"
        command = f'exec "$0" {flags} about:blank {moved}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, program],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._count = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self._ask("Target.createTarget", {"url": "about:blank"}, session="")["targetId"]
        self._session = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True}, session="")[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")

    _session = ""

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._to)
        os.close(self._from)

    def open(self, path: Path, width: int = 1440, height: int = 900, dark: bool = False, offline: bool = True) -> None:
        """Load a file at a window size, without a network."""
        self.requests.clear()
        self.complaints.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._ask("Emulation.setEmulatedMedia", {"features": scheme})
        self._ask("Page.navigate", {"url": path.resolve().as_uri()})
        while not self.run("document.readyState === 'complete' && location.href !== 'about:blank'"):
            pass

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self._ask("Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True})
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"]["exception"].get("description", answer))
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        answer = self._ask("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self) -> bytes:
        """The page as it prints."""
        return base64.b64decode(self._ask("Page.printToPDF", {"printBackground": True})["data"])

    def _ask(self, method: str, parameters: dict[str, Any] | None = None, session: str | None = None) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters or {}}
        if session is None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            said = self._listen()
            if said.get("id") == self._count:
                if "error" in said:
                    raise AssertionError(f"{method}: {said['error']}")
                result: dict[str, Any] = said["result"]
                return result

    def _listen(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._from, 1 << 16)
            if not part:
                raise AssertionError("the browser ended")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        said: dict[str, Any] = json.loads(line)
        parameters = said.get("params", {})
        if said.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif said.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif said.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.complaints.append(str(parameters["args"]))
        elif said.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(parameters["entry"]["text"])
        return said
