"""A start close to the answer: the camera's motion as one homography a frame, depth from what moves otherwise.

The couplings then only have to learn what the camera does not explain, and surfaces that move differently start at
different depths, so that the bijection can carry them to different places. Both are optimised further.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from everypoint.artifacts.matches import Matches
from everypoint.geometry import nearest_cells
from everypoint.optimize.camera import camera_motion, decoded

NEARER_CELL = 8  # px; smaller cells have too few matches of neighbouring frames


class WarmStart(NamedTuple):
    """Camera motion and what differs from it."""

    camera: np.ndarray  # float64 [T, 3, 3], homographies from index coordinates of frame t to a common plane
    residual: np.ndarray  # float32 [M], distance of each match to the camera's motion, px per frame of gap^0.5


def warm_start(matches: Matches, seed: int) -> WarmStart:
    """Fit the camera's motion and measure every match against it."""
    camera = camera_motion(matches, seed)
    return WarmStart(camera, motion_residual(matches, camera))


def motion_residual(matches: Matches, camera: np.ndarray) -> np.ndarray:
    """Distance [M] in px between each match and the camera's motion, over the square root of its gap."""
    out = np.empty(len(matches), np.float32)
    inverse = np.linalg.inv(camera)
    for pair, (i, j) in enumerate(matches.pairs):
        rows = slice(matches.offsets[pair], matches.offsets[pair + 1])
        relative = inverse[j] @ camera[i]
        moved = decoded(matches.fixed_i[rows], matches) @ relative[:, :2].T + relative[:, 2]
        moved = moved[:, :2] / moved[:, 2:]
        error = np.linalg.norm(moved - decoded(matches.fixed_j[rows], matches), axis=1)
        out[rows] = error / np.sqrt(max(abs(int(i) - int(j)), 1))
    return out


def depth_from_motion(
    matches: Matches, residual: np.ndarray, grid: tuple[int, int], strength: float, largest_gap: int = 2
) -> np.ndarray:
    """Initial depth maps float32 [T, h, w]: nearer (negative) where the motion differs from the camera's.

    What moves by itself is mostly in front; where that is wrong, the optimisation and the occluded matches turn it.
    """
    h, w = grid
    pair = matches.rows_pair
    gap = np.abs(matches.pairs[:, 0] - matches.pairs[:, 1])[pair]
    near = np.flatnonzero(gap <= largest_gap)
    xy = matches.xy_i[near]
    row = np.clip((xy[:, 1] + 0.5) * h / matches.size[0], 0, h - 1).astype(int)
    column = np.clip((xy[:, 0] + 0.5) * w / matches.size[1], 0, w - 1).astype(int)
    cell = (matches.pairs[pair[near], 0] * h + row) * w + column
    cells = matches.frames * h * w
    total = np.bincount(cell, residual[near], cells).reshape(-1, h, w)
    count = np.bincount(cell, minlength=cells).reshape(-1, h, w).astype(float)
    smooth = (0, 1, 1)
    mean = gaussian_filter(total, smooth) / np.maximum(gaussian_filter(count, smooth), 1e-3)
    scale = max(4 * float(np.median(residual[near])) if len(near) else 1.0, 0.5)
    return (-strength * np.tanh(mean / scale)).astype(np.float32)


def nearer_by_motion(
    prior: np.ndarray | None, mask: np.ndarray | None, matches: Matches, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """A depth prior in which what moves against the camera lies nearer, by up to ``share`` of its depth.

    Args:
        prior: [T, h, w], positive, larger is farther; None: the same depth everywhere.
        mask: bool [T, h, w], cells whose depth is known; None: all.
        matches: of the video.
        share: below 1.
        seed: of the camera's motion.

    Returns the prior, float32 on cells of at most ``NEARER_CELL`` px, and its mask on the same cells.
    """
    prior = np.ones((matches.frames, 1, 1), np.float32) if prior is None else np.asarray(prior, np.float32)
    grid = tuple(max(cells, -(-side // NEARER_CELL)) for cells, side in zip(prior.shape[1:], matches.size, strict=True))
    coarse = tuple(-(-side // NEARER_CELL) for side in matches.size)
    offset = depth_from_motion(matches, warm_start(matches, seed).residual, coarse, share)  # [T, h', w'], -share..0
    factor = 1 + F.interpolate(torch.from_numpy(offset)[:, None], grid, mode="bilinear", align_corners=False)[:, 0]
    rows, columns = (nearest_cells(old, cells) for old, cells in zip(prior.shape[1:], grid, strict=True))
    finer = np.ix_(np.arange(len(prior)), rows, columns)
    return prior[finer] * factor.numpy(), None if mask is None else np.asarray(mask)[finer]
