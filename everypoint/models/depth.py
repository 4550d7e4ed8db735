"""The optimisable depth of every frame, on a coarse grid: bilinear, or one value a cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everypoint.models.planes import bilinear_rows


class DepthGrid(nn.Module):
    """Depth maps [T, h, w] of all frames, bilinear between cell centres (the raster rule), edge cells extended.

    ``z`` is in the normalised units of the local space; larger is farther.
    """

    def __init__(self, frames: int, size: tuple[int, int], frame_size: tuple[int, int], initial: float = 0.0) -> None:
        super().__init__()
        self.size, self.frame_size = size, frame_size
        self.map = nn.Parameter(torch.full((frames * size[0] * size[1], 1), initial))

    def forward(self, xy: Tensor, frame: Tensor) -> Tensor:
        """Depth [N] at index points [N, 2] of frames [N]."""
        (h, w), (height, width) = self.size, self.frame_size
        x = ((xy[:, 0] + 0.5) * (w / width) - 0.5).clamp(0, w - 1)
        y = ((xy[:, 1] + 0.5) * (h / height) - 0.5).clamp(0, h - 1)
        x0 = x.detach().floor().nan_to_num_(0).clamp_(0, max(w - 2, 0))  # NaN stays a value, never an index
        y0 = y.detach().floor().nan_to_num_(0).clamp_(0, max(h - 2, 0))
        fx, fy = x - x0, y - y0
        first = (frame * h + y0.long()) * w + x0.long()
        right, down = min(w - 1, 1), w * min(h - 1, 1)
        rows = torch.stack([first, first + right, first + down, first + down + right])  # [4, N]
        return bilinear_rows(self.map, rows, fy, fx)[:, 0]

    def maps(self) -> Tensor:
        """All depth maps [T, h, w]."""
        return self.map.reshape(-1, *self.size)


class DepthCells(nn.Module):
    """Depth maps [T, h, w] of all frames, constant within a cell (CaDeX++): a gradient reaches the looked-up cell only.

    The cells tile the frame (the raster rule); points outside read the nearest edge cell. Beside the depth of a cell
    stand its backward differences: left minus own, upper minus own, 0 in the first column and row.
    """

    def __init__(self, frames: int, size: tuple[int, int], frame_size: tuple[int, int], initial: float = 1.0) -> None:
        super().__init__()
        self.size, self.frame_size = size, frame_size
        self.map = nn.Parameter(torch.full((frames, *size), initial))

    def cells(self, xy: Tensor, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [N] of the flattened maps at index points [N, 2] of frames [N], and of the cells left of and above."""
        (h, w), (height, width) = self.size, self.frame_size
        x = ((xy[:, 0].detach() + 0.5) * (w / width)).floor_().nan_to_num_(0).clamp_(0, w - 1).long()
        y = ((xy[:, 1].detach() + 0.5) * (h / height)).floor_().nan_to_num_(0).clamp_(0, h - 1).long()
        own = (frame * h + y) * w + x
        return own, own - (x > 0).long(), own - w * (y > 0)

    def forward(self, xy: Tensor, frame: Tensor) -> Tensor:
        """Depth [N] at index points [N, 2] of frames [N]."""
        return self.map.reshape(-1).index_select(0, self.cells(xy, frame)[0])

    def maps(self) -> Tensor:
        """All depth maps [T, h, w]."""
        return self.map
