"""Frames and ground truth out of TAP-Vid pickles."""

from __future__ import annotations

import os
import pickle

import cv2
import numpy as np
import pytest

from everypoint.config.options import FramesOptions
from everypoint.errors import InputError
from everypoint.video.decode import read_annotations, read_frames
from everypoint.video.discover import discover
from tests.shared import shared
from tests.unit.video.clips import pattern

AS_IS = FramesOptions(max_side=None, on_cut="ignore")


def item(frames, tracks=3):
    rng = np.random.default_rng(1)
    return {
        "video": frames,
        "points": rng.random((tracks, len(frames), 2), np.float32),
        "occluded": rng.random((tracks, len(frames))) < 0.3,
    }


def only(tmp_path, value, protocol=4):
    path = tmp_path / "d.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return discover(None, path)


def png(frame):
    return cv2.imencode(".png", frame[..., ::-1])[1].tobytes()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", ["array", "list", "object array"])
def test_frames_are_exact_in_every_form(tmp_path, form, protocol):
    frames = pattern(5)
    video = frames
    if form != "array":
        video = [png(frame) for frame in frames]
    if form == "object array":
        video = np.array(video, dtype=object)
    (entry,) = only(tmp_path, [item(video)], protocol)
    got, meta = read_frames(entry, AS_IS)
    np.testing.assert_array_equal(got, frames)
    assert (meta.frames, meta.size, meta.original_size, meta.fps) == (5, (24, 32), (24, 32), 25.0)
    assert meta.source == "d.pkl, entry 0"


def test_used_frames_carry_their_annotations(tmp_path):
    frames = pattern(10)
    value = item(frames)
    (entry,) = only(tmp_path, {"goat": value})
    got, meta = read_frames(entry, FramesOptions(start=1, stride=3, max_frames=3, resize=(48, 64), on_cut="ignore"))
    points, occluded = read_annotations(entry, meta)
    assert got.shape == (3, 48, 64, 3)
    np.testing.assert_array_equal(points, value["points"][:, [1, 4, 7]])  # normalised: no resize touches them
    np.testing.assert_array_equal(occluded, value["occluded"][:, [1, 4, 7]])
    assert meta.timestamps == [1 / 25, 4 / 25, 7 / 25]


def test_reading_twice_gives_the_same(tmp_path):
    (entry,) = only(tmp_path, [item(pattern(4))])
    first, meta = read_frames(entry, AS_IS)
    first[:] = 0  # what a caller does to its frames stays its own
    again, meta2 = read_frames(entry, AS_IS)
    np.testing.assert_array_equal(again, pattern(4))
    assert meta == meta2


def test_the_hash_is_of_the_entry_alone(tmp_path):
    a, b = item(pattern(4, seed=1)), item(pattern(4, seed=2))
    entries = only(tmp_path, {"a": a, "b": b})
    hashes = [read_frames(entry, AS_IS)[1].source_hash for entry in entries]
    assert hashes[0] != hashes[1]
    (tmp_path / "other").mkdir()
    (alone,) = only(tmp_path / "other", {"a": a})
    assert read_frames(alone, AS_IS)[1].source_hash == hashes[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"video": np.zeros((4, 8, 8), np.uint8)}, "neither"),
        ({"video": np.zeros((4, 8, 8, 3), np.float32)}, "neither"),
        ({"video": []}, "neither"),
        ({"video": [b"no image"] * 4}, "not a readable image"),
        ({"video": pattern(3)}, "3 frames and points for 4"),
        ({"points": np.zeros((3, 4, 3), np.float32)}, "not \\[N, T, 2\\]"),
        ({"occluded": np.zeros((2, 4), bool)}, "not \\[N, T\\]"),
        ({"points": np.full((3, 4, 2), np.nan), "occluded": np.zeros((3, 4), bool)}, "not a finite number"),
    ],
)
def test_entries_that_do_not_fit(tmp_path, change, says):
    (entry,) = only(tmp_path, [{**item(pattern(4)), **change}])
    with pytest.raises(InputError, match=says) as error:
        read_frames(entry, AS_IS)
    assert "\n" not in str(error.value)


def test_occluded_points_may_be_anything(tmp_path):
    value = item(pattern(4))
    value["occluded"][0, 1], value["points"][0, 1] = True, np.nan
    (entry,) = only(tmp_path, [value])
    _, meta = read_frames(entry, AS_IS)
    assert np.isnan(read_annotations(entry, meta)[0][0, 1]).all()


class Gadget:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, eval])
@pytest.mark.parametrize("place", ["top", "nested"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, function, place):
    marker = tmp_path / "marker"
    text = f"touch {marker}" if function is os.system else f"open({str(marker)!r}, 'w')"
    gadget = Gadget(function, text)
    value = gadget if place == "top" else {"goat": {**item(pattern(4)), "points": gadget}}
    with pytest.raises(InputError):
        only(tmp_path, value)
    assert not marker.exists()


def test_the_shared_development_videos():
    path = shared("data/tapvid_davis32_dev.pkl")
    entries = discover(None, path)
    assert len(entries) == 8
    frames, meta = read_frames(entries[0], FramesOptions(max_frames=8))
    points, occluded = read_annotations(entries[0], meta)
    assert frames.shape == (8, 256, 256, 3)
    assert points.shape[1:] == (8, 2)
    assert 0 <= points[~occluded].min() <= points[~occluded].max() <= 1
    assert not meta.cuts
