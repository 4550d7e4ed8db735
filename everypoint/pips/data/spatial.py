"""Augmentation that moves points: eraser, time reversal, a walk of scale and crop, flips.

Frames are lists of uint8 [H, W, 3]. A resize takes raster coordinates to raster coordinates (pixel (0, 0)'s corner
stays in the corner), so an index position x becomes (x + 0.5) * W' / W - 0.5. ``compat`` brings back what PIPs++ as
published does instead: x * W' / W, and flips about W / 2 in place of (W - 1) / 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from everypoint.geometry import index_to_raster, raster_to_index
from everypoint.pips.data.sampling import Tracks
from everypoint.video.images import resize_frame

ERASED = (20, 300)  # sides of an erased rectangle in pixels, the upper bound not included
MARGIN = 16  # a picture that is cropped is larger than the crop by at least this
PAD = 64  # pixels of black at a side, the upper bound not included
SCALES = (0.25, 1.5)
SCALE_LIMITS = (0.2, 2.0)
SCALE_STEP = 0.1
DRIFT = 20  # pixels that the crop may move in a frame

Frames = list[np.ndarray]


def erase(frames: Sequence[np.ndarray], tracks: Tracks, rng: np.random.Generator) -> tuple[Frames, Tracks]:
    """Paint 1 to 10 rectangles of 1 frame in 5 (never the first) in their mean colour; points inside are unseen."""
    frames, seen = list(frames), tracks.seen.copy()
    height, width = frames[0].shape[:2]
    for s in range(1, len(frames)):
        if rng.random() >= 0.2:
            continue
        frames[s] = frames[s].copy()
        for _ in range(rng.integers(1, 11)):
            middle = rng.integers([width, height])
            half = rng.integers(*ERASED, size=2) // 2
            x0, y0 = np.maximum(middle - half, 0)
            x1, y1 = np.minimum(middle + half, [width, height])
            part = frames[s][y0:y1, x0:x1]
            part[:] = np.rint(part.mean(axis=(0, 1)))
            x, y = tracks.xy[s].T
            seen[s] &= ~((x >= x0 - 0.5) & (x < x1 - 0.5) & (y >= y0 - 0.5) & (y < y1 - 0.5))
    return frames, tracks._replace(seen=seen)


def reverse(frames: Sequence[np.ndarray], tracks: Tracks, *, compat: bool = False) -> tuple[Frames, Tracks]:
    """The clip backwards. As published (``compat``) the validity of positions stays in its old order."""
    known = tracks.known if compat else tracks.known[::-1]
    return list(frames[::-1]), Tracks(tracks.xy[::-1], tracks.seen[::-1], known)


def flip(frames: Sequence[np.ndarray], xy: np.ndarray, axis: int, *, compat: bool = False) -> tuple[Frames, np.ndarray]:
    """Mirrored along x (``axis`` 0) or y (1)."""
    length = frames[0].shape[1 - axis]
    xy = xy.copy()
    xy[..., axis] = (length if compat else length - 1) - xy[..., axis]
    return [np.ascontiguousarray(frame[:, ::-1] if axis == 0 else frame[::-1]) for frame in frames], xy


def resize(
    frame: np.ndarray, xy: np.ndarray, size: tuple[int, int], *, compat: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """One frame at ``size`` (H, W) and its points [N, 2]."""
    scale = np.array([size[1] / frame.shape[1], size[0] / frame.shape[0]])
    moved = xy * scale if compat else raster_to_index(index_to_raster(xy) * scale)
    return resize_frame(frame, size), moved.astype(np.float32)


def plain_crop(
    frames: Sequence[np.ndarray], tracks: Tracks, size: tuple[int, int], rng: np.random.Generator, *, compat: bool
) -> tuple[Frames, Tracks]:
    """A still random crop of ``size`` or, as often and where the picture is smaller, the whole picture resized."""
    height, width = frames[0].shape[:2]
    if rng.random() < 0.5 and height >= size[0] and width >= size[1]:
        y0, x0 = (int(rng.integers(whole - part + 1)) for whole, part in zip((height, width), size, strict=True))
        cropped = [np.ascontiguousarray(frame[y0 : y0 + size[0], x0 : x0 + size[1]]) for frame in frames]
        return cropped, tracks._replace(xy=tracks.xy - np.float32([x0, y0]))
    done = [resize(frame, xy, size, compat=compat) for frame, xy in zip(frames, tracks.xy, strict=True)]
    return [frame for frame, _ in done], tracks._replace(xy=np.stack([xy for _, xy in done]))


def walk(
    frames: Sequence[np.ndarray],
    tracks: Tracks,
    size: tuple[int, int],
    resized: tuple[int, int],
    rng: np.random.Generator,
    *,
    compat: bool = False,
) -> tuple[Frames, Tracks]:
    """A hand-held camera: resized, padded, scaled by a walk, cropped by a window that drifts, perhaps mirrored.

    Args:
        frames: of any one size.
        tracks: with some seen in the first frame; the window starts about their mean.
        size: (H, W) of the result.
        resized: (H, W) before padding; a side is at least ``MARGIN`` longer than the crop's.
        rng: draws; their number does not depend on the frames.
        compat: positions as published.
    """
    S, source = len(frames), frames[0].shape[:2]
    resized = tuple(max(part, crop + MARGIN) for part, crop in zip(resized, size, strict=True))
    left, right, top, bottom = rng.integers(0, PAD, size=4)
    border = np.array([left, top])
    padded_size = np.array([resized[1], resized[0]]) + border + [right, bottom]
    scales, drifts = scale_walk(S, rng), drift_walk(S, rng)
    sides = np.maximum((padded_size * scales).astype(int), np.array(size[::-1]) + MARGIN)  # [S, 2] (width, height)
    first = np.array([resized[1] / source[1], resized[0] / source[0]])
    out: Frames = []
    xy = np.empty_like(tracks.xy, dtype=np.float32)
    corner = np.zeros(2, int)
    for s in range(S):
        second = sides[s] / padded_size
        shift = border * second
        points = raster_to_index(index_to_raster(tracks.xy[s]) * (first * second) + shift)
        if s == 0:
            corner = _first_corner(points[tracks.seen[0]], size)
        corner = np.clip(corner + drifts[s], 0, sides[s] - np.array(size[::-1]))
        out.append(_warped(frames[s], first * second, shift - corner, size))
        if compat:  # both resizes as x * W' / W
            points = (tracks.xy[s] * first + border) * second
        xy[s] = points - corner
    for axis in (0, 1):
        if rng.random() < 0.5:
            out, xy = flip(out, xy, axis, compat=compat)
    return out, tracks._replace(xy=xy)


def _warped(frame: np.ndarray, scale: np.ndarray, shift: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The frame after raster (x, y) -> (x, y) * scale + shift, cut to ``size`` (H, W), black where there is nothing.

    Resizing, padding, resizing again and cropping in one step: the picture is interpolated once (after an average where
    it shrinks) and only what is kept is computed.
    """
    height, width = frame.shape[:2]
    small = np.maximum(np.minimum(np.rint(scale * [width, height]), [width, height]).astype(int), 1)
    frame = resize_frame(frame, (int(small[1]), int(small[0])))
    rest = scale * [width, height] / small
    matrix = np.array([[rest[0], 0, rest[0] / 2 - 0.5 + shift[0]], [0, rest[1], rest[1] / 2 - 0.5 + shift[1]]])
    return cv2.warpAffine(frame, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def scale_walk(S: int, rng: np.random.Generator) -> np.ndarray:
    """Scales (x, y) of every frame, float64 [S, 2].

    One scale of U(0.25, 1.5) at first; then each axis moves by a smoothed random step, and both are drawn halfway to
    their mean, so that the picture is not stretched for long.
    """
    scales = np.empty((S, 2))
    scales[0] = rng.uniform(*SCALES)
    step = np.zeros(2)
    for s in range(1, S):
        step = 0.9 * step + 0.1 * rng.uniform(-SCALE_STEP, SCALE_STEP, size=2)
        moved = scales[s - 1] + step
        scales[s] = np.clip((moved + moved.mean()) / 2, *SCALE_LIMITS)
    return scales


def drift_walk(S: int, rng: np.random.Generator) -> np.ndarray:
    """Whole pixels (x, y) by which the window moves before every frame, int64 [S, 2]; none before the first."""
    drifts = np.zeros((S, 2), np.int64)
    for s in range(1, S):
        if s == 1:
            drifts[s] = rng.integers(-DRIFT, DRIFT, size=2)
        else:
            drifts[s] = (0.8 * drifts[s - 1] + 0.2 * rng.integers(-DRIFT, DRIFT + 1, size=2)).astype(int)
    return drifts


def _first_corner(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Upper left corner (x, y) of a window about the mean of the points."""
    half = np.array([size[1] // 2, size[0] // 2])
    return (points.mean(axis=0) if len(points) else half).astype(int) - half
