"""Which tracks of a sample are kept: seen at the start, off the edges of objects, moving sanely, spread evenly."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from everypoint.geometry import inside_index

BORDER = 1.0  # pixels: nearer to the picture's border than this is not seen
BEYOND = 64.0  # pixels: farther outside than this is not known
FOG_PIXELS = 128  # a mask with more zeros than this has holes, which fog made
MOTION_LIMITS = (0.4, 0.3, 0.1)  # velocity, acceleration, jerk a frame, in longer sides of the picture


class Tracks(NamedTuple):
    """Tracks of one sample."""

    xy: np.ndarray  # float32 [S, N, 2], index pixels
    seen: np.ndarray  # bool [S, N]
    known: np.ndarray  # bool [S, N]: the position is valid

    @property
    def count(self) -> int:
        """N."""
        return self.xy.shape[1]

    def keep(self, which: np.ndarray) -> Tracks:
        """Some of the tracks, by a mask bool [N] or by indices."""
        return Tracks(self.xy[:, which], self.seen[:, which], self.known[:, which])

    def starting(self) -> Tracks:
        """The tracks that are seen and known in the first frame."""
        return self.keep(self.seen[0] & self.known[0])


def finite(xy: np.ndarray, seen: np.ndarray, known: np.ndarray) -> Tracks:
    """Tracks whose positions that are not finite are 0, unseen and unknown."""
    good = np.isfinite(xy).all(axis=-1)
    return Tracks(np.where(good[..., None], xy, 0).astype(np.float32), seen & good, known & good)


def hide_outside(tracks: Tracks, size: tuple[int, int]) -> Tracks:
    """Points that are not on the picture (H, W) become unseen; they stay known."""
    return tracks._replace(seen=tracks.seen & inside_index(tracks.xy, *size))


def hide_border(tracks: Tracks, size: tuple[int, int]) -> Tracks:
    """Within ``BORDER`` of the border or outside: unseen; farther than ``BEYOND`` outside: unknown."""
    corner = np.array([size[1], size[0]], np.float32) - 1
    xy = tracks.xy
    inner = ((xy >= BORDER) & (xy <= corner - BORDER)).all(axis=-1)
    near = ((xy >= -BEYOND) & (xy <= corner + BEYOND)).all(axis=-1)
    return tracks._replace(seen=tracks.seen & inner, known=tracks.known & near)


# ------------------------------------------------------------------------------------------------------- edges


def fill_fog(mask: np.ndarray) -> np.ndarray:
    """A mask uint8 [H, W(, 3)] whose zeros, where they are many, are replaced from a 7x7 median."""
    zero = _zeros(mask)
    if int(zero.sum()) <= FOG_PIXELS:
        return mask
    filled = mask.copy()
    filled[zero] = cv2.medianBlur(mask, 7)[zero]
    return filled


def edge_map(mask: np.ndarray, resized_height: int) -> np.ndarray:
    """Where objects meet, bool [H, W].

    Canny's edges of the instance mask (both thresholds 1), without those at the border of what is still zero, made
    wider by one pixel for each time that the picture is taller than ``resized_height``, at least once.
    """
    mask = fill_fog(mask)
    edges = cv2.Canny(mask, 1, 1)
    square = np.ones((3, 3), np.uint8)
    edges[cv2.dilate(_zeros(mask).astype(np.uint8), square) > 0] = 0
    return cv2.dilate(edges, square, iterations=max(mask.shape[0] // resized_height, 1)) > 0


def _zeros(mask: np.ndarray) -> np.ndarray:
    return mask == 0 if mask.ndim == 2 else (mask == 0).all(axis=-1)


def off_edges(tracks: Tracks, edges: np.ndarray) -> Tracks:
    """The tracks whose pixel of the first frame is not on an edge."""
    height, width = edges.shape
    x, y = np.rint(tracks.xy[0]).astype(np.int64).T
    return tracks.keep(~edges[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)])


# ---------------------------------------------------------------------------------------------- length, motion


def long_enough(tracks: Tracks) -> Tracks:
    """The tracks good (seen and known) in the first two frames and in max(sqrt(S), 2) frames."""
    good = tracks.seen & tracks.known
    return tracks.keep(good[0] & good[1] & (good.sum(axis=0) >= max(math.sqrt(len(good)), 2)))


def moves_sanely(tracks: Tracks, size: tuple[int, int]) -> np.ndarray:
    """Whether each track's velocity, acceleration and jerk stay within ``MOTION_LIMITS`` in every frame, bool [N]."""
    change = tracks.xy.astype(np.float64) / max(size)
    sane = np.ones(tracks.count, bool)
    for limit in MOTION_LIMITS:
        change = np.diff(change, axis=0)
        sane &= (np.linalg.norm(change, axis=-1) < limit).all(axis=0)
    return sane


# ------------------------------------------------------------------------------------------------------ choice


def spread(tracks: Tracks, count: int, rng: np.random.Generator) -> Tracks:
    """At most ``count`` tracks, spread evenly over start and mean velocity, in random order."""
    velocity = np.diff(tracks.xy, axis=0).mean(axis=0)
    chosen = farthest_points(np.concatenate([tracks.xy[0], velocity], axis=1), count, rng)
    return tracks.keep(chosen)


def farthest_points(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices int64 [min(count, N)] of points [N, C], each the farthest from those before it; the first is random."""
    count = min(count, len(points))
    chosen = np.empty(count, np.int64)
    if count == 0:
        return chosen
    points = points.astype(np.float64)
    chosen[0] = rng.integers(len(points))
    distance = np.full(len(points), np.inf)
    for n in range(1, count):
        np.minimum(distance, ((points - points[chosen[n - 1]]) ** 2).sum(axis=1), out=distance)
        distance[chosen[n - 1]] = -1.0  # equal points are no reason to take one twice
        chosen[n] = np.argmax(distance)
    return chosen


def clamp(xy: np.ndarray, size: tuple[int, int], margin: float = BEYOND) -> np.ndarray:
    """Positions not farther than ``margin`` outside [0, W] x [0, H]."""
    return np.clip(xy, -margin, np.array([size[1], size[0]], np.float32) + margin)


def padded(tracks: Tracks, count: int) -> np.ndarray:
    """Tracks as float32 [S, count, 4] (x, y, seen, known), zero where there are fewer than ``count``."""
    table = np.zeros((len(tracks.xy), count, 4), np.float32)
    table[:, : tracks.count, :2] = tracks.xy
    table[:, : tracks.count, 2] = tracks.seen
    table[:, : tracks.count, 3] = tracks.known
    return table
