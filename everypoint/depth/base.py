"""What every depth prior offers, and how one is found by its name.

A back-end is one file of this package (``depth-anything`` is ``depth/depth_anything.py``), which binds ``BACKEND`` to a
class with the interface of :class:`DepthBackend`. The file is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from everypoint.artifacts.video import VideoMeta
from everypoint.config.lookup import find_backend
from everypoint.config.options import DepthOptions

if TYPE_CHECKING:
    import torch


Allocate = Callable[[tuple[int, ...], Any], np.ndarray]  # makes an array of a shape and type, in memory or in a file


class DepthBackend(Protocol):
    """A source of the distance along the camera's axis of what every frame shows."""

    def __init__(self, options: DepthOptions, device: torch.device | str) -> None: ...

    def depth(
        self,
        frames: np.ndarray,
        meta: VideoMeta,
        place: Path | None = None,
        step: Callable[[], None] | None = None,
        allocate: Allocate = np.empty,
    ) -> np.ndarray:
        """Depth float16 [T, h, w] of frames uint8 [T, H, W, 3] RGB; ``step`` is called after each frame.

        The cells of a map tile the frame, so that :func:`everypoint.geometry.sample_resized` reads it at points of the
        frame. Where the depth is unknown it is not finite or not positive. ``place`` is the
        folder that belongs to the video, where there is one. The result is made by ``allocate`` and filled in place: it
        may be larger than memory.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """All that its depth depends on besides the frames, as JSON-like values; asked after :meth:`depth`.

        ``unit`` is ``metre``, or ``relative`` where depths agree within the video but their scale means nothing.
        """
        ...


def depth_backend(options: DepthOptions, device: torch.device | str = "cpu") -> DepthBackend | None:
    """The back-end that ``options.backend`` names; None for ``none``.

    Raises :class:`ConfigError` when there is no such back-end.
    """
    if options.backend == "none":
        return None
    return find_backend(__package__, options.backend, "depth", "see depth.backend")(options, device)
