"""One depth everywhere: a plane that faces the camera, for scenes of which nothing is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import DepthOptions
from everypoint.depth.base import Allocate

if TYPE_CHECKING:
    import torch


class ConstantDepth:
    """``depth.value`` metres in every frame, as maps of one cell that covers the frame."""

    def __init__(self, options: DepthOptions, device: torch.device | str = "cpu") -> None:
        self._value = options.value

    def depth(
        self,
        frames: np.ndarray,
        meta: VideoMeta,
        place: Path | None = None,
        step: Callable[[], None] | None = None,
        allocate: Allocate = np.empty,
    ) -> np.ndarray:
        """Depth float16 [T, 1, 1]; see :class:`everypoint.depth.base.DepthBackend`."""
        maps = allocate((len(frames), 1, 1), np.float16)
        with np.errstate(over="ignore"):  # too large for float16 becomes infinite, which nobody takes for a depth
            maps[:] = np.float64(self._value)
        return maps

    def describe(self) -> dict[str, Any]:
        return {"backend": "constant", "unit": "metre", "value": self._value}


BACKEND = ConstantDepth
