"""Which depths can be relied on: statistical outlier removal on the cloud of points that a depth map is.

A network's depth is smeared over the edges of objects: there points hang in the air between foreground and background,
far from all others. OmniTrackFast's mask removes them: every cell becomes a point, and a point is kept when the mean
distance to its nearest neighbours is not much larger than that of the others.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import cKDTree

from everypoint.geometry import index_to_raster, scale_raster

CLOUD = 2**17  # points of a cloud; 480x854 has three times as many and would take eight times as long


def unproject(depth: np.ndarray, frame_size: tuple[int, int], fov: float) -> np.ndarray:
    """Points float64 [h, w, 3] of a depth map [h, w] whose cells tile a frame of ``frame_size`` (H, W).

    A pinhole camera looks along z, with its centre in the middle of the frame and ``fov`` degrees from the left border
    to the right one: (X, Y, Z) = ((x - W/2) d / f, (y - H/2) d / f, d), f = W / (2 tan(fov / 2)), x and y raster.
    """
    h, w = depth.shape
    height, width = frame_size
    ys, xs = np.mgrid[:h, :w].astype(np.float64)
    centres = scale_raster(index_to_raster(np.stack([xs, ys], axis=-1)), (h, w), frame_size)  # [h, w, 2]
    focal = width / (2 * math.tan(math.radians(fov) / 2))
    rays = (centres - [width / 2, height / 2]) / focal
    z = depth.astype(np.float64)[..., None]
    return np.concatenate([rays * z, z], axis=-1)


def inliers(points: np.ndarray, neighbours: int, sigma: float, workers: int = 1) -> np.ndarray:
    """Which points [N, 3] are kept, bool [N].

    With m the mean distance of a point to its ``neighbours`` nearest others (all others where there are fewer), those
    are kept for which m <= mean(m) + ``sigma`` std(m), over the cloud. The result does not depend on ``workers``, the
    number of threads.
    """
    count = min(neighbours, len(points) - 1)
    if count < 1:
        return np.ones(len(points), bool)
    distances, _ = cKDTree(points).query(points, k=count + 1, workers=workers)  # [N, 1 + count]; first itself, at 0
    mean = distances[:, 1:].mean(axis=1)
    return mean <= mean.mean() + sigma * mean.std()


def outlier_mask(
    depth: np.ndarray,
    valid: np.ndarray,
    frame_size: tuple[int, int],
    *,
    fov: float,
    neighbours: int,
    sigma: float,
    workers: int = 1,
    cloud: int = CLOUD,
) -> np.ndarray:
    """Which cells of a depth map [h, w] are ``valid`` and no outliers, bool [h, w]; ``sigma`` 0 keeps all valid ones.

    A map of more than ``cloud`` cells is judged in blocks of s x s, the least s for which so many blocks suffice: a
    block goes the way of one cell, its middle one or else the first that is valid. A map of one value alone has no
    outliers; its border, where neighbours lie on one side only, would be all that is found.
    """
    known = depth[valid]
    if sigma == 0 or len(known) == 0 or known.min() == known.max():
        return valid.copy()
    h, w = depth.shape
    side = max(1, math.ceil(math.sqrt(depth.size / cloud)))
    while -(-h // side) * -(-w // side) > cloud:
        side += 1
    cells, blocks = _representatives(valid, side)  # flat indices of cells [N] and of their blocks [N]
    points = unproject(depth, frame_size, fov).reshape(-1, 3)[cells]
    kept = np.zeros((-(-h // side), -(-w // side)), bool)
    kept.reshape(-1)[blocks] = inliers(points, neighbours, sigma, workers)
    return valid & kept.repeat(side, axis=0).repeat(side, axis=1)[:h, :w]


def _representatives(valid: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell that stands for each block with a valid one: flat indices of the cells and of the blocks, int64 [N]."""
    h, w = valid.shape
    rows, columns = -(-h // side), -(-w // side)

    def blocked(cells: np.ndarray) -> np.ndarray:
        padded = np.pad(cells, ((0, rows * side - h), (0, columns * side - w)))
        parts = padded.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows * columns, side * side)
        middle = side // 2 * (side + 1)
        return np.concatenate([parts[:, middle : middle + 1], parts], axis=1)  # the middle one is asked first

    usable = blocked(valid)  # [blocks, 1 + s * s]
    blocks = np.flatnonzero(usable.any(axis=1))
    first = usable[blocks].argmax(axis=1)
    cells = blocked(np.arange(h * w).reshape(h, w))[blocks, first]
    return cells, blocks
