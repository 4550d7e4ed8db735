"""A start close to the answer: the camera's motion as one homography a frame, depth from what moves otherwise.

The couplings then only have to learn what the camera does not explain, and surfaces that move differently start at
different depths, so that the bijection can carry them to different places. Both are optimised further.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from everypoint.artifacts.matches import Matches, coordinate_scale

IRLS_ROUNDS = 10
ENOUGH_MATCHES = 4096  # more than this between two frames change nothing
LEAST_MATCHES = 12  # fewer than this between two frames say nothing about the camera
ADJUSTMENT_STEPS = 300
ADJUSTMENT_BATCH = 16384
ADJUSTMENT_RATE = 2e-3
WIDE, NARROW = 8.0, 1.5  # px, first and last scale of the robust loss of the adjustment
LARGEST_CANVAS = 8.0  # a common plane wider than this many frames means that the homographies broke down


class WarmStart(NamedTuple):
    """Camera motion and what differs from it."""

    camera: np.ndarray  # float64 [T, 3, 3], homographies from index coordinates of frame t to a common plane
    residual: np.ndarray  # float32 [M], distance of each match to the camera's motion, px per frame of gap^0.5


def warm_start(matches: Matches, seed: int) -> WarmStart:
    """Chain robust affine fits of neighbouring frames, adjust homographies over all pairs, measure every match."""
    chained = camera_chain(matches)
    camera = adjust(matches, chained, seed)
    if not _sane(camera, matches.size):
        camera = chained if _sane(chained, matches.size) else np.repeat(np.eye(3)[None], matches.frames, axis=0)
    return WarmStart(camera, motion_residual(matches, camera))


def _sane(camera: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether all frames map to one plane of reasonable extent, with no point near the horizon."""
    height, width = size
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], float)
    mapped = np.einsum("tab,cb->tca", camera, corners)
    if not np.isfinite(mapped).all() or (mapped[..., 2] < 0.1).any():
        return False
    plane = mapped[..., :2] / mapped[..., 2:]
    extent = plane.reshape(-1, 2).max(0) - plane.reshape(-1, 2).min(0)
    areas = np.abs(np.linalg.det(camera)) / mapped[..., 2].mean(1) ** 3
    return bool(extent.max() < LARGEST_CANVAS * max(size) and areas.min() > 0.05)


def camera_chain(matches: Matches) -> np.ndarray:
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


def adjust(matches: Matches, start: np.ndarray, seed: int) -> np.ndarray:
    """Homographies [T, 3, 3] that agree with most matches of all gaps, starting from ``start``.

    Adam on a redescending loss (log(1 + e^2 / s^2), s falling from 8 to 1.5 px) over matches drawn evenly from the
    pairs, so that long gaps take away the drift of the chain. Frame 0 is kept.
    """
    height, width = matches.size
    half = max(height, width) / 2
    unit = np.array([[1 / half, 0, -width / 2 / half], [0, 1 / half, -height / 2 / half], [0, 0, 1]])
    scaled = unit @ start @ np.linalg.inv(unit)
    camera = torch.from_numpy(scaled / scaled[:, 2:, 2:]).float().requires_grad_(True)
    free = torch.ones_like(camera)
    free[0], free[:, 2, 2] = 0, 0
    optimizer = torch.optim.Adam([camera], lr=ADJUSTMENT_RATE, betas=(0.9, 0.99))
    random = np.random.default_rng([seed, 1])
    to_unit = torch.tensor([-width / 2, -height / 2])
    for step in range(ADJUSTMENT_STEPS):
        i, j, a, b = _draw(matches, random)
        scale = WIDE * (NARROW / WIDE) ** (step / ADJUSTMENT_STEPS)
        relative = torch.linalg.inv(camera)[j] @ camera[i]
        mapped = (relative[:, :, :2] * ((a + to_unit) / half)[:, None]).sum(-1) + relative[:, :, 2]
        mapped = mapped[:, :2] / mapped[:, 2:].clamp(min=0.1)
        squared = ((mapped * half - to_unit - b) ** 2).sum(-1)
        optimizer.zero_grad()
        (torch.log1p(squared / scale**2).mean() * scale).backward()
        camera.grad *= free
        for group in optimizer.param_groups:
            group["lr"] = ADJUSTMENT_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / ADJUSTMENT_STEPS)))
        optimizer.step()
    return np.linalg.inv(unit) @ camera.detach().double().numpy() @ unit


def _draw(matches: Matches, random: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Frames i, j [B] and index points [B, 2] of matches drawn evenly from the pairs that have any."""
    count = np.diff(matches.offsets)
    filled = np.flatnonzero(count)
    pair = filled[random.integers(0, len(filled), ADJUSTMENT_BATCH)]
    row = matches.offsets[pair] + (random.random(ADJUSTMENT_BATCH) * count[pair]).astype(np.int64)
    i, j = torch.from_numpy(matches.pairs[pair].T.astype(np.int64))
    steps = coordinate_scale(matches.size)
    a, b = (torch.from_numpy(fixed[row].astype(np.float32) / steps) for fixed in (matches.fixed_i, matches.fixed_j))
    return i, j, a, b


def motion_residual(matches: Matches, camera: np.ndarray) -> np.ndarray:
    """Distance [M] in px between each match and the camera's motion, over the square root of its gap."""
    out = np.empty(len(matches), np.float32)
    inverse = np.linalg.inv(camera)
    for pair, (i, j) in enumerate(matches.pairs):
        rows = slice(matches.offsets[pair], matches.offsets[pair + 1])
        relative = inverse[j] @ camera[i]
        moved = _decoded(matches.fixed_i[rows], matches) @ relative[:, :2].T + relative[:, 2]
        moved = moved[:, :2] / moved[:, 2:]
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
