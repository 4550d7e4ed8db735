"""GaborNet: a float64 loop, the published numbers of parameters, the distributions of the initial values."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from everypoint.models.encoding import Periodic
from everypoint.models.gabor import FREQUENCY_SCALE, DrawnLinear, GaborFilter, GaborNet


def made(inputs=3, hidden=7, layers=2, outputs=4, alpha=3.0, seed=0) -> GaborNet:
    return GaborNet(inputs, hidden, layers, outputs, alpha, torch.Generator().manual_seed(seed))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def filter_by_loop(gabor: GaborFilter, x: list[float]) -> list[float]:
    values = []
    for row, bias, centre, gamma in zip(
        gabor.weight.tolist(), gabor.bias.tolist(), gabor.mu.tolist(), gabor.gamma.tolist(), strict=True
    ):
        phase = sum(w * v for w, v in zip(row, x, strict=True)) + bias
        distance = sum((v - m) ** 2 for v, m in zip(x, centre, strict=True))
        values.append(math.sin(phase) * math.exp(-0.5 * gamma * distance))
    return values


def linear_by_loop(layer: torch.nn.Linear, z: list[float]) -> list[float]:
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [sum(w * v for w, v in zip(row, z, strict=True)) + bias for row, bias in rows]


def net_by_loop(net: GaborNet, x: list[float]) -> list[float]:
    z = filter_by_loop(net.filters[0], x)
    for linear, gabor in zip(net.linears, net.filters[1:], strict=True):
        z = [g * a for g, a in zip(filter_by_loop(gabor, x), linear_by_loop(linear, z), strict=True)]
    return linear_by_loop(net.last, z)


@pytest.mark.parametrize(("inputs", "layers"), [(1, 1), (3, 3), (12, 2)])
def test_is_the_loop(inputs, layers):
    net = made(inputs, layers=layers).double()
    x = torch.randn(3, 5, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.tensor([[net_by_loop(net, point) for point in row] for row in x.tolist()], dtype=torch.float64)
    assert expected.std() > 0.01
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12)


def test_float32_is_close_to_the_loop():
    """The phases reach 100 rad at the initial weights, which leaves 1e-5 of a float32 sine."""
    net = made(3, 64, 3)
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) * 4 - 2
    with torch.no_grad():
        single = net(x).double()
        torch.testing.assert_close(single, net.double()(x.double()), rtol=0, atol=5e-5)


def test_gradients():
    """Also of the centres and of gamma, which are trained."""
    net = made(2, 4, 2, 3).double()
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    parameters = dict(net.named_parameters())
    assert {"filters.0.mu", "filters.0.gamma"} <= set(parameters)
    assert torch.autograd.gradcheck(lambda x, *_: net(x), (x, *parameters.values()), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "alpha", "parameters"),
    [
        ((1, 256, 2, 128), 4.5, 167_552),  # OmniMotion's codes of frames
        ((3, 512, 3, 4), 3.0, 806_404),  # OmniMotion's canonical field
        ((63, 256, 3, 4), 3.0, 4 * (2 * 63 + 2) * 256 + 3 * (256 + 1) * 256 + 257 * 4),  # the lighter variant's
    ],
)
def test_published_numbers_of_parameters(sizes, alpha, parameters):
    assert count(GaborNet(*sizes, alpha, torch.Generator())) == parameters


def test_filters_of_encoded_points_begin_alive():
    """With 63 inputs the plain initial values leave little of a signal; the others as much as with three."""
    points = 2 * torch.rand(2048, 3, generator=torch.Generator().manual_seed(2)) - 1
    encoded = Periodic(10, scale_pi=False, identity=True)(points)

    def signal(x: torch.Tensor, **how: bool) -> float:
        net = GaborNet(x.shape[1], 256, 3, 4, 3.0, torch.Generator().manual_seed(0), **how)
        return float(net(x).detach().std(0).mean())

    plain = signal(points)
    assert signal(encoded) < 0.5 * plain
    assert 0.5 * plain < signal(encoded, encoded=True) < 4 * plain


def test_initial_values_have_the_published_distributions():
    """Kolmogorov-Smirnov against each law; p > 1e-3 for a fixed seed."""
    inputs, hidden, layers, alpha = 3, 512, 3, 3.0
    net = made(inputs, hidden, layers, 4, alpha)

    def p_value(sample: torch.Tensor, law) -> float:
        return stats.kstest(sample.detach().double().flatten().numpy(), law.cdf).pvalue

    def uniform(bound: float):
        return stats.uniform(-bound, 2 * bound)

    def joined(name: str) -> torch.Tensor:
        return torch.cat([getattr(gabor, name) for gabor in net.filters])

    gamma = joined("gamma")
    assert p_value(gamma, stats.gamma(alpha / (layers + 1))) > 1e-3
    assert p_value(joined("mu"), uniform(1)) > 1e-3
    assert p_value(joined("bias"), uniform(math.pi)) > 1e-3
    default = joined("weight") / (FREQUENCY_SCALE / math.sqrt(layers + 1) * gamma.sqrt()[:, None])
    assert p_value(default, uniform(inputs**-0.5)) > 1e-3
    for layer in (*net.linears, net.last):
        assert p_value(layer.weight, uniform(hidden**-0.5)) > 1e-3
        assert layer.bias.abs().max() <= hidden**-0.5


def test_the_generator_decides_alone():
    before = torch.get_rng_state()
    first, again, other = made(seed=1), made(seed=1), made(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    for (name, value), same, different in zip(
        first.state_dict().items(), again.state_dict().values(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, same), name
        assert not torch.equal(value, different), name


def test_drawn_linear_has_torch_defaults():
    layer = DrawnLinear(16, 400, torch.Generator().manual_seed(0))
    default = torch.nn.Linear(16, 400)
    assert layer.weight.shape == default.weight.shape
    assert layer.weight.requires_grad
    assert 0.24 < layer.weight.abs().max() <= 0.25
    assert 0.24 < default.weight.abs().max() <= 0.25
