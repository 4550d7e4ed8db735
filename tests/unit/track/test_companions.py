"""Companions: where their motion puts hidden points, and what they may not do."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.artifacts.flows import FlowShardWriter, FlowStore
from everypoint.config.options import CompanionOptions
from everypoint.track.base import TrackArrays
from everypoint.track.companions import Block, _references, _robust_mean, blocks, propose, starts

OPTIONS = CompanionOptions(every=4, points=40)
FRAMES, RADIUS = 12, 30.0
DRIFT = np.array([2.0, -1.0])


def tracks_of(start: np.ndarray, velocity: np.ndarray, visible: np.ndarray | None = None) -> TrackArrays:
    """Points [N, 2] that move by ``velocity`` a frame."""
    time = np.arange(FRAMES)[:, None, None]
    tracks = (start + time * velocity).astype(np.float32)
    seen = np.ones(tracks.shape[:2], bool) if visible is None else visible
    return TrackArrays(tracks, seen, seen.astype(np.float32))


def group(centre: tuple[float, float], count: int, seed: int = 0, spread: float = 10.0) -> np.ndarray:
    return np.array(centre) + np.random.default_rng(seed).uniform(-spread, spread, (count, 2))


def hidden_point(frames: slice) -> TrackArrays:
    """A point of the drifting group at (50, 50), lost and left behind in ``frames``."""
    found = tracks_of(np.array([[50.0, 50.0]]), DRIFT)
    found.visible[frames] = False
    found.tracks[frames] = -100
    return found


def joined(*parts: TrackArrays) -> TrackArrays:
    return TrackArrays(*(np.concatenate(values, axis=1) for values in zip(*parts, strict=True)))


@pytest.mark.parametrize("frames", [slice(4, 8), slice(6, 12), slice(0, 3)])
def test_a_hidden_point_goes_with_its_surroundings(frames):
    companions = tracks_of(group((50, 50), 12), DRIFT)
    found = propose(hidden_point(frames), [Block(0, companions)], RADIUS, OPTIONS)
    truth = tracks_of(np.array([[50.0, 50.0]]), DRIFT).tracks
    assert found.known[frames].all()
    assert found.known.sum() == len(range(FRAMES)[frames])  # visible points are not asked about
    np.testing.assert_allclose(found.xy[frames], truth[frames], atol=1e-3)


def test_those_that_move_otherwise_have_no_say():
    """Three times as many of the background around it, nearer than those of its own object."""
    own, others = tracks_of(group((50, 50), 6, 1), DRIFT), tracks_of(group((50, 50), 18, 2, 6.0), -DRIFT)
    found = propose(hidden_point(slice(6, 9)), [Block(0, joined(own, others))], RADIUS, OPTIONS)
    truth = tracks_of(np.array([[50.0, 50.0]]), DRIFT).tracks
    assert found.known[6:9].all()
    assert np.linalg.norm(found.xy[6:9] - truth[6:9], axis=-1).max() < 1.5


def test_only_companions_that_are_seen_in_both_frames_vote():
    visible = np.ones((FRAMES, 12), bool)
    visible[6] = False
    companions = tracks_of(group((50, 50), 12), DRIFT, visible)
    known = propose(hidden_point(slice(5, 8)), [Block(0, companions)], RADIUS, OPTIONS).known[:, 0]
    assert known[[5, 7]].all()
    assert not known[6]


@pytest.mark.parametrize("count, away", [(2, 0.0), (12, 200.0), (0, 0.0)], ids=["too few", "too far", "none"])
def test_nothing_is_known_without_neighbours(count, away):
    companions = tracks_of(group((50 + away, 50), count).reshape(-1, 2), DRIFT)
    assert not propose(hidden_point(slice(4, 8)), [Block(0, companions)], RADIUS, OPTIONS).known.any()


def test_nothing_is_known_where_they_disagree():
    rng = np.random.default_rng(3)
    companions = tracks_of(group((50, 50), 12), DRIFT)
    companions.tracks[6] += rng.uniform(-60, 60, (12, 2))
    assert not propose(hidden_point(slice(6, 7)), [Block(0, companions)], RADIUS, OPTIONS).known.any()


def test_the_nearer_side_of_a_gap_counts_more():
    """The object turns while it is hidden: the two sides expect it in different places."""
    companions = tracks_of(group((50, 50), 12), DRIFT)
    point = hidden_point(slice(4, 8))
    point.tracks[8:] += 4  # it comes back displaced
    found = propose(point, [Block(0, companions)], RADIUS, OPTIONS)
    truth = tracks_of(np.array([[50.0, 50.0]]), DRIFT).tracks
    shift = found.xy[4:8, 0, 0] - truth[4:8, 0, 0]
    expected = [4 * (1 / after) / (1 / after + 1 / before) for before, after in [(1, 4), (2, 3), (3, 2), (4, 1)]]
    np.testing.assert_allclose(shift, expected, atol=1e-3)


def test_references_against_a_loop():
    visible = np.random.default_rng(4).random((9, 20)) < 0.4
    found = np.zeros((9, 9, 20), bool)
    for r, hidden in _references(visible):
        found[r] = hidden
    for t in range(9):
        for n in range(20):
            sides = [[s for s in range(t) if visible[s, n]], [s for s in range(t + 1, 9) if visible[s, n]]]
            nearest = {side[-1] if k == 0 else side[0] for k, side in enumerate(sides) if side}
            assert {r for r in range(9) if found[r, t, n]} == (set() if visible[t, n] else nearest)


def test_the_robust_mean_stands_outliers():
    values = np.concatenate([np.full((1, 6, 2), 3.0), np.full((1, 3, 2), 40.0)], axis=1)
    centre, agreeing = _robust_mean(values, np.ones((1, 9)))
    assert np.linalg.norm(centre[0] - 3) < 0.5
    assert agreeing[0] == pytest.approx(6 / 9)


def test_companions_start_everywhere_and_where_things_move(tmp_path):
    size, frames = (64, 96), 9
    flow = np.full((*size, 2), 2.0, np.float32)
    flow[16:40, 24:56] = (-3.0, 0.0)  # an object against a moving camera
    writer = FlowShardWriter(tmp_path / "flow", "made", size)
    for t in range(frames):
        targets = [s for s in (t - 1, t + 1) if 0 <= s < frames]
        writer.write(t, targets, np.stack([flow * (s - t) for s in targets]))
    writer.publish()
    found = starts(FlowStore([tmp_path / "flow"]), frames, OPTIONS)
    assert set(found[:, 0]) == {0.0, 4.0, 8.0}
    first = found[found[:, 0] == 0]
    assert len(first) <= OPTIONS.points
    on_object = (first[:, 1] >= 24) & (first[:, 1] < 56) & (first[:, 2] >= 16) & (first[:, 2] < 40)
    assert on_object.sum() >= 12  # all of its cells, an eighth of the frame
    assert (~on_object).sum() >= 15
    assert len(np.unique(found, axis=0)) == len(found)


def test_no_companion_starts_without_flows(tmp_path):
    writer = FlowShardWriter(tmp_path / "flow", "made", (16, 16))
    writer.write(0, [5], np.zeros((1, 16, 16, 2), np.float32))
    writer.publish()
    assert starts(FlowStore([tmp_path / "flow"]), 6, OPTIONS).shape == (0, 3)


@pytest.mark.parametrize("frames", [1, 2, 8, 9, 16, 17, 40])
def test_blocks_cover_every_start_once_and_follow_it_far_enough(frames):
    options = CompanionOptions(every=4, span=8)
    found = blocks(frames, options)
    assert [t for begins, _ in found for t in begins] == list(range(frames))
    for begins, followed in found:
        assert 0 <= followed.start <= begins.start
        assert begins.stop <= followed.stop <= frames
        assert len(followed) <= 3 * options.span
        for t in begins:
            assert followed.start <= max(0, t - options.span)
            assert min(frames, t + options.span + 1) <= followed.stop
    if frames <= 2 * options.span:
        assert all(followed == range(frames) for _, followed in found)


def test_blocks_say_what_their_companions_say_together():
    """Companions cut in four blocks of other frames: those seen in the frames around the gap are the same."""
    companions = tracks_of(group((50, 50), 24), DRIFT)
    companions.visible[:3, 6:12], companions.visible[9:, 12:18] = False, False
    whole = propose(hidden_point(slice(5, 8)), [Block(0, companions)], RADIUS, OPTIONS)
    cuts = [(0, FRAMES, slice(0, 6)), (3, FRAMES, slice(6, 12)), (0, 9, slice(12, 18)), (2, 11, slice(18, 24))]
    parts = [Block(first, TrackArrays(*(of[first:last, rows] for of in companions))) for first, last, rows in cuts]
    found = propose(hidden_point(slice(5, 8)), parts, RADIUS, OPTIONS)
    assert found.known[5:8].all()
    np.testing.assert_array_equal(found.known, whole.known)
    np.testing.assert_allclose(found.xy[found.known], whole.xy[whole.known], atol=1e-5)


def test_companions_that_were_not_followed_so_far_have_no_say():
    companions = tracks_of(group((50, 50), 12), DRIFT)
    early = Block(0, TrackArrays(*(of[:6] for of in companions)))
    found = propose(hidden_point(slice(4, 8)), [early], RADIUS, OPTIONS)
    assert found.known[4:6].all()
    assert not found.known[6:].any()
    assert not propose(hidden_point(slice(4, 8)), [], RADIUS, OPTIONS).known.any()
