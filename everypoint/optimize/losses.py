"""Loss terms: pure functions of predictions and targets, one value a match, without reductions over the batch."""

from __future__ import annotations

import torch
from torch import Tensor


def robust_distance(predicted: Tensor, target: Tensor, scale: float) -> Tensor:
    """Charbonnier distance [B] of points [B, 2]: |d|^2 / (2 scale) when small, |d| when large (px).

    sqrt(|d|^2 + scale^2) - scale.
    """
    squared = (predicted - target).square().sum(-1)
    return torch.sqrt(squared + scale**2) - scale


def depth_agreement(mapped: Tensor, stored: Tensor, occluded: Tensor) -> Tensor:
    """|mapped - stored| [B] where the point is seen in both frames, 0 where it is occluded."""
    return (mapped - stored).abs() * ~occluded


def occlusion_order(mapped: Tensor, stored: Tensor, occluded: Tensor, margin: float) -> Tensor:
    """Hinge [B]: a point known to be hidden lies at least ``margin`` behind what frame j shows there."""
    return torch.relu(margin - (mapped - stored)) * occluded
