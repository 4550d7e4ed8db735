"""The sampler: what is drawn how often, from (seed, step) alone, and its state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import chisquare

from everypoint.artifacts.matches import CYCLE, OCCLUDED, Matches
from everypoint.config.options import SamplerOptions
from everypoint.optimize.sampler import ERROR_MEMORY, MatchSampler
from tests.unit.optimize.made import camera_matches, same_state, table

FLOOR = 0.02  # share of the largest weight that every row has


def rows_of_gaps(per_pair: int = 8) -> Matches:
    """Pairs of gaps 1, 2 and 4 with few rows each, so that every row can be counted."""
    random = np.random.default_rng(0)
    ends = {
        pair: (random.uniform(0, 31, (per_pair, 2)), random.uniform(0, 31, (per_pair, 2)))
        for pair in [(0, 1), (1, 0), (0, 2), (4, 0), (3, 4)]
    }
    marks = {(0, 2): np.tile([CYCLE, OCCLUDED], per_pair // 2)}
    return table(ends, 5, flags=marks)


def sampler(matches: Matches | None = None, motion: np.ndarray | None = None, **changes) -> MatchSampler:
    matches = rows_of_gaps() if matches is None else matches
    motion = np.linspace(0, 4, len(matches)) if motion is None else motion
    holdout, seed = changes.pop("holdout", 0.0), changes.pop("seed", 0)
    shares = {"adjacent_share": 0.0, "motion_share": 0.0, "hard_share": 0.0, "batch": 1000}
    return MatchSampler(matches, SamplerOptions(**(shares | changes)), motion=motion, holdout=holdout, seed=seed)


def frequencies(drawn: MatchSampler, steps: int) -> np.ndarray:
    rows = torch.cat([drawn.draw(step).rows for step in range(steps)])
    return np.bincount(rows.numpy(), minlength=len(drawn.pair))


def clipped(weight: np.ndarray, quantile: float, trainable: np.ndarray | None = None) -> np.ndarray:
    """The specified distribution by weight: clipped at the quantile, a floor of 2 % of it, trainable rows only."""
    weight = weight.astype(np.float64)
    limit = np.quantile(weight, quantile)
    weight = np.minimum(weight, limit) + FLOOR * limit
    weight = weight if trainable is None else weight * trainable
    return weight / weight.sum()


def agrees(counts: np.ndarray, expected: np.ndarray) -> bool:
    """Chi-square test of counts against probabilities; rows of no probability must not occur."""
    assert counts[expected == 0].sum() == 0
    some = expected > 0
    return chisquare(counts[some], expected[some] * counts.sum()).pvalue > 1e-3


EVEN = np.full(40, 1 / 40)
ADJACENT = np.repeat([1, 1, 0, 0, 1], 8) / 24
MOTION = clipped(np.linspace(0, 4, 40), 0.9)


@pytest.mark.parametrize(
    "shares, expected",
    [
        ({}, EVEN),
        ({"adjacent_share": 1.0}, ADJACENT),
        ({"motion_share": 1.0}, MOTION),
        ({"hard_share": 1.0}, MOTION),  # before the first error the motion stands for it
        ({"adjacent_share": 0.25}, 0.25 * ADJACENT + 0.75 * EVEN),
        ({"adjacent_share": 0.2, "motion_share": 0.4, "hard_share": 0.1}, 0.2 * ADJACENT + 0.5 * MOTION + 0.3 * EVEN),
    ],
    ids=["even", "adjacent", "motion", "hard", "two", "four"],
)
def test_rows_are_drawn_with_the_specified_frequencies(shares, expected):
    assert agrees(frequencies(sampler(**shares), 60), expected)


def test_the_test_of_frequencies_would_notice_a_wrong_share():
    assert not agrees(frequencies(sampler(adjacent_share=0.3), 60), 0.2 * ADJACENT + 0.8 * EVEN)


def test_shares_are_exact_in_every_step():
    drawn = sampler(adjacent_share=0.2, motion_share=0.4, batch=1000)
    assert drawn._parts == [200, 400, 0, 400]
    assert len(drawn.draw(3).rows) == 1000


def test_shares_beyond_one_are_refused():
    with pytest.raises(ValidationError, match=r"shares add up to 1\.4, more than 1"):
        SamplerOptions(adjacent_share=0.7, motion_share=0.7)


def test_parts_that_are_rounded_up_never_exceed_the_batch():
    drawn = sampler(adjacent_share=0.5, motion_share=0.3, hard_share=0.2, batch=3)
    assert len(drawn.draw(0).rows) == sum(drawn._parts) == 3
    assert min(drawn._parts) >= 0


def test_one_row_of_enormous_motion_weighs_no_more_than_the_quantile():
    motion = np.ones(40)
    motion[17] = 1e6
    assert agrees(frequencies(sampler(motion=motion, motion_share=1.0), 40), EVEN)


def test_no_motion_at_all_is_drawn_evenly():
    assert agrees(frequencies(sampler(motion=np.zeros(40), motion_share=1.0), 40), EVEN)


def test_a_row_without_motion_can_still_be_drawn():
    motion = np.ones(40)
    motion[5] = 0
    counts = frequencies(sampler(motion=motion, motion_share=1.0), 60)
    assert agrees(counts, clipped(motion, 0.9))
    assert counts[5] > 0


@pytest.mark.parametrize("shares", [{}, {"adjacent_share": 1.0}, {"motion_share": 1.0}, {"hard_share": 1.0}])
def test_held_out_rows_are_never_drawn(shares):
    matches = camera_matches()
    drawn = sampler(matches, holdout=0.1, **shares)
    held = set(drawn.held_out.tolist())
    assert 0.09 < len(held) / len(matches) < 0.11
    assert not held & set(torch.cat([drawn.draw(step).rows for step in range(100)]).tolist())
    assert held.isdisjoint(drawn.all_rows.tolist())
    assert held | set(drawn.all_rows.tolist()) == set(range(len(matches)))


def test_held_out_rows_are_spread_over_all_pairs_and_the_same_for_every_seed():
    matches = camera_matches()
    first, second = sampler(matches, holdout=0.1), sampler(matches, holdout=0.1, seed=5)
    assert torch.equal(first.held_out, second.held_out)
    shares = np.bincount(matches.rows_pair[first.held_out.numpy()]) / np.diff(matches.offsets)
    assert shares.min() > 0.07
    assert shares.max() < 0.13


def test_a_batch_holds_the_rows_of_the_table():
    matches = rows_of_gaps()
    batch = sampler(matches, adjacent_share=0.5).draw(0)
    rows = batch.rows.numpy()
    np.testing.assert_array_equal(batch.i, matches.pairs[matches.rows_pair[rows], 0])
    np.testing.assert_array_equal(batch.j, matches.pairs[matches.rows_pair[rows], 1])
    np.testing.assert_array_equal(batch.xy_i, matches.xy_i[rows])
    np.testing.assert_array_equal(batch.xy_j, matches.xy_j[rows])
    np.testing.assert_array_equal(batch.occluded, (matches.flags[rows] & OCCLUDED) > 0)
    assert batch.occluded.any()
    assert (batch.rows.dtype, batch.i.dtype, batch.xy_i.dtype) == (torch.int64, torch.int64, torch.float32)


def test_a_draw_depends_on_seed_and_step_only():
    shares = {"adjacent_share": 0.2, "motion_share": 0.3, "hard_share": 0.2}
    forwards = sampler(**shares)
    ordered = {step: forwards.draw(step).rows for step in range(20)}
    other = sampler(**shares)
    torch.manual_seed(99)
    for step in reversed(range(20)):
        torch.rand(3)
        assert torch.equal(other.draw(step).rows, ordered[step])
    different = sampler(**shares, seed=1)
    assert not any(torch.equal(different.draw(step).rows, ordered[step]) for step in range(20))
    assert len({tuple(rows.tolist()) for rows in ordered.values()}) == 20


def test_neighbouring_seeds_and_steps_share_no_streams():
    """(seed, step + 1) must not be (seed + 1, step)."""
    drawn = {(seed, step): tuple(sampler(seed=seed).draw(step).rows.tolist()) for seed in range(6) for step in range(6)}
    assert len(set(drawn.values())) == 36


def test_one_pair():
    a = np.random.default_rng(0).uniform(0, 31, (100, 2))
    drawn = sampler(table({(0, 1): (a, a)}, 2), adjacent_share=0.5, motion_share=0.5)
    assert set(drawn.draw(0).j.tolist()) == {1}


def test_no_adjacent_pairs_leave_their_share_to_the_others():
    a = np.random.default_rng(0).uniform(0, 31, (40, 2))
    drawn = sampler(table({(0, 3): (a, a)}, 4), adjacent_share=0.5, motion_share=0.25)
    assert drawn._parts == [0, 250, 0, 750]
    assert agrees(frequencies(drawn, 40), 0.25 * MOTION + 0.75 * EVEN)


# ------------------------------------------------------------------------------------------------ errors


def test_noted_errors_are_running_means():
    drawn = sampler(hard_share=0.5, refresh=1000)
    expected = np.linspace(0, 4, 40)
    random = np.random.default_rng(0)
    for step in range(5):
        rows = random.permutation(40)[:10]
        error = random.uniform(0, 9, 10)
        drawn.note_errors(torch.from_numpy(rows), torch.from_numpy(error.astype(np.float32)), step)
        expected[rows] = ERROR_MEMORY * expected[rows] + (1 - ERROR_MEMORY) * error
    np.testing.assert_allclose(drawn.error, expected, rtol=1e-5)


def test_the_table_follows_the_errors_at_every_refresh_only():
    drawn = sampler(hard_share=1.0, refresh=10)
    errors = np.linspace(3, 0, 40).astype(np.float32)
    for step in range(9):
        drawn.note_errors(torch.arange(40), torch.from_numpy(errors), step)
    assert agrees(frequencies(drawn, 40), MOTION)
    drawn.note_errors(torch.arange(40), torch.from_numpy(errors), 9)
    assert agrees(frequencies(drawn, 60), clipped(drawn.error.numpy(), 0.9))
    assert not agrees(frequencies(drawn, 60), MOTION)


def test_without_a_hard_share_errors_cost_nothing():
    drawn = sampler()
    before = drawn.error.clone()
    drawn.note_errors(torch.arange(40), torch.full((40,), 9.0), 99)
    assert torch.equal(drawn.error, before)
    assert drawn.state() == {}
    drawn.load_state({})


def test_state_brings_another_sampler_to_the_same_draws():
    first, second = (sampler(hard_share=0.5, refresh=3) for _ in range(2))
    for step in range(7):  # between two refreshes: table and errors differ
        batch = first.draw(step)
        first.note_errors(batch.rows, batch.xy_i[:, 0], step)
    assert not torch.equal(first.draw(7).rows, second.draw(7).rows)
    second.load_state({name: value.clone() for name, value in first.state().items()})
    assert same_state(first.state(), second.state())
    for step in range(7, 14):
        batch, other = first.draw(step), second.draw(step)
        assert torch.equal(batch.rows, other.rows)
        first.note_errors(batch.rows, batch.xy_i[:, 0], step)
        second.note_errors(other.rows, other.xy_i[:, 0], step)
    assert same_state(first.state(), second.state())
