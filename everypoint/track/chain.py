"""Trackers made of flows alone: ``chain`` (adjacent flows) and ``chain-multi`` (the best of several intervals).

Both walk from each query's frame to the end and to the start of the video. docs/methods.md describes them; chain-multi
follows the idea of MFT (Neoral et al., WACV 2024): several time intervals, chosen by frame and point from the evidence.
"""

from __future__ import annotations

import numpy as np

from everypoint.artifacts.flows import FlowStore
from everypoint.config.options import ChainOptions
from everypoint.geometry import inside_index
from everypoint.track.base import TrackArrays, empty_tracks


def chain_tracks(store: FlowStore, queries: np.ndarray, frames: int, options: ChainOptions) -> TrackArrays:
    """Chain adjacent flows; occluded for good once the forward-backward error or the border is exceeded.

    Args:
        store: flows between adjacent frames in both directions.
        queries: float [N, 3], (t, x, y) in index coordinates of the working frame.
        frames: number of frames T.
        options: ``cycle_threshold`` in pixels of the working frame.
    """
    out = empty_tracks(frames, queries)
    start = queries[:, 0].astype(int)
    for direction in (1, -1):
        position = queries[:, 1:].astype(np.float32).copy()
        visible = np.ones(len(queries), bool)
        times = range(frames - 1) if direction == 1 else range(frames - 1, 0, -1)
        for t in times:
            active = np.flatnonzero((start - t) * direction <= 0)
            if not len(active):
                continue
            there, error = step(store, t, t + direction, position[active])
            position[active] = there
            visible[active] &= (error <= options.cycle_threshold) & inside_index(there, *store.size)
            out.tracks[t + direction, active] = there
            out.visible[t + direction, active] = visible[active]
            out.confidence[t + direction, active] = visible[active] * _trust(error, options.cycle_threshold)
    return out


def step(store: FlowStore, i: int, j: int, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Carry index points [N, 2] from frame i to j -> (points [N, 2], forward-backward error [N] in pixels)."""
    there = xy + store.sample(i, j, xy)
    back = there + store.sample(j, i, there)
    error = np.linalg.norm(back - xy, axis=-1)
    lost = ~np.isfinite(error)
    there[~np.isfinite(there).all(-1)] = xy[~np.isfinite(there).all(-1)]
    return there.astype(np.float32), np.where(lost, np.inf, error).astype(np.float32)


def _trust(error: np.ndarray, threshold: float) -> np.ndarray:
    """Confidence of one step: 1 at no error, 1/2 at half of the threshold."""
    return 1 / (1 + (2 * error / threshold) ** 2)
