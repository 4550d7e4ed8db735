"""Draws by integer weights at their edges, streams of random numbers, held-out rows."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import chisquare

from everypoint.optimize.draws import between, by_weight, held_out, mix

LAST = math.nextafter(1.0, 0.0)  # the largest number that a draw can give


def test_between_covers_its_range_and_never_leaves_it():
    for stop in (1, 2, 3, 1000, 2**20 + 1, 2**40 + 12_345, 2**51 + 1):
        edges = between(torch.tensor([5]), torch.tensor([5 + stop]), torch.tensor([0.0, LAST], dtype=torch.float64))
        assert edges.tolist() == [5, 4 + stop]
    evenly = between(0, torch.tensor([7]), torch.arange(7000, dtype=torch.float64) / 7000)
    assert torch.equal(torch.bincount(evenly), torch.full((7,), 1000))


def test_rows_of_weight_zero_are_never_drawn_even_at_the_ends():
    weight = torch.tensor([[0, 0, 3, 0, 2**40, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2]])
    uniform = torch.tensor([0.0, 1e-13, 0.5, LAST], dtype=torch.float64).expand(3, 4)
    assert by_weight(weight, uniform).tolist() == [[2, 2, 4, 4], [0] * 4, [5] * 4]


def test_by_weight_draws_in_proportion():
    weight = torch.tensor([5, 0, 1, 300, 44])
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(by_weight(weight, uniform), minlength=5).numpy()
    assert counts[1] == 0
    some = [0, 2, 3, 4]
    assert chisquare(counts[some], 20_000 * weight.numpy()[some] / 350).pvalue > 1e-3


def test_streams_of_neighbouring_seeds_and_steps_differ():
    assert len({mix(seed, step) for seed in range(100) for step in range(100)}) == 10_000
    assert all(0 <= mix(seed, step) < 2**63 for seed in (0, 1, 2**40) for step in (0, 10**6, 2**62))


def test_the_streams_stay_as_they_are():
    """Runs of earlier versions go on with the same draws."""
    assert [mix(0, 0), mix(0, 1), mix(7, 1000)] == [
        3_119_036_373_970_289_394,
        7_919_892_530_791_287_365,
        1_721_245_324_832_630_700,
    ]


def test_held_out_rows_are_a_spread_sample_of_the_asked_share():
    held = held_out(100_000, 0.02)
    assert abs(held.mean() - 0.02) < 1e-3
    assert np.diff(np.flatnonzero(held)).max() < 200  # every stretch of 200 rows has one
    assert not held_out(1000, 0.0).any()
    assert np.array_equal(held_out(500, 0.1), held_out(1000, 0.1)[:500])
