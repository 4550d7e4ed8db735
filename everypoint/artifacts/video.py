"""The frames of one video: ``frames.npy`` (memory-mapped) and ``video.json``."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from everypoint.artifacts import atomic
from everypoint.errors import ArtifactError


@dataclass(frozen=True)
class VideoMeta:
    """What is known of a video and of the frames taken from it.

    Frame t of ``frames.npy`` is frame ``start + t * stride`` of the source. ``height``, ``width`` are the working
    size, ``original_height``, ``original_width`` the size before any resize (after rotation). ``cuts`` are the first
    frames (indices into ``frames.npy``) of new shots.
    """

    name: str
    source: str
    source_hash: str
    fps: float
    frames: int
    height: int
    width: int
    original_height: int
    original_width: int
    start: int = 0
    stride: int = 1
    timestamps: list[float] = field(default_factory=list)  # seconds, one a frame
    cuts: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """Working size (H, W)."""
        return self.height, self.width

    @property
    def original_size(self) -> tuple[int, int]:
        """Size (H, W) of the source."""
        return self.original_height, self.original_width


def save_video(folder: str | os.PathLike[str], frames: np.ndarray, meta: VideoMeta) -> None:
    """Write frames uint8 [T, H, W, 3] RGB, then their description."""
    if frames.dtype != np.uint8 or frames.shape != (meta.frames, meta.height, meta.width, 3):
        raise ValueError(f"frames {frames.dtype} {frames.shape} do not fit {meta}")
    atomic.save_npy(Path(folder) / "frames.npy", frames)
    atomic.write_json(Path(folder) / "video.json", dataclasses.asdict(meta))


def load_meta(folder: str | os.PathLike[str]) -> VideoMeta:
    path = Path(folder) / "video.json"
    try:
        return VideoMeta(**atomic.read_json(path))
    except TypeError as error:
        raise ArtifactError(f"{path} is of another version", str(error), "delete it and run again") from error


def load_frames(folder: str | os.PathLike[str]) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] RGB, memory-mapped read-only."""
    frames = atomic.load_npy(Path(folder) / "frames.npy", mmap=True)
    if frames.ndim != 4 or frames.dtype != np.uint8:
        raise ArtifactError(f"{folder}/frames.npy is damaged", f"{frames.dtype} {frames.shape}", "run again")
    return frames
