"""Correlations of PIPs++ between templates of points and frames, without the volumes.

At every level of the feature pyramid a point looks at 7 x 7 places one cell apart around its estimate, all with one
fraction of a cell; hence 8 x 8 dot products with feature vectors on an integer lattice, interpolated afterwards, say
all that is needed (the interpolation of products is the product of interpolations, and what lies outside is zero
either way). The features of the lattice are gathered once for the three templates, a cache's worth at a time. Coarse
levels, which have not many more cells than a lattice, are multiplied as a whole, one frame by all of its points, and
the lattice is picked from the products.

Positions are in cells of the finest level (pixels / 8), integers at the cells' centres.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 4
RADIUS = 3
SIDE = 2 * RADIUS + 1
LATTICE = (SIDE + 1) ** 2
_FAR = 2.0**20  # cells; nothing lies there, and float32 still counts quarters of a cell


class Blocks(NamedTuple):
    """What the look-up does at a time; changes the result by the rounding of sums at most."""

    gathered: int  # bytes of gathered features
    held_cells: int  # levels of at most so many cells are multiplied as a whole


CPU_BLOCKS = Blocks(2**21, 512)
CUDA_BLOCKS = Blocks(2**28, 2048)


class Pyramid:
    """Features of F frames at four levels, each half of the finer one (floor)."""

    def __init__(self, features: Tensor) -> None:
        self.rows: list[Tensor] = []  # [F * h * w, C]
        self.sizes: list[tuple[int, int]] = []
        self.frames = features.shape[0]
        for _ in range(LEVELS):
            self.sizes.append(tuple(features.shape[-2:]))
            self.rows.append(features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]))
            features = F.avg_pool2d(features, 2)

    def sample(self, xy: Tensor, frames: Tensor) -> Tensor:
        """Features [..., C] of the finest level at ``xy`` [..., 2] in ``frames`` [...], as beyond the border on it."""
        h, w = self.sizes[0]
        x, y = xy[..., 0].clamp(0, w - 1), xy[..., 1].clamp(0, h - 1)
        left, top = x.floor().clamp(max=max(w - 2, 0)), y.floor().clamp(max=max(h - 2, 0))
        fx, fy = (x - left)[..., None], (y - top)[..., None]
        first = (frames * h + top.long()) * w + left.long()
        right, below = int(w > 1), w * int(h > 1)
        corner = [self._rows(first + step) for step in (0, right, below, below + right)]
        return torch.lerp(torch.lerp(corner[0], corner[1], fx), torch.lerp(corner[2], corner[3], fx), fy)

    def _rows(self, index: Tensor) -> Tensor:
        return self.rows[0].index_select(0, index.flatten()).view(*index.shape, -1).float()


def windows(pyramid: Pyramid, templates: Tensor, xy: Tensor, frames: Tensor, blocks: Blocks) -> Tensor:
    """Correlations of templates around positions, at all levels.

    Args:
        pyramid: the frames.
        templates: [B, N, S, K, C], already over sqrt(C).
        xy: [B, N, S, 2], in cells of the finest level.
        frames: long [B, S], which frame of the pyramid each is; the frames of the pyramid in order, all or some.
        blocks: how much at a time.

    Returns:
        [B, N, S, K, 4 * 49] float32: by level, then x (slow) and y (fast) of the window.
    """
    batch, points, length = xy.shape[:3]
    kinds = templates.shape[3]
    parts = []
    for level, (h, w) in enumerate(pyramid.sizes):
        centres = (xy / 2**level).nan_to_num().clamp(-_FAR, _FAR)
        low = centres.floor()
        cells, inside = _lattice(low.long(), h, w)  # [B, N, S, 64]
        if h * w <= blocks.held_cells:
            entries = _held(pyramid.rows[level], (h, w), templates, cells, frames)
        else:
            rows = cells + (frames * (h * w))[:, None, :, None]
            entries = _gathered(pyramid.rows[level], templates.flatten(0, 2), rows.flatten(0, 2), blocks.gathered)
        entries = entries.view(batch, points, length, kinds, LATTICE) * inside[..., None, :]
        fraction = (centres - low)[..., None, None, None, :]
        entries = entries.view(*entries.shape[:-1], SIDE + 1, SIDE + 1)
        entries = torch.lerp(entries[..., :-1, :], entries[..., 1:, :], fraction[..., 0])
        entries = torch.lerp(entries[..., :-1], entries[..., 1:], fraction[..., 1])
        parts.append(entries.flatten(-2))
    return torch.cat(parts, -1)


def _lattice(low: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
    """Cells [..., 64] of the lattices whose window begins at ``low`` - 3 (x slow, y fast), and which lie inside."""
    steps = torch.arange(-RADIUS, RADIUS + 2, device=low.device)
    x, y = low[..., 0, None] + steps, low[..., 1, None] + steps  # [..., 8]
    inside = ((x >= 0) & (x < w))[..., :, None] & ((y >= 0) & (y < h))[..., None, :]
    cells = y.clamp(0, h - 1)[..., None, :] * w + x.clamp(0, w - 1)[..., :, None]
    return cells.flatten(-2), inside.flatten(-2)


def _gathered(features: Tensor, templates: Tensor, rows: Tensor, at_once: int) -> Tensor:
    """Products [I, K, 64] of templates [I, K, C] with features at ``rows`` [I, 64], a block at a time."""
    channels = features.shape[1]
    step = max(1, at_once // (LATTICE * channels * features.element_size()))
    parts = []
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        found = features.index_select(0, rows[part].flatten()).view(-1, LATTICE, channels)
        parts.append(torch.bmm(templates[part], found.to(templates.dtype).transpose(1, 2)))
    return torch.cat(parts)


def _held(features: Tensor, size: tuple[int, int], templates: Tensor, cells: Tensor, frames: Tensor) -> Tensor:
    """Products [B, N, S, K, 64], picked from those of every template [B, N, S, K, C] with its whole frame."""
    batch, points, length, kinds, channels = templates.shape
    maps = features.view(-1, size[0] * size[1], channels)
    if len(maps) != batch * length:
        maps = maps[frames.flatten()]
    rows = templates.transpose(1, 2).reshape(batch * length, points * kinds, channels)
    volume = torch.matmul(rows, maps.to(rows.dtype).transpose(1, 2)).view(batch, length, points, kinds, -1)
    index = cells.transpose(1, 2)[:, :, :, None].expand(-1, -1, -1, kinds, -1)
    return volume.gather(-1, index).transpose(1, 2)
