"""A model's motion shifted to meet the frames that show a point, against a plain loop over points and frames."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.track import anchor as module
from everypoint.track.anchor import APART, LEAST, NEAR, SURE, WIDE, anchor
from everypoint.track.base import TrackArrays

FRAMES = 24
PATH = np.stack([4.0 + 2 * np.arange(FRAMES), np.full(FRAMES, 6.0)], -1)[:, None].astype(np.float32)  # [T, 1, 2]


def tracks_of(places: np.ndarray, hidden: list[int] | range = ()) -> TrackArrays:
    visible = np.ones(places.shape[:2], bool)
    visible[list(hidden)] = False
    return TrackArrays(places.astype(np.float32), visible, visible.astype(np.float32))


def plainly(found: TrackArrays, proposal: TrackArrays, agreement: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same, point by point and frame by frame."""
    frames, count = found.visible.shape
    xy, sure, usable = proposal.tracks.copy(), np.zeros((frames, count), bool), np.zeros((frames, count), bool)
    for n in range(count):
        shift = found.tracks[:, n] - proposal.tracks[:, n]
        seen = np.flatnonzero(found.visible[:, n])
        for t in range(frames):
            sides = [side for side in (seen[seen <= t][::-1], seen[seen >= t]) if len(side)]
            middles = [np.median(shift[side[:NEAR]], axis=0) for side in sides]
            changes = [
                np.median(np.linalg.norm(shift[side[:WIDE]] - middle, axis=-1))
                for side, middle in zip(sides, middles, strict=True)
            ]
            weights = np.array([1 / (1e-3 + abs(side[0] - t)) for side in sides])
            xy[t, n] += (weights[:, None] * middles).sum(0) / weights.sum()
            apart = np.linalg.norm(middles[0] - middles[-1])
            steady = [len(side) >= LEAST and change <= SURE for side, change in zip(sides, changes, strict=True)]
            sure[t, n] = any(steady) and apart <= APART
            usable[t, n] = (apart if len(sides) == 2 else changes[0]) <= agreement
    return xy, sure, usable


@pytest.mark.parametrize("columns", [1, 3, 256])
def test_is_what_a_loop_finds(columns, monkeypatch):
    monkeypatch.setattr(module, "COLUMNS_AT_ONCE", columns)
    random = np.random.default_rng(0)
    places = random.normal(0, 20, (FRAMES, 40, 2))
    off = random.normal(0, 1, (FRAMES, 40, 2)) * random.choice([0.3, 2.0, 9.0], 40)[:, None]
    visible = random.random((FRAMES, 40)) < random.choice([0.05, 0.3, 0.8], 40)
    visible[random.integers(0, FRAMES, 40), np.arange(40)] = True  # the query
    found = TrackArrays(places.astype(np.float32), visible, visible.astype(np.float32))
    proposal = tracks_of(places + off + [3, -2])
    got, want = anchor(found, proposal, 3.0), plainly(found, proposal, 3.0)
    np.testing.assert_allclose(got.xy, want[0], atol=1e-3)
    np.testing.assert_array_equal(got.sure, want[1])
    np.testing.assert_array_equal(got.usable, want[2])
    assert 0.05 < got.sure.mean() < 0.95
    assert 0.05 < got.usable.mean() < 0.95


def test_the_shift_is_interpolated_over_the_gap():
    places = PATH.copy()
    places[:6] += [1.0, 0.0]  # shift 1 before the gap ...
    places[8:] += [1.0, 3.0]  # ... and (1, 3) after it
    found = anchor(tracks_of(places, [6, 7]), tracks_of(PATH), agreement=4.0)
    np.testing.assert_allclose(found.xy[6:8, 0] - PATH[6:8, 0], [[1, 1], [1, 2]], atol=1e-2)
    assert found.usable[6:8].all()
    assert not anchor(tracks_of(places, [6, 7]), tracks_of(PATH), agreement=2.0).usable[6:8].any()


def test_the_end_of_a_track_that_is_on_the_occluder_already_does_not_count():
    places = PATH.copy()
    places[11] += [0.0, 8.0]  # one frame before the point is called hidden
    found = anchor(tracks_of(places, range(12, FRAMES)), tracks_of(PATH + np.float32([2.0, 0.0])), agreement=3.0)
    np.testing.assert_allclose(found.xy[12:], PATH[12:], atol=1e-4)
    assert found.sure[12:].all()


def test_a_model_that_drifts_from_the_track_is_not_sure_and_at_last_of_no_use():
    for drift, sure, usable in ((0.1, True, True), (0.5, False, True), (2.0, False, False)):
        model = PATH + drift * np.arange(FRAMES)[:, None, None] * [0.0, 1.0]
        found = anchor(tracks_of(PATH, range(12, FRAMES)), tracks_of(model), agreement=3.0)
        assert found.sure[12:].all() == sure
        assert found.usable[12:].all() == usable


def test_a_point_that_only_its_query_shows_follows_the_model_which_cannot_be_sure():
    found = anchor(tracks_of(np.repeat(PATH[:1], FRAMES, axis=0), range(1, FRAMES)), tracks_of(PATH + 5), agreement=3.0)
    np.testing.assert_allclose(found.xy, PATH, atol=1e-4)
    assert found.usable.all()
    assert not found.sure.any()


def test_no_points():
    none = tracks_of(np.zeros((FRAMES, 0, 2)))
    assert anchor(none, none, 3.0).xy.shape == (FRAMES, 0, 2)
