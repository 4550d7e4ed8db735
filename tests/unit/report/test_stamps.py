"""Discs and rings: position, area, order, borders."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.report.stamps import RIM, draw_discs, draw_rings

WHITE = np.array([[255, 255, 255]], np.uint8)
OFFSETS = np.random.default_rng(0).uniform(0, 1, (40, 2))


def _centroid(weight: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(weight.shape)
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("radius", [1.2, 1.5, 2.7, 4.3, 6.0])
def test_a_disc_lies_where_it_should_to_a_tenth_of_a_pixel_and_has_its_area(radius: float) -> None:
    worst, area = 0.0, []
    for offset in OFFSETS:
        picture = np.zeros((32, 32, 3), np.uint8)
        draw_discs(picture, 15 + offset[None], WHITE, radius, 0.0)
        weight = picture[..., 0] / 255
        worst = max(worst, np.abs(_centroid(weight) - (15 + offset)).max())
        area.append(weight.sum())
    assert worst < 0.08
    assert np.mean(area) == pytest.approx(np.pi * radius**2, rel=0.08)


def test_a_ring_is_hollow_lies_where_it_should_and_is_as_faint_as_said() -> None:
    for offset in OFFSETS:
        picture = np.zeros((40, 40, 3), np.uint8)
        draw_rings(picture, 20 + offset[None], WHITE, 6.0, 1.5, 0.5)
        weight = picture[..., 0].astype(float)
        assert np.abs(_centroid(weight) - (20 + offset)).max() < 0.1
        assert weight[19:23, 19:23].max() == 0
        assert weight.max() == pytest.approx(127, abs=1)


def test_the_rim_is_dark_and_outside() -> None:
    picture = np.full((41, 41, 3), 200, np.uint8)
    draw_discs(picture, np.array([[20.0, 20.0]]), np.array([[10, 250, 30]], np.uint8), 6.0, 3.0)
    assert picture[20, 20].tolist() == [10, 250, 30]
    assert picture[20, 25].tolist() == [10, 250, 30]
    assert picture[20, 28].tolist() == list(RIM)
    assert picture[20, 31].tolist() == [200, 200, 200]


def test_later_discs_lie_over_earlier_ones_and_borders_cut() -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    centres = np.array([[-1.0, -1.0], [10.0, 10.0], [11.0, 10.0], [29.5, 19.5], [200.0, 5.0], [-60.0, 5.0]])
    colours = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [90, 90, 90], [1, 1, 1], [1, 1, 1]], np.uint8)
    draw_discs(picture, centres, colours, 3.0, 0.5)
    assert picture[0, 0].tolist() == [200, 0, 0]
    assert picture[10, 10].tolist() == [0, 0, 200]
    assert picture[10, 7].tolist() != [0, 0, 0]
    assert picture[19, 29].tolist() == [90, 90, 90]
