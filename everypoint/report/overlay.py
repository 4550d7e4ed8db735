"""Overlay videos: the tracks drawn over the frames, with fading trails.

Visible points are discs with a dark rim, occluded ones faint rings. Everything is drawn anti-aliased at sub-pixel
positions; sizes follow the frame and the density of the points. Frames are drawn one at a time, so memory does not
grow with the video, and every trail segment is drawn once, so time is linear in frames x points.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from everypoint import geometry
from everypoint.artifacts.tracks import Tracks
from everypoint.config.options import OverlayOptions
from everypoint.errors import InputError
from everypoint.report.camera import background_points, camera_path
from everypoint.report.colours import choose_points, query_colours, subset
from everypoint.report.stamps import RIM, draw_discs, draw_rings

SHIFT = 4  # OpenCV draws lines at 1/16 px
TRAIL_END = 0.1  # share of its strength that a trail has left at its end
HISTORY = 96  # longest trail, in frames, of the trails video
OCCLUDED_STRENGTH = 0.65


@dataclass(frozen=True)
class Style:
    """Sizes in pixels of the drawn frame."""

    radius: float
    rim: float
    line: int
    text: float


def overlay_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Even size (H, W) of an overlay: at most ``max_side``; small frames are doubled where that still fits.

    H.264 in the form that every browser plays needs even sides.
    """
    longer = max(height, width)
    scale = 2.0 if 2 * longer <= max_side else min(1.0, max_side / longer)
    return tuple(max(2, 2 * round(side * scale / 2)) for side in (height, width))


def style_for(size: tuple[int, int], points: int) -> Style:
    """Sizes that fit a frame of ``size`` (H, W) and this many points: crowded points are smaller."""
    diagonal = float(np.hypot(*size))
    spacing = np.sqrt(size[0] * size[1] / max(points, 1))
    radius = float(np.clip(0.16 * spacing, 0.0027 * diagonal, 0.0056 * diagonal))
    return Style(max(radius, 1.8), max(0.3 * radius, 0.6), max(1, round(0.45 * radius)), max(0.3, diagonal / 2200))


def draw_overlay(
    frames: np.ndarray,
    tracks: Tracks,
    options: OverlayOptions,
    out_path: str | os.PathLike[str],
    mask: np.ndarray | None = None,
) -> None:
    """Write the overlay video of ``frames`` uint8 [T, H, W, 3] RGB with ``tracks`` (H.264).

    ``mask`` ([H, W] or [T, H, W], non-zero on the foreground) says what the background is when
    ``options.stabilise`` removes the camera's motion from the trails. Raises :class:`InputError` when tracks and
    frames do not belong together.
    """
    _write(out_path, overlay_frames(frames, tracks, options, mask), frames, tracks, options)


def draw_trails(
    frames: np.ndarray,
    tracks: Tracks,
    options: OverlayOptions,
    out_path: str | os.PathLike[str],
    mask: np.ndarray | None = None,
) -> None:
    """Write the trails video: long trails, free of the camera's motion, over dimmed frames.

    The motion removed is the median displacement of the background: the points outside ``mask``, or without a mask
    those that follow the dominant motion. Raises :class:`InputError` as :func:`draw_overlay`.
    """
    _write(out_path, trail_frames(frames, tracks, options, mask), frames, tracks, options)


def _write(
    path: str | os.PathLike[str],
    pictures: Iterator[np.ndarray],
    frames: np.ndarray,
    tracks: Tracks,
    options: OverlayOptions,
) -> None:
    from everypoint.video.encode import write_mp4

    write_mp4(path, pictures, tracks.fps, overlay_size(*frames.shape[1:3], options.max_side))


def overlay_frames(
    frames: np.ndarray, tracks: Tracks, options: OverlayOptions, mask: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """The pictures of the overlay, uint8 [H', W', 3] RGB, of size :func:`overlay_size`."""
    _check(frames, tracks)
    scene = _Scene(frames, tracks, options)
    camera = scene.camera(mask) if options.stabilise else np.zeros((len(frames), 2))
    canvas = _TrailCanvas(scene.size, options.trail)
    for t in range(len(frames)):
        picture = scene.frame(t)
        if options.trail:
            scene.extend(canvas, t, camera)
            picture = canvas.over(picture, camera[t])
        yield scene.label(scene.points(picture, t), t)


def trail_frames(
    frames: np.ndarray, tracks: Tracks, options: OverlayOptions, mask: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """The pictures of the trails video, uint8 [H', W', 3] RGB, of size :func:`overlay_size`."""
    _check(frames, tracks)
    scene = _Scene(frames, tracks, options)
    camera = scene.camera(mask)
    canvas = _TrailCanvas(scene.size, min(len(frames), HISTORY))
    for t in range(len(frames)):
        scene.extend(canvas, t, camera)
        picture = canvas.over(_dim(scene.frame(t)), camera[t])
        yield scene.label(scene.points(picture, t, scale=0.6), t)


def _check(frames: np.ndarray, tracks: Tracks) -> None:
    if len(frames) != len(tracks.tracks):
        raise InputError(
            f"tracks of {len(tracks.tracks)} frames cannot be drawn on a video of {len(frames)}",
            "they were made from other frames",
            "track this video again",
        )


def _dim(picture: np.ndarray) -> np.ndarray:
    """A darker, paler picture, so that trails stand out."""
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(picture, 0.3, grey, 0.22, 0)


class _TrailCanvas:
    """Trails as a premultiplied RGBA layer that fades as time passes and moves with the camera.

    The layer is shifted by whole pixels only, the rest is applied when it is shown, so trails never blur.
    """

    def __init__(self, size: tuple[int, int], length: int) -> None:
        self.layer = np.zeros((*size, 4), np.float32)
        self.decay = TRAIL_END ** (1 / max(length, 1))
        self.origin = np.zeros(2, int)  # (x, y) of the layer's shift

    def add(self, drawn: np.ndarray, origin: np.ndarray) -> None:
        """Age the layer by one frame, move it to ``origin`` and lay the new strokes, uint8 RGBA, over it."""
        move = origin - self.origin
        if move.any():
            self.layer = _shifted(self.layer, int(move[0]), int(move[1]))
            self.origin = origin
        keep = np.float32(self.decay) * (1 - drawn[..., 3:].astype(np.float32) / 255)
        self.layer *= keep
        self.layer += drawn

    def over(self, picture: np.ndarray, camera: np.ndarray) -> np.ndarray:
        """The trails over a picture uint8 [H, W, 3] for a background moved by ``camera`` (x, y)."""
        layer, rest = self.layer, camera - self.origin
        if np.abs(rest).max() > 1e-3:
            matrix = np.array([[1, 0, rest[0]], [0, 1, rest[1]]], np.float64)
            layer = cv2.warpAffine(layer, matrix, layer.shape[1::-1], flags=cv2.INTER_LINEAR)
        blended = picture * (1 - layer[..., 3:] / 255) + layer[..., :3]
        return np.clip(blended + 0.5, 0, 255).astype(np.uint8)


def _shifted(layer: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """The layer moved by whole pixels; what enters is empty."""
    height, width = layer.shape[:2]
    moved = np.zeros_like(layer)
    if abs(dx) < width and abs(dy) < height:
        to = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
        source = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
        moved[to] = layer[source]
    return moved


class _Scene:
    """The chosen tracks in index coordinates of the drawn frame, with their colours and sizes."""

    def __init__(self, frames: np.ndarray, tracks: Tracks, options: OverlayOptions) -> None:
        self.source = frames
        self.size = overlay_size(*frames.shape[1:3], options.max_side)
        self.tracks = subset(tracks, choose_points(tracks.queries, options.max_points))
        raster = geometry.scale_raster(self.tracks.tracks, tracks.frame_size, self.size)
        self.xy = geometry.raster_to_index(raster).astype(np.float64)  # [T, N, 2]
        self.visible = self.tracks.visibility.astype(bool)
        self.colours = query_colours(self.tracks.queries, tracks.frame_size)  # uint8 [N, 3]
        self.style = style_for(self.size, len(self.colours))

    def camera(self, mask: np.ndarray | None) -> np.ndarray:
        return camera_path(self.xy, self.visible, background_points(self.tracks, mask))

    def frame(self, t: int) -> np.ndarray:
        """Frame t at the drawn size, a copy."""
        height, width = self.size
        frame = np.ascontiguousarray(self.source[t])
        if frame.shape[:2] == self.size:
            return frame.copy()
        shrink = height < frame.shape[0] or width < frame.shape[1]
        return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)

    def points(self, picture: np.ndarray, t: int, scale: float = 1.0) -> np.ndarray:
        """Draw the points of frame t: occluded ones as faint rings, then visible ones as rimmed discs."""
        where = self.xy[t]
        margin = 4 * self.style.radius
        drawn = np.isfinite(where).all(axis=-1) & (where > -margin).all(axis=-1)
        drawn &= (where < np.array(self.size[::-1]) + margin).all(axis=-1)
        radius, rim = scale * self.style.radius, scale * self.style.rim
        for hidden in (True, False):  # visible points lie over occluded ones
            index = np.flatnonzero(drawn & (self.visible[t] != hidden))
            if not len(index):
                continue
            if hidden:
                width = max(1.0, 0.4 * radius)
                draw_rings(picture, where[index], self.colours[index], max(radius, 2.2), width, OCCLUDED_STRENGTH)
            else:
                draw_discs(picture, where[index], self.colours[index], radius, rim)
        return picture

    def extend(self, canvas: _TrailCanvas, t: int, camera: np.ndarray) -> None:
        """Add the segments from frame t - 1 to t to the trails; fainter where the point is occluded."""
        origin = np.round(camera[t]).astype(int)
        drawn = np.zeros((*self.size, 4), np.uint8)
        if t > 0:
            start = self.xy[t - 1] - camera[t - 1] + origin
            end = self.xy[t] - camera[t] + origin
            reach = np.array(self.size[::-1]) * 2
            usable = (np.isfinite(start) & np.isfinite(end) & (abs(start) < reach) & (abs(end) < reach)).all(axis=-1)
            both = self.visible[t - 1] & self.visible[t]
            for group, strength in ((usable & ~both, 0.3), (usable & both, 0.9)):
                self._segments(drawn, start, end, np.flatnonzero(group), strength)
        canvas.add(drawn, origin)

    def _segments(
        self, drawn: np.ndarray, start: np.ndarray, end: np.ndarray, index: np.ndarray, strength: float
    ) -> None:
        starts, ends, colours = _fixed(start), _fixed(end), self.colours.tolist()
        for n in index:
            colour = [strength * value for value in (*colours[n], 255)]
            cv2.line(drawn, starts[n], ends[n], colour, self.style.line, cv2.LINE_AA, SHIFT)

    def label(self, picture: np.ndarray, t: int) -> np.ndarray:
        """The frame's number, small in the lower left corner, where the frame has room for it."""
        height, width = self.size
        if min(height, width) < 120:
            return picture
        where = (round(0.012 * width) + 2, height - round(0.016 * height) - 2)
        for colour, thickness in ((RIM, 3), ((235, 235, 235), 1)):
            cv2.putText(
                picture, str(t), where, cv2.FONT_HERSHEY_SIMPLEX, self.style.text, colour, thickness, cv2.LINE_AA
            )
        return picture


def _fixed(xy: np.ndarray) -> list[tuple[int, int]]:
    """Positions [N, 2] as OpenCV's fixed point; points that are not finite or far away end at some place of no use."""
    near = np.clip(np.nan_to_num(xy), -(2**20), 2**20)
    return [tuple(row) for row in np.round(near * (1 << SHIFT)).astype(int).tolist()]
