"""Loss terms of OmniMotion and of its variant with one depth a pixel: pure functions, each returns a scalar.

A batch is B pairs of P points. Nothing is selected by its value: what does not count is multiplied by zero, so every
shape is fixed and the host never waits.

Where the published text leaves a choice:

* The residual of a point is the mean of |.| over its components (x and y, colours, coordinates).
* "The largest residual is dropped" means: residuals strictly below the largest one count. Residuals are compared
  before any weight. The mean is over those that count.
* Consecutive differences are of points p and p + 1 of one pair. The published flattened batch also has the B - 1
  differences across two pairs, of 2047; here no term mixes frames. Points of a pair are drawn independently, so
  consecutive points are random ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from everypoint.geometry import inside_index

ACCELERATION_SHARE = 0.25  # of the points of each pair, the first ones


def flow(
    predicted: Tensor, target: Tensor, omega: Tensor, size: tuple[int, int], counts: Tensor | None = None
) -> Tensor:
    """Distance of predictions to their matches in px, times omega, over the predictions that lie in the image.

    Args:
        predicted: [..., 2], mapped points, index coordinates.
        target: [..., 2], their matches.
        omega: [...], weights; the mean is over points and is not divided by their sum.
        size: (H, W).
        counts: bool [...], which of these count at all; None: every one.
    """
    residual = (predicted - target).abs().mean(-1)
    inside = inside_index(predicted, *size)
    return _trimmed_mean(residual, inside if counts is None else inside & counts, omega)


def colour(rendered: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
    """Mean squared difference of colours [B, P, 3] over the points with ``inside`` bool [B, P] (the ray's own end)."""
    squared = (rendered - truth).square().mean(-1)
    return (squared * inside).sum() / inside.sum().clamp(min=1)


def colour_difference(rendered: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
    """Consecutive differences of rendered against those of true colours [B, P, 3], where both ends are ``inside``."""
    residual = (_differences(rendered) - _differences(truth)).abs().mean(-1)
    return _trimmed_mean(residual, inside[:, 1:] & inside[:, :-1])


def flow_difference(predicted: Tensor, target: Tensor, omega: Tensor) -> Tensor:
    """Consecutive differences of predictions against those of their matches [B, P, 2], px.

    Weighted by the product of both ends' omega [B, P] and divided by the sum of these products. None is dropped.
    """
    residual = (_differences(predicted) - _differences(target)).abs().mean(-1)
    weight = omega[:, 1:] * omega[:, :-1]
    return (weight * residual).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def depth_range(z: Tensor, near: float = 0.0, far: float = 2.0) -> Tensor:
    """Mean squared violation of [near, far] by the depths of all mapped samples."""
    return (torch.relu(near - z) + torch.relu(z - far)).square().mean()  # never both


def distortion(weights: Tensor, depths: Tensor) -> Tensor:
    """Spread of the weights along each ray (mip-NeRF 360, equation 15), mean over rays.

    With the sample depths and their last one again as the edges of K intervals of length d and middle u:
    sum_kl w_k w_l |u_k - u_l| + 1/3 sum_k w_k^2 d_k. Between two neighbouring middles lies, in the double sum, the
    weight of everything on one side times that of everything on the other, so one running sum replaces K^2 terms; all
    terms are positive and nothing cancels.

    Args:
        weights: [R, K], not negative.
        depths: [R, K] or [1, K], not decreasing along K.
    """
    edges = torch.cat([depths, depths[:, -1:]], dim=1)  # [R, K + 1]
    middles = (edges[:, 1:] + edges[:, :-1]) / 2
    before = weights.cumsum(1)
    beyond = before[:, -1:] - before
    spread = 2 * (middles.diff(dim=1) * before[:, :-1] * beyond[:, :-1]).sum(1)
    own = (weights.square() * edges.diff(dim=1)).sum(1) / 3
    return (spread + own).mean()


def acceleration(before: Tensor, here: Tensor, after: Tensor, neighbours: Tensor) -> Tensor:
    """|(x - x_before) - (x_after - x)| of samples [R, K, 3] carried into the frames before and after, local units.

    ``neighbours`` bool [R]: whether the ray's frame has a frame on both sides; other rays do not count.
    """
    residual = ((here - before) - (after - here)).abs().mean(-1)
    return _trimmed_mean(residual, neighbours[:, None].expand_as(residual))


def first_points(values: Tensor, pairs: int, share: float = ACCELERATION_SHARE) -> Tensor:
    """The first share of the points of each pair, of values [B * P, ...] -> [B * round(P share), ...]; at least one."""
    by_pair = values.reshape(pairs, -1, *values.shape[1:])
    return by_pair[:, : max(round(by_pair.shape[1] * share), 1)].flatten(0, 1)


# ------------------------------------------------------------------------------------- one depth a pixel


def point_distance(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """|predicted - target| in px of points [B, P, 2], summed over all and both axes, divided by P.

    ``weight`` [B, P] is 1 as published; 0 takes out a point whose match says nothing.
    """
    return ((predicted - target).abs().sum(-1) * weight).sum() / predicted.shape[1]


def depth_agreement(
    mapped: Tensor, depth_at: Callable[[Tensor, Tensor], Tensor], xy_j: Tensor, j: Tensor, seen: Tensor, points: int
) -> Tensor:
    """|mapped depth - depth of frame j at the match|, summed over all points, divided by the points of a pair.

    The published code reads frame j's depth at the pixel indices of frame i, and mostly of the first pair; here it is
    read where the match lies. A point that frame j hides has another depth than what frame j shows there, so only
    points that are ``seen`` count.

    Args:
        mapped: [R], depth of the mapped points in frame j.
        depth_at: depth [R] at index points [R, 2] of frames [R]; gradients flow into it.
        xy_j: [R, 2], the matches.
        j: int64 [R], their frames.
        seen: bool or float [R].
        points: P.
    """
    return ((mapped - depth_at(xy_j, j)).abs() * seen).sum() / points


def depth_prior(depth: Tensor, prior: Tensor) -> Tensor:
    """Whole depth maps [N, H, W] against their prior: squared error of the slopes along x and y, and |difference|."""
    off = depth - prior
    slopes = [slope.square().mean() for slope in (off.diff(dim=-1), off.diff(dim=-2)) if slope.numel()]
    return sum(slopes, start=off.abs().mean())


# ------------------------------------------------------------------------------------------------ parts


def _differences(values: Tensor) -> Tensor:
    """[B, P, C] -> [B, P - 1, C]."""
    return values[:, 1:] - values[:, :-1]


def _trimmed_mean(residual: Tensor, counts: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of (weighted) residuals that count and are strictly below the largest of these; 0 where none is left."""
    largest = torch.where(counts, residual, 0).max()
    kept = counts & (residual < largest)
    total = residual * kept if weight is None else weight * residual * kept
    return total.sum() / kept.sum().clamp(min=1)
