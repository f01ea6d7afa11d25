"""A real browser for test_page: chromium, steered over chromedriver's own HTTP protocol."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


class Browser:
    """One headless window: enough of the protocol to open a page, look at it and click."""

    def __init__(self, profile: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"], **quiet)
        self.url = f"http://127.0.0.1:{port}"
        flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync"
        flags += " disable-background-networking disable-component-update disable-dev-shm-usage"
        flags += f" user-data-dir={profile}"
        wanted = {
            "goog:chromeOptions": {"args": [f"--{flag}" for flag in flags.split()]},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        self.wait_for_driver()
        session = self.call("/session", {"capabilities": {"alwaysMatch": wanted}})
        self.url += f"/session/{session['sessionId']}"

    def wait_for_driver(self) -> None:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{self.url}/status", timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("chromedriver does not answer")

    def call(self, path: str, body: dict | None = None, method: str = "POST") -> Any:
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:500]) from error

    def devtools(self, command: str, **params: Any) -> Any:
        return self.call("/goog/cdp/execute", {"cmd": command, "params": params})

    def open(self, path: Path, width: int = 1280, dark: bool = False, fragment: str = "") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        place = f"#{fragment}" if fragment else ""
        self.call("/url", {"url": path.as_uri() + place.replace(" ", "%20")})

    def run(self, script: str, *args: Any) -> Any:
        return self.call("/execute/sync", {"script": script, "args": list(args)})

    def choose(self, name: str, value: str) -> None:
        self.run(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event(e.tagName === 'SELECT' ? 'change' : 'input'));",
            name,
            value,
        )

    def press(self, key: str, code: int, text: str = "") -> None:
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        begin = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.devtools("Input.dispatchKeyEvent", **begin, **pressed)
        self.devtools("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def shift_click(self, selector: str) -> None:
        click = "new MouseEvent('click', {bubbles: true, shiftKey: true})"
        self.run(f"document.querySelector(arguments[0]).dispatchEvent({click})", selector)

    def shown(self) -> list[dict]:
        return self.run(
            "return document.getElementById('plot').data.map(t => ({...t.meta, x: t.x, y: t.y,"
            " axis: t.yaxis ?? 'y', color: t.line?.color, opacity: t.opacity ?? 1, name: t.name,"
            " hover: t.hovertext}))"
        )

    def curves(self) -> list[dict]:
        return [trace for trace in self.shown() if trace["kind"] == "curve"]

    def table(self) -> list[list[str]]:
        return self.run(
            "return [...document.querySelectorAll('#rows tbody tr')]"
            ".map(r => [...r.cells].map(c => c.textContent))"
        )

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.call("/se/log", {"type": "browser"})]

    def close(self) -> None:
        try:
            self.call("", method="DELETE")
        finally:
            self.driver.terminate()
            self.driver.wait(timeout=30)
