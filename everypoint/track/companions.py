"""Companions: points all over the video, tracked too, that say where a hidden point has gone with its surroundings.

A point that the flows have lost keeps moving with what is around it. Companions near it, in the last frame that shows
it, which moved as it did there, and which are seen in a frame that hides it, vote for its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


class Block(NamedTuple):
    """Companions that start near each other in time, in the frames through which they were followed."""

    first: int  # frame
    tracks: TrackArrays  # [F, M] from that frame on


class Seen(NamedTuple):
    """Companions that one frame shows, side by side, in all frames through which some of them were followed."""

    first: int  # of these frames
    tracks: np.ndarray  # float32 [F, M, 2]
    visible: np.ndarray  # bool [F, M]


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


def blocks(frames: int, options: CompanionOptions) -> list[tuple[range, range]]:
    """Frames in which the companions of a block start, and frames through which these are followed.

    So each is followed through ``options.span`` frames on both sides at least, and what all of them cost grows with the
    length of the video, not with its square. Up to twice the span all are followed through the whole video.
    """
    span = options.span
    parts = [range(first, min(first + span, frames)) for first in range(0, frames, span)]
    return [(part, range(max(0, part.start - span), min(frames, part.start + 2 * span))) for part in parts]


def propose(tracks: TrackArrays, companions: Sequence[Block], radius: float, options: CompanionOptions) -> Proposal:
    """Where the companions say that the tracks' hidden points are.

    The nearest frames before and after that show a point are asked; where both answer, the nearer one counts more.

    Args:
        tracks: [T, N, 2] with their visibility.
        companions: of the same video, in blocks.
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
    companions: Sequence[Block],
    reference: tuple[int, np.ndarray],
    radius: float,
    options: CompanionOptions,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(frame t, points n, places [n, 2]) that the companions of frame r agree on."""
    r, hidden = reference
    seen = _seen_in(companions, r)
    first, count = seen.first, seen.visible.shape[1]
    if count < LEAST_VOTES:
        return
    rows = np.flatnonzero(hidden.any(0))
    here, at = tracks.tracks[r, rows], seen.tracks[r - first]
    distance, index = cKDTree(at).query(here, k=min(CANDIDATES, count), distance_upper_bound=radius)
    members = np.minimum(index, count - 1)  # [n, K]
    weight = (distance <= radius) / (1 + _disagreement(tracks, seen, r, rows, members) / SAME_MOTION) ** 2
    weight = weight / (1 + np.where(np.isfinite(distance), distance, 0) / (radius / 4))
    followed = range(first, first + len(seen.visible))
    for t in (t for t in np.flatnonzero(hidden[:, rows].any(1)) if t in followed):
        asked = hidden[t, rows]
        voters = members[asked]
        votes = weight[asked] * seen.visible[t - first, voters]
        votes *= np.cumsum(votes > 0, axis=1) <= options.neighbours
        moved = seen.tracks[t - first, voters] - at[voters]  # [n, K, 2]
        centre, agreeing = _robust_mean(moved, votes)
        good = ((votes > 0).sum(1) >= LEAST_VOTES) & (agreeing > 0.5)
        yield t, rows[asked][good], here[asked][good] + centre[good]


def _seen_in(companions: Sequence[Block], r: int) -> Seen:
    """The companions that frame r shows."""
    there = [block for block in companions if 0 <= r - block.first < len(block.tracks.visible)]
    first = min((block.first for block in there), default=r)
    last = max((block.first + len(block.tracks.visible) for block in there), default=r + 1)
    tracks, visible = [np.zeros((last - first, 0, 2), np.float32)], [np.zeros((last - first, 0), bool)]
    for block in there:
        rows = np.flatnonzero(block.tracks.visible[r - block.first])
        around = block.first - first, last - block.first - len(block.tracks.visible)
        tracks.append(np.pad(block.tracks.tracks[:, rows], (around, (0, 0), (0, 0))))
        visible.append(np.pad(block.tracks.visible[:, rows], (around, (0, 0))))
    return Seen(first, np.concatenate(tracks, axis=1), np.concatenate(visible, axis=1))


def _disagreement(tracks: TrackArrays, seen: Seen, r: int, rows: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Mean px [n, K] by which companions and points move apart over the frames around r that show both."""
    first = seen.first
    total, common = np.zeros(members.shape), np.zeros(members.shape)
    for s in range(max(first, r - SPAN), min(first + len(seen.visible), r + SPAN + 1)):
        both = tracks.visible[s, rows, None] & seen.visible[s - first, members] & (s != r)
        own = tracks.tracks[s, rows] - tracks.tracks[r, rows]
        theirs = seen.tracks[s - first, members] - seen.tracks[r - first, members]
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
