"""RAFT's encoders against torchvision's, for both networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from everypoint.correspond.raft_parts import SIZES
from everypoint.networks.raft_encoder import (
    STRIDE,
    RaftEncoder,
    feature_encoder,
    fold_norms,
    shapes_of,
    without_values,
)

EQUAL = 2e-5  # of values around 1


def torchvisions(*, small: bool) -> nn.Module:
    from torchvision.models.optical_flow import raft_large, raft_small

    torch.manual_seed(3)
    return (raft_small if small else raft_large)(weights=None).eval()


def image(size: tuple[int, int] = (128, 168)) -> torch.Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def context_encoder(*, small: bool) -> RaftEncoder:
    sizes = SIZES[small]
    return RaftEncoder(small=small, outputs=sizes.hidden + sizes.context, norm=None if small else nn.BatchNorm2d)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("small", [False, True])
def test_features_equal_torchvisions(small, channels_last):
    reference = torchvisions(small=small).feature_encoder
    ours = feature_encoder(small=small)
    ours.load_state_dict(reference.state_dict(), strict=True)
    form = torch.channels_last if channels_last else torch.contiguous_format
    ours = ours.eval().to(memory_format=form)
    with torch.inference_mode():
        found, wanted = ours(image().to(memory_format=form)), reference(image())
    assert found.shape == (1, ours.conv.out_channels, 128 // STRIDE, 168 // STRIDE)
    assert (found - wanted).abs().max() < EQUAL * wanted.abs().max()


def shaken(encoder: nn.Module) -> nn.Module:
    """With batch norms that do something."""
    random = torch.Generator().manual_seed(1)
    for norm in (module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)):
        for values in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
            values += 0.5 * torch.rand(values.shape, generator=random)
    return encoder


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("small", [False, True])
def test_context_equals_torchvisions(small, folded):
    reference = shaken(torchvisions(small=small).context_encoder)
    ours = context_encoder(small=small)
    ours.load_state_dict(reference.state_dict(), strict=True)
    ours.eval()
    if folded:
        fold_norms(ours)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in ours.modules())
    with torch.inference_mode():
        found, wanted = ours(image()), reference(image())
    assert (found - wanted).abs().max() < EQUAL * wanted.abs().max()


@pytest.mark.parametrize("small", [False, True])
def test_shapes_need_no_values(small):
    empty = without_values(lambda: feature_encoder(small=small))
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert shapes_of(empty) == shapes_of(feature_encoder(small=small))
