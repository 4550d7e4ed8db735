"""Instance norm against torch's own, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from everypoint.networks.instance_norm import EPS, InstanceNorm, normalise


def maps(*, channels_last: bool, size: tuple[int, int] = (70, 90)) -> torch.Tensor:
    x = 3 + 5 * torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(0))
    return x.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_torchs(channels_last, relu):
    x = maps(channels_last=channels_last)
    wanted = F.instance_norm(x, eps=EPS)
    with torch.no_grad():
        found = normalise(x.clone(memory_format=torch.preserve_format), relu=relu)
    assert (found - (wanted.relu() if relu else wanted)).abs().max() < 1e-5


def test_without_gradient_it_works_in_place_where_memory_allows():
    x = maps(channels_last=True)
    with torch.no_grad():
        assert normalise(x) is x


def test_with_gradient_the_input_stays_and_the_gradient_is_torchs():
    ours, theirs = (maps(channels_last=True).requires_grad_() for _ in range(2))
    before = ours.detach().clone()
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (normalise(ours, relu=True) * weights).sum().backward()
    (F.instance_norm(theirs, eps=EPS).relu() * weights).sum().backward()
    assert torch.equal(ours.detach(), before)
    assert torch.equal(ours.grad, theirs.grad)


def test_the_module_has_no_state():
    norm = InstanceNorm()
    assert not norm.state_dict()
    with torch.no_grad():
        x = maps(channels_last=False)
        assert torch.equal(norm(x), F.instance_norm(x, eps=EPS))
