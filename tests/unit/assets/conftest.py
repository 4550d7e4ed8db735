"""A file server on the loopback interface that can misbehave, and a cache of its own for every test."""

from __future__ import annotations

import hashlib
import http.server
import random
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everypoint.assets import download
from everypoint.assets.registry import Asset


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files`` (path -> bytes) with ranges; ``faults`` (path -> functions) come first, one a request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Callable[[Handler, bytes], None]]] = {}
        self.ranges = True
        self.seen: list[tuple[str, str | None]] = []  # (path, Range header)
        self.gate = threading.Event()  # what a stalled request waits for; opened at the end of the test

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, *_: object) -> None:
        """Clients that go away are part of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Range")))
        data = self.server.files.get(self.path, b"")
        self.close_connection = True
        if faults := self.server.faults.get(self.path):
            (faults.pop(0) if len(faults) > 1 else faults[0])(self, data)
        elif self.path not in self.server.files:
            self.answer(404, b"not here", "text/plain")
        else:
            self.serve(data)

    def serve(self, data: bytes, *, cut: int | None = None) -> None:
        """The file, from the asked byte on; ``cut``: the connection ends after that many bytes."""
        etag = '"' + hashlib.sha256(data).hexdigest()[:16] + '"'
        asked = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        start = 0
        if asked and self.server.ranges and condition in (None, etag):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start and start >= len(data):
            self.answer(416, b"")
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(data[start:] if cut is None else data[start : start + cut])

    def answer(self, status: int, body: bytes, kind: str = "application/octet-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF", 0.0)
    for name in ("EVERYPOINT_OFFLINE", "EVERYPOINT_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EVERYPOINT_ASSETS", str(folder))
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to open a connection or to start a package client fails the test."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "run", refuse)


def payload(size: int = 200_000, seed: int = 0) -> bytes:
    """Bytes that no compression or coincidence makes equal."""
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def flipped(data: bytes) -> bytes:
    """One bit changed in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def an_asset(*sources: object, data: bytes | None = None, **changes: object) -> Asset:
    """An asset with the hash and size of ``data``; None: both unknown."""
    entry = {
        "name": "thing",
        "kind": "clip",
        "file": "thing.bin",
        "sources": [{"url": source} if isinstance(source, str) else source for source in sources],
        "sha256": sha256(data) if data is not None else None,
        "bytes": len(data) if data is not None else None,
        "licence": "MIT",
        "licence_url": "https://example.org/licence",
        "fits": "tests",
    }
    return Asset(**{**entry, **changes})


def leftovers(cache: Path) -> list[str]:
    """Files in the cache that are neither locks nor records."""
    files = [path for path in cache.rglob("*") if path.is_file()]
    return sorted(path.name for path in files if path.suffix not in (".lock", ".json"))
