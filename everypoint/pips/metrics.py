"""PIPs++'s metrics, for one video (Zheng et al., "PointOdyssey", 2023), as its published test scripts compute them.

Percentages 0..100 except ``median_l2``, which is in pixels of a 256x256 frame.
"""

from __future__ import annotations

import numpy as np

from everypoint.errors import InputError

THRESHOLDS = (1, 2, 4, 8, 16)
SURVIVAL_THRESHOLD = 16


def pips_metrics(
    pred_tracks: np.ndarray,
    gt_tracks: np.ndarray,
    valid: np.ndarray,
    size: tuple[int, int] = (256, 256),
) -> dict[str, float]:
    """d_1 .. d_16, d_avg, survival and median_l2 of one video.

    With d the distance scaled to a 256x256 frame (each axis on its own):

    * ``d_x``: share of valid points with d < x (strict), frame 0 left out; the denominator has 1e-6 added, so 0 when no
      point is valid after frame 0.
    * ``d_avg``: the mean of the five.
    * ``survival_16``: share of all (frame, track), frame 0 included, that come before the track's first valid frame
      with d > 16 (strict). Frames that are not valid never end a track.
    * ``median_l2``: per track the median of d over its valid frames, frame 0 included; then the mean over tracks. nan
      when a track has no valid frame.

    All are nan when there is no track. The arithmetic is float32 as in the reference (medians are averaged in float64),
    so that equal inputs give its very numbers. A prediction that is not finite counts as infinitely far where valid.

    Args:
        pred_tracks: [T, N, 2], (x, y) in pixels of a frame of ``size``; one convention for both arrays, any.
        gt_tracks: [T, N, 2]; positions that are not valid may be nan.
        valid: [T, N], bool or 0/1 (in TAP-Vid: not occluded).
        size: (H, W) of the frame the coordinates belong to.

    Raises:
        InputError: shapes that do not fit each other.
    """
    pred, gt = np.asarray(pred_tracks, np.float32), np.asarray(gt_tracks, np.float32)
    if pred.shape != gt.shape or pred.shape[:2] != np.shape(valid) or pred.ndim != 3 or pred.shape[2] != 2:
        raise InputError(
            f"predicted tracks {pred.shape}, ground truth {gt.shape} and valid {np.shape(valid)} do not fit each other",
            cure="give [T, N, 2], [T, N, 2] and [T, N]",
        )
    mask = np.asarray(valid, bool)  # [T, N]
    names = [f"d_{threshold}" for threshold in THRESHOLDS]
    if mask.size == 0:
        return dict.fromkeys([*names, "d_avg", "survival_16", "median_l2"], float("nan"))

    distance = _scaled_distance(pred, gt, size)  # [T, N]
    scores = {name: _percent_within(distance[1:], mask[1:], x) for name, x in zip(names, THRESHOLDS, strict=True)}
    scores["d_avg"] = float(np.mean([scores[name] for name in names]))
    alive = np.cumprod(~((distance > SURVIVAL_THRESHOLD) & mask), axis=0, dtype=np.float32)
    scores["survival_16"] = 100.0 * float(alive.mean(dtype=np.float32))
    medians = [np.median(distance[mask[:, n], n]) if mask[:, n].any() else np.nan for n in range(mask.shape[1])]
    scores["median_l2"] = float(np.mean(np.asarray(medians, np.float64)))
    return scores


def _scaled_distance(pred: np.ndarray, gt: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Distances in a 256x256 frame, float32 [T, N], infinite where a position is not finite."""
    scale = np.array([size[1] / 256, size[0] / 256], np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.sqrt(np.sum(np.square((pred - gt) / scale), axis=-1))
    return np.where(np.isnan(distance), np.float32(np.inf), distance)


def _percent_within(distance: np.ndarray, valid: np.ndarray, threshold: float) -> float:
    hits = np.sum((distance < threshold) & valid, dtype=np.float32)
    return 100.0 * float(hits / (np.float32(1e-6) + np.sum(valid, dtype=np.float32)))
