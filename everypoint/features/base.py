"""What every feature back-end offers, and how one is found by its name.

A back-end is one file of this package (``raft-encoder`` is ``features/raft_encoder.py``), which binds ``BACKEND`` to a
class with the interface of :class:`FeatureBackend`. The file is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from everypoint.artifacts.video import VideoMeta
from everypoint.config.lookup import find_backend
from everypoint.config.options import FeatureOptions

if TYPE_CHECKING:
    import torch


class FeatureBackend(Protocol):
    """A way of describing the appearance around every point of a frame."""

    def __init__(self, options: FeatureOptions, device: torch.device | str) -> None: ...

    def describe(self) -> dict[str, Any]:
        """All that its features depend on besides the frames, as JSON-like values."""
        ...

    def features(
        self,
        frames: np.ndarray,
        step: Callable[[], None] | None = None,
        allocate: Callable[[tuple[int, ...], Any], np.ndarray] = np.empty,
    ) -> np.ndarray:
        """Feature maps float16 [T, h, w, C] of frames uint8 [T, H, W, 3] RGB; ``step`` is called after each frame.

        ``allocate(shape, dtype)`` makes the array that is filled and returned; it may lie in a file.
        Vectors have length 1. The cells of a map tile the frame, so that
        :func:`everypoint.geometry.sample_resized` reads them at points of the frame.
        """
        ...


@runtime_checkable
class StoredFeatures(Protocol):
    """What a back-end has besides, whose features are on disk already."""

    def locate(self, frames: np.ndarray, place: Path | None, meta: VideoMeta) -> None:
        """Find the features of the frames in the user's folder ``place``; comes before all else.

        Raises :class:`everypoint.errors.InputError` when there is no such folder, it is not the video's, or it lacks
        a frame.
        """
        ...


def feature_backend(options: FeatureOptions, device: torch.device | str = "cpu") -> FeatureBackend | None:
    """The back-end that ``options.backend`` names; None for ``none``.

    Raises :class:`ConfigError` when there is no such back-end.
    """
    if options.backend == "none":
        return None
    return find_backend(__package__, options.backend, "feature", "see features.backend")(options, device)
