"""Tracks refined from both directions of time by the flows around them.

``chain-multi`` walks away from the query, so a position knows only what came before it. Here every position becomes the
robust mean of all arrivals at it, from visible frames before *and* after it in time. A frame called occluded becomes
visible when enough arrivals agree there with where the point is expected.
"""

from __future__ import annotations

import numpy as np

from everypoint.config.options import ReadoutOptions
from everypoint.geometry import inside_index
from everypoint.track.appearance import Appearance
from everypoint.track.base import TrackArrays
from everypoint.track.evidence import Evidence

OWN_WEIGHT = 2.0  # weight of a position in its own refinement; an arrival with no error weighs 10


def refine(
    walked: TrackArrays,
    expected: np.ndarray,
    evidence: Evidence,
    queries: np.ndarray,
    options: ReadoutOptions,
    appearance: Appearance,
    rounds: int | None = None,
) -> TrackArrays:
    """Refine tracks of queries [N, 3] (t, x, y index); ``rounds`` times, else as often as the options say.

    Args:
        walked: the tracks of the walk.
        expected: [T, N, 2], where hidden points are expected (a proposal, or the walk's own positions).
        evidence: what carries points from frame to frame.
        appearance: of the queries.
    """
    tracks, visible = walked.tracks.copy(), walked.visible.copy()
    own = queries[:, 0].astype(int), np.arange(len(queries))
    for _ in range(options.refine_rounds if rounds is None else rounds):
        tracks, visible = _round(tracks, visible, expected, evidence, options, appearance)
        tracks[own], visible[own] = queries[:, 1:], True
    confidence = np.where(visible & ~walked.visible, 0.5, walked.confidence)
    return TrackArrays(tracks.astype(np.float32), visible, confidence.astype(np.float32))


def arrivals(
    before: np.ndarray,
    visible: np.ndarray,
    pair: tuple[int, int],
    evidence: Evidence,
    options: ReadoutOptions,
    appearance: Appearance,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where points [N, 2], visible or not [N], land in a step i -> j; their errors [N]; which of them count [N]."""
    i, j = pair
    there, error = evidence.step(i, j, before)
    usable = visible & inside_index(there, *evidence.size) & (error <= options.recover_error)
    usable &= appearance.alike(np.arange(len(before)), (i, before), (j, there), evidence.options)
    return there, error, usable


def _round(
    tracks: np.ndarray,
    visible: np.ndarray,
    expected: np.ndarray,
    evidence: Evidence,
    options: ReadoutOptions,
    appearance: Appearance,
) -> tuple[np.ndarray, np.ndarray]:
    """One round over all frames; reads the tracks of the round before only."""
    frames = len(tracks)
    new_tracks, new_visible = tracks.copy(), visible.copy()
    for t in range(frames):
        positions, weights = [tracks[t]], [OWN_WEIGHT * visible[t]]
        for source in evidence.neighbours(t, frames):
            xy, error, usable = arrivals(tracks[source], visible[source], (source, t), evidence, options, appearance)
            positions.append(xy)
            weights.append(usable / (0.1 + error**2))
        xy, weight = np.stack(positions), np.stack(weights)  # [S, N, 2], [S, N]
        centre = np.where(visible[t][:, None], tracks[t], expected[t])
        distance = np.linalg.norm(xy - centre, axis=-1)
        agreeing = weight / (1 + (distance / options.agreement) ** 2) ** 2
        total = agreeing.sum(0)
        mean = (xy * agreeing[..., None]).sum(0) / np.maximum(total, 1e-9)[:, None]
        support = ((weight > 0) & (distance < options.agreement))[1:].sum(0)
        recovered = ~visible[t] & (support >= options.recover_support)
        moved = (total > 1e-6) & (visible[t] | recovered)
        new_tracks[t, moved] = mean[moved]
        new_visible[t] |= recovered
    return new_tracks, new_visible
