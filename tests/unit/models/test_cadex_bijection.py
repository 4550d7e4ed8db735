"""CaDeX++'s bijection: its size, exact both ways whatever the weights, consistent over any number of frames."""

from __future__ import annotations

import pytest
import torch

from everypoint.models.planes import FractionGrid
from tests.unit.models.made_cadex import bijection, box_points

COUNT = 6000


def round_trip(made, points: torch.Tensor, frames: int) -> float:
    """The largest error over both orders of the two directions."""
    frame = torch.arange(len(points)) % frames
    with torch.no_grad():
        parts = made.time_parts()
        back = made.local(made.canonical(points, frame, parts), frame, parts)
        there = made.canonical(made.local(points, frame, parts), frame, parts)
    return max(float((back - points).abs().max()), float((there - points).abs().max()))


@pytest.mark.parametrize("frames", [100, 59, 20, 7, 2])
def test_published_number_of_parameters(frames):
    made = bijection(frames, full=True)
    q = max(frames // 20, 1)
    assert sum(parameter.numel() for parameter in made.conditioners.parameters()) == 1_846_404
    assert sum(parameter.numel() for parameter in made.parameters()) == 1_846_404 + 304 * q
    assert made.order.tolist() != sorted(made.order.tolist())
    assert "order" in made.state_dict()


@pytest.mark.parametrize("wild", [0.0, 0.3, 1.0, 3.0, 10.0])
def test_round_trip_is_exact_whatever_the_weights(wild):
    """The networks in float32, the coordinates in float64. At 10 the map stretches by 1e5 in places."""
    assert round_trip(bijection(25, wild=wild, full=True), box_points(COUNT), 25) < 1e-6


def test_coordinates_in_float32_are_exact_for_calm_weights_only():
    """Why the coordinates are float64: slopes multiply along the chain, and with them the rounding of each block."""
    points = box_points(COUNT).float()
    assert round_trip(bijection(25, full=True), points, 25) < 1e-6
    assert round_trip(bijection(25, wild=10.0, full=True), points, 25) > 1e-3


@pytest.mark.parametrize("wild", [0.0, 1.0, 3.0])
def test_from_i_over_j_to_k_is_from_i_to_k(wild):
    made, points = bijection(25, wild=wild, full=True), box_points(COUNT)
    i, j, k = (torch.randint(25, (COUNT,), generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    with torch.no_grad():
        parts = made.time_parts()
        over = made.carry(made.carry(points, i, j, parts), j, k, parts)
        direct = made.carry(points, i, k, parts)
    assert (over - direct).abs().max() < 1e-6
    assert wild == 0 or (direct - points).abs().mean() > 0.01


def test_it_starts_near_the_identity_in_every_frame():
    made, points = bijection(25, full=True), box_points(COUNT)
    i, j = torch.zeros(COUNT, dtype=torch.long), torch.full((COUNT,), 24)
    with torch.no_grad():
        parts = made.time_parts()
        assert (made.canonical(points, i, parts) - points).abs().max() < 0.2
        assert (made.carry(points, i, j, parts) - points).abs().max() < 1e-3


def test_the_order_of_the_blocks_is_that_of_the_checkpoint():
    source, made = bijection(6, seed=1, wild=1.0), bijection(6, seed=2, wild=1.0)
    assert source.order.tolist() != made.order.tolist()
    made.load_state_dict(source.state_dict())
    points, frame = box_points(50), torch.arange(50) % 6
    assert torch.equal(
        made.canonical(points, frame, made.time_parts()), source.canonical(points, frame, source.time_parts())
    )


# ------------------------------------------------------------------------------------------------ time grids


@pytest.mark.parametrize("frames", [1, 2, 3, 19, 20, 41, 1000])
def test_time_grids_have_the_published_sizes_for_any_number_of_frames(frames):
    made = FractionGrid(frames, 3, torch.Generator(), (1, 5, 13))
    q = max(frames // 20, 1)
    assert [len(grid) for grid in made.grids] == [q, 5 * q, 13 * q]
    assert made().shape == (frames, 9)


def test_time_features_are_linear_in_the_fraction_of_the_video():
    frames, made = 40, FractionGrid(40, 2, torch.Generator().manual_seed(0), (1, 5)).double()
    found = made()
    for t in range(frames):
        expected = []
        for grid in made.grids:
            where = t / frames * (len(grid) - 1)
            low = min(int(where), len(grid) - 2)
            expected += [grid[low] * (1 - where + low) + grid[low + 1] * (where - low)]
        torch.testing.assert_close(found[t], torch.cat(expected), rtol=0, atol=1e-8)  # fractions are kept in float32


def test_every_node_of_the_time_grids_learns():
    made = FractionGrid(60, 2, torch.Generator().manual_seed(0), (1, 5, 13))
    made().sum().backward()
    assert all((grid.grad.abs().sum(1) > 0).all() for grid in made.grids)
