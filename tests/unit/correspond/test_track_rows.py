"""From tracks to matches: all of them where there is room, an even draw of bounded size where there is not."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.correspond import track_rows
from everypoint.correspond.track_rows import PairReservoir, rows_a_pair

ROOMY = 1e6  # megabytes


def made(frames: int = 7, count: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    xy = random.random((frames, count, 2)).astype(np.float32)
    score = random.random((frames, count)).astype(np.float32)
    return xy, score, random.integers(0, 3, (frames, count)).astype(np.uint8)


def as_set(rows) -> set:
    columns = (rows.frame_i, rows.frame_j, *rows.xy_i.T, *rows.xy_j.T, rows.score)
    return set(zip(*(column.tolist() for column in columns), strict=True))


def by_loops(xy, score, sets, low=1, high=99, start=0) -> set:
    frames, count = score.shape
    found = set()
    for i in range(frames):
        for j in range(i + low, min(frames, i + high + 1)):
            for n in range(count):
                if sets[i, n] and sets[i, n] == sets[j, n]:
                    ends = (*xy[i, n].tolist(), *xy[j, n].tolist())
                    found.add((i + start, j + start, *ends, min(score[i, n], score[j, n]).item()))
    return found


@pytest.mark.parametrize("low, high", [(1, None), (1, 3), (2, 4), (6, None), (1, 1)])
def test_with_room_for_all_it_equals_plain_loops(low, high):
    arrays = made()
    reservoir = PairReservoir(7, (low, high), 1000, ROOMY, 0)
    reservoir.add(*arrays)
    rows = reservoir.rows(4)
    assert as_set(rows) == by_loops(*arrays, low, high or 99)
    assert len(as_set(rows)) == len(rows) > 0
    assert (rows.flags == 4).all()
    kinds = (rows.frame_i, rows.frame_j, rows.xy_i, rows.xy_j, rows.score, rows.flags)
    assert [a.dtype for a in kinds] == [np.int32, np.int32, np.float32, np.float32, np.float32, np.uint8]


def test_tracks_of_a_part_of_the_video():
    xy, score, sets = made(4)
    reservoir = PairReservoir(9, (1, None), 1000, ROOMY, 0)
    reservoir.add(xy, score, sets, start=5)
    assert as_set(reservoir.rows(0)) == by_loops(xy, score, sets, start=5)


@pytest.mark.parametrize("frames, gaps", [(1, (1, None)), (5, (5, None)), (5, (3, 2)), (5, (1, None))])
def test_nothing_to_match(frames, gaps):
    reservoir = PairReservoir(frames, gaps, 10, ROOMY, 0)
    xy, score, sets = made(frames, 3)
    reservoir.add(xy, score, sets if gaps != (1, None) or frames == 1 else np.zeros_like(sets))
    assert len(reservoir.rows(1)) == 0


def test_no_tracks():
    reservoir = PairReservoir(5, (1, None), 10, ROOMY, 0)
    reservoir.add(*made(5, 0))
    assert len(reservoir.rows(1)) == 0


def test_a_cap_keeps_a_part_of_each_pair():
    arrays = made(6, 200)
    everything, capped = PairReservoir(6, (1, None), 1000, ROOMY, 0), PairReservoir(6, (1, None), 9, ROOMY, 0)
    everything.add(*arrays)
    capped.add(*arrays)
    rows, all_rows = capped.rows(0), everything.rows(0)
    assert as_set(rows) < as_set(all_rows)
    assert as_set(all_rows) == by_loops(*arrays)
    counts = np.bincount(rows.frame_i * 6 + rows.frame_j)
    assert set(counts.tolist()) == {0, 9}
    assert (counts > 0).sum() == 15


@pytest.mark.parametrize("block, pending", [(6 * 200, 1), (6 * 7, 1), (6 * 7, 500), (1, 10**9)])
def test_blocks_change_nothing(monkeypatch, block, pending):
    arrays = made(6, 200, seed=1)
    whole = PairReservoir(6, (1, None), 11, ROOMY, 3)
    whole.add(*arrays)
    monkeypatch.setattr(track_rows, "BLOCK", block)
    monkeypatch.setattr(track_rows, "PENDING", pending)
    parts = PairReservoir(6, (1, None), 11, ROOMY, 3)
    for first in range(0, 200, 50):
        parts.add(*(array[:, first : first + 50] for array in arrays))
    for name in ("frame_i", "frame_j", "xy_i", "xy_j", "score"):
        np.testing.assert_array_equal(getattr(parts.rows(0), name), getattr(whole.rows(0), name))


def test_the_draw_is_even_and_another_for_every_pair():
    """Each of 60 tracks has 12 of 60 chances in each pair; over seeds and pairs its count is binomial."""
    frames, count, limit, seeds = 5, 60, 12, 300
    xy = np.zeros((frames, count, 2), np.float32)
    xy[..., 0] = np.arange(count)
    ones = np.ones((frames, count), np.float32)
    hits, both = np.zeros((10, count)), 0
    for seed in range(seeds):
        reservoir = PairReservoir(frames, (1, None), limit, ROOMY, seed)
        reservoir.add(xy, ones, ones.astype(np.uint8))
        rows = reservoir.rows(0)
        chosen = np.zeros((10, count), bool)
        number = np.unique(rows.frame_i * frames + rows.frame_j, return_inverse=True)[1]
        chosen[number, rows.xy_i[:, 0].astype(int)] = True
        hits += chosen
        both += (chosen[0] & chosen[7]).sum()
    share = limit / count
    deviation = np.sqrt(seeds * share * (1 - share))
    assert np.abs(hits - seeds * share).max() < 4.5 * deviation  # 600 counts: 4.5 deviations are 1 in 250
    chi_square = ((hits.sum(0) - 10 * seeds * share) ** 2 / (10 * seeds * share * (1 - share))).sum()
    assert 20 < chi_square < 130  # a track's pairs are not independent, so only roughly chi-square of 59 degrees
    assert both / (seeds * limit) < 2 * share  # independent pairs share `share` of their tracks


def test_the_draw_depends_on_the_seed_only():
    def rows(seed):
        reservoir = PairReservoir(6, (1, None), 5, ROOMY, seed)
        reservoir.add(*made(6, 90))
        return as_set(reservoir.rows(0))

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)


def test_memory_is_bounded_by_the_budget(monkeypatch):
    monkeypatch.setattr(track_rows, "PENDING", 100)
    monkeypatch.setattr(track_rows, "BLOCK", 20 * 10)
    budget_mb = 190 * 4 * 22 / 1e6  # four rows for each of the 190 pairs
    reservoir = PairReservoir(20, (1, None), 1000, budget_mb, 0)
    assert reservoir.limit == 4
    most = 0
    for seed in range(30):
        xy, score, _ = made(20, 50, seed)
        reservoir.add(xy, score, np.ones((20, 50), np.uint8))
        most = max(most, reservoir.waiting)
    assert most < reservoir.capacity // 4 + 190
    assert len(reservoir.rows(0)) == reservoir.capacity == 760


@pytest.mark.parametrize("per_pair, mb, pairs, expected", [(1024, 512, 10, 1024), (1024, 22e-3, 10, 100), (9, 0, 5, 1)])
def test_rows_a_pair(per_pair, mb, pairs, expected):
    assert rows_a_pair(per_pair, mb, pairs) == expected
