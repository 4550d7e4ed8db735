"""Colours by query position and the even choice of points."""

from __future__ import annotations

import cv2
import numpy as np

from everypoint.report.colours import choose_points, query_colours


def _queries(xy: np.ndarray) -> np.ndarray:
    return np.column_stack([np.zeros(len(xy)), xy]).astype(np.float32)


def _grid(columns: int, rows: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2).astype(float)


def test_colours_are_smooth_distinct_and_bright() -> None:
    grid = _grid(32, 18) * 20
    colours = query_colours(_queries(grid), (360, 640)).reshape(18, 32, 3).astype(int)
    lab = cv2.cvtColor((colours / 255).astype(np.float32), cv2.COLOR_RGB2LAB)  # distances as the eye sees them
    assert np.linalg.norm(np.diff(lab, axis=0), axis=-1).max() < 16
    assert np.linalg.norm(np.diff(lab, axis=1), axis=-1).max() < 20
    assert np.linalg.norm(lab[:, 0] - lab[:, -1], axis=-1).min() > 30
    assert (colours.max(axis=-1) > 120).all()  # nothing is lost on a dark frame
    assert (colours.max(axis=-1) - colours.min(axis=-1)).min() > 50  # nothing looks grey


def test_colours_do_not_depend_on_the_other_points_order_and_are_repeatable() -> None:
    xy = np.random.default_rng(0).uniform(0, 300, (50, 2))
    order = np.random.default_rng(1).permutation(50)
    colours = query_colours(_queries(xy), (300, 300))
    assert (query_colours(_queries(xy[order]), (300, 300)) == colours[order]).all()
    assert colours.dtype == np.uint8


def test_one_point_no_points_and_points_that_are_not_finite_have_colours() -> None:
    assert query_colours(_queries(np.array([[5.0, 5.0]])), (100, 100)).shape == (1, 3)
    assert query_colours(np.zeros((0, 3)), (100, 100)).shape == (0, 3)
    assert query_colours(_queries(np.array([[np.nan, 5.0], [3, 3]])), (100, 100)).shape == (2, 3)


def test_points_are_chosen_evenly() -> None:
    """A crowd in one corner takes no more than its share; the gaps are near those of a perfect spread."""
    rng = np.random.default_rng(0)
    crowd = rng.uniform(0, 0.1, (900, 2))
    xy = np.concatenate([crowd, rng.uniform(0, 1, (400, 2))]) * 100
    chosen = choose_points(_queries(xy), 64)
    assert len(set(chosen)) == 64
    assert (np.diff(chosen) > 0).all()
    assert (chosen < 900).sum() < 8
    gaps = np.linalg.norm(xy[chosen][:, None] - xy[chosen][None], axis=-1) + np.eye(64) * 1e9
    assert gaps.min() > 6  # 64 points on 100 x 100: 12.5 apart when on a grid


def test_choice_is_deterministic_and_takes_all_when_there_are_few() -> None:
    xy = np.random.default_rng(2).uniform(0, 50, (200, 2))
    assert (choose_points(_queries(xy), 20) == choose_points(_queries(xy), 20)).all()
    assert (choose_points(_queries(xy), 500) == np.arange(200)).all()
    assert (choose_points(_queries(xy), 200) == np.arange(200)).all()


def test_points_at_the_same_place_come_last() -> None:
    xy = np.concatenate([np.repeat(_grid(3, 3), 5, axis=0), _grid(2, 1) + 10])
    chosen = choose_points(_queries(xy), 11)
    assert len({tuple(xy[n]) for n in chosen}) == 11
    assert len(set(choose_points(_queries(xy), 20))) == 20
