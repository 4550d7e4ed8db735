"""Every transform keeps points on their texture: dots painted at known places are found where the points say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from everypoint.pips.data import spatial
from everypoint.pips.data.sampling import Tracks

SIZE, FRAMES = (150, 220), 6
CLOSE = 0.6  # pixels


def dotted(seed: int = 0, frames: int = FRAMES) -> tuple[list[np.ndarray], Tracks]:
    """Pictures with soft dots on black that drift by fractions of a pixel, and the dots' tracks."""
    rng = np.random.default_rng(seed)
    columns, rows = np.meshgrid(np.arange(20, SIZE[1] - 10, 45), np.arange(20, SIZE[0] - 10, 45))
    start = np.stack([columns.ravel(), rows.ravel()], axis=1) + rng.uniform(-3, 3, (columns.size, 2))
    velocity = rng.uniform(-0.7, 0.7, 2)
    xy = np.float32([start + velocity * t for t in range(frames)])
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    pictures = []
    for points in xy:
        light = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 3.0**2)) for px, py in points)
        pictures.append(np.repeat(np.rint(255 * np.clip(light, 0, 1))[..., None], 3, axis=2).astype(np.uint8))
    good = np.ones(xy.shape[:2], bool)
    return pictures, Tracks(xy, good, good.copy())


def worst_error(frames: list[np.ndarray], xy: np.ndarray) -> tuple[float, int]:
    """Largest distance between points and the middle of their dots, and how many were looked at."""
    errors = []
    for frame, points in zip(frames, xy, strict=True):
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(len(points))
        radius = max(3, int(0.42 * gaps.min()))
        for x, y in points:
            column, row = round(float(x)), round(float(y))
            inside = radius <= column < frame.shape[1] - radius and radius <= row < frame.shape[0] - radius
            if inside:
                part = frame[row - radius : row + radius + 1, column - radius : column + radius + 1, 0].astype(float)
                assert part.sum() > 0, f"no dot near ({x}, {y})"
                offsets = np.arange(-radius, radius + 1)
                found = np.array(
                    [
                        column + (part.sum(0) * offsets).sum() / part.sum(),
                        row + (part.sum(1) * offsets).sum() / part.sum(),
                    ]
                )
                errors.append(np.linalg.norm(found - [x, y]))
    return max(errors, default=0.0), len(errors)


def test_the_dots_are_found_before_any_transform():
    frames, tracks = dotted()
    error, count = worst_error(frames, tracks.xy)
    assert error < 0.1
    assert count > 50


@pytest.mark.parametrize("size", [(75, 110), (97, 301), (300, 440), (90, 440)])
def test_resize(size):
    frames, tracks = dotted()
    done = [spatial.resize(frame, xy, size) for frame, xy in zip(frames, tracks.xy)]
    error, count = worst_error([frame for frame, _ in done], [xy for _, xy in done])
    assert error < 0.2
    assert count > 20


@pytest.mark.parametrize("axis", [0, 1])
def test_flip(axis):
    frames, tracks = dotted()
    flipped, xy = spatial.flip(frames, tracks.xy, axis)
    assert worst_error(flipped, xy)[0] < 0.1
    back, again = spatial.flip(flipped, xy, axis)
    np.testing.assert_array_equal(back, frames)
    np.testing.assert_allclose(again, tracks.xy, atol=1e-4)


def test_published_flips_are_one_pixel_off_and_published_resizes_half_a_step():
    frames, tracks = dotted()
    for axis in (0, 1):
        right, published = (spatial.flip(frames, tracks.xy, axis, compat=compat)[1] for compat in (False, True))
        np.testing.assert_allclose(published - right, np.eye(2)[axis][None, None] * np.ones_like(right), atol=1e-4)
    right, published = (
        spatial.resize(frames[0], tracks.xy[0], (450, 440), compat=compat)[1] for compat in (False, True)
    )
    np.testing.assert_allclose(published, tracks.xy[0] * [2, 3], rtol=1e-6)
    np.testing.assert_allclose(right - published, np.broadcast_to([0.5, 1.0], right.shape), atol=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_plain_crop(seed):
    frames, tracks = dotted(seed)
    cropped, moved = spatial.plain_crop(frames, tracks, (96, 128), np.random.default_rng(seed), compat=False)
    assert {frame.shape for frame in cropped} == {(96, 128, 3)}
    assert worst_error(cropped, moved.xy)[0] < CLOSE


def test_plain_crop_crops_and_resizes_equally_often_and_never_crops_what_is_too_small():
    frames, tracks = dotted(frames=1)
    whole = 0
    for seed in range(60):
        _, moved = spatial.plain_crop(frames, tracks, (96, 128), np.random.default_rng(seed), compat=False)
        whole += not np.allclose(np.diff(moved.xy[0], axis=0), np.diff(tracks.xy[0], axis=0), atol=1e-3)
    assert 15 < whole < 45
    for seed in range(10):
        cropped, _ = spatial.plain_crop(frames, tracks, (160, 128), np.random.default_rng(seed), compat=False)
        assert cropped[0].shape == (160, 128, 3)


@pytest.mark.parametrize("seed", range(25))
def test_walk(seed):
    frames, tracks = dotted(seed)
    walked, moved = spatial.walk(frames, tracks, (96, 128), (130, 190), np.random.default_rng(seed))
    assert {frame.shape for frame in walked} == {(96, 128, 3)}
    assert worst_error(walked, moved.xy)[0] < CLOSE
    np.testing.assert_array_equal(moved.seen, tracks.seen)


def test_walk_moves_scale_and_place_within_limits():
    for seed in range(40):
        scales = spatial.scale_walk(200, np.random.default_rng(seed))
        assert 0.25 <= scales[0, 0] == scales[0, 1] <= 1.5
        assert (scales >= 0.2).all()
        assert (scales <= 2).all()
        assert np.abs(np.diff(scales, axis=0)).max() <= 0.1  # the sum of all smoothed steps of 0.1 * 0.1
        drifts = spatial.drift_walk(200, np.random.default_rng(seed))
        assert not drifts[0].any()
        assert -20 <= drifts[1].min() <= drifts[1].max() < 20
        assert np.abs(drifts).max() <= 20
    assert np.ptp([spatial.scale_walk(2, np.random.default_rng(seed))[0, 0] for seed in range(40)]) > 1


def test_walk_starts_about_the_points_that_are_seen():
    frames, tracks = dotted(frames=2)
    tracks.seen[0] = False
    tracks.seen[0, 0] = True  # the dot at the upper left
    near = 0
    for seed in range(12):
        _, moved = spatial.walk(frames, tracks, (64, 64), (150, 220), np.random.default_rng(seed))
        near += bool((moved.xy[0, 0] >= 0).all() and (moved.xy[0, 0] < 64).all())
    assert near == 12


def test_time_runs_backwards_for_all_of_a_sample():
    frames, tracks = dotted()
    tracks.seen[0, 0] = tracks.known[1, 2] = False
    back, moved = spatial.reverse(frames, tracks)
    np.testing.assert_array_equal(back, frames[::-1])
    for now, before in zip(moved, tracks):
        np.testing.assert_array_equal(now, before[::-1])
    published = spatial.reverse(frames, tracks, compat=True)[1]
    np.testing.assert_array_equal(published.seen, tracks.seen[::-1])
    np.testing.assert_array_equal(published.known, tracks.known)  # the published defect


def test_erased_parts_are_flat_and_hide_the_points_inside():
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (150, 220, 3), np.uint8) for _ in range(20)]
    y, x = np.mgrid[0:150:5, 0:220:5]
    xy = np.tile(np.stack([x.ravel(), y.ravel()], 1).astype(np.float32), (20, 1, 1))
    good = np.ones(xy.shape[:2], bool)
    before = [frame.copy() for frame in frames]
    erased, tracks = spatial.erase(frames, Tracks(xy, good, good.copy()), np.random.default_rng(3))
    np.testing.assert_array_equal(frames, before)  # the input stays
    changed = [bool((new != old).any()) for new, old in zip(erased, before)]
    assert not changed[0]
    assert 0 < sum(changed) < 12
    assert tracks.known.all()
    for s, (new, old) in enumerate(zip(erased, before)):
        touched = cv2.erode((new != old).any(axis=2).astype(np.uint8), np.ones((3, 3))) > 0
        column, row = xy[s].astype(int).T
        assert not tracks.seen[s, touched[row, column]].any()
        untouched = cv2.dilate((new != old).any(axis=2).astype(np.uint8), np.ones((5, 5))) == 0
        assert tracks.seen[s, untouched[row, column]].all()
