"""Tracks refined from both directions of time by the flows around them.

``chain-multi`` walks away from the query, so a position knows only what came before it. Here every position becomes the
robust mean of all arrivals at it, from visible frames before *and* after it in time. A frame called occluded becomes
visible when enough arrivals agree there with where the point is expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

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


class Arrivals(NamedTuple):
    """Where points [N] land in a step."""

    xy: np.ndarray  # float32 [N, 2]
    error: np.ndarray  # float32 [N], forward-backward, px
    counts: np.ndarray  # bool [N], whether they are evidence


def arrivals(
    i: int,
    targets: Iterable[int],
    found: tuple[np.ndarray, np.ndarray],
    evidence: Evidence,
    options: ReadoutOptions,
    appearance: Appearance,
) -> Iterator[tuple[int, Arrivals]]:
    """For each target frame j: where the points (xy [N, 2], visible [N]) of frame i land in it."""
    before, visible = found
    looks, rows = appearance.at(i, before), np.arange(len(before))
    for j in targets:
        there, error = evidence.step(i, j, before)
        counts = visible & inside_index(there, *evidence.size) & (error <= options.recover_error)
        counts &= appearance.compare(rows, looks, (j, there), evidence.options).same_surface
        yield j, Arrivals(there, error, counts)


def _round(
    tracks: np.ndarray,
    visible: np.ndarray,
    expected: np.ndarray,
    evidence: Evidence,
    options: ReadoutOptions,
    appearance: Appearance,
) -> tuple[np.ndarray, np.ndarray]:
    """One round over all frames; reads the tracks of the round before only."""
    frames, scale = len(tracks), options.agreement
    centre = np.where(visible[..., None], tracks, expected)
    total = OWN_WEIGHT * visible.astype(np.float64)  # [T, N]; a point agrees with itself
    moment = total[..., None] * tracks  # [T, N, 2]
    support = np.zeros(visible.shape, int)
    for i in range(frames):
        found = tracks[i], visible[i]
        for j, arrived in arrivals(i, evidence.neighbours(i, frames), found, evidence, options, appearance):
            distance = np.linalg.norm(arrived.xy - centre[j], axis=-1)
            weight = arrived.counts / (0.1 + arrived.error**2) / (1 + (distance / scale) ** 2) ** 2
            total[j] += weight
            moment[j] += weight[:, None] * arrived.xy
            support[j] += arrived.counts & (distance < scale)
    recovered = ~visible & (support >= options.recover_support)
    moved = (total > 1e-6) & (visible | recovered)
    mean = moment / np.maximum(total, 1e-9)[..., None]
    return np.where(moved[..., None], mean, tracks), visible | recovered
