"""Textured frames with a known motion."""

from __future__ import annotations

import cv2
import numpy as np

SHIFT = (5, -3)  # pixels (x, y) a frame


def shifted_texture(
    frames: int, size: tuple[int, int], shift: tuple[int, int] = SHIFT, *, grain: float = 2.0, seed: int = 0
) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] of a texture that moves by ``shift`` whole pixels a frame."""
    margin = frames * max(map(abs, shift))
    random = np.random.default_rng(seed)
    height, width = (side + 2 * margin for side in size)
    noise = random.standard_normal((height, width, 3)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), grain) + 2 * cv2.GaussianBlur(noise, (0, 0), 4 * grain)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    views = []
    for t in range(frames):
        x, y = margin - t * shift[0], margin - t * shift[1]  # the window moves against the texture
        views.append(texture[y : y + size[0], x : x + size[1]])
    return np.stack(views)


def interior(flow: np.ndarray, margin: int = 16) -> np.ndarray:
    """The vectors [N, 2] of a flow away from the border, where nothing enters the frame."""
    return flow[margin:-margin, margin:-margin].reshape(-1, 2)
