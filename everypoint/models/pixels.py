"""OmniMotion's bijection without its field: one optimisable depth a pixel of every frame (variant with depth priors).

A pixel p of frame i is the single point (p, D_i(p)); D starts from a depth prior. Look-ups are bilinear between pixel
centres, so that a gradient reaches the four pixels around a point, of the point's own frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everypoint.config.options import ModelOptions, ReadoutOptions
from everypoint.models import rays
from everypoint.models.depth import DepthGrid
from everypoint.models.motion import Transported
from everypoint.models.nvp import FrameParts, NvpBijection
from everypoint.models.rays import Anchor

ROBUST_RANGE = (0.01, 0.99)  # quantiles of a prior that become near and far
RANGE_VALUES = 2**20  # values, evenly spread over the video, that the quantiles are taken of


class PixelsTraced(NamedTuple):
    """R pixels of frames i carried into frames j; the shapes are those of rays with one sample (K = 1)."""

    local: Tensor  # [R, 1, 3] the point in frame i
    canonical: Tensor  # [R, 1, 3] in the bijection's precision
    mapped: Tensor  # [R, 1, 3] the point in frame j
    xy: Tensor  # [R, 2] its index point in frame j
    z: Tensor  # [R] its depth in frame j, to be compared with ``depth(xy_j, j)``


class PixelDepthModel(nn.Module):
    """Maps pixels between any two frames by their own depth and a bijection.

    Args:
        frames: number of frames T.
        frame_size: (H, W) of the working frames.
        options: the architecture; ``nvp`` counts, and of ``field`` the range of depths.
        seed: of the initial values.
    """

    def __init__(self, frames: int, frame_size: tuple[int, int], options: ModelOptions, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.frames, self.frame_size, self.options = frames, tuple(frame_size), options
        self.near, self.far = options.field.near, options.field.far
        self.bijection = NvpBijection(frames, options.nvp, generator, tiny_cuda_nn=options.field.tiny_cuda_nn)
        self.depth = DepthGrid(frames, self.frame_size, self.frame_size, (self.near + self.far) / 2)

    def set_depth(self, maps: Tensor) -> None:
        """Set the depth maps [T, H, W] in the units of the local space (see :func:`normalise_depth`)."""
        with torch.no_grad():
            self.depth.maps().copy_(maps)

    def parts(self) -> FrameParts:
        """What depends on the frame alone; computed once a step or read-out."""
        return self.bijection.frame_parts()

    def lift(self, xy: Tensor, frame: Tensor) -> Tensor:
        """Local points [R, 1, 3] of index points [R, 2] of frames [R]."""
        return rays.along_rays(xy, self.depth(xy, frame)[:, None], self.frame_size)

    def trace(self, xy: Tensor, i: Tensor, j: Tensor, parts: FrameParts | None = None) -> PixelsTraced:
        """Carry index points [R, 2] of frames i [R] into frames j [R] with all that the losses need."""
        parts = self.parts() if parts is None else parts
        local = self.lift(xy, i)
        canonical = self.bijection.canonical(local, i, parts)
        mapped = self.bijection.local(canonical, j, parts).to(xy.dtype)
        there = mapped[:, 0]
        return PixelsTraced(local, canonical, mapped, rays.denormalise(there[:, :2], self.frame_size), there[:, 2])

    def transport(self, xy: Tensor, i: Tensor, j: Tensor, parts: FrameParts | None = None) -> Transported:
        """Carry index points [R, 2] from frames i [R] to frames j [R]."""
        traced = self.trace(xy, i, j, parts)
        return Transported(traced.xy, traced.z)

    # ------------------------------------------------------------------------------------------------ read-out

    def anchor(self, xy: Tensor, frame: Tensor, parts: FrameParts, *, whole: bool = False) -> Anchor:
        """What stands for index points [N, 2] of frames [N] in the canonical space; ``whole`` changes nothing here."""
        points = self.bijection.canonical(self.lift(xy, frame), frame, parts)
        return Anchor(points, torch.ones_like(xy[:, :1]))

    def place(self, anchor: Anchor, frame: Tensor, parts: FrameParts) -> Transported:
        """Index points and depths of what stands for N pixels, in frames [N]."""
        there = self.bijection.local(anchor.points, frame, parts)[:, 0].to(anchor.weights.dtype)
        return Transported(rays.denormalise(there[:, :2], self.frame_size), there[:, 2])

    def visibility(self, xy: Tensor, z: Tensor, frame: Tensor, parts: FrameParts, readout: ReadoutOptions) -> Tensor:
        """Confidence [N], 0..1, that points (xy [N, 2], z [N]) are seen in frames [N]; at least 0.5: visible.

        A point is hidden when it lies more than ``readout.occlusion_depth`` behind the frame's depth there. The unit is
        half of the range of depths: relative to the scene, whatever its scale, and the unit of the box [0, 2].
        """
        behind = (z - self.depth(xy, frame)) / ((self.far - self.near) / 2)
        return torch.sigmoid(4 * (1 - behind / readout.occlusion_depth))

    @property
    def point_bytes(self) -> int:
        """Memory of one hidden layer for one point, the unit in which a read-out is cut to fit its budget."""
        return 4 * self.options.nvp.hidden


def normalise_depth(
    prior: np.ndarray, mask: np.ndarray | None, frame_size: tuple[int, int], near: float, far: float
) -> Tensor:
    """A depth prior [T, h, w] (any unit, larger is farther) as depth maps float32 [T, H, W] in [near, far].

    One range is stretched over the whole video, so that depths of different frames stay comparable: the 1st and the
    99th percentile of the cells in ``mask`` bool [T, h, w] (of all, without any) become ``near`` and ``far``; what lies
    beyond is clipped. A prior of one value becomes the middle. The maps are resized bilinearly, as pictures whose
    cells tile the frame.
    """
    known = prior if mask is None else prior[mask]
    known = known.reshape(-1) if known.size else np.asarray(prior).reshape(-1)
    known = known[:: -(-len(known) // RANGE_VALUES)].astype(np.float64)
    low, high = np.quantile(known, ROBUST_RANGE)
    if not high > low:
        return torch.full((len(prior), *frame_size), (near + far) / 2)
    maps = torch.empty(len(prior), *frame_size)
    for t, values in enumerate(prior):
        scaled = torch.from_numpy(((values.astype(np.float64) - low) / (high - low)).clip(0, 1)).float()
        resized = F.interpolate(scaled[None, None], frame_size, mode="bilinear", align_corners=False)
        maps[t] = near + (far - near) * resized[0, 0]
    return maps
