"""An object store on this machine that is slow, resets connections and takes or gives half.

moto plays S3. A proxy stands before it and does to a share of the requests what networks do. The
client of pyarrow tries a request three times, so most of it is never seen above it.
"""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

from pyarrow import fs

from faults import processes
from orchestrator.store.store import Store

HARMS = ("reset before", "half request", "reset after", "half answer")
SECRETS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Proxy(ThreadingTCPServer):
    """Passes requests on to moto, and harms some."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, target: tuple[str, int], share: float, delay: float) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.target, self.share, self.delay = target, share, delay
        self.source, self.done = random.Random(0), Counter[str]()


class Passing(StreamRequestHandler):
    """One connection of a client. It ends after each request."""

    server: Proxy

    def handle(self) -> None:
        """Pass one request on, or harm it."""
        head = self.read_head()
        if not head:
            return
        source = self.server.source
        time.sleep(source.uniform(0, 2 * self.server.delay))
        harm = source.choice(HARMS) if source.random() < self.server.share else "none"
        self.server.done[harm] += 1
        if harm == "half request":
            return self.reset()  # Its body is on the way.
        body = self.read_body(head.lower())
        if harm == "reset before":
            return self.reset()
        with socket.create_connection(self.server.target) as target:
            target.sendall(without_waiting(head) + body)
            answer = b"".join(iter(lambda: target.recv(2**16), b""))
        if harm == "reset after":
            return self.reset()
        if harm == "half answer":
            self.wfile.write(answer[: len(answer) // 2])
            return self.reset()
        self.wfile.write(answer)

    def read_head(self) -> bytes:
        """Return the lines of a request up to the empty one."""
        head = b""
        while line := self.rfile.readline():
            head += line
            if not line.strip():
                if b"100-continue" in head.lower():
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return head
        return b""

    def read_body(self, head: bytes) -> bytes:
        """Return what follows a head in small letters."""
        length = re.search(rb"\r\ncontent-length: *(\d+)", head)
        if length is not None:
            return self.rfile.read(int(length[1]))
        body = b""
        if b"transfer-encoding: chunked" in head:
            while size := int((line := self.rfile.readline()).split(b";")[0], 16):
                body += line + self.rfile.read(size + 2)
            body += line
            while line := self.rfile.readline():
                body += line
                if not line.strip():
                    break
        return body

    def reset(self) -> None:
        """End the connection as a host does that has lost its state."""
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.request.close()


def without_waiting(head: bytes) -> bytes:
    """Return a head that asks the server to end the connection, and for no leave to go on."""
    lines = head.split(b"\r\n")[:-2]
    kept = [line for line in lines if not line.lower().startswith((b"expect:", b"connection:"))]
    return b"\r\n".join([*kept, b"Connection: close", b"", b""])


@contextmanager
def object_store(share: float = 0.05, delay: float = 0.005) -> Iterator[tuple[str, Any]]:
    """A store's URI, and the proxy before it.

    Args:
        share: of the requests, those that are harmed.
        delay: mean seconds that a request waits.
    """
    from moto.server import ThreadedMotoServer

    os.environ |= SECRETS
    for name in ("werkzeug", "moto.server"):
        logging.getLogger(name).disabled = True
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    proxy = Proxy(moto.get_host_and_port(), share, delay)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    direct = "{}:{}".format(*moto.get_host_and_port())
    options = "scheme=http&region=us-west-2&endpoint_override="
    makes, _ = fs.FileSystem.from_uri(f"s3://faults?allow_bucket_creation=true&{options}{direct}")
    makes.create_dir("faults")
    try:
        yield f"s3://faults/out?{options}127.0.0.1:{proxy.server_address[1]}", proxy
    finally:
        proxy.shutdown()
        moto.stop()


def share(seconds: float = 30.0) -> str:
    """Let three processes share a store on a bad network; return a line about it.

    An error of the network may end an act, never more than that: no stage is damaged, and once the
    network is well everything can be published and read.
    """
    with object_store() as (uri, proxy):
        told = processes.share(uri, seconds, allowed=("OSError",))
        harmed = sum(count for harm, count in proxy.done.items() if harm in HARMS)
        total = sum(proxy.done.values())
        proxy.share = 0.0
        store = Store(uri)
        for stage in processes.STAGES:
            processes.publish(store, stage)
            assert processes.read(store, stage) == "read"
    return f"{harmed} of {total:,} requests harmed: {told}"
