"""Matches, tracks and frames on disk: what is written is read back; what is damaged is refused in one sentence."""

from __future__ import annotations

import csv
import dataclasses
import io

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.artifacts.matches import Matches, coordinate_scale, load_matches, save_matches, to_fixed
from everypoint.artifacts.tracks import Tracks, load_tracks, save_tracks, save_tracks_csv
from everypoint.artifacts.video import VideoMeta, load_frames, load_meta, save_video
from everypoint.errors import ArtifactError

# ----------------------------------------------------------------------------------------------------- matches


def table(**changes) -> Matches:
    fields = {
        "pairs": np.array([[0, 1], [1, 0], [0, 2]], np.int32),
        "offsets": np.array([0, 2, 2, 5], np.int64),
        "fixed_i": to_fixed(np.arange(10, dtype=np.float32).reshape(5, 2), (20, 30)),
        "fixed_j": to_fixed(np.arange(10, dtype=np.float32).reshape(5, 2) + 0.3, (20, 30)),
        "flags": np.array([1, 2, 1, 4, 1], np.uint8),
        "score": np.linspace(0, 1, 5).astype(np.float16),
        "valid_count": np.array([9, 0, 40], np.int64),
        "size": (20, 30),
        "frames": 3,
    }
    return Matches(**(fields | changes))


def test_matches_round_trip(tmp_path):
    save_matches(tmp_path / "m.npz", table())
    loaded = load_matches(tmp_path / "m.npz")
    for field in dataclasses.fields(Matches):
        assert np.array_equal(getattr(loaded, field.name), getattr(table(), field.name)), field.name
        assert np.asarray(getattr(loaded, field.name)).dtype == np.asarray(getattr(table(), field.name)).dtype
    assert loaded.rows_pair.tolist() == [0, 0, 2, 2, 2]
    assert loaded.xy_i.dtype == np.float32
    assert np.array_equal(loaded.xy_i, np.arange(10).reshape(5, 2))
    assert np.abs(loaded.xy_j - np.arange(10).reshape(5, 2) - 0.3).max() <= 1 / 64


@pytest.mark.parametrize(
    ("size", "scale"), [((480, 854), 32), ((10, 2047), 32), ((2048, 10), 16), ((4320, 7680), 8), ((40000, 9), 1)]
)
def test_fixed_point_spans_the_frame(size, scale):
    assert coordinate_scale(size) == scale
    corner = np.array([[size[1] - 1, size[0] - 1]], np.float32)
    assert np.array_equal(to_fixed(corner, size) / scale, corner)


def test_fixed_point_clips_to_the_frame():
    assert to_fixed(np.array([[-3.0, 99.0]]), (20, 30)).tolist() == [[0, 19 * 32]]


@pytest.mark.parametrize(
    "changes",
    [
        {"offsets": np.array([0, 2, 5], np.int64)},
        {"offsets": np.array([0, 2, 2, 4], np.int64)},
        {"offsets": np.array([1, 2, 2, 5], np.int64)},
        {"offsets": np.array([0, 3, 2, 5], np.int64)},
        {"fixed_i": np.zeros((4, 2), np.uint16)},
        {"score": np.zeros(6, np.float16)},
        {"valid_count": np.zeros(2, np.int64)},
        {"pairs": np.array([[0, 1], [1, 0], [0, 3]], np.int32)},
        {"pairs": np.array([[0, 1], [-1, 0], [0, 2]], np.int32)},
    ],
)
def test_a_table_whose_parts_do_not_fit_is_refused(tmp_path, changes):
    save_matches(tmp_path / "m.npz", table(**changes))
    with pytest.raises(ArtifactError, match=r"m\.npz is damaged"):
        load_matches(tmp_path / "m.npz")


def test_another_npz_is_no_table(tmp_path):
    atomic.save_npz(tmp_path / "m.npz", pairs=np.zeros((0, 2)))
    with pytest.raises(ArtifactError, match="not a matches table"):
        load_matches(tmp_path / "m.npz")


# ------------------------------------------------------------------------------------------------------ tracks


def tracks(frames: int = 3, points: int = 2, **changes) -> Tracks:
    random = np.random.default_rng(0)
    fields = {
        "tracks": random.random((frames, points, 2), np.float32) * 100,
        "visibility": random.random((frames, points)) > 0.5,
        "confidence": random.random((frames, points), np.float32),
        "queries": random.random((points, 3), np.float32),
        "query_ids": np.array([f"p{n}" for n in range(points)]),
        "frame_size": (48, 64),
        "fps": 24.0,
        "meta": {"preset": "chain", "nested": {"a": [1, 2]}},
    }
    return Tracks(**(fields | changes))


def test_tracks_round_trip(tmp_path):
    save_tracks(tmp_path / "t.npz", tracks())
    loaded = load_tracks(tmp_path / "t.npz")
    for field in dataclasses.fields(Tracks):
        assert np.array_equal(getattr(loaded, field.name), getattr(tracks(), field.name)), field.name
    assert loaded.visibility.dtype == bool
    assert loaded.tracks.dtype == np.float32
    with np.load(tmp_path / "t.npz", allow_pickle=False) as file:
        assert file["schema_version"] == 1


def test_equal_tracks_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        save_tracks(tmp_path / f"{name}.npz", tracks())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_no_queries_are_no_trouble(tmp_path):
    save_tracks(tmp_path / "t.npz", tracks(points=0))
    assert load_tracks(tmp_path / "t.npz").tracks.shape == (3, 0, 2)


@pytest.mark.parametrize("name", ["tracks", "confidence", "queries", "query_ids"])
def test_tracks_of_a_wrong_shape_are_a_defect_of_the_caller(name):
    with pytest.raises(ValueError, match="shape|query ids"):
        tracks(**{name: getattr(tracks(points=3), name)})


@pytest.mark.parametrize("damage", ["shape", "lacks", "meta", "not npz", "gone"])
def test_a_damaged_tracks_file_is_refused(tmp_path, damage):
    path = tmp_path / "t.npz"
    save_tracks(path, tracks())
    arrays = atomic.load_npz(path)
    if damage == "shape":
        atomic.save_npz(path, **(arrays | {"tracks": arrays["tracks"][:2]}))
    elif damage == "lacks":
        atomic.save_npz(path, **{name: array for name, array in arrays.items() if name != "fps"})
    elif damage == "meta":
        atomic.save_npz(path, **(arrays | {"meta": np.array("{")}))
    elif damage == "not npz":
        path.write_text("x,y")
    else:
        path.unlink()
    with pytest.raises(ArtifactError):
        load_tracks(path)


def test_csv_by_hand(tmp_path):
    one = tracks(
        frames=2,
        points=2,
        tracks=np.array([[[1, 2], [3.25, -4]], [[5, 6], [7, 8.5]]], np.float32),
        visibility=np.array([[True, False], [True, True]]),
        confidence=np.array([[1, 0], [0.5, 0.25]], np.float32),
        query_ids=np.array(["left, eye", "=cmd()"]),
        fps=25.0,
    )
    save_tracks_csv(tmp_path / "t.csv", one)
    text = (tmp_path / "t.csv").read_text()
    assert list(csv.reader(io.StringIO(text))) == [
        ["id", "t", "time_s", "x", "y", "visible", "confidence"],
        ["left, eye", "0", "0.0000", "1.000", "2.000", "1", "1.000"],
        ["left, eye", "1", "0.0400", "5.000", "6.000", "1", "0.500"],
        ["'=cmd()", "0", "0.0000", "3.250", "-4.000", "0", "0.000"],
        ["'=cmd()", "1", "0.0400", "7.000", "8.500", "1", "0.250"],
    ]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum", "\tx", "\rx"])
def test_a_cell_is_never_a_formula(tmp_path, name):
    save_tracks_csv(tmp_path / "t.csv", tracks(points=1, query_ids=np.array([name])))
    with open(tmp_path / "t.csv", newline="") as file:
        assert list(csv.reader(file))[1][0] == "'" + name.replace("\r", " ")


# ------------------------------------------------------------------------------------------------------ frames


def video(folder):
    frames = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8)
    meta = VideoMeta("v", "v.mp4", "abc", 25.0, 3, 6, 8, 12, 16, 5, 2, [0.0, 0.08, 0.16], [2], ["odd"])
    save_video(folder, frames, meta)
    return frames, meta


def test_video_round_trip(tmp_path):
    frames, meta = video(tmp_path)
    loaded = load_frames(tmp_path)
    assert np.array_equal(loaded, frames)
    assert not loaded.flags.writeable
    assert load_meta(tmp_path) == meta
    assert (meta.size, meta.original_size) == ((6, 8), (12, 16))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames.npy", "video.json"]


@pytest.mark.parametrize("wrong", [np.zeros((3, 6, 8, 3)), np.zeros((2, 6, 8, 3), np.uint8)])
def test_frames_that_do_not_fit_their_description_are_a_defect_of_the_caller(tmp_path, wrong):
    _, meta = video(tmp_path)
    with pytest.raises(ValueError, match="do not fit"):
        save_video(tmp_path / "other", wrong, meta)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("damage", ["flip", "truncate", "other frames", "other kind", "gone", "no description"])
def test_altered_frames_are_refused(tmp_path, damage):
    frames, _ = video(tmp_path)
    path = tmp_path / "frames.npy"
    if damage == "flip":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "other frames":
        atomic.save_npy(path, frames[::-1])
    elif damage == "other kind":
        atomic.save_npy(path, frames.astype(np.float32))
    else:
        (path if damage == "gone" else tmp_path / "video.json").unlink()
    with pytest.raises(ArtifactError):
        load_frames(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": "v", "frames_sha256": "0"}', '{"colour": 1}'])
def test_a_foreign_description_is_refused(tmp_path, text):
    video(tmp_path)
    (tmp_path / "video.json").write_text(text)
    with pytest.raises(ArtifactError, match="video.json"):
        load_meta(tmp_path)
