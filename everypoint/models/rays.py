"""Rays through the local space of a frame: coordinates, samples, and compositing. Pure functions.

The local space of a frame is the box [-1, 1]^2 x [near, far] seen by an orthographic camera: a pixel is a ray along z,
and smaller z is nearer. Everything here works on static shapes without reading a value back from the device.

Source: Wang et al., Tracking Everything Everywhere All at Once, ICCV 2023 (OmniMotion), sections 3 and 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NEAREST = 0.2  # share of a ray's samples, rounded down, that is empty while the near mask is on: 6 of 32
LEAST_TRANSMISSION = 1e-10  # added to each 1 - alpha


class Anchor(NamedTuple):
    """What stands for a pixel in the canonical space: found once, placed in any number of frames."""

    points: Tensor  # [N, S, 3] canonical, in the bijection's precision
    weights: Tensor  # [N, S] of their images in a frame


def normalise(xy: Tensor, size: tuple[int, int]) -> Tensor:
    """Index points [..., 2] of a frame of ``size`` (H, W) in the local space: corner pixels' centres at -1 and 1."""
    height, width = size
    x, y = xy.unbind(-1)  # scalars instead of a tensor of sizes: nothing to copy to the device
    return torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)


def denormalise(xy: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of :func:`normalise`."""
    height, width = size
    x, y = xy.unbind(-1)
    return torch.stack([(x + 1) * (max(width - 1, 1) / 2), (y + 1) * (max(height - 1, 1) / 2)], -1)


def sample_depths(count: int, near: float, far: float, u: Tensor | None, like: Tensor) -> Tensor:
    """Depths of the samples along rays, ascending.

    Without ``u`` they are evenly spaced from ``near`` to ``far``, [1, K]. With ``u`` [R, K] from [0, 1] each is drawn
    within its own interval, whose ends are the middles between neighbours; the first and last interval are half as
    wide. [R, K].

    Args:
        count: number of samples K, at least 2.
        near, far: where rays begin and end.
        u: one number for each sample, or None.
        like: a tensor of the type and on the device that the result shall have.
    """
    even = torch.linspace(near, far, count, dtype=like.dtype, device=like.device)[None]  # [1, K]
    if u is None:
        return even
    middle = (even[:, 1:] + even[:, :-1]) / 2
    lower = torch.cat([even[:, :1], middle], -1)
    upper = torch.cat([middle, even[:, -1:]], -1)
    return lower + (upper - lower) * u


def along_rays(xy: Tensor, depths: Tensor, size: tuple[int, int]) -> Tensor:
    """Local points [R, K, 3] at ``depths`` [R or 1, K] of the rays through index points [R, 2] of a frame (H, W)."""
    where = normalise(xy, size)[:, None].expand(-1, depths.shape[-1], -1)
    return torch.cat([where, depths.expand(len(xy), -1)[..., None]], -1)


def contract(points: Tensor) -> Tensor:
    """All of space in the ball of radius 2: u if |u| <= 1, else (2 - 1/|u|) u/|u|; points [..., 3]."""
    inverse = points.square().sum(-1, keepdim=True).clamp_min(1).rsqrt()  # 1 / |u|, at most 1; no 0 / 0 at the origin
    return points * (inverse * (2 - inverse))


def alpha_of(raw: Tensor) -> Tensor:
    """Opacity of a sample from the field's raw density: 1 - exp(-softplus(raw - 1)), whatever the step length.

    That is the logistic function of raw - 1, because exp(-softplus(x)) = 1 / (1 + e^x).
    """
    return torch.sigmoid(raw - 1)


def mask_near(alpha: Tensor, on: bool | Tensor) -> Tensor:
    """Opacities [R, K] with the nearest fifth of each ray empty where ``on``, a flag or a scalar 0 or 1 on the device.

    It keeps surfaces from settling at the near plane in the first steps.
    """
    if on is False:
        return alpha
    nearest = torch.arange(alpha.shape[-1], device=alpha.device) < int(NEAREST * alpha.shape[-1])
    return alpha * (1 - nearest.to(alpha.dtype) * on)


def weights_of(alpha: Tensor) -> Tensor:
    """Weights w_k = alpha_k T_k of a ray's samples with T_k = prod_{l<k} (1 - alpha_l + 1e-10); alpha [..., K].

    The product is taken as a sum of logarithms: the gradient of ``cumprod`` asks the device whether a factor is zero.
    """
    passed = (1 - alpha[..., :-1] + LEAST_TRANSMISSION).log().cumsum(-1).exp()
    return torch.cat([alpha[..., :1], alpha[..., 1:] * passed], -1)


def composite(weights: Tensor, values: Tensor) -> Tensor:
    """Weighted sums [..., C] of the samples' values [..., K, C]; weights [..., K] are not made to add up to one.

    A ray of little opacity so ends near the origin of the local space, which the losses punish: it is what makes
    surfaces opaque.
    """
    return (weights[..., None] * values).sum(-2)  # no matrix product: TF32 would cost a good part of a pixel
