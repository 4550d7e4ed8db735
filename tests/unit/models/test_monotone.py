"""The function without a search against its definition, forward and gradients, and its exact inverse."""

from __future__ import annotations

import pytest
import torch

from everypoint.models.couplings import MonotonePiecewiseLinear
from everypoint.models.monotone import COUNT, monotone
from tests.unit.models.test_couplings import raw_parameters, values

GUARD = 1e-3
PLAIN = MonotonePiecewiseLinear(GUARD)


def plain(value: torch.Tensor, raw: torch.Tensor, *, inverse: bool) -> torch.Tensor:
    return (PLAIN.invert if inverse else PLAIN.evaluate)(value, raw.t())


def given(count: int, kind: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Values over [-3, 3] and raw parameters [10, N], calm, wild and saturated ones."""
    raw = raw_parameters(count, COUNT).t().contiguous()
    return values(count, -3, 3).to(kind).requires_grad_(), raw.to(kind).requires_grad_()


@pytest.mark.parametrize("inverse", [False, True])
def test_it_is_the_function_of_the_definition(inverse):
    value, raw = given(30000)
    torch.testing.assert_close(
        monotone(value, raw, GUARD, inverse=inverse), plain(value, raw, inverse=inverse), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("inverse", [False, True])
def test_every_piece_and_tail_is_met(inverse):
    value, raw = given(30000)
    x, y, _, _ = PLAIN._knots(raw.t())
    place = (value[:, None] > (y if inverse else x)).sum(1)
    assert place.bincount(minlength=5).min() > 1000


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_are_those_of_autograd_through_the_definition(inverse):
    value, raw = given(30000)
    weight = torch.randn(len(value), generator=torch.Generator().manual_seed(4), dtype=value.dtype)
    ours, theirs = (
        torch.autograd.grad((function * weight).sum(), (value, raw))
        for function in (monotone(value, raw, GUARD, inverse=inverse), plain(value, raw, inverse=inverse))
    )
    for mine, other in zip(ours, theirs, strict=True):  # slopes reach 1 / GUARD: compared relative to that
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_against_finite_differences(inverse):
    raw = torch.randn(COUNT, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    value = values(12, -2.5, 2.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, r: monotone(v, r, GUARD, inverse=inverse), (value, raw))


@pytest.mark.parametrize("interval", [(-3, 3), (-3, -2), (-1, 1), (2, 3)])
def test_inverse_in_float32_is_exact_where_no_piece_is_flat(interval):
    """Raw parameters of +-1.5: slopes of 0.2 to 5. A tail from a far knot would err by 1e-3 in (-3, -2)."""
    value = values(20000, *interval).float()
    raw = (torch.rand(COUNT, 20000, generator=torch.Generator().manual_seed(1)) * 3) - 1.5
    back = monotone(monotone(value, raw, GUARD, inverse=False), raw, GUARD, inverse=True)
    assert (back - value).abs().max() < 2e-6
    assert (back - value).abs().mean() < 1.5e-7


def test_inverse_in_float64_is_exact_whatever_the_parameters():
    """The flattest pieces have a slope of 1e-3, and lose three digits of sixteen."""
    value, raw = given(30000)
    there = monotone(value, raw, GUARD, inverse=False)
    assert (monotone(there, raw, GUARD, inverse=True) - value).abs().max() < 1e-11


@pytest.mark.parametrize("inverse", [False, True])
def test_saturated_parameters_have_finite_gradients(inverse):
    value, raw = given(3000, torch.float32)
    raw = (raw.detach() * 50).requires_grad_()  # sigmoids that are 0 or 1 in float32
    found = torch.autograd.grad(monotone(value, raw, GUARD, inverse=inverse).sum(), (value, raw))
    assert all(part.isfinite().all() for part in found)
    assert found[0].min() >= 0.9 * GUARD


def test_nan_stays_nan():
    value = torch.tensor([float("nan"), 0.5])
    out = monotone(value, torch.zeros(COUNT, 2), GUARD, inverse=False)
    assert out.isnan().tolist() == [True, False]
