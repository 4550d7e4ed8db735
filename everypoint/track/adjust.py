"""All frames of a track at once: the positions that agree best with every flow between them.

The walk reaches each frame by one route, and what that route gets wrong stays in it. Here every flow between two frames
that show a point is a measurement of where it goes, and its track is the robust least-squares solution of all of them,
tied to the query. Errors that differ from route to route average out, and where a route is wrong the others outvote it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from everypoint.config.options import ReadoutOptions
from everypoint.track.appearance import Appearance
from everypoint.track.base import TrackArrays
from everypoint.track.evidence import Evidence
from everypoint.track.refine import arrivals

REWEIGHTINGS = 4  # of the robust loss
STAY = 1e-3  # weight of a position's own place; a flow that agrees weighs 1
MOST_ITERATIONS = 200  # of the linear solver
ENOUGH = 1e-4  # of the first residual, where the solver stops
NUMBERS_AT_ONCE = 2**22  # pairs of frames times points that are solved together: 64 MB an array


class Measurements(NamedTuple):
    """Flows between frames at the points of N tracks, E ordered pairs."""

    i: np.ndarray  # int [E], from
    j: np.ndarray  # int [E], to
    motion: np.ndarray  # float32 [E, N, 2], px; 0 where it does not count
    counts: np.ndarray  # bool [E, N]


def adjust(found: TrackArrays, evidence: Evidence, queries: np.ndarray, options: ReadoutOptions) -> TrackArrays:
    """Move the visible positions of tracks to where the flows between all of them agree; visibility stays.

    Args:
        found: tracks of queries [N, 3] (t, x, y index).
        evidence: the flows, and what judges them.
        options: ``adjust_rounds``, in each of which flows are read anew; ``agreement`` scales the robust loss.
    """
    frames = len(found.tracks)
    pairs = {i: evidence.neighbours(i, frames) for i in range(frames)}
    at_once = max(1, NUMBERS_AT_ONCE // max(1, sum(map(len, pairs.values()))))
    tracks = found.tracks.copy()
    for part in (slice(n, n + at_once) for n in range(0, len(queries), at_once)):
        appearance, own = evidence.appearance(queries[part]), queries[part, 0].astype(int)
        for _ in range(options.adjust_rounds):
            here = TrackArrays(tracks[:, part], found.visible[:, part], found.confidence[:, part])
            measured = measure(here, pairs, evidence, options, appearance)
            solved = solve(here.tracks, own, measured, options.agreement)
            tracks[:, part] = np.where(here.visible[..., None], solved, here.tracks)
    return found._replace(tracks=tracks.astype(np.float32))


def measure(
    found: TrackArrays,
    pairs: Mapping[int, Sequence[int]],
    evidence: Evidence,
    options: ReadoutOptions,
    appearance: Appearance,
) -> Measurements:
    """Flows from each frame to those of ``pairs`` where both show a point, as far as they pass the checks."""
    i, j = np.array([(i, j) for i, targets in pairs.items() for j in targets], int).reshape(-1, 2).T
    motion = np.zeros((len(i), found.tracks.shape[1], 2), np.float32)
    counts = np.zeros(motion.shape[:2], bool)
    row = 0
    for source, targets in pairs.items():
        before = found.tracks[source], found.visible[source]
        for target, arrived in arrivals(source, targets, before, evidence, options, appearance):
            counts[row] = arrived.counts & found.visible[target]
            motion[row] = np.where(counts[row][:, None], arrived.xy - before[0], 0)
            row += 1
    return Measurements(i, j, motion, counts)


def solve(tracks: np.ndarray, own: np.ndarray, measured: Measurements, scale: float) -> np.ndarray:
    """Positions [T, N, 2] x of least sum of rho(|x_j - x_i - motion_ij|), where x stays in each track's frame ``own``.

    rho is Geman and McClure's, r^2 / (1 + (r / scale)^2), by iteratively reweighted least squares from ``tracks``, each
    by conjugate gradients. The systems are as sparse as the pairs and never formed.

    Args:
        tracks: [T, N, 2], the start.
        own: int [N], the frame of each query.
        measured: flows between their frames.
        scale: px at which a measurement's weight is a quarter.
    """
    i, j, motion, counts = measured
    rows, columns = np.arange(len(i)).repeat(2), np.stack([i, j], -1).ravel()
    difference = csr_array((np.tile([-1.0, 1.0], len(i)), (rows, columns)), shape=(len(i), len(tracks)))
    x = tracks.astype(np.float64)
    free = np.ones((*tracks.shape[:2], 1))
    free[own, np.arange(len(own))] = 0
    for _ in range(REWEIGHTINGS):
        residual = motion - _apply(difference, x)
        weight = counts[..., None] / (1 + (residual**2).sum(-1, keepdims=True) / scale**2) ** 2  # [E, N, 1]
        x = x + free * _conjugate_gradients(difference, weight, free, _apply(difference.T, weight * residual))
    return x


def _conjugate_gradients(difference: csr_array, weight: np.ndarray, free: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Steps [T, N, 2] of all tracks at once: (D' W D + STAY) step = target on the free frames."""
    diagonal = _apply(abs(difference).T, weight) + STAY  # [T, N, 1]
    step, residual = np.zeros_like(target), free * target
    scaled = residual / diagonal
    direction, energy = scaled, (residual * scaled).sum(0)  # energy [N, 2]
    enough = ENOUGH**2 * energy
    for _ in range(MOST_ITERATIONS):
        if (energy <= enough).all():
            break
        image = free * (_apply(difference.T, weight * _apply(difference, direction)) + STAY * direction)
        along = energy / np.maximum((direction * image).sum(0), 1e-30)
        step = step + along * direction
        residual = residual - along * image
        scaled = residual / diagonal
        before, energy = energy, (residual * scaled).sum(0)
        direction = scaled + energy / np.maximum(before, 1e-30) * direction
    return step


def _apply(matrix: csr_array, values: np.ndarray) -> np.ndarray:
    """A sparse matrix [A, B] times values [B, ...]."""
    return (matrix @ values.reshape(len(values), int(np.prod(values.shape[1:])))).reshape(
        matrix.shape[0], *values.shape[1:]
    )
