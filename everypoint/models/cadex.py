"""CaDeX++: one 3-D point a pixel from an optimisable depth map, carried between frames by a bijection; no field.

A pixel of frame i is lifted with the depth that the frame's map has there, mapped linearly into the scene box, carried
through the canonical space into frame j, mapped back and projected. Coordinates on the way are float64, so that the
way back finds a point to the last digit whatever the weights are; the networks run in float32.

Source: Song et al., Track Everything Everywhere Fast and Robustly, ECCV 2024.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from everypoint.config.options import ModelOptions, ReadoutOptions
from everypoint.geometry import nearest_cells
from everypoint.models.cadex_bijection import CadexBijection
from everypoint.models.camera import camera_of, scene_box
from everypoint.models.chain import BlockWeights
from everypoint.models.depth import DepthCells
from everypoint.models.motion import Transported
from everypoint.models.rays import Anchor

Parts = tuple[BlockWeights, ...]
NO_PRIOR = 1.0  # depth of a video without a prior


class CadexModel(nn.Module):
    """Maps pixels between any two frames.

    Args:
        frames: number of frames T, from 1 on.
        frame_size: (H, W) of the working frames.
        options: the architecture: blocks, planes, time grids, ``depth_scale`` and ``cadex`` count.
        seed: of the initial values.
    """

    def __init__(self, frames: int, frame_size: tuple[int, int], options: ModelOptions, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.frames, self.frame_size, self.options = frames, tuple(frame_size), options
        self.bijection = CadexBijection(frames, options, generator)
        cells = tuple(max(1, int(side * options.depth_scale)) for side in frame_size)
        self.depth = DepthCells(frames, cells, self.frame_size, NO_PRIOR)
        self.camera = camera_of(options.cadex.camera, self.frame_size, options.cadex.fov)
        self.register_buffer("box_centre", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("box_half", torch.ones(3, dtype=torch.float64))
        self.set_depth(np.full((frames, 1, 1), NO_PRIOR))

    @torch.no_grad()
    def set_depth(self, prior: np.ndarray) -> None:
        """Start from depth maps [T, h, w] (metres, larger is farther), by nearest cells; sets the scene box too."""
        (h, w), (rows, columns) = self.depth.size, prior.shape[1:]
        row, column = nearest_cells(rows, h), nearest_cells(columns, w)
        maps = torch.from_numpy(prior[:, row[:, None], column].astype(np.float32))
        self.depth.map.copy_(maps)
        height, width = self.frame_size
        y, x = torch.meshgrid(
            (torch.arange(h) + 0.5) * height / h - 0.5, (torch.arange(w) + 0.5) * width / w - 0.5, indexing="ij"
        )
        xy = torch.stack([x, y], -1).expand(*maps.shape, 2)
        centre, half = scene_box(self.camera.lift(xy, maps), self.options.cadex.box)
        self.box_centre.copy_(centre)
        self.box_half.copy_(half)

    def parts(self) -> Parts:
        """What is the same for all points; computed once a step or read-out."""
        return self.bijection.time_parts()

    def lift(self, xy: Tensor, depth: Tensor) -> Tensor:
        """Points [N, 3] in the scene box (float64) of index points [N, 2] with depths [N]."""
        return (self.camera.lift(xy.double(), depth.double()) - self.box_centre) / self.box_half

    def project(self, points: Tensor, like: Tensor) -> Transported:
        """Index points and depths of points [N, 3] in the scene box, in the type of ``like``."""
        local = points * self.box_half + self.box_centre
        return Transported(self.camera.project(local).to(like.dtype), local[:, 2].to(like.dtype))

    def carry(self, xy: Tensor, depth: Tensor, i: Tensor, j: Tensor, parts: Parts) -> Transported:
        """Carry index points [N, 2] with depths [N] from frames i [N] to frames j [N]."""
        return self.project(self.bijection.carry(self.lift(xy, depth), i, j, parts), xy)

    def transport(self, xy: Tensor, i: Tensor, j: Tensor, parts: Parts | None = None) -> Transported:
        """Carry index points [N, 2] on the depth maps of frames i [N] to frames j [N]."""
        return self.carry(xy, self.depth(xy, i), i, j, self.parts() if parts is None else parts)

    # ------------------------------------------------------------------------------------------------ read-out

    def anchor(self, xy: Tensor, frame: Tensor, parts: Parts, *, whole: bool = False) -> Anchor:
        """What stands for index points [N, 2] of frames [N] in the canonical space; ``whole`` changes nothing here."""
        points = self.bijection.canonical(self.lift(xy, self.depth(xy, frame)), frame, parts)
        return Anchor(points[:, None], torch.ones_like(xy[:, :1]))

    def place(self, anchor: Anchor, frame: Tensor, parts: Parts) -> Transported:
        """Index points and depths of what stands for N pixels, in frames [N]."""
        return self.project(self.bijection.local(anchor.points[:, 0], frame, parts), anchor.weights)

    def visibility(self, xy: Tensor, z: Tensor, frame: Tensor, parts: Parts, readout: ReadoutOptions) -> Tensor:
        """Confidence [N], 0..1, that points (xy [N, 2], z [N]) are seen in frames [N]; at least 0.5: visible.

        A point is hidden when it lies more than ``readout.depth_error`` behind the frame's depth there, as a share of
        that depth or as it is.
        """
        stored = self.depth(xy, frame)
        unit = stored.abs().clamp(min=1e-6) if readout.depth_error_unit == "relative" else 1.0
        return torch.sigmoid(4 * (1 - (z - stored) / (readout.depth_error * unit)))

    @property
    def point_bytes(self) -> int:
        """Memory of one hidden layer for one point, the unit in which a read-out is cut to fit its budget."""
        return 4 * self.bijection.conditioners[0].middle.in_features
