"""A hub on this machine: what its client asks of it to list and download files, nothing else."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class FakeHub:
    """Repositories by kind and name; each revision is a commit and a folder."""

    revisions: dict[tuple[str, str, str], tuple[str, Path]] = field(default_factory=dict)
    url: str = ""

    def add(self, kind: str, repo: str, revision: str, commit: str, folder: Path) -> None:
        """A revision that can be named, also by its commit."""
        for name in (revision, commit):
            self.revisions[kind, repo, name] = (commit, folder)

    def find(self, path: str) -> tuple[str, Path, str | None] | None:
        """Commit and folder, and the file within it, that the path of a request means."""
        words = path.strip("/").split("/")
        if words[0] == "api":
            kind, repo = words[1].removesuffix("s"), "/".join(words[2:4])
            revision = unquote(words[5]) if len(words) > 5 else "main"
            file = None
        else:
            kind = "dataset" if words[0] == "datasets" else "model"
            words = words[1:] if kind == "dataset" else words
            repo, revision, file = "/".join(words[:2]), unquote(words[3]), "/".join(words[4:])
        found = self.revisions.get((kind, repo, revision))
        return None if found is None else (*found, file)

    @contextmanager
    def serve(self) -> Iterator[FakeHub]:
        """Answers on a free port of this machine."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:  # noqa: N802
                self.answer(body=False)

            def do_GET(self) -> None:  # noqa: N802
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                path = urlsplit(self.path).path
                found = hub.find(path)
                data, status = b"{}", 404
                headers = {"Content-Type": "application/json"}
                if found is None:
                    headers["X-Error-Code"] = "RevisionNotFound"
                elif found[2] is None:
                    status, data = 200, json.dumps(listing(path, *found[:2])).encode()
                elif not (found[1] / found[2]).is_file():
                    headers["X-Error-Code"] = "EntryNotFound"
                else:
                    status, data = 200, (found[1] / found[2]).read_bytes()
                    headers["X-Repo-Commit"] = found[0]
                    headers["ETag"] = f'"{hashlib.sha1(data).hexdigest()}"'
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, *_) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


def listing(path: str, commit: str, folder: Path) -> object:
    """Return the hub's answer about a revision: its commit and files, or its tree."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    names = [str(file.relative_to(folder)) for file in files]
    if "/tree/" in path:
        return [
            {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
            for name, file in zip(names, files)
        ]
    siblings = [{"rfilename": name} for name in names]
    return {"id": "/".join(path.split("/")[3:5]), "sha": commit, "siblings": siblings}
