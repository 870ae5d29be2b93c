"""A browser that tests open pages in."""

import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import websocket

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

CONTRASTS = """
(() => {
  const light = (c) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = c.match(/[\\d.]+/g).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const under = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (c !== "rgba(0, 0, 0, 0)") return c;
    }
  };
  const ratios = {};
  for (const s of SELECTORS.split(","))
    for (const e of document.querySelectorAll(s)) {
      const own = getComputedStyle(e);
      const [a, b] = [light(e.closest("svg") ? own.fill : own.color), light(under(e))].sort((p, q) => q - p);
      ratios[s] = Math.min(ratios[s] ?? 99, (a + 0.05) / (b + 0.05));
    }
  return ratios;
})()
"""


class Browser:
    """Headless Chromium, by the DevTools protocol. `events` holds all that it told so far."""

    def __init__(self, profile: Path):
        quiet = ["background-networking", "component-update", "sync", "gpu", "quic"]
        flags = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
        flags += [f"--user-data-dir={profile}", "--remote-debugging-port=0", "--hide-scrollbars", "about:blank"]
        self.process = subprocess.Popen([CHROMIUM, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.events, self.number = [], 0
        port = self._port(profile / "DevToolsActivePort")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/json") as answer:
            page = next(t for t in json.load(answer) if t["type"] == "page")
        self.socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=60, suppress_origin=True)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def _port(self, file: Path) -> str:
        for _ in range(600):
            if file.exists() and file.read_text().count("\n"):
                return file.read_text().split()[0]
            time.sleep(0.1)
        raise TimeoutError("Chromium did not start within a minute")

    def do(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def open(self, file: Path, width=1280, height=900, dark=False):
        self.events.clear()
        self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", features=[scheme])
        self.do("Page.navigate", url=file.as_uri())
        loaded = f"document.readyState == 'complete' && location.href == {json.dumps(file.as_uri())}"
        for _ in range(600):
            if self.value(loaded):
                return
            time.sleep(0.1)
        raise TimeoutError("the page was not there within a minute")

    def value(self, expression):
        answer = self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, **parameters):
        """PNG as base64; of the whole page, or of a `clip`."""
        return self.do("Page.captureScreenshot", captureBeyondViewport=True, **parameters)["data"]

    def complaints(self):
        """Errors and whatever else stands in the console."""
        told = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
        return [event for event in self.events if event["method"] in told]

    def asked(self):
        """The schemes of all that the page read."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return {parameters["request"]["url"].split(":")[0] for parameters in sent}

    def contrasts(self, selectors):
        """Of each that is on the page, the least ratio of a text's light to that behind it (WCAG)."""
        return self.value(CONTRASTS.replace("SELECTORS", json.dumps(selectors)))

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)
