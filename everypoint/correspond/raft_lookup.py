"""RAFT's look-up of correlations, with the volume of all pairs of cells held, or without it.

Level l of the pyramid holds <f1(p), f2(q)> / sqrt(C) for all cells p of the source and all cells q of the target after
l average poolings of the target. Pooling the volume over q equals pooling the features f2, so that any single entry
can be computed from features alone; an iteration reads a window of (2r + 1)^2 places around each centre, all with one
fraction of a cell, hence the (2r + 2)^2 entries of an integer lattice.

The volume grows with the fourth power of the frame's side (0.2 GiB for a pair at 480p, 5 GiB at 1080p), three quarters
of it in the finest level. So the choice is made for each level, the coarsest first: a level is held while all held ones
together fit a limit, and the finer ones are computed where they are looked up:

* :class:`TiledLevel` (eager, CPU): the source is cut into tiles; the lattices of a tile overlap, so the part of
  the volume between its cells and the bounding box of their lattices is one small matrix product;
* :class:`GatheredLevel` (CUDA and compiled code): lattice features are gathered and multiplied, some centres at a time;
  shapes do not depend on the centres, so nothing waits for the device.

All three give the same windows but for the order of float32 sums. Outside the target the correlation is zero.
Source: Teed and Deng, RAFT, ECCV 2020, section 3.2 and the memory-efficient variant of its appendix.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 8  # cells of a tile's side at the finest level; level l has tiles of TILE * 2^l
GATHER_BYTES = 2**27  # gathered lattice features at a time
FLOAT = 4  # bytes
SAMPLED_AT_ONCE = 2**15  # volumes of a bilinear look-up: cuDNN's takes fewer than 65,536


class Level(Protocol):
    """One level of the pyramid."""

    def windows(self, centres: Tensor) -> Tensor:
        """Correlations around ``centres`` [B, h, w, 2] (x, y in cells of the level) -> [B, h, w, (2r + 1)^2].

        The slow index of the window moves x, the fast one y.
        """
        ...


class HeldLevel:
    """All correlations of a level."""

    def __init__(self, volume: Tensor, radius: int) -> None:
        self.volume = volume  # [B * h * w, 1, hl, wl]
        self.offsets = _offsets(radius, volume.device)

    def windows(self, centres: Tensor) -> Tensor:
        """See :class:`Level`."""
        places = centres.reshape(-1, 1, 1, 2) + self.offsets
        return _sample(self.volume, places).reshape(*centres.shape[:3], -1)


class TiledLevel:
    """The correlations of one tile of source cells at a time, within the bounding box of what they look at.

    A tile never needs more than its own rows of the volume: TILE^2 * h * w floats at every level.
    """

    def __init__(self, f1: Tensor, f2: Tensor, radius: int, level: int) -> None:
        self.f1, self.f2 = f1, f2  # [B, h, w, C] over sqrt(C); [B, hl, wl, C], contiguous
        self.radius, self.side = radius, TILE << level
        self.offsets = _offsets(radius, f1.device)

    def windows(self, centres: Tensor) -> Tensor:
        """See :class:`Level`."""
        batch, h, w, _ = centres.shape
        result = centres.new_empty(batch, h, w, self.offsets[..., 0].numel())
        for y in range(0, h, self.side):
            for x in range(0, w, self.side):
                tile = slice(y, y + self.side), slice(x, x + self.side)
                boxes = self._boxes(centres[:, *tile])
                for b, box in enumerate(boxes):
                    result[b, *tile] = self._tile(self.f1[b, *tile], self.f2[b], centres[b, *tile], box)
        return result

    def _boxes(self, centres: Tensor) -> list[list[int]]:
        """Bounds (x0, y0, x1, y1) of the lattices around centres [B, th, tw, 2], inclusive, within the target."""
        size = centres.new_tensor([self.f2.shape[2] - 1, self.f2.shape[1] - 1])
        flat = centres.flatten(1, 2).nan_to_num()
        low = (flat.amin(1).floor() - self.radius).clamp(min=0).minimum(size - 1)  # two cells at least
        high = (flat.amax(1).floor() + self.radius + 1).minimum(size).maximum(low + 1)
        return torch.cat([low, high], 1).long().tolist()

    def _tile(self, f1: Tensor, f2: Tensor, centres: Tensor, box: list[int]) -> Tensor:
        """Windows [th, tw, (2r + 1)^2] of a tile [th, tw, C] whose lattices lie in ``box`` of f2 [hl, wl, C]."""
        x0, y0, x1, y1 = box
        part = f2[y0 : y1 + 1, x0 : x1 + 1]
        channels = part.shape[-1]
        volume = f1.reshape(-1, channels) @ part.reshape(-1, channels).T
        places = (centres - centres.new_tensor([x0, y0])).reshape(-1, 1, 1, 2) + self.offsets
        return _sample(volume.reshape(-1, 1, *part.shape[:2]), places).reshape(*centres.shape[:2], -1)


class GatheredLevel:
    """Lattice features gathered and multiplied, ``GATHER_BYTES`` of them at a time."""

    def __init__(self, f1: Tensor, f2: Tensor, radius: int) -> None:
        self.f1, self.f2 = f1.flatten(0, 2), f2.flatten(0, 2)  # [B * h * w, C] over sqrt(C); [B * hl * wl, C]
        self.size = tuple(f2.shape[1:3])
        self.radius = radius

    def windows(self, centres: Tensor) -> Tensor:
        """See :class:`Level`."""
        batch, h, w, _ = centres.shape
        first = torch.arange(batch, device=centres.device) * (self.size[0] * self.size[1])
        first = first[:, None].expand(-1, h * w).reshape(-1)  # row of f2 at which a cell's target begins
        flat, side = centres.reshape(-1, 2), 2 * self.radius + 2
        step = max(1, GATHER_BYTES // (side * side * self.f1.shape[1] * FLOAT))
        parts = [slice(start, start + step) for start in range(0, len(flat), step)]
        return torch.cat([self._windows(self.f1[p], flat[p], first[p]) for p in parts]).reshape(batch, h, w, -1)

    def _windows(self, f1: Tensor, centres: Tensor, first: Tensor) -> Tensor:
        """Windows [n, (2r + 1)^2] of some cells: features [n, C], centres [n, 2], begin of their targets [n]."""
        hl, wl = self.size
        far = 2.0**24  # where float32 still counts cells; nothing lies there
        centres = centres.nan_to_num().clamp(-far, far)
        low = centres.floor()
        lattice = torch.arange(-self.radius, self.radius + 2, device=f1.device)
        x, y = (low.long()[:, i, None] + lattice for i in (0, 1))  # [n, 2r + 2]
        inside = ((x >= 0) & (x < wl))[:, :, None] & ((y >= 0) & (y < hl))[:, None, :]
        rows = first[:, None, None] + y.clamp(0, hl - 1)[:, None, :] * wl + x.clamp(0, wl - 1)[:, :, None]
        gathered = self.f2[rows.flatten(1)]  # [n, (2r + 2)^2, C]
        entries = torch.matmul(gathered, f1[:, :, None]).reshape(inside.shape) * inside
        fx, fy = (centres - low).reshape(-1, 2, 1, 1).unbind(1)
        entries = torch.lerp(entries[:, :-1], entries[:, 1:], fx)
        return torch.lerp(entries[:, :, :-1], entries[:, :, 1:], fy).flatten(1)


class Lookup:
    """The levels of one network call."""

    def __init__(self, levels: list[Level]) -> None:
        self.levels = levels

    def windows(self, centres: Tensor) -> Tensor:
        """Windows around ``centres`` [B, 2, h, w] at all levels -> [B, levels * (2r + 1)^2, h, w], channels last."""
        centres = centres.permute(0, 2, 3, 1)
        return torch.cat([level.windows(centres / 2**i) for i, level in enumerate(self.levels)], -1).permute(0, 3, 1, 2)


def build_lookup(f1: Tensor, f2: Tensor, levels: int, radius: int, first_held: int, *, gathered: bool) -> Lookup:
    """The look-up from ``f1`` into ``f2`` [B, C, h, w] (float32).

    Args:
        f1: features of the source frames.
        f2: features of the target frames.
        levels: number of levels.
        radius: of the windows.
        first_held: the finest level whose volume is held; ``levels`` for none.
        gathered: what the finer ones are, :class:`GatheredLevel` or :class:`TiledLevel`.
    """
    rows1 = (f1 / f1.shape[1] ** 0.5).permute(0, 2, 3, 1).contiguous()  # [B, h, w, C]
    made: list[Level] = []
    volume: Tensor | None = None
    for level in range(levels):
        if level >= first_held:
            volume = _volume(rows1, f2) if volume is None else F.avg_pool2d(volume, 2)
            made.append(HeldLevel(volume, radius))
            continue
        rows2 = f2.permute(0, 2, 3, 1).contiguous()
        made.append(GatheredLevel(rows1, rows2, radius) if gathered else TiledLevel(rows1, rows2, radius, level))
        f2 = F.avg_pool2d(f2, 2)
    return Lookup(made)


def level_bytes(batch: int, h: int, w: int, levels: int) -> list[int]:
    """Bytes of the volume of each level, for ``batch`` pairs of maps (h, w)."""
    return [batch * h * w * (h >> level) * (w >> level) * FLOAT for level in range(levels)]


def looked_up_bytes(batch: int, h: int, w: int, channels: int, radius: int, first_held: int, *, gathered: bool) -> int:
    """Scratch of the look-up in levels that are not held, for ``batch`` pairs of maps (h, w)."""
    if first_held == 0:
        return 0
    if not gathered:
        return 2 * TILE**2 * h * w * FLOAT  # a tile that looks at the whole target, and the product's operands
    lattice = batch * h * w * (2 * radius + 2) ** 2 * FLOAT * channels
    return min(lattice, GATHER_BYTES) * 9 // 8  # and the rows and their masks


def first_held_level(mode: str, limit: float, batch: int, h: int, w: int, levels: int) -> int:
    """The finest level to hold: 0 for mode ``volume``, ``levels`` for ``sampled``.

    ``auto`` holds the coarsest levels that fit ``limit`` bytes together. It looks at shapes alone, so that the result
    of a computation does not hang on what else the machine does.
    """
    if mode != "auto":
        return 0 if mode == "volume" else levels
    sizes = level_bytes(batch, h, w, levels)
    return next((level for level in range(levels) if sum(sizes[level:]) <= limit), levels)


def _volume(rows1: Tensor, f2: Tensor) -> Tensor:
    """<f1, f2> of rows [B, h, w, C] and maps [B, C, hl, wl] as [B * h * w, 1, hl, wl]."""
    volume = torch.matmul(rows1.flatten(1, 2), f2.flatten(2))
    return volume.reshape(-1, 1, *f2.shape[2:])


def _offsets(radius: int, device: torch.device) -> Tensor:
    """Places of a window relative to its centre [2r + 1, 2r + 1, 2]; the slow index moves x."""
    offset = torch.arange(-radius, radius + 1, dtype=torch.float32, device=device)
    return torch.stack(torch.meshgrid(offset, offset, indexing="ij"), -1)


def _sample(volume: Tensor, places: Tensor) -> Tensor:
    """Bilinear values of [n, 1, h, w] at ``places`` [n, k, k, 2] (x, y in cells), zero outside; h and w beyond 1."""
    size = places.new_tensor([volume.shape[-1] - 1, volume.shape[-2] - 1])
    places = places * (2 / size) - 1
    if len(volume) <= SAMPLED_AT_ONCE:
        return F.grid_sample(volume, places, align_corners=True)
    parts = zip(volume.split(SAMPLED_AT_ONCE), places.split(SAMPLED_AT_ONCE), strict=True)
    return torch.cat([F.grid_sample(part, at, align_corners=True) for part, at in parts])
