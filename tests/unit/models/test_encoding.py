"""The periodic encoding against a loop, and its widths."""

from __future__ import annotations

import math

import pytest
import torch

from everypoint.models.encoding import Periodic


def by_loop(point: list[float], frequencies: int, scale_pi: bool, identity: bool) -> list[float]:
    encoded = list(point) if identity else []
    for power in range(frequencies):
        factor = 2**power * (math.pi if scale_pi else 1)
        encoded += [math.sin(factor * value) for value in point]
        encoded += [math.cos(factor * value) for value in point]
    return encoded


@pytest.mark.parametrize("scale_pi", [True, False])
@pytest.mark.parametrize("identity", [True, False])
def test_is_the_loop(scale_pi, identity):
    encode = Periodic(5, scale_pi=scale_pi, identity=identity).double()
    points = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [[by_loop(point, 5, scale_pi, identity) for point in row] for row in points.tolist()]
    torch.testing.assert_close(encode(points), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("inputs", "frequencies", "identity", "width"),
    [(2, 4, True, 18), (1, 4, True, 9), (3, 10, True, 63), (3, 11, False, 66)],
)
def test_published_widths(inputs, frequencies, identity, width):
    encode = Periodic(frequencies, scale_pi=True, identity=identity)
    assert encode.width(inputs) == width == encode(torch.zeros(5, inputs)).shape[-1]


def test_has_no_state():
    """Nothing to keep in a checkpoint, and float64 uses no rounded pi."""
    encode = Periodic(4, scale_pi=True, identity=False)
    assert encode.state_dict() == {}
    assert list(encode.parameters()) == []
    assert encode.double()(torch.ones(1, 1, dtype=torch.float64))[0, 0].item() == math.sin(math.pi)
