"""Flows whose right answers are known: translations, a moving square, and the filter as plain loops."""

from __future__ import annotations

import math

import numpy as np

from everypoint.artifacts.flows import FlowShardWriter, FlowStore
from everypoint.config.options import MatchOptions


class MemoryStore:
    """Flows in memory behind the reading half of FlowStore."""

    def __init__(self, flows: dict[tuple[int, int], np.ndarray]) -> None:
        self._flows = flows
        self.size = next(iter(flows.values())).shape[:2]

    def sources(self) -> list[int]:
        return sorted({i for i, _ in self._flows})

    def targets(self, source: int) -> list[int]:
        return sorted(j for i, j in self._flows if i == source)

    def has(self, source: int, target: int) -> bool:
        return (source, target) in self._flows

    def has_masks(self, source: int) -> bool:
        return False

    def flow(self, source: int, target: int) -> np.ndarray:
        return self._flows[source, target].astype(np.float32)


def written(store: MemoryStore, folder) -> FlowStore:
    """The same flows as files (rounded to 1/32 pixel)."""
    writer = FlowShardWriter(folder, "test", store.size)
    for i in store.sources():
        writer.write(i, store.targets(i), np.stack([store.flow(i, j) for j in store.targets(i)]))
    writer.publish()
    return FlowStore([folder])


def constant(size: tuple[int, int], vector: tuple[float, float]) -> np.ndarray:
    return np.broadcast_to(np.array(vector, np.float32), (*size, 2)).copy()


def translation(frames: int, size: tuple[int, int], step: tuple[float, float]) -> MemoryStore:
    """A whole frame that moves by ``step`` (x, y) a frame; flows between all pairs."""
    return MemoryStore(
        {
            (i, j): constant(size, ((j - i) * step[0], (j - i) * step[1]))
            for i in range(frames)
            for j in range(frames)
            if i != j
        }
    )


def square_mask(size: tuple[int, int], corner: tuple[int, int], side: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[corner[1] : corner[1] + side, corner[0] : corner[0] + side] = True
    return mask


def random_pair(size: tuple[int, int], seed: int, wild: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Two rough flows that are nearly inverse in places, far off in others, and not representable at one pixel."""
    random = np.random.default_rng(seed)
    forward = constant(size, (2.3, -1.6)) + random.normal(0, 0.7, (*size, 2))
    backward = constant(size, (-2.3, 1.6)) + random.normal(0, 0.7, (*size, 2))
    patch = (slice(3, 10), slice(4, 12))
    forward[patch] += wild * random.normal(0, 2, forward[patch].shape) + 3
    backward[patch] -= 2
    forward[1, 2] = np.nan
    backward[8, 9] = np.nan
    return forward.astype(np.float32), backward.astype(np.float32)


# -------------------------------------------------------------------------------- the filter as loops in float64


def bilinear(field: np.ndarray, x: float, y: float) -> np.ndarray:
    """Field [H, W, C] at an index point; zero outside, blended linearly over the last pixel."""
    height, width = field.shape[:2]
    total = np.zeros(field.shape[2])
    if not (math.isfinite(x) and math.isfinite(y)):
        return total * np.nan
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            weight = (1 - abs(x - column)) * (1 - abs(y - row))
            if weight > 0 and 0 <= row < height and 0 <= column < width:
                total += weight * field[row, column]
    return total


def cosine(first: np.ndarray, at: np.ndarray, second: np.ndarray, to: np.ndarray, size: tuple[int, int]) -> float:
    """Similarity of maps [h, w, C] that cover frames of ``size``, at index points of the frames."""
    values = []
    for features, (x, y) in ((first, at), (second, to)):
        h, w = features.shape[:2]
        column = min(max((x + 0.5) * w / size[1] - 0.5, 0), w - 1)
        row = min(max((y + 0.5) * h / size[0] - 0.5, 0), h - 1)
        values.append(bilinear(features.astype(np.float64), column, row))
    a, b = values
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def classify_by_loops(
    forward: np.ndarray, backward: np.ndarray, gap: int, options: MatchOptions, maps=None
) -> dict[str, np.ndarray]:
    """Rule 1.4 pixel by pixel, with the test that the target lies inside."""
    forward, backward = forward.astype(np.float64), backward.astype(np.float64)
    height, width = forward.shape[:2]
    result = {name: np.zeros((height, width), bool) for name in ("cycle", "occluded", "vetoed")}
    for row in range(height):
        for column in range(width):
            x = np.array([column, row], float)
            y = x + forward[row, column]
            if not np.isfinite(y).all() or not (0 <= y[0] <= width - 1 and 0 <= y[1] <= height - 1):
                continue
            m = forward[row, column] + bilinear(backward, *y)
            e1 = np.linalg.norm(m)
            cycle = e1 < options.cycle_threshold
            if cycle and gap >= options.appearance_gap and maps is not None:
                cycle = cosine(maps[0], x, maps[1], y, (height, width)) > options.appearance_threshold
                result["vetoed"][row, column] = not cycle
            result["cycle"][row, column] = cycle
            if gap <= options.rescue_gap:
                z = x + m
                e2 = np.linalg.norm(z + bilinear(forward, *z) - y)
                large = e1 > options.rescue_factor * options.cycle_threshold
                result["occluded"][row, column] = e2 < options.cycle_threshold and large
    return result
