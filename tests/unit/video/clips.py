"""Tiny clips made with ffmpeg, and frames whose every pixel is known."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from everypoint.video.process import ffmpeg_path

LOSSLESS = ("-c:v", "ffv1", "-pix_fmt", "bgr0")


def pattern(count: int, height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] that differ in every pixel's channels and from each other."""
    texture = np.random.default_rng(seed).integers(0, 256, (height + count, width, 3), dtype=np.uint8)
    return np.stack([texture[t : t + height] for t in range(count)])


def encode(path: Path, frames: np.ndarray, *output: str, fps: str = "10", before: tuple[str, ...] = ()) -> Path:
    """Write frames uint8 [T, H, W, 3 or 4] with ffmpeg; ``output`` are options of the output file."""
    pixels = "rgba" if frames.shape[3] == 4 else "rgb24"
    source = ("-f", "rawvideo", "-pix_fmt", pixels, "-s", f"{frames.shape[2]}x{frames.shape[1]}", "-framerate", fps)
    return run(path, *before, *source, "-i", "-", *(output or LOSSLESS), data=frames.tobytes())


def run(path: Path, *arguments: str, data: bytes = b"") -> Path:
    """``ffmpeg ARGUMENTS path``, without a shell; fails with ffmpeg's words."""
    command = [ffmpeg_path(), "-hide_banner", "-v", "error", "-y", "-threads", "1", *arguments, f"file:{path}"]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return path
