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
TRIPLES, CONSENSUS = 200, 1.0  # trials, and px within which a point follows one
LARGEST_STRETCH = 2.0  # a camera map between neighbouring frames that stretches more is a bad fit
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
        step = np.eye(3)  # where neither direction has enough matches the camera counts as still
        for i, j in ((t, t - 1), (t - 1, t)):
            a, b = _points(matches, index.get((i, j)))
            if len(a) >= LEAST_MATCHES:
                step = robust_affine(a, b) if i == t else np.linalg.inv(robust_affine(a, b))
                break
        chained.append(chained[-1] @ step)
    return np.stack(chained)


def _points(matches: Matches, pair: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Both ends [N, 2] of a pair's matches; none for no pair."""
    rows = slice(0, 0) if pair is None else slice(matches.offsets[pair], matches.offsets[pair + 1])
    return _decoded(matches.fixed_i[rows], matches), _decoded(matches.fixed_j[rows], matches)


def _decoded(fixed: np.ndarray, matches: Matches) -> np.ndarray:
    return fixed.astype(np.float64) / coordinate_scale(matches.size)


def robust_affine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The affine map [3, 3] with b ~ A a for most points [N, 2].

    Consensus of random triples first, so that a large object that moves by itself does not bend the map, then
    reweighted least squares (squared Cauchy weights).
    """
    if len(a) < LEAST_MATCHES:
        return np.eye(3)
    thin = slice(None, None, -(-len(a) // ENOUGH_MATCHES))
    a, b = a[thin], b[thin]
    centre, spread = a.mean(0), max(float(a.std()), 1e-6)  # conditions the normal equations
    lifted = np.concatenate([(a - centre) / spread, np.ones((len(a), 1))], axis=1)
    weight = _consensus(lifted, b)
    for _ in range(IRLS_ROUNDS):
        weighted = lifted * weight[:, None]
        solution = np.linalg.lstsq(weighted.T @ lifted, weighted.T @ b, rcond=None)[0]  # [3, 2]
        error = np.linalg.norm(lifted @ solution - b, axis=1)
        scale = max(1.5 * float(np.median(error)), 0.3)
        weight = 1 / (1 + (error / scale) ** 2) ** 2
    linear = solution[:2].T / spread
    stretch = np.linalg.svd(linear, compute_uv=False)
    if stretch[0] > LARGEST_STRETCH or stretch[1] < 1 / LARGEST_STRETCH:  # matches on a line or in one corner
        right, down = np.median(b - a, axis=0)
        return np.array([[1, 0, right], [0, 1, down], [0, 0, 1]])
    return np.vstack([np.column_stack([linear, solution[2] - linear @ centre]), [0, 0, 1]])


def _consensus(lifted: np.ndarray, b: np.ndarray) -> np.ndarray:
    """First weights [N] for the fit lifted [N, 3] -> b [N, 2]: from the triple of points that most others follow."""
    triples = np.random.default_rng(0).integers(len(b), size=(TRIPLES, 3))
    triples = triples[np.abs(np.linalg.det(lifted[triples])) > 0.1]  # far from a line
    if not len(triples):
        return np.ones(len(b))
    maps = np.linalg.solve(lifted[triples], b[triples])  # [K, 3, 2]
    some = slice(None, None, -(-len(b) // 512))
    error = np.linalg.norm(lifted[some] @ maps - b[some], axis=-1)  # [K, n]
    best = maps[np.minimum(error, CONSENSUS).sum(1).argmin()]
    return 1 / (1 + (np.linalg.norm(lifted @ best - b, axis=1) / CONSENSUS) ** 2) ** 2


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
