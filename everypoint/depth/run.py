"""The depth stage: depth maps of all frames and the mask of those to rely on, in checked files."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    out_path, frame_size = Path(out_path), frames.shape[1:3]
    if backend is None:
        for file, kind in ((out_path, np.float16), (mask_path(out_path), np.bool_)):
            atomic.save_npy(file, np.empty((len(frames), 0, 0), kind))
        _describe(out_path, {"backend": "none"}, (len(frames), 0, 0), frame_size, kept=None)
        return
    with atomic.mapped_npy(out_path) as allocate, atomic.mapped_npy(mask_path(out_path)) as allocate_mask:
        with Progress(len(frames), f"{options.backend} depth", unit="frames", logger=logger) as progress:
            depth = backend.depth(frames, meta, place, progress.advance, allocate)
        mask = allocate_mask(depth.shape, np.bool_)
        known = fill(depth, mask, meta.name)
        _remove_outliers(depth, mask, options, frame_size)
        kept = float(mask.mean())
    logger.info("%s: %.1f %% of the depth is known, %.1f %% is kept", meta.name, 100 * known, 100 * kept)
    _describe(out_path, backend.describe(), depth.shape, frame_size, kept)


def fill(depth: np.ndarray, valid: np.ndarray, name: str = "the video") -> float:
    """Put values in place of those that are no depth, in ``depth`` float16 [T, h, w] itself.

    ``valid`` bool [T, h, w] is set to where there was a depth, of which the share is returned. Raises
    :class:`InputError` when no cell of any frame has one.
    """
    for t, values in enumerate(depth):
        valid[t] = (values >= SMALLEST) & (values <= LARGEST)  # NaN is neither
        if valid[t].any() and not valid[t].all():
            depth[t] = values[_nearest_of(valid[t])]
    empty = ~valid.any(axis=(1, 2))
    some = np.flatnonzero(~empty)
    if len(some) == 0:
        why = f"every value is zero, negative, not finite, or outside of {SMALLEST:.1g} to {LARGEST:.5g}"
        raise InputError(f"{name} has no depth", why, "check depth.folder, depth.unit, depth.inverse and depth.value")
    for t in np.flatnonzero(empty):
        depth[t] = depth[some[np.abs(some - t).argmin()]]
    return float(valid.mean())


def _nearest_of(valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every cell of a map [h, w], (row, column) of the nearest that is valid."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return rows, columns


def _remove_outliers(depth: np.ndarray, mask: np.ndarray, options: DepthOptions, frame_size: tuple[int, int]) -> None:
    """Take the outliers of every frame out of ``mask`` bool [T, h, w], which holds where there is a depth."""
    if options.outlier_sigma == 0 or depth[0].size == 1:
        return
    import torch

    from everypoint.depth.outliers import outlier_mask

    with Progress(len(depth), "depth outliers", unit="frames", logger=logger) as progress:
        for t in range(len(depth)):
            mask[t] = outlier_mask(
                depth[t],
                mask[t],
                frame_size,
                fov=options.fov,
                neighbours=options.outlier_neighbours,
                sigma=options.outlier_sigma,
                workers=torch.get_num_threads(),
            )
            progress.advance()


def _describe(
    out_path: Path, made_by: dict[str, Any], shape: tuple[int, ...], frame_size: tuple[int, int], kept: float | None
) -> None:
    """Write what made the two files, and their hashes."""
    hashes = {"sha256": sha256_of(out_path), "mask_sha256": sha256_of(mask_path(out_path))}
    about = {"made_by": made_by, "unit": made_by.get("unit"), "shape": shape, "frame_size": frame_size, "kept": kept}
    atomic.write_json(out_path.with_suffix(".json"), about | hashes)


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
