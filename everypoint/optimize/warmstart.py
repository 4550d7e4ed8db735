"""A start close to the answer: the camera's motion as one affine map a frame, depth from what moves otherwise.

The couplings then only have to learn what the camera does not explain, and surfaces that move differently start at
different depths, so that the bijection can carry them to different places. Both are optimised further.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from everypoint.artifacts.matches import Matches, coordinate_scale

IRLS_ROUNDS = 10
ENOUGH_MATCHES = 4096  # more than this between two frames change nothing
LEAST_MATCHES = 12  # fewer than this between two frames say nothing about the camera


class WarmStart(NamedTuple):
    """Camera motion and what differs from it."""

    affine: np.ndarray  # float64 [T, 2, 3], index coordinates of frame t -> those of frame 0
    residual: np.ndarray  # float32 [M], distance of each match to the camera's motion, px per frame of gap^0.5


def warm_start(matches: Matches) -> WarmStart:
    """Chain robust affine fits of neighbouring frames; measure every match against them."""
    affine = camera_affines(matches)
    return WarmStart(affine[:, :2], motion_residual(matches, affine))


def camera_affines(matches: Matches) -> np.ndarray:
    """Affine maps [T, 3, 3] from every frame to frame 0, chained over t -> t - 1."""
    index = {(int(i), int(j)): p for p, (i, j) in enumerate(matches.pairs)}
    chained = [np.eye(3)]
    for t in range(1, matches.frames):
        pair = index.get((t, t - 1))
        step = np.eye(3)
        if pair is not None:
            rows = slice(matches.offsets[pair], matches.offsets[pair + 1])
            step = robust_affine(_decoded(matches.fixed_i[rows], matches), _decoded(matches.fixed_j[rows], matches))
        chained.append(chained[-1] @ step)
    return np.stack(chained)


def _decoded(fixed: np.ndarray, matches: Matches) -> np.ndarray:
    return fixed.astype(np.float64) / coordinate_scale(matches.size)


def robust_affine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The affine map [3, 3] with b ~ A a for most points [N, 2], by reweighted least squares (Cauchy weights)."""
    if len(a) < LEAST_MATCHES:
        return np.eye(3)
    thin = slice(None, None, -(-len(a) // ENOUGH_MATCHES))
    a, b = a[thin], b[thin]
    centre, spread = a.mean(0), max(float(a.std()), 1e-6)  # conditions the normal equations
    lifted = np.concatenate([(a - centre) / spread, np.ones((len(a), 1))], axis=1)
    weight = np.ones(len(a))
    for _ in range(IRLS_ROUNDS):
        weighted = lifted * weight[:, None]
        solution = np.linalg.lstsq(weighted.T @ lifted, weighted.T @ b, rcond=None)[0]  # [3, 2]
        error = np.linalg.norm(lifted @ solution - b, axis=1)
        scale = max(1.5 * float(np.median(error)), 0.3)
        weight = 1 / (1 + (error / scale) ** 2) ** 2
    linear = solution[:2].T / spread
    return np.vstack([np.column_stack([linear, solution[2] - linear @ centre]), [0, 0, 1]])


def motion_residual(matches: Matches, affine: np.ndarray) -> np.ndarray:
    """Distance [M] in px between each match and the camera's motion, over the square root of its gap."""
    out = np.empty(len(matches), np.float32)
    inverse = np.linalg.inv(affine)
    for pair, (i, j) in enumerate(matches.pairs):
        rows = slice(matches.offsets[pair], matches.offsets[pair + 1])
        relative = inverse[j] @ affine[i]
        moved = _decoded(matches.fixed_i[rows], matches) @ relative[:2, :2].T + relative[:2, 2]
        error = np.linalg.norm(moved - _decoded(matches.fixed_j[rows], matches), axis=1)
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
