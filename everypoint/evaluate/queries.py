"""TAP-Vid's two ways to make queries from annotated tracks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from everypoint.errors import InputError
from everypoint.evaluate.tapvid import QueryMode


@dataclass(frozen=True)
class SampledQueries:
    """M queries with the annotated track that each belongs to.

    Attributes:
        query_points: float64 [M, 3], (t, y, x): TAP-Vid's order, in the units of the points they were made from.
        gt_tracks: [M, T, 2], (x, y).
        gt_occluded: bool [M, T].
        track_index: int64 [M], the row of the annotations.
        ids: str [M], ``first-<track>`` or ``strided-<track>-<t>``; unique within a video.
    """

    query_points: np.ndarray
    gt_tracks: np.ndarray
    gt_occluded: np.ndarray
    track_index: np.ndarray
    ids: np.ndarray

    @property
    def frames(self) -> np.ndarray:
        """Query frames, int64 [M]."""
        return self.query_points[:, 0].astype(np.int64)


def sample_queries(points: np.ndarray, occluded: np.ndarray, mode: QueryMode, stride: int = 5) -> SampledQueries:
    """Queries of annotated tracks, in TAP-Vid's order.

    ``first``: one query a track, at its first visible frame; tracks that are never visible give none.
    ``strided``: at frames 0, stride, 2 stride, ... one query for every track visible there, ordered by frame, then
    track.

    Args:
        points: [N, T, 2], (x, y), normalised or raster; queries have the same units.
        occluded: bool [N, T].
        mode: ``first`` or ``strided``.
        stride: frames between the queries of ``strided``.

    Raises:
        InputError: shapes that do not fit, an unknown mode or a stride below 1.
    """
    points, occluded = np.asarray(points), np.asarray(occluded, bool)
    if occluded.ndim != 2 or points.shape != (*occluded.shape, 2):
        raise InputError(f"points {points.shape} and occluded {occluded.shape} are not [N, T, 2] and [N, T]")
    if mode == "first":
        track = np.flatnonzero(~occluded.all(axis=1))
        time = np.argmax(~occluded[track], axis=1) if len(track) else track
    elif mode == "strided":
        if stride < 1:
            raise InputError(f"a query stride of {stride} is impossible", cure="use 1 or more")
        step, track = np.nonzero(~occluded[:, ::stride].T)
        time = step * stride
    else:
        raise InputError(f"unknown query mode {mode!r}", cure="use first or strided")
    xy = points[track, time]  # [M, 2]
    return SampledQueries(
        query_points=np.column_stack([time, xy[:, 1], xy[:, 0]]).astype(np.float64),
        gt_tracks=points[track],
        gt_occluded=occluded[track],
        track_index=track.astype(np.int64),
        ids=np.array([_query_id(mode, n, t) for n, t in zip(track, time, strict=True)], dtype=np.str_),
    )


def _query_id(mode: QueryMode, track: int, time: int) -> str:
    return f"first-{track}" if mode == "first" else f"strided-{track}-{time}"
