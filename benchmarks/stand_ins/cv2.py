"""The few functions of OpenCV that reading tracks out needs, in numpy; for machines to which OpenCV cannot be brought.

:mod:`lent` puts this folder at the end of the path, so that the package itself comes first where it is installed.
Anything else that is asked for is an error, which names it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__version__ = "stand-in"
INTER_LINEAR = 1
BORDER_REPLICATE = 1


def setNumThreads(count: int) -> None:  # noqa: N802 - OpenCV's name
    """Nothing here has threads."""


def absdiff(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Absolute difference of two uint8 arrays of one shape."""
    return np.maximum(first, second) - np.minimum(first, second)


def remap(image: np.ndarray, x: np.ndarray, y: np.ndarray, interpolation: int, *, borderMode: int) -> np.ndarray:
    """Bilinear values uint8 [h, w, C] of an image uint8 [H, W, C] at x, y float32 [h, w]; the edges are extended."""
    if interpolation != INTER_LINEAR or borderMode != BORDER_REPLICATE or image.dtype != np.uint8:
        raise NotImplementedError("this stand-in for OpenCV is bilinear, extends the edges, and takes uint8")
    low_x, low_y = np.floor(x), np.floor(y)
    right, down = (x - low_x)[..., None], (y - low_y)[..., None]
    columns = [np.clip(low_x.astype(np.int64) + step, 0, image.shape[1] - 1) for step in (0, 1)]
    rows = [np.clip(low_y.astype(np.int64) + step, 0, image.shape[0] - 1) for step in (0, 1)]
    top, low = (image[row, columns[0]] * (1 - right) + image[row, columns[1]] * right for row in rows)
    return np.rint(top + (low - top) * down).astype(np.uint8)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"cv2.{name} is not in the stand-in for OpenCV: install opencv-python-headless")
