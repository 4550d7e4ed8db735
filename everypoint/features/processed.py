"""Features that OmniMotion's or OmniTrackFast's preprocessing left on disk, in place of computing them.

``features/dino/<image>.npy`` is read, else ``dinov2/featmap/<stem>.npz``. Either map covers its image, cell by cell.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import FeatureOptions
from everypoint.errors import InputError
from everypoint.video.paths import shown
from everypoint.video.processed_folder import AGAIN, DINO, DINOV2, ProcessedFolder, digest_of, read_array

if TYPE_CHECKING:
    import torch

KINDS = {DINO: (".npy", None), DINOV2: (".npz", "featmap")}  # part: suffix of its files, array in them


class ProcessedFeatures:
    """Feature maps out of a processed folder, as unit vectors of half precision."""

    def __init__(self, options: FeatureOptions, device: torch.device | str = "cpu") -> None:
        self._part = ""
        self._files: list[Path] = []

    def locate(self, frames: np.ndarray, place: Path | None, meta: VideoMeta) -> None:
        """Find the map of every frame; see :class:`everypoint.features.base.StoredFeatures`."""
        folder = ProcessedFolder(place, meta, frames, "features.folder")
        self._part = DINO if folder.listing(DINO) or not folder.listing(DINOV2) else DINOV2
        suffix = KINDS[self._part][0]
        found = [folder.frame_file(self._part, frame, suffix) for frame in range(len(frames))]
        for name, path in zip(folder.names, found, strict=True):
            if path is None:
                raise folder.missing(self._part, name + suffix, "compute it there or choose another features.backend")
        self._files = [path for path in found if path is not None]

    def describe(self) -> dict[str, Any]:
        return {"backend": "processed", "part": self._part, "files": digest_of(self._files)}

    def features(
        self,
        frames: np.ndarray,
        step: Callable[[], None] | None = None,
        allocate: Callable[[tuple[int, ...], Any], np.ndarray] = np.empty,
    ) -> np.ndarray:
        """Feature maps float16 [T, h, w, C]; see :class:`everypoint.features.base.FeatureBackend`."""
        if len(self._files) != len(frames):
            raise ValueError("locate() comes first")
        shape = self._read(self._files[0]).shape
        maps = allocate((len(frames), *shape), np.float16)
        for t, path in enumerate(self._files):
            field = self._read(path)
            if field.shape != shape:
                raise InputError(
                    f"{shown(path)} does not fit {shown(self._files[0])}",
                    f"its shape is {field.shape}, the other's {shape}",
                    AGAIN,
                )
            maps[t] = field / np.maximum(np.linalg.norm(field, axis=-1, keepdims=True), 1e-6)
            if step is not None:
                step()
        return maps

    def _read(self, path: Path) -> np.ndarray:
        """The map float32 [h, w, C] of one file, finite."""
        field = read_array(path, KINDS[self._part][1])
        if field.ndim != 3 or 0 in field.shape:
            raise InputError(f"{shown(path)} cannot be used", f"its shape is {field.shape}, not h x w x C", AGAIN)
        if not np.isfinite(field).all():
            raise InputError(f"{shown(path)} cannot be used", "it holds values that are not finite", AGAIN)
        return field


BACKEND = ProcessedFeatures
