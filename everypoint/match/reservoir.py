"""The reservoir: at most K matches of a pair that stand for all of its valid pixels.

What "without bias" means here. The optimiser draws rows of the reservoir uniformly. It should thereby draw each valid
pixel x with the probability p(x) = w(x) / sum w that a sampler over all valid pixels would use. So the expected number
of rows of x among M must be exactly M p(x).

Drawing without replacement by weight (exponential keys) does not give that: pixels of large weight saturate at one row
each, and with K close to the number of valid pixels all weights are lost. Drawing with replacement does, but leaves out
about a third of the pixels even when all would fit. This module draws *systematically*: pixels in random order, one row
every (sum w) / M of cumulated weight, from a random start. Each pixel gets M p(x) rounded down or up, in expectation
exactly M p(x); no pixel is doubled while M p(x) <= 1; no weight column is needed. The random order keeps the regular
steps from falling on the columns of the image.
"""

from __future__ import annotations

import numpy as np


def count_weights(counts: np.ndarray) -> np.ndarray:
    """OmniMotion's weights 1 / sqrt(count + 1): pixels with few correspondences over the video are drawn more often."""
    return 1 / np.sqrt(counts.astype(np.float64) + 1)


def reservoir_rows(weights: np.ndarray, limit: int) -> int:
    """Number of rows M: enough that the lightest pixel expects one row, at most ``limit``; n for n equal weights."""
    if not len(weights):
        return 0
    return int(min(limit, np.ceil(weights.sum() / weights.min() - 1e-9)))


def draw(weights: np.ndarray, limit: int, seed: int, pair: tuple[int, int]) -> np.ndarray:
    """Draw rows of one pair; the result depends on the arguments only, so pairs may come in any order and place.

    Args:
        weights: float64 [n], positive weight of each valid pixel.
        limit: K, the most rows.
        seed: the run's seed.
        pair: frames (i, j).

    Returns:
        int64 [M], indices into ``weights``, M <= K, in random order (so any prefix is a smaller reservoir); an index
        occurs more than once only where its pixel weighs more than 1 / M of the whole.
    """
    rows = reservoir_rows(weights, limit)
    if rows == 0:
        return np.empty(0, np.int64)
    random = np.random.Generator(np.random.PCG64([seed, *pair]))
    order = random.permutation(len(weights))
    cumulated = np.cumsum(weights[order])
    marks = (random.permutation(rows) + random.random()) * (cumulated[-1] / rows)
    chosen = np.searchsorted(cumulated, marks, side="right")
    return order[np.minimum(chosen, len(weights) - 1)]
