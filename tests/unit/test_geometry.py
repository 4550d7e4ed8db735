"""Coordinates: hand numbers, loops as oracles, OpenCV's resize as the judge of the resize rule."""

from __future__ import annotations

import doctest
import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from everypoint import geometry
from tests.shared import ROOT

SIZES = [(1, 1), (1, 5), (4, 1), (3, 4), (7, 5)]


def bilinear(field: np.ndarray, x: float, y: float, border: bool) -> np.ndarray:
    """Bilinear value of ``field`` [C, H, W] at an index point, one neighbour after the other (the oracle)."""
    channels, height, width = field.shape
    if border:
        x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    value = np.zeros(channels)
    for column in (math.floor(x), math.floor(x) + 1):
        for row in (math.floor(y), math.floor(y) + 1):
            if 0 <= column < width and 0 <= row < height:
                value += (1 - abs(x - column)) * (1 - abs(y - row)) * field[:, row, column]
    return value


# ------------------------------------------------------------------------------------------------- conventions


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_centre_of_the_first_pixel(kind):
    """Pixel (0, 0): index (0, 0), raster (0.5, 0.5). The last pixel of a frame 4 wide and 3 high: index (3, 2)."""
    index = kind([[0.0, 0.0], [3.0, 2.0]])
    raster = kind([[0.5, 0.5], [3.5, 2.5]])
    assert (geometry.index_to_raster(index) == raster).all()
    assert (geometry.raster_to_index(raster) == index).all()


def test_raster_resize_is_a_pure_scale():
    """By hand: half the width, a third of the height; corners stay corners, the middle stays the middle."""
    points = np.array([[0, 0], [8, 6], [4, 3], [0.5, 0.5]], dtype=np.float32)
    there = geometry.scale_raster(points, (6, 8), (2, 4))
    np.testing.assert_allclose(there, [[0, 0], [4, 2], [2, 1], [0.25, 1 / 6]], rtol=1e-6)
    assert there.dtype == np.float32
    np.testing.assert_allclose(geometry.scale_raster(there, (2, 4), (6, 8)), points, rtol=1e-6)


def test_scaled_integers_keep_their_fractions():
    assert geometry.scale_raster(np.array([1, 1]), (2, 2), (1, 1)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("small, large", [((3, 4), (7, 5)), ((5, 9), (2, 33)), ((1, 4), (6, 8))])
def test_a_resize_that_keeps_the_corners_equals_torchs(small, large):
    """A picture of its own coordinates, resized with align_corners=True, says where each pixel came from."""
    own = geometry.pixel_grid(*small).permute(2, 0, 1)[None].double()
    came_from = torch.nn.functional.interpolate(own, large, mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
    there = geometry.scale_corners(came_from.numpy(), small, large)
    pixels = geometry.pixel_grid(*large).numpy() * [1, small[0] > 1]  # a side of one pixel stays at 0
    np.testing.assert_allclose(there, pixels, atol=1e-9)


def test_index_points_do_not_scale():
    """The trap that the two conventions are about: scaling index coordinates is off by half a pixel step."""
    index = np.array([3.0, 3.0])
    right = geometry.raster_to_index(geometry.scale_raster(geometry.index_to_raster(index), (8, 8), (4, 4)))
    assert right.tolist() == [1.25, 1.25]  # (3 + 0.5) / 2 - 0.5, not 3 / 2


def test_inside_is_the_pixel_grid():
    points = np.array([[0, 0], [3, 2], [-0.01, 0], [3.01, 0], [0, 2.01], [np.nan, 0]])
    wanted = [True, True, False, False, False, False]
    assert geometry.inside_index(points, 3, 4).tolist() == wanted
    assert geometry.inside_index(torch.from_numpy(points), 3, 4).tolist() == wanted


def test_pixel_grid_is_x_then_y():
    grid = geometry.pixel_grid(2, 3)
    assert grid.dtype == torch.float32
    assert grid.tolist() == [[[0, 0], [1, 0], [2, 0]], [[0, 1], [1, 1], [2, 1]]]


def test_worked_example_of_the_documentation():
    """Every line of the session shown in docs/conventions.md gives what the page says."""
    failed, tried = doctest.testfile(str(ROOT / "docs" / "conventions.md"), module_relative=False)
    assert failed == 0
    assert tried >= 8


# ---------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize("size", SIZES[3:])
def test_sampling_equals_the_loop_inside_and_outside(size, border):
    random = np.random.default_rng(0)
    field = random.normal(size=(2, *size))
    points = random.uniform(-3, 9, size=(4, 50, 2))
    sampled = geometry.sample_index(torch.from_numpy(field), torch.from_numpy(points), border=border)
    wanted = [[bilinear(field, x, y, border) for x, y in row] for row in points]
    assert sampled.shape == (4, 50, 2)
    np.testing.assert_allclose(sampled.numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_pixel_centres_give_pixel_values(size):
    field = torch.arange(3.0 * size[0] * size[1]).reshape(3, *size)
    sampled = geometry.sample_index(field, geometry.pixel_grid(*size))
    torch.testing.assert_close(sampled, field.permute(1, 2, 0))


def test_sampling_a_linear_field_is_exact_to_a_ten_thousandth_of_a_pixel():
    """The field's value is its own coordinate: what comes back is where the sampler looked."""
    grid = geometry.pixel_grid(480, 854)
    points = torch.rand(5000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([853.0, 479.0])
    looked = geometry.sample_index(grid.permute(2, 0, 1), points)
    assert (looked - points).abs().max() < 2e-4


def test_half_precision_field_is_looked_up_at_full_precision():
    """Features are stored as float16; coordinates in float16 would be off by up to a quarter of a pixel here."""
    field = geometry.pixel_grid(1, 854)[..., :1].permute(2, 0, 1) / 1024
    points = torch.tensor([[700.3, 0.0]])
    exact = geometry.sample_index(field, points)
    half = geometry.sample_index(field.half(), points)
    assert half.dtype == torch.float32
    assert (half - exact).abs().item() * 1024 < 0.3  # the rounding of the values themselves is 0.25 px here
    flat = torch.zeros(1, 1, 854, dtype=torch.float16)
    flat[..., 701] = 1
    assert geometry.sample_index(flat, points).item() == pytest.approx(0.3, abs=1e-3)


def test_gradient_of_sampling_agrees_with_differences():
    field = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 4, 5))).requires_grad_()
    points = torch.tensor([[1.3, 2.4], [0.2, 0.7], [3.6, 2.9]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(geometry.sample_index, (field, points))


# ------------------------------------------------------------------------------------------------- resize rule


def test_resized_map_by_hand():
    """A map of 2 cells over a frame 8 wide: cell centres lie at raster 2 and 6, index 1.5 and 5.5."""
    field = torch.tensor([[[10.0, 20.0]]])
    index = torch.tensor([[1.5, 0.0], [5.5, 0.0], [3.5, 0.0], [2.5, 0.0], [0.0, 0.0], [7.0, 0.0]])
    sampled = geometry.sample_resized(field, index, (4, 8))[:, 0]
    assert sampled.tolist() == [10, 20, 15, 12.5, 10, 20]


@pytest.mark.parametrize(("small", "large"), [((3, 4), (12, 16)), ((5, 7), (11, 23)), ((8, 8), (8, 8))])
def test_resized_map_equals_opencv_enlarging_it(small, large):
    field = np.random.default_rng(2).normal(size=small).astype(np.float32)
    wanted = cv2.resize(field, (large[1], large[0]), interpolation=cv2.INTER_LINEAR)
    sampled = geometry.sample_resized(torch.from_numpy(field)[None], geometry.pixel_grid(*large), large)[..., 0]
    np.testing.assert_allclose(sampled.numpy(), wanted, atol=1e-5)


def test_resized_map_equals_torch_interpolate():
    field = torch.randn(3, 6, 9, generator=torch.Generator().manual_seed(3))
    wanted = torch.nn.functional.interpolate(field[None], size=(20, 31), mode="bilinear", align_corners=False)[0]
    sampled = geometry.sample_resized(field, geometry.pixel_grid(20, 31), (20, 31))
    torch.testing.assert_close(sampled.permute(2, 0, 1), wanted, atol=1e-5, rtol=0)


def test_frame_shrunk_by_opencv_shows_a_point_where_scaling_says():
    """A blob at a known raster point, shrunk as frames are (INTER_AREA): its centre lies at the scaled point."""
    height, width, at = 96, 144, (61.7, 40.3)
    xs, ys = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)  # raster coordinates of the centres
    blob = np.exp(-((xs - at[0]) ** 2 + (ys - at[1]) ** 2) / (2 * 6**2))
    small = cv2.resize(blob, (width // 3, height // 2), interpolation=cv2.INTER_AREA)
    small_xs, small_ys = np.meshgrid(np.arange(width // 3) + 0.5, np.arange(height // 2) + 0.5)
    centre = [(small * small_xs).sum() / small.sum(), (small * small_ys).sum() / small.sum()]
    wanted = geometry.scale_raster(np.array(at), (height, width), (height // 2, width // 3))
    np.testing.assert_allclose(centre, wanted, atol=1e-3)


# ------------------------------------------------------------------------------------------------------ imports


def test_scaling_coordinates_needs_no_torch():
    """Jobs that only scale coordinates must not pay the seconds of torch's import."""
    code = "import sys, everypoint.geometry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("n", "out", "expected"),
    [(1, 3, [0, 0, 0]), (3, 3, [0, 1, 2]), (3, 6, [0, 0, 1, 1, 2, 2]), (3, 4, [0, 1, 1, 2]), (6, 2, [1, 4])],
)
def test_nearest_cells_hold_the_centres(n, out, expected):
    assert geometry.nearest_cells(n, out).tolist() == expected
