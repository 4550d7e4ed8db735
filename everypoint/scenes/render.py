"""Pictures of a scene: per layer one ray-plane homography, nearest wins, several samples a pixel averaged."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from everypoint.scenes.scene import NEAR, Layer, Scene

SKY = (96.0, 128.0, 160.0)  # where no layer is
SAMPLES = 3  # samples a pixel in each direction


def render(
    scene: Scene, size: tuple[int, int] | None = None, frames: Iterable[int] | None = None, *, samples: int = SAMPLES
) -> np.ndarray:
    """Frames of a scene, uint8 [T, H, W, 3] RGB.

    Args:
        scene: what to see.
        size: (H, W) instead of the scene's own.
        frames: frame numbers instead of all.
        samples: samples a pixel in each direction; a pixel is the mean of samples^2 values over its area, so motion by
            a fraction of a pixel changes the picture as a camera would.
    """
    scene = scene if size is None else scene.resized(size)
    chosen = range(scene.frames) if frames is None else list(frames)
    height, width = scene.size
    pictures = np.empty((len(chosen), height, width, 3), np.uint8)
    for n, t in enumerate(chosen):
        fine = _samples(scene, t, samples)
        mean = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
        pictures[n] = np.rint(mean)
    return pictures


def _samples(scene: Scene, t: int, samples: int) -> np.ndarray:
    """Colours float32 [H * samples, W * samples, 3] of one frame."""
    height, width = scene.size
    x = ((np.arange(width * samples) + 0.5) / samples).astype(np.float32)  # raster positions
    y = ((np.arange(height * samples) + 0.5) / samples).astype(np.float32)
    colours = np.empty((len(y), len(x), 3), np.float32)
    colours[:] = SKY
    nearest = np.zeros(colours.shape[:2], np.float32)  # inverse depth of what is seen
    for index, layer in enumerate(scene.layers):
        rows, columns = _window(layer, scene.homographies[t, index], scene.size, samples)
        if rows.start < rows.stop and columns.start < columns.stop:
            inverse = scene.inverses[t, index]
            _draw(layer, inverse, x[columns], y[rows], colours[rows, columns], nearest[rows, columns])
    return colours


def _draw(
    layer: Layer, inverse: np.ndarray, x: np.ndarray, y: np.ndarray, colours: np.ndarray, nearest: np.ndarray
) -> None:
    """Draw one layer into ``colours`` and ``nearest`` (views of the sample grid x by y) where it is the nearest."""
    u, v, nearness = ((row[0] * x[None] + (row[1] * y + row[2])[:, None]).astype(np.float32) for row in inverse)
    ahead = (nearness > nearest) & (nearness < 1 / NEAR)
    depth = np.divide(1, nearness, out=np.zeros_like(nearness), where=nearness > 0)
    u *= depth
    v *= depth
    seen = ahead & layer.shape.inside(u, v)
    if not seen.any():
        return
    picture = layer.texture.sample(u, v, _step(inverse, x, y, seen))
    np.copyto(colours, picture, where=seen[..., None])
    np.copyto(nearest, nearness, where=seen)


def _step(inverse: np.ndarray, x: np.ndarray, y: np.ndarray, seen: np.ndarray) -> float:
    """Distance in the plane between neighbouring samples, at the middle of what is seen of a layer."""
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    centre = np.array([x[columns].mean(), y[rows].mean(), 1.0])
    gap = float(x[1] - x[0]) if len(x) > 1 else 1.0
    around = centre + gap * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    scaled = around @ inverse.T
    uv = scaled[:, :2] / scaled[:, 2:]
    return float(np.sqrt(abs(np.linalg.det(uv[1:] - uv[0]))))


def _window(layer: Layer, homography: np.ndarray, size: tuple[int, int], samples: int) -> tuple[slice, slice]:
    """Rows and columns of the sample grid that can see a layer."""
    whole = slice(0, size[0] * samples), slice(0, size[1] * samples)
    hull = layer.shape.hull()
    if hull is None:
        return whole
    scaled = np.column_stack([hull, np.ones(len(hull))]) @ homography.T
    if (scaled[:, 2] < NEAR).any():  # part of it is beside or behind the camera: its outline is no polygon
        return whole
    xy = scaled[:, :2] / scaled[:, 2:] * samples
    low = np.clip(np.floor(xy.min(axis=0)).astype(int), 0, [size[1] * samples, size[0] * samples])
    high = np.clip(np.ceil(xy.max(axis=0)).astype(int), 0, [size[1] * samples, size[0] * samples])
    return slice(low[1], high[1]), slice(low[0], high[0])
