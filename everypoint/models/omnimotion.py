"""OmniMotion's model of a video: rays through a canonical field, carried between frames by a bijection.

Source: Wang et al., Tracking Everything Everywhere All at Once, ICCV 2023, sections 3, 4 and 5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from everypoint.config.options import ModelOptions, ReadoutOptions
from everypoint.models import rays
from everypoint.models.field import CanonicalField
from everypoint.models.motion import Transported
from everypoint.models.nvp import FrameParts, NvpBijection
from everypoint.models.rays import Anchor

EPSILON = 1.1  # spacings of a ray's samples that opacity must lie in front of a point to hide it


class Ray(NamedTuple):
    """R rays of one frame each and what the field says along them."""

    depths: Tensor  # [R or 1, K]
    local: Tensor  # [R, K, 3] samples in the frame's space
    canonical: Tensor  # [R, K, 3] the same in the canonical space, in the bijection's precision
    weights: Tensor  # [R, K] of the samples, along the ray
    colour: Tensor  # [R, 3] rendered, 0..1


class Traced(NamedTuple):
    """R rays of frames i carried into frames j: what the losses need."""

    depths: Tensor  # [R, K] of the samples ([1, K] where they are the same for all)
    local: Tensor  # [R, K, 3] samples in frame i
    canonical: Tensor  # [R, K, 3] in the bijection's precision
    mapped: Tensor  # [R, K, 3] samples in frame j
    weights: Tensor  # [R, K] along the ray
    masked: Tensor  # [R, K] those of samples outside of [near, far] in frame j set to 0
    colour: Tensor  # [R, 3] rendered, 0..1; of all weights
    xy: Tensor  # [R, 2] predicted index point in frame j; of the masked weights, as is z
    z: Tensor  # [R] its depth


class OmniMotionModel(nn.Module):
    """Maps pixels between any two frames along rays through the canonical field.

    A pixel of frame i is a ray of K samples. The bijection carries them into the canonical space, where the field says
    how much of each is seen, and on into frame j, where their weighted mean is the pixel's match.

    Args:
        frames: number of frames T.
        frame_size: (H, W) of the working frames.
        options: the architecture; ``nvp`` and ``field`` count.
        seed: of the initial values.
    """

    BLOCKS = ("_seen", "_there")  # what :mod:`everypoint.models.compiled` compiles

    def __init__(self, frames: int, frame_size: tuple[int, int], options: ModelOptions, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.frames, self.frame_size, self.options = frames, tuple(frame_size), options
        self.samples, self.near, self.far = options.field.samples, options.field.near, options.field.far
        self.bijection = NvpBijection(frames, options.nvp, generator, tiny_cuda_nn=options.field.tiny_cuda_nn)
        self.field = CanonicalField(options.field, generator)

    def parts(self) -> FrameParts:
        """What depends on the frame alone; computed once a step or read-out."""
        return self.bijection.frame_parts()

    def ray(
        self,
        xy: Tensor,
        frame: Tensor,
        parts: FrameParts,
        u: Tensor | None = None,
        near_mask: bool | Tensor = False,
    ) -> Ray:
        """Rays through index points [R, 2] of frames [R]; ``u`` and ``near_mask`` as in :meth:`trace`."""
        depths = rays.sample_depths(self.samples, self.near, self.far, u, xy)
        local = rays.along_rays(xy, depths, self.frame_size)
        canonical = self.bijection.canonical(local, frame, parts)
        colour, alpha = self.field(canonical.to(xy.dtype))
        return Ray(depths, local, canonical, *self._seen(alpha, colour, near_mask))

    def trace(
        self,
        xy: Tensor,
        i: Tensor,
        j: Tensor,
        parts: FrameParts | None = None,
        u: Tensor | None = None,
        near_mask: bool | Tensor = False,
    ) -> Traced:
        """Carry index points [R, 2] of frames i [R] into frames j [R] with all that the losses need.

        Args:
            xy, i, j: the points and the frames.
            parts: of :meth:`parts`; computed where not given.
            u: numbers in [0, 1] [R, K] that place each sample in its interval; None: evenly spaced samples.
            near_mask: whether the nearest fifth of each ray is empty: a flag or a scalar 0 or 1 on the device.
        """
        parts = self.parts() if parts is None else parts
        ray = self.ray(xy, i, parts, u, near_mask)
        mapped = self.bijection.local(ray.canonical, j, parts).to(xy.dtype)
        masked, there = self._there(ray.weights, mapped)
        return Traced(ray.depths, ray.local, ray.canonical, mapped, ray.weights, masked, ray.colour, there.xy, there.z)

    def _seen(self, alpha: Tensor, colour: Tensor, near_mask: bool | Tensor) -> tuple[Tensor, Tensor]:
        """Weights [R, K] along the rays and their rendered colours [R, 3]."""
        weights = rays.weights_of(rays.mask_near(alpha, near_mask))
        return weights, rays.composite(weights, colour)

    def _there(self, weights: Tensor, mapped: Tensor) -> tuple[Tensor, Transported]:
        """Weights [R, K] of the samples within the depths, and where these samples [R, K, 3] put the pixels."""
        inside = (mapped[..., 2] >= self.near) & (mapped[..., 2] <= self.far)
        masked = torch.where(inside, weights, 0)
        return masked, self._mean(masked, mapped)

    def _mean(self, weights: Tensor, mapped: Tensor) -> Transported:
        """Index point and depth [R] of weighted samples [R, S, 3]."""
        point = rays.composite(weights, mapped)
        return Transported(rays.denormalise(point[:, :2], self.frame_size), point[:, 2])

    # ------------------------------------------------------------------------------------------------ read-out

    def anchor(self, xy: Tensor, frame: Tensor, parts: FrameParts, *, whole: bool = False) -> Anchor:
        """What stands for index points [N, 2] of frames [N] in the canonical space.

        That is the sample with the largest weight on the evenly sampled ray, or the ``whole`` ray with its weights.
        """
        ray = self.ray(xy, frame, parts)
        if whole:
            return Anchor(ray.canonical, ray.weights)
        best = ray.weights.argmax(-1)[:, None, None]  # the first of equal ones
        points = torch.take_along_dim(ray.canonical, best, 1)  # [N, 1, 3]
        return Anchor(points, torch.ones_like(ray.weights[:, :1]))

    def place(self, anchor: Anchor, frame: Tensor, parts: FrameParts) -> Transported:
        """Index points and depths of what stands for N pixels, in frames [N]."""
        return self._mean(anchor.weights, self.bijection.local(anchor.points, frame, parts).to(anchor.weights.dtype))

    def carry(
        self, xy: Tensor, i: Tensor, j: Tensor, parts: FrameParts | None = None, *, whole: bool = False
    ) -> Transported:
        """Carry index points [N, 2] of frames i [N] into frames j [N]: :meth:`anchor`, then :meth:`place`."""
        parts = self.parts() if parts is None else parts
        return self.place(self.anchor(xy, i, parts, whole=whole), j, parts)

    def hidden(self, xy: Tensor, z: Tensor, frame: Tensor, parts: FrameParts | None = None) -> Tensor:
        """How much opacity [N], 0..1, lies in front of points (xy [N, 2], z [N]) of frames [N].

        The sum of the weights along the evenly sampled ray through xy over the samples nearer than z - eps, with eps
        1.1 spacings of the samples.
        """
        parts = self.parts() if parts is None else parts
        ray = self.ray(xy, frame, parts)
        margin = EPSILON * (self.far - self.near) / self.samples
        return torch.where(ray.depths < (z - margin)[:, None], ray.weights, 0).sum(-1)

    def visibility(self, xy: Tensor, z: Tensor, frame: Tensor, parts: FrameParts, readout: ReadoutOptions) -> Tensor:
        """Confidence [N], 0..1, that points (xy [N, 2], z [N]) are seen in frames [N]; at least 0.5: visible.

        With the opacity s in front and the threshold ``readout.opacity`` it falls in two straight pieces, from 1 at
        s = 0 to 0.5 at the threshold, and from 0.49 beyond it to 0 at s = 1. It orders points, it is no probability.
        """
        score = self.hidden(xy, z, frame, parts).clamp(0, 1)
        limit = readout.opacity
        seen = 1 - 0.5 * score / limit
        return torch.where(score > limit, 0.49 * (1 - score) / max(1 - limit, 1e-6), seen.clamp_min(0.5))

    @property
    def point_bytes(self) -> int:
        """Memory of one hidden layer for one ray, the unit in which a read-out is cut to fit its budget."""
        return 4 * self.samples * max(self.options.nvp.hidden, self.options.field.hidden)
