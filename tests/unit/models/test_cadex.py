"""CaDeX++'s model: depth cells, scene box, transport against its parts, read-out, its file, any size and length."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from everypoint.config.options import ReadoutOptions
from everypoint.models.cadex import CadexModel
from everypoint.models.depth import DepthCells
from everypoint.models.files import load_model, save_model
from tests.unit.models.made_cadex import SIZE, model, options, pixels

FRAMES = 5
HEIGHT, WIDTH = SIZE
CELLS = (9, 12)  # int(0.3 H), int(0.3 W)


# ------------------------------------------------------------------------------------------------ depth cells


def cells_of(size: tuple[int, int] = CELLS) -> DepthCells:
    made = DepthCells(FRAMES, size, SIZE)
    with torch.no_grad():
        made.map.normal_(generator=torch.Generator().manual_seed(0))
    return made


def naive_cell(x: float, y: float, size: tuple[int, int] = CELLS) -> tuple[int, int]:
    """Row and column of the cell whose part of the frame holds an index point; the nearest one outside."""
    row = math.floor((y + 0.5) / HEIGHT * size[0])
    column = math.floor((x + 0.5) / WIDTH * size[1])
    return min(max(row, 0), size[0] - 1), min(max(column, 0), size[1] - 1)


@pytest.mark.parametrize("size", [CELLS, (1, 1), (1, 5), SIZE])
def test_depth_is_that_of_the_cell_a_point_lies_in(size):
    made = cells_of(size)
    xy, frame, _ = pixels(300, FRAMES)
    xy = xy * 1.4 - 6  # also outside
    found = made(xy, frame)
    for n in range(300):
        row, column = naive_cell(*xy[n].tolist(), size)
        assert found[n] == made.map[frame[n], row, column]


def test_a_gradient_reaches_the_cell_alone():
    made = cells_of()
    xy, frame = torch.tensor([[20.3, 11.2]]), torch.tensor([3])
    made(xy, frame).sum().backward()
    row, column = naive_cell(20.3, 11.2)
    assert (made.map.grad != 0).nonzero().tolist() == [[3, row, column]]


def test_backward_differences_are_to_the_left_and_upper_cell():
    made = cells_of()
    xy, frame, _ = pixels(300, FRAMES)
    flat = made.map.reshape(-1)
    own, left, up = (flat[rows] for rows in made.cells(xy, frame))
    for n in range(300):
        row, column = naive_cell(*xy[n].tolist())
        maps = made.map[frame[n]]
        assert own[n] == maps[row, column]
        assert left[n] == maps[row, max(column - 1, 0)]
        assert up[n] == maps[max(row - 1, 0), column]


# ------------------------------------------------------------------------------------------------ model


def test_parameters_of_the_published_configuration():
    made = CadexModel(100, (480, 854), options(full=True, depth_scale=0.3), 0)
    assert sum(parameter.numel() for parameter in made.parameters()) == 1_846_404 + 304 * 5 + 100 * 144 * 256


def test_the_prior_is_resized_by_nearest_cells():
    made, prior = CadexModel(2, SIZE, options(), 0), np.arange(2 * 3 * 4).reshape(2, 3, 4) + 1.0
    made.set_depth(prior)
    assert made.depth.map.shape == (2, *CELLS)
    expected = prior[:, np.arange(9) // 3][:, :, np.arange(12) // 3]
    np.testing.assert_array_equal(made.depth.map.detach().numpy(), expected)


def test_most_of_the_scene_lies_in_the_box():
    """The median of the points is its middle, and the nearer end of each axis lies at 1 / 0.8."""
    made = model()
    xy, _, _ = pixels(2000, FRAMES)
    frame = torch.arange(2000) % FRAMES
    points = made.lift(xy, made.depth(xy, frame))
    assert points.median(0).values.abs().max() < 0.1
    nearer = torch.minimum(-points.amin(0), points.amax(0))
    assert ((nearer > 1.1) & (nearer < 1.4)).all()


@torch.no_grad()
@pytest.mark.parametrize("camera", ["pinhole", "orthographic"])
def test_transport_is_lift_bijection_and_projection(camera):
    made = model(wild=1.0, cadex={"camera": camera})
    xy, i, j = pixels(40, FRAMES)
    found, parts = made.transport(xy, i, j), made.parts()
    for n in range(40):
        row = slice(n, n + 1)
        depth = float(made.depth(xy[row], i[row]))
        x, y = xy[n].double().tolist()
        focal = WIDTH / (2 * math.tan(math.radians(20)))
        local = [(x + 0.5 - WIDTH / 2) / focal * depth, (y + 0.5 - HEIGHT / 2) / focal * depth, depth]
        if camera == "orthographic":
            local = [2 * x / (WIDTH - 1) - 1, 2 * y / (HEIGHT - 1) - 1, depth]
        point = (torch.tensor([local], dtype=torch.float64) - made.box_centre) / made.box_half
        there = made.bijection.local(made.bijection.canonical(point, i[row], parts), j[row], parts)
        there = (there * made.box_half + made.box_centre)[0].tolist()
        expected = [there[0] * focal / there[2] + WIDTH / 2 - 0.5, there[1] * focal / there[2] + HEIGHT / 2 - 0.5]
        if camera == "orthographic":
            expected = [(there[0] + 1) * (WIDTH - 1) / 2, (there[1] + 1) * (HEIGHT - 1) / 2]
        np.testing.assert_allclose(found.xy[n], expected, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(found.z[n], there[2], rtol=1e-5)


@torch.no_grad()
def test_a_pixel_stays_where_it_is_in_its_own_frame():
    made = model(wild=3.0)
    xy, i, _ = pixels(500, FRAMES)
    found = made.transport(xy, i, i)
    assert (found.xy - xy).abs().max() < 1e-4
    assert torch.allclose(found.z, made.depth(xy, i), rtol=1e-6)


def test_the_flow_moves_the_depth_of_its_own_cell_and_every_weight():
    made = model(wild=1.0)
    xy, i, j = pixels(200, FRAMES)
    made.transport(xy, i, j).xy.square().sum().backward()
    touched = (made.depth.map.grad != 0).reshape(-1).nonzero()[:, 0]
    assert set(touched.tolist()) <= set(made.depth.cells(xy, i)[0].tolist())
    assert all(parameter.grad.abs().max() > 0 for parameter in made.parameters())


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (17, 3), (33, 47)])
def test_any_size_and_length(frames, size):
    made = CadexModel(frames, size, options(full=True), 0)
    made.set_depth(np.full((frames, 7, 11), 3.0))
    xy, frame = torch.zeros(4, 2), torch.arange(4) % frames
    found = made.transport(xy, frame, frame.flip(0))
    assert found.xy.isfinite().all()
    assert found.z.isfinite().all()


# ------------------------------------------------------------------------------------------------ read-out


@pytest.mark.parametrize(("unit", "error", "behind"), [("relative", 0.05, 0.05), ("absolute", 0.2, 0.2)])
@torch.no_grad()
def test_hidden_is_what_lies_behind_the_depth_by_the_threshold(unit, error, behind):
    made = model()
    xy, _, j = pixels(100, FRAMES)
    stored, readout = made.depth(xy, j), ReadoutOptions(depth_error=error, depth_error_unit=unit)
    threshold = behind * (stored if unit == "relative" else torch.ones(100))
    parts = made.parts()
    at = made.visibility(xy, stored + threshold, j, parts, readout)
    torch.testing.assert_close(at, torch.full((100,), 0.5), rtol=0, atol=1e-4)
    assert (made.visibility(xy, stored + 1.1 * threshold, j, parts, readout) < 0.5).all()
    assert (made.visibility(xy, stored + 0.9 * threshold, j, parts, readout) > 0.5).all()
    assert (made.visibility(xy, stored, j, parts, readout) > 0.95).all()
    assert (made.visibility(xy, stored + 3 * threshold, j, parts, readout) < 0.01).all()


def test_a_relative_threshold_knows_no_scale():
    small, large = model(), model()
    large.set_depth(np.random.default_rng(0).uniform(200, 600, (FRAMES, 4, 4)))
    small.set_depth(np.random.default_rng(0).uniform(2, 6, (FRAMES, 4, 4)))
    xy, i, j = pixels(100, FRAMES)
    found = []
    for made in (small, large):
        there, parts = made.transport(xy, i, j), made.parts()
        found.append(made.visibility(there.xy, there.z, j, parts, ReadoutOptions()).detach())
    torch.testing.assert_close(*found, rtol=0, atol=1e-3)


@torch.no_grad()
def test_anchor_and_place_are_transport():
    made = model(wild=1.0)
    xy, i, j = pixels(100, FRAMES)
    parts = made.parts()
    placed, moved = made.place(made.anchor(xy, i, parts), j, parts), made.transport(xy, i, j, parts)
    torch.testing.assert_close(placed.xy, moved.xy, rtol=0, atol=1e-5)
    torch.testing.assert_close(placed.z, moved.z)


@torch.no_grad()
def test_a_file_holds_the_whole_model(tmp_path):
    made = model(wild=1.0)
    save_model(tmp_path / "model.pt", made)
    read = load_model(tmp_path / "model.pt")
    xy, i, j = pixels(50, FRAMES)
    assert torch.equal(read.transport(xy, i, j).xy, made.transport(xy, i, j).xy)
    assert read.box_half.dtype == torch.float64
