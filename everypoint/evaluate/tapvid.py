"""TAP-Vid's metrics and OmniMotion's temporal coherence, for one video.

All positions are raster (x, y) in a frame of 256x256 pixels, all arrays are per query: tracks [N, T, 2], occlusion
[N, T]. Definitions: Doersch et al., "TAP-Vid: A Benchmark for Tracking Any Point in a Video" (2022), as its
evaluation code has stood since August 2023; temporal coherence: Wang et al., "Tracking Everything Everywhere All at
Once" (2023).

**Policy for nan.** A ratio whose denominator is zero (no frame is scored, no scored frame shows the point) is nan and
an average over thresholds with a nan in it is nan; nothing is replaced by 0 or 1. Means over videos leave nan out and
say how many they left out (:func:`everypoint.evaluate.protocol.mean_over_videos`).
A predicted position that is not finite lies within no threshold.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from everypoint.errors import InputError

QueryMode = Literal["first", "strided"]

THRESHOLDS = (1, 2, 4, 8, 16)  # pixels of the 256x256 frame
SCORED_SIZE = (256, 256)  # (H, W) of the frame in which all is measured


def evaluation_mask(query_frames: np.ndarray, frames: int, query_mode: QueryMode) -> np.ndarray:
    """Which frames of each query are scored, bool [N, T].

    ``first``: all frames after the query's; ``strided``: all but the query's. Query times [N] are rounded half to even,
    as numpy does. Raises :class:`InputError` for another mode or a query outside the video.
    """
    rounded = np.round(np.asarray(query_frames, dtype=np.float64)).astype(np.int64)  # [N]
    if np.any((rounded < 0) | (rounded >= frames)):
        raise InputError(
            f"a query at frame {rounded[(rounded < 0) | (rounded >= frames)][0]} cannot be scored",
            f"the video has frames 0 to {frames - 1}",
        )
    times = np.arange(frames)
    if query_mode == "first":
        return times > rounded[:, None]
    if query_mode == "strided":
        return times != rounded[:, None]
    raise InputError(f"unknown query mode {query_mode!r}", cure="use first or strided")


def tapvid_metrics(
    query_points: np.ndarray,
    gt_tracks: np.ndarray,
    gt_occluded: np.ndarray,
    pred_tracks: np.ndarray,
    pred_occluded: np.ndarray,
    query_mode: QueryMode,
) -> dict[str, float]:
    """TAP-Vid's metrics of one video, as fractions.

    Args:
        query_points: [N, 3], (t, y, x): TAP-Vid's order. Only t is used.
        gt_tracks: [N, T, 2], 256x256 raster; positions where occluded carry no information and may be nan.
        gt_occluded: bool [N, T].
        pred_tracks: [N, T, 2], 256x256 raster.
        pred_occluded: bool [N, T].
        query_mode: decides which frames are scored, see :func:`evaluation_mask`.

    Returns:
        ``occlusion_accuracy``; ``pts_within_x`` and ``jaccard_x`` for x in 1, 2, 4, 8, 16 (the squared distance must be
        strictly below x^2); their means ``average_pts_within_thresh`` and ``average_jaccard``. nan: see the module.

    Raises:
        InputError: shapes that do not fit each other, or a query outside the video.
    """
    scores = _reduced(query_points, gt_tracks, gt_occluded, pred_tracks, pred_occluded, query_mode, axis=None)
    return {name: float(value) for name, value in scores.items()}


def tapvid_metrics_trackwise(
    query_points: np.ndarray,
    gt_tracks: np.ndarray,
    gt_occluded: np.ndarray,
    pred_tracks: np.ndarray,
    pred_occluded: np.ndarray,
    query_mode: QueryMode,
) -> dict[str, np.ndarray]:
    """:func:`tapvid_metrics` with the sums over time only: every value is an array [N]."""
    return _reduced(query_points, gt_tracks, gt_occluded, pred_tracks, pred_occluded, query_mode, axis=1)


def tapvid_metrics_per_frame(
    query_points: np.ndarray,
    gt_tracks: np.ndarray,
    gt_occluded: np.ndarray,
    pred_tracks: np.ndarray,
    pred_occluded: np.ndarray,
    query_mode: QueryMode,
) -> dict[str, np.ndarray]:
    """Curves over time, arrays [T]: the metrics of each frame over all queries scored in it, and ``error_median``.

    ``error_median`` is the median distance in 256x256 pixels over the scored points that are visible in truth, whether
    or not they are predicted visible (a position that is not finite counts as infinitely far); nan where there is none.
    """
    arrays = (query_points, gt_tracks, gt_occluded, pred_tracks, pred_occluded)
    curves = _reduced(*arrays, query_mode, axis=0)
    frames = gt_occluded.shape[1]
    shown = evaluation_mask(query_points[:, 0], frames, query_mode) & ~np.asarray(gt_occluded, bool)  # [N, T]
    distance = np.sqrt(_squared_distance(gt_tracks, pred_tracks))  # [N, T]
    curves["error_median"] = np.array(
        [np.median(distance[shown[:, t], t]) if shown[:, t].any() else np.nan for t in range(frames)]
    )
    return curves


def _reduced(
    query_points: np.ndarray,
    gt_tracks: np.ndarray,
    gt_occluded: np.ndarray,
    pred_tracks: np.ndarray,
    pred_occluded: np.ndarray,
    query_mode: QueryMode,
    axis: int | None,
) -> dict[str, np.ndarray]:
    """The metrics with their sums taken over ``axis`` of [N, T] (None: both)."""
    _check_shapes(query_points, gt_tracks, gt_occluded, pred_tracks, pred_occluded)
    scored = evaluation_mask(query_points[:, 0], gt_occluded.shape[1], query_mode)  # [N, T]
    visible, claimed = ~np.asarray(gt_occluded, bool), ~np.asarray(pred_occluded, bool)
    squared = _squared_distance(gt_tracks, pred_tracks)

    def count(mask: np.ndarray) -> np.ndarray:
        return np.sum(scored & mask, axis=axis)

    scores = {"occlusion_accuracy": _ratio(count(visible == claimed), count(np.ones_like(visible)))}
    for threshold in THRESHOLDS:
        within = squared < threshold**2
        scores[f"pts_within_{threshold}"] = _ratio(count(visible & within), count(visible))
        true_positives = count(visible & within & claimed)
        # A visible point that is claimed but far is missed and a false positive at once.
        false_positives = count(claimed & ~(visible & within))
        scores[f"jaccard_{threshold}"] = _ratio(true_positives, count(visible) + false_positives)
    for average, each in (("average_jaccard", "jaccard"), ("average_pts_within_thresh", "pts_within")):
        scores[average] = np.mean([scores[f"{each}_{threshold}"] for threshold in THRESHOLDS], axis=0)
    return scores


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, nan where the denominator is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.true_divide(numerator, denominator)


def _squared_distance(gt_tracks: np.ndarray, pred_tracks: np.ndarray) -> np.ndarray:
    """Squared distances [N, T], infinite where either position is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        squared = np.sum(np.square(np.asarray(pred_tracks) - np.asarray(gt_tracks)), axis=-1)
    return np.where(np.isnan(squared), np.inf, squared)


def temporal_coherence(
    gt_tracks: np.ndarray,
    gt_occluded: np.ndarray,
    pred_tracks: np.ndarray,
    pred_occluded: np.ndarray | None = None,
) -> float:
    """Mean distance of predicted from true acceleration, in 256x256 pixels; lower is better.

    Taken over all triples of consecutive frames in which the point is visible in truth, the query frame included; 0
    when there is none. With ``pred_occluded`` only triples that are predicted visible as well. Triples with a predicted
    position that is not finite have no acceleration and are left out. Shapes as in :func:`tapvid_metrics`.
    """
    shown = ~np.asarray(gt_occluded, bool)
    if pred_occluded is not None:
        shown = shown & ~np.asarray(pred_occluded, bool)
    shown = shown & np.isfinite(pred_tracks).all(axis=-1)
    triples = shown[:, :-2] & shown[:, 1:-1] & shown[:, 2:]  # [N, T - 2]
    if not triples.any():
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = _acceleration(np.asarray(pred_tracks)) - _acceleration(np.asarray(gt_tracks))  # [N, T - 2, 2]
    return float(np.mean(np.linalg.norm(difference[triples], axis=-1)))


def _acceleration(tracks: np.ndarray) -> np.ndarray:
    return tracks[:, 2:] - 2 * tracks[:, 1:-1] + tracks[:, :-2]


def _check_shapes(
    query_points: np.ndarray,
    gt_tracks: np.ndarray,
    gt_occluded: np.ndarray,
    pred_tracks: np.ndarray,
    pred_occluded: np.ndarray,
) -> None:
    """Raise :class:`InputError` naming both shapes when two arrays do not fit each other."""
    if np.ndim(gt_occluded) != 2:
        raise InputError(f"ground truth occlusion has shape {np.shape(gt_occluded)} where [queries, frames] is needed")
    queries, frames = np.shape(gt_occluded)
    expected = {
        "query points": (np.shape(query_points), (queries, 3)),
        "ground truth tracks": (np.shape(gt_tracks), (queries, frames, 2)),
        "predicted tracks": (np.shape(pred_tracks), (queries, frames, 2)),
        "predicted occlusion": (np.shape(pred_occluded), (queries, frames)),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise InputError(
                f"{name} have shape {found} where {wanted} is needed",
                f"the ground truth has {queries} queries over {frames} frames",
            )
