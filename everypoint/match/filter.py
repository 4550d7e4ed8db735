"""Which pixels of an ordered pair of frames have a trusted correspondence.

The rules are OmniMotion's (algorithm 1.4 of its supplement), with one addition: a correspondence must land inside the
other frame. As published, a flow that leaves the frame by less than the cycle threshold passes, because the flow back
reads as zero there; such a target cannot be supervised or drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from everypoint.config.options import MatchOptions
from everypoint.geometry import inside_index
from everypoint.match.appearance import FeatureMap, similarity
from everypoint.match.cycle import round_trip, second_forward_error


class PairFlows(NamedTuple):
    """The flows of an ordered pair (i, j) as fields, and the features of both frames where there are any."""

    gap: int  # |i - j|
    forward: Tensor  # f_ij [2, H, W]
    backward: Tensor  # f_ji [2, H, W]
    features_i: FeatureMap | None = None
    features_j: FeatureMap | None = None

    @property
    def has_appearance(self) -> bool:
        return self.features_i is not None and self.features_j is not None


class PointClasses(NamedTuple):
    """What the filter says of points x [N, 2] of frame i."""

    target: Tensor  # [N, 2], x + f_ij(x) in frame j
    cycle: Tensor  # bool [N], cycle-consistent (and of like appearance, at large gaps)
    occluded: Tensor  # bool [N], reliable although hidden in frame j
    vetoed: Tensor  # bool [N], cycle-consistent but refused by appearance
    error: Tensor  # float32 [N], the error that its class rests on: e2 where occluded, else e1; pixels
    similarity: Tensor | None  # float32 [N], cosine of features where cycle-consistent, else 0; None: not computed


def classify(
    points: Tensor, flow_at: Tensor, pair: PairFlows, options: MatchOptions, *, for_score: bool = True
) -> PointClasses:
    """Class of each point of frame i, given f_ij there.

    Args:
        points: float32 [N, 2], index coordinates in frame i.
        flow_at: float32 [N, 2], f_ij at the points.
        pair: the flows and features of the pair.
        options: thresholds. With e1 the error of the round trip and e2 that of the second forward step,
            cycle = e1 < cycle_threshold, and from ``appearance_gap`` on cosine > ``appearance_threshold``;
            occluded = e2 < cycle_threshold and e1 > rescue_factor x cycle_threshold, up to ``rescue_gap``;
            both only where the target lies inside frame j.
        for_score: compute similarities also at gaps at which the appearance check does not apply.
    """
    height, width = pair.forward.shape[-2:]
    trip = round_trip(points, flow_at, pair.backward)
    inside = inside_index(trip.target, height, width)
    cycle = inside & (trip.error < options.cycle_threshold)
    error, cosine = trip.error, None
    occluded = vetoed = torch.zeros_like(cycle)
    checked = pair.gap >= options.appearance_gap
    if pair.has_appearance and (checked or for_score):
        rows = cycle.nonzero()[:, 0]
        cosine = trip.error.new_zeros(len(points))
        cosine[rows] = similarity(pair.features_i, points[rows], pair.features_j, trip.target[rows])
        if checked:
            vetoed = cycle & ~(cosine > options.appearance_threshold)
            cycle = cycle & ~vetoed
    if pair.gap <= options.rescue_gap:
        second = second_forward_error(points, trip, pair.forward)
        large = trip.error > options.rescue_factor * options.cycle_threshold
        occluded = inside & large & (second < options.cycle_threshold) & ~cycle
        error = torch.where(occluded, second, error)
    return PointClasses(trip.target, cycle, occluded, vetoed, error, cosine)


def score(classes: PointClasses, options: MatchOptions) -> Tensor:
    """Trust of each point, float32 [N] in 0..1: exp(-e^2 / 2 s^2), s = half the cycle threshold, times appearance.

    e is the error that the class rests on. Appearance is the cosine clipped to 0..1, for cycle-consistent points when
    there are features; a hidden point shows nothing to compare and is judged by its error alone.
    """
    sigma = options.cycle_threshold / 2
    trust = torch.exp(-(classes.error**2) / (2 * sigma**2))
    if classes.similarity is not None:
        trust = torch.where(classes.occluded, trust, trust * classes.similarity.clamp(0, 1))
    return trust
