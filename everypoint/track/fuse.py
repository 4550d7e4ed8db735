"""What proposes, and what the flows say: a model's read-out and companions joined with the tracks of the walk.

1. refine: the walk is refined from both directions of time; where it called a point hidden, arrivals that agree with
   where the point is expected make it visible;
2. companions, where there are some: a hidden point is expected where its surroundings have gone; if it looks there as
   it did, it is visible, and the flows around it are asked again;
3. depth order: a visible point that a model which knows its track sees elsewhere, behind something, is hidden: its
   track rides on what covers it;
4. adjust: all visible positions of a track move to where all flows between them agree;
5. fill: where the point stays hidden the model's motion carries it, shifted so that it meets the visible track at both
   ends of the gap, if the model has carried it well through the frames that show it; else its companions do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from everypoint.config.options import CompanionOptions, ReadoutOptions
from everypoint.geometry import inside_index
from everypoint.track.adjust import adjust
from everypoint.track.anchor import anchor
from everypoint.track.base import TrackArrays
from everypoint.track.companions import Block, Proposal, propose
from everypoint.track.evidence import Evidence
from everypoint.track.refine import refine

COMPANION_ROUNDS = 2  # a point that is found again shows its neighbours the way
KNOWN_SHARE, KNOWN = 0.3, 0.5  # a model knows a track if it is this many px off at most in this share of its frames
ELSEWHERE = 2.0  # px from where such a model has a point, from which on the point cannot be there


def fuse(
    walked: TrackArrays,
    proposal: TrackArrays | None,
    evidence: Evidence,
    queries: np.ndarray,
    options: ReadoutOptions,
    companions: Sequence[Block] | None = None,
) -> TrackArrays:
    """Join the walk's tracks, a model's proposal and companions, for the same queries [N, 3] (t, x, y index).

    Args:
        walked: tracks made of flows alone.
        proposal: read out of a model, or None.
        evidence: the flows, and what judges them.
        options: how.
        companions: points all over the video, or None.
    """
    appearance, radius = evidence.appearance(queries), options.companions.radius * max(evidence.size)
    found = refine(walked, _expected(walked, proposal, None, options), evidence, queries, options, appearance)
    there = None
    if companions is not None:
        for _ in range(COMPANION_ROUNDS):
            typical = appearance.typical(found)
            here = appearance.likeness(typical, found.tracks)  # [T, N]
            doubted = doubts(found, queries, here, options.companions.doubt)
            clear = found._replace(visible=found.visible & ~doubted)
            there = propose(clear, companions, radius, options.companions)
            expected = _expected(found, proposal, there, options)
            if appearance.knows:  # else nothing can be judged by its looks
                looks = appearance.likeness(typical, there.xy)
                found = regain(found, doubted, there, (here, looks), evidence.size, options.companions)
            found = refine(found, expected, evidence, queries, options, appearance, rounds=1)
    if proposal is not None:
        found = found._replace(visible=found.visible & ~covered(found, proposal))
    found = adjust(found, evidence, queries, options)
    if companions is not None:
        there = propose(found, companions, radius, options.companions)
    filled = _expected(found, proposal, there, options)
    tracks = np.where(found.visible[..., None], found.tracks, filled)
    hidden = 0.3 * proposal.confidence if proposal is not None else np.zeros_like(found.confidence)
    confidence = np.where(found.visible, found.confidence, hidden)
    return TrackArrays(tracks.astype(np.float32), found.visible, confidence.astype(np.float32))


def doubts(found: TrackArrays, queries: np.ndarray, likeness: np.ndarray, least: float) -> np.ndarray:
    """Visible points [T, N] that look unlike themselves; queries [N, 3] are beyond doubt."""
    doubted = found.visible & (likeness < least)
    doubted[queries[:, 0].astype(int), np.arange(len(queries))] = False
    return doubted


def covered(found: TrackArrays, proposal: TrackArrays) -> np.ndarray:
    """Visible points [T, N] that a model which knows their tracks has elsewhere, and not in sight.

    Neither its depth order nor its places alone say so in real videos, where models know little of what articulates.
    """
    away = np.linalg.norm(found.tracks - proposal.tracks, axis=-1)  # [T, N]
    known = np.nanquantile(np.where(found.visible, away, np.nan), KNOWN_SHARE, axis=0) <= KNOWN
    return found.visible & ~proposal.visible & (away > ELSEWHERE) & known


def regain(
    found: TrackArrays,
    doubted: np.ndarray,
    there: Proposal,
    likeness: tuple[np.ndarray, np.ndarray],
    size: tuple[int, int],
    options: CompanionOptions,
) -> TrackArrays:
    """Hidden points seen again, and doubted ones put right, where companions expect them.

    ``likeness`` [T, N] says how much the points look like themselves where they are, and where they are expected.
    """
    here, looks = likeness
    usable = there.known & inside_index(there.xy, *size) & (looks >= options.similarity)
    again = usable & ~found.visible
    changed = again | (usable & doubted & (looks >= here + options.margin))
    tracks = np.where(changed[..., None], there.xy, found.tracks)
    confidence = np.where(changed, 0.5, found.confidence)
    return TrackArrays(tracks, found.visible | again, confidence.astype(np.float32))


def _expected(
    found: TrackArrays, proposal: TrackArrays | None, there: Proposal | None, options: ReadoutOptions
) -> np.ndarray:
    """Where hidden points are expected [T, N, 2].

    By a model that is sure, else by companions, else by a model that is of use, else where they are.
    """
    expected = found.tracks
    model = None if proposal is None else anchor(found, proposal, options.agreement)
    if model is not None:
        expected = np.where(model.usable[..., None], model.xy, expected)
    if there is not None:
        expected = np.where(there.known[..., None], there.xy, expected)
    if model is not None:
        expected = np.where(model.sure[..., None], model.xy, expected)
    return expected
