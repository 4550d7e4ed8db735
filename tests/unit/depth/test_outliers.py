"""The outlier mask: the cloud by hand, the removal against a plain loop, and scenes whose outliers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everypoint.depth.outliers import inliers, outlier_mask, unproject

OPTIONS = {"fov": 40.0, "neighbours": 20, "sigma": 2.0}


def mask_of(depth: np.ndarray, valid: np.ndarray | None = None, **options) -> np.ndarray:
    valid = np.ones(depth.shape, bool) if valid is None else valid
    frame_size = options.pop("frame_size", depth.shape)
    return outlier_mask(depth, valid, frame_size, **{**OPTIONS, **options})


def slope(h: int, w: int) -> np.ndarray:
    """A tilted, slightly wavy wall."""
    ys, xs = np.mgrid[:h, :w]
    return (2 + 0.01 * xs + 0.02 * np.sin(ys / 3)).astype(np.float16)


def test_unprojection_by_hand():
    """With 90 degrees over 4 pixels the focal length is 2; the first cell's centre lies at raster (0.5, 0.5)."""
    points = unproject(np.full((2, 4), 3.0), (2, 4), 90.0)
    assert points.shape == (2, 4, 3)
    np.testing.assert_allclose(points[0, 0], [(0.5 - 2) * 3 / 2, (0.5 - 1) * 3 / 2, 3])
    np.testing.assert_allclose(points[1, 3], [(3.5 - 2) * 3 / 2, (1.5 - 1) * 3 / 2, 3])


def test_unprojection_has_the_field_of_view_of_the_frame_whatever_the_map():
    focal = 854 / (2 * math.tan(math.radians(20)))
    coarse = unproject(np.ones((240, 427)), (480, 854), 40.0)
    fine = unproject(np.ones((480, 854)), (480, 854), 40.0)
    np.testing.assert_allclose(coarse[7, 9], [(19 - 427) / focal, (15 - 240) / focal, 1])
    np.testing.assert_allclose(coarse[7, 9], fine[14:16, 18:20].mean(axis=(0, 1)))


def plain_inliers(points: np.ndarray, neighbours: int, sigma: float) -> list[bool]:
    means = []
    for i in range(len(points)):
        distances = []
        for j in range(len(points)):
            if j != i:
                distances.append(math.dist(points[i], points[j]))
        nearest = sorted(distances)[:neighbours]
        means.append(sum(nearest) / len(nearest))
    mean = sum(means) / len(means)
    std = math.sqrt(sum((m - mean) ** 2 for m in means) / len(means))
    return [m <= mean + sigma * std for m in means]


@pytest.mark.parametrize(("neighbours", "sigma"), [(20, 2.0), (5, 1.0), (1, 0.5), (500, 1.0)])
def test_inliers_are_those_of_a_plain_loop(neighbours, sigma):
    points = np.random.default_rng(neighbours).standard_normal((200, 3)) ** 3  # dense in the middle, with far points
    found = inliers(points, neighbours, sigma)
    assert found.tolist() == plain_inliers(points, neighbours, sigma)
    assert 0 < found.sum() < len(points)


def test_threads_change_nothing():
    points = np.random.default_rng(0).standard_normal((3000, 3))
    assert np.array_equal(inliers(points, 20, 1.0, workers=1), inliers(points, 20, 1.0, workers=3))


def test_points_in_the_air_are_found_and_the_wall_stays():
    depth = slope(40, 60)
    floating = [(10, 10), (10, 40), (25, 30), (33, 51)]
    for y, x in floating:
        depth[y, x] = 1.2
    mask = mask_of(depth)
    lost = {tuple(cell) for cell in np.argwhere(~mask).tolist()}
    assert set(floating) <= lost
    border = {(y, x) for y, x in lost if y in (0, 39) or x in (0, 59)}
    assert lost == set(floating) | border  # neighbours on one side only: a few cells of the border go as well


def test_scale_of_depth_and_resolution_of_the_frame_do_not_matter():
    depth = slope(30, 40)
    depth[12, 17] = 1
    expected = mask_of(depth)
    assert not expected.all()
    assert np.array_equal(mask_of(depth * np.float16(8)), expected)
    assert np.array_equal(mask_of(depth, frame_size=(60, 80)), expected)


def test_nothing_is_removed_without_threshold_or_from_one_depth():
    depth = slope(20, 30)
    depth[5, 5] = 60
    assert mask_of(depth, sigma=0).all()
    assert mask_of(np.full((20, 30), 3.0)).all()
    assert not mask_of(depth)[5, 5]


def test_cells_without_depth_are_no_points_of_the_cloud():
    """What stands in their place has no say: only three cells have a depth, of which none is far from the others."""
    depth = np.full((20, 30), 1000.0)
    valid = np.zeros(depth.shape, bool)
    depth[4, 4:7], valid[4, 4:7] = (2.0, 2.1, 2.2), True
    assert np.array_equal(mask_of(depth, valid), valid)
    one = np.zeros_like(valid)
    one[4, 4] = True
    assert np.array_equal(mask_of(depth, one), one)
    assert not mask_of(depth, np.zeros_like(valid)).any()


# -------------------------------------------------------------------------------------------------- large maps


def test_a_large_map_is_judged_by_the_middle_cells_of_its_blocks():
    """41 x 62 cells with at most 600 points: blocks of 3 x 3, the last of them cut off by the border."""
    depth = slope(41, 62)
    depth[9:12, 12:15] = 1.1  # one whole block
    mask = mask_of(depth, cloud=600)
    rows, columns = np.arange(1, 42, 3), np.arange(1, 63, 3)
    points = unproject(depth, depth.shape, 40.0)[rows[:, None], columns]
    expected = inliers(points.reshape(-1, 3), 20, 2.0).reshape(14, 21)
    assert np.array_equal(mask, expected.repeat(3, 0).repeat(3, 1)[:41, :62])
    assert not mask[9:12, 12:15].any()
    assert mask[12:15, 15:40].all()


def test_only_the_middle_cell_of_a_block_has_a_say():
    """With noise elsewhere nothing else changes: what is not looked at cannot be told from the wall."""
    depth = slope(42, 60)
    expected = mask_of(depth, cloud=600)
    noisy = np.where((np.arange(42)[:, None] % 3 == 1) & (np.arange(60) % 3 == 1), depth, np.float16(0.5))
    assert np.array_equal(mask_of(noisy, cloud=600), expected)
    depth[10, 13] = 1.1
    mask = mask_of(depth, cloud=600)
    assert not mask[9:12, 12:15].any()
    assert mask[9:12, 15:18].all()


def test_a_block_whose_middle_has_no_depth_is_judged_by_its_first_cell_that_has():
    depth, valid = slope(40, 60), np.zeros((40, 60), bool)
    valid[::2, ::2] = True  # never the middle (1, 1) of a 2 x 2 block
    depth[20, 30] = 1
    mask = mask_of(depth, valid, cloud=600)
    assert not mask[~valid].any()
    assert not mask[20, 30]
    assert mask.sum() > 0.9 * valid.sum()
    expected = inliers(unproject(depth, depth.shape, 40.0)[valid], 20, 2.0)
    assert np.array_equal(mask[valid], expected)
