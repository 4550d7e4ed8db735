"""The fake's idea of motion: the whole picture moves by one affine map from frame to frame.

The map is found by direct alignment (Gauss-Newton, coarse to fine) of red and green, which is exact for pictures whose
red and green are linear in x and y, and good for any texture that moves as a whole. Blue does not enter the motion, but
it does the visibility, so that a test can paint an occluder in blue.
"""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = ((16, 8), (8, 6))  # (side of the pooled cells, iterations)
_known: dict[bytes, Tensor] = {}  # the map of a pair of frames, by their bytes


def sample(image: Tensor, xy: Tensor) -> Tensor:
    """Bilinear values of image [C, H, W] at index points [N, 2] -> [C, N]; beyond the edge the edge's."""
    height, width = image.shape[-2:]
    where = 2 * xy / torch.tensor([width - 1, height - 1], dtype=xy.dtype, device=xy.device) - 1
    found = F.grid_sample(image[None], where[None, None], align_corners=True, padding_mode="border")
    return found[0, :, 0]


def pooled(frame: Tensor, side: int) -> Tensor:
    """Red and green [2, h, w], averaged over cells of ``side`` pixels."""
    return F.avg_pool2d(frame[None, :2], side)[0]


def frame_motion(first: Tensor, second: Tensor) -> Tensor:
    """The affine map float64 [3, 3] that carries index points of ``first`` [3, H, W] to ``second``."""
    cells = [pooled(frame, LEVELS[-1][0]) for frame in (first, second)]
    digest = hashlib.sha256(torch.stack(cells).cpu().numpy().tobytes()).digest()
    if digest not in _known:
        _known[digest] = _aligned(first.double(), second.double()).cpu()
    return _known[digest].to(first.device)


def _aligned(first: Tensor, second: Tensor) -> Tensor:
    motion = torch.eye(3, dtype=torch.float64, device=first.device)
    for side, iterations in LEVELS:
        a, b = pooled(first, side), pooled(second, side)
        h, w = a.shape[-2:]
        y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64, device=a.device) for n in (h, w)), indexing="ij")
        points = torch.stack([x, y], dim=-1).reshape(-1, 2) * side + (side - 1) / 2
        for _ in range(iterations):
            before, motion = motion, _step(a, b, points, side, motion)
            if (motion - before).abs().max() < 1e-5:
                break
    return motion


def _step(a: Tensor, b: Tensor, points: Tensor, side: int, motion: Tensor) -> Tensor:
    """One Gauss-Newton step on the difference of b at the moved points to a."""
    h, w = a.shape[-2:]
    centre = points.mean(dim=0)
    moved = points @ motion[:2, :2].T + motion[:2, 2]
    cell = (moved - (side - 1) / 2) / side
    ahead, below = torch.tensor([0.5, 0.0]).to(cell), torch.tensor([0.0, 0.5]).to(cell)
    inside = ((cell >= 0.5) & (cell <= torch.tensor([w - 1.5, h - 1.5]).to(cell))).all(-1)
    if inside.sum() < 16:
        return motion
    gx = (sample(b, cell + ahead) - sample(b, cell - ahead)) / side
    gy = (sample(b, cell + below) - sample(b, cell - below)) / side
    u = (points - centre) / 256
    basis = torch.cat([torch.ones_like(u[:, :1]), u], dim=-1)  # [N, 3]
    jacobian = torch.cat([gx[..., None] * basis, gy[..., None] * basis], dim=-1)[:, inside].reshape(-1, 6)
    residual = (a.reshape(2, -1) - sample(b, cell))[:, inside].reshape(-1)
    normal = jacobian.T @ jacobian
    normal += torch.eye(6, dtype=normal.dtype, device=normal.device) * (1e-9 * normal.trace() + 1e-9)
    step = torch.linalg.solve(normal, jacobian.T @ residual).reshape(2, 3)
    linear = step[:, 1:] / 256
    out = motion.clone()
    out[:2, :2] += linear
    out[:2, 2] += step[:, 0] - linear @ centre
    return out
