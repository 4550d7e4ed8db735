"""One exported clip on disk: ``{index:06d}/rgb.mp4`` and ``{index:06d}/track.npz``.

The pictures come first and the tracks after them, each whole or absent under its name. ``track.npz`` holds ``track_g``
float32 [S, N, 4] (x, y, seen, valid; index pixels) and ``meta`` (JSON): where the clip comes from and the sha256 of its
pictures. A clip is done when both files are there and agree, so no list of what is done is needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import sha256_of
from everypoint.errors import ArtifactError, InputError
from everypoint.video.encode import write_mp4
from everypoint.video.ffmpeg import FrameStream, Stream

VIDEO, TRACKS = "rgb.mp4", "track.npz"
FPS = 24.0
CRF = 20


def clip_folder(root: str | Path, index: int) -> Path:
    """The folder of clip ``index``."""
    return Path(root) / f"{index:06d}"


def write_clip(folder: Path, frames: Iterable[np.ndarray], table: np.ndarray, source: dict[str, Any]) -> None:
    """Write frames uint8 [H, W, 3] and tracks float32 [S, N, 4]. Equal arguments give equal bytes."""
    atomic.sweep_stale(folder)
    write_mp4(folder / VIDEO, frames, FPS, crf=CRF, threads=1)
    meta = {**source, "sha256": sha256_of(folder / VIDEO)}
    atomic.save_npz(folder / TRACKS, track_g=table, meta=np.array(json.dumps(meta, sort_keys=True)))


def is_whole(folder: Path, shape: tuple[int, int]) -> bool:
    """Whether a clip of (S, N) is there, its files unharmed and of one writing."""
    if not os.path.exists(folder / TRACKS):
        return False
    try:
        arrays = atomic.load_npz(folder / TRACKS)
        meta = json.loads(str(arrays["meta"]))
        return arrays["track_g"].shape == (*shape, 4) and meta["sha256"] == sha256_of(folder / VIDEO)
    except (ArtifactError, OSError, KeyError, TypeError, ValueError):
        return False


def read_table(folder: Path) -> np.ndarray:
    """``track_g`` float32 [S, N, 4]; raises :class:`InputError` when the file is missing, damaged or of another kind.

    Clips that other programs exported hold no ``meta`` and are read alike.
    """
    try:
        table = atomic.load_npz(folder / TRACKS, ("track_g",)).get("track_g")
    except ArtifactError as error:
        raise InputError(
            f"clip {folder} cannot be used", f"{TRACKS} is missing or damaged", "export it again"
        ) from error
    if table is None or table.ndim != 3 or table.shape[2] != 4 or table.dtype.kind != "f":
        raise InputError(
            f"clip {folder} cannot be used", f"{TRACKS} has no track_g of shape (S, N, 4)", "export it again"
        )
    return table.astype(np.float32)


def read_frames(folder: Path, size: tuple[int, int], count: int) -> list[np.ndarray]:
    """At most ``count`` frames uint8 [H, W, 3] RGB; fewer where the video is damaged or missing."""
    path = folder / VIDEO
    stream = Stream(path, "mp4/mov", "h264", size[1], size[0], FPS, None, False, True, False, False)
    return [frame.copy() for frame in FrameStream(stream, count=count)]
