"""Matches with known answers, and small trainers on them."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from unittest import mock

import numpy as np

from everypoint.artifacts.matches import CYCLE, LONG_RANGE, Matches, to_fixed
from everypoint.config.options import ModelOptions, OptimizeOptions, Preset, SamplerOptions
from everypoint.optimize import run
from everypoint.optimize.planes_trainer import PlanesTrainer
from everypoint.optimize.warmstart import WarmStart, warm_start

SIZE = (32, 48)
STEPS = 24
Ends = tuple[np.ndarray, np.ndarray]


def table(
    ends: dict[tuple[int, int], Ends],
    frames: int,
    size: tuple[int, int] = SIZE,
    flags: dict[tuple[int, int], np.ndarray] | None = None,
) -> Matches:
    """A matches table from both ends [n, 2] of every pair."""
    counts = [len(a) for a, _ in ends.values()]
    marks = [(flags or {}).get(pair, np.full(n, CYCLE)) for pair, n in zip(ends, counts)]
    return Matches(
        pairs=np.array(list(ends), np.int32).reshape(-1, 2),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        fixed_i=to_fixed(np.concatenate([a for a, _ in ends.values()]), size),
        fixed_j=to_fixed(np.concatenate([b for _, b in ends.values()]), size),
        flags=np.concatenate(marks).astype(np.uint8),
        score=np.ones(sum(counts), np.float16),
        valid_count=np.array(counts, np.int64),
        size=size,
        frames=frames,
    )


def apply(affine: np.ndarray, xy: np.ndarray) -> np.ndarray:
    return xy @ affine[:2, :2].T + affine[:2, 2]


def camera_path(frames: int) -> np.ndarray:
    """Affine maps [T, 3, 3] from frame t into frame 0: pan, turn, zoom. Frame 0 is the identity."""
    maps = []
    for t in range(frames):
        angle, zoom = 0.02 * t, 1.01**t
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        maps.append(np.vstack([np.column_stack([turn, [0.9 * t, -0.4 * t]]), [0, 0, 1]]))
    return np.stack(maps)


SQUARE = (12.0, 28.0, 8.0, 22.0)  # x from, x to, y from, y to


def in_square(xy: np.ndarray) -> np.ndarray:
    left, right, top, low = SQUARE
    return (xy[:, 0] >= left) & (xy[:, 0] <= right) & (xy[:, 1] >= top) & (xy[:, 1] <= low)


def camera_matches(
    frames: int = 6,
    gaps: tuple[int, ...] = (1, 2),
    per_pair: int = 300,
    seed: int = 0,
    *,
    square: tuple[float, float] = (0.0, 0.0),
    outliers: float = 0.0,
) -> Matches:
    """Matches of a picture under the camera path; what lies in the square moves by ``square`` px a frame besides."""
    random = np.random.default_rng(seed)
    path = camera_path(frames)
    ends: dict[tuple[int, int], Ends] = {}
    for i in range(frames):
        for j in range(frames):
            if abs(i - j) not in gaps:
                continue
            a = random.uniform([0, 0], [SIZE[1] - 1, SIZE[0] - 1], (per_pair, 2))
            relative = np.linalg.inv(path[j]) @ path[i]
            b = apply(relative, a) + in_square(a)[:, None] * (j - i) * np.array(square)
            wrong = random.random(per_pair) < outliers
            b[wrong] = random.uniform([0, 0], [SIZE[1] - 1, SIZE[0] - 1], (int(wrong.sum()), 2))
            inside = (b >= 0).all(1) & (b <= [SIZE[1] - 1, SIZE[0] - 1]).all(1)
            ends[i, j] = a[inside], b[inside]
    return table(ends, frames)


def with_long_range(matches: Matches, every: int = 4) -> Matches:
    """The table with each ``every``-th row marked as a long-range match."""
    flags = np.where(np.arange(len(matches)) % every == 0, LONG_RANGE, matches.flags).astype(np.uint8)
    return dataclasses.replace(matches, flags=flags)


def tiny_preset(**changes) -> Preset:
    """An optimiser that takes milliseconds a step; ``changes`` are laid over its ``optimize`` section."""
    sampler = SamplerOptions(batch=64, adjacent_share=0.25, motion_share=0.25, hard_share=0.25, refresh=7)
    optimize = OptimizeOptions(steps=STEPS, warmup=5, log_every=10, tensorboard=False, sampler=sampler).model_dump()
    return Preset(
        description="for tests",
        tracker="optimize",
        model=ModelOptions(blocks=3, plane_resolutions=(4, 8), plane_channels=4, time_channels=4),
        optimize=OptimizeOptions.model_validate(optimize | changes),
    )


@functools.cache
def _started() -> tuple[Matches, WarmStart]:
    matches = camera_matches(square=(1.5, 0.5))
    return matches, warm_start(matches, 0)


def trainer(preset: Preset | None = None, seed: int = 0, device: str = "cpu") -> PlanesTrainer:
    """Ready for step 0 on the same matches every time; their warm start is computed once."""
    matches, start = _started()
    with mock.patch.object(run, "warm_start", return_value=start):
        return run.prepare(matches, preset or tiny_preset(), device, seed)


def same_state(first: dict, second: dict) -> bool:
    """Whether two nested states are equal bit for bit."""
    import torch

    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(same_state(a, b) for a, b in zip(first, second))
    return first == second


def jsonl(folder: Path) -> list[dict]:
    import json

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is not JSON")

    lines = (folder / "train.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]
