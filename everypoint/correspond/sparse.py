"""What every sparse source of matches offers, and how one is found by its name.

A sparse source yields single matches instead of dense flows: long-range matches of features, tracks of a tracker, or
what other programs left on disk. It is one file of this package, named as in ``sparse.sources``
(``correspond/<name>.py``; :data:`MODULES` has the exceptions), which binds ``SOURCE`` to a class with the interface of
:class:`SparseSource`. The file is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from everypoint.artifacts.matches import MatchRows
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import Preset
from everypoint.errors import ConfigError

if TYPE_CHECKING:
    import torch

MODULES = {
    "mutual": "mutual",
    "xfeat": "xfeat",
    "cotracker": "cotracker",
    "tracks": "track_files",
    "processed": "processed_matches",
}


class SparseVideo(NamedTuple):
    """What a sparse source may read; only what it needs is there."""

    frames: np.ndarray  # uint8 [T, H, W, 3] RGB, the working frames
    meta: VideoMeta  # where they come from: sizes, first source frame, stride
    features: np.ndarray | None = None  # float16 [T, h, w, C] whose cells tile the frame (mutual)
    depth_mask: np.ndarray | None = None  # bool [T, h, w], true where the depth prior can be relied on; cells tile
    place: Path | None = None  # the file (tracks) or folder (processed) of the user


class SparseSource(Protocol):
    """A way of finding single matches, with its options and its device."""

    def __init__(self, preset: Preset, device: torch.device | str) -> None: ...

    def describe(self) -> dict[str, Any]:
        """All that its rows depend on besides the video, as JSON-like values."""
        ...

    def rows(self, video: SparseVideo, seed: int) -> MatchRows:
        """All matches of the video, in any order, each once and in one direction (frame_i, frame_j as found).

        Index coordinates of the working frame. Rows may lie outside of the frame; the caller drops those, caps rows a
        pair, adds the other direction and checks appearance. The result depends on the arguments only.
        """
        ...


def sparse_source(name: str, preset: Preset, device: torch.device | str = "cpu") -> SparseSource:
    """The source called ``name``, with the options that ``preset`` has for it; raises :class:`ConfigError`."""
    if name not in MODULES:
        raise ConfigError(f"there is no source of matches {name!r}", cure="see sparse.sources in the reference")
    return importlib.import_module(f"{__package__}.{MODULES[name]}").SOURCE(preset, device)
