"""Cosine similarity of features at two points, for hundreds of thousands of points at once."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 4096  # points whose two feature vectors (C = 256: 8 MiB) stay in the cache of a core
GRAM_CHUNK = 65536  # points whose 16 products (4 MiB) do
PRODUCTS_A_POINT = 32  # products of cells, made by one matrix product, that cost less than reading two vectors


class FeatureMap:
    """The features of one frame, laid out so that a bilinear read is a weighted sum of four rows.

    Sampling C channels plane by plane (grid_sample) reads C scattered values a point; here a point reads four runs of
    C values. The convention is that of :func:`everypoint.geometry.sample_resized`, which is the plain reference.
    """

    def __init__(self, features: Tensor, frame_size: tuple[int, int]) -> None:
        """``features`` [h, w, C] of any float type, covering a frame of ``frame_size`` (H, W)."""
        self.shape = features.shape[:2]
        self.rows = features.reshape(-1, features.shape[-1]).float().contiguous()  # [h * w, C]
        self._scale = self.rows.new_tensor([self.shape[1] / frame_size[1], self.shape[0] / frame_size[0]])

    def sample(self, points: Tensor) -> Tensor:
        """Bilinear features [N, C] at index points [N, 2] of the frame."""
        corners, weights = self.corners(points)
        return F.embedding_bag(corners, self.rows, per_sample_weights=weights, mode="sum")

    def corners(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The four cells around index points [N, 2], int64 [N, 4], and their bilinear weights [N, 4].

        In the order (top left, top right, low left, low right); at an edge a cell occurs twice.
        """
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
        return corners, weights

    @functools.cached_property
    def _own_products(self) -> Tensor:
        """Products of each cell with itself and with its neighbours right, below, and on both diagonals, [5, h * w].

        The last is that of the right neighbour with the one below. At an edge a neighbour is the cell itself.
        """
        grid = self.rows.reshape(*self.shape, -1)
        right = torch.cat([grid[:, 1:], grid[:, -1:]], dim=1)
        below, diagonal = (torch.cat([part[1:], part[-1:]]) for part in (grid, right))
        pairs = ((grid, grid), (grid, right), (grid, below), (grid, diagonal), (right, below))
        return torch.stack([torch.linalg.vecdot(a, b).flatten() for a, b in pairs])

    def squares(self, corners: Tensor, weights: Tensor) -> Tensor:
        """Squared lengths [N] of the bilinear features at points given by their corners and weights."""
        itself, right, below, down, up = self._own_products
        top_left, top_right, low_left, _ = corners.unbind(1)
        a, b, c, d = weights.unbind(1)
        own = (itself[corners] * weights.square()).sum(1)
        along = a * b * right[top_left] + c * d * right[low_left] + a * c * below[top_left] + b * d * below[top_right]
        return own + 2 * (along + a * d * down[top_left] + b * c * up[top_left])


def similarity(first: FeatureMap, points_i: Tensor, second: FeatureMap, points_j: Tensor) -> Tensor:
    """Cosine [N] between the features of ``first`` at points_i [N, 2] and of ``second`` at points_j [N, 2].

    Where there are many more points than cells, the products of all cells of both maps are made first, and a point
    reads 16 of them instead of eight feature vectors.
    """
    if len(first.rows) * len(second.rows) < PRODUCTS_A_POINT * len(points_i):
        return _similarity_by_products(first, points_i, second, points_j)
    cosines = [
        _cosine(first.sample(a), second.sample(b))
        for a, b in zip(points_i.split(CHUNK), points_j.split(CHUNK), strict=True)
    ]
    return torch.cat(cosines) if cosines else points_i.new_empty(0)


def _similarity_by_products(first: FeatureMap, points_i: Tensor, second: FeatureMap, points_j: Tensor) -> Tensor:
    products = (first.rows @ second.rows.T).flatten()  # [cells_i * cells_j]
    cosines = []
    for a, b in zip(points_i.split(GRAM_CHUNK), points_j.split(GRAM_CHUNK), strict=True):
        (corners_i, weights_i), (corners_j, weights_j) = first.corners(a), second.corners(b)
        read = products[corners_i[:, :, None] * len(second.rows) + corners_j[:, None]]  # [n, 4, 4]
        dot = ((read * weights_j[:, None]).sum(2) * weights_i).sum(1)
        lengths = first.squares(corners_i, weights_i) * second.squares(corners_j, weights_j)
        cosines.append(dot * lengths.clamp(min=1e-12).rsqrt())
    return torch.cat(cosines)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of rows [N, C]; zero vectors give 0."""
    squares = torch.linalg.vecdot(a, a) * torch.linalg.vecdot(b, b)
    return torch.linalg.vecdot(a, b) * squares.clamp(min=1e-12).rsqrt()
