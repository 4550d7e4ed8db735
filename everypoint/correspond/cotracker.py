"""CoTracker as a sparse source: grids of points tracked from every few frames give matches of all pairs of frames.

From every ``query_stride``-th frame a jittered grid of points is tracked to both ends of the video. Of each track all
pairs of frames match in which it is visible (visibility times confidence) and farther than a pixel from the border,
where points that have left pile up. At most ``sparse.per_pair`` of a pair are kept, drawn evenly.

The cycle check costs one more pass in either direction, as much as the tracking: each half of a track, after its query
and before it, is tracked back from its last visible frame, and a frame of the half is confirmed where the way back
passes within ``cycle_threshold`` px of the way there. Where the way back also returns to the query, the confirmed
frames of that half match with the query and with the other half; where it does not, they match among themselves only
(the stretch near the end on which both ways agree). What is not confirmed gives no match. Checked is thus every row,
by the one way back of its half of the track; not checked is each end frame on its own, which would cost T times more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from everypoint.artifacts.matches import CYCLE, MatchRows
from everypoint.config.options import Preset
from everypoint.correspond.cotracker_runner import CotrackerRunner, PointTracks
from everypoint.correspond.sparse import SparseVideo
from everypoint.correspond.track_rows import PairReservoir
from everypoint.geometry import inside_index, raster_to_index
from everypoint.progress import Progress

logger = logging.getLogger(__name__)

BORDER = 1.0  # pixels at the border without matches
INSET = 2.0  # pixels at the border without queries, which would cross that line at the least motion
TRUSTED, AFTER, BEFORE = 1, 2, 3  # sets of frames of a track that match with each other


def query_points(size: tuple[int, int], count: int, seed: int, frame: int) -> np.ndarray:
    """One random point in every cell of a regular grid over a frame of ``size`` (H, W), index (x, y), float32 [N, 2].

    ``count`` cells lie along the longer side; the other side gets as many as keep the cells closest to square. The
    jitter depends on (seed, frame), so that the grids of several frames do not query the same places. No point lies
    within ``INSET`` px of the border.
    """
    height, width = size
    cell = max(size) / count
    columns, rows = max(1, round(width / cell)), max(1, round(height / cell))
    random = np.random.Generator(np.random.PCG64([seed, 2, frame]))
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    corner = np.stack([x, y], axis=-1).reshape(-1, 2)
    points = (corner + random.random((rows * columns, 2))) * [width / columns, height / rows]
    last = np.maximum(np.array([width, height]) - 1 - INSET, 0)
    return np.clip(raster_to_index(points), np.minimum(INSET, last), last).astype(np.float32)


def query_groups(
    frames: int, size: tuple[int, int], stride: int, count: int, at_once: int, seed: int
) -> Iterator[np.ndarray]:
    """Queries [N, 3] (t, x, y) of all query frames; a group has at most ``at_once`` points, or one frame."""
    group: list[np.ndarray] = []
    for t in range(0, frames, stride):
        points = query_points(size, count, seed, t)
        if group and sum(map(len, group)) + len(points) > at_once:
            yield np.concatenate(group)
            group = []
        group.append(np.column_stack([np.full(len(points), t), points]).astype(np.float32))
    if group:
        yield np.concatenate(group)


def confirmed_sets(
    runner: CotrackerRunner,
    frames: np.ndarray,
    queries: np.ndarray,
    tracks: PointTracks,
    usable: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """Which frames of each track match with each other by the cycle check, uint8 [T, N]; see the top of this file.

    Args:
        runner: what made ``tracks`` of ``queries`` [N, 3] (t, x, y index).
        frames: uint8 [T, H, W, 3].
        queries: [N, 3].
        tracks: arrays over [T, N].
        usable: bool [T, N], visible and inside the frame.
        threshold: px.

    Returns:
        0 for frames that are not confirmed; frames of a track with the same other number match.
    """
    times, own = np.arange(len(frames))[:, None], queries[:, 0].astype(int)
    sets = np.zeros(usable.shape, np.uint8)
    for ahead, alone in ((True, AFTER), (False, BEFORE)):
        half = usable & (times > own if ahead else times < own)
        some = np.flatnonzero(half.any(axis=0))
        half = half[:, some]
        end = len(frames) - 1 - half[::-1].argmax(axis=0) if ahead else half.argmax(axis=0)
        column = np.arange(len(some))
        asked = np.column_stack([end, tracks.xy[end, some]])
        back = runner.track(frames, asked, forward=not ahead, backward=ahead)
        error = np.linalg.norm(back.xy - tracks.xy[:, some], axis=-1)  # [T, n]
        close = (error <= threshold) & (back.confidence > 0)  # 0: no number was found
        returned = close[own[some], column]
        sets[:, some] += (half & close) * np.where(returned, TRUSTED, alone).astype(np.uint8)
    sets[own, np.arange(len(own))] = TRUSTED
    return sets


class CotrackerSource:
    """Matches along CoTracker's tracks."""

    def __init__(self, preset: Preset, device: torch.device | str = "cpu") -> None:
        self._options, self._per_pair = preset.cotracker, preset.sparse.per_pair
        self._budget = preset.matches.budget_mb
        self._runner = CotrackerRunner(preset.cotracker, device)

    def describe(self) -> dict[str, Any]:
        own = self._options.model_dump(exclude={"weights"})
        if not self._options.cycle_check:
            own.pop("cycle_threshold")
        return (
            {"source": "cotracker", "per_pair": self._per_pair, "budget_mb": self._budget}
            | own
            | self._runner.describe()
        )

    def rows(self, video: SparseVideo, seed: int) -> MatchRows:
        """Rows with frame_i < frame_j; flag CYCLE where the check was made. See :class:`SparseSource`."""
        options, frames = self._options, video.frames
        count, size = len(frames), (frames.shape[1], frames.shape[2])
        reservoir = PairReservoir(count, (1, options.max_gap), self._per_pair, self._budget, seed)
        groups = list(query_groups(count, size, options.query_stride, options.grid, options.points_at_once, seed))
        with Progress(len(groups), "cotracker", unit="groups of queries", logger=logger) as progress:
            for queries in groups:
                self._add(reservoir, frames, queries)
                progress.advance()
        return reservoir.rows(CYCLE if options.cycle_check else 0)

    def _add(self, reservoir: PairReservoir, frames: np.ndarray, queries: np.ndarray) -> None:
        """Track one group of queries, with ``max_gap`` through frames nearby only.

        A pair of frames within ``max_gap`` is reached from the last query frame at or before its first.
        """
        options = self._options
        reach = options.max_gap + options.query_stride - 1 if options.max_gap else len(frames)
        start = max(0, int(queries[0, 0]) - reach)
        window = frames[start : int(queries[-1, 0]) + reach + 1]
        queries = queries - np.array([start, 0, 0], np.float32)
        tracks = self._runner.track(window, queries)
        height, width = frames.shape[1:3]
        inner = inside_index(tracks.xy - BORDER, height - 2 * BORDER, width - 2 * BORDER)
        usable = (tracks.score >= options.visibility) & inner
        if options.cycle_check:
            sets = confirmed_sets(self._runner, window, queries, tracks, usable, options.cycle_threshold)
        else:
            sets = usable.astype(np.uint8)
        reservoir.add(tracks.xy, tracks.score, sets, start)


SOURCE = CotrackerSource
