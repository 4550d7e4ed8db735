"""Rendered scenes as flow stores with exact flows, and the true tracks to compare with. Index coordinates."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from everypoint.artifacts.flows import FlowShardWriter, FlowStore
from everypoint.config.options import Preset
from everypoint.scenes.presets import preset
from everypoint.scenes.scene import Scene
from everypoint.scenes.truth import flow, ground_truth, sample_points, surfaces

FRAMES, SIZE = 8, (64, 64)
GAPS = (1, 2, 4)


@functools.cache
def scene(name: str, frames: int = FRAMES, size: tuple[int, int] = SIZE) -> Scene:
    return preset(name, size=size, frames=frames)


def exact_store(made: Scene, folder: Path, gaps: tuple[int, ...] | None = None) -> FlowStore:
    """Exact flows between all frames (or those of the given gaps), rounded to 1/32 px as stored."""
    writer = FlowShardWriter(folder, "exact", made.size)
    for i in range(made.frames):
        targets = [j for j in range(made.frames) if j != i and (gaps is None or abs(i - j) in gaps)]
        writer.write(i, targets, np.stack([flow(made, i, j)[0] for j in targets]))
    writer.publish()
    return FlowStore([folder])


def constant_store(folder: Path, frames: int, size: tuple[int, int], step: tuple[float, float]) -> FlowStore:
    """A picture that moves by ``step`` px a frame; flows between all frames."""
    writer = FlowShardWriter(folder, "constant", size)
    for i in range(frames):
        targets = [j for j in range(frames) if j != i]
        writer.write(i, targets, np.stack([np.broadcast_to(np.float32(step) * (j - i), (*size, 2)) for j in targets]))
    writer.publish()
    return FlowStore([folder])


def queries_of(made: Scene, count: int = 60, seed: int = 0) -> np.ndarray:
    """Queries float32 [N, 3] (t, x, y index) spread over objects and frames."""
    queries = sample_points(made, count, seed, margin=3.0)
    queries[:, 1:] -= 0.5
    return queries.astype(np.float32)


def truth_of(made: Scene, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True tracks [T, N, 2] (index) and visibility [T, N]; a point is visible where its pixel centre area is inside."""
    raster = queries.astype(np.float64) + np.array([0, 0.5, 0.5])
    tracks, visible = ground_truth(made, raster)
    tracks = tracks - 0.5
    height, width = made.size
    inside = (tracks >= 0).all(-1) & (tracks <= [width - 1, height - 1]).all(-1)
    return tracks, visible & inside


def seen_without_a_break(visible: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Where [T, N] a point has been visible in all frames from its query on, in either direction."""
    frames, count = visible.shape
    whole = np.zeros_like(visible)
    for n in range(count):
        start = int(queries[n, 0])
        for times in (range(start, frames), range(start, -1, -1)):
            for t in times:
                if not visible[t, n]:
                    break
                whole[t, n] = True
    return whole


def object_features(made: Scene) -> np.ndarray:
    """Features float16 [T, h, w, C] that are the same all over an object and orthogonal between objects."""
    names = list(dict.fromkeys(layer.name for layer in made.layers))
    number = np.array([names.index(layer.name) for layer in made.layers])
    return np.stack([np.eye(len(names), dtype=np.float16)[number[surfaces(made, t)]] for t in range(made.frames)])


def options(tracker: str = "chain-multi", **changes: dict) -> Preset:
    return Preset.model_validate({"description": "for tests", "tracker": tracker, **changes})
