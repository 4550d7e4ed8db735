"""Coordinates and bilinear sampling: the only place where conventions are converted.

Two conventions exist in everypoint:

* **raster** (public): x in [0, W], y in [0, H]; the centre of pixel (0, 0) is (0.5, 0.5). TAP-Vid's convention; a
  resize is a pure scale.
* **index** (inside flow and feature code): integer coordinates are pixel centres; raster = index + 0.5.

All points are (x, y) in the last dimension; queries are (t, x, y).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:  # jobs that only scale coordinates start without torch, which takes seconds to import
    import torch
    from torch import Tensor

Points = TypeVar("Points", np.ndarray, "Tensor")


def raster_to_index(xy: Points) -> Points:
    """Raster coordinates to pixel-index coordinates."""
    return xy - 0.5


def index_to_raster(xy: Points) -> Points:
    """Pixel-index coordinates to raster coordinates."""
    return xy + 0.5


def scale_raster(xy: np.ndarray, from_size: tuple[int, int], to_size: tuple[int, int]) -> np.ndarray:
    """Raster points [..., 2] of a frame of ``from_size`` (H, W) in a frame of ``to_size`` (H, W)."""
    scale = np.array([to_size[1] / from_size[1], to_size[0] / from_size[0]], dtype=np.float64)
    xy = np.asarray(xy)
    return (xy * scale).astype(xy.dtype if np.issubdtype(xy.dtype, np.floating) else np.float64)


def scale_corners(xy: np.ndarray, from_size: tuple[int, int], to_size: tuple[int, int]) -> np.ndarray:
    """Index points [..., 2] of a frame (H, W) after a resize that keeps the corner pixels' centres in the corners.

    That is ``align_corners=True``, x * (W' - 1) / (W - 1), which CoTracker uses; everypoint's own resizes are raster
    resizes. A side of one pixel stays at 0.
    """
    scale = np.array([(to_size[axis] - 1) / max(from_size[axis] - 1, 1) for axis in (1, 0)], dtype=np.float64)
    xy = np.asarray(xy)
    return (xy * scale).astype(xy.dtype if np.issubdtype(xy.dtype, np.floating) else np.float64)


def inside_index(xy: Points, height: int, width: int) -> Points:
    """Whether index points [..., 2] lie on the pixel grid, 0 <= x <= W - 1 and 0 <= y <= H - 1."""
    x, y = xy[..., 0], xy[..., 1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def sample_index(field: Tensor, xy: Tensor, *, border: bool = False) -> Tensor:
    """Bilinear values of ``field`` [C, H, W] at index points ``xy`` [..., 2] -> [..., C].

    Outside the grid the value is zero (``border=False``, blending linearly over one pixel) or that of the nearest
    edge pixel (``border=True``). A half-precision field is sampled in the precision of ``xy``: coordinates in half
    precision would be off by a good part of a pixel.
    """
    import torch
    import torch.nn.functional as F

    field = field.to(torch.promote_types(field.dtype, xy.dtype))

    height, width = field.shape[-2:]
    size = xy.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    where = (2 * xy / size - 1).reshape(1, 1, -1, 2)
    padding = "border" if border else "zeros"
    values = F.grid_sample(field[None], where.to(field.dtype), align_corners=True, padding_mode=padding)
    return values[0, :, 0].T.reshape(*xy.shape[:-1], field.shape[0])


def sample_resized(field: Tensor, xy: Tensor, frame_size: tuple[int, int]) -> Tensor:
    """Bilinear values of a map [C, h, w] that covers a frame of ``frame_size`` (H, W), at index points of that frame.

    The map's cells tile the frame (a raster resize), which is the one convention for features, depth and masks:
    cell (0, 0)'s centre lies at raster (W / w / 2, H / h / 2). Edge cells extend to the border. Returns [..., C].
    """
    h, w = field.shape[-2:]
    scale = xy.new_tensor([w / frame_size[1], h / frame_size[0]])
    return sample_index(field, (xy + 0.5) * scale - 0.5, border=True)


def pixel_grid(height: int, width: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Index coordinates of every pixel, float32 [H, W, 2]."""
    import torch

    ys, xs = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=device),
        torch.arange(width, dtype=torch.float32, device=device),
        indexing="ij",
    )
    return torch.stack([xs, ys], dim=-1)


def nearest_cells(n: int, out: int) -> np.ndarray:
    """For each of ``out`` cells, which of ``n`` cells over the same side holds its centre, int64 [out]."""
    return (2 * np.arange(out) + 1) * n // (2 * out)
