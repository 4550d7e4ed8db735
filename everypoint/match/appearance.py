"""Cosine similarity of features at two points, for hundreds of thousands of points at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 4096  # points whose two feature vectors (C = 256: 8 MiB) stay in the cache of a core


class FeatureMap:
    """The features of one frame, laid out so that a bilinear read is a weighted sum of four rows.

    Sampling C channels plane by plane (grid_sample) reads C scattered values a point; here a point reads four runs of
    C values. The convention is that of :func:`everypoint.geometry.sample_resized`, which is the plain reference.
    """

    def __init__(self, features: Tensor, frame_size: tuple[int, int]) -> None:
        """``features`` [h, w, C] of any float type, covering a frame of ``frame_size`` (H, W)."""
        self.shape = features.shape[:2]
        self._rows = features.reshape(-1, features.shape[-1]).float().contiguous()  # [h * w, C]
        self._scale = self._rows.new_tensor([self.shape[1] / frame_size[1], self.shape[0] / frame_size[0]])

    def sample(self, points: Tensor) -> Tensor:
        """Bilinear features [N, C] at index points [N, 2] of the frame."""
        h, w = self.shape
        where = (points + 0.5) * self._scale - 0.5
        x = where[:, 0].nan_to_num().clamp(0, w - 1)
        y = where[:, 1].nan_to_num().clamp(0, h - 1)
        x0, y0 = x.floor(), y.floor()
        fx, fy = x - x0, y - y0
        left, top = x0.long(), y0.long() * w
        right, low = (left + 1).clamp(max=w - 1), (top + w).clamp(max=(h - 1) * w)
        corners = torch.stack([top + left, top + right, low + left, low + right], dim=1)  # [N, 4]
        weights = torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], dim=1)
        return F.embedding_bag(corners, self._rows, per_sample_weights=weights, mode="sum")


def similarity(first: FeatureMap, points_i: Tensor, second: FeatureMap, points_j: Tensor) -> Tensor:
    """Cosine [N] between the features of ``first`` at points_i [N, 2] and of ``second`` at points_j [N, 2]."""
    cosines = [
        _cosine(first.sample(a), second.sample(b))
        for a, b in zip(points_i.split(CHUNK), points_j.split(CHUNK), strict=True)
    ]
    return torch.cat(cosines) if cosines else points_i.new_empty(0)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of rows [N, C]; zero vectors give 0."""
    squares = torch.linalg.vecdot(a, a) * torch.linalg.vecdot(b, b)
    return torch.linalg.vecdot(a, b) * squares.clamp(min=1e-12).rsqrt()
