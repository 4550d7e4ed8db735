"""Which tracks are kept, against the rules written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.pips.data import sampling
from everypoint.pips.data.sampling import Tracks


def still(points: list[tuple[float, float]], frames: int = 6) -> Tracks:
    xy = np.tile(np.array(points, np.float32), (frames, 1, 1))
    good = np.ones(xy.shape[:2], bool)
    return Tracks(xy, good, good.copy())


def test_positions_that_are_not_finite_become_unknown_zeros():
    xy = np.array([[[1.0, np.nan], [2, 3], [np.inf, 0]]])
    tracks = sampling.finite(xy, np.ones((1, 3), bool), np.ones((1, 3), bool))
    assert tracks.xy.tolist() == [[[0, 0], [2, 3], [0, 0]]]
    assert tracks.seen.tolist() == tracks.known.tolist() == [[False, True, False]]
    assert tracks.xy.dtype == np.float32


@pytest.mark.parametrize(
    ("point", "seen", "inner", "known"),
    [
        ((0.0, 5.0), True, False, True),
        ((0.99, 5.0), True, False, True),
        ((1.0, 5.0), True, True, True),
        ((18.0, 8.0), True, True, True),  # W - 2, H - 2
        ((18.01, 5.0), True, False, True),
        ((19.0, 5.0), True, False, True),
        ((19.01, 5.0), False, False, True),
        ((-64.0, 5.0), False, False, True),
        ((-64.1, 5.0), False, False, False),
        ((5.0, 73.0), False, False, True),  # H - 1 + 64
        ((5.0, 73.1), False, False, False),
    ],
)
def test_borders(point, seen, inner, known):
    size = (10, 20)
    assert sampling.hide_outside(still([point], 1), size).seen[0, 0] == seen
    hidden = sampling.hide_border(still([point], 1), size)
    assert (hidden.seen[0, 0], hidden.known[0, 0]) == (inner, known)


def test_edges_are_where_objects_meet_and_not_around_fog():
    mask = np.full((40, 60), 80, np.uint8)
    mask[:, 30:] = 160
    edges = sampling.edge_map(mask, 40)
    assert edges[:, 28:32].any(axis=1).all()
    assert not edges[:, :27].any()
    assert not edges[:, 33:].any()
    wide = sampling.edge_map(mask, 20)  # twice as tall as it is resized to: one pixel more at each side
    assert wide.sum() == edges.sum() + 2 * 40
    mask[10:14, 5:9] = 0  # 16 pixels of fog: not filled, and no edge
    assert not sampling.edge_map(mask, 40)[:, :20].any()


def test_large_fog_is_filled_where_its_surroundings_reach():
    mask = np.full((40, 60), 80, np.uint8)
    mask[2:-2:3, 2:-2:3] = 0
    assert (sampling.fill_fog(mask) == 80).all()
    few = np.full((40, 60), 80, np.uint8)
    few[0, :100] = 0
    assert (sampling.fill_fog(few) == 0).sum() == 60  # 128 or fewer stay
    colours = np.repeat(mask[..., None], 3, axis=2)
    assert (sampling.fill_fog(colours) == 80).all()


def test_tracks_on_edges_of_the_first_frame_go():
    edges = np.zeros((10, 20), bool)
    edges[4, 7] = True
    kept = sampling.off_edges(still([(7, 4), (6.6, 4.4), (7.6, 4), (7, 5), (-3, 4), (40, 40)]), edges)
    np.testing.assert_allclose(kept.xy[0], np.float32([(7.6, 4), (7, 5), (-3, 4), (40, 40)]))


def test_long_enough():
    """16 frames: good in the first two and in sqrt(16) of them."""
    tracks = still([(0, 0)] * 5, 16)
    tracks.seen[:] = False
    tracks.seen[:4, 0] = True
    tracks.seen[:3, 1] = True
    tracks.seen[[0, 2, 3, 4], 2] = True  # not in the second frame
    tracks.seen[1:9, 3] = True  # not in the first
    tracks.seen[[0, 1, 14, 15], 4] = True
    tracks.known[15, 4] = False
    assert sampling.long_enough(tracks).count == 1
    two = still([(0, 0)], 3)
    two.seen[2] = False
    assert sampling.long_enough(two).count == 1  # two frames are enough of three


def test_motion_sanity_limits():
    """In longer sides of the picture a frame: velocity 0.4, acceleration 0.3, jerk 0.1, none reached."""

    def sane(x: list[float]) -> bool:
        tracks = still([(0, 0)], len(x))
        tracks.xy[:, 0, 1] = np.array(x) * 200
        return bool(sampling.moves_sanely(tracks, (100, 200))[0])

    even = np.arange(6)
    assert sane(0.39 * even)
    assert not sane(0.41 * even)
    assert sane([0, 0.05, 0.1, 0.1 + 0.14, 0.1 + 0.28 + 0.09])
    assert not sane([0, 0, 0, 0.12, 0.24, 0.36])  # starts at once: jerk 0.12
    assert sane([0, 0, 0, 0.09, 0.18, 0.27])
    ramp = np.cumsum([0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35])
    assert sane(ramp)


def farthest_by_hand(points: np.ndarray, first: int, count: int) -> list[int]:
    chosen = [first]
    while len(chosen) < count:
        distance = [min(float(((p - points[c]) ** 2).sum()) for c in chosen) for p in points.astype(float)]
        rest = [n for n in range(len(points)) if n not in chosen]
        chosen.append(max(rest, key=lambda n: (distance[n], -n)))
    return chosen


def test_farthest_points_are_those_of_the_definition():
    points = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)
    for seed in range(5):
        chosen = sampling.farthest_points(points, 12, np.random.default_rng(seed))
        assert chosen.tolist() == farthest_by_hand(points, int(chosen[0]), 12)
    starts = {int(sampling.farthest_points(points, 1, np.random.default_rng(seed))[0]) for seed in range(30)}
    assert len(starts) > 10


def test_farthest_points_repeat_none():
    same = np.zeros((5, 4))
    assert sorted(sampling.farthest_points(same, 9, np.random.default_rng(0))) == [0, 1, 2, 3, 4]
    assert len(sampling.farthest_points(np.zeros((0, 4)), 9, np.random.default_rng(0))) == 0


def test_clamp_and_padding():
    assert sampling.clamp(np.float32([[-200, 500]]), (100, 50)).tolist() == [[-64, 164]]
    table = sampling.padded(still([(1, 2)], 3), 2)
    assert table.shape == (3, 2, 4)
    assert table.dtype == np.float32
    assert table[:, 0].tolist() == [[1, 2, 1, 1]] * 3
    assert not table[:, 1].any()
