"""The demo of PIPs++: a grid of points through every clip of a video, drawn into it."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import numpy as np

from everypoint.artifacts.tracks import Tracks
from everypoint.geometry import index_to_raster, inside_index

logger = logging.getLogger(__name__)
MARGIN = 8.0  # pixels between the grid and the frame's border


def demo(
    video: Path,
    weights: str,
    output: Path,
    *,
    points: int = 256,
    length: int = 48,
    stride: int = 1,
    iterations: int = 16,
    size: tuple[int, int] = (512, 896),
    device: str = "auto",
    threads: int = 2,
) -> str:
    """Write ``output``, the video with the tracks; returns a sentence on the inference's time.

    Args:
        video: a file, or a folder of images.
        weights: an asset's name or a path.
        output: the video to write.
        points: rounded to a square grid.
        length: frames of a clip. All frames are tracked: the last clip is as long as what is left.
        stride: every so many frames.
        iterations: refinements; the last quarter makes half of its moves.
        size: (H, W) that the network sees, and the size of the output.
        device: auto, cpu or cuda.
        threads: of the CPU.
    """
    from everypoint.assets.fetch import locate
    from everypoint.config.options import FramesOptions, OverlayOptions
    from everypoint.pips.driver import Features, Plan, follow
    from everypoint.pips.network import PipsInference
    from everypoint.pips.weights import load_network
    from everypoint.report.overlay import draw_overlay
    from everypoint.stages.device import prepare
    from everypoint.video.decode import read_frames
    from everypoint.video.discover import Entry

    place = prepare(device, threads)
    inference = PipsInference(load_network(locate(weights)), place)
    entry = Entry(video.stem, "images" if video.is_dir() else "video", video)
    frames, meta = read_frames(entry, FramesOptions(max_side=None, stride=stride, resize=size, on_cut="ignore"))
    start = grid(points, size)
    clips, seconds = [], 0.0
    features = Features(inference, lambda number: frames[number], len(frames), size, keep=0)
    plan = Plan(max(length, 2), iterations, beautify=True)
    for first in range(0, len(frames), length):
        began = time.perf_counter()
        numbers = list(range(first, min(first + length, len(frames))))
        clips.append(follow(features, numbers, start, plan))
        seconds += time.perf_counter() - began
    draw_overlay(frames, _tracks(np.concatenate(clips), start, length, size, meta), OverlayOptions(), output)
    return f"inference time: {seconds:.2f} seconds ({len(frames) / seconds:.1f} fps)"


def grid(points: int, size: tuple[int, int]) -> np.ndarray:
    """A square grid of about so many points, float32 [n * n, 2] (x, y), 8 px inside a frame (H, W)."""
    side = max(1, round(math.sqrt(points)))
    share = np.arange(side) / (side - 1) if side > 1 else np.array([0.5])
    y, x = np.meshgrid(MARGIN + share * (size[0] - 2 * MARGIN), MARGIN + share * (size[1] - 2 * MARGIN), indexing="ij")
    return np.stack([x.ravel(), y.ravel()], -1).astype(np.float32)


def _tracks(xy: np.ndarray, start: np.ndarray, length: int, size: tuple[int, int], meta: object) -> Tracks:
    """The tracks [T, N, 2] of all clips as one file's: each clip's points are points of their own, else not seen."""
    count, points = xy.shape[:2]
    firsts = range(0, count, length)
    tracks = np.concatenate([xy] * len(firsts), 1)
    visible = np.zeros(tracks.shape[:2], bool)
    queries = np.zeros((tracks.shape[1], 3), np.float32)
    for number, first in enumerate(firsts):
        part = slice(number * points, (number + 1) * points)
        frames = slice(first, first + length)
        visible[frames, part] = inside_index(xy[frames], *size)
        tracks[:first, part] = xy[first]
        tracks[frames.stop :, part] = xy[min(frames.stop, count) - 1]
        queries[part] = np.column_stack([np.full(points, first), index_to_raster(start)])
        visible[first, part] = True
    confidence = visible.astype(np.float32)
    ids = np.array([str(number) for number in range(len(queries))])
    fps = meta.fps / meta.stride
    return Tracks(index_to_raster(tracks).astype(np.float32), visible, confidence, queries, ids, size, fps, {})
