"""One video's tracks against its annotations: which rows are scored, in which frame, and the protocol beside it.

The protocol is part of the result: query mode, stride, frames, the size the method worked at, and that all is measured
in a raster of 256x256 pixels, whatever the size of the video.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from everypoint import geometry
from everypoint.artifacts.tracks import Tracks
from everypoint.errors import InputError
from everypoint.evaluate.queries import SampledQueries, sample_queries
from everypoint.evaluate.tapvid import (
    SCORED_SIZE,
    THRESHOLDS,
    QueryMode,
    tapvid_metrics,
    tapvid_metrics_per_frame,
    temporal_coherence,
)
from everypoint.pips.metrics import pips_metrics

QUERY_TOLERANCE = 0.05  # pixels of the 256x256 frame by which a row's query may differ from the annotation's


def queries_from_annotations(
    points: np.ndarray,
    occluded: np.ndarray,
    modes: Sequence[QueryMode],
    stride: int,
    original_size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The queries of annotations, for all modes together.

    Args:
        points: [N, T, 2], normalised raster (x, y), over the frames that are tracked.
        occluded: bool [N, T].
        modes: any of ``first``, ``strided``.
        stride: frames between the queries of ``strided``.
        original_size: (H, W) of the frames that the queries are meant for.

    Returns:
        queries float32 [M, 3], (t, x, y) in raster pixels of ``original_size``; ids str [M], ``first-<track>`` or
        ``strided-<track>-<t>``, by which :func:`evaluate_tracks` finds its rows; sets str [M], ``tapvid-<mode>``.
    """
    queries, ids, sets = [np.zeros((0, 3), np.float32)], [np.zeros(0, "<U1")], [np.zeros(0, "<U1")]
    height, width = original_size
    for mode in dict.fromkeys(modes):
        sampled = sample_queries(points, occluded, mode, stride)
        t, y, x = sampled.query_points.T
        queries.append(np.column_stack([t, x * width, y * height]).astype(np.float32))
        ids.append(sampled.ids)
        sets.append(np.full(len(sampled.ids), f"tapvid-{mode}"))
    return np.concatenate(queries), np.concatenate(ids), np.concatenate(sets)


def evaluate_tracks(
    tracks: Tracks,
    points: np.ndarray,
    occluded: np.ndarray,
    modes: Sequence[QueryMode] = ("strided",),
    stride: int = 5,
    *,
    working_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """All metrics of one video's tracks.

    Args:
        tracks: the tracks; rows are found by the ids of :func:`queries_from_annotations`, others are left aside.
        points: [N, T, 2], normalised raster (x, y) over the very frames of the tracks; may be nan where occluded.
        occluded: bool [N, T].
        modes: query modes, each scored on its own.
        stride: frames between the queries of ``strided``.
        working_size: (H, W) of the frames the method saw, for the protocol only.

    Returns:
        ``protocol`` (a dict), ``modes`` (mode -> scores, see :func:`score_rows`) and ``per_frame`` (mode -> curves
        ``average_jaccard`` and ``error_median``, lists over frames).

    Raises:
        InputError: another number of frames, rows that are missing, or rows made for another query point.
    """
    points, occluded = np.asarray(points), np.asarray(occluded, bool)
    frames = tracks.tracks.shape[0]
    if occluded.ndim != 2 or occluded.shape[1] != frames or points.shape != (*occluded.shape, 2):
        raise InputError(
            "tracks and annotations do not fit each other",
            f"tracks [T, N, 2] are {tracks.tracks.shape}, annotated points [N, T, 2] {points.shape}, "
            f"occluded {occluded.shape}",
            "use annotations of the very frames that were tracked",
        )
    result: dict[str, Any] = {
        "protocol": describe_protocol(tracks, occluded, modes, stride, working_size),
        "modes": {},
        "per_frame": {},
    }
    for mode in dict.fromkeys(modes):
        sampled = sample_queries(points, occluded, mode, stride)
        rows = rows_by_id(tracks, sampled)
        result["modes"][mode], result["per_frame"][mode] = score_rows(tracks, rows, sampled, mode)
    return result


def score_rows(
    tracks: Tracks, rows: np.ndarray, sampled: SampledQueries, mode: QueryMode
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Scores and curves of chosen rows of a tracks file.

    Positions are scaled to 256x256; a point predicted outside the frame counts as predicted occluded.

    Args:
        tracks: raster pixels of ``tracks.frame_size``.
        rows: int [M], the row of each query.
        sampled: M queries with normalised ground truth.
        mode: which frames are scored.

    Returns:
        Scores: TAP-Vid's as fractions; ``temporal_coherence`` and ``temporal_coherence_predvis`` in pixels; PIPs++'s
        d_1 .. d_16, d_avg, survival_16 in percent and median_l2 in pixels, over the queries at frame 0 only (the tracks
        visible in frame 0, as in PIPs++'s own test on TAP-Vid; a point counts where it is visible in truth, and
        predicted visibility plays no part); ``queries`` and ``pips_queries``, how many there are. Curves: see
        :func:`evaluate_tracks`.
    """
    query, gt = sampled.query_points, _scale(sampled.gt_tracks, (1, 1))
    pred = _scale(tracks.tracks[:, rows].transpose(1, 0, 2), tracks.frame_size)  # [M, T, 2]
    hidden = ~tracks.visibility[:, rows].T | ~_inside(pred)  # [M, T]
    arrays = (query, gt, sampled.gt_occluded, pred, hidden)

    scores: dict[str, float] = {**tapvid_metrics(*arrays, mode)}
    scores["temporal_coherence"] = temporal_coherence(gt, sampled.gt_occluded, pred)
    scores["temporal_coherence_predvis"] = temporal_coherence(gt, sampled.gt_occluded, pred, hidden)
    from_start = sampled.frames == 0
    scores |= pips_metrics(
        pred[from_start].transpose(1, 0, 2),
        gt[from_start].transpose(1, 0, 2),
        ~sampled.gt_occluded[from_start].T,
        SCORED_SIZE,
    )
    scores |= {"queries": len(rows), "pips_queries": int(from_start.sum())}
    curves = tapvid_metrics_per_frame(*arrays, mode)
    return scores, {name: curves[name].tolist() for name in ("average_jaccard", "error_median")}


def _scale(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Raster points [..., 2] of a frame of ``size`` (H, W) in the 256x256 raster, float64: a pure scale."""
    return geometry.scale_raster(np.asarray(points, np.float64), size, SCORED_SIZE)


def _inside(points: np.ndarray) -> np.ndarray:
    """Whether points of the 256x256 raster lie in the frame; False for a position that is not finite."""
    height, width = SCORED_SIZE
    x, y = points[..., 0], points[..., 1]
    return (x >= 0) & (x <= width) & (y >= 0) & (y <= height)


def rows_by_id(tracks: Tracks, sampled: SampledQueries) -> np.ndarray:
    """The row of every query, int64 [M], found by its id.

    Raises :class:`InputError` when rows are missing or were made for another point than the annotations say.
    """
    row_of = {str(name): row for row, name in enumerate(tracks.query_ids)}
    missing = [str(name) for name in sampled.ids if str(name) not in row_of]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(sampled.ids)} queries have no track, {missing[0]!r} for instance",
            cure="track with the queries of these annotations and this query mode and stride",
        )
    rows = np.array([row_of[str(name)] for name in sampled.ids], dtype=np.int64)
    return _checked(tracks, sampled, rows)


def rows_by_query(tracks: Tracks, sampled: SampledQueries) -> np.ndarray:
    """The row of every query, int64 [M], found by its frame and position: the row of that frame whose query is nearest.

    Raises :class:`InputError` when a frame has no query, or the nearest one is more than 0.05 pixels of the 256x256
    frame away.
    """
    found, wanted = _queries_scored(tracks), _wanted(sampled)
    rows = np.zeros(len(wanted), np.int64)
    for m, query in enumerate(wanted):
        candidates = np.flatnonzero(found[:, 0] == query[0])
        if not len(candidates):
            raise InputError(
                f"no track was queried at frame {int(query[0])}, as {str(sampled.ids[m])!r} is",
                cure="track with the queries of these annotations and this query mode and stride",
            )
        rows[m] = candidates[np.argmin(np.abs(found[candidates, 1:] - query[1:]).max(axis=1))]
    return _checked(tracks, sampled, rows)


def _checked(tracks: Tracks, sampled: SampledQueries, rows: np.ndarray) -> np.ndarray:
    """``rows`` when each was made for the very query point of the annotations, else :class:`InputError`."""
    found, wanted = _queries_scored(tracks)[rows], _wanted(sampled)
    off = np.abs(found - wanted)  # [M, 3]
    wrong = np.flatnonzero((off[:, 0] > 0) | ~(off[:, 1:].max(axis=1, initial=0) <= QUERY_TOLERANCE))
    if len(wrong):
        n = wrong[0]
        raise InputError(
            f"the track for {str(sampled.ids[n])!r} was made for query (t, x, y) = {_triple(found[n])} at 256x256",
            f"the annotations say {_triple(wanted[n])}",
            "use the annotations that the tracks were made from",
        )
    return rows


def _queries_scored(tracks: Tracks) -> np.ndarray:
    """Queries (t, x, y) of a tracks file in the 256x256 raster, float64 [N, 3]."""
    return np.column_stack([tracks.queries[:, 0], _scale(tracks.queries[:, 1:], tracks.frame_size)])


def _wanted(sampled: SampledQueries) -> np.ndarray:
    """Queries (t, x, y) of normalised annotations in the 256x256 raster, float64 [M, 3]."""
    return np.column_stack([sampled.query_points[:, 0], _scale(sampled.query_points[:, [2, 1]], (1, 1))])


def _triple(query: np.ndarray) -> str:
    return f"({query[0]:g}, {query[1]:.2f}, {query[2]:.2f})"


def describe_protocol(
    tracks: Tracks,
    occluded: np.ndarray,
    modes: Sequence[QueryMode],
    stride: int,
    working_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """What a number was measured under, as plain values for ``metrics.json``."""
    size = working_size or tracks.meta.get("working_size")
    return {
        "query_modes": list(dict.fromkeys(modes)),
        "query_stride": stride,
        "frames": int(occluded.shape[1]),
        "annotated_tracks": int(occluded.shape[0]),
        "original_size": list(tracks.frame_size),
        "working_size": list(size) if size else None,
        "scored_size": list(SCORED_SIZE),
        "thresholds": list(THRESHOLDS),
        "outside_frame": "counted as predicted occluded",
        "pips_tracks": "queried at frame 0, valid where visible in truth",
    }


def protocol_line(protocol: dict[str, Any], mode: QueryMode) -> str:
    """The protocol of one mode in words, for tables: ``query strided (every 5 frames), 32 frames, ...``."""
    parts = [f"query {mode}" + (f" (every {protocol['query_stride']} frames)" if mode == "strided" else "")]
    parts.append(f"{protocol['frames']} frames")
    if protocol.get("working_size"):
        parts.append("worked at {}x{}".format(*protocol["working_size"]))
    parts.append("scored at {}x{}".format(*protocol["scored_size"]))
    return ", ".join(parts)


def mean_over_videos(scores: Iterable[dict[str, float]]) -> tuple[dict[str, float], dict[str, int]]:
    """The benchmark's number: the plain mean of each score over videos.

    Returns the means and, for each score, how many videos it was taken over: those where it is nan (or None) are left
    out. ``queries`` and ``pips_queries`` are summed.
    """
    rows = list(scores)
    means, counted = {}, {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = np.array([np.nan if row.get(name) is None else row[name] for row in rows], np.float64)
        kept = values[~np.isnan(values)]
        counted[name] = len(kept)
        if name in ("queries", "pips_queries"):
            means[name] = int(kept.sum())
        else:
            means[name] = float(kept.mean()) if len(kept) else float("nan")
    return means, counted
