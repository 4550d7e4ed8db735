"""Flows that compete at motion boundaries: the thin thing keeps its own motion, all else is left as it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from everypoint.artifacts.flows import FlowShardWriter, FlowStore
from everypoint.config.options import ChainOptions
from everypoint.track.boundary import HALF, alternatives, circles, contrast, difference, patches
from everypoint.track.chain import step
from everypoint.track.evidence import Evidence

SIZE = (48, 64)
MOTION = np.float32([6.0, 1.0])
BAR = (slice(10, 34), slice(30, 33))  # rows and columns of a thin bar in frame 0
TIP = np.float32([[31.0, 11.0]])  # on the bar, where the flow is the background's


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """A still, textured background and a bar that moves before it."""
    background = np.random.default_rng(0).integers(60, 200, (*SIZE, 3)).astype(np.uint8)
    frames = np.stack([background, background])
    frames[0][BAR] = (250, 10, 10)
    frames[1][11:35, 36:39] = (250, 10, 10)
    return frames


def store_of(folder, forward: np.ndarray, backward: np.ndarray) -> FlowStore:
    writer = FlowShardWriter(folder, "made", SIZE)
    writer.write(0, [1], forward[None])
    writer.write(1, [0], backward[None])
    writer.publish()
    return FlowStore([folder])


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> FlowStore:
    """Flows that know the bar but for its upper 4 px, where they give the background's, both ways."""
    forward, backward = np.zeros((2, *SIZE, 2), np.float32)
    forward[14:34, 30:33] = MOTION
    backward[15:35, 36:39] = -MOTION
    return store_of(tmp_path_factory.mktemp("flows") / "flow", forward, backward)


def test_the_tip_of_a_thin_thing_moves_with_it(store, images):
    there, _ = step(store, 0, 1, TIP)
    np.testing.assert_allclose(there, TIP)  # its own flow is the background's
    found = alternatives(store, images, 0, 1, TIP, there, radius=4.0, gain=0.6)
    assert found.rows.tolist() == [0]
    np.testing.assert_allclose(found.xy, TIP + MOTION, atol=0.05)
    assert found.error[0] < 0.05  # the flows around the landing lead back


def test_points_whose_own_flow_explains_the_frames_are_left_alone(store, images):
    on_bar, beside = np.float32([[31.0, 24.0]]), np.float32([[26.5, 24.0]])
    for xy in (on_bar, beside):
        there, _ = step(store, 0, 1, xy)
        assert not len(alternatives(store, images, 0, 1, xy, there, radius=4.0, gain=0.6).rows)


def test_nothing_competes_where_all_flows_agree(tmp_path, images):
    same = np.full((*SIZE, 2), 3.0, np.float32)
    xy = np.float32([[20, 20], [1, 1], [62, 40]])
    store = store_of(tmp_path / "flow", same, -same)
    assert not len(alternatives(store, images, 0, 1, xy, xy + 3, radius=4.0, gain=1.0).rows)


def test_flows_that_are_not_known_do_not_compete(tmp_path, images):
    forward = np.zeros((*SIZE, 2), np.float32)
    forward[14:34, 30:33] = np.nan
    store = store_of(tmp_path / "flow", forward, np.zeros((*SIZE, 2), np.float32))
    assert not len(alternatives(store, images, 0, 1, TIP, TIP.copy(), radius=4.0, gain=1.0).rows)


def test_evidence_takes_the_better_flow_only_when_asked(store, images):
    asked = Evidence(store, ChainOptions(boundary_radius=4.0), images=images)
    both = np.concatenate([TIP, [[10.0, 10.0]]]).astype(np.float32)
    xy, error = asked.step(0, 1, both)
    np.testing.assert_allclose(xy, both + np.stack([MOTION, 0 * MOTION]), atol=0.05)
    assert (error < 0.05).all()
    np.testing.assert_array_equal(Evidence(store, ChainOptions()).step(0, 1, both)[0], both)
    with pytest.raises(ValueError, match="frames"):
        Evidence(store, ChainOptions(boundary_radius=4.0))


def test_patches_and_their_difference_against_loops(images):
    xy = np.float32([[20.25, 17.5], [0.0, 0.0], [63.0, 47.0]])
    found = patches(images[0], xy)
    assert found.shape == (3, (2 * HALF + 1) ** 2, 3)
    for n, (x, y) in enumerate(xy):
        place = 0
        for dy in range(-HALF, HALF + 1):
            for dx in range(-HALF, HALF + 1):
                at = [[np.clip(y + dy, 0, SIZE[0] - 1)], [np.clip(x + dx, 0, SIZE[1] - 1)]]
                for channel in range(3):
                    true = map_coordinates(images[0][..., channel].astype(float), at, order=1)[0]
                    assert abs(float(found[n, place, channel]) - true) <= 4  # cv2 rounds places to 1/32 px
                place += 1
    weights = [np.exp(-(dx**2 + dy**2) / 8) for dy in range(-HALF, HALF + 1) for dx in range(-HALF, HALF + 1)]
    other = found[::-1]
    apart = [
        sum(w * np.abs(a.astype(float) - b.astype(float)).sum() for w, a, b in zip(weights, p, q, strict=True))
        for p, q in zip(found, other, strict=True)
    ]
    np.testing.assert_allclose(difference(found, other), np.array(apart) / sum(weights), rtol=1e-5)


def test_many_points_are_read_in_parts(images):
    xy = np.random.default_rng(1).uniform(0, 40, (33000, 2)).astype(np.float32)
    found = patches(images[0], xy)
    np.testing.assert_array_equal(found[[0, 16384, 32999]], patches(images[0], xy[[0, 16384, 32999]]))


def test_circles_stay_within_their_radius():
    lengths = np.linalg.norm(circles(4.0), axis=-1)
    np.testing.assert_allclose(np.sort(lengths), [2.0] * 4 + [4.0] * 8, rtol=1e-6)


def test_the_contrast_of_a_patch_is_its_weighted_deviation_in_the_units_of_differences():
    flat = np.full((2, (2 * HALF + 1) ** 2, 3), 77, np.uint8)
    np.testing.assert_allclose(contrast(flat), 0, atol=0.1)
    halves = flat.copy()
    halves[0, ::2] = 97  # a chessboard: every value is 10 from their mean ...
    assert contrast(halves)[0] == pytest.approx(30, rel=0.01)
    assert difference(halves, halves[::-1])[0] == pytest.approx(30, rel=0.01)  # ... and half of them differ by 20
