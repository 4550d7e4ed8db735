"""Loss terms against loops, and the schedule at its ends."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from everypoint.optimize import losses
from everypoint.optimize.schedule import rate

GENERATOR = torch.Generator().manual_seed(0)
PREDICTED, TARGET = (torch.randn(60, 2, generator=GENERATOR, dtype=torch.float64) * 5 for _ in range(2))
MAPPED, STORED = (torch.randn(60, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
OCCLUDED = torch.rand(60, generator=GENERATOR) < 0.4


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_robust_distance_is_charbonniers(scale):
    got = losses.robust_distance(PREDICTED, TARGET, scale)
    for n in range(60):
        distance = math.dist(PREDICTED[n].tolist(), TARGET[n].tolist())
        assert got[n].item() == pytest.approx(math.sqrt(distance**2 + scale**2) - scale, abs=1e-12)


def test_robust_distance_is_square_when_small_and_linear_when_large():
    def at(distance: float) -> float:
        return losses.robust_distance(torch.tensor([[distance, 0.0]]).double(), torch.zeros(1, 2).double(), 2.0).item()

    assert at(0) == 0
    assert at(0.01) == pytest.approx(0.01**2 / 4, rel=1e-4)
    assert at(1e6) == pytest.approx(1e6 - 2, rel=1e-9)


def test_robust_distance_has_a_gradient_at_zero():
    predicted = torch.zeros(3, 2, requires_grad=True)
    losses.robust_distance(predicted, torch.zeros(3, 2), 1.0).sum().backward()
    assert torch.equal(predicted.grad, torch.zeros(3, 2))


def test_depth_agreement_counts_what_is_seen_in_both_frames():
    got = losses.depth_agreement(MAPPED, STORED, OCCLUDED)
    for n in range(60):
        expected = 0.0 if OCCLUDED[n] else abs(MAPPED[n].item() - STORED[n].item())
        assert got[n].item() == pytest.approx(expected, abs=1e-15)


def test_occlusion_order_wants_hidden_points_behind_by_the_margin():
    got = losses.occlusion_order(MAPPED, STORED, OCCLUDED, 0.3)
    for n in range(60):
        short = max(0.0, 0.3 - (MAPPED[n].item() - STORED[n].item()))
        assert got[n].item() == pytest.approx(short if OCCLUDED[n] else 0.0, abs=1e-15)


def test_occlusion_order_pushes_the_hidden_point_back_and_the_hiding_one_forward():
    mapped, stored = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    losses.occlusion_order(mapped, stored, torch.tensor([True, False]), 0.1).sum().backward()
    assert mapped.grad.tolist() == [-1.0, 0.0]  # descending makes it larger: farther
    assert stored.grad.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "term",
    [
        lambda a, b: losses.robust_distance(a.reshape(-1, 2), b.reshape(-1, 2), 0.7),
        lambda a, b: losses.depth_agreement(a, b, OCCLUDED),
        lambda a, b: losses.occlusion_order(a, b, OCCLUDED, 0.3),
    ],
)
def test_gradients(term):
    assert torch.autograd.gradcheck(term, (MAPPED.clone().requires_grad_(), STORED.clone().requires_grad_()))


# ------------------------------------------------------------------------------------------------ schedule


def test_rate_rises_evenly_in_the_warm_up():
    assert [rate(step, 10**9, 4, 0.0) for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_rate_falls_along_a_cosine_to_its_final_share():
    assert rate(0, 100, 0, 0.02) == 1
    assert rate(50, 100, 0, 0.02) == pytest.approx(0.51)
    assert rate(100, 100, 0, 0.02) == pytest.approx(0.02)
    assert rate(99, 100, 0, 0.02) == pytest.approx(0.02, abs=5e-4)
    falling = [rate(step, 100, 0, 0.02) for step in range(100)]
    assert all(a > b for a, b in pairwise(falling))


def test_rate_without_a_fall_stays():
    assert {rate(step, 100, 0, 1.0) for step in range(100)} == {1.0}


def test_rate_of_a_run_shorter_than_its_warm_up():
    rates = [rate(step, 3, 50, 0.02) for step in range(3)]
    assert all(0 < value <= 0.06 for value in rates)
    assert rate(0, 1, 0, 0.02) == 1
