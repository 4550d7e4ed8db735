"""Overlays: where and how points are drawn, trails, sizes, the encoded file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from everypoint.config.options import OverlayOptions
from everypoint.errors import InputError
from everypoint.report import overlay
from tests.unit.report.made import tracks_of

PLAIN = OverlayOptions(trail=0)


def _grey(frames: int, height: int, width: int, value: int = 0) -> np.ndarray:
    return np.full((frames, height, width, 3), value, np.uint8)


def _centroid(weight: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(weight.shape)
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("frame_size", [(120, 200), (240, 400)])
def test_a_track_is_drawn_at_its_raster_position_of_the_original(frame_size: tuple[int, int]) -> None:
    """Raster (x, y) of the original frame = index (x, y) * scale - 0.5 of the picture, at any size of the original."""
    scale = 120 / frame_size[0]
    where = np.array([61.3, 47.9])  # index coordinates of the picture
    tracks = tracks_of(((where + 0.5) / scale).reshape(1, 1, 2), frame_size)
    options = OverlayOptions(trail=0, max_side=200)
    (picture,) = overlay.overlay_frames(_grey(1, 120, 200, 128), tracks, options)
    changed = np.abs(picture.astype(int) - 128).sum(axis=-1)[:100].astype(float)  # the label is below
    rows, columns = np.nonzero(changed)
    middle = np.array([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
    assert np.abs(middle - where).max() <= 0.75  # a box of whole pixels around the disc
    assert np.abs(_centroid((changed > 60).astype(float)) - where).max() < 0.25


def test_visible_points_are_discs_and_occluded_ones_faint_rings() -> None:
    positions = np.tile(np.array([[[50.5, 60.5], [150.5, 60.5]]]), (1, 1, 1))
    tracks = tracks_of(positions, (120, 200), np.array([[True, False]]))
    (picture,) = overlay.overlay_frames(_grey(1, 120, 200, 100), tracks, OverlayOptions(trail=0, max_side=200))
    disc, ring = picture[60, 50].astype(int), picture[60, 150].astype(int)
    assert np.abs(disc - 100).max() > 60  # filled with its colour
    assert (ring == 100).all()  # hollow
    changed = (picture[40:80, 130:170] != 100).any(axis=-1)
    assert changed.any()
    strongest = [np.abs(picture[40:80, x : x + 40].astype(int) - 100).max() for x in (30, 130)]
    assert strongest[1] < strongest[0]


def test_equal_input_gives_equal_pictures_and_sizes_follow_the_frame() -> None:
    rng = np.random.default_rng(1)
    tracks = tracks_of(rng.uniform(0, 100, (4, 30, 2)), (100, 100), rng.random((4, 30)) > 0.3)
    frames = rng.integers(0, 255, (4, 100, 100, 3), dtype=np.uint8)
    before = frames.copy()
    first, second = (list(overlay.overlay_frames(frames, tracks, OverlayOptions())) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert (frames == before).all()
    assert overlay.style_for((480, 854), 100).radius > overlay.style_for((240, 427), 100).radius
    assert overlay.style_for((480, 854), 10).radius > overlay.style_for((480, 854), 2000).radius


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((480, 854), 960, (480, 854)),  # as it is
        ((1080, 1920), 960, (540, 960)),
        ((256, 256), 960, (512, 512)),  # small frames are doubled
        ((271, 641), 960, (272, 640)),  # even sides
        ((3, 5), 4, (2, 4)),
    ],
)
def test_size_of_an_overlay(size: tuple[int, int], max_side: int, expected: tuple[int, int]) -> None:
    assert overlay.overlay_size(*size, max_side) == expected


def test_points_that_are_not_finite_or_far_outside_are_left_out() -> None:
    positions = np.array([[[np.nan, 10], [1e9, 10], [-1e9, -1e9], [np.inf, 3]]] * 3)
    tracks = tracks_of(positions, (60, 80))
    for picture in overlay.overlay_frames(_grey(3, 60, 80, 90), tracks, OverlayOptions(max_side=80)):
        assert (picture == 90).all()


def test_no_tracks_and_more_tracks_than_wanted() -> None:
    empty = tracks_of(np.zeros((2, 0, 2)), (60, 80))
    for make in (overlay.overlay_frames, overlay.trail_frames):
        assert len(list(make(_grey(2, 60, 80), empty, OverlayOptions()))) == 2
    many = tracks_of(np.random.default_rng(0).uniform(0, 60, (1, 50, 2)), (60, 80))
    scene = overlay._Scene(_grey(1, 60, 80), many, OverlayOptions(max_points=7))
    assert scene.xy.shape == (1, 7, 2)


def test_tracks_of_another_video_are_refused() -> None:
    with pytest.raises(InputError, match="3 frames cannot be drawn on a video of 2"):
        next(overlay.overlay_frames(_grey(2, 60, 80), tracks_of(np.zeros((3, 1, 2)), (60, 80)), PLAIN))


def _moving(frames: int, step: np.ndarray) -> np.ndarray:
    return np.array([30.5, 40.5]) + step * np.arange(frames)[:, None, None]


def test_a_trail_follows_the_track_and_fades() -> None:
    tracks = tracks_of(_moving(8, np.array([12.0, 0.0])), (100, 160))
    *_, last = overlay.overlay_frames(_grey(8, 100, 160), tracks, OverlayOptions(trail=6, max_side=160))
    line = last[40, 30:100].max(axis=-1).astype(int)  # from the query to the last position at 114
    assert (last[20, 30:100] == 0).all()
    assert line[-6] > line[35] > line[5] > 0


def test_trails_are_free_of_the_cameras_motion() -> None:
    """Background and camera move by (5.3, 2.6) a frame, one object stands still in the picture."""
    frames, camera = 10, np.array([5.3, 2.6])
    grid = np.stack(np.meshgrid(np.arange(5, 100, 12.0), np.arange(5, 70, 12.0)), -1).reshape(1, -1, 2)
    background = grid + camera * np.arange(frames)[:, None, None]
    thing = np.tile([120.5, 80.5], (frames, 1, 1)).reshape(frames, 1, 2)
    tracks = tracks_of(np.concatenate([background, thing], axis=1), (100, 160))
    options = OverlayOptions(max_side=160)
    scene = overlay._Scene(_grey(frames, 100, 160), tracks, options)
    assert np.allclose(scene.camera(None), camera * np.arange(frames)[:, None], atol=1e-5)
    *_, last = overlay.trail_frames(_grey(frames, 100, 160), tracks, options)
    bright = last.max(axis=-1) > 30
    at = np.array([120, 80])
    back = at + np.round(camera * 5).astype(int)  # the trail of the object leads along the camera's motion
    assert bright[back[1] - 2 : back[1] + 3, back[0] - 2 : back[0] + 3].any()
    # a background point leaves no trail behind it
    x, y = np.round(background[-1, 14] - 0.5 - camera * 4).astype(int)
    assert not bright[y - 1 : y + 2, x - 1 : x + 2].any()


@pytest.mark.parametrize("draw", [overlay.draw_overlay, overlay.draw_trails])
def test_the_file_decodes_to_the_right_count_and_size(tmp_path: Path, draw: object) -> None:
    tracks = tracks_of(_moving(7, np.array([3.0, 1.0])), (75, 101))
    path = tmp_path / "out" / "overlay.mp4"
    draw(_grey(7, 75, 101, 60), tracks, OverlayOptions(max_side=120), path)
    capture = cv2.VideoCapture(str(path))
    shapes = []
    while (read := capture.read())[0]:
        shapes.append(read[1].shape)
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    capture.release()
    assert shapes == [(76, 100, 3)] * 7 or shapes == [(74, 100, 3)] * 7
    assert shapes[0][:2] == overlay.overlay_size(75, 101, 120)
    assert [file.name for file in path.parent.iterdir()] == ["overlay.mp4"]
