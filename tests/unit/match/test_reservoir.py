"""The reservoir stands for all valid pixels: chi-square tests of what a sampler over its rows draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from everypoint.match.reservoir import count_weights, draw, reservoir_rows

DRAWS = 6000
WEIGHTS = {
    "uniform": np.ones(23),
    "counts": count_weights(np.arange(23) % 12),
    "steep": np.array([50.0, 10.0, *[1.0] * 21]),
}


def one_row_each(weights: np.ndarray, limit: int) -> np.ndarray:
    """The pixel that a uniform sampler draws from each of many independent reservoirs: independent trials."""
    random = np.random.default_rng(0)
    return np.array([random.choice(draw(weights, limit, seed, (3, 7))) for seed in range(DRAWS)])


def p_value(pixels: np.ndarray, weights: np.ndarray) -> float:
    seen = np.bincount(pixels, minlength=len(weights))
    return stats.chisquare(seen, weights / weights.sum() * len(pixels)).pvalue


@pytest.mark.parametrize("limit", [1, 5, 22, 23, 60])
@pytest.mark.parametrize("name", WEIGHTS)
def test_uniform_draws_from_the_reservoir_follow_the_weights(name, limit):
    weights = WEIGHTS[name]
    assert p_value(one_row_each(weights, limit), weights) > 1e-3


@pytest.mark.parametrize("name", ["counts", "steep"])
def test_the_chi_square_does_see_draws_without_replacement(name):
    # Exponential keys, the usual way: right for one row, wrong as soon as pixels saturate.
    weights, random = WEIGHTS[name], np.random.default_rng(1)
    keys = random.exponential(size=(DRAWS, len(weights))) / weights
    first = np.argsort(keys, axis=1)
    assert p_value(first[:, 0], weights) > 1e-3
    among = first[np.arange(DRAWS), random.integers(0, 18, DRAWS)]  # a uniform row of a reservoir of 18
    assert p_value(among, weights) < 1e-6


def test_prefixes_are_reservoirs_too():
    weights = WEIGHTS["counts"]
    assert p_value(np.array([draw(weights, 10, seed, (0, 1))[0] for seed in range(DRAWS)]), weights) > 1e-3


def test_copies_are_the_expected_number_rounded():
    weights = WEIGHTS["steep"]
    for seed in range(200):
        copies = np.bincount(draw(weights, 12, seed, (0, 1)), minlength=len(weights))
        expected = 12 * weights / weights.sum()
        assert (copies >= np.floor(expected)).all()
        assert (copies <= np.ceil(expected)).all()


@pytest.mark.parametrize("limit", [1, 7, 100, 5000])
def test_never_more_rows_than_the_limit(limit):
    weights = count_weights(np.random.default_rng(0).integers(0, 30, 400))
    assert len(draw(weights, limit, 0, (0, 1))) == min(limit, reservoir_rows(weights, 5000))
    assert len(draw(np.ones(400), limit, 0, (0, 1))) == min(limit, 400)


def test_all_pixels_are_kept_once_when_they_fit():
    assert sorted(draw(np.ones(50), 50, 0, (0, 1))) == list(range(50))
    assert sorted(draw(np.full(50, 0.31), 80, 0, (0, 1))) == list(range(50))
    weighted = draw(count_weights(np.arange(50)), 10**6, 0, (0, 1))
    assert set(weighted) == set(range(50))  # at least one row each, heavier ones more


def test_no_pixel_is_doubled_while_all_weigh_less_than_a_row():
    weights = count_weights(np.random.default_rng(0).integers(0, 30, 5000))
    rows = draw(weights, 500, 3, (1, 2))
    assert len(np.unique(rows)) == 500


def test_no_valid_pixel_no_row():
    rows = draw(np.empty(0), 10, 0, (0, 1))
    assert rows.shape == (0,)
    assert rows.dtype == np.int64


def test_seed_and_pair_and_nothing_else():
    weights = np.ones(1000)
    first = draw(weights, 50, 1, (2, 3))
    np.random.seed(5)  # noqa: NPY002 - the global state must not matter
    draw(weights, 50, 9, (9, 9))
    assert np.array_equal(draw(weights, 50, 1, (2, 3)), first)
    for other in ((2, (2, 3)), (1, (3, 2)), (1, (2, 4))):
        assert not np.array_equal(draw(weights, 50, *other), first)


def test_a_regular_step_does_not_fall_on_columns():
    rows = draw(np.ones(64 * 64), 512, 0, (0, 1))  # every eighth pixel of a 64-wide frame
    assert len(np.unique(rows % 64)) == 64


def test_count_weights_by_hand():
    assert count_weights(np.array([0, 3, 8], np.uint16)).tolist() == [1.0, 0.5, 1 / 3]
