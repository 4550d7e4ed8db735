"""What the data sets of PIPs++ give and what its training and tests take."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Clip(NamedTuple):
    """One training sample. Positions are (x, y) in index pixels of the clip's frames (first pixel's centre at 0)."""

    rgb: np.ndarray  # uint8 [S, 3, H, W]
    trajs: np.ndarray  # float32 [S, N, 2]
    visibs: np.ndarray  # float32 [S, N], 1 where the point is seen
    valids: np.ndarray  # float32 [S, N], 1 where the position is known; 0 also for padded tracks
    ok: bool  # False: nothing could be read, the arrays are zero and the sample is to be left out


class Sequence(NamedTuple):
    """One whole annotated video of a test set, its frames read one by one."""

    name: str
    load: Callable[[int], np.ndarray]  # frame number -> uint8 [H, W, 3], RGB
    count: int  # frames
    size: tuple[int, int]  # height, width of the frames
    trajs: np.ndarray  # float32 [T, N, 2], (x, y) in index pixels of these frames
    visibs: np.ndarray  # float32 [T, N]
    valids: np.ndarray  # float32 [T, N]: the frames that count in the metric
