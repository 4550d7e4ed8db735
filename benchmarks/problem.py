"""The problem that steps are measured on: a rendered scene with exact matches of all its pairs."""

from __future__ import annotations

import dataclasses

import numpy as np

from everypoint.artifacts.matches import CYCLE, LONG_RANGE, OCCLUDED, Matches, MatchRows
from everypoint.match.rows import table_of
from everypoint.scenes.presets import preset as scene_preset
from everypoint.scenes.render import render
from everypoint.scenes.truth import flow


def problem(frames: int, size: tuple[int, int], per_pair: int = 512) -> tuple[np.ndarray, Matches]:
    """A rendered scene uint8 [T, H, W, 3] and exact matches of all its pairs, hidden points included."""
    scene, random = scene_preset("parallax", size, frames), np.random.default_rng(0)
    parts = []
    for i in range(frames):
        for j in range(i + 1, frames):
            moved, occluded = flow(scene, i, j)
            ys, xs = (random.integers(0, side, per_pair) for side in size)
            here, hidden = np.stack([xs, ys], -1).astype(np.float32), occluded[ys, xs]
            there = here + moved[ys, xs]
            known = np.isfinite(there).all(-1)
            flags = np.where(hidden, OCCLUDED, CYCLE).astype(np.uint8)[known]
            i_, j_ = (np.full(int(known.sum()), frame, np.int32) for frame in (i, j))
            parts.append(MatchRows(i_, j_, here[known], there[known], np.ones(len(i_), np.float32), flags))
    return render(scene), table_of(MatchRows.join(parts), size, frames, per_pair, 0)


def with_long_range(matches: Matches, gap: int = 10) -> Matches:
    """The table with a third of the rows of distant pairs marked as long-range matches."""
    distant = np.abs(np.diff(matches.pairs, axis=1))[:, 0][matches.rows_pair] >= gap
    marked = distant & (np.arange(len(matches)) % 3 == 0)
    return dataclasses.replace(matches, flags=np.where(marked, LONG_RANGE, matches.flags).astype(np.uint8))
