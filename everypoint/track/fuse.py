"""The model proposes, the flow evidence refines: ``chain-multi`` made consistent over both directions of time.

Three passes over the tracks of the flow evidence:

1. refine: every position becomes the robust mean of all arrivals at it, from visible frames before *and* after it;
2. recover: a frame called occluded is visible after all when arrivals from both the flows and the model agree there;
3. fill: where the point is hidden, the model's motion carries it, shifted so that it meets the visible track at both
   ends of the gap, if the model agrees with the visible track around it. Flows are blind there.
"""

from __future__ import annotations

import numpy as np

from everypoint.artifacts.flows import FlowStore
from everypoint.config.options import ChainOptions, ReadoutOptions
from everypoint.geometry import inside_index
from everypoint.track.base import TrackArrays
from everypoint.track.chain import step

TRUSTED_SPAN = 4  # frames over which the model has to agree with a visible track to carry it further
OWN_WEIGHT = 2.0  # weight of a position in its own refinement; an arrival with no error weighs 10


def fuse(
    evidence: TrackArrays,
    proposal: TrackArrays,
    store: FlowStore,
    queries: np.ndarray,
    chain: ChainOptions,
    options: ReadoutOptions,
) -> TrackArrays:
    """Join flow evidence and a model's proposal for the same queries [N, 3] (t, x, y index)."""
    anchored = anchor(evidence, proposal, options.agreement)
    tracks, visible = evidence.tracks.copy(), evidence.visible.copy()
    for _ in range(options.refine_rounds):
        tracks, visible = _refine(tracks, visible, anchored, store, chain, options)
        own = queries[:, 0].astype(int), np.arange(len(queries))
        tracks[own], visible[own] = queries[:, 1:], True
    filled = anchor(TrackArrays(tracks, visible, evidence.confidence), proposal, options.agreement)
    tracks = np.where(visible[..., None], tracks, filled)
    confidence = np.where(visible, np.maximum(evidence.confidence, 0.5), 0.3 * proposal.confidence)
    return TrackArrays(tracks.astype(np.float32), visible, confidence.astype(np.float32))


def anchor(evidence: TrackArrays, proposal: TrackArrays, agreement: float) -> np.ndarray:
    """The proposal [T, N, 2] shifted to meet the visible evidence; the shift is interpolated over hidden frames.

    A model that does not know a point's motion is of no help: where the shift changes by more than ``agreement`` px
    between the two visible frames around t (or, beyond the first or last visible frame, over the ``TRUSTED_SPAN``
    frames before it), the evidence's own position is kept.
    """
    frames, count = evidence.visible.shape
    shift = evidence.tracks - proposal.tracks
    out = evidence.tracks.copy()
    times = np.arange(frames)
    for n in range(count):
        known = np.flatnonzero(evidence.visible[:, n])
        after = np.searchsorted(known, times)
        left = known[np.maximum(after - 1, 0)]
        right = known[np.minimum(after, len(known) - 1)]
        single = left == right  # before the first or after the last visible frame
        other = np.where(times <= known[0], known[0] + TRUSTED_SPAN, known[-1] - TRUSTED_SPAN)
        other = known[np.abs(known[None] - other[:, None]).argmin(1)]
        change = np.linalg.norm(shift[right, n] - shift[np.where(single, other, left), n], axis=-1)
        moved = [np.interp(times, known, shift[known, n, axis]) for axis in range(2)]
        helpful = change <= agreement
        out[helpful, n] = (proposal.tracks[:, n] + np.stack(moved, -1))[helpful]
    return out


def _refine(
    tracks: np.ndarray,
    visible: np.ndarray,
    anchored: np.ndarray,
    store: FlowStore,
    chain: ChainOptions,
    options: ReadoutOptions,
) -> tuple[np.ndarray, np.ndarray]:
    """One round of passes 1 and 2 over all frames; reads the tracks of the round before only."""
    frames = len(tracks)
    new_tracks, new_visible = tracks.copy(), visible.copy()
    for t in range(frames):
        positions, weights, errors = [tracks[t]], [OWN_WEIGHT * visible[t]], [np.zeros(len(tracks[t]), np.float32)]
        for source in _neighbours(store, t, frames, chain.intervals):
            xy, error = step(store, source, t, tracks[source])
            usable = visible[source] & inside_index(xy, *store.size) & (error <= options.recover_error)
            positions.append(xy)
            weights.append(usable / (0.1 + error**2))
            errors.append(error)
        xy, weight, error = np.stack(positions), np.stack(weights), np.stack(errors)  # [S, N, (2)]
        centre = np.where(visible[t][:, None], tracks[t], anchored[t])
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


def _neighbours(store: FlowStore, t: int, frames: int, intervals: tuple[int, ...]) -> list[int]:
    """Frames before and after t with flows to and from it at the given gaps."""
    candidates = [t + sign * gap for gap in intervals for sign in (-1, 1)]
    return [s for s in candidates if 0 <= s < frames and store.has(s, t) and store.has(t, s)]
