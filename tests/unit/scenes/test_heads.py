"""The rendered data set in HT21's layout: boxes lie where the heads are seen."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from everypoint.errors import InputError
from everypoint.scenes import heads
from everypoint.scenes.truth import surfaces

FRAMES, SIZE, HEADS = 12, (96, 160), 6


@functools.cache
def long_scene():
    return heads.head_scene(60, SIZE, HEADS, seed=0)


def scene_of(frames: int):
    return replace(long_scene(), frames=frames)


def rows_of(text: str) -> np.ndarray:
    return np.array([[float(cell) for cell in line.split(",")] for line in text.splitlines()])


def test_boxes_enclose_the_pixels_of_their_heads():
    scene = scene_of(FRAMES)
    rows = rows_of(heads.gt_text(scene, HEADS))
    seen = surfaces(scene, 4)
    checked = 0
    for _, number, left, top, width, height, *_ in rows[rows[:, 0] == 5]:
        y, x = np.nonzero(seen == number)
        if len(x) < 20:
            continue
        checked += 1
        assert left - 0.01 <= x.min() + 0.5
        assert x.max() + 0.5 <= left + width + 0.01
        assert top - 0.01 <= y.min() + 0.5
        assert y.max() + 0.5 <= top + height + 0.01
    assert checked >= 3


def test_rows_are_ordered_and_some_are_missing_or_hidden():
    scene = scene_of(60)
    rows = rows_of(heads.gt_text(scene, HEADS))
    assert (np.diff(rows[:, 0]) >= 0).all()
    assert rows[-1, 0] == 60
    assert set(rows[:, 1]) == set(range(1, HEADS + 1))
    counts = [int((rows[:, 1] == n + 1).sum()) for n in range(HEADS)]
    assert counts == [60, 60, 50, 60, 60, 50]
    assert 0 < rows[:, 8].mean() < 1


def test_files(tmp_path):
    heads.write_heads(tmp_path, 1, 3, (24, 32), heads=2)
    folder = tmp_path / "HT21" / "train" / "HT21-01"
    assert sorted(path.name for path in (folder / "img1").iterdir()) == [f"{n:06d}.jpg" for n in (1, 2, 3)]
    assert len(rows_of((folder / "gt" / "gt.txt").read_text())) == 6


def test_impossible_data_sets_are_refused(tmp_path):
    with pytest.raises(InputError, match="with 0 heads"):
        heads.write_heads(tmp_path, 1, 3, (24, 32), heads=0)
