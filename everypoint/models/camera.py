"""Cameras that lift pixels with a depth into a scene, and the box that most of the scene lies in. Index coordinates."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

LEAST_Z = 1e-6  # a projection divides by no less than this


class Camera(Protocol):
    """Index points of a frame (H, W) with depths <-> points in its local space, whose last coordinate is the depth."""

    def lift(self, xy: Tensor, depth: Tensor) -> Tensor:
        """Local points [..., 3] of index points [..., 2] with depths [...]."""
        ...

    def project(self, points: Tensor) -> Tensor:
        """Index points [..., 2] of local points [..., 3]."""
        ...


class Pinhole:
    """X = ((x - c_x) d / f, (y - c_y) d / f, d), f = W / (2 tan(fov / 2)), c the middle of the frame (CaDeX++)."""

    def __init__(self, size: tuple[int, int], fov: float) -> None:
        height, width = size
        self._inverse_focal = 2 * math.tan(math.radians(fov) / 2) / width
        self._focal = 1 / self._inverse_focal
        self._centre = (width - 1) / 2, (height - 1) / 2

    def lift(self, xy: Tensor, depth: Tensor) -> Tensor:
        x, y = xy.unbind(-1)
        slope = depth * self._inverse_focal
        return torch.stack([(x - self._centre[0]) * slope, (y - self._centre[1]) * slope, depth], -1)

    def project(self, points: Tensor) -> Tensor:
        """A point on the plane of the camera, or behind it, lands somewhere far away; never on a division by zero."""
        x, y, z = points.unbind(-1)
        scale = self._focal / torch.where(z.abs() < LEAST_Z, LEAST_Z, z)
        return torch.stack([x * scale + self._centre[0], y * scale + self._centre[1]], -1)


class Orthographic:
    """X = (x, y scaled so that corner pixels' centres lie at -1 and 1, d): OmniMotion's camera."""

    def __init__(self, size: tuple[int, int]) -> None:
        height, width = size
        self._half = max(width - 1, 1) / 2, max(height - 1, 1) / 2

    def lift(self, xy: Tensor, depth: Tensor) -> Tensor:
        x, y = xy.unbind(-1)
        return torch.stack([x / self._half[0] - 1, y / self._half[1] - 1, depth], -1)

    def project(self, points: Tensor) -> Tensor:
        x, y, _ = points.unbind(-1)
        return torch.stack([(x + 1) * self._half[0], (y + 1) * self._half[1]], -1)


def camera_of(kind: str, size: tuple[int, int], fov: float) -> Camera:
    """The camera ``pinhole`` or ``orthographic`` of frames (H, W)."""
    return Pinhole(size, fov) if kind == "pinhole" else Orthographic(size)


FLATTEST = 0.1  # of the median depth: half-width of a box around points that have no width along an axis


def scene_box(points: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Centre and half-width [3] of the scene box of points [..., 3]: their median, and ``share`` of the nearer end.

    An axis along which the points hardly differ (a prior of one depth) gets a tenth of the median depth.
    """
    points = points.reshape(-1, 3).double()
    centre = points.median(0).values
    nearer = torch.minimum(centre - points.amin(0), points.amax(0) - centre)
    return centre, (share * nearer).clamp(min=float(FLATTEST * centre[2].abs().clamp(min=1e-3)))
