"""What every tracker returns, and small helpers that they share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class TrackArrays(NamedTuple):
    """Tracks of N queries over T frames, in index coordinates of the working frame."""

    tracks: np.ndarray  # float32 [T, N, 2]
    visible: np.ndarray  # bool [T, N]
    confidence: np.ndarray  # float32 [T, N], 0..1


def empty_tracks(frames: int, queries: np.ndarray) -> TrackArrays:
    """Arrays for ``queries`` [N, 3] (t, x, y index), with each query's own position, visible, at its frame."""
    count = len(queries)
    tracks = np.repeat(queries[None, :, 1:].astype(np.float32), frames, axis=0)
    visible = np.zeros((frames, count), bool)
    confidence = np.zeros((frames, count), np.float32)
    rows = queries[:, 0].astype(int)
    visible[rows, np.arange(count)] = True
    confidence[rows, np.arange(count)] = 1.0
    return TrackArrays(tracks, visible, confidence)
