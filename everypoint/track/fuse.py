"""The model proposes, the flow evidence refines: a motion model's read-out joined with the tracks of ``chain-multi``.

1. refine: the evidence is refined from both directions of time; where it called a point occluded, arrivals that agree
   with the model's proposal make it visible;
2. fill: where the point stays hidden the model's motion carries it, shifted so that it meets the visible track at both
   ends of the gap, if the model agrees with the visible track around it. Flows are blind there.
"""

from __future__ import annotations

import numpy as np

from everypoint.artifacts.flows import FlowStore
from everypoint.config.options import ChainOptions, ReadoutOptions
from everypoint.track.appearance import Appearance
from everypoint.track.base import TrackArrays
from everypoint.track.refine import refine

TRUSTED_SPAN = 4  # frames over which the model has to agree with a visible track to carry it further


def fuse(
    evidence: TrackArrays,
    proposal: TrackArrays,
    store: FlowStore,
    queries: np.ndarray,
    chain: ChainOptions,
    options: ReadoutOptions,
    features: np.ndarray | None = None,
) -> TrackArrays:
    """Join the walk's evidence and a model's proposal for the same queries [N, 3] (t, x, y index).

    ``features`` float16 [T, h, w, C] are those of the appearance check, or None.
    """
    appearance = Appearance(features, store.size, queries)
    expected = anchor(evidence, proposal, options.agreement)
    refined = refine(evidence, expected, store, queries, chain, options, appearance)
    filled = anchor(refined, proposal, options.agreement)
    tracks = np.where(refined.visible[..., None], refined.tracks, filled)
    confidence = np.where(refined.visible, refined.confidence, 0.3 * proposal.confidence)
    return TrackArrays(tracks.astype(np.float32), refined.visible, confidence.astype(np.float32))


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
