"""Tracks of other programs as a source: layouts, frames, coordinates, visibility, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everypoint.artifacts.tracks import Tracks, save_tracks
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import Preset, TrackFileOptions
from everypoint.correspond.sparse import SparseVideo, sparse_source
from everypoint.correspond.track_files import read_tracks
from everypoint.errors import InputError

T, N = 6, 9
WORKING, ORIGINAL = (24, 32), (48, 128)  # H x W, so the axes scale by 2 and 4


def meta(frames: int = T, start: int = 0, stride: int = 1, size=WORKING, original=ORIGINAL) -> VideoMeta:
    return VideoMeta("clip", "clip.mp4", "", 25.0, frames, *size, *original, start=start, stride=stride)


def positions(frames: int = T, seed: int = 0) -> np.ndarray:
    """Raster points of the original, [frames, N, 2], well inside."""
    random = np.random.default_rng(seed)
    return (random.random((frames, N, 2)) * [100, 40] + [10, 4]).astype(np.float32)


def visibility(frames: int = T, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((frames, N)) < 0.7


def working_index(raster: np.ndarray) -> np.ndarray:
    return raster * [32 / 128, 24 / 48] - 0.5


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def read(path: Path, video: VideoMeta | None = None, **options: Any):
    return read_tracks(path, video or meta(), TrackFileOptions(**options))


def source(per_pair: int = 10_000, **options: Any):
    preset = {
        "description": "for tests",
        "tracker": "optimize",
        "flow": {"backend": "none"},
        "readout": {"fuse": False},
    }
    preset["sparse"] = {"sources": ["tracks"], "per_pair": per_pair, "tracks": options}
    return sparse_source("tracks", Preset.model_validate(preset))


def rows_of(path: Path | None, video: VideoMeta | None = None, per_pair: int = 10_000, seed: int = 0, **options: Any):
    frames = np.zeros((1, 1, 1, 3), np.uint8)  # not looked at
    return source(per_pair, **options).rows(SparseVideo(frames, video or meta(), place=path), seed)


# -------------------------------------------------------------------------------------------------------- layouts


@pytest.fixture
def layouts(tmp_path) -> dict[str, Path]:
    """The same tracks as every program writes them; all but everypoint's in raster coordinates of the original."""
    xy, seen = positions(), visibility()
    by_point, seen_by_point = xy.transpose(1, 0, 2), seen.T
    folder = tmp_path / "folder"
    folder.mkdir()
    saved(folder / "tracks.npz", tracks=xy[None])
    saved(folder / "visibility.npz", visibility=seen[None])
    plain = tmp_path / "positional"
    plain.mkdir()
    np.savez(plain / "tracks.npz", xy[None])
    np.savez(plain / "visibility.npz", seen[None, ..., None])
    found = {
        "cotracker": saved(tmp_path / "a.npz", tracks=xy[None], visibility=seen[None]),
        "cotracker without batch": saved(tmp_path / "b.npz", pred_tracks=xy, pred_visibility=seen),
        "cotracker with a channel": saved(tmp_path / "c.npz", tracks=xy[None], visibilities=seen[None, ..., None]),
        "cotracker as numbers": saved(tmp_path / "d.npz", tracks=xy, visibility=seen.astype(np.uint8)),
        "tapir": saved(tmp_path / "e.npz", tracks=by_point, visibles=seen_by_point),
        "tapir occluded": saved(tmp_path / "f.npz", tracks=by_point[None], occluded=~seen_by_point[None]),
        "half precision": saved(tmp_path / "g.npz", tracks=xy.astype(np.float64), visibility=seen.astype(np.float16)),
        "two files": folder,
        "two files without names": plain,
        "everypoint": tmp_path / "own.npz",
    }
    queries = np.column_stack([np.zeros(N), xy[0]]).astype(np.float32)
    names = np.array([f"p{n}" for n in range(N)])
    info = {"start": 0, "stride": 1}
    save_tracks(found["everypoint"], Tracks(xy, seen, seen.astype(np.float32), queries, names, ORIGINAL, 25.0, info))
    return found


def test_every_layout_reads_the_same(layouts):
    for name, path in layouts.items():
        found = read(
            path,
            coordinates="index" if name == "everypoint" else "raster",
            size=(7, 9) if name == "everypoint" else None,
        )
        np.testing.assert_array_equal(found.visible, visibility(), err_msg=name)
        np.testing.assert_allclose(
            found.xy[found.visible], working_index(positions())[found.visible], atol=1e-4, err_msg=name
        )
        assert (found.score[found.visible] == 1).all()
        assert (found.xy.dtype, found.visible.dtype, found.score.dtype) == (np.float32, bool, np.float32)


def test_rows_are_all_pairs_of_visible_frames(layouts):
    xy, seen = working_index(positions()), visibility()
    expected = {(i, j, n) for i in range(T) for j in range(i + 1, T) for n in range(N) if seen[i, n] and seen[j, n]}
    rows = rows_of(layouts["cotracker"], coordinates="raster")
    found = set()
    for i, j, a, b in zip(rows.frame_i.tolist(), rows.frame_j.tolist(), rows.xy_i, rows.xy_j):
        n = int(np.argmin(np.abs(xy[i] - a).sum(-1)))
        np.testing.assert_allclose(b, xy[j, n], atol=1e-4)
        found.add((i, j, n))
    assert found == expected
    assert len(rows) == len(expected)
    assert (rows.flags == 0).all()  # nobody has checked that they are cycle-consistent
    assert (rows.score == 1).all()


@pytest.mark.parametrize(
    "gap, max_gap, expected", [(1, 2, {1, 2}), (3, None, {3, 4, 5}), (2, 2, {2}), (9, None, set())]
)
def test_gaps(layouts, gap, max_gap, expected):
    rows = rows_of(layouts["tapir"], coordinates="raster", gap=gap, max_gap=max_gap)
    assert set((rows.frame_j - rows.frame_i).tolist()) == expected


def test_per_pair_is_a_part_drawn_by_the_seed(layouts):
    everything, few, again, other = (
        rows_of(layouts["cotracker"], per_pair=cap, seed=seed, coordinates="raster")
        for cap, seed in ((99, 0), (2, 0), (2, 0), (2, 1))
    )
    keys = [
        set(zip(r.frame_i.tolist(), r.frame_j.tolist(), *r.xy_i.T.tolist())) for r in (everything, few, again, other)
    ]
    assert keys[1] < keys[0]
    assert keys[1] == keys[2] != keys[3]
    assert np.bincount(few.frame_i * T + few.frame_j).max() == 2


# ------------------------------------------------------------------------------------------ coordinates and frames


def test_coordinates_by_convention_and_size(tmp_path):
    raster = positions()
    half = saved(tmp_path / "half.npz", tracks=raster / 2 - 0.5, visibility=np.ones((T, N)))  # index of 24 x 64 frames
    np.testing.assert_allclose(read(half, size=(24, 64)).xy, working_index(raster), atol=1e-4)
    index = saved(tmp_path / "index.npz", tracks=raster - 0.5, visibility=np.ones((T, N)))
    np.testing.assert_allclose(read(index).xy, working_index(raster), atol=1e-4)
    wrong = read(index, coordinates="raster").xy
    np.testing.assert_allclose(working_index(raster) - wrong, np.broadcast_to([0.125, 0.25], wrong.shape), atol=1e-4)


def test_what_lies_outside_or_is_no_number_is_not_visible(tmp_path):
    raster = positions()
    raster[0, 0], raster[1, 1], raster[2, 2, 1] = [-3, 5], [128.5, 5], np.nan
    found = read(saved(tmp_path / "a.npz", tracks=raster, visibility=np.ones((T, N), bool)), coordinates="raster")
    assert np.argwhere(~found.visible).tolist() == [[0, 0], [1, 1], [2, 2]]
    assert np.isfinite(found.xy).all()


@pytest.mark.parametrize(
    "start, stride, length", [(0, 2, 11), (0, 2, 12), (2, 2, 13), (3, 1, 9), (1, 3, 17), (4, 1, 40)]
)
@pytest.mark.parametrize("by_point", [False, True])
def test_of_all_frames_of_the_source_those_in_use_are_taken(tmp_path, start, stride, length, by_point):
    every, seen = positions(length), visibility(length)
    path = saved(
        tmp_path / "a.npz",
        tracks=every.transpose(1, 0, 2) if by_point else every,
        visibility=seen.T if by_point else seen,
    )
    video = meta(start=start, stride=stride)
    used = start + stride * np.arange(T)
    if length == 9:
        with pytest.raises(InputError, match="told apart"):  # 9 points as well
            read(path, video, coordinates="raster")
        return
    found = read(path, video, coordinates="raster")
    np.testing.assert_array_equal(found.visible, seen[used])
    np.testing.assert_allclose(found.xy[found.visible], working_index(every[used])[found.visible], atol=1e-4)


def test_frames_in_use_win_over_a_source_that_may_be_longer(tmp_path):
    """6 frames in use of a source of unknown length: 6 x 9 is 6 frames of 9 points, not 9 frames of 6 points."""
    assert read(saved(tmp_path / "a.npz", tracks=positions(), visibility=visibility())).xy.shape == (T, N, 2)


@pytest.mark.parametrize("shape", [(6, 6), (11, 6), (6, 12), (40, 50)])
def test_ambiguous_axes_are_refused(tmp_path, shape):
    path = saved(tmp_path / "a.npz", tracks=np.zeros((*shape, 2), np.float32), visibility=np.ones(shape))
    with pytest.raises(InputError) as error:
        read(path, meta(stride=2))
    text = str(error.value)
    assert f"{shape[0]} x {shape[1]}" in text
    assert "frames and points cannot be told apart" in text
    assert text.endswith(".")


@pytest.mark.parametrize("shape", [(5, 4), (3, 10)])
def test_too_few_frames_are_refused(tmp_path, shape):
    path = saved(tmp_path / "a.npz", tracks=np.zeros((*shape, 2), np.float32), visibility=np.ones(shape))
    with pytest.raises(InputError, match="6 frames are in use, up to the source's frame 10"):
        read(path, meta(stride=2))


@pytest.mark.parametrize("video", [meta(5), meta(start=1), meta(stride=2)])
def test_own_tracks_of_other_frames_are_refused(layouts, video):
    with pytest.raises(InputError, match="does not fit the video"):
        read(layouts["everypoint"], video)


def test_own_tracks_are_scored_by_confidence(tmp_path):
    xy, seen, confidence = positions(), visibility(), np.random.default_rng(3).random((T, N)).astype(np.float32)
    queries = np.column_stack([np.zeros(N), xy[0]]).astype(np.float32)
    save_tracks(
        tmp_path / "own.npz", Tracks(xy, seen, confidence, queries, np.arange(N).astype(str), ORIGINAL, 25.0, {})
    )
    found = read(tmp_path / "own.npz", visibility=1.0)
    np.testing.assert_array_equal(found.visible, seen)
    np.testing.assert_array_equal(found.score, confidence)


# ------------------------------------------------------------------------------------------------------ visibility


def test_a_probability_is_thresholded_and_the_lesser_one_is_the_score(tmp_path):
    seen = np.full((T, N), 0.95, np.float32)
    seen[2], seen[3], seen[4, 0] = 0.9, 0.89, np.nan
    path = saved(tmp_path / "a.npz", tracks=positions(), visibility=seen)
    found = read(path, coordinates="raster")
    assert found.visible.all(1).tolist() == [True, True, True, False, False, True]
    assert found.visible[4, 1:].all()
    rows = rows_of(path, coordinates="raster")
    assert set(rows.score[(rows.frame_i == 2) | (rows.frame_j == 2)].tolist()) == {np.float32(0.9).item()}
    occluded = saved(tmp_path / "b.npz", tracks=positions(), occluded=1 - seen)
    np.testing.assert_array_equal(read(occluded, coordinates="raster").visible, found.visible)


@pytest.mark.parametrize(
    "arrays, says",
    [
        ({"visibility": np.linspace(-4, 4, T * N).reshape(T, N)}, "is no probability"),
        ({"occluded": np.full((T, N), 2)}, "is no probability"),
        ({"visibility": np.full((T, N), np.inf)}, "is no probability"),
        ({"visibility": np.full((T, N), "yes")}, "is of type"),
        ({"occlusion": np.zeros((T, N)), "expected_dist": np.zeros((T, N))}, "logits"),
        ({"seen": np.ones((T, N))}, "its arrays are seen, tracks"),
        ({"visibility": np.ones((T, N + 1))}, "do not fit each other"),
        ({"visibility": np.ones((N, T))}, "do not fit each other"),
        ({"tracks": np.zeros((2, T, N, 2)), "visibility": np.ones((2, T, N))}, "do not fit each other"),
        ({"tracks": np.zeros((T, N, 3)), "visibility": np.ones((T, N))}, "do not fit each other"),
        ({"tracks": np.zeros((T, N, 2), int), "visibility": np.ones((T, N))}, "are of type int64"),
        ({"tracks": np.zeros(3), "visibility": np.ones(3)}, "do not fit each other"),
    ],
)
def test_what_is_refused_says_why_in_one_sentence(tmp_path, arrays, says):
    path = saved(tmp_path / "a.npz", **{"tracks": positions(), **arrays})
    with pytest.raises(InputError) as error:
        read(path)
    text = str(error.value)
    assert says in text
    assert text.endswith(".")
    assert "\n" not in text


def test_files_that_are_missing_damaged_or_pickled(tmp_path):
    with pytest.raises(InputError, match=r"nothing.npz cannot be read: it is missing"):
        read(tmp_path / "nothing.npz")
    (tmp_path / "folder").mkdir()
    saved(tmp_path / "folder" / "tracks.npz", tracks=positions())
    with pytest.raises(InputError, match=r"visibility.npz cannot be read: it is missing"):
        read(tmp_path / "folder")
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "damaged.npz")
    np.savez(tmp_path / "pickled.npz", tracks=np.array([{}], object), visibility=np.ones(1))
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "pickled.npz")


def test_a_video_without_a_file(tmp_path):
    with pytest.raises(InputError, match="clip has no track file"):
        rows_of(None)


def test_description_names_what_the_rows_depend_on_but_not_where_the_file_lies():
    base = source().describe()
    assert base == source(file="elsewhere.npz").describe()
    changes = [
        {"gap": 2},
        {"max_gap": 9},
        {"visibility": 0.5},
        {"coordinates": "raster"},
        {"size": (4, 5)},
        {"per_pair": 3},
    ]
    assert all(source(**change).describe() != base for change in changes)
