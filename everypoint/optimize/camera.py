"""The camera's motion from matches: robust affine maps chained over time, then homographies adjusted over all pairs."""

from __future__ import annotations

import math

import numpy as np
import torch

from everypoint.artifacts.matches import Matches, coordinate_scale
from everypoint.optimize.adam import Adam

IRLS_ROUNDS = 10
ENOUGH_MATCHES = 4096  # more than this between two frames change nothing
TRIPLES, CONSENSUS = 200, 1.0  # trials, and px within which a point follows one
LARGEST_STRETCH = 2.0  # a camera map between neighbouring frames that stretches more is a bad fit
LEAST_MATCHES = 12  # fewer than this between two frames say nothing about the camera
ADJUSTMENT_STEPS = 300
ADJUSTMENT_BATCH = 16384  # at most
ADJUSTMENT_RATE = 2e-3
WIDE, NARROW = 0.01, 0.002  # first and last scale of the adjustment's robust loss, in longer sides of the frame
LEAST_SCALE = 0.5  # px
LARGEST_CANVAS = 8.0  # a common plane wider than this many frames means that the homographies broke down


def camera_motion(matches: Matches, seed: int) -> np.ndarray:
    """Homographies float64 [T, 3, 3] from index coordinates of every frame into one common plane.

    What most matches of all gaps agree on; where that breaks down (a horizon inside a frame, a plane that grows without
    bounds) the chain of affine maps, and no motion at all as the last resort.
    """
    if len(matches) < LEAST_MATCHES:
        return np.repeat(np.eye(3)[None], matches.frames, axis=0)
    chained = camera_affines(matches)
    for camera in (adjust(matches, chained, seed), chained):
        if is_sane(camera, matches.size):
            return camera
    return np.repeat(np.eye(3)[None], matches.frames, axis=0)


def is_sane(camera: np.ndarray, size: tuple[int, int]) -> bool:
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
    return decoded(matches.fixed_i[rows], matches), decoded(matches.fixed_j[rows], matches)


def decoded(fixed: np.ndarray, matches: Matches) -> np.ndarray:
    """Index coordinates [N, 2] float64 from the fixed point of the table."""
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


def adjust(matches: Matches, start: np.ndarray, seed: int) -> np.ndarray:
    """Homographies [T, 3, 3] that agree with most matches of all gaps, starting from ``start``.

    Adam on a redescending loss (log(1 + e^2 / s^2), s falling) over matches drawn evenly from the
    pairs, so that long gaps take away the drift of the chain. Frame 0 is kept.
    """
    height, width = matches.size
    half = max(height, width) / 2
    unit = np.array([[1 / half, 0, -width / 2 / half], [0, 1 / half, -height / 2 / half], [0, 0, 1]])
    scaled = unit @ start @ np.linalg.inv(unit)
    camera = torch.from_numpy(scaled / scaled[:, 2:, 2:]).float().requires_grad_(True)
    free = torch.ones_like(camera)
    free[0], free[:, 2, 2] = 0, 0
    optimizer = Adam([(ADJUSTMENT_RATE, [camera])], betas=(0.9, 0.99))
    random = np.random.default_rng([seed, 1])
    to_unit = torch.tensor([-width / 2, -height / 2])
    for step in range(ADJUSTMENT_STEPS):
        i, j, a, b = _draw(matches, random)
        scale = max(WIDE * (NARROW / WIDE) ** (step / ADJUSTMENT_STEPS) * max(height, width), LEAST_SCALE)
        # index_select, not camera[i]: the gradient of [i] is summed in no fixed order by several threads, and slowly
        relative = torch.linalg.inv(camera).index_select(0, j) @ camera.index_select(0, i)
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
    size = min(ADJUSTMENT_BATCH, len(matches))
    pair = filled[random.integers(0, len(filled), size)]
    row = matches.offsets[pair] + (random.random(size) * count[pair]).astype(np.int64)
    i, j = torch.from_numpy(matches.pairs[pair].T.astype(np.int64))
    steps = coordinate_scale(matches.size)
    a, b = (torch.from_numpy(fixed[row].astype(np.float32) / steps) for fixed in (matches.fixed_i, matches.fixed_j))
    return i, j, a, b
