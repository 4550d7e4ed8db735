"""The depth stage: depth maps of all frames and the mask of those to rely on, in checked files."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import sha256_of
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import DepthOptions
from everypoint.depth.base import depth_backend
from everypoint.errors import ArtifactError, InputError
from everypoint.progress import Progress

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

SMALLEST, LARGEST = (float(limit) for limit in (np.finfo(np.float16).tiny, np.finfo(np.float16).max))


def mask_path(path: str | os.PathLike[str]) -> Path:
    """The mask beside a depth file: ``depth.mask.npy`` beside ``depth.npy``."""
    path = Path(path)
    return path.with_name(f"{path.stem}.mask.npy")


def compute_depth(
    frames: np.ndarray,
    meta: VideoMeta,
    options: DepthOptions,
    out_path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    place: Path | None = None,
) -> None:
    """Write the depth of frames uint8 [T, H, W, 3] to ``out_path``, float16 [T, h, w].

    Beside it stand the mask bool [T, h, w] of the cells to rely on (:func:`mask_path`), and under the suffix ``.json``
    what made them, the unit and the hashes of both files. Every depth in the file is finite and positive: one that is
    not, or that float16 cannot hold as a normal number (below 6.1e-5, above 65504), is masked and becomes that of the
    nearest cell of its frame which has one, or of the nearest frame where its own has none. The back-end ``none``
    writes empty arrays [T, 0, 0], which :func:`load_depth` gives back as None.

    Args:
        frames: the working frames.
        meta: which frames of the source they are.
        options: the back-end and its options, and those of the mask.
        out_path: where the depth goes, ``depth.npy``.
        device: where a network runs.
        place: the video's own folder (OmniMotion's SEQ, a folder of images), where it has one.

    Raises:
        EverypointError: a folder, weights or a package that cannot be had, or no depth at all.
    """
    backend = depth_backend(options, device)
    if backend is None:
        depth = np.empty((len(frames), 0, 0), np.float16)
        _publish(out_path, depth, depth > 0, {"backend": "none"}, frames.shape[1:3])
        return
    with Progress(len(frames), f"{options.backend} depth", unit="frames", logger=logger) as progress:
        depth = backend.depth(frames, meta, place, progress.advance)
    valid = fill(depth, meta.name)
    mask = _masks(depth, valid, options, frames.shape[1:3])
    logger.info(
        "%s: %.1f %% of the depth has a value, %.1f %% is kept", meta.name, 100 * valid.mean(), 100 * mask.mean()
    )
    _publish(out_path, depth, mask, backend.describe(), frames.shape[1:3])


def fill(depth: np.ndarray, name: str = "the video") -> np.ndarray:
    """Put values in place of those that are no depth, in ``depth`` float16 [T, h, w] itself; returns where it was one.

    Raises :class:`InputError` when no cell of any frame has a depth.
    """
    from scipy.ndimage import distance_transform_edt

    valid = (depth >= SMALLEST) & (depth <= LARGEST)  # NaN is neither
    some = np.flatnonzero(valid.any(axis=(1, 2)))
    if len(some) == 0:
        why = f"every value is zero, negative, not finite, or outside of {SMALLEST:.1g} to {LARGEST:.5g}"
        raise InputError(f"{name} has no depth", why, "check depth.folder, depth.unit, depth.inverse and depth.value")
    for t in some:
        if not valid[t].all():
            nearest = distance_transform_edt(~valid[t], return_distances=False, return_indices=True)
            depth[t] = depth[t][tuple(nearest)]
    for t in np.flatnonzero(~valid.any(axis=(1, 2))):
        depth[t] = depth[some[np.abs(some - t).argmin()]]
    return valid


def _masks(depth: np.ndarray, valid: np.ndarray, options: DepthOptions, frame_size: tuple[int, int]) -> np.ndarray:
    """The mask bool [T, h, w] of the depths to rely on."""
    if options.outlier_sigma == 0 or depth[0].size == 1:
        return valid
    import torch

    from everypoint.depth.outliers import outlier_mask

    mask = np.empty_like(valid)
    with Progress(len(depth), "depth outliers", unit="frames", logger=logger) as progress:
        for t in range(len(depth)):
            mask[t] = outlier_mask(
                depth[t],
                valid[t],
                frame_size,
                fov=options.fov,
                neighbours=options.outlier_neighbours,
                sigma=options.outlier_sigma,
                workers=torch.get_num_threads(),
            )
            progress.advance()
    return mask


def _publish(
    out_path: str | os.PathLike[str], depth: np.ndarray, mask: np.ndarray, made_by: dict, frame_size: tuple[int, int]
) -> None:
    """Write both arrays, then their description."""
    out_path = Path(out_path)
    atomic.save_npy(out_path, depth)
    atomic.save_npy(mask_path(out_path), mask)
    description = {
        "made_by": made_by,
        "unit": made_by.get("unit"),
        "shape": depth.shape,
        "frame_size": frame_size,
        "kept": float(mask.mean()) if mask.size else None,
        "sha256": sha256_of(out_path),
        "mask_sha256": sha256_of(mask_path(out_path)),
    }
    atomic.write_json(out_path.with_suffix(".json"), description)


def load_depth(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Depth float16 [T, h, w] and its mask bool [T, h, w], memory-mapped; None where the back-end was ``none``.

    Raises :class:`ArtifactError` when a file is missing, damaged, or not the one that the description names.
    """
    path = Path(path)
    depth, mask = (atomic.load_npy(file, mmap=True) for file in (path, mask_path(path)))
    description = atomic.read_json(path.with_suffix(".json"))
    right = depth.ndim == 3 and depth.dtype == np.float16 and mask.dtype == np.bool_ and mask.shape == depth.shape
    hashes = (description.get("sha256"), description.get("mask_sha256"))
    if not right or hashes != (sha256_of(path), sha256_of(mask_path(path))):
        raise ArtifactError(f"{path} is damaged", "it does not fit its description", "delete it and run again")
    return (depth, mask) if depth.size else None
