"""Debian's Chromium without a window, told what to do by the DevTools protocol.

The protocol goes over an inherited socket, one JSON object after the other, so nothing listens on
a port, and Chromium ends when the tests do, however they end.
"""

from __future__ import annotations

import base64
import io
import json
import os
import resource
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image

PROGRAM = "/usr/bin/chromium"
COMMAND = [PROGRAM, "--headless", "--remote-debugging-pipe", "--window-size=900,700"]
# It meets nobody but our own site; and as root, or in a container, it would not start otherwise.
COMMAND += ["--no-sandbox", "--no-proxy-server"]
DEADLINE = 60.0

Message = dict[str, Any]


def unavailable() -> str | None:
    """Why Chromium cannot run here, None when it can."""
    if not os.path.exists(PROGRAM):
        return f"{PROGRAM} is not installed"
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return "Chromium reserves more addresses than the limit (ulimit -v) allows"
    return None


class Chromium:
    """A browser with a profile of its own."""

    def __init__(self) -> None:
        self.home = tempfile.TemporaryDirectory("-chromium", ignore_cleanup_errors=True)
        self._last_id = 0
        self.events: list[Message] = []
        self._buffer = b""
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(DEADLINE)
        profile = f"--user-data-dir={self.home.name}/profile"
        with theirs, open(f"{self.home.name}/stderr", "wb") as stderr:
            self._process = subprocess.Popen(
                # It reads commands from 3 and writes answers to 4.
                ["/bin/sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >&2', "sh", *COMMAND, profile],
                env={"HOME": self.home.name, "PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
                stdin=theirs,
                stdout=theirs,
                stderr=stderr,
            )

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(DEADLINE)
        finally:
            self._process.kill()
            self._process.wait()
            self._socket.close()
            self.home.cleanup()

    def call(self, method: str, session: str | None = None, **params: Any) -> Message:
        """Send a command and wait for its answer."""
        self._last_id += 1
        command = {"id": self._last_id, "method": method, "params": params}
        if session:
            command["sessionId"] = session
        self._socket.sendall(json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + DEADLINE
        while True:
            message = self._receive(deadline)
            if message.get("id") == self._last_id:
                assert "error" not in message, (command, message["error"])
                return message["result"]

    def wait_for(self, method: str, wanted: Callable[[Message], object] = bool) -> Message:
        """The parameters of the first such event since a page was opened, or of the next one."""
        deadline = time.monotonic() + DEADLINE
        while True:
            for event in self.events:
                if event["method"] == method and wanted(event["params"]):
                    self.events.remove(event)
                    return event["params"]
            self._receive(deadline)

    def _receive(self, deadline: float) -> Message:
        while b"\0" not in self._buffer:
            assert time.monotonic() < deadline, "it did not happen in time"
            self._buffer += self._socket.recv(1 << 20) or self._ended()
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def _ended(self) -> NoReturn:
        raise RuntimeError(Path(self.home.name, "stderr").read_text()[-4000:])

    def download(self) -> tuple[str, bytes]:
        """Wait for a download that begins; its name and content when it is there."""
        begun = self.wait_for("Browser.downloadWillBegin")
        ended = self.wait_for(
            "Browser.downloadProgress",
            lambda it: it["guid"] == begun["guid"] and it["state"] != "inProgress",
        )
        assert ended["state"] == "completed", ended
        path = Path(ended["filePath"])
        content = path.read_bytes()
        path.unlink()
        return begun["suggestedFilename"], content


class Page:
    """A tab."""

    def __init__(self, browser: Chromium) -> None:
        self.browser = browser
        self.target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)
        self._session = attached["sessionId"]
        self.call("Page.enable")

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)

    def call(self, method: str, **params: Any) -> Message:
        return self.browser.call(method, self._session, **params)

    def go(self, url: str) -> str | None:
        """Open an address; the reason when that shows nothing."""
        self.browser.events.clear()
        answer = self.call("Page.navigate", url=url)
        if "errorText" in answer:
            return answer["errorText"]
        self.browser.wait_for("Page.loadEventFired")
        return None

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, name: str) -> Image.Image:
        """How it looks; kept for somebody's eyes, where NETSTORAGE_SCREENSHOTS says."""
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if folder := os.environ.get("NETSTORAGE_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, name).write_bytes(png)
        return Image.open(io.BytesIO(png)).convert("RGB")
