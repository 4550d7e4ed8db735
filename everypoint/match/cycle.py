"""Forward-backward arithmetic on flows, in index coordinates, at any set of points.

``flow_at`` arguments are flows already read at the points; fields are [2, H, W] and are read bilinearly. Outside the
frame a field reads as zero, as published; callers test for that. NaN (a flow that could not be stored) spreads, and
every comparison with it is false.

Source: OmniMotion, supplement A.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from everypoint.geometry import sample_index


class RoundTrip(NamedTuple):
    """A walk from frame i to frame j and back, for points x of frame i."""

    target: Tensor  # [..., 2], y = x + f_ij(x), in frame j
    displacement: Tensor  # [..., 2], m = f_ij(x) + f_ji(y): where the walk ends in frame i, relative to x
    error: Tensor  # [...], e1 = |m|, pixels


def round_trip(points: Tensor, flow_at: Tensor, backward: Tensor) -> RoundTrip:
    """Walk from points [..., 2] of frame i along ``flow_at`` = f_ij(points) [..., 2] and back along f_ji [2, H, W]."""
    target = points + flow_at
    displacement = flow_at + sample_index(backward, target)
    return RoundTrip(target, displacement, length(displacement))


def second_forward_error(points: Tensor, trip: RoundTrip, forward: Tensor) -> Tensor:
    """e2 = |z + f_ij(z) - y| [...], pixels: from the landing point z = x + m forward again, how far off y.

    A point x that is hidden in frame j is carried there with its surface while the flow back belongs to what hides it;
    when both flows are right, the second forward step from z (a point of the hiding surface) meets y again.
    """
    landing = points + trip.displacement
    return length(landing + sample_index(forward, landing) - trip.target)


def length(vectors: Tensor) -> Tensor:
    """Euclidean length [...] of vectors [..., 2]; much faster than a norm over so short a dimension."""
    return (vectors[..., 0].square() + vectors[..., 1].square()).sqrt()
