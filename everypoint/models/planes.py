"""Feature planes and time grids: the inputs of a coupling's small network.

A plane holds features over two coordinates in [-1, 1]; a time grid holds features over the frames of the video.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def bilinear_rows(table: Tensor, rows: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """Bilinear mix of four table rows a point -> [N, C].

    Args:
        table: [R, C].
        rows: int64 [4, N], the corners (0, 0), (0, 1), (1, 0), (1, 1) of each point's cell.
        fa, fb: [N], position inside the cell along the slow and the fast axis, 0..1.
    """
    return _BilinearRows.apply(table, rows, fa, fb)


class _BilinearRows(torch.autograd.Function):
    """:func:`bilinear_rows` with an analytic backward: one ``index_add_`` a corner, no sort, no [4, N, C] copy kept."""

    @staticmethod
    def forward(ctx, table: Tensor, rows: Tensor, fa: Tensor, fb: Tensor) -> Tensor:  # noqa: ANN001
        v00, v01, v10, v11 = (table.index_select(0, row) for row in rows)
        fa, fb = fa[:, None], fb[:, None]
        top = torch.lerp(v00, v01, fb)
        low = torch.lerp(v10, v11, fb)
        ctx.save_for_backward(rows, fa, fb, low - top, torch.lerp(v01 - v00, v11 - v10, fa))
        ctx.shape = table.shape
        return torch.lerp(top, low, fa)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:  # noqa: ANN001
        rows, fa, fb, along_a, along_b = ctx.saved_tensors
        table = grad.new_zeros(ctx.shape)
        low = grad * fa
        top = grad - low
        low_right, top_right = low * fb, top * fb
        for row, part in zip(rows, (top - top_right, top_right, low - low_right, low_right), strict=True):
            table.index_add_(0, row, part)
        return table, None, (grad * along_a).sum(-1), (grad * along_b).sum(-1)


class Plane(nn.Module):
    """Bilinear look-up in a [R * R, C] table over [-1, 1]^2 (nodes on the borders); N(0, 1) * ``scale`` at start.

    :meth:`reference` is the plain twin of the look-up, through ``grid_sample``.
    """

    def __init__(self, resolution: int, channels: int, generator: torch.Generator, scale: float = 1e-4) -> None:
        super().__init__()
        self.resolution = resolution
        table = torch.randn(resolution * resolution, channels, generator=generator) * scale
        self.table = nn.Parameter(table)

    def forward(self, ab: Tensor) -> Tensor:
        """Features [N, C] at points ``ab`` [N, 2] of [-1, 1]^2."""
        size = self.resolution
        where = (ab + 1) * ((size - 1) / 2)  # [N, 2] in nodes
        low = where.detach().floor().nan_to_num_(0).clamp_(0, size - 2)  # a diverged model gives NaN, not a bad index
        fa, fb = (where - low).unbind(-1)
        first = (low[:, 0] * size + low[:, 1]).long()
        rows = torch.stack([first, first + 1, first + size, first + size + 1])  # [4, N]
        return bilinear_rows(self.table, rows, fa, fb)

    def reference(self, ab: Tensor) -> Tensor:
        """The same through ``grid_sample``."""
        size = self.resolution
        image = self.table.reshape(size, size, -1).permute(2, 0, 1)[None]
        return F.grid_sample(image, ab.flip(-1)[None, None], align_corners=True, padding_mode="border")[0, :, 0].T


class TimeGrid(nn.Module):
    """Features of every frame: 1-D grids of several resolutions, linearly interpolated and concatenated.

    The published resolutions are q, 5q and 13q with q = T // 20 (CaDeX++), which needs 20 frames; here a grid has at
    least 2 and at most T nodes, so that any clip works.
    """

    def __init__(self, frames: int, channels: int, generator: torch.Generator, factors: tuple[int, ...]) -> None:
        super().__init__()
        sizes = [min(max(frames * factor // 20, 2), max(frames, 2)) for factor in factors]
        self.grids = nn.ParameterList(
            nn.Parameter(torch.randn(1, channels, size, generator=generator) * 1e-3) for size in sizes
        )
        self.frames = frames
        self.channels = channels * len(sizes)

    def forward(self) -> Tensor:
        """Features of all frames [T, channels]."""
        rows = [F.interpolate(grid, self.frames, mode="linear", align_corners=True)[0].T for grid in self.grids]
        return torch.cat(rows, -1)


class FractionGrid(nn.Module):
    """Features of every frame as CaDeX++ has them: 1-D grids over the time t / T of frames t = 0 .. T - 1.

    The grids have q, 5 q and 13 q nodes with q = T // 20, one at least: any clip works. The last node is at time 1, so
    the last frame lies a little before it.
    """

    def __init__(self, frames: int, channels: int, generator: torch.Generator, factors: tuple[int, ...]) -> None:
        super().__init__()
        sizes = [max(frames // 20, 1) * factor for factor in factors]
        self.grids = nn.ParameterList(
            nn.Parameter(torch.randn(size, channels, generator=generator) * 1e-3) for size in sizes
        )
        self.channels = channels * len(sizes)
        time = torch.arange(frames, dtype=torch.float64) / frames
        for number, size in enumerate(sizes):
            where = time * (size - 1)
            low = where.floor().clamp(max=max(size - 2, 0))
            self.register_buffer(f"low_{number}", low.long(), persistent=False)
            self.register_buffer(f"inside_{number}", (where - low).float()[:, None], persistent=False)

    def forward(self) -> Tensor:
        """Features of all frames [T, channels]."""
        found = []
        for number, grid in enumerate(self.grids):
            low, inside = self.get_buffer(f"low_{number}"), self.get_buffer(f"inside_{number}")
            high = (low + 1).clamp(max=len(grid) - 1)
            found.append(torch.lerp(grid.index_select(0, low), grid.index_select(0, high), inside))
        return torch.cat(found, -1)
