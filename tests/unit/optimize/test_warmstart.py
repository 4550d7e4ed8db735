"""The warm start: camera motion out of matches with outliers, depth out of motion."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.artifacts.matches import Matches
from everypoint.optimize.camera import LEAST_MATCHES, adjust, camera_affines, camera_motion, is_sane, robust_affine
from everypoint.optimize.warmstart import depth_from_motion, motion_residual, nearer_by_motion, warm_start
from tests.unit.optimize.made import SQUARE, apply, camera_matches, camera_path, table

KNOWN = np.array([[1.05, -0.08, 4.0], [0.06, 0.97, -2.5], [0, 0, 1]])
CORNERS = np.array([[0, 0], [47, 0], [0, 31], [47, 31]], float)


def known_matches(count: int, share: float, kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    a = random.uniform([0, 0], [47, 31], (count, 2))
    b = apply(KNOWN, a) + random.normal(0, 0.05, (count, 2))
    if kind == "scattered":
        wrong = random.random(count) < share
        b[wrong] = random.uniform([-10, -10], [60, 40], (int(wrong.sum()), 2))
    else:  # one object, on one side of the picture, that moves by itself
        wrong = a[:, 0] < np.quantile(a[:, 0], share)
        b[wrong] += [9.0, -6.0]
    return a, b


@pytest.mark.parametrize("kind, share", [("scattered", 0.0), ("scattered", 0.4), ("object", 0.4)])
@pytest.mark.parametrize("count", [40, 500, 20000])
def test_robust_affine_recovers_the_map_among_outliers(kind, share, count):
    fit = robust_affine(*known_matches(count, share, kind))
    error = np.linalg.norm(apply(fit, CORNERS) - apply(KNOWN, CORNERS), axis=1)
    assert error.max() < 0.25  # px, at the corners of the picture
    np.testing.assert_array_equal(fit[2], [0, 0, 1])


def test_robust_affine_without_noise_is_exact():
    a = np.random.default_rng(0).uniform([0, 0], [47, 31], (50, 2))
    np.testing.assert_allclose(robust_affine(a, apply(KNOWN, a)), KNOWN, atol=1e-9)


@pytest.mark.parametrize("count", [0, 1, LEAST_MATCHES - 1])
def test_too_few_matches_mean_a_still_camera(count):
    a, b = known_matches(count, 0.0, "scattered") if count else (np.empty((0, 2)), np.empty((0, 2)))
    np.testing.assert_array_equal(robust_affine(a, b), np.eye(3))


@pytest.mark.parametrize(
    "a",
    [
        np.column_stack([np.linspace(0, 47, 60), np.full(60, 7.0)]),  # a row of pixels
        np.column_stack([np.linspace(0, 40, 60), np.linspace(0, 30, 60)]),  # a diagonal
        np.full((60, 2), 5.0),  # one pixel
    ],
    ids=["row", "diagonal", "point"],
)
def test_matches_that_fix_no_affine_map_give_their_translation(a):
    np.testing.assert_allclose(
        robust_affine(a, a + np.array([3.0, -1.0])), [[1, 0, 3], [0, 1, -1], [0, 0, 1]], atol=1e-9
    )


def test_nonsense_gives_a_map_that_can_be_inverted():
    for seed in range(20):
        random = np.random.default_rng(seed)
        fit = robust_affine(random.uniform(0, 48, (30, 2)), random.uniform(0, 48, (30, 2)))
        stretch = np.linalg.svd(fit[:2, :2], compute_uv=False)
        assert stretch.min() > 0.4
        assert stretch.max() < 2.1


# ------------------------------------------------------------------------------------------------ chained


def corner_error(affine: np.ndarray, path: np.ndarray) -> float:
    return max(np.abs(apply(a, CORNERS) - apply(b, CORNERS)).max() for a, b in zip(affine, path))


def test_camera_path_is_recovered_with_an_object_and_outliers():
    matches = camera_matches(frames=10, square=(2.0, 1.0), outliers=0.1, per_pair=600)
    assert corner_error(camera_affines(matches), camera_path(10)) < 0.5


def without(matches: Matches, dropped: set[tuple[int, int]], keep: int = 0) -> Matches:
    """The table with only ``keep`` rows of the dropped pairs; with 0 the pairs themselves are gone."""
    ends = {}
    for p, (i, j) in enumerate(matches.pairs.tolist()):
        rows = slice(matches.offsets[p], matches.offsets[p + 1])
        a, b = matches.xy_i[rows], matches.xy_j[rows]
        if (i, j) in dropped and not keep:
            continue
        ends[i, j] = (a[:keep], b[:keep]) if (i, j) in dropped else (a, b)
    return table(ends, matches.frames)


@pytest.mark.parametrize("keep", [0, 5])
def test_the_other_direction_serves_where_one_lacks_matches(keep):
    matches = without(camera_matches(frames=6), {(3, 2), (4, 3)}, keep)
    assert corner_error(camera_affines(matches), camera_path(6)) < 0.3


@pytest.mark.parametrize("keep", [0, 5])
def test_a_missing_step_counts_as_a_still_camera_and_the_rest_goes_on(keep):
    matches = without(camera_matches(frames=6), {(3, 2), (2, 3)}, keep)
    affine, path = camera_affines(matches), camera_path(6)
    assert corner_error(affine[:3], path[:3]) < 0.3
    np.testing.assert_allclose(affine[3], affine[2])
    relative = np.linalg.inv(affine[3]) @ affine[5]
    assert corner_error(relative[None], (np.linalg.inv(path[3]) @ path[5])[None]) < 0.3


def test_no_adjacent_pairs_at_all():
    matches = camera_matches(frames=6, gaps=(3,), square=(2.0, 0.0))
    start = warm_start(matches, seed=0)
    assert is_sane(start.camera, matches.size)
    assert np.isfinite(start.residual).all()
    depth = depth_from_motion(matches, start.residual, (4, 6), 0.5)
    np.testing.assert_array_equal(depth, np.zeros((6, 4, 6)))  # no evidence within the largest gap: flat


# ------------------------------------------------------------------------------------------------ residual, depth


def test_residual_is_the_distance_to_the_camera_over_the_root_of_the_gap():
    matches = camera_matches(frames=5, gaps=(1, 4), square=(2.0, 1.0))
    residual = motion_residual(matches, camera_path(5))
    gap = np.abs(np.diff(matches.pairs, axis=1)[:, 0])[matches.rows_pair]
    left, right, top, low = SQUARE
    xy = matches.xy_i
    moving = (xy[:, 0] > left) & (xy[:, 0] < right) & (xy[:, 1] > top) & (xy[:, 1] < low)
    margin = (xy[:, 0] > left - 0.1) & (xy[:, 0] < right + 0.1) & (xy[:, 1] > top - 0.1) & (xy[:, 1] < low + 0.1)
    expected = np.hypot(2.0, 1.0) * np.sqrt(gap)  # gap * speed / sqrt(gap)
    np.testing.assert_allclose(residual[moving], expected[moving], atol=0.06)
    assert residual[~margin].max() < 0.06  # fixed point: 1/64 px at both ends


def test_what_moves_by_itself_starts_in_front():
    matches = camera_matches(frames=6, per_pair=1500, square=(2.0, 1.0))
    depth = depth_from_motion(matches, warm_start(matches, seed=0).residual, (8, 12), 0.5)  # cells of 4 px
    assert depth.shape == (6, 8, 12)
    assert depth.dtype == np.float32
    inside, outside = depth[:, 3:5, 4:6], np.concatenate([depth[:, :, :1], depth[:, :, -2:]], axis=2)
    assert inside.max() < -0.35
    assert outside.min() > -0.05
    assert depth.min() >= -0.5


def test_a_still_picture_starts_flat():
    matches = camera_matches(frames=4, per_pair=800)
    depth = depth_from_motion(matches, warm_start(matches, seed=0).residual, (8, 12), 0.5)
    assert np.abs(depth).max() < 0.05


def test_cells_without_matches_have_a_depth():
    a = np.random.default_rng(0).uniform([0, 0], [10, 10], (100, 2))
    matches = table({(0, 1): (a, a + 1), (1, 0): (a + 1, a)}, 3)
    start = warm_start(matches, seed=0)
    depth = depth_from_motion(matches, start.residual, (8, 12), 0.5)
    assert np.isfinite(depth).all()


MOVING = np.s_[:, 1, 2]  # a cell of 8 px that the square covers in all frames
STILL = np.s_[:, :, 5]


def square_matches(frames: int = 6) -> Matches:
    return camera_matches(frames=frames, per_pair=1500, square=(2.0, 1.0))


@pytest.mark.parametrize("prior", [None, np.full((6, 1, 1), 5.0, np.float16)], ids=["none", "constant"])
def test_a_prior_that_knows_nothing_gets_what_moves_in_front(prior):
    depth, mask = nearer_by_motion(prior, None, square_matches(), 0.2, seed=0)
    unit = 1 if prior is None else 5
    assert depth.shape == (6, 4, 6)
    assert depth.dtype == np.float32
    assert mask is None
    assert depth[MOVING].max() < 0.88 * unit
    assert depth[STILL].min() > 0.95 * unit
    assert 0.8 * unit <= depth.min()
    assert depth.max() <= unit


def test_a_prior_that_knows_more_keeps_its_cells_and_its_mask():
    random = np.random.default_rng(0)
    prior, mask = random.uniform(1, 9, (6, 16, 24)).astype(np.float16), random.random((6, 16, 24)) < 0.5
    depth, known = nearer_by_motion(prior, mask, square_matches(), 0.2, seed=0)
    flat, _ = nearer_by_motion(None, None, square_matches(), 0.2, seed=0)
    ratio = depth / prior
    np.testing.assert_array_equal(known, mask)
    np.testing.assert_allclose(ratio[:, :, -1], np.repeat(flat[:, :, -1], 4, 1), atol=0.01)  # still: the prior's own
    assert ratio[:, 5:7, 9:11].max() < 0.88
    assert (depth > 0).all()


def test_a_coarser_prior_is_cut_into_the_cells_of_the_motion():
    prior = np.stack([[[1.0, 2.0, 4.0]]] * 4)  # [4, 1, 3]
    mask = np.stack([[[True, False, True]]] * 4)
    depth, known = nearer_by_motion(prior, mask, camera_matches(frames=4, per_pair=800), 0.2, seed=0)
    columns = np.repeat([1.0, 2.0, 4.0], 2)
    np.testing.assert_allclose(depth, np.broadcast_to(columns, (4, 4, 6)), rtol=0.03)  # nothing moves by itself
    np.testing.assert_array_equal(known, np.broadcast_to(np.repeat([True, False, True], 2), (4, 4, 6)))


def homography_path(frames: int) -> np.ndarray:
    """A camera that pans with perspective: homographies [T, 3, 3] of index coordinates into frame 0."""
    path = np.repeat(np.eye(3)[None], frames, axis=0)
    for t in range(frames):
        path[t] += t * np.array([[0.004, -0.006, 2.0], [0.005, 0.002, -0.8], [2e-4, -1e-4, 0.0]])
    return path


def project(homography: np.ndarray, xy: np.ndarray) -> np.ndarray:
    lifted = xy @ homography[:, :2].T + homography[:, 2]
    return lifted[:, :2] / lifted[:, 2:]


def test_adjustment_finds_homographies_where_a_chain_of_affine_maps_drifts():
    path, random, pairs = homography_path(6), np.random.default_rng(3), {}
    for i in range(6):
        for j in range(6):
            if abs(i - j) in (1, 2, 4):
                a = random.uniform([0, 0], [47, 31], (400, 2))
                b = project(np.linalg.inv(path[j]) @ path[i], a)
                b[:80] += random.uniform(-6, 6, (80, 2))  # a fifth moves by itself
                inside = (b >= 0).all(1) & (b <= [47, 31]).all(1)
                pairs[i, j] = (a[inside], b[inside])
    matches = table(pairs, 6)
    chain = camera_affines(matches)
    adjusted = adjust(matches, chain, seed=0)

    def drift(camera: np.ndarray) -> float:
        relative, truth = np.linalg.inv(camera[0]) @ camera[5], np.linalg.inv(path[0]) @ path[5]
        inner = np.array([[20.0, 10.0], [40.0, 20.0], [30.0, 28.0]])
        return float(np.abs(project(relative, inner) - project(truth, inner)).max())

    assert drift(adjusted) < 0.15 < drift(chain)


def test_a_camera_that_broke_down_is_not_sane():
    good = homography_path(4)
    assert is_sane(good, (32, 48))
    for breakage in ([[0, 0, 0], [0, 0, 0], [-0.05, 0, 0]], [[0, 0, 1e4], [0, 0, 0], [0, 0, 0]]):
        bad = good.copy()
        bad[2] += np.array(breakage)
        assert not is_sane(bad, (32, 48))


def test_no_matches_mean_no_camera_motion():
    nothing = (np.empty((0, 2)), np.empty((0, 2)))
    camera = camera_motion(table({(0, 1): nothing, (1, 0): nothing}, 3), seed=0)
    np.testing.assert_array_equal(camera, np.repeat(np.eye(3)[None], 3, axis=0))
