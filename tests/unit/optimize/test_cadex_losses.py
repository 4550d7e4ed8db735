"""CaDeX++'s loss terms against loops in float64, and what they leave out."""

from __future__ import annotations

import math

import pytest
import torch

from everypoint.optimize import cadex_losses, ray_losses

N = 40


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some(seed: int = 5) -> torch.Tensor:
    return torch.rand(N, generator=torch.Generator().manual_seed(seed)) < 0.6


def mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


def test_depth_agreement_is_the_mean_over_what_is_seen():
    mapped, stored, seen = random(N), random(N, seed=1), some()
    expected = mean([abs(a - b) for a, b, s in zip(mapped.tolist(), stored.tolist(), seen.tolist(), strict=True) if s])
    assert float(cadex_losses.depth_agreement(mapped, stored, seen)) == pytest.approx(expected, abs=1e-12)


def test_depth_slopes_count_a_tenth_outside():
    slopes, prior, inside = random(N, 2), random(N, 2, seed=1), some()
    terms = [
        math.hypot(*(a - b for a, b in zip(mine, other, strict=True))) * (1 if i else 0.1)
        for mine, other, i in zip(slopes.tolist(), prior.tolist(), inside.tolist(), strict=True)
    ]
    assert float(cadex_losses.depth_slopes(slopes, prior, inside)) == pytest.approx(mean(terms), abs=1e-12)


def test_depth_slopes_have_a_gradient_of_zero_where_they_agree():
    slopes = random(N, 2).requires_grad_()
    cadex_losses.depth_slopes(slopes, slopes.detach().clone(), some()).backward()
    assert torch.equal(slopes.grad, torch.zeros(N, 2, dtype=torch.float64))


def test_match_distance_is_the_mean_over_points_and_axes():
    predicted, target, kept = random(N, 2), random(N, 2, seed=1), some()
    terms = [abs(float(predicted[n, a] - target[n, a])) for n in range(N) if kept[n] for a in range(2)]
    assert float(cadex_losses.match_distance(predicted, target, kept)) == pytest.approx(mean(terms), abs=1e-12)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_cut_is_by_the_median_of_both_axes(factor):
    predicted, target = random(N, 2), random(N, 2, seed=1)
    off = sorted(abs(float(value)) for value in (predicted - target).reshape(-1))
    limit = factor * off[N - 1]  # the lower median of 2 N
    expected = [all(abs(float(d)) < limit for d in predicted[n] - target[n]) for n in range(N)]
    found = cadex_losses.within_medians(predicted, target, factor)
    assert found.tolist() == expected
    assert 0 < sum(expected) < N


def test_a_match_far_off_is_cut_and_has_no_gradient():
    predicted = random(N, 2).requires_grad_()
    target = predicted.detach() + 0.1 * random(N, 2, seed=2)
    target[3] += 50
    kept = cadex_losses.within_medians(predicted, target, 10.0)
    assert kept.logical_not().nonzero().tolist() == [[3]]
    cadex_losses.match_distance(predicted, target, kept).backward()
    assert predicted.grad[3].tolist() == [0, 0]
    assert (predicted.grad[kept] != 0).all()


def test_nothing_that_counts_is_zero_and_has_a_gradient():
    mapped, none = random(N).requires_grad_(), torch.zeros(N, dtype=torch.bool)
    loss = cadex_losses.depth_agreement(mapped, random(N, seed=1), none)
    loss.backward()
    assert float(loss.detach()) == 0
    assert mapped.grad.abs().max() == 0


def test_a_value_that_is_not_finite_and_does_not_count_does_no_harm():
    values = random(N)
    values[some()] = float("nan")
    assert cadex_losses.masked_mean(values, ~some()).isfinite()


def test_flow_counts_what_is_told_besides_the_frame():
    """Points near the plane of the camera do not count: neither for the mean nor for the largest residual."""
    predicted, target = random(N, 2).abs() * 5, random(N, 2, seed=1).abs() * 5
    omega, counts = random(N, seed=2).abs(), some()
    residual = (predicted - target).abs().mean(-1)
    inside = counts & (predicted <= torch.tensor([19.0, 9.0])).all(-1)
    largest = residual[inside].max()
    expected = mean([float(omega[n] * residual[n]) for n in range(N) if inside[n] and residual[n] < largest])
    assert float(ray_losses.flow(predicted, target, omega, (10, 20), counts)) == pytest.approx(expected, abs=1e-12)
