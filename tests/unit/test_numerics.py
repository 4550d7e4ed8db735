"""1x1 convolutions as matrix products: the same function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from everypoint.numerics import Pointwise, full_precision, replace_pointwise


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_convolution(stride, bias):
    torch.manual_seed(0)
    convolution = nn.Conv2d(5, 7, 1, stride=stride, bias=bias).double()
    x = torch.randn(2, 5, 9, 12, dtype=torch.float64)
    assert torch.allclose(Pointwise(convolution)(x), convolution(x), atol=1e-12)


def test_only_plain_pointwise_convolutions_are_replaced():
    kept = [nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1, padding=1)]
    network = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), *kept, nn.Conv2d(4, 2, 1))
    replace_pointwise(network)
    kinds = [type(module).__name__ for module in network.modules() if isinstance(module, (nn.Conv2d, Pointwise))]
    assert kinds == ["Pointwise", "Conv2d", "Conv2d", "Conv2d", "Pointwise"]


def test_full_precision_ends_with_its_block():
    before = torch.backends.cudnn.allow_tf32
    with full_precision():
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.allow_tf32 == before
