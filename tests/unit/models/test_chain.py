"""The chain as one operation against the plain bijection: forward, every gradient, in parts, and with bad values."""

from __future__ import annotations

import pytest
import torch

from everypoint.models import chain
from everypoint.models.bijection import Bijection
from tests.unit.models.made_cadex import bijection, box_points

FRAMES, COUNT = 5, 60


def frames(count: int = COUNT) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randint(FRAMES, (count,), generator=generator) for _ in range(2))


def plain(made: Bijection, points: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """The plain twin."""
    parts = Bijection.time_parts(made)
    return Bijection.local(made, Bijection.canonical(made, points, i, parts), j, parts)


def gradients(value: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(9), dtype=value.dtype)
    return torch.autograd.grad((value * weight).sum(), inputs)


@pytest.mark.parametrize("at_once", [8192, 10])
@pytest.mark.parametrize("wild", [0.0, 1.0, 3.0])
def test_forward_and_gradients_are_those_of_the_plain_bijection(at_once, wild, monkeypatch):
    monkeypatch.setattr(chain, "POINTS_AT_ONCE", at_once)
    made = bijection(FRAMES, wild=wild, blocks=6).double()
    points, (i, j) = box_points(COUNT).requires_grad_(), frames()
    ours, theirs = made.carry(points, i, j, made.time_parts()), plain(made, points, i, j)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    inputs = (points, *made.parameters())
    for mine, other in zip(gradients(ours, *inputs), gradients(theirs, *inputs), strict=True):
        assert (mine - other).abs().max() <= 1e-9 * max(float(other.abs().max()), 1e-3)
        assert wild == 0 or other.abs().max() > 0


def test_gradients_of_the_published_size():
    made = bijection(25, wild=1.0, full=True).double()
    points, (i, j) = box_points(COUNT).requires_grad_(), frames()
    inputs = (points, *made.parameters())
    ours = gradients(made.carry(points, i, j, made.time_parts()), *inputs)
    theirs = gradients(plain(made, points, i, j), *inputs)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() <= 1e-9 * float(other.abs().max())


def test_gradients_against_finite_differences():
    made = bijection(FRAMES, wild=1.0, blocks=2, plane_resolutions=(3,), plane_channels=2, time_channels=2).double()
    points, (i, j) = (box_points(4) * 0.4).requires_grad_(), frames(4)
    assert torch.autograd.gradcheck(lambda at: made.carry(at, i, j, made.time_parts()), (points,))
    blocks = made.time_parts()
    flat = tuple(tensor.detach().requires_grad_() for block in blocks for tensor in block)
    route = made._route(to=True, back=True)
    assert torch.autograd.gradcheck(
        lambda *given: chain.run(route, points.detach().t(), torch.stack([i, j]), chain.grouped(given)), flat
    )


@torch.no_grad()
def test_carry_is_there_and_back():
    made, (i, j) = bijection(FRAMES, wild=2.0), frames()
    points, parts = box_points(COUNT), made.time_parts()
    both = made.local(made.canonical(points, i, parts), j, parts)
    assert torch.equal(made.carry(points, i, j, parts), both)


def test_what_is_carried_in_parts_does_not_depend_on_them(monkeypatch):
    made, (i, j), found = bijection(FRAMES, wild=1.0), frames(), []
    points = box_points(COUNT)
    for at_once in (8192, 11, 1):
        monkeypatch.setattr(chain, "POINTS_AT_ONCE", at_once)
        out = made.carry(points, i, j, made.time_parts())
        found.append((out.detach(), *gradients(out, *made.parameters())))
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_no_points():
    made = bijection(FRAMES)
    none = torch.empty(0, 3, dtype=torch.float64, requires_grad=True)
    out = made.carry(none, *(torch.empty(0, dtype=torch.long) for _ in range(2)), made.time_parts())
    assert out.shape == (0, 3)
    out.sum().backward()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_point_that_is_not_finite_harms_no_other_and_does_not_crash(bad):
    made, frame = bijection(FRAMES, wild=1.0), torch.tensor([1, 2])
    points = torch.tensor([[bad, 0.1, 0.2], [0.3, 0.1, 0.2]], dtype=torch.float64)
    out = made.carry(points, frame, frame.flip(0), made.time_parts())
    assert not out[0].isfinite().all()
    assert out[1].isfinite().all()
    out.sum().backward()
