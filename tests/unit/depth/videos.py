"""Small videos for the tests of depth."""

from __future__ import annotations

import numpy as np

from everypoint.artifacts.video import VideoMeta


def frames_and_meta(
    count: int, size: tuple[int, int] = (16, 24), *, start: int = 0, stride: int = 1
) -> tuple[np.ndarray, VideoMeta]:
    """Frames uint8 [count, H, W, 3] of noise, and their description."""
    frames = np.random.default_rng(count).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    meta = VideoMeta("clip", "clip.mp4", "0" * 64, 10.0, count, *size, *size, start=start, stride=stride)
    return frames, meta
