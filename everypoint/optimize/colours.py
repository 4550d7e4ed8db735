"""Colours of the video at points: the truth of the rendered colour."""

from __future__ import annotations

from torch import Tensor


def frame_colours(frames: Tensor, xy: Tensor, frame: Tensor) -> Tensor:
    """Bilinear colours at index points, without a copy of the video in floating point.

    Args:
        frames: uint8 [T, H, W, 3], on the device.
        xy: float [R, 2], index coordinates; points outside read the nearest edge.
        frame: int64 [R], the frame of each point.

    Returns:
        float32 [R, 3] in 0..1.
    """
    height, width = frames.shape[1:3]
    x, y = xy[:, 0].float().clamp(0, width - 1), xy[:, 1].float().clamp(0, height - 1)
    x0 = x.floor().clamp(max=max(width - 2, 0))
    y0 = y.floor().clamp(max=max(height - 2, 0))
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    flat = frames.reshape(-1, 3)
    first = (frame * height + y0.long()) * width + x0.long()
    right, down = min(width - 1, 1), width * min(height - 1, 1)
    upper = flat[first] * (1 - fx) + flat[first + right] * fx
    lower = flat[first + down] * (1 - fx) + flat[first + down + right] * fx
    return (upper * (1 - fy) + lower * fy) / 255
