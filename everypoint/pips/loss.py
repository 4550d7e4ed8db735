"""The loss of PIPs++, where its training starts from, and the measures that are logged beside it.

All positions are in pixels of the network's input.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from everypoint.pips.clip import Clip
from everypoint.pips.metrics import pips_metrics

DECAY = 0.8  # weight of an iteration in proportion to the next one's
EPS = 1e-6


def masked_mean(values: Tensor, mask: Tensor, total: Tensor | None = None) -> Tensor:
    """Mean of ``values`` where ``mask`` is 1; ``total`` in place of the number of ones, where ranks share a batch."""
    return (values * mask).sum() / (EPS + (mask.sum() if total is None else total))


def sequence_loss(predictions: Tensor, truth: Tensor, valids: Tensor, total: Tensor | None = None) -> Tensor:
    """Mean over iterations of 0.8^(K - 1 - k) times the mean of (|dx| + |dy|) / 2 where valid, frame 0 included.

    Args:
        predictions: [K, B, S, N, 2], frame 0 as predicted.
        truth: [B, S, N, 2].
        valids: [B, S, N]. Visibility plays no role.
        total: number of valid positions that the mean divides by; None: those of this batch.
    """
    count = len(predictions)
    distance = (predictions - truth).abs().mean(-1)  # [K, B, S, N]
    weights = [DECAY ** (count - 1 - k) for k in range(count)]
    terms = [weight * masked_mean(each, valids, total) for weight, each in zip(weights, distance, strict=True)]
    return torch.stack(terms).sum() / count


def start_positions(truth: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Where training starts from, float32 [S, N, 2], for truth [S, N, 2] in frames of ``size`` (H, W).

    Uniform random points, blended with the truth by a coefficient from U(0, 1) for each track; half of the tracks
    stand still instead. Frame 0 is the truth.
    """
    points = truth.shape[1]
    random = rng.uniform(0, 1, truth.shape) * np.array([size[1], size[0]])
    share = rng.uniform(0, 1, (points, 1))
    start = share * truth + (1 - share) * random
    still = rng.random(points) < 0.5
    start[:, still] = truth[:1, still]
    start[0] = truth[0]
    return start.astype(np.float32)


def standing(truth: np.ndarray) -> np.ndarray:
    """Frame 0 repeated: where validation and tests start from."""
    return np.repeat(truth[:1], len(truth), axis=0)


def transposed(clip: Clip) -> Clip:
    """The clip with x and y exchanged."""
    return clip._replace(rgb=clip.rgb.swapaxes(-1, -2), trajs=clip.trajs[..., ::-1])


def measures(estimate: np.ndarray, clip: Clip) -> dict[str, float]:
    """What is logged of an estimate [S, N, 2] of a clip: the metrics over tracks valid in frame 0, and errors in px.

    l1 is |dx| + |dy|, ate the Euclidean distance, over valid positions: all, seen, not seen.
    """
    known = clip.valids[0] > 0
    height, width = clip.rgb.shape[-2:]
    found = pips_metrics(estimate[:, known], clip.trajs[:, known], clip.valids[:, known], (height, width))
    away = estimate - clip.trajs
    l1, l2 = np.abs(away).sum(-1), np.linalg.norm(away, axis=-1)
    seen, hidden = clip.valids * clip.visibs, clip.valids * (1 - clip.visibs)
    found["l1"], found["l1_vis"] = _mean(l1, clip.valids), _mean(l1, seen)
    found["ate_all"], found["ate_vis"], found["ate_occ"] = (_mean(l2, mask) for mask in (clip.valids, seen, hidden))
    return found


def _mean(values: np.ndarray, mask: np.ndarray) -> float:
    return float((values * mask).sum() / (EPS + mask.sum()))
