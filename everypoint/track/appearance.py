"""How alike a point looks in two frames: cosine similarity of per-frame features."""

from __future__ import annotations

import numpy as np

from everypoint.config.options import ChainOptions
from everypoint.track.base import TrackArrays

SURE = 0.4  # similarity with its query at which a point is surely itself


class Appearance:
    """Compares points with their queries' own features. Without features everything is alike.

    Args:
        features: float16 [T, h, w, C] covering the frames, or None.
        frame_size: (H, W) of the frames.
        queries: [N, 3] (t, x, y index).
    """

    def __init__(self, features: np.ndarray | None, frame_size: tuple[int, int], queries: np.ndarray) -> None:
        self._features, self._frame_size = features, frame_size
        if features is None:
            return
        self._own = np.zeros((len(queries), features.shape[-1]), np.float32)
        for t in np.unique(queries[:, 0].astype(int)):
            rows = np.flatnonzero(queries[:, 0].astype(int) == t)
            self._own[rows] = self._at(t, queries[rows, 1:])

    @property
    def knows(self) -> bool:
        """Whether there are features to compare."""
        return self._features is not None

    def similarity(self, rows: np.ndarray, xy: np.ndarray, t: int) -> np.ndarray:
        """Cosine similarity [n] of index points ``xy`` [n, 2] in frame t with the queries ``rows`` [n]; 1 without."""
        if self._features is None:
            return np.ones(len(xy), np.float32)
        return (self._own[rows] * self._at(t, xy)).sum(-1)

    def typical(self, tracks: TrackArrays) -> np.ndarray:
        """How the points of the queries' tracks look where they are sure to be seen, unit features [N, C].

        That is the mean over the frames in which a point is visible and like its query. Without features C is 0.
        """
        if self._features is None:
            return np.zeros((tracks.visible.shape[1], 0), np.float32)
        total = self._own.copy()
        for t, seen in enumerate(tracks.visible):
            there = self._at(t, tracks.tracks[t])
            sure = seen & ((there * self._own).sum(-1) >= SURE)
            total[sure] += there[sure]
        return total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-6)

    def likeness(self, typical: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Cosine similarity [T, N] of index points [T, N, 2] with :meth:`typical` looks [N, C]; 1 without features."""
        if self._features is None:
            return np.ones(places.shape[:2], np.float32)
        return np.stack([(typical * self._at(t, xy)).sum(-1) for t, xy in enumerate(places)])

    def alike(
        self,
        rows: np.ndarray,
        source: tuple[int, np.ndarray],
        target: tuple[int, np.ndarray],
        options: ChainOptions,
    ) -> np.ndarray:
        """Whether points [n] that step from (frame, xy) to (frame, xy) may be the same surface; see :meth:`compare`."""
        return self.compare(rows, source, target, options)[1]

    def compare(
        self,
        rows: np.ndarray,
        source: tuple[int, np.ndarray],
        target: tuple[int, np.ndarray],
        options: ChainOptions,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Similarity [n] with the queries after a step, and whether the points may be the same surface [n].

        A point changes its looks over a video, so one that is unlike its query passes if it is like itself one step
        before; what is unlike both has stepped onto another surface.
        """
        if self._features is None:
            return np.ones(len(rows), np.float32), np.ones(len(rows), bool)
        there = self._at(*target)  # sampled once for both questions
        similarity = (self._own[rows] * there).sum(-1)
        like_before = (self._at(*source) * there).sum(-1) >= options.step_appearance_threshold
        return similarity, (similarity >= options.appearance_threshold) | like_before

    def _at(self, t: int, xy: np.ndarray) -> np.ndarray:
        """Unit features [n, C] at index points of a frame (cells tile the frame; bilinear; edges extended)."""
        field = self._features[t]
        h, w = field.shape[:2]
        height, width = self._frame_size
        x = np.clip((xy[:, 0] + 0.5) * w / width - 0.5, 0, w - 1)
        y = np.clip((xy[:, 1] + 0.5) * h / height - 0.5, 0, h - 1)
        x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
        x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
        fx, fy = (x - x0)[:, None], (y - y0)[:, None]
        corners = [field[y0, x0], field[y0, x1], field[y1, x0], field[y1, x1]]
        v00, v01, v10, v11 = (corner.astype(np.float32) for corner in corners)
        value = (v00 * (1 - fx) + v01 * fx) * (1 - fy) + (v10 * (1 - fx) + v11 * fx) * fy
        return value / np.maximum(np.linalg.norm(value, axis=-1, keepdims=True), 1e-6)
