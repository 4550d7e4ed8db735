"""How large videos are by their headers: of every kind of entry, as decoded, remembered, and never a reason to stop."""

from __future__ import annotations

import os
import pickle

import cv2
import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.config.options import FramesOptions
from everypoint.video import ffmpeg, sizes
from everypoint.video.decode import read_frames
from everypoint.video.discover import discover
from everypoint.video.sizes import Size, source_sizes, working, working_size
from tests.unit.video.clips import encode, pattern


def images(folder, frames):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number}.png"), frame)


def film(path, count):
    path.parent.mkdir(exist_ok=True)
    return encode(path, pattern(count))


@pytest.fixture
def videos(tmp_path):
    """One entry of every kind, with 7, 6 and 5 frames."""
    folder = tmp_path / "videos"
    images(folder / "pictures", pattern(6, 20, 30))
    encode(folder / "file.mkv", pattern(7, 24, 32))
    encoded = [cv2.imencode(".png", frame)[1].tobytes() for frame in pattern(5, 18, 26)]
    item = {"video": encoded, "points": np.zeros((1, 5, 2), np.float32), "occluded": np.zeros((1, 5), bool)}
    raw = {**item, "video": pattern(5, 16, 22)}
    (tmp_path / "set.pkl").write_bytes(pickle.dumps({"encoded": item, "raw": raw, "broken": {**item, "video": []}}))
    return discover(folder, tmp_path / "set.pkl")


def test_every_kind_is_as_it_is_decoded(videos):
    found = source_sizes(videos)
    assert found["broken"] is None
    options = FramesOptions(start=1, stride=2, max_side=24, on_cut="ignore")
    for entry in videos:
        if entry.name != "broken":
            frames, _ = read_frames(entry, options)
            assert working(found[entry.name], options) == frames.shape[:3], entry.name


def test_what_cannot_be_read_has_no_size(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.avi").write_bytes(b"no video")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "0.png").write_bytes(b"no picture")
    assert source_sizes(discover(tmp_path)) == {"empty": None, "pictures": None, "text": None}


def test_files_are_asked_once(tmp_path, monkeypatch):
    path = film(tmp_path / "videos" / "a.mkv", 4)
    (tmp_path / "videos" / "bad.mp4").write_bytes(b"bad")
    entries, cache = discover(tmp_path / "videos"), tmp_path / "cache"
    first = source_sizes(entries, cache)
    assert first == {"a": Size(4, 24, 32), "bad": None}
    with monkeypatch.context() as patch:
        patch.setattr(ffmpeg, "probe", None)  # whoever calls it fails
        assert source_sizes(entries, cache) == first
    film(path, 9)
    os.utime(path, (1, 1))
    assert source_sizes(entries, cache)["a"] == Size(9, 24, 32)


@pytest.mark.parametrize(
    "content", ["no json", "[1]", '{"a": {"stamp": [1, 2]}}', '{"a": {"stamp": [], "size": ["x"]}}']
)
def test_a_damaged_cache_is_made_anew(tmp_path, content):
    film(tmp_path / "videos" / "a.mkv", 4)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / sizes.CACHE).write_text(content)
    assert source_sizes(discover(tmp_path / "videos"), cache) == {"a": Size(4, 24, 32)}
    assert len(atomic.read_json(cache / sizes.CACHE)) >= 1


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path):
    film(tmp_path / "videos" / "a.mkv", 4)
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert source_sizes(discover(tmp_path / "videos"), tmp_path / "cache") == {"a": Size(4, 24, 32)}


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((480, 854), {}, (480, 854)),
        ((1080, 1920), {}, (480, 854)),
        ((1920, 1080), {}, (854, 480)),
        ((100, 200), {}, (100, 200)),
        ((1080, 1920), {"max_side": None}, (1080, 1920)),
        ((1080, 1920), {"resize": (256, 256)}, (256, 256)),
        ((10, 20), {"resize": (256, 256)}, (256, 256)),
        ((1, 5000), {"max_side": 100}, (1, 100)),
    ],
)
def test_working_sizes(size, options, expected):
    assert working_size(*size, FramesOptions(**options)) == expected
