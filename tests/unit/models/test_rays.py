"""Coordinates, samples and compositing of rays, against loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from everypoint.models import rays

F64 = torch.zeros(0, dtype=torch.float64)
F32 = torch.zeros(0)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ------------------------------------------------------------------------------------------------ coordinates


@pytest.mark.parametrize("size", [(24, 33), (480, 854), (1, 7), (5, 1)])
def test_normalised_points_follow_the_formula(size):
    xy = (drawn(20, 2) * 1.4 - 0.2) * torch.tensor([size[1], size[0]])
    got = rays.normalise(xy, size)
    for n in range(20):
        for axis, side in enumerate((size[1], size[0])):
            expected = 2 * float(xy[n, axis]) / max(side - 1, 1) - 1
            assert math.isclose(float(got[n, axis]), expected, abs_tol=1e-12)
    torch.testing.assert_close(rays.denormalise(got, size), xy, atol=1e-10, rtol=0)


def test_corner_pixels_lie_in_the_corners_of_the_box():
    corners = torch.tensor([[0.0, 0.0], [32.0, 23.0]])
    assert rays.normalise(corners, (24, 33)).tolist() == [[-1, -1], [1, 1]]


def test_float32_coordinates_come_back_to_a_thousandth_of_a_pixel():
    xy = drawn(1000, 2, dtype=torch.float32) * torch.tensor([853.0, 479.0])
    assert (rays.denormalise(rays.normalise(xy, (480, 854)), (480, 854)) - xy).abs().max() < 1e-3


# ------------------------------------------------------------------------------------------------ samples


def test_samples_without_draws_are_evenly_spaced():
    got = rays.sample_depths(5, 0.0, 2.0, None, F64)
    assert got.shape == (1, 5)
    np.testing.assert_allclose(got[0], [0, 0.5, 1, 1.5, 2])


@pytest.mark.parametrize("count, near, far", [(2, 0.0, 2.0), (6, 0.0, 2.0), (32, -0.5, 1.25)])
def test_draws_place_each_sample_in_its_own_interval(count, near, far):
    u = drawn(50, count)
    got = rays.sample_depths(count, near, far, u, F64)
    even = [near + (far - near) * k / (count - 1) for k in range(count)]
    for r in range(50):
        for k in range(count):
            low = even[k] if k == 0 else (even[k - 1] + even[k]) / 2
            high = even[k] if k == count - 1 else (even[k] + even[k + 1]) / 2
            assert math.isclose(float(got[r, k]), low + (high - low) * float(u[r, k]), abs_tol=1e-12)
    assert (got.diff(dim=-1) >= 0).all()


def test_intervals_tile_the_ray_and_the_end_ones_are_half_as_wide():
    low = rays.sample_depths(9, 0.0, 2.0, torch.zeros(1, 9, dtype=torch.float64), F64)[0]
    high = rays.sample_depths(9, 0.0, 2.0, torch.ones(1, 9, dtype=torch.float64), F64)[0]
    torch.testing.assert_close(low[1:], high[:-1])
    np.testing.assert_allclose(high - low, [0.125] + [0.25] * 7 + [0.125])


def test_samples_lie_along_the_pixels_ray():
    xy = torch.tensor([[0.0, 23.0], [16.0, 11.5]])
    got = rays.along_rays(xy, torch.tensor([[0.5, 1.5]]), (24, 33))
    assert got.tolist() == [[[-1, 1, 0.5], [-1, 1, 1.5]], [[0, 0, 0.5], [0, 0, 1.5]]]


# ------------------------------------------------------------------------------------------------ contraction


def test_contraction_is_the_formula_and_keeps_the_ball():
    at = (drawn(300, 3) * 2 - 1) * torch.logspace(-3, 4, 300, dtype=torch.float64)[:, None]
    got = rays.contract(at)
    for n in range(300):
        u = at[n].tolist()
        size = math.sqrt(sum(value * value for value in u))
        factor = 1.0 if size <= 1 else (2 - 1 / size) / size
        np.testing.assert_allclose(got[n], [factor * value for value in u], rtol=1e-12, atol=1e-15)
    assert (got.norm(dim=-1) < 2).all()
    assert torch.equal(got[at.norm(dim=-1) < 0.99], at[at.norm(dim=-1) < 0.99])


def test_contraction_has_a_gradient_everywhere():
    at = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.2, 0.1, 0], [30, -4, 7]], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(rays.contract(at).sum(), at)
    assert grad.isfinite().all()
    torch.testing.assert_close(grad[0], torch.ones(3, dtype=torch.float64))
    away = at.detach()[2:].requires_grad_()
    assert torch.autograd.gradcheck(rays.contract, away)


# ------------------------------------------------------------------------------------------------ compositing


def weights_by_loop(alpha: torch.Tensor) -> np.ndarray:
    out = np.empty(alpha.shape)
    for r, ray in enumerate(alpha.tolist()):
        passed = 1.0
        for k, value in enumerate(ray):
            out[r, k] = value * passed
            passed *= 1 - value + 1e-10
    return out


def opacities() -> torch.Tensor:
    """Rays of all kinds: thin, thick, empty, opaque at once, opaque in the middle."""
    alpha = drawn(60, 32)
    alpha[:20] **= 6
    alpha[20] = 0
    alpha[21] = 1
    alpha[22] = 0
    alpha[22, 11] = 1
    return alpha


def test_opacity_of_raw_density():
    for raw in (-80.0, -20.0, -1.0, 0.0, 1.0, 4.0, 19.0, 40.0):
        sigma = math.log1p(math.exp(raw - 1)) if raw < 30 else raw - 1
        got = float(rays.alpha_of(torch.tensor(raw, dtype=torch.float64)))
        assert math.isclose(got, -math.expm1(-sigma), rel_tol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_weights_against_a_loop(dtype, tolerance):
    alpha = opacities()
    got = rays.weights_of(alpha.to(dtype))
    np.testing.assert_allclose(got, weights_by_loop(alpha), atol=tolerance)
    assert (got.sum(-1) <= 1 + 1e-5).all()


def test_weights_of_special_rays():
    weights = rays.weights_of(opacities())
    assert weights[20].abs().sum() == 0  # nothing there: nothing is drawn in its place
    assert weights[21, 0] == 1
    assert weights[21, 1:].abs().max() < 1.1e-10
    assert weights[22].argmax() == 11
    assert math.isclose(float(weights[22].sum()), 1, abs_tol=1e-8)


def test_gradient_of_weights_is_that_of_the_product():
    alpha = (drawn(5, 7) * 0.98).requires_grad_()
    torch.autograd.gradcheck(rays.weights_of, alpha)
    opaque = opacities().float().requires_grad_()
    (grad,) = torch.autograd.grad((rays.weights_of(opaque) * drawn(32).float()).sum(), opaque)
    assert grad.isfinite().all()


def test_composite_against_a_loop_is_not_made_to_add_up_to_one():
    weights, values = rays.weights_of(opacities() * 0.01), drawn(60, 32, 3)
    got = rays.composite(weights, values)
    for r in range(0, 60, 7):
        for c in range(3):
            expected = sum(float(weights[r, k] * values[r, k, c]) for k in range(32))
            assert math.isclose(float(got[r, c]), expected, abs_tol=1e-14)
    assert weights.sum(-1).max() < 0.5


@pytest.mark.parametrize("count, empty", [(32, 6), (6, 1), (4, 0)])
@pytest.mark.parametrize("on", [True, torch.tensor(True), torch.tensor(1.0)], ids=["flag", "bool", "number"])
def test_near_mask_empties_the_nearest_fifth(count, empty, on):
    alpha = drawn(3, count) + 0.1
    got = rays.mask_near(alpha, on)
    assert (got[:, :empty] == 0).all()
    assert torch.equal(got[:, empty:], alpha[:, empty:])


@pytest.mark.parametrize("off", [False, torch.tensor(False), torch.tensor(0.0)], ids=["flag", "bool", "number"])
def test_near_mask_that_is_off_changes_nothing(off):
    alpha = drawn(3, 32)
    assert torch.equal(rays.mask_near(alpha, off), alpha)
