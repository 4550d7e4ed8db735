"""PIPs++ as a tracker: which frames a query is tracked through, coordinates, visibility."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.config.options import PipsOptions
from everypoint.track import pips
from everypoint.track.pips import pips_tracks, return_error
from tests.unit.pips.weights import pips_weights

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 40, 64, 3), np.uint8)
QUERIES = np.array([[2, 10.0, 20.0], [0, 5.0, 5.0], [2, 60.0, 30.0], [5, 33.3, 12.7]], np.float32)
SMALL = {"size": (128, 136), "window": 4, "iterations": 1, "returns": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(pips_weights(tmp_path_factory.mktemp("pips") / "pips.pth"))


def test_queries_of_any_frame_and_each_alone(weights):
    options = PipsOptions(weights=weights, **SMALL)
    found = pips_tracks(FRAMES, QUERIES, options)
    rows = QUERIES[:, 0].astype(int), np.arange(4)
    assert np.array_equal(found.tracks[rows], QUERIES[:, 1:])
    assert found.visible[rows].all()
    assert (found.confidence[rows] == 1).all()
    assert np.isfinite(found.tracks).all()
    assert (np.abs(found.tracks[0] - found.tracks[5]).max(-1) > 0).all()  # something moved, either way
    alone = pips_tracks(FRAMES, QUERIES[2:3], options)
    assert np.allclose(alone.tracks[:, 0], found.tracks[:, 2], atol=1e-2)


class Shifting:
    """In place of the network's driver: every point moves by (1, 0) px a frame; in frame ``lost`` it is misled."""

    def __init__(self, lost: int | None = None) -> None:
        self.passes, self.lost = [], lost

    def follow(self, features, numbers, start, plan):
        self.passes.append(numbers)
        step = np.array([numbers[k] - numbers[0] for k in range(len(numbers))], np.float32)
        found = start[None] + np.stack([step, 0 * step], -1)[:, None]
        if self.lost is not None and numbers[0] < numbers[-1]:
            found[[number >= self.lost for number in numbers]] += 30  # forward tracks jump; those back do not
        return found.astype(np.float32)


def run(monkeypatch, weights, driver, **changes):
    monkeypatch.setattr(pips, "follow", driver.follow)
    options = PipsOptions(weights=weights, **(SMALL | {"size": (40, 64)} | changes))
    return pips_tracks(FRAMES, QUERIES[1:2], options)


def test_coordinates_are_those_of_the_frame(monkeypatch, weights):
    """A move of 1 px at the network's 80 x 128 is half of a pixel of the 40 x 64 frame."""
    found = run(monkeypatch, weights, Shifting(), size=(80, 128))
    assert np.allclose(found.tracks[:, 0], [[5 + t / 2, 5] for t in range(6)], atol=1e-5)
    assert found.visible.all()
    assert np.allclose(found.confidence, 1)


def test_points_that_do_not_come_back_are_not_visible(monkeypatch, weights):
    """The track jumps in frame 3. Back from the end none agrees before it; back from frame 2 the first frames do."""
    one = run(monkeypatch, weights, Shifting(lost=3), returns=1)
    assert one.visible[:, 0].tolist() == [True, False, False, True, True, True]
    two = run(monkeypatch, weights, Shifting(lost=3), returns=2)
    assert two.visible[:, 0].tolist() == [True, True, False, True, True, True]
    assert (two.confidence[2] < 0.5).all()


def test_points_that_leave_the_frame_are_not_visible(monkeypatch, weights):
    """1 px of 8 is 8 px of the frame's 64: from x = 5 the last of six frames is at 45, from 33 the fifth is outside."""
    monkeypatch.setattr(pips, "follow", Shifting().follow)
    options = PipsOptions(weights=weights, **(SMALL | {"size": (40, 8)}))
    found = pips_tracks(FRAMES, np.array([[0, 33.0, 5.0]], np.float32), options)
    assert np.allclose(found.tracks[:, 0, 0], 33 + 8 * np.arange(6), atol=1e-4)
    assert found.visible[:, 0].tolist() == [True, True, True, True, False, False]


@pytest.mark.parametrize(("returns", "turns"), [(1, [5]), (2, [2, 5]), (5, [1, 2, 3, 4, 5]), (9, [1, 2, 3, 4, 5])])
def test_tracks_back_begin_evenly_spread(monkeypatch, returns, turns):
    driver = Shifting()
    monkeypatch.setattr(pips, "follow", driver.follow)
    ahead = np.zeros((6, 1, 2))
    return_error(None, [4, 5, 6, 7, 8, 9], ahead, None, returns)
    assert [numbers[0] - 4 for numbers in driver.passes] == turns
    assert all(numbers[-1] == 4 for numbers in driver.passes)


def test_nothing_to_track():
    assert pips_tracks(FRAMES, np.empty((0, 3), np.float32), PipsOptions()).tracks.shape == (6, 0, 2)
