"""Downloads: right bytes are published whole, anything else is refused with expected and got."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from everypoint.assets import cache as cache_module
from everypoint.assets import download, fetch
from everypoint.assets.cache import is_cached, record_path
from everypoint.assets.download import UnreachableError
from everypoint.assets.fetch import fetch_asset
from everypoint.errors import AssetError, ResourceError
from tests.unit.assets.conftest import Server, an_asset, flipped, leftovers, payload, sha256

DATA = payload()
HTML = b"<!DOCTYPE html><html><body>Sign in to the network</body></html>"


def test_a_file_is_fetched_verified_and_published(
    server: Server, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.files["/thing.bin"] = DATA
    with caplog.at_level(logging.INFO, logger="everypoint.assets"):
        path = fetch_asset(an_asset(server.url("/thing.bin"), data=DATA))
    assert path == cache / "thing" / "thing.bin"
    assert path.read_bytes() == DATA
    assert leftovers(cache) == ["thing.bin"]
    assert json.loads(record_path(path).read_text())["sha256"] == sha256(DATA)
    assert "licence MIT (https://example.org/licence)" in caplog.text


def test_a_cached_file_needs_no_connection_and_no_second_hash(
    server: Server, cache: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/thing.bin"] = DATA
    item = an_asset(server.url("/thing.bin"), data=DATA)
    fetch_asset(item)
    request.getfixturevalue("no_network")
    monkeypatch.setattr(cache_module, "sha256_of", lambda path: pytest.fail("hashed again"))
    assert fetch_asset(item).read_bytes() == DATA
    assert len(server.seen) == 1


def test_a_broken_connection_is_continued_where_it_broke(server: Server, cache: Path) -> None:
    server.files["/thing.bin"] = DATA
    server.faults["/thing.bin"] = [
        lambda handler, data: handler.serve(data, cut=70_000),
        lambda handler, data: handler.serve(data, cut=30_000),
        lambda handler, data: handler.serve(data),
    ]
    path = fetch_asset(an_asset(server.url("/thing.bin"), data=DATA))
    assert path.read_bytes() == DATA
    assert [asked for _, asked in server.seen] == [None, "bytes=70000-", "bytes=100000-"]


def test_a_download_that_failed_is_continued_by_the_next_call(server: Server, cache: Path) -> None:
    item = an_asset(server.url("/thing.bin"), data=DATA)
    server.files["/thing.bin"] = DATA
    server.faults["/thing.bin"] = [
        lambda handler, data: handler.serve(data, cut=50_000),
        lambda handler, data: handler.answer(503, b"busy"),
    ]
    with pytest.raises(UnreachableError, match=r"503 Service Unavailable \(4 attempts\)"):
        fetch_asset(item)
    assert not (cache / "thing" / "thing.bin").exists()
    assert len(server.seen) == download.ATTEMPTS
    server.faults.clear()
    assert fetch_asset(item).read_bytes() == DATA
    assert server.seen[-1][1] == "bytes=50000-"
    assert leftovers(cache) == ["thing.bin"]


def test_a_server_without_ranges_starts_over(server: Server, cache: Path) -> None:
    server.ranges = False
    server.files["/thing.bin"] = DATA
    server.faults["/thing.bin"] = [
        lambda handler, data: handler.serve(data, cut=70_000),
        lambda handler, data: handler.serve(data),
    ]
    assert fetch_asset(an_asset(server.url("/thing.bin"), data=DATA)).read_bytes() == DATA


@pytest.mark.parametrize("known", [True, False])
def test_a_part_of_another_version_is_never_mixed_in(server: Server, cache: Path, known: bool) -> None:
    """The server is asked to continue only the version that was begun (If-Range)."""
    item = an_asset(server.url("/thing.bin"), data=DATA if known else None)
    server.files["/thing.bin"] = flipped(DATA)[:-1] + b"!"
    server.faults["/thing.bin"] = [
        lambda handler, data: handler.serve(data, cut=150_000),
        lambda handler, data: handler.answer(500, b""),
    ]
    with pytest.raises(UnreachableError):
        fetch_asset(item)
    server.faults.clear()
    server.files["/thing.bin"] = DATA
    assert fetch_asset(item).read_bytes() == DATA


def test_a_wrong_continuation_is_fetched_anew(server: Server, cache: Path) -> None:
    """A server that continues with If-Range ignored and other bytes: the hash shows it, the second try is whole."""
    item = an_asset(server.url("/thing.bin"), data=DATA)
    server.files["/thing.bin"] = DATA
    server.faults["/thing.bin"] = [
        lambda handler, data: handler.serve(flipped(data), cut=150_000),
        lambda handler, data: (handler.headers.__delitem__("If-Range"), handler.serve(data)),
    ]
    assert fetch_asset(item).read_bytes() == DATA
    assert [asked for _, asked in server.seen] == [None, "bytes=150000-", None]


def test_a_part_longer_than_the_file_is_given_up(server: Server, cache: Path) -> None:
    server.files["/thing.bin"] = payload(1000)
    server.faults["/thing.bin"] = [
        lambda handler, data: handler.serve(payload(9000), cut=5000),
        lambda handler, data: (handler.headers.__delitem__("If-Range"), handler.serve(data)),
    ]
    path = fetch_asset(an_asset(server.url("/thing.bin")))
    assert path.read_bytes() == payload(1000)  # 416, then from the start


def test_a_flipped_bit_is_refused_with_both_hashes(server: Server, cache: Path) -> None:
    server.files["/thing.bin"] = flipped(DATA)
    with pytest.raises(AssetError) as caught:
        fetch_asset(an_asset(server.url("/thing.bin"), data=DATA))
    assert f"expected sha256 {sha256(DATA)}, got {sha256(flipped(DATA))}" in str(caught.value)
    assert not isinstance(caught.value, UnreachableError)
    assert leftovers(cache) == []


@pytest.mark.parametrize("change", [-1, 1, 100_000])
def test_a_wrong_size_is_refused_before_it_is_read(server: Server, cache: Path, change: int) -> None:
    server.files["/thing.bin"] = payload(len(DATA) + change)
    with pytest.raises(AssetError, match=rf"expected {len(DATA)} bytes, got {len(DATA) + change} bytes"):
        fetch_asset(an_asset(server.url("/thing.bin"), data=DATA))
    assert leftovers(cache) == []


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_refused(server: Server, cache: Path, kind: str, known: bool) -> None:
    page = HTML + b" " * (len(DATA) - len(HTML))
    server.faults["/thing.bin"] = [lambda handler, _: handler.answer(200, page, kind)]
    with pytest.raises(AssetError, match=r"expected .*, got "):
        fetch_asset(an_asset(server.url("/thing.bin"), data=DATA if known else None))
    assert leftovers(cache) == []
    assert not list(cache.rglob("thing.bin.json"))


def test_a_web_page_without_the_marks_of_one_is_known_by_its_type(server: Server, cache: Path) -> None:
    server.faults["/thing.bin"] = [lambda handler, _: handler.answer(200, b"Please sign in.", "text/html")]
    with pytest.raises(AssetError, match="expected a file, got 15 bytes of text/html"):
        fetch_asset(an_asset(server.url("/thing.bin")))
    assert leftovers(cache) == []


def test_more_bytes_than_promised_are_refused(server: Server, cache: Path) -> None:
    def endless(handler: object, data: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(data + b"more")

    server.files["/thing.bin"] = DATA
    server.faults["/thing.bin"] = [endless]
    with pytest.raises(AssetError, match="sends too much"):
        fetch_asset(an_asset(server.url("/thing.bin"), data=DATA))
    assert not (cache / "thing" / "thing.bin").exists()


def test_a_missing_file_is_not_asked_for_again(server: Server, cache: Path) -> None:
    with pytest.raises(AssetError, match="404 Not Found"):
        fetch_asset(an_asset(server.url("/thing.bin"), data=DATA))
    assert len(server.seen) == 1


def test_a_busy_server_is_asked_again(server: Server, cache: Path) -> None:
    server.files["/thing.bin"] = DATA
    server.faults["/thing.bin"] = [
        lambda handler, data: handler.answer(503, b"busy"),
        lambda handler, data: handler.answer(429, b"busy"),
        lambda handler, data: handler.serve(data),
    ]
    assert fetch_asset(an_asset(server.url("/thing.bin"), data=DATA)).read_bytes() == DATA


def test_a_server_that_never_answers_is_given_up(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    server.faults["/thing.bin"] = [lambda handler, data: server.gate.wait()]
    with pytest.raises(UnreachableError, match=r"timed out \(2 attempts\)"):
        fetch_asset(an_asset(server.url("/thing.bin"), data=DATA))


def test_a_closed_port_is_unreachable(server: Server, cache: Path) -> None:
    url = server.url("/thing.bin")
    server.socket.close()
    with pytest.raises(UnreachableError, match="nothing was cached"):
        fetch_asset(an_asset(url, data=DATA))


@pytest.mark.parametrize("first", [b"", flipped(DATA), HTML])
def test_the_next_source_is_tried(server: Server, cache: Path, first: bytes) -> None:
    if first:
        server.files["/first"] = first
    server.files["/second"] = DATA
    path = fetch_asset(an_asset(server.url("/first"), server.url("/second"), data=DATA))
    assert path.read_bytes() == DATA
    assert json.loads(record_path(path).read_text())["source"] == server.url("/second")


def test_all_reasons_stand_in_one_sentence(server: Server, cache: Path) -> None:
    server.files["/second"] = flipped(DATA)
    with pytest.raises(AssetError) as caught:
        fetch_asset(an_asset(server.url("/first"), server.url("/second"), data=DATA))
    text = str(caught.value)
    assert "404" in text
    assert sha256(DATA) in text
    assert "\n" not in text


# -------------------------------------------------------------------------------------------- damage in the cache


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def damage_flip(path: Path) -> None:
    path.write_bytes(flipped(path.read_bytes()))
    os.utime(path, ns=(1, 1))  # a change within the clock's grain would look like none


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip])
def test_a_damaged_file_is_fetched_again(server: Server, cache: Path, damage: object) -> None:
    server.files["/thing.bin"] = DATA
    item = an_asset(server.url("/thing.bin"), data=DATA)
    damage(fetch_asset(item))
    with pytest.raises(AssetError, match=r"expected .*, got "):
        fetch_asset(item, offline=True)
    assert fetch_asset(item).read_bytes() == DATA
    assert len(server.seen) == 2


def test_a_change_that_keeps_size_and_time_is_found_by_a_deep_check(server: Server, cache: Path) -> None:
    server.files["/thing.bin"] = DATA
    item = an_asset(server.url("/thing.bin"), data=DATA)
    path = fetch_asset(item)
    before = path.stat().st_mtime_ns
    path.write_bytes(flipped(DATA))
    os.utime(path, ns=(before, before))
    assert is_cached(item, path)
    with pytest.raises(AssetError, match=sha256(flipped(DATA))):
        is_cached(item, path, deep=True)


@pytest.mark.parametrize("record", [None, "{", "[]"])
def test_a_file_placed_by_hand_is_checked_and_used(cache: Path, no_network: None, record: str | None) -> None:
    item = an_asset("https://example.org/thing.bin", data=DATA)
    path = cache / "thing" / "thing.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    if record is not None:
        record_path(path).write_text(record)
    assert fetch_asset(item, offline=True) == path
    path.write_bytes(flipped(DATA))
    os.utime(path, ns=(1, 1))
    with pytest.raises(AssetError, match="wrong bytes"):
        fetch_asset(item, offline=True)


def test_a_registry_that_learns_another_hash_distrusts_the_old_file(server: Server, cache: Path) -> None:
    server.files["/thing.bin"] = DATA
    old = payload(seed=1)
    path = cache / "thing" / "thing.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(old)
    fetch_asset(an_asset(server.url("/thing.bin"), data=old))
    assert fetch_asset(an_asset(server.url("/thing.bin"), data=DATA)).read_bytes() == DATA


# ---------------------------------------------------------------------------------------------------- unknown hashes


def test_an_unknown_hash_is_announced_remembered_and_required(
    server: Server, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.files["/thing.bin"] = DATA
    item = an_asset(server.url("/thing.bin"))
    path = fetch_asset(item)
    assert "trusted at first use" in caplog.text
    assert sha256(DATA) in caplog.text
    assert json.loads(record_path(path).read_text())["trust"] == "first use"
    path.unlink()
    server.files["/thing.bin"] = flipped(DATA)
    with pytest.raises(AssetError, match=f"expected sha256 {sha256(DATA)}, got {sha256(flipped(DATA))}"):
        fetch_asset(item)
    assert not path.exists()
    caplog.clear()
    server.files["/thing.bin"] = DATA
    assert fetch_asset(item).read_bytes() == DATA
    assert "trusted at first use" not in caplog.text


def test_a_known_prefix_is_required(server: Server, cache: Path) -> None:
    server.files["/thing.bin"] = DATA
    good = an_asset(server.url("/thing.bin"), sha256_prefix=sha256(DATA)[:8])
    bad = an_asset(server.url("/thing.bin"), sha256_prefix="00000000", name="other")
    assert fetch_asset(good).read_bytes() == DATA
    with pytest.raises(AssetError, match=f"beginning with 00000000, got {sha256(DATA)}"):
        fetch_asset(bad)
    assert leftovers(cache) == ["thing.bin"]


def test_weights_of_unknown_hash_must_look_like_weights(server: Server, cache: Path) -> None:
    server.files["/weights.pth"] = b"Error 17: quota exceeded"
    with pytest.raises(AssetError, match="expected a weight file, got b'Error 17'"):
        fetch_asset(an_asset(server.url("/weights.pth"), file="weights.pth", kind="weights"))
    server.files["/weights.pth"] = b"PK\x03\x04rest"
    assert fetch_asset(an_asset(server.url("/weights.pth"), file="weights.pth", kind="weights")).exists()


# ------------------------------------------------------------------------------------------ offline, licence, disk


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_offline_and_missing_is_one_sentence_with_the_cure(
    cache: Path, no_network: None, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("EVERYPOINT_OFFLINE", value)
    with pytest.raises(AssetError) as caught:
        fetch.fetch("raft-things")
    text = str(caught.value)
    assert "python -m everypoint assets fetch raft-things" in text
    assert str(cache / "raft-things" / "raft-things.pth") in text
    assert "21108000 bytes, sha256 fcfa4125" in text
    assert "\n" not in text
    assert not cache.exists()


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_offline_can_be_switched_off(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("EVERYPOINT_OFFLINE", value)
    server.files["/thing.bin"] = DATA
    assert fetch_asset(an_asset(server.url("/thing.bin"), data=DATA)).exists()


def test_a_limiting_licence_must_be_accepted_before_the_first_byte(server: Server, cache: Path) -> None:
    server.files["/thing.bin"] = DATA
    item = an_asset(server.url("/thing.bin"), data=DATA, needs_acceptance=True, licence="CC-BY-NC-4.0")
    with pytest.raises(AssetError, match=r"CC-BY-NC-4\.0 \(https://example.org/licence\).*--accept-licence"):
        fetch_asset(item)
    assert server.seen == []
    fetch_asset(item, accept_licence=True)
    assert fetch_asset(item).read_bytes() == DATA  # accepted once


def test_a_full_disk_is_said_and_leaves_nothing(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/thing.bin"] = DATA
    really = download._writing
    monkeypatch.setattr(download, "_writing", lambda part, mode: really(Path("/dev/full"), "wb"))
    with pytest.raises(ResourceError, match="No space left"):
        fetch_asset(an_asset(server.url("/thing.bin"), data=DATA))
    assert leftovers(cache) == []


def test_too_little_room_is_said_before_the_download(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "free_bytes", lambda folder: 1000)
    with pytest.raises(ResourceError, match=r"0\.2 MB needed, 0\.0 MB free"):
        fetch_asset(an_asset(server.url("/thing.bin"), data=DATA))
    assert server.seen == []


def test_a_cache_that_cannot_be_made_is_one_sentence(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="set EVERYPOINT_ASSETS"):
        fetch_asset(an_asset(server.url("/thing.bin"), data=DATA), tmp_path / "file" / "cache")


def test_a_path_or_a_name_locates_weights(cache: Path, tmp_path: Path, no_network: None) -> None:
    mine = tmp_path / "mine.pth"
    mine.write_bytes(b"PK")
    assert fetch.locate(str(mine)) == mine
    with pytest.raises(AssetError, match="does not exist"):
        fetch.locate(str(tmp_path / "other.pth"))
    with pytest.raises(AssetError, match="nearest name is raft-sintel"):
        fetch.locate("raft-sintl")
