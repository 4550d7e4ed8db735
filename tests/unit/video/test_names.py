"""Names that results lie under stay when other videos come and go."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from everypoint.artifacts import atomic
from everypoint.video import names
from everypoint.video.discover import discover
from everypoint.video.paths import source_name


class Place:
    """A folder of videos with its results, planned as a workflow plans it."""

    def __init__(self, folder: Path) -> None:
        self.videos, self.cache, self.results = folder / "videos", folder / "cache", folder / "results"
        self.videos.mkdir()

    def add(self, *sources: str) -> None:
        """Video files; folders of images where there is no suffix."""
        for source in sources:
            if "." in source:
                (self.videos / source).write_bytes(b"")
            else:
                (self.videos / source).mkdir()
                (self.videos / source / "0.png").write_bytes(b"")

    def remove(self, source: str) -> None:
        path = self.videos / source
        if path.is_dir():
            (path / "0.png").unlink()
            path.rmdir()
        else:
            path.unlink()

    def names(self, results: Path | None = None) -> dict[str, str]:
        """The name of every source."""
        found = discover(self.videos, None, self.cache, results or self.results)
        return {entry.path.name: entry.name for entry in found}

    def finish(self, shot: str = "") -> None:
        for entry in discover(self.videos, None, self.cache, self.results):
            name = entry.name + shot
            meta = {"name": name, "source": source_name(entry.kind, entry.path, entry.key)}
            atomic.write_json(self.results / name / "frames" / "video.json", meta)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


PAIRS = [
    ("a.mp4", "A.mp4"),
    ("A.mp4", "a.mp4"),
    ("a.mp4", "a"),
    ("a", "a.mp4"),
    ("a", "A"),
    ("A", "a"),
    ("b-c.mp4", "b c.mp4"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("shot", ["", "-shot01"])
def test_a_video_that_is_added_renames_none_with_results(place, first, second, shot, caplog):
    place.add(first)
    before = place.names()
    assert before == {first: first.partition(".")[0]}
    assert not place.cache.exists()  # nothing had to be chosen
    place.finish(shot)
    place.add(second)
    after = place.names()
    assert after[first] == before[first]
    assert re.fullmatch(r"[aAb](-c)?-[0-9a-f]{6}", after[second])
    (line,) = caplog.messages
    assert f"{first} is {after[first]}" in line
    assert f"{second} is {after[second]}" in line
    caplog.clear()
    assert place.names() == after
    assert caplog.messages == []  # once


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_it_holds_while_results_are_made_again(place, first, second):
    """Jobs plan again when Snakemake has deleted what they are about to write."""
    place.add(first)
    place.finish()
    place.add(second)
    after = place.names()
    for meta in place.results.rglob("video.json"):
        meta.unlink()
    assert place.names() == after


@pytest.mark.parametrize("gone", [0, 1])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_video_that_is_taken_away_renames_none(place, pair, gone):
    place.add(pair[0])
    place.finish()
    place.add(pair[1])
    after = place.names()
    place.finish()
    place.remove(pair[gone])
    stays = pair[1 - gone]
    assert place.names() == {stays: after[stays]}
    place.add(pair[gone])
    assert place.names() == after


def test_of_several_without_results_none_keeps_the_stem(place):
    place.add("a.mp4", "A.mp4", "a.mov")
    found = place.names()
    assert all(re.fullmatch(r"[aA]-[0-9a-f]{6}", name) for name in found.values())
    place.finish()
    place.add("A.mkv")
    assert {source: name for source, name in place.names().items() if source != "A.mkv"} == found
    place.remove("A.mp4")
    place.remove("a.mov")
    place.remove("A.mkv")
    assert place.names() == {"a.mp4": found["a.mp4"]}


def test_results_of_versions_that_gave_both_longer_names_are_kept(place):
    """Those under the stem are of the time before the other one came."""
    place.add("a.mp4")
    place.finish()
    place.add("A.mp4")
    given = {entry.path.name: entry.name for entry in discover(place.videos)}  # without a memory
    assert not set(given.values()) & {"a", "A"}
    for source, name in given.items():
        atomic.write_json(place.results / name / "frames" / "video.json", {"name": name, "source": source})
    assert place.names() == given


def test_results_of_another_source_count_for_nobody(place):
    place.add("a.mov")
    place.finish()
    place.remove("a.mov")
    place.add("a.mp4", "A.mp4")
    assert not set(place.names().values()) & {"a", "A"}


def test_a_source_that_is_gone_holds_no_name(place):
    place.add("a.mp4")
    place.finish()
    place.add("A.mp4")
    place.names()
    place.remove("a.mp4")
    place.remove("A.mp4")
    place.add("a.mov")
    assert place.names() == {"a.mov": "a"}
    assert atomic.read_json(place.cache / names.CACHE) == {}


def test_a_damaged_memory_lets_results_decide_again(place):
    place.add("a.mp4")
    place.finish()
    place.add("A.mp4")
    after = place.names()
    for damage in ("", "[]", '{"x": 1}', '{"x": {"": 2}}'):
        (place.cache / names.CACHE).write_text(damage)
        assert place.names() == after
    keep = {str(place.videos / name): {"": True} for name in ("a.mp4", "A.mp4")}
    atomic.write_json(place.cache / names.CACHE, keep)  # both
    assert len({name.casefold() for name in place.names().values()}) == 2


def test_without_a_memory_nobody_keeps_a_stem(place, caplog):
    """Else processes that look at different moments would call them differently."""
    place.add("a.mp4")
    place.finish()
    place.add("A.mp4")
    place.cache.write_text("a file")
    found = place.names()
    assert not set(found.values()) & {"a", "A"}
    assert "are not remembered" in caplog.text


def test_names_of_bytes_that_are_no_text_are_remembered(place):
    strange = b"caf\xe9.mp4".decode(errors="surrogateescape")
    place.add("caf.mp4", strange)
    found = place.names()
    assert place.names() == found
    assert len(set(found.values())) == 2
