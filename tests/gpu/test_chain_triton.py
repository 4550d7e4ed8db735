"""The fused kernels of CaDeX++'s chain as a compiler makes them, against plain torch. Skipped without CUDA.

In the interpreter tests/unit/models/test_chain_triton.py has the formulas; here are what it cannot show: masks and
layouts of the published size, atomic additions of many programs, and float32 products.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everypoint.models import chain, chain_triton
from tests.unit.models.made_cadex import bijection

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

COUNT, FRAMES = 10_000, 24
LIMITS = {torch.float64: (2e-6, 1e-4), torch.float32: (5e-5, 1e-3)}  # of values, and relative ones of gradients


def problem(kind: torch.dtype) -> tuple[chain.Route, Tensor, Tensor, list[Tensor]]:
    """A model of the published size with weights as training leaves them; points of [-3, 3]^3."""
    pytest.importorskip("triton")
    made = bijection(FRAMES, wild=0.5, full=True, cadex={"guard": 0.1}).cuda()
    generator = torch.Generator().manual_seed(1)
    points = (torch.rand(3, COUNT, generator=generator, dtype=torch.float64) * 6 - 3).to("cuda", kind)
    frames = torch.randint(FRAMES, (2, COUNT), generator=generator).cuda()
    flat = [tensor.detach().requires_grad_() for block in made.time_parts() for tensor in block]
    return made._route(to=True, back=True), points.requires_grad_(), frames, flat


def outcome(kernel: str, route: chain.Route, points: Tensor, frames: Tensor, flat: list[Tensor]) -> list[Tensor]:
    """Value and gradients of all inputs."""
    value = chain.run(route, points, frames, chain.grouped(flat), kernel)
    weight = torch.randn(points.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(value)
    return [value.detach(), *torch.autograd.grad((value * weight).sum(), (points, *flat))]


@pytest.mark.parametrize("kind", list(LIMITS), ids=str)
def test_the_kernels_are_torch_up_to_rounding(kind):
    given = problem(kind)
    assert chain_triton.fits(given[1], chain.grouped(given[3]))
    (ours, *of_ours), (theirs, *of_theirs) = outcome("triton", *given), outcome("torch", *given)
    value, relative = LIMITS[kind]
    assert (ours - theirs).abs().max() < value
    for mine, other in zip(of_ours, of_theirs, strict=True):
        assert other.abs().max() > 0
        assert (mine - other).norm() <= relative * other.norm()


def test_the_way_there_and_back_finds_the_points_again():
    route, points, frames, flat = problem(torch.float64)
    same = frames[:1].expand(2, -1)
    with torch.no_grad():
        found = chain.run(route, points, same, chain.grouped(flat), "triton")
    assert (found - points).abs().max() < 1e-9


def test_values_and_gradients_of_networks_are_the_same_in_every_run():
    """Those of the tables are not: they are added atomically."""
    given = problem(torch.float64)
    first, second = (outcome("triton", *given) for _ in range(2))
    tables = range(2, len(first), 5)
    for number, (mine, other) in enumerate(zip(first, second, strict=True)):
        if number in tables:
            assert (mine - other).norm() <= 1e-5 * mine.norm()
        else:
            assert torch.equal(mine, other)


def test_deterministic_algorithms_leave_the_chain_to_torch():
    _, points, _, flat = problem(torch.float64)
    torch.use_deterministic_algorithms(True)
    try:
        assert not chain_triton.fits(points, chain.grouped(flat))
    finally:
        torch.use_deterministic_algorithms(False)
