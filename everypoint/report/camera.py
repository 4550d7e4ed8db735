"""The camera's motion as seen by the tracks: the median displacement of background points."""

from __future__ import annotations

import numpy as np

from everypoint.artifacts.tracks import Tracks


def background_points(tracks: Tracks, mask: np.ndarray | None) -> np.ndarray | None:
    """Which tracks start outside the mask, bool [N]; None without a mask, or when no track is outside.

    ``mask`` is [H, W] or [T, H, W] of any size, non-zero on the foreground; it is looked up at the query point (in
    the query's frame when it has a time axis).
    """
    if mask is None or not len(tracks.queries):
        return None
    height, width = tracks.frame_size
    t, x, y = np.nan_to_num(tracks.queries).T
    rows = np.clip((y * (mask.shape[-2] / height)).astype(int), 0, mask.shape[-2] - 1)
    columns = np.clip((x * (mask.shape[-1] / width)).astype(int), 0, mask.shape[-1] - 1)
    if mask.ndim == 3:
        foreground = mask[np.clip(t.astype(int), 0, len(mask) - 1), rows, columns] > 0
    else:
        foreground = mask[rows, columns] > 0
    return None if foreground.all() else ~foreground


def camera_path(positions: np.ndarray, visible: np.ndarray, background: np.ndarray | None = None) -> np.ndarray:
    """How far the background has moved since frame 0, float64 [T, 2] in the unit of ``positions``.

    Args:
        positions: [T, N, 2].
        visible: bool [T, N]; a step counts a point that is visible at both its ends.
        background: bool [N]; without it the dominant motion is taken: the tracks that follow the median best, in
            three rounds, are the background. It is right as long as the background holds most of the points.

    Where no background point is visible at both ends of a step, that step counts as still.
    """
    steps = np.diff(positions.astype(np.float64), axis=0)  # [T-1, N, 2]
    known = visible[1:] & visible[:-1] & np.isfinite(steps).all(axis=-1)
    if background is None:
        background = _dominant(steps, known)
    step = _masked_median(steps, known & background)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(step, axis=0)])


def _dominant(steps: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The half of the tracks that agrees best with the common motion, bool [N]."""
    keep = np.ones(steps.shape[1], bool)
    for _ in range(3):
        residual = np.linalg.norm(steps - _masked_median(steps, known & keep)[:, None], axis=-1)  # [T-1, N]
        count = np.maximum(known.sum(axis=0), 1)
        score = np.where(known, residual, 0).sum(axis=0) / count
        score[~known.any(axis=0)] = np.inf
        finite = score[np.isfinite(score)]
        if finite.size == 0:
            break
        keep = score <= np.median(finite)
    return keep


def _masked_median(values: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Median over the points used, [T, N, 2] and bool [T, N] -> [T, 2]; zero where none is used."""
    ordered = np.sort(np.where(use[..., None], values, np.inf), axis=1)
    count = use.sum(axis=1)
    if values.shape[1] == 0:
        return np.zeros((len(values), 2))
    rows = np.arange(len(values))
    middle = (
        ordered[rows, np.maximum(count - 1, 0) // 2] + ordered[rows, np.minimum(count // 2, values.shape[1] - 1)]
    ) / 2
    return np.where(count[:, None] > 0, middle, 0.0)
