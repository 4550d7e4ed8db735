"""What the samplers share: streams of random numbers by (seed, step), held-out rows, draws by integer weights.

Weights are integers because their running sums are then exact on every device, in whatever order a device adds: a row
of weight zero is never drawn, and equal states give equal draws.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 2654435761  # Knuth's multiplier: spreads row numbers evenly, so that the held-out rows are a fixed sample


class Course(NamedTuple):
    """What a sampler is told of a run besides the matches and its options."""

    seed: int  # of all draws
    steps: int  # length of the run, of which options name shares
    scale: float | None = None  # stretches published steps (see :mod:`everypoint.optimize.ramps`); None: by ``steps``
    holdout: float = 0.0  # share of rows that are never drawn
    device: torch.device | str = "cpu"  # where everything lies


def mix(seed: int, step: int) -> int:
    """A 63-bit seed from (seed, step), different for neighbours (splitmix64's finaliser)."""
    value = (seed * 0x9E3779B97F4A7C15 + step + 1) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return (value ^ (value >> 31)) >> 1


def held_out(rows: int, share: float) -> np.ndarray:
    """Which of ``rows`` rows are kept out of training: bool [rows], the same for every seed."""
    return (np.arange(rows, dtype=np.uint64) * _GOLDEN % 2**32) < share * 2**32


def between(start: Tensor | int, stop: Tensor | int, uniform: Tensor) -> Tensor:
    """Integers in [start, stop) by float64 numbers in [0, 1); all broadcast. Exact while stop - start < 2^52."""
    return start + (uniform * (stop - start)).long()


def by_weight(weight: Tensor, uniform: Tensor) -> Tensor:
    """Indices [..., n] drawn in proportion to integer weights [..., N], by float64 numbers [..., n] in [0, 1).

    The sum of each row of weights is positive.
    """
    cumulated = weight.cumsum(-1)
    marks = between(0, cumulated[..., -1:], uniform)
    return torch.searchsorted(cumulated, marks, right=True)
