"""The live page's server, which listens on loopback only.

It has two addresses, the page and its contents, both made from rows; no path of a request ever
names a file. Everybody who is logged in on this machine can read them; nobody else can.

It is the standard library's server, and the page asks it again and again. So the live page is the
same page that a sweep writes, no further package is needed, and unchanged contents are not sent.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from core.checks import BadInputError
from orchestrator.page.document import page_html
from orchestrator.page.side_by_side import side_by_side
from orchestrator.page.watched import Watched

LOOPBACK = "127.0.0.1"
PORT = 8790
NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Hosts that a request may name; a foreign name that was made to point here is refused."""
CONTENTS = "contents.json"
SECONDS_RUNNING, SECONDS_IDLE = 2, 10
"""Seconds between two questions of the page."""
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LiveServer(ThreadingHTTPServer):
    """Server of the page of one out-dir or several; it binds loopback only."""

    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # On Windows two servers could share a port.

    def __init__(self, sweeps: list[Watched], port: int) -> None:
        """Listen on a port, 0 for any; raise OSError if it is taken."""
        self.sweeps = sweeps
        self.drawing = threading.Lock()
        self.comparison: tuple[str, dict[str, Any]] = ("", {})
        super().__init__((LOOPBACK, port), LivePage)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print errors of a request, but not that a browser has gone before its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """The address for a browser."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def contents(self, number: int, since: str | None = None) -> dict[str, Any]:
        """Return the page's contents for one out-dir, or only progress if `since` is current."""
        with self.drawing:
            sweep = self.sweeps[number]
            shown = sweep.contents()
            progress = sweep.progress()
            again = SECONDS_RUNNING if progress["running"] else SECONDS_IDLE
            news = {"progress": progress, "again": again, "version": shown["version"]}
            if len(self.sweeps) > 1:
                version, comparison = self.compared()
                names = [sweep.name for sweep in self.sweeps]
                news["sweeps"] = {"names": names, "chosen": number, **comparison}
                news["version"] += version
                progress["note"] = f"{names[number]}: {progress['note']}"
            if since == news["version"]:
                return {name: news[name] for name in ("progress", "again", "version")}
            return shown | news

    def compared(self) -> tuple[str, dict[str, Any]]:
        """Return all out-dirs side by side, compared anew only when one has changed."""
        version = "".join(sweep.refresh() for sweep in self.sweeps)
        if self.comparison[0] != version:
            rows = [sweep.rows() for sweep in self.sweeps]
            records = [sweep.record for sweep in self.sweeps]
            self.comparison = version, side_by_side(rows, records)
        return self.comparison


class LivePage(BaseHTTPRequestHandler):
    """One request."""

    server: LiveServer  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "prune-sweep", ""
    timeout = 30

    def do_GET(self) -> None:
        """Answer with the page or its contents."""
        host = self.headers.get("Host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in NAMES:
            self.answer(HTTPStatus.FORBIDDEN, "text/plain", b"open this page by its own address\n")
            return
        url = urlsplit(self.path)
        asked = {key: values[-1] for key, values in parse_qs(url.query).items()}
        number = asked.get("sweep", "0")
        if not (number.isascii() and number.isdigit() and int(number) < len(self.server.sweeps)):
            self.answer(HTTPStatus.NOT_FOUND, "text/plain", b"no such sweep\n")
        elif url.path == "/":
            shown = self.server.contents(int(number))
            self.answer(HTTPStatus.OK, "text/html", page_html(shown, CONTENTS).encode())
        elif url.path == f"/{CONTENTS}":
            shown = self.server.contents(int(number), asked.get("since"))
            body = json.dumps(shown, allow_nan=False, separators=(",", ":")).encode()
            self.answer(HTTPStatus.OK, "application/json", body)
        else:
            self.answer(HTTPStatus.NOT_FOUND, "text/plain", b"nothing here\n")

    def do_HEAD(self) -> None:
        """Answer like GET, without the body."""
        self.do_GET()

    def answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        """Send a whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: a page that asks every two seconds would fill the terminal."""


def serve(sweeps: list[Watched], port: int | None) -> LiveServer:
    """Return a server that listens on the given port, else on the usual one or any other.

    Raises:
        ValueError: The given port is taken.
    """
    if port is not None:
        try:
            return LiveServer(sweeps, port)
        except OSError as error:
            raise BadInputError(f"--port {port}: {error.strerror}; leave it out for any") from None
    try:
        return LiveServer(sweeps, PORT)
    except OSError:
        return LiveServer(sweeps, 0)
