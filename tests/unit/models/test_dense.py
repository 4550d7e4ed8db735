"""Linear layers through oneDNN against plain torch: values, gradients, odd layouts, any number of threads."""

from __future__ import annotations

import pytest
import torch

from everypoint import numerics
from everypoint.models.dense import by_rays, dense, plain, rays_at_once, weight_gradient
from everypoint.models.gabor import GaborNet
from everypoint.numerics import threads

needs_onednn = pytest.mark.skipif(not numerics.fast(torch.ones(1)), reason="this build of torch has no oneDNN")


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer(inputs: int, outputs: int, *, bias: bool, part: bool, rays: int = 5, samples: int = 7) -> list:
    """Rows, weight, bias, part of a layer."""
    given = [drawn(rays, samples, inputs), drawn(outputs, inputs, seed=1) / inputs**0.5]
    given += [drawn(outputs, seed=2) if bias else None, drawn(rays, outputs, seed=3) if part else None]
    return [None if value is None else value.requires_grad_() for value in given]


def with_gradients(function, given: list, slope: float | None, like: torch.Tensor) -> list:
    out = function(*given, slope)
    found = torch.autograd.grad((out * like.to(out.dtype)).sum(), [value for value in given if value is not None])
    return [out.detach(), *found]


@pytest.mark.parametrize("inputs, outputs", [(2, 1), (18, 40), (40, 2), (33, 33), (256, 256)])
@pytest.mark.parametrize("bias, part", [(True, False), (False, True), (True, True), (False, False)])
@pytest.mark.parametrize("slope", [None, 0.0, 0.01])
def test_is_the_plain_layer(inputs, outputs, bias, part, slope):
    given = layer(inputs, outputs, bias=bias, part=part)
    like = drawn(5, 7, outputs, seed=4)
    exact = [None if value is None else value.detach().double().requires_grad_() for value in given]
    for found, expected in zip(
        with_gradients(dense, given, slope, like), with_gradients(plain, exact, slope, like), strict=True
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-5)


def test_gradients_of_what_needs_none_are_not_made():
    given = layer(6, 4, bias=True, part=False)
    x = given[0].detach()
    out = dense(x, given[1].detach(), given[2], slope=0.01)
    out.sum().backward()
    assert given[2].grad is not None
    assert x.grad is None


@needs_onednn
def test_float32_on_a_cpu_is_fast_and_nothing_else(monkeypatch):
    x = drawn(4, 3)
    assert numerics.fast(x)
    assert not any(numerics.fast(other) for other in (x.double(), x.half(), x[:0], x.to("meta")))
    monkeypatch.setattr(numerics, "_PRODUCT", None)  # a build without it
    assert not numerics.fast(x)


@needs_onednn
def test_operands_have_the_layouts_that_onednn_is_quick_with(monkeypatch):
    """A slice of columns is multiplied by a reference loop, a thousand times slower: it must never get there."""
    seen = []

    def watched(x, weight, *rest):
        seen.append((x, weight))
        return product(x, weight, *rest)

    product = numerics._PRODUCT
    monkeypatch.setattr(numerics, "_PRODUCT", watched)
    wide, weight = drawn(30, 24).requires_grad_(), drawn(16, 20, seed=1).requires_grad_()
    out = dense(wide[:, 3:11], weight[:, 5:13], slope=0.01)
    torch.testing.assert_close(out, plain(wide[:, 3:11], weight[:, 5:13], slope=0.01))
    out[:, ::2].sum().backward()
    assert len(seen) == 3
    assert all(value.is_contiguous() or value.t().is_contiguous() for pair in seen for value in pair)


@pytest.mark.parametrize("outputs, inputs", [(3, 20), (20, 3), (8, 8)])
@needs_onednn
def test_gradient_of_a_weight_whichever_side_is_longer(outputs, inputs):
    grad, x = drawn(50, outputs), drawn(50, inputs, seed=1)
    torch.testing.assert_close(weight_gradient(grad, x), grad.t() @ x, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("inputs, outputs", [(18, 256), (256, 256), (256, 2)])
@needs_onednn
def test_equal_bits_for_any_number_of_threads(inputs, outputs):
    results = []
    given = layer(inputs, outputs, bias=True, part=False, rays=32, samples=32)
    for count in (1, 2, 3):
        with threads(count):
            results.append(with_gradients(dense, given, 0.01, drawn(32, 32, outputs, seed=4))[:3])
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_empty_input():
    assert dense(torch.zeros(0, 4, 3), drawn(5, 3)).shape == (0, 4, 5)


# ------------------------------------------------------------------------------------------------ rays in turn


def test_rays_at_once():
    assert rays_at_once(torch.empty(1000, 32, 3)) == 64
    assert rays_at_once(torch.empty(9000, 1, 3)) == 2048
    assert rays_at_once(torch.empty(9, 4000, 3)) == 1  # never none
    assert rays_at_once(torch.empty(1000, 32, 3, device="meta")) == 1000  # only a CPU has such a cache
    assert rays_at_once(torch.empty(0, 32, 3)) > 0


@pytest.mark.parametrize("rays", [0, 1, 64, 65, 150])
def test_rays_in_turn_are_the_rays_at_once(rays):
    sizes = []

    def network(values, part):
        sizes.append(len(values))
        return values * 2 + part[:, None]

    values, part = drawn(rays, 32, 3), drawn(rays, 3, seed=1)
    assert torch.equal(by_rays(network, values, part), values * 2 + part[:, None])
    assert sizes == [64] * (rays // 64) + [rays % 64] * (rays % 64 > 0 or rays == 0)


# ------------------------------------------------------------------------------------------------ Gabor filters


@pytest.mark.parametrize("inputs, rows", [(1, 9), (3, 40)])
def test_gabor_net_and_its_gradients_are_those_of_plain_torch(inputs, rows):
    made = GaborNet(inputs, 24, 2, 4, 3.0, torch.Generator().manual_seed(0))
    x, like = drawn(rows, inputs, seed=1).requires_grad_(), drawn(rows, 4, seed=2)
    found = [out := made(x), *torch.autograd.grad((out * like).sum(), [x, *made.parameters()])]
    made.double()
    x = x.detach().double().requires_grad_()
    expected = [out := made(x), *torch.autograd.grad((out * like).sum(), [x, *made.parameters()])]
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() < 1e-4 * b.norm()  # the sines' arguments reach some hundreds
