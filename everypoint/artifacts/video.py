"""The frames of one video: ``frames.npy`` (memory-mapped) and ``video.json``."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import sha256_of
from everypoint.errors import ArtifactError

_HASH = "frames_sha256"


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
    """Write frames uint8 [T, H, W, 3] RGB, then their description, which holds the hash of the frames' file."""
    if frames.dtype != np.uint8 or frames.shape != (meta.frames, meta.height, meta.width, 3):
        raise ValueError(f"frames {frames.dtype} {frames.shape} do not fit {meta}")
    atomic.save_npy(Path(folder) / "frames.npy", frames)
    digest = sha256_of(Path(folder) / "frames.npy")
    atomic.write_json(Path(folder) / "video.json", dataclasses.asdict(meta) | {_HASH: digest})


def load_meta(folder: str | os.PathLike[str]) -> VideoMeta:
    """What is known of the video; raises :class:`ArtifactError` when the file is missing or of another kind."""
    return _load(folder)[0]


def _load(folder: str | os.PathLike[str]) -> tuple[VideoMeta, str]:
    path = Path(folder) / "video.json"
    fields = atomic.read_json(path)
    try:
        digest = fields.pop(_HASH)
        return VideoMeta(**fields), digest
    except (AttributeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is of another version", str(error), "delete it and run again") from error


def load_frames(folder: str | os.PathLike[str]) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] RGB, memory-mapped read-only.

    Raises :class:`ArtifactError` when the file is missing or is not the one that ``video.json`` describes (by shape and
    sha256: about a second per 1.5 GB, and whoever asks for the frames reads them anyway).
    """
    meta, digest = _load(folder)
    path = Path(folder) / "frames.npy"
    frames = atomic.load_npy(path, mmap=True)
    if frames.dtype != np.uint8 or frames.shape != (meta.frames, *meta.size, 3) or sha256_of(path) != digest:
        raise ArtifactError(f"{path} is damaged", "it does not fit video.json", f"delete {folder} and run again")
    return frames
