"""The live page's server, which listens on loopback only.

It has three addresses, the page, its contents and details of stages, all made from rows; no path of
a request ever names a file. Everybody who is logged in on this machine can read them; nobody else
can.

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
from orchestrator.page.contents import contents_of, joined
from orchestrator.page.document import page_html
from orchestrator.page.news import news_between, values_of
from orchestrator.page.side_by_side import differing_settings
from orchestrator.page.watched import Watched
from orchestrator.results.details import details_of

LOOPBACK = "127.0.0.1"
PORT = 8790
NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Hosts that a request may name; a foreign name that was made to point here is refused."""
CONTENTS, DETAILS = "contents.json", "details.json"
SECONDS_RUNNING, SECONDS_IDLE = 2, 10
"""Seconds between two questions of the page."""
REMEMBERED = 4
"""Contents that the server keeps, to tell a page what is new since one of them."""
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
        self.shown: dict[str, dict[str, Any]] = {}
        super().__init__((LOOPBACK, port), LivePage)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print errors of a request, but not that a browser has gone before its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """The address for a browser."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def contents(self, since: str | None = None) -> dict[str, Any]:
        """Return what a page lacks: all, what is new since a version of it, or only progress."""
        with self.drawing:
            version = "".join(sweep.refresh() for sweep in self.sweeps)
            if version not in self.shown:
                self.shown[version] = self.drawn()
                while len(self.shown) > REMEMBERED:
                    self.shown.pop(next(iter(self.shown)))
            progress = together([(sweep.name, sweep.progress()) for sweep in self.sweeps])
            again = SECONDS_RUNNING if progress["running"] else SECONDS_IDLE
            news = {"progress": progress, "again": again, "version": version}
            if since == version:
                return news
            known = self.shown.get(since or "")
            changed = None if known is None else news_between(known, self.shown[version])
            return (self.shown[version] if changed is None else {"changed": changed}) | news

    def details(self, board: str, target: str) -> dict[str, Any]:
        """Return layers and losses of one board at one target, which large pages ask for."""
        with self.drawing:
            contents = next(reversed(self.shown.values()))
            points = [
                p for line in contents["lines"] if line["board"] == board for p in line["points"]
            ]
            places = {i for point in points if point["target"] == target for i in point["rows"]}
            stages, names = (values_of(contents["rows"], name) for name in ("stage_id", "sweep"))
            found = []
            for sweep in self.sweeps:
                name = sweep.name if len(self.sweeps) > 1 else ""
                mine = [stages[i] for i in places if names[i] == name]
                rows = [{"stage_id": stage, "in_current_grid": True} for stage in mine]
                found.append(details_of(rows, sweep.manifest))
            return joined(found)

    def drawn(self) -> dict[str, Any]:
        """Return the contents of the page of all out-dirs."""
        several = len(self.sweeps) > 1
        contents = contents_of([sweep.part(sweep.name if several else "") for sweep in self.sweeps])
        if several:
            settings = differing_settings([sweep.record for sweep in self.sweeps])
            names = [sweep.name for sweep in self.sweeps]
            contents["sweeps"] = {"names": names, "settings": settings}
        return contents


def together(parts: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return the progress of several sweeps as that of one."""
    if len(parts) == 1:
        return parts[0][1]
    return {
        "note": " ".join(f"{name}: {part['note']}" for name, part in parts),
        "trials": [
            {**trial, "name": f"{name}: {trial['name']}"}
            for name, part in parts
            for trial in part["trials"]
        ],
        "cells": [cell for _, part in parts for cell in part["cells"]],
        "events": [event for _, part in parts for event in part["events"]],
        "running": any(part["running"] for _, part in parts),
    }


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
        if url.path == "/":
            shown = self.server.contents()
            self.answer(HTTPStatus.OK, "text/html", page_html(shown, CONTENTS).encode())
        elif url.path == f"/{CONTENTS}":
            shown = self.server.contents(asked.get("since"))
            self.answer_json(shown)
        elif url.path == f"/{DETAILS}" and self.server.shown:
            self.answer_json(self.server.details(asked.get("board", ""), asked.get("at", "")))
        else:
            self.answer(HTTPStatus.NOT_FOUND, "text/plain", b"nothing here\n")

    def do_HEAD(self) -> None:
        """Answer like GET, without the body."""
        self.do_GET()

    def answer_json(self, shown: dict[str, Any]) -> None:
        """Send values as JSON."""
        body = json.dumps(shown, allow_nan=False, separators=(",", ":")).encode()
        self.answer(HTTPStatus.OK, "application/json", body)

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
