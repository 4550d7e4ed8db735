"""The camera's motion from tracks."""

from __future__ import annotations

import numpy as np

from everypoint.report.camera import background_points, camera_path
from tests.unit.report.made import tracks_of


def _scene(share_moving: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [T, N, 2], the camera's path [T, 2], and which points are background."""
    frames, points = 12, 200
    path = np.cumsum(rng.normal(0, 4, (frames, 2)), axis=0)
    path -= path[0]
    start = rng.uniform(0, 400, (points, 2))
    background = np.arange(points) >= share_moving * points
    own = np.where(background[None, :, None], 0, np.arange(frames)[:, None, None] * np.array([6.0, -3.0]))
    return start + path[:, None] + own + rng.normal(0, 0.05, (frames, points, 2)), path, background


def test_with_a_mask_the_background_may_be_the_smaller_part() -> None:
    positions, path, background = _scene(0.8, np.random.default_rng(0))
    found = camera_path(positions, np.ones(positions.shape[:2], bool), background)
    assert np.abs(found - path).max() < 0.15


def test_without_a_mask_the_dominant_motion_is_found() -> None:
    positions, path, _ = _scene(0.4, np.random.default_rng(1))
    visible = np.random.default_rng(2).random(positions.shape[:2]) > 0.3
    found = camera_path(positions, visible)
    assert np.abs(found - path).max() < 0.15
    plain = np.cumsum(np.median(np.diff(positions, axis=0), axis=1), axis=0)
    assert np.abs(plain - path[1:]).max() > 0.3  # what a plain median gives


def test_medians_of_even_and_odd_counts_are_numpys() -> None:
    rng = np.random.default_rng(3)
    positions = rng.uniform(0, 100, (6, 9, 2))
    visible = np.ones((6, 9), bool)
    visible[:, 8] = False
    everyone = np.ones(9, bool)
    steps = np.diff(positions, axis=0)
    for count, seen in ((8, visible), (9, np.ones((6, 9), bool))):
        expected = np.median(steps[:, :count], axis=1).cumsum(axis=0)
        assert np.allclose(camera_path(positions, seen, everyone)[1:], expected)


def test_nothing_visible_counts_as_still() -> None:
    positions = np.random.default_rng(0).uniform(0, 9, (5, 3, 2))
    assert (camera_path(positions, np.zeros((5, 3), bool)) == 0).all()
    assert (camera_path(np.zeros((5, 0, 2)), np.zeros((5, 0), bool)) == 0).all()
    assert (camera_path(np.full((5, 3, 2), np.nan), np.ones((5, 3), bool)) == 0).all()


def test_the_mask_is_looked_up_at_the_query() -> None:
    tracks = tracks_of(np.array([[[10.0, 10.0], [70.0, 10.0], [79.99, 59.99]]]), (60, 80))
    mask = np.zeros((30, 40), np.uint8)  # half the size of the frames
    mask[:, :20] = 255
    assert background_points(tracks, mask).tolist() == [False, True, True]
    moving = np.stack([mask, 255 - mask])
    assert background_points(tracks, moving).tolist() == [False, True, True]
    assert background_points(tracks, np.full((30, 40), 255, np.uint8)) is None
    assert background_points(tracks, None) is None
