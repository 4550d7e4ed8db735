"""Folders of images between runs: what changes the word for a folder, what does not, and what is read for it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from everypoint.artifacts import atomic
from everypoint.video import content
from everypoint.video.content import content_listing, listing

LONG_AGO = int((time.time() - 10_000) * 1e9)


def put(path: Path, data: bytes, changed: int = LONG_AGO) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(changed, changed))


@pytest.fixture
def folders(tmp_path):
    """Pictures and masks of one video, without compression: their sizes say nothing."""
    for part in ("color", "mask"):
        for number in range(3):
            put(tmp_path / "clip" / part / f"{number}.bmp", bytes([number]) * 50)
    return [tmp_path / "clip" / "color", tmp_path / "clip" / "mask"]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def read(monkeypatch):
    """Names of the files whose content was read, in any order."""
    names: list[str] = []
    hashed = content._hash
    monkeypatch.setattr(content, "_hash", lambda path: names.append(path.name) or hashed(path))
    return names


def test_a_folder_seen_first_is_known_by_names_and_sizes(folders, cache):
    assert content_listing(folders, cache) == listing(folders)  # as versions before this one recorded it


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("changed", [LONG_AGO + 1, LONG_AGO - 10**12, None], ids=["later", "earlier", "now"])
def test_an_image_overwritten_by_one_of_equal_size_is_seen(folders, cache, part, changed):
    before = content_listing(folders, cache)
    put(folders[part] / "1.bmp", b"9" * 50, changed or time.time_ns())
    after = content_listing(folders, cache)
    assert after != before
    assert content_listing(folders, cache) == after
    put(folders[part] / "1.bmp", b"8" * 50, LONG_AGO + 2)
    assert content_listing(folders, cache) not in (before, after)
    put(folders[part] / "1.bmp", bytes([1]) * 50, LONG_AGO + 3)
    assert content_listing(folders, cache) == before


def test_two_images_that_change_places_are_seen(folders, cache):
    before = content_listing(folders, cache)
    put(folders[0] / "1.bmp", bytes([2]) * 50, LONG_AGO + 1)
    put(folders[0] / "2.bmp", bytes([1]) * 50, LONG_AGO + 1)
    assert content_listing(folders, cache) != before


def test_names_and_sizes_count_as_before(folders, cache):
    seen = {content_listing(folders, cache)}
    put(folders[0] / "3.bmp", b"3" * 50)
    seen.add(content_listing(folders, cache))
    put(folders[0] / "3.bmp", b"3" * 51)
    seen.add(content_listing(folders, cache))
    put(folders[0] / "notes.txt", b"3")
    assert len(seen | {content_listing(folders, cache)}) == 4


def test_touched_files_are_read_once_more_and_change_nothing(folders, cache, read):
    before = content_listing(folders, cache)
    assert sorted(read) == sorted(["0.bmp", "1.bmp", "2.bmp"] * 2)
    read.clear()
    os.utime(folders[0] / "1.bmp", ns=(LONG_AGO + 5, LONG_AGO + 5))
    assert content_listing(folders, cache) == before
    assert read
    read.clear()
    assert content_listing(folders, cache) == before
    assert read == []


def test_unchanged_folders_are_neither_read_nor_written_about(folders, cache, read):
    before = content_listing(folders, cache)
    read.clear()
    (record,) = cache.rglob("*.json")
    stamp = record.stat().st_mtime_ns, record.stat().st_ino
    for _ in range(3):
        assert content_listing(folders, cache) == before
    assert read == []
    assert (record.stat().st_mtime_ns, record.stat().st_ino) == stamp


def test_a_file_of_this_very_moment_is_not_trusted(folders, cache, read, monkeypatch):
    """It could be overwritten within the same tick of the clock of its file system."""
    moment = time.time_ns()
    put(folders[0] / "1.bmp", b"a" * 50, moment)
    before = content_listing(folders, cache)
    put(folders[0] / "1.bmp", b"b" * 50, moment)
    assert content_listing(folders, cache) != before
    monkeypatch.setattr(content.time, "time", lambda: moment / 1e9 + 60)
    content_listing(folders, cache)
    read.clear()
    content_listing(folders, cache)
    assert read == []


def test_what_was_changed_before_stays_known_after_an_image_is_added_and_removed(folders, cache):
    content_listing(folders, cache)
    put(folders[0] / "1.bmp", b"9" * 50, LONG_AGO + 1)
    changed = content_listing(folders, cache)
    put(folders[0] / "3.bmp", b"3" * 50)
    content_listing(folders, cache)
    (folders[0] / "3.bmp").unlink()
    assert content_listing(folders, cache) == changed


def test_an_image_that_cannot_be_read_for_a_while_changes_nothing(folders, cache, monkeypatch):
    before = content_listing(folders, cache)
    os.utime(folders[0] / "1.bmp", ns=(LONG_AGO + 5, LONG_AGO + 5))
    with monkeypatch.context() as patch:
        patch.setattr(content, "_hash", lambda path: None)
        assert content_listing(folders, cache) == before
        put(folders[0] / "3.bmp", b"3" * 50)
        more = content_listing(folders, cache)
        assert more == listing(folders) != before
    assert content_listing(folders, cache) == more
    put(folders[0] / "1.bmp", b"9" * 50, LONG_AGO + 6)
    assert content_listing(folders, cache) != more


def test_links_that_lead_nowhere_are_no_images(folders, cache):
    before = content_listing(folders, cache)
    (folders[0] / "3.bmp").symlink_to(folders[0] / "nothing.bmp")
    (folders[0] / "4.bmp").mkdir()
    assert content_listing(folders, cache) == before


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"{}",
        b'{"stamp": "", "content": "", "first": []}',
        b'{"stamp": 1, "content": "", "first": {"a": 2}}',
    ],
)
def test_a_damaged_record_is_made_again(folders, cache, damage):
    content_listing(folders, cache)
    (record,) = cache.rglob("*.json")
    whole = record.read_bytes()
    record.write_bytes(damage)
    assert content_listing(folders, cache) == listing(folders)
    assert record.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_time_only(folders, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    assert content_listing(folders, tmp_path / "cache") == listing(folders)
    assert "is not remembered" in caplog.text


def test_without_a_cache_nothing_is_read(folders, read):
    assert content_listing(folders, None) == listing(folders)
    assert read == []


def test_many_folders_have_a_small_record_each(tmp_path, cache):
    """A job reads those of its own video, not the records of thousands."""
    for number in range(3):
        put(tmp_path / str(number) / "0.bmp", b"0")
        content_listing([tmp_path / str(number)], cache)
    records = list(cache.rglob("*.json"))
    assert len(records) == 3
    assert all(len(atomic.read_json(record)["first"]) == 1 for record in records)
    assert max(record.stat().st_size for record in records) < 500
