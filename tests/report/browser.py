"""A small client of Chromium's DevTools over its debugging pipe: no port, no driver, no further package."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import axe_core_python

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage")
AXE = Path(os.environ.get("AXE_CORE") or Path(axe_core_python.__file__).with_name("axe.min.js"))
PHONE = 375
FLAGS = ["--headless", "--no-sandbox", "--no-first-run", "--remote-debugging-pipe", *(f"--disable-{x}" for x in QUIET)]


# clicks every column head twice and names the columns whose numbers then stand in no order
UNSORTED = """[...document.querySelectorAll('table.sortable')].flatMap(table =>
  [...table.tHead.rows[0].cells].flatMap((head, column) => [1, 2].flatMap(() => {
    head.querySelector('button').click();
    const down = head.getAttribute('aria-sort') === 'descending';
    const keys = [...table.tBodies[0].rows].map(row => key(row, column)).filter(k => typeof k === 'number');
    return keys.every((k, i) => !i || (down ? keys[i - 1] >= k : keys[i - 1] <= k)) ? [] : [head.textContent];
  })))"""


class Tab:
    """One page in a browser of its own: `call` speaks the protocol, `do` runs JavaScript, `events` is what it saw."""

    def __enter__(self) -> Tab:
        self.profile = tempfile.mkdtemp()
        theirs, mine = zip(os.pipe(), os.pipe()[::-1], strict=True)  # (they read, they write), (we write, we read)
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in theirs]

        def to_three_and_four() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        command = [str(BINARY), *FLAGS, f"--user-data-dir={self.profile}"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, preexec_fn=to_three_and_four, pass_fds=(3, 4), stdout=quiet, stderr=quiet, start_new_session=True
        )
        for fd in (*theirs, *high):
            os.close(fd)
        self.out, self.back = os.fdopen(mine[0], "wb", 0), os.fdopen(mine[1], "rb", 0)
        self.number, self.rest, self.session, self.events = 0, b"", "", list[dict[str, Any]]()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.session = ""
        self.call("Browser.close")
        self.process.wait(20)
        self.out.close()
        self.back.close()
        shutil.rmtree(self.profile, ignore_errors=True)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer)
                found: dict[str, Any] = answer["result"]
                return found
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = self.back.read(1 << 20)
            assert part, "the browser ended"
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def open(self, page: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def do(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def width(self, pixels: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=pixels, height=800, deviceScaleFactor=1, mobile=True)

    def barriers(self) -> list[Any]:
        """What axe-core finds in the page as it stands: rule and places."""
        self.do(AXE.read_text(encoding="utf-8"))
        script = "axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.target.join(' '))]))"
        found: list[Any] = self.do(script)
        return found

    def faults(self, page: Path) -> list[Any]:
        """Of a page at a desk and on a phone: barriers, sideways scrolling, unsorted columns, errors, requests."""
        found: list[Any] = []
        for width in (1280, PHONE):
            self.width(width)
            self.open(page)
            wide = self.do("document.scrollingElement.scrollWidth")
            found += self.barriers() + ([f"{wide} px wide"] if wide > width else []) + self.do(UNSORTED)
            found += self.complaints()
        return found

    def complaints(self) -> list[Any]:
        """Console messages, uncaught errors, and requests for anything but the page and data in it."""
        self.do("1")
        bad = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        found = [event for event in self.events if event["method"] in bad]
        sent = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return found + [url for url in sent if not url.startswith(("file:", "data:"))]
