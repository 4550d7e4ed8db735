"""Depth that the user has: a folder with one file a frame.

A file is a .npy, a .npz (its array ``depth``, or the only one) or a 16-bit grey .png, whose steps are ``depth.unit``
metres. OmniTrackFast's ``raw_depth/depth/NNNNN.npz`` is such a folder. Pictures of depth in colour or in 8 bits are
refused: a colour map cannot be undone, and 256 steps of unknown ends are no measure.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import sha256_of
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import DepthOptions
from everypoint.depth.base import Allocate
from everypoint.errors import ArtifactError, ConfigError, InputError
from everypoint.geometry import nearest_cells
from everypoint.video.images import read_image
from everypoint.video.paths import image_files, natural_key, shown
from everypoint.video.sidecars import used_frames

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

SUFFIXES = (".npy", ".npz", ".png")
OWN = Path("raw_depth") / "depth"  # where OmniTrackFast leaves it


class FileDepth:
    """The files of ``depth.folder``, in natural order of their names."""

    def __init__(self, options: DepthOptions, device: torch.device | str = "cpu") -> None:
        self._options = options
        self._digest = hashlib.sha256()

    def depth(
        self,
        frames: np.ndarray,
        meta: VideoMeta,
        place: Path | None = None,
        step: Callable[[], None] | None = None,
        allocate: Allocate = np.empty,
    ) -> np.ndarray:
        """Depth float16 [T, h, w]; see :class:`everypoint.depth.base.DepthBackend`.

        h and w are those of the files, which all have one size; a side longer than the frame's is cut down to it by
        taking nearest cells, since a mean of two depths would lie where nothing is.

        Raises:
            ConfigError: no folder is known.
            InputError: a folder or file that cannot be used, or another number of files than of frames.
        """
        folder, images = self._folder(meta, place)
        paths = depth_files(folder, meta, next((count for count in map(_images, images) if count), None))
        maps: np.ndarray | None = None
        for t, path in enumerate(paths):
            values = self._depth_of(path)
            if maps is None:
                size = values.shape
                rows, columns = (nearest_cells(n, min(n, N)) for n, N in zip(size, meta.size, strict=True))
                maps = allocate((len(paths), len(rows), len(columns)), np.float16)
            if values.shape != size:
                raise _differ(paths[0], size, path, values.shape)
            with np.errstate(over="ignore"):  # beyond float16 becomes infinite, which nobody takes for a depth
                maps[t] = values[rows[:, None], columns]
            self._digest.update(f"{path.name} {sha256_of(path)}\n".encode("utf-8", "surrogateescape"))
            if step is not None:
                step()
        return maps

    def describe(self) -> dict[str, Any]:
        own = {"unit_16_bit": self._options.unit, "inverse": self._options.inverse}
        return {"backend": "file", "unit": "metre", "files": self._digest.hexdigest(), **own}

    def _folder(self, meta: VideoMeta, place: Path | None) -> tuple[Path, list[Path]]:
        """(the folder of this video's depth, which exists; where the images of the source may lie).

        Where the option names a folder, ``place`` is that folder as the caller has read it; it may be a whole folder of
        OmniTrackFast's as well.
        """
        if self._options.folder is not None:
            named = place or Path(self._options.folder.replace("{video}", meta.name)).expanduser()
            folder = named / OWN if (named / OWN).is_dir() else named
            images = [named / "color"]
        elif place is not None:
            folder, images = place / OWN, [place / "color", place]
        else:
            why = f"{meta.name} has no folder of its own, in which {OWN} might lie"
            raise ConfigError("depth.backend file needs a folder", why, "set depth.folder")
        if not folder.is_dir():
            cure = "set depth.folder ({video} stands for the video's name)"
            raise InputError(f"the depth folder {shown(folder)} of {meta.name} does not exist", cure=cure)
        return folder, images

    def _depth_of(self, path: Path) -> np.ndarray:
        """The depth of a file, floats [h, w]."""
        values = _picture(path) * self._options.unit if path.suffix.lower() == ".png" else _array(path)
        if not self._options.inverse:
            return values
        with np.errstate(divide="ignore", over="ignore"):  # no disparity is infinitely far: no depth
            return 1 / values


def depth_files(folder: Path, meta: VideoMeta, source_frames: int | None = None) -> list[Path]:
    """The file of every working frame.

    The folder holds either one file a working frame, or one a frame of the source, of which those in use are taken.
    ``source_frames`` is the number of frames of the source where it is known.

    Raises :class:`InputError` when the folder holds none, several kinds, or another number.
    """
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise InputError(f"{shown(folder)} cannot be opened", error.strerror or str(error)) from error
    names = sorted((name for name in names if Path(name).suffix.lower() in SUFFIXES), key=natural_key)
    kinds = sorted({Path(name).suffix.lower() for name in names})
    if len(kinds) != 1:
        why = f"it has files of the kinds {', '.join(kinds)}" if kinds else f"it has no {', '.join(SUFFIXES)}"
        raise InputError(f"{shown(folder)} cannot be used as depth", why, "put one file a frame there, all of one kind")
    paths = [folder / name for name in names]
    if len(paths) == meta.frames:
        return paths
    used = used_frames(meta)
    if len(paths) > used[-1] and source_frames in (None, len(paths)):
        logger.info("%s: frames %d to %d of %d depth files are in use", meta.name, used[0], used[-1], len(paths))
        return [paths[frame] for frame in used]
    whole = f"{source_frames}" if source_frames else f"more than {used[-1]}"
    raise InputError(
        f"{shown(folder)} holds {len(paths)} depth files",
        f"{meta.name} has {meta.frames} frames in use, and its source has {whole}",
        "put one file there for each frame in use, or for each frame of the source",
    )


def _images(folder: Path) -> int:
    """How many images a folder holds."""
    return len(image_files(folder)) if folder.is_dir() else 0


def _picture(path: Path) -> np.ndarray:
    """The steps of a 16-bit grey picture, float64 [h, w]."""
    image = read_image(path)
    kind = " and ".join(
        word for word, found in (("in colour", image.shape[2] != 1), ("in 8 bits", image.dtype != np.uint16)) if found
    )
    if kind:
        why = f"it is a picture {kind}, in which distances cannot be read"
        raise InputError(f"{shown(path)} cannot be used as depth", why, "save depth as .npy, .npz or 16-bit grey .png")
    return image[..., 0].astype(np.float64)


def _array(path: Path) -> np.ndarray:
    """The numbers of a .npy or .npz, float64 [h, w] (float32 where they are)."""
    try:
        loaded = atomic.load_npz(path) if path.suffix.lower() == ".npz" else atomic.load_npy(path)
    except ArtifactError as error:
        raise InputError(f"{shown(path)} cannot be read", error.why, "write it again") from error
    if isinstance(loaded, dict):
        if "depth" not in loaded and len(loaded) != 1:
            held = ", ".join(loaded) or "nothing"
            raise InputError(f"{shown(path)} has no array 'depth'", f"it holds {held}", "name the array 'depth'")
        loaded = loaded["depth"] if "depth" in loaded else next(iter(loaded.values()))
    values = loaded.reshape([n for n in loaded.shape if n != 1]) if loaded.ndim > 2 else loaded
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiu":
        why = f"it holds {loaded.dtype} {list(loaded.shape)}, not numbers [H, W]"
        raise InputError(f"{shown(path)} cannot be used as depth", why, "write one number a pixel")
    return values if values.dtype == np.float32 else values.astype(np.float64)


def _differ(first: Path, size: tuple[int, ...], other: Path, found: tuple[int, ...]) -> InputError:
    return InputError(
        f"{shown(other)} is {found[1]}x{found[0]} and {first.name} {size[1]}x{size[0]}",
        cure="the depth of all frames must have one size",
    )


BACKEND = FileDepth
