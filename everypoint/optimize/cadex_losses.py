"""Loss terms of CaDeX++ besides those that it shares with OmniMotion: pure functions, each returns a scalar.

Nothing is selected by its value: what does not count is multiplied by zero, so every shape is fixed and the host never
waits. Where the published text leaves a choice:

* A point that frame j hides has another depth than what frame j shows there: the depth terms take ``seen`` points only.
  A mean is over the points that count.
* The gradient of |.| of a difference vector at zero is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

OUTSIDE = 0.1  # weight of the depth slopes of points that are carried out of the frame


def depth_agreement(mapped: Tensor, stored: Tensor, seen: Tensor) -> Tensor:
    """Mean of |mapped - stored| depths [N] over points that are ``seen`` bool [N]."""
    return masked_mean((mapped - stored).abs(), seen)


def depth_slopes(slopes: Tensor, prior: Tensor, inside: Tensor) -> Tensor:
    """Mean length of the difference of depth slopes [N, 2] to the prior's; those not ``inside`` count a tenth."""
    weight = OUTSIDE + (1 - OUTSIDE) * inside.to(slopes.dtype)
    return (torch.linalg.vector_norm(slopes - prior, dim=-1) * weight).mean()


def match_distance(predicted: Tensor, target: Tensor, kept: Tensor) -> Tensor:
    """Mean over x and y of |predicted - target| of points [N, 2], px, over the points ``kept`` bool [N]."""
    return masked_mean((predicted - target).abs().mean(-1), kept)


def within_medians(predicted: Tensor, target: Tensor, factor: float) -> Tensor:
    """Which points [N, 2] err along both axes by less than ``factor`` medians of all these errors; bool [N].

    The median is the lower one of the 2 N absolute errors along x and y.
    """
    off = (predicted - target).detach().abs()
    return (off < factor * off.reshape(-1).median()).all(-1)


def masked_mean(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of values [N] that count; 0 where none does."""
    return torch.where(counts, values, 0).sum() / counts.sum().clamp(min=1)
