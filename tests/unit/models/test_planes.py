"""Look-up tables: the fast path against grid_sample, an independent loop and numerical gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from everypoint.config.options import ModelOptions
from everypoint.geometry import sample_resized
from everypoint.models.depth import DepthGrid
from everypoint.models.planes import Plane, TimeGrid, bilinear_rows


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plane64(resolution: int, channels: int = 3) -> Plane:
    return Plane(resolution, channels, generator(), scale=1.0).double()


def inner_points(count: int, seed: int = 1) -> torch.Tensor:
    """Points of (-1, 1)^2 in float64."""
    return torch.rand(count, 2, generator=generator(seed), dtype=torch.float64) * 2 - 1


def gradients(value: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    weight = torch.randn(value.shape, generator=generator(9), dtype=value.dtype)
    return torch.autograd.grad((value * weight).sum(), inputs)


def test_bilinear_rows_is_the_mean_weighted_by_opposite_areas():
    table = torch.randn(7, 2, generator=generator(), dtype=torch.float64)
    rows = torch.tensor([[0, 5], [1, 6], [3, 2], [4, 2]])
    fa, fb = torch.tensor([0.25, 0.9], dtype=torch.float64), torch.tensor([0.5, 0.0], dtype=torch.float64)
    mixed = bilinear_rows(table, rows, fa, fb)
    for n in range(2):
        a, b = float(fa[n]), float(fb[n])
        weights = [(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b]
        expected = sum(weight * table[rows[corner, n]] for corner, weight in enumerate(weights))
        torch.testing.assert_close(mixed[n], expected, rtol=0, atol=1e-15)


def test_bilinear_rows_has_right_gradients_of_table_and_both_positions():
    table = torch.randn(6, 3, generator=generator(), dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([[0, 2, 0], [1, 2, 1], [3, 2, 3], [4, 5, 4]])  # row 2 three times in one cell; a cell shared
    fa = torch.tensor([0.3, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    fb = torch.tensor([0.8, 1.0, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bilinear_rows, (table, rows, fa, fb))


@pytest.mark.parametrize("resolution", [2, 5, 8])
def test_plane_equals_grid_sample(resolution):
    plane, ab = plane64(resolution), inner_points(200).requires_grad_()
    fast, plain = plane(ab), plane.reference(ab)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)
    for mine, theirs in zip(gradients(fast, plane.table, ab), gradients(plain, plane.table, ab)):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_plane_on_nodes_and_borders_gives_the_nodes_themselves():
    size = 5
    plane = plane64(size)
    nodes = torch.linspace(-1, 1, size, dtype=torch.float64)
    ab = torch.cartesian_prod(nodes, nodes)
    torch.testing.assert_close(plane(ab), plane.table, rtol=0, atol=1e-12)
    torch.testing.assert_close(plane(ab), plane.reference(ab), rtol=0, atol=1e-12)


def test_plane_has_a_gradient_to_the_border_where_tanh_saturates():
    plane = Plane(4, 2, generator(), scale=1.0)
    ab = torch.tanh(torch.tensor([[40.0, -40.0], [-40.0, 0.0]]))
    assert ab[0].tolist() == [1.0, -1.0]
    torch.testing.assert_close(plane(ab), plane.reference(ab))
    plane(ab).sum().backward()
    touched = plane.table.grad.abs().sum(-1).reshape(4, 4) > 0
    assert touched[3, 0]
    assert touched[0, 1]
    assert touched[0, 2]
    assert int(touched.sum()) == 3


def test_plane_gradients_against_finite_differences():
    plane = plane64(4, channels=2)
    ab = inner_points(12).mul(0.97).requires_grad_()
    assert torch.autograd.gradcheck(plane, (ab,))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_point_that_is_not_finite_gives_a_value_that_is_not_finite_and_no_crash(bad):
    plane, depth = Plane(4, 2, generator(), scale=1.0), DepthGrid(2, (3, 4), (12, 16))
    points = torch.tensor([[bad, 0.0], [0.5, 0.5]])
    values = plane(points)
    assert not values[0].isfinite().any()
    assert values[1].isfinite().all()
    assert depth(points, torch.tensor([1, 1]))[1].isfinite()


@pytest.mark.parametrize("options", [{"plane_resolutions": (1,)}, {"plane_resolutions": ()}, {"time_factors": ()}])
def test_grids_that_cannot_be_are_refused_when_the_options_are_read(options):
    with pytest.raises(ValidationError):
        ModelOptions(**options)


# ------------------------------------------------------------------------------------------------ depth maps


def depth_grid(frames: int, size: tuple[int, int], frame_size: tuple[int, int]) -> DepthGrid:
    grid = DepthGrid(frames, size, frame_size).double()
    with torch.no_grad():
        grid.map.normal_(generator=generator(4))
    return grid


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (5, 3), (16, 20)])
def test_depth_follows_the_raster_rule(size):
    """The same numbers as geometry.sample_resized, values and gradients, inside, on the border and outside."""
    frame_size = (16, 20)
    grid = depth_grid(3, size, frame_size)
    xy = torch.rand(300, 2, generator=generator(5), dtype=torch.float64) * torch.tensor([26.0, 22.0]) - 3
    xy[:4] = torch.tensor([[-0.5, -0.5], [19.5, 15.5], [0.0, 15.0], [19.0, 0.0]])
    xy.requires_grad_()
    frame = torch.randint(3, (300,), generator=generator(6))
    maps = grid.maps()
    every = torch.stack([sample_resized(maps[t][None], xy, frame_size)[:, 0] for t in range(3)])
    expected = every.gather(0, frame[None])[0]
    torch.testing.assert_close(grid(xy, frame), expected, rtol=0, atol=1e-12)
    (map_mine, xy_mine), (map_theirs, xy_theirs) = (
        gradients(value, grid.map, xy) for value in (grid(xy, frame), expected)
    )
    torch.testing.assert_close(map_mine, map_theirs, rtol=0, atol=1e-10)
    torch.testing.assert_close(xy_mine[4:], xy_theirs[4:], rtol=0, atol=1e-10)  # the first four may sit on a kink


def test_depth_of_a_cell_centre_is_the_cell():
    grid = depth_grid(2, (2, 3), (8, 12))  # cells of 4 x 4 pixels: centre of the first at raster 2 = index 1.5
    centres = torch.tensor([[1.5 + 4 * x, 1.5 + 4 * y] for y in range(2) for x in range(3)], dtype=torch.float64)
    for t in range(2):
        value = grid(centres, torch.full((6,), t))
        torch.testing.assert_close(value, grid.maps()[t].reshape(-1), rtol=0, atol=1e-12)


def test_depth_of_one_frame_never_reads_another():
    grid = depth_grid(3, (2, 2), (8, 8))
    corners = torch.tensor([[-9.0, -9.0], [30.0, 30.0], [-9.0, 30.0], [30.0, -9.0]], dtype=torch.float64)
    grid(corners, torch.full((4,), 1)).sum().backward()
    touched = (grid.map.grad.reshape(3, 4) != 0).sum(-1)
    assert touched.tolist() == [0, 4, 0]


# ------------------------------------------------------------------------------------------------ time grids


@pytest.mark.parametrize("frames", [2, 5, 19, 20, 25, 100])
def test_time_grids_have_the_published_sizes_within_2_and_the_number_of_frames(frames):
    grid = TimeGrid(frames, 3, generator(), (1, 5, 13))
    sizes = [parameter.shape[-1] for parameter in grid.grids]
    assert all(2 <= size <= frames for size in sizes)
    if frames == 100:
        assert sizes == [5, 25, 65]
    assert grid().shape == (frames, 9)


def test_time_grid_is_linear_between_nodes_and_meets_the_ends():
    grid = TimeGrid(7, 2, generator(), (10,)).double()  # 7 * 10 // 20 = 3 nodes at frames 0, 3, 6
    nodes = next(iter(grid.grids))[0].T
    features = grid()
    torch.testing.assert_close(features[[0, 3, 6]], nodes)
    torch.testing.assert_close(features[1], nodes[0] + (nodes[1] - nodes[0]) / 3)
    expected = F.interpolate(nodes.T[None], 7, mode="linear", align_corners=True)[0].T
    torch.testing.assert_close(features, expected)
