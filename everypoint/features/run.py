"""The features stage: feature maps of all frames in one checked file."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import sha256_of
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import FeatureOptions
from everypoint.errors import ArtifactError
from everypoint.features.base import StoredFeatures, feature_backend
from everypoint.progress import Progress

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def compute_features(
    frames: np.ndarray,
    options: FeatureOptions,
    out_path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    place: Path | None = None,
    meta: VideoMeta | None = None,
) -> None:
    """Write the features of frames uint8 [T, H, W, 3] to ``out_path``, float16 [T, h, w, C], never all in memory.

    Beside it, under the same name with the suffix ``.json``, stand what made them and the hash of the file. The
    back-end ``none`` writes an empty array [T, 0, 0, 0], which :func:`load_features` gives back as None.
    The back-end ``processed`` reads the folder ``place`` of the video ``meta``.

    Raises :class:`everypoint.errors.EverypointError` for weights that cannot be had, features that are not on disk, or
    a full disk.
    """
    backend = feature_backend(options, device)
    if isinstance(backend, StoredFeatures):
        if meta is None:
            raise ValueError(f"the back-end {options.backend} needs to know the video")
        backend.locate(frames, place, meta)
    out_path = Path(out_path)
    if backend is None:
        maps, made_by = np.empty((len(frames), 0, 0, 0), np.float16), {"backend": "none"}
        atomic.save_npy(out_path, maps)
    else:
        made_by = backend.describe()
        with (
            Progress(len(frames), f"{options.backend} features", unit="frames", logger=logger) as progress,
            atomic.mapped_npy(out_path) as allocate,
        ):
            maps = backend.features(frames, progress.advance, allocate)
    description = {"made_by": made_by, "shape": maps.shape, "frame_size": frames.shape[1:3]}
    atomic.write_json(out_path.with_suffix(".json"), description | {"sha256": sha256_of(out_path)})


def join_features(parts: Sequence[str | os.PathLike[str]], out_path: str | os.PathLike[str]) -> None:
    """Write the features of all frames from those of their shards, in order, never all in memory.

    Raises :class:`ArtifactError` when a part is damaged or was made by something else than the first.
    """
    out_path = Path(out_path)
    maps = [load_features(part) for part in parts]
    described = [atomic.read_json(Path(part).with_suffix(".json")) for part in parts]
    for part, one, description in zip(parts, maps, described, strict=True):
        alike = description["made_by"] == described[0]["made_by"] and one is not None
        if not alike or one.shape[1:] != maps[0].shape[1:]:
            raise ArtifactError(f"{part} does not fit {parts[0]}", "they were not made alike", "delete both, run again")
    shape = (sum(len(one) for one in maps), *maps[0].shape[1:])
    with atomic.mapped_npy(out_path) as allocate:
        whole, start = allocate(shape, np.float16), 0
        for one in maps:
            whole[start : start + len(one)] = one
            start += len(one)
    description = {**described[0], "shape": shape, "sha256": sha256_of(out_path)}
    atomic.write_json(out_path.with_suffix(".json"), description)


def load_features(path: str | os.PathLike[str]) -> np.ndarray | None:
    """Features float16 [T, h, w, C], memory-mapped; None where the back-end was ``none``.

    Raises :class:`ArtifactError` when the file is missing, damaged, or not the one that its description names.
    """
    path = Path(path)
    maps = atomic.load_npy(path, mmap=True)
    description = atomic.read_json(path.with_suffix(".json"))
    if maps.ndim != 4 or maps.dtype != np.float16 or description.get("sha256") != sha256_of(path):
        raise ArtifactError(f"{path} is damaged", "it does not fit its description", "delete it and run again")
    return maps if maps.size else None
