"""Where a model says that hidden points are: its motion, shifted to meet the frames that show them.

A model knows a point's motion better than its place, and of some points it knows nothing. How well it knows one is seen
in the frames that show the point: there the shift between its place and the model's should stay what it is. Medians
over several of these frames say both, since just before a point is called hidden its track is often on the occluder.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from everypoint.track.base import TrackArrays

NEAR = 3  # visible frames next to a hidden one whose median shift is taken
WIDE = 8  # visible frames over which that shift should stay
LEAST = 3  # of them, for a model that is to be sure
SURE = 1.0  # px that it changes there at most, for a model that is to be sure
APART = 10.0  # px between the shifts before and after a gap, for a model that is to be sure
COLUMNS_AT_ONCE = 256  # tracks; bounds the memory


class Anchored(NamedTuple):
    """A model's places of points."""

    xy: np.ndarray  # float32 [T, N, 2]
    sure: np.ndarray  # bool [T, N], it has carried the point well where that can be seen: nothing knows better
    usable: np.ndarray  # bool [T, N], better than nothing


class _Side(NamedTuple):
    """What the visible frames on one side of every frame, itself included, say of the shift."""

    shift: np.ndarray  # [T, N, 2], median over the nearest; 0 where there are none
    change: np.ndarray  # [T, N], median distance to it over more of them
    count: np.ndarray  # int [T, N], how many there are
    away: np.ndarray  # [T, N], frames to the nearest; inf where there are none


def anchor(found: TrackArrays, proposal: TrackArrays, agreement: float) -> Anchored:
    """The proposal's places [T, N, 2], shifted to meet the visible parts of the tracks found.

    Between two visible parts of a track the shift is interpolated. The model is usable where it changes by at most
    ``agreement`` px from the one to the other, or, beyond the first and the last visible frame, over the frames next
    to these.
    """
    columns = range(COLUMNS_AT_ONCE, found.visible.shape[1], COLUMNS_AT_ONCE)
    shift = np.asarray(found.tracks, np.float32) - proposal.tracks
    cut = zip(np.split(shift, columns, axis=1), np.split(found.visible, columns, axis=1), strict=True)
    parts = zip(*(_part(*part, agreement) for part in cut), strict=True)
    moved, sure, usable = (np.concatenate(of, axis=1) for of in parts)
    return Anchored(proposal.tracks + moved, sure, usable)


def _part(shift: np.ndarray, visible: np.ndarray, agreement: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shifts [T, N, 2] of all frames, and where the model is sure and usable [T, N]."""
    before = _side(shift, visible)
    after = _Side(*(of[::-1] for of in _side(shift[::-1], visible[::-1])))
    weights = [1 / (1e-3 + side.away) for side in (before, after)]  # 0 where a side has none
    total = np.maximum(sum(weights), 1e-9)[..., None]
    moved = (weights[0][..., None] * before.shift + weights[1][..., None] * after.shift) / total
    both = (before.count > 0) & (after.count > 0)
    apart = np.where(both, np.linalg.norm(after.shift - before.shift, axis=-1), 0)
    steady = [(side.count >= LEAST) & (side.change <= SURE) for side in (before, after)]
    change = np.where(before.count > 0, before.change, after.change)
    usable = np.where(both, apart, change) <= agreement
    return moved.astype(np.float32), (steady[0] | steady[1]) & (apart <= APART), usable


def _side(shift: np.ndarray, visible: np.ndarray) -> _Side:
    """Of the visible frames up to every frame."""
    column, frame = np.nonzero(visible.T)  # visible places, track by track
    seen = np.cumsum(visible, axis=0)  # [T, N]
    rank = seen[frame, column] - 1  # of each place in its track
    back = np.arange(WIDE)[:, None]
    places = np.maximum(np.arange(len(frame)) - back, 0)  # [WIDE, V], itself and those before it
    own = np.minimum(rank + 1, WIDE)  # of these belong to its track
    values = np.where((back < own)[..., None], shift[frame, column][places], np.nan)  # [WIDE, V, 2]
    middle = _median(values[:NEAR], np.minimum(own, NEAR)[:, None])  # [V, 2]
    change = _median(np.linalg.norm(values - middle, axis=-1), own)  # [V]
    starts = np.cumsum(seen[-1]) - seen[-1]
    last = np.where(seen > 0, starts + seen - 1, len(frame))  # [T, N], a row behind all others where there are none
    rows = np.append(frame, 0)[last]
    away = np.where(seen > 0, np.arange(len(visible))[:, None] - rows, np.inf)
    middle, change = np.concatenate([middle, np.zeros((1, 2))]), np.append(change, np.inf)
    return _Side(middle[last], change[last], seen, away)


def _median(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Median over the first axis, of which ``count`` values are numbers and the others NaN."""
    ordered = np.sort(values, axis=0)  # NaN at the end
    low, high = ((count - 1) // 2)[None], (count // 2)[None]
    shape = (1, *values.shape[1:])
    return sum(np.take_along_axis(ordered, np.broadcast_to(k, shape), 0)[0] for k in (low, high)) / 2
