"""Couplings: exact inverses in float32 and float64, shape of the functions, gradients."""

from __future__ import annotations

import math

import pytest
import torch

from everypoint.models.couplings import COUPLINGS, Affine, MonotonePiecewiseLinear

SPLINE, AFFINE = MonotonePiecewiseLinear(), Affine()


def raw_parameters(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Raw parameters in float64: calm, wild and saturated ones in equal shares."""
    generator = torch.Generator().manual_seed(seed)
    third = count // 3
    calm = torch.randn(third, width, generator=generator, dtype=torch.float64)
    wild = torch.rand(third, width, generator=generator, dtype=torch.float64) * 40 - 20
    ends = torch.randint(2, (count - 2 * third, width), generator=generator).double() * 40 - 20
    return torch.cat([calm, wild, ends])


def values(count: int, low: float, high: float, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64) * (high - low) + low


def naive(value: float, raw: list[float], guard: float) -> float:
    """The coupling as CaDeX++ defines it (knots, slopes, tails), one point, by a loop over the pieces."""
    share = [1 / (1 + math.exp(-r)) for r in raw]
    spacing = [guard + (1 - guard) * s for s in share[:8]]
    left, right = (2 * (guard + (1 - 2 * guard) * s) for s in share[8:])
    x2, x1, x3, x4, y2, y1, y3, y4 = spacing
    x = [-x1 - x2, -x1, x3, x3 + x4]
    y = [-y1 - y2, -y1, y3, y3 + y4]
    if value <= x[0]:
        return y[0] - left * (x[0] - value)
    for k in range(3):
        if value <= x[k + 1]:
            return y[k] + (value - x[k]) / (x[k + 1] - x[k]) * (y[k + 1] - y[k])
    return y[3] + right * (value - x[3])


def test_piecewise_equals_the_definition_pointwise():
    raw, value = raw_parameters(900, 10), values(900, -3, 3)
    ours = SPLINE.evaluate(value, raw)
    expected = torch.tensor([naive(float(v), r.tolist(), SPLINE.guard) for v, r in zip(value, raw)], dtype=value.dtype)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("interval", [(-3, 3), (-3, -2), (-1, 1), (2, 3)])
def test_piecewise_inverse_is_exact(interval):
    """(-3, -2) is where tails that are evaluated from a far knot lose 1e-3."""
    raw, value = raw_parameters(9000, 10), values(9000, *interval)
    for kind, limit in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        v, r = value.to(kind), raw.to(kind)
        assert (SPLINE.invert(SPLINE.evaluate(v, r), r) - v).abs().max() < limit
        assert (SPLINE.evaluate(SPLINE.invert(v, r), r) - v).abs().max() < 2 * limit


def test_piecewise_inverse_stays_relative_far_outside():
    raw = raw_parameters(3000, 10).float()
    for size in (1e2, 1e4):
        value = values(3000, -size, size).float()
        error = (SPLINE.invert(SPLINE.evaluate(value, raw), raw) - value).abs()
        assert error.max() < 2e-6 * size


def test_piecewise_is_strictly_increasing():
    raw = raw_parameters(300, 10)
    steps = torch.linspace(-3, 3, 241, dtype=torch.float64)
    curve = torch.stack([SPLINE.evaluate(step.expand(300), raw) for step in steps])
    slopes = curve.diff(dim=0) / steps.diff()[:, None]
    assert slopes.min() > SPLINE.guard * 0.999
    assert slopes.max() < 1.001 / SPLINE.guard


def test_piecewise_is_continuous_at_its_knots():
    raw = raw_parameters(600, 10)
    x, y, _, _ = SPLINE._knots(raw)
    assert (x.diff(dim=1) > 0).all()
    assert (y.diff(dim=1) > 0).all()
    for k in range(4):
        torch.testing.assert_close(SPLINE.evaluate(x[:, k], raw), y[:, k], rtol=0, atol=1e-12)
        torch.testing.assert_close(SPLINE.invert(y[:, k], raw), x[:, k], rtol=0, atol=1e-12)
        for side in (-1e-9, 1e-9):
            assert (SPLINE.evaluate(x[:, k] + side, raw) - y[:, k]).abs().max() < 2e-8


@pytest.mark.parametrize("name", sorted(COUPLINGS))
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_zero_parameters_are_the_identity(name, kind):
    coupling = COUPLINGS[name]
    value = torch.linspace(-3, 3, 101, dtype=kind)
    raw = torch.zeros(101, coupling.count, dtype=kind)
    limit = 5e-7 if kind == torch.float32 else 1e-14
    assert (coupling.evaluate(value, raw) - value).abs().max() < limit
    assert (coupling.invert(value, raw) - value).abs().max() < limit


@pytest.mark.parametrize("name", sorted(COUPLINGS))
@pytest.mark.parametrize("way", ["evaluate", "invert"])
def test_gradients_of_value_and_parameters(name, way):
    coupling = COUPLINGS[name]
    raw = torch.randn(40, coupling.count, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    value = values(40, -2.5, 2.5)
    inputs = (value.requires_grad_(), raw.requires_grad_())
    assert torch.autograd.gradcheck(getattr(coupling, way), inputs)


def test_saturated_parameters_have_finite_gradients():
    raw = raw_parameters(3000, 10).float().mul(50).requires_grad_()  # sigmoids that are 0 or 1 in float32
    value = values(3000, -3, 3).float().requires_grad_()
    for way in (SPLINE.evaluate, SPLINE.invert):
        grads = torch.autograd.grad(way(value, raw).sum(), (value, raw))
        assert all(grad.isfinite().all() for grad in grads)


def test_affine_is_omnimotions_formula_and_clamps_its_exponent():
    raw = torch.tensor([[0.5, 0.25], [50.0, 0.25], [-50.0, -1.0]], dtype=torch.float64)
    value = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    expected = torch.tensor([0.75 * math.exp(-0.5), 0.75 * math.exp(-8), 2.0 * math.exp(8)], dtype=torch.float64)
    torch.testing.assert_close(AFFINE.evaluate(value, raw), expected, rtol=1e-14, atol=0)


def test_affine_inverse_is_exact():
    generator = torch.Generator().manual_seed(3)
    raw = torch.rand(6000, 2, generator=generator, dtype=torch.float64) * torch.tensor([40.0, 4.0]) - torch.tensor(
        [20.0, 2.0]
    )
    value = values(6000, -3, 3)
    for kind, limit in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        v, r = value.to(kind), raw.to(kind)
        assert (AFFINE.invert(AFFINE.evaluate(v, r), r) - v).abs().max() < limit
