"""Companions: points all over the video, tracked too, that say where a hidden point has gone with its surroundings.

A point that the flows have lost keeps moving with what is around it. Companions near it, in the last frame that shows
it, which moved as it did there, and which are seen in a frame that hides it, vote for its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from everypoint.artifacts.flows import FlowStore
from everypoint.config.options import CompanionOptions
from everypoint.track.base import TrackArrays

CELL = 8  # px between places where a companion may start
MOVING = 1.0  # px a frame against the camera, from which a place counts as moving
CANDIDATES = 32  # nearest companions that are looked at, of which the nearest that are seen vote
SPAN = 4  # frames around one in which companions and a point are compared
SAME_MOTION = 2.0  # px of disagreement at which a companion's weight is halved
AGREEMENT = 3.0  # px of the robust mean
ROUNDS = 4  # of it
LEAST_VOTES = 3


class Proposal(NamedTuple):
    """Where points are expected while they are hidden."""

    xy: np.ndarray  # float32 [T, N, 2]; meaningless where not known
    known: np.ndarray  # bool [T, N]


def starts(store: FlowStore, frames: int, options: CompanionOptions) -> np.ndarray:
    """Queries float32 [M, 3] (t, x, y index) of companions: half evenly spread, half where things move on their own."""
    height, width = store.size
    grid = np.stack(np.meshgrid(np.arange(CELL / 2, width, CELL), np.arange(CELL / 2, height, CELL)), -1).reshape(-1, 2)
    found = [np.zeros((0, 3))]
    for t in range(0, frames, options.every):
        other = next((s for s in (t + 1, t - 1) if store.has(t, s)), None)
        if other is None:
            continue
        moving = np.flatnonzero(_against_camera(grid, store.sample(t, other, grid)) > MOVING)
        half = options.points // 2
        rows = np.union1d(_spread(np.arange(len(grid)), half), _spread(moving, options.points - half))
        found.append(np.column_stack([np.full(len(rows), t), grid[rows]]))
    return np.concatenate(found).astype(np.float32)


def propose(tracks: TrackArrays, companions: TrackArrays, radius: float, options: CompanionOptions) -> Proposal:
    """Where the companions say that the tracks' hidden points are.

    The nearest frames before and after that show a point are asked; where both answer, the nearer one counts more.

    Args:
        tracks: [T, N, 2] with their visibility.
        companions: [T, M, 2] of the same video.
        radius: px around a point in which companions count.
    """
    frames, count = tracks.visible.shape
    total = np.zeros((frames, count, 2))
    weight = np.zeros((frames, count))
    for reference in _references(tracks.visible):
        for t, rows, xy in _votes(tracks, companions, reference, radius, options):
            near = 1 / np.abs(reference[0] - t)
            total[t, rows] += near * xy
            weight[t, rows] += near
    known = weight > 0
    return Proposal((total / np.where(known, weight, 1)[..., None]).astype(np.float32), known)


def _references(visible: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(frame r, bool [T, N]): in which hidden frames of which points r is the nearest that shows it, on either side."""
    times = np.arange(len(visible))[:, None]
    before = np.maximum.accumulate(np.where(visible, times, -1), axis=0)  # [T, N]; -1: none
    after = np.minimum.accumulate(np.where(visible, times, len(visible))[::-1], axis=0)[::-1]
    for r in range(len(visible)):
        hidden = ~visible & ((before == r) | (after == r))
        if hidden.any():
            yield r, hidden


def _votes(
    tracks: TrackArrays,
    companions: TrackArrays,
    reference: tuple[int, np.ndarray],
    radius: float,
    options: CompanionOptions,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(frame t, points n, places [n, 2]) that the companions of frame r agree on."""
    r, hidden = reference
    rows, seen = np.flatnonzero(hidden.any(0)), np.flatnonzero(companions.visible[r])
    if len(seen) < LEAST_VOTES:
        return
    here = tracks.tracks[r, rows]
    nearest = min(CANDIDATES, len(seen))
    distance, index = cKDTree(companions.tracks[r, seen]).query(here, k=nearest, distance_upper_bound=radius)
    members = seen[np.minimum(index, len(seen) - 1)]  # [n, K]
    weight = (distance <= radius) / (1 + _disagreement(tracks, companions, r, rows, members) / SAME_MOTION) ** 2
    weight = weight / (1 + np.where(np.isfinite(distance), distance, 0) / (radius / 4))
    for t in np.flatnonzero(hidden[:, rows].any(1)):
        asked = hidden[t, rows]
        voters = members[asked]
        votes = weight[asked] * companions.visible[t, voters]
        votes *= np.cumsum(votes > 0, axis=1) <= options.neighbours
        moved = companions.tracks[t, voters] - companions.tracks[r, voters]  # [n, K, 2]
        centre, agreeing = _robust_mean(moved, votes)
        good = ((votes > 0).sum(1) >= LEAST_VOTES) & (agreeing > 0.5)
        yield t, rows[asked][good], here[asked][good] + centre[good]


def _disagreement(
    tracks: TrackArrays, companions: TrackArrays, r: int, rows: np.ndarray, members: np.ndarray
) -> np.ndarray:
    """Mean px [n, K] by which companions and points move apart over the frames around r that show both."""
    total, common = np.zeros(members.shape), np.zeros(members.shape)
    for s in range(max(0, r - SPAN), min(len(tracks.visible), r + SPAN + 1)):
        both = tracks.visible[s, rows, None] & companions.visible[s, members] & (s != r)
        own = tracks.tracks[s, rows] - tracks.tracks[r, rows]
        theirs = companions.tracks[s, members] - companions.tracks[r, members]
        total += both * np.linalg.norm(theirs - own[:, None], axis=-1)
        common += both
    return np.where(common > 0, total / np.maximum(common, 1), SAME_MOTION)


def _robust_mean(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Robust weighted mean [n, 2] of values [n, K, 2], and the share of the weight [n] that agrees with it."""
    total = np.maximum(weights.sum(1), 1e-9)
    counted = np.where(weights[..., None] > 0, values, np.nan)
    centre = np.zeros((len(values), 2))
    some = weights.any(1)
    centre[some] = np.nanmedian(counted[some], axis=1)
    for _ in range(ROUNDS):
        away = np.linalg.norm(values - centre[:, None], axis=-1)
        robust = weights / (1 + (away / AGREEMENT) ** 2)
        centre = (robust[..., None] * values).sum(1) / np.maximum(robust.sum(1), 1e-9)[:, None]
    away = np.linalg.norm(values - centre[:, None], axis=-1)
    return centre, (weights * (away < AGREEMENT)).sum(1) / total


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of ``rows``, evenly."""
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]


def _against_camera(xy: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Px [N] by which flows [N, 2] differ from the affine motion that most of them share; 0 where there is none."""
    known = np.isfinite(flow).all(-1)
    places = np.column_stack([xy, np.ones(len(xy))])
    weight, residual = known.astype(float), np.zeros(len(xy))
    target = np.where(known[:, None], flow, 0)
    for _ in range(10):
        root = np.sqrt(weight)[:, None]
        fit = np.linalg.lstsq(root * places, root * target, rcond=None)[0]
        residual = np.linalg.norm(places @ fit - target, axis=-1)
        weight = known / (1 + (residual / MOVING) ** 2)
    return np.where(known, residual, 0)
