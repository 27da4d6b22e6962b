"""A headless Chromium, driven over a pipe by its own protocol, for what only a browser can say of a page."""

import base64
import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"),
    *("--remote-debugging-pipe", "--hide-scrollbars", "--no-first-run"),
)
_KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27, "Enter": 13}

CHROMIUM = next((found for name in _NAMES if (found := shutil.which(name))), None)
"""The program, or None where there is none."""


class Tab:
    """A page that is open."""

    def __init__(self, read: int, write: int) -> None:
        self._in, self._out = os.fdopen(read, "rb", buffering=0), os.fdopen(write, "wb", buffering=0)
        self._number, self._rest, self._session = 0, b"", None
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; events on the way are noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        self._out.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def close(self) -> None:
        """Close the pipe."""
        self._in.close()
        self._out.close()

    def open(self, file: Path, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        """Load a file, and wait until it is loaded."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                 mobile=width < 500)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.requests.clear()
        self.ask("Page.navigate", url=file.as_uri())
        while (event := self._next()).get("method") != "Page.loadEventFired":
            self._note(event)

    def run(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def drawn(self) -> None:
        """Wait until what has changed is drawn: what is seen is known from then on."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        for key in keys:
            code = {"key": key, "windowsVirtualKeyCode": _KEYS.get(key, ord(key[0].upper()))}
            text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
            self.ask("Input.dispatchKeyEvent", type="keyDown", **code, **text)
            self.ask("Input.dispatchKeyEvent", type="keyUp", **code)

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        """Save what is seen, or the whole page, as a PNG."""
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))

    def _next(self) -> Mapping[str, Any]:
        while b"\0" not in self._rest:
            read = self._in.read(1 << 20)
            assert read, "the browser has gone"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: Mapping[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        if event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])


@contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    """A browser with one tab; its files go into `profile`."""
    assert CHROMIUM is not None
    (from_us, to_it), (from_it, to_us) = os.pipe(), os.pipe()
    for end in (to_it, from_it):
        os.set_inheritable(end, False)
    null = os.open(os.devnull, os.O_RDWR)
    arguments = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    # It reads from 3 and writes to 4. Moved out of the way first: a pipe may itself be one of the two.
    ours, theirs = os.dup(from_us), os.dup(to_us)
    actions = [(os.POSIX_SPAWN_DUP2, source, target) for source, target in
               ((null, 0), (null, 1), (null, 2), (ours, 103), (theirs, 104), (103, 3), (104, 4))]  # fmt: skip
    process = os.posix_spawn(
        CHROMIUM, arguments, {**os.environ, "HOME": str(profile)}, file_actions=actions, setpgroup=0
    )
    for end in (from_us, to_us, ours, theirs, null):
        os.close(end)
    tab = None
    try:
        tab = Tab(from_it, to_it)
        yield tab
    finally:
        if tab is not None:
            tab.close()
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
