"""Several processes want the same asset at once, and processes that are killed on the way."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from everypoint.assets.fetch import fetch_asset
from tests.unit.assets.conftest import Server, an_asset, leftovers, payload

DATA = payload(2_000_000)
FETCH = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from everypoint.assets import cache
if "unlocked" in sys.argv:
    cache._lock = lambda handle, path: False
from everypoint.assets.fetch import fetch
fetch("thing")
"""


@pytest.fixture
def start(server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Start a process that fetches ``thing``."""
    server.files["/thing.bin"] = DATA
    entry = an_asset(server.url("/thing.bin"), data=DATA).model_dump(mode="json", exclude={"name"})
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump({"thing": entry}))
    monkeypatch.setenv("EVERYPOINT_REGISTRY", str(tmp_path / "registry.yaml"))
    started = []

    def run(*arguments: str) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", FETCH, *arguments], stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_the_second_process_waits_and_uses_what_the_first_fetched(server: Server, cache: Path, start: object) -> None:
    asked, second_waits = threading.Event(), threading.Event()

    def hold(handler: object, data: bytes) -> None:
        asked.set()
        second_waits.wait(30)
        handler.serve(data)

    server.faults["/thing.bin"] = [hold]
    first = start()
    assert asked.wait(30)
    second = start()
    assert any("waiting for another process" in line for line in second.stderr)
    second_waits.set()
    assert first.wait(30) == 0
    assert second.wait(30) == 0
    assert len(server.seen) == 1
    assert (cache / "thing" / "thing.bin").read_bytes() == DATA


def test_without_locks_both_download_and_both_succeed(server: Server, cache: Path, start: object) -> None:
    """A file system without locks: the two downloads overlap, each in its own part."""
    both = threading.Barrier(2)

    def together(handler: object, data: bytes) -> None:
        both.wait(30)
        handler.serve(data)

    server.faults["/thing.bin"] = [together]
    processes = [start("unlocked"), start("unlocked")]
    assert [process.wait(30) for process in processes] == [0, 0]
    assert (cache / "thing" / "thing.bin").read_bytes() == DATA
    assert leftovers(cache) == ["thing.bin"]


def test_a_killed_process_leaves_no_lock_and_its_part_is_continued(server: Server, cache: Path, start: object) -> None:
    half_sent, gave_up = threading.Event(), threading.Event()

    def half(handler: object, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:1_000_000])
        half_sent.set()
        if not server.gate.wait(10):
            gave_up.set()

    server.faults["/thing.bin"] = [half]
    process = start()
    assert half_sent.wait(30)
    part = cache / "thing"
    while not any(path.stat().st_size >= 1_000_000 for path in part.glob(".thing.bin.*.part")):
        assert process.poll() is None
    assert not gave_up.is_set(), "bytes were kept back until the connection closed"
    process.kill()
    process.wait()
    server.gate.set()
    server.faults.clear()
    path = fetch_asset(an_asset(server.url("/thing.bin"), data=DATA))
    assert path.read_bytes() == DATA
    assert server.seen[-1][1] == "bytes=1000000-"
    assert leftovers(cache) == ["thing.bin"]
