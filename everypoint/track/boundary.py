"""Steps at motion boundaries: several flows around a point compete to carry it, judged by what the frames show.

A flow network works on cells of 8 px, so the flow at the tip of a tail or on a spoke is often the background's. The
flows on two small circles around the point hold the right one more often than not. Where they differ, the one whose
landing looks most like the start, patch by patch, carries the point, if it looks clearly better than the flow at the
point itself.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from everypoint.artifacts.flows import FlowStore

HALF = 3  # px, half the side of a patch
SIGMA = 2.0  # px of the weight over a patch
LEAST_SPREAD = 1.5  # px by which flows have to differ to be told apart
ROWS_AT_ONCE = 16384  # points whose patches are read at once: cv2 takes no larger image

_RANGE = np.arange(-HALF, HALF + 1, dtype=np.float32)
_OFFSETS = np.stack(np.meshgrid(_RANGE, _RANGE), -1).reshape(-1, 2)  # [P, 2] (x, y)
_WEIGHTS = np.exp(-(_OFFSETS**2).sum(-1) / (2 * SIGMA**2))
_WEIGHTS /= _WEIGHTS.sum()
_BY_CHANNEL = np.repeat(_WEIGHTS, 3).astype(np.float32)


class Alternatives(NamedTuple):
    """Better flows for some of N points."""

    rows: np.ndarray  # int [n], which points
    xy: np.ndarray  # float32 [n, 2], where they land
    error: np.ndarray  # float32 [n], px, smallest forward-backward error by the flows around the landing


def circles(radius: float) -> np.ndarray:
    """Offsets [12, 2] (x, y): eight at ``radius``, four at half of it."""
    angle = np.arange(8) * np.pi / 4
    outer = radius * np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.concatenate([outer, 0.5 * outer[::2]]).astype(np.float32)


def alternatives(
    store: FlowStore, images: np.ndarray, i: int, j: int, xy: np.ndarray, there: np.ndarray, radius: float, gain: float
) -> Alternatives:
    """Flows i -> j around index points [N, 2] that explain the frames better than the points' own.

    Args:
        store: flows i -> j and j -> i.
        images: uint8 [T, H, W, 3].
        i, j: frames.
        xy: points in frame i.
        there: where their own flow takes them, finite [N, 2].
        radius: px around a point in which flows compete.
        gain: a flow takes over when its difference of patches is below this share of the own flow's.
    """
    around = circles(radius)
    flows = _around(store, i, j, xy, around)  # [K, N, 2]
    spread = np.linalg.norm(flows - (there - xy), axis=-1)  # [K, N]; NaN where there is no flow
    rows = np.flatnonzero(np.nan_to_num(spread).max(0) > LEAST_SPREAD)
    nothing = Alternatives(rows[:0], xy[:0], np.zeros(0, np.float32))
    if not len(rows):
        return nothing
    own = patches(images[i], xy[rows])
    first = difference(own, patches(images[j], there[rows]))
    best, choice = first.copy(), np.full(len(rows), -1)
    for k in range(len(around)):
        landing = xy[rows] + flows[k, rows]
        found = np.isfinite(landing).all(-1) & (spread[k, rows] > LEAST_SPREAD)
        score = np.where(found, difference(own, patches(images[j], np.where(found[:, None], landing, 0))), np.inf)
        better = score < best
        best[better], choice[better] = score[better], k
    chosen = np.flatnonzero((choice >= 0) & (best < gain * first))
    if not len(chosen):
        return nothing
    rows, choice = rows[chosen], choice[chosen]
    landing = (xy[rows] + flows[choice, rows]).astype(np.float32)
    back = _around(store, j, i, landing, np.concatenate([np.zeros((1, 2), np.float32), around]))
    error = np.linalg.norm(landing + back - xy[rows], axis=-1)
    return Alternatives(rows, landing, np.nan_to_num(error, nan=np.inf).min(0).astype(np.float32))


def patches(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Patches uint8 [N, P, 3] of an image [H, W, 3] around index points [N, 2], bilinear, edges extended."""
    points = xy[:, None].astype(np.float32) + _OFFSETS
    found = [
        cv2.remap(image, part[..., 0], part[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for part in np.split(points, range(ROWS_AT_ONCE, len(points), ROWS_AT_ONCE))
    ]
    return np.concatenate(found)


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean absolute difference [N] of patches uint8 [N, P, 3], weighted towards their middle, summed over channels."""
    return cv2.absdiff(first, second).reshape(len(first), _WEIGHTS.size * 3).astype(np.float32) @ _BY_CHANNEL


def contrast(of: np.ndarray) -> np.ndarray:
    """Standard deviation [N] of each of patches uint8 [N, P, 3], weighted and summed as in :func:`difference`."""
    values = of.reshape(len(of), -1, 3).astype(np.float32)
    mean = np.einsum("npc,p->nc", values, _WEIGHTS)
    variance = np.einsum("npc,p->nc", values * values, _WEIGHTS) - mean * mean
    return 3 * np.sqrt(np.maximum(variance.mean(1), 0))


def _around(store: FlowStore, i: int, j: int, xy: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Flows [K, N, 2] at points [N, 2] moved by each of K offsets; points outside take the border's."""
    points = (xy + offsets[:, None]).reshape(-1, 2)
    return store.sample(i, j, points).reshape(len(offsets), len(xy), 2)
