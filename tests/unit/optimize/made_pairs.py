"""Small tables of pairs for OmniMotion's sampler, and its specified weights in loops."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from scipy.stats import chisquare

from everypoint.artifacts.matches import CYCLE, OCCLUDED, Matches
from everypoint.config.options import RaySamplerOptions
from everypoint.optimize.draws import Course
from everypoint.optimize.ray_sampler import RaySampler
from tests.unit.optimize.made import table

FRAMES = 8
ROWS = 6  # of each pair


def all_pairs(frames: int, largest: int = 99) -> list[tuple[int, int]]:
    return [(i, j) for i in range(frames) for j in range(frames) if 0 < abs(i - j) <= largest]


def video(
    pairs: list[tuple[int, int]] | None = None, frames: int = FRAMES, rows: int | dict = ROWS, seed: int = 0
) -> Matches:
    """Matches of pairs at random places with random numbers of valid pixels; every third row is occluded."""
    random = np.random.default_rng(seed)
    pairs = all_pairs(frames) if pairs is None else pairs
    counts = rows if isinstance(rows, dict) else dict.fromkeys(pairs, rows)
    ends = {pair: tuple(random.uniform(0, 31, (2, counts[pair], 2))) for pair in pairs}
    flags = {pair: np.where(np.arange(counts[pair]) % 3 == 2, OCCLUDED, CYCLE) for pair in pairs}
    matches = table(ends, frames, flags=flags)
    valid = np.where(np.diff(matches.offsets) > 0, random.integers(1, 900, len(pairs)), 0)
    return dataclasses.replace(matches, valid_count=valid)


def sampler(matches: Matches | None = None, **changes) -> RaySampler:
    arguments = {"seed": 0, "steps": 100_000, "holdout": 0.0}
    arguments |= {name: changes.pop(name) for name in ("seed", "steps", "scale", "holdout") if name in changes}
    options = {"pairs": 40, "points": 5, "start_interval": 3, "hard_share": 0.0, "swap": False}
    return RaySampler(
        video() if matches is None else matches, RaySamplerOptions(**(options | changes)), Course(**arguments)
    )


def drawn(sampled: RaySampler, steps: range) -> tuple[np.ndarray, ...]:
    """id1, id2 [pairs drawn] and rows [pairs drawn, P] of an unswapped sampler."""
    batches = [sampled.draw(step) for step in steps]
    points = sampled.options.points
    first, second = (torch.cat([getattr(b, name) for b in batches]).numpy()[::points] for name in "ij")
    return first, second, torch.cat([b.rows for b in batches]).reshape(-1, points).numpy()


def agrees(counts: np.ndarray, expected: np.ndarray) -> bool:
    """Chi-square test of counts against probabilities; what has no probability must not occur."""
    assert counts[expected == 0].sum() == 0
    some = expected > 0
    assert some.sum() > 1
    return chisquare(counts[some], expected[some] * counts.sum() / expected.sum()).pvalue > 1e-3


def second_weights(matches: Matches, first: int, window: int, floor: float = 0.5) -> np.ndarray:
    """Section 3.2 in a loop: valid counts normalised over the window, then adjacent entries set, then normalised."""
    weight = np.zeros(matches.frames)
    for (i, j), count, rows in zip(matches.pairs, matches.valid_count, np.diff(matches.offsets)):
        if i == first and abs(i - j) <= window and rows:
            weight[j] = count
    weight /= weight.sum()
    for j in (first - 1, first + 1):
        if floor and 0 <= j < matches.frames and weight[j] > 0:
            weight[j] = floor
    return weight / weight.sum()
