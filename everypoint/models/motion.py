"""The motion model of one video: camera map, bijection and optimisable depth; one 3-D point a pixel, no field."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from everypoint.config.options import ModelOptions
from everypoint.models.bijection import Bijection
from everypoint.models.depth import DepthGrid


class Transported(NamedTuple):
    """Where points of frame i lie in frame j."""

    xy: Tensor  # [N, 2] index coordinates in frame j
    z: Tensor  # [N] depth in frame j, normalised units, larger is farther


class MotionModel(nn.Module):
    """Maps pixels between any two frames through a canonical space (orthographic local spaces).

    A pixel of frame t is mapped by the frame's ``camera`` homography into the video's common plane (scaled so that all
    frames lie in [-1, 1]^2), gets the depth of its frame's depth map, and goes through the bijection. Every part is
    inverted exactly.

    Args:
        frames: number of frames T.
        frame_size: (H, W) of the working frames.
        options: the architecture.
        seed: of the initial values.
    """

    def __init__(self, frames: int, frame_size: tuple[int, int], options: ModelOptions, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.frames, self.frame_size, self.options = frames, frame_size, options
        self.bijection = Bijection(
            frames,
            blocks=options.blocks,
            coupling=options.coupling,
            resolutions=options.plane_resolutions,
            channels=options.plane_channels,
            time_channels=options.time_channels,
            time_factors=options.time_factors,
            generator=generator,
        )
        height, width = (max(2, round(side * options.depth_scale)) for side in frame_size)
        self.depth = DepthGrid(frames, (height, width), frame_size)
        unit = self._to_unit()
        self._scale = float(unit[0, 0])
        self.register_buffer("_shift", torch.tensor(unit[:2, 2], dtype=torch.float32), persistent=False)
        self.camera = nn.Parameter(torch.empty(frames, 3, 3))
        self.set_camera(np.repeat(np.eye(3)[None], frames, axis=0))

    def set_camera(self, homographies: np.ndarray) -> None:
        """Set the camera maps from homographies [T, 3, 3] of index coordinates into any common plane.

        Affine maps [T, 2, 3] are accepted too.
        """
        if homographies.shape[1] == 2:
            row = np.broadcast_to([[[0.0, 0.0, 1.0]]], (len(homographies), 1, 3))
            homographies = np.concatenate([homographies, row], axis=1)
        height, width = self.frame_size
        corners = np.array([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]], float)
        spread = np.einsum("tab,cb->tca", homographies, corners).reshape(-1, 3)
        spread = spread[:, :2] / spread[:, 2:]
        low, high = spread.min(0), spread.max(0)
        half = max(float((high - low).max()) / 2, 1.0)
        centre = (low + high) / 2
        shrink = np.array([[1 / half, 0, -centre[0] / half], [0, 1 / half, -centre[1] / half], [0, 0, 1]])
        scaled = shrink @ homographies @ np.linalg.inv(self._to_unit())
        with torch.no_grad():
            self.camera.copy_(torch.from_numpy(scaled / scaled[:, 2:, 2:]))

    def _to_unit(self) -> np.ndarray:
        """Index coordinates to [-1, 1] along the longer side [3, 3]: what the camera maps act on, to be of order 1."""
        height, width = self.frame_size
        scale = 2 / max(height - 1, width - 1, 1)
        return np.array([[scale, 0, -scale * (width - 1) / 2], [0, scale, -scale * (height - 1) / 2], [0, 0, 1]])

    def set_depth(self, maps: np.ndarray) -> None:
        """Set the depth maps [T, h, w] (normalised units, larger is farther)."""
        with torch.no_grad():
            self.depth.map.copy_(torch.from_numpy(maps.reshape(-1, 1)))

    def lift(self, xy: Tensor, frame: Tensor) -> Tensor:
        """Index points [N, 2] of frames [N] as local 3-D points [N, 3] on the depth map."""
        camera = self.camera.index_select(0, frame)  # [N, 3, 3]
        unit = xy * self._scale + self._shift
        plane = (camera[:, :, :2] * unit[:, None]).sum(-1) + camera[:, :, 2]  # [N, 3], homogeneous
        return torch.cat([plane[:, :2] / plane[:, 2:], self.depth(xy, frame)[:, None]], -1)

    def canonical(self, xy: Tensor, frame: Tensor, parts: list[Tensor]) -> Tensor:
        """Canonical points [N, 3] of index points [N, 2] of frames [N]; ``parts`` from bijection.time_parts()."""
        return self.bijection.canonical(self.lift(xy, frame), frame, parts)

    def project(self, canonical: Tensor, frame: Tensor, parts: list[Tensor]) -> Transported:
        """Canonical points [N, 3] in frames [N]."""
        local = self.bijection.local(canonical, frame, parts)
        inverse = adjugate(self.camera).index_select(0, frame)  # a homography needs no division by the determinant
        back = (inverse[:, :, :2] * local[:, None, :2]).sum(-1) + inverse[:, :, 2]
        return Transported((back[:, :2] / back[:, 2:] - self._shift) / self._scale, local[:, 2])

    def transport(self, xy: Tensor, i: Tensor, j: Tensor, parts: list[Tensor] | None = None) -> Transported:
        """Carry index points [N, 2] from frames i [N] to frames j [N]."""
        parts = self.bijection.time_parts() if parts is None else parts
        return self.project(self.canonical(xy, i, parts), j, parts)


def adjugate(matrices: Tensor) -> Tensor:
    """Adjugates [T, 3, 3] of matrices [T, 3, 3]: their inverses times their determinants."""
    rows = matrices.unbind(1)
    columns = [
        torch.linalg.cross(rows[1], rows[2]),
        torch.linalg.cross(rows[2], rows[0]),
        torch.linalg.cross(rows[0], rows[1]),
    ]
    return torch.stack(columns, -1)
