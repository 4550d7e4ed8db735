"""Dense inverse search flow of OpenCV: weight-free, a few frames a second on one core.

Source: Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from everypoint.config.options import FlowOptions
from everypoint.correspond.resolution import flow_size

if TYPE_CHECKING:
    import torch

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
SMALLEST_SIDE = 32  # below this the coarsest level of the search holds no patch; frames are padded up to it


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV on one thread. DIS propagates matches within stripes of the frame, which it hands out to threads.

    No dependence on their number was seen (OpenCV 5, one to four threads), but none is promised either.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


class DisSession:
    """Flows of one video. Grey frames are made on demand: it costs far less than the flow."""

    def __init__(self, frames: np.ndarray, options: FlowOptions) -> None:
        self._frames = frames
        self._height, self._width = frames.shape[1:3]
        self._size = flow_size((self._height, self._width), options)
        self._search = cv2.DISOpticalFlow_create(_PRESETS[options.quality])

    def flows(self, source: int, targets: Sequence[int]) -> np.ndarray:
        """Flows float32 [n, H, W, 2] in pixels; see :class:`everypoint.correspond.base.FlowSession`."""
        result = np.empty((len(targets), self._height, self._width, 2), np.float32)
        with _one_thread():
            first = self._grey(source)
            for row, target in enumerate(targets):
                result[row] = self._restore(self._search.calc(first, self._grey(target), None))
        return result

    def _grey(self, index: int) -> np.ndarray:
        """The luma of a frame at the size of the flow, padded up to the smallest size. uint8 [h, w]."""
        grey = cv2.cvtColor(np.ascontiguousarray(self._frames[index]), cv2.COLOR_RGB2GRAY)
        h, w = self._size
        if (h, w) != grey.shape:
            shrink = h < self._height
            grey = cv2.resize(grey, (w, h), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
        below, right = max(SMALLEST_SIDE - h, 0), max(SMALLEST_SIDE - w, 0)
        return cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_REPLICATE) if below or right else grey

    def _restore(self, flow: np.ndarray) -> np.ndarray:
        """A flow at its own size as a flow of the frame (raster resize of the field, vectors scaled)."""
        h, w = self._size
        flow = flow[:h, :w]
        if (h, w) == (self._height, self._width):
            return flow
        field = cv2.resize(flow, (self._width, self._height), interpolation=cv2.INTER_LINEAR)
        return field * np.array([self._width / w, self._height / h], np.float32)


class DisBackend:
    """OpenCV's DIS between luma images; always on the CPU, one thread, so that equal input gives equal bits."""

    def __init__(self, options: FlowOptions, device: torch.device | str = "cpu") -> None:
        self._options = options

    def describe(self) -> dict[str, Any]:
        chosen = self._options.model_dump(include={"quality", "resolution", "upsample_below"})
        return {"backend": "dis", "opencv": cv2.__version__, **chosen}

    def open(self, frames: np.ndarray) -> DisSession:
        return DisSession(frames, self._options)


BACKEND = DisBackend
