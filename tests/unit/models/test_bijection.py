"""The bijection: exact both ways, whatever the weights; its time half; its order of coordinates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from everypoint.models.bijection import Bijection, PlaneConditioner
from tests.unit.models.made import model

COUNT = 6000


def box_points(seed: int = 5) -> torch.Tensor:
    return torch.rand(COUNT, 3, generator=torch.Generator().manual_seed(seed)) * 6 - 3


def round_trip_error(bijection: Bijection, points: torch.Tensor, frames: int) -> float:
    frame = torch.arange(len(points)) % frames
    with torch.no_grad():
        parts = bijection.time_parts()
        canonical = bijection.canonical(points, frame, parts)
        back = bijection.local(canonical, frame, parts)
        there = bijection.canonical(bijection.local(points, frame, parts), frame, parts)
    return max(float((back - points).abs().max()), float((there - points).abs().max()))


@pytest.mark.parametrize("coupling", ["piecewise", "affine"])
@pytest.mark.parametrize("wild", [0.0, 3.0, 30.0])
@pytest.mark.parametrize("blocks", [1, 3, 6])
def test_inverse_is_exact(coupling, wild, blocks):
    made = model(6, wild=wild, blocks=blocks, coupling=coupling)
    assert round_trip_error(made.bijection, box_points(), 6) < 1e-5
    assert round_trip_error(made.double().bijection, box_points().double(), 6) < 1e-12


@pytest.mark.parametrize("blocks", [3, 6])
def test_inverse_is_exact_for_saturated_couplings(blocks):
    """Raw parameters of +-20 at once in all blocks: the steepest and flattest pieces there are, in a chain."""
    made = model(6, wild=10.0, blocks=blocks)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for conditioner in made.bijection.conditioners:
            conditioner.last.bias.copy_(torch.randint(2, conditioner.last.bias.shape, generator=generator) * 40 - 20)
    assert round_trip_error(made.bijection, box_points(), 6) < 1e-5


def test_wild_weights_are_wild():
    """The tests above would be easy for a map close to the identity."""
    made = model(6, wild=30.0, blocks=6)
    with torch.no_grad():
        parts = made.bijection.time_parts()
        moved = [made.bijection.canonical(box_points(), torch.full((COUNT,), t), parts) for t in (0, 5)]
    assert (moved[0] - box_points()).abs().mean() > 0.1
    assert (moved[0] - moved[1]).abs().mean() > 0.05


def test_starts_close_to_the_identity():
    made = model(6, blocks=6)
    with torch.no_grad():
        moved = made.bijection.canonical(
            box_points(), torch.zeros(COUNT, dtype=torch.long), made.bijection.time_parts()
        )
    assert (moved - box_points()).abs().max() < 0.2


def test_every_three_blocks_change_every_coordinate_once():
    orders = {tuple(model(6, blocks=6, seed=seed).bijection.order.tolist()) for seed in range(8)}
    assert len(orders) > 1
    for order in orders:
        assert sorted(order[:3]) == sorted(order[3:]) == [0, 1, 2]


def test_a_block_changes_its_own_coordinate_only():
    made = model(6, wild=10.0, blocks=1)
    points = box_points()
    with torch.no_grad():
        moved = made.bijection.canonical(points, torch.zeros(COUNT, dtype=torch.long), made.bijection.time_parts())
    changed = [axis for axis in range(3) if not torch.equal(moved[:, axis], points[:, axis])]
    assert changed == made.bijection.order.tolist()


def test_order_comes_from_the_checkpoint_not_from_the_seed():
    first = next(model(6, wild=10.0, blocks=6, seed=seed) for seed in range(20))
    other = next(
        made
        for made in (model(6, blocks=6, seed=seed) for seed in range(1, 50))
        if made.bijection.order.tolist() != first.bijection.order.tolist()
    )
    other.load_state_dict(first.state_dict())
    frame = torch.arange(COUNT) % 6
    with torch.no_grad():
        expected = first.bijection.canonical(box_points(), frame, first.bijection.time_parts())
        loaded = other.bijection.canonical(box_points(), frame, other.bijection.time_parts())
    assert torch.equal(loaded, expected)


def test_time_part_is_half_of_the_published_first_layer():
    """Splitting the first layer into a part a point and a part a frame changes nothing."""
    generator = torch.Generator().manual_seed(0)
    conditioner = PlaneConditioner(10, (4, 8), 4, 6, generator).double()
    kept = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    time = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    frame = torch.arange(50) % 5
    whole = nn.Linear(8 + 6, 7).double()
    with torch.no_grad():
        whole.weight.copy_(torch.cat([conditioner.spatial.weight, conditioner.time.weight], 1))
        whole.bias.copy_(conditioner.spatial.bias)
    features = torch.cat([plane.reference(torch.tanh(kept)) for plane in conditioner.planes] + [time[frame]], -1)
    hidden = nn.functional.leaky_relu(whole(features))
    expected = conditioner.last(nn.functional.leaky_relu(conditioner.middle(hidden)))
    torch.testing.assert_close(conditioner(kept, conditioner.time_part(time)[frame]), expected, rtol=0, atol=1e-12)


def test_published_sizes_give_the_published_number_of_parameters():
    """CaDeX++ with 100 frames: 1,846,404 and 304 a 20 frames of video, without depth (specification, 2.2).

    Here the layers are 112 -> 56 -> 28 -> 10 too, so only the way of splitting differs, not the count.
    """
    bijection = Bijection(
        100,
        blocks=6,
        coupling="piecewise",
        resolutions=(12, 96),
        channels=32,
        time_channels=16,
        time_factors=(1, 5, 13),
        generator=torch.Generator().manual_seed(0),
    )
    assert sum(parameter.numel() for parameter in bijection.parameters()) == 1_846_404 + 304 * 5


@pytest.mark.parametrize("coupling", ["piecewise", "affine"])
def test_gradients_reach_every_parameter(coupling):
    made = model(6, wild=3.0, blocks=3, coupling=coupling)
    parts = made.bijection.time_parts()
    frame = torch.arange(COUNT) % 6
    points = box_points() / 3
    canonical = made.bijection.canonical(points, frame, parts)
    made.bijection.local(canonical, (frame + 1) % 6, parts).square().sum().backward()
    for name, parameter in made.bijection.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
