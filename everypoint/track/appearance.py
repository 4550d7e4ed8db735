"""How alike a point looks in two frames: cosine similarity of per-frame features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from everypoint.config.options import ChainOptions
from everypoint.track.base import TrackArrays

SURE = 0.4  # similarity with its query at which a point is surely itself
KEPT = 2**28  # bytes of frames that are held as float32


class Compared(NamedTuple):
    """How points [n] look after a step."""

    similarity: np.ndarray  # cosine with their queries
    same_surface: np.ndarray  # bool, whether they may still be the same surface


class Appearance:
    """Compares points with their queries' own features. Without features everything is alike.

    Args:
        features: float16 [T, h, w, C] covering the frames, or None.
        frame_size: (H, W) of the frames.
        queries: [N, 3] (t, x, y index).
    """

    def __init__(self, features: np.ndarray | None, frame_size: tuple[int, int], queries: np.ndarray) -> None:
        self._features, self._frame_size = features, frame_size
        self._floats: dict[int, np.ndarray] = {}  # frames as float32, the one used last at the end
        if features is None:
            return
        self._own = np.zeros((len(queries), features.shape[-1]), np.float32)
        for t in np.unique(queries[:, 0].astype(int)):
            rows = np.flatnonzero(queries[:, 0].astype(int) == t)
            self._own[rows] = self.at(t, queries[rows, 1:])

    @property
    def knows(self) -> bool:
        """Whether there are features to compare."""
        return self._features is not None

    def similarity(self, rows: np.ndarray, xy: np.ndarray, t: int) -> np.ndarray:
        """Cosine similarity [n] of index points ``xy`` [n, 2] in frame t with the queries ``rows`` [n]; 1 without."""
        if self._features is None:
            return np.ones(len(xy), np.float32)
        return self._like_query(rows, self.at(t, xy))

    def typical(self, tracks: TrackArrays) -> np.ndarray:
        """How the points of the queries' tracks look where they are sure to be seen, unit features [N, C].

        That is the mean over the frames in which a point is visible and like its query. Without features C is 0.
        """
        if self._features is None:
            return np.zeros((tracks.visible.shape[1], 0), np.float32)
        total = self._own.copy()
        for t, seen in enumerate(tracks.visible):
            there = self.at(t, tracks.tracks[t])
            sure = seen & ((there * self._own).sum(-1) >= SURE)
            total[sure] += there[sure]
        return total / np.maximum(np.linalg.norm(total, axis=-1, keepdims=True), 1e-6)

    def likeness(self, typical: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Cosine similarity [T, N] of index points [T, N, 2] with :meth:`typical` looks [N, C]; 1 without features."""
        if self._features is None:
            return np.ones(places.shape[:2], np.float32)
        return np.stack([(typical * self.at(t, xy)).sum(-1) for t, xy in enumerate(places)])

    def compare(
        self, rows: np.ndarray, before: np.ndarray, target: tuple[int, np.ndarray], options: ChainOptions
    ) -> Compared:
        """How points look after a step, compared with their queries and with themselves before it.

        A point changes its looks over a video, so one that is unlike its query passes if it is like itself one step
        before; what is unlike both has stepped onto another surface.

        Args:
            rows: [n], queries.
            before: how the points look where the step starts, of :meth:`at`.
            target: the frame and the points [n, 2] where it ends.
        """
        if self._features is None:
            return Compared(np.ones(len(rows), np.float32), np.ones(len(rows), bool))
        there = self.at(*target)
        similarity = self._like_query(rows, there)
        like_before = (before * there).sum(-1) >= options.step_appearance_threshold
        return Compared(similarity, (similarity >= options.appearance_threshold) | like_before)

    def fall(self, rows: np.ndarray, before: np.ndarray, after: Compared) -> np.ndarray:
        """By how much [n] points are less like their queries after a step than before it; 0 without features."""
        if self._features is None:
            return np.zeros(len(rows), np.float32)
        return self._like_query(rows, before) - after.similarity

    def _like_query(self, rows: np.ndarray, looks: np.ndarray) -> np.ndarray:
        """Cosine [n] of looks [n, C], of :meth:`at`, with those of the queries."""
        return (self._own[rows] * looks).sum(-1)

    def at(self, t: int, xy: np.ndarray) -> np.ndarray:
        """Unit features [n, C] at index points of a frame (cells tile the frame; bilinear; edges extended).

        Without features C is 0.
        """
        if self._features is None:
            return np.zeros((len(xy), 0), np.float32)
        h, w = self._features.shape[1:3]
        height, width = self._frame_size
        x = np.clip((xy[:, 0] + 0.5) * w / width - 0.5, 0, w - 1)
        y = np.clip((xy[:, 1] + 0.5) * h / height - 0.5, 0, h - 1)
        x0, y0 = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
        x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
        fx, fy = x - x0, y - y0
        cells = np.stack([y0 * w + x0, y0 * w + x1, y1 * w + x0, y1 * w + x1], -1)  # [n, 4]
        weights = np.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], -1).astype(np.float32)
        value = self._mixed(t, cells, weights)
        return value / np.maximum(np.sqrt(np.einsum("nc,nc->n", value, value))[:, None], 1e-6)

    def _mixed(self, t: int, cells: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Sums float32 [n, C] of cells [n, 4] of frame t by weights [n, 4].

        What takes the time is to make float32 of float16, so that is done once a frame where most of it is asked for.
        """
        count, rows = len(cells), np.asarray(self._features[t]).reshape(-1, self._features.shape[-1])
        if t in self._floats or 4 * count >= len(rows):
            rows = self._whole(t, rows)
        else:
            rows, cells = rows[cells.ravel()].astype(np.float32), np.arange(4 * count)
        table = csr_array((weights.ravel(), cells.ravel(), np.arange(0, 4 * count + 1, 4)), shape=(count, len(rows)))
        return table @ rows

    def _whole(self, t: int, rows: np.ndarray) -> np.ndarray:
        """All cells of frame t as float32; those used last are kept."""
        found = self._floats.pop(t, None)
        self._floats[t] = rows.astype(np.float32) if found is None else found
        while len(self._floats) > 1 and len(self._floats) * self._floats[t].nbytes > KEPT:
            del self._floats[next(iter(self._floats))]
        return self._floats[t]
