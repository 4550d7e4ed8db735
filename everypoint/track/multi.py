"""``chain-multi``: for every query and frame the best chain over several intervals, with occlusion from its evidence.

At frame t a point can arrive from any earlier frame s of its own track with a flow s -> t. Each arrival has a cost: the
cost of the track at s, plus a constant, plus the squared forward-backward error of the flow there. Among the arrivals
whose checks hold, the cheapest and most alike its query is taken; where none holds the point is occluded and keeps
the cheapest arrival's position, at a penalty, so that later frames prefer flows that jump over the occlusion.
The tracker then refines all positions from both directions of time (everypoint.track.refine). The idea of choosing
among intervals by evidence is MFT's (Neoral et al., WACV 2024).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from everypoint.config.options import ChainOptions
from everypoint.geometry import inside_index
from everypoint.track.appearance import Appearance
from everypoint.track.base import TrackArrays, empty_tracks
from everypoint.track.evidence import Evidence
from everypoint.track.slips import slipped

NEVER = 1e9  # more than any cost: an arrival that holds comes before one that does not
LARGEST_ERROR = 20.0  # px at which the cost of one step saturates


class Arrival(NamedTuple):
    """Points that could arrive in one frame from one earlier frame."""

    rows: np.ndarray  # int [n], queries
    xy: np.ndarray  # float32 [n, 2]
    cost: np.ndarray  # float32 [n], what the track has cost when it arrives this way
    unlike: np.ndarray  # float32 [n], price of looking unlike the query; decides, but is not handed on
    holds: np.ndarray  # bool [n], the evidence says visible


def chain_multi_tracks(evidence: Evidence, queries: np.ndarray, frames: int) -> TrackArrays:
    """Track queries [N, 3] (t, x, y index) through ``frames`` frames, forwards and backwards in time.

    Every interval of the evidence's options that its flows hold is used, and direct ones where asked.
    """
    out = empty_tracks(frames, queries)
    cost = np.full((frames, len(queries)), np.inf, np.float32)
    start = queries[:, 0].astype(int)
    cost[start, np.arange(len(queries))] = 0
    appearance = evidence.appearance(queries)
    for direction in (1, -1):
        times = range(1, frames) if direction == 1 else range(frames - 2, -1, -1)
        for t in times:
            active = np.flatnonzero((t - start) * direction > 0)
            if len(active):
                arrivals = list(_arrivals(evidence, out, cost, start, active, t, direction, appearance))
                _take_best(out, cost, active, t, arrivals, evidence.options)
    return out


def consistent(before: np.ndarray, after: np.ndarray, error: np.ndarray, options: ChainOptions) -> np.ndarray:
    """Whether steps [n, 2] -> [n, 2] with these forward-backward errors [n] pass the cycle check.

    A fast point may err more: the threshold grows by ``cycle_relative`` px a px of motion.
    """
    motion = np.linalg.norm(after - before, axis=-1)
    return error <= options.cycle_threshold + options.cycle_relative * motion


def _arrivals(
    evidence: Evidence,
    out: TrackArrays,
    cost: np.ndarray,
    start: np.ndarray,
    active: np.ndarray,
    t: int,
    direction: int,
    appearance: Appearance,
) -> Iterator[Arrival]:
    options = evidence.options
    for source, rows in _sources(evidence, start, active, t, direction):
        before = out.tracks[source, rows]
        xy, error = evidence.step(source, t, before)
        holds = consistent(before, xy, error, options) & inside_index(xy, *evidence.size) & out.visible[source, rows]
        start_looks = appearance.at(source, before)
        looks = appearance.compare(rows, start_looks, (t, xy), options)
        holds &= looks.same_surface
        if options.slip_fall:
            # a query is itself beyond measure and often blurred: its looks fall in any first step
            judged = (start[rows] != source) | (abs(t - source) > 1)
            images = evidence.images[source], evidence.images[t]
            away = looks.similarity, appearance.fall(rows, start_looks, looks)
            holds &= ~(judged & slipped(*images, before, xy, *away, options.slip_fall))
        price = cost[source, rows] + options.step_cost + np.minimum(error, LARGEST_ERROR) ** 2
        unlike = options.appearance_cost * (1 - looks.similarity)
        yield Arrival(rows, xy, price.astype(np.float32), unlike, holds)


def _sources(
    evidence: Evidence, start: np.ndarray, active: np.ndarray, t: int, direction: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Earlier frames with a flow to t, each with the active queries that have a position there."""
    chained = [t - direction * interval for interval in evidence.options.intervals]
    for source in chained:
        rows = active[(source - start[active]) * direction >= 0]
        if len(rows) and evidence.both_ways(source, t):
            yield source, rows
    if evidence.options.direct:
        for source in np.unique(start[active]):
            if source not in chained and evidence.both_ways(int(source), t):
                yield int(source), active[start[active] == source]


def _take_best(
    out: TrackArrays, cost: np.ndarray, active: np.ndarray, t: int, arrivals: list[Arrival], options: ChainOptions
) -> None:
    """Write the best arrival of every active query into frame t: those that hold first, then by cost."""
    rank = np.full(cost.shape[1], np.inf)
    cost[t, active] = np.inf
    for arrival in arrivals:
        price = (
            arrival.cost.astype(np.float64) + arrival.unlike
        )  # in float32 the offset would swallow differences below 0.06
        own = np.where(arrival.holds, price, price + NEVER)
        better = own < rank[arrival.rows]
        rows = arrival.rows[better]
        rank[rows] = own[better]
        out.tracks[t, rows] = arrival.xy[better]
        out.visible[t, rows] = arrival.holds[better]
        penalty = np.where(arrival.holds[better], 0, options.occlusion_cost)
        cost[t, rows] = arrival.cost[better] + penalty
    trusted = 1 / (1 + cost[t, active] / options.cycle_threshold**2)
    out.confidence[t, active] = np.where(out.visible[t, active], trusted, 0)
