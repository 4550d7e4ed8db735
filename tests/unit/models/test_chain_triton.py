"""The fused kernels against the chain in plain torch, in Triton's interpreter: on a CPU, operation by operation.

The interpreter has to be chosen before Triton is imported, so the first test runs the others, in a
process of their own. What a compiler makes of the kernels is the matter of tests/gpu/test_chain_triton.py.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from everypoint.errors import MissingPackageError
from everypoint.models import chain, chain_triton
from everypoint.models.chain import BlockWeights, Route, Stop
from tests.shared import ROOT

HERE = importlib.util.find_spec("triton") is not None
CHOSEN = os.environ.get("TRITON_INTERPRET") == "1"
ORACLE = "last_digits"  # in the name of the strictest test, which says whether the formulas are right
ON_DEVICE = chain_triton.TILE  # as it is for a device
COUNT, FRAMES, TILE = 33, 5, 16  # the last of three tiles holds one point
CHAIN = (0, 2, 1)  # the coordinates that the blocks change

there = pytest.mark.skipif(not HERE, reason="triton is not installed: torch's builds for a CPU come without it")
interpreted = pytest.mark.skipif(not (HERE and CHOSEN), reason="run by the test that chooses Triton's interpreter")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(chain_triton, "TILE", TILE)


def route_of(*, to: bool = True, back: bool = True, guard: float = 0.1, sizes: tuple[int, ...] = (4, 9)) -> Route:
    """There through leg 0, back through leg 1."""
    stops = [Stop(block, axis, False, 0) for block, axis in enumerate(CHAIN)] if to else []
    if back:
        stops += [Stop(block, CHAIN[block], True, int(to)) for block in reversed(range(len(CHAIN)))]
    return Route(tuple(stops), sizes, guard)


def weights_of(route: Route, width: int = 11, kind: torch.dtype = torch.float32, wild: float = 1.0) -> list[Tensor]:
    """The tensors of all blocks; no side is a power of two."""
    generator, half = torch.Generator().manual_seed(4), width // 2
    rows, found = chain.nodes(route) + FRAMES, []
    for _ in CHAIN:
        shapes = ((rows, width), (half, width), (half,), (10, half), (10,))
        scales = (1.0, width**-0.5, 0.3, 2 * half**-0.5, 0.5)
        found += [
            wild * scale * torch.randn(shape, generator=generator, dtype=torch.float64)
            for shape, scale in zip(shapes, scales, strict=True)
        ]
    return [tensor.to(kind).requires_grad_() for tensor in found]


def given(count: int = COUNT, kind: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Points [3, N] of [-3, 3]^3, with tails, and frames [2, N]."""
    generator = torch.Generator().manual_seed(7)
    points = torch.rand(3, count, generator=generator, dtype=torch.float64) * 6 - 3
    return points.to(kind).requires_grad_(), torch.randint(FRAMES, (2, count), generator=generator)


def both(route: Route, points: Tensor, frames: Tensor, flat: list[Tensor]) -> list[tuple[Tensor, list[Tensor]]]:
    """Values and all gradients: of the kernels, and of torch."""
    weight = torch.randn(points.shape, generator=torch.Generator().manual_seed(9), dtype=points.dtype)
    found = []
    for run in (chain_triton.run, chain.run):
        value = run(route, points, frames, chain.grouped(flat))
        found.append((value, torch.autograd.grad((value * weight).sum(), (points, *flat))))
    return found


def check(pair: list[tuple[Tensor, list[Tensor]]], value: float, relative: float) -> None:
    """Values agree to ``value``, every gradient to ``relative`` of its largest entry, and none is zero."""
    (ours, of_ours), (theirs, of_theirs) = pair
    torch.testing.assert_close(ours, theirs, rtol=0, atol=value)
    for number, (mine, other) in enumerate(zip(of_ours, of_theirs, strict=True)):
        assert mine.shape == other.shape
        assert mine.dtype == other.dtype
        assert other.abs().max() > 0
        name = "points" if number == 0 else BlockWeights._fields[(number - 1) % 5]
        assert (mine - other).abs().max() <= relative * other.abs().max(), f"{name} of block {(number - 1) // 5}"


@there
@pytest.mark.skipif(CHOSEN, reason="this is that process")
@pytest.mark.parametrize("chosen", [ORACLE, pytest.param(f"not {ORACLE}", marks=pytest.mark.slow)])
def test_the_kernels_in_the_interpreter(chosen):
    """The tests below that need it."""
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-k", chosen, "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@interpreted
def test_with_networks_in_float64_the_kernels_are_torch_to_the_last_digits():
    """An oracle for the formulas, there and back: nothing hides behind rounding."""
    route = route_of(guard=1e-3)
    points, frames = given()
    flat = weights_of(route, kind=torch.float64, wild=2.0)
    check(both(route, points, frames, flat), 1e-10, 1e-9)


@interpreted
@pytest.mark.parametrize("kind", [torch.float64, torch.float32], ids=str)
def test_with_networks_in_float32_the_kernels_are_torch_up_to_rounding(kind):
    route = route_of()
    points, frames = given(kind=kind)
    check(both(route, points, frames, weights_of(route)), 1e-6 if kind == torch.float64 else 2e-5, 1e-5)


@interpreted
def test_one_plane_and_the_two_flattest_tails():
    """Other numbers of planes; points far out, where only tails are."""
    route = route_of(sizes=(5,), guard=1e-3)
    points, frames = given(20)
    points = (points.detach() * 3).requires_grad_()
    check(both(route, points, frames, weights_of(route, kind=torch.float64)), 1e-10, 1e-9)


@interpreted
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@torch.no_grad()
def test_a_point_that_is_not_finite_harms_no_other(bad):
    route = route_of(back=False)
    points, frames = given(5)
    points[1, 2] = bad
    found = [
        run(route, points, frames, chain.grouped(weights_of(route, kind=torch.float64)))
        for run in (chain_triton.run, chain.run)
    ]
    torch.testing.assert_close(*found, rtol=0, atol=1e-10, equal_nan=True)
    assert not found[0][:, 2].isfinite().all()


def test_what_the_kernels_are_not_for_stays_with_torch(monkeypatch):
    """A CPU never has them, whatever the option says."""
    route, (points, frames) = route_of(), given()
    blocks = chain.grouped(weights_of(route))
    assert not chain_triton.fits(points, blocks)
    monkeypatch.setattr(chain_triton, "run", lambda *_: pytest.fail("the kernels ran on a CPU"))
    torch.testing.assert_close(
        chain.run(route, points, frames, blocks, "triton"), chain.run(route, points, frames, blocks), rtol=0, atol=0
    )


def test_without_the_package_the_error_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "everypoint.models.chain_kernels", None)  # as a failed import leaves it
    monkeypatch.delattr("everypoint.models.chain_kernels", raising=False)
    chain_triton._kernels.cache_clear()
    with pytest.raises(MissingPackageError, match=r"set model\.cadex\.kernel: torch"):
        chain_triton._kernels()


STACK = (
    1024  # bytes a thread that the way back may keep outside of registers; with tiles of 64 points it is 1,500 and more
)
POINTERS = {
    "forward": "points frames table small route sizes out before",
    "backward": "out grad frames table small route sizes before of_points of_table of_small",
}
INTEGERS = {"forward": "count rows nodes", "backward": "count rows nodes blocks"}


@pytest.mark.slow  # half a minute of compiling
@there
@pytest.mark.skipif(CHOSEN, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("kind", ["fp32", "fp64"])
@pytest.mark.parametrize("name", POINTERS)
def test_kernels_compile_for_a_device_that_is_not_here(name, kind, tmp_path):
    """For compute capability 9.0, with the published sizes; what a thread keeps outside of registers stays small."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from everypoint.models import chain_kernels

    types = {"frames": "*i64", "route": "*i32", "sizes": "*i32"} | dict.fromkeys(("table", "small"), "*fp32")
    types |= dict.fromkeys(("of_table", "of_small"), "*fp32")
    signature = {pointer: types.get(pointer, f"*{kind}") for pointer in POINTERS[name].split()}
    signature |= dict.fromkeys(INTEGERS[name].split(), "i32")
    block = next(iter(chain.grouped(weights_of(route_of(), width=56))))
    constants = chain_triton._constants(route_of(sizes=(12, 96)), block) | {"STOPS": 12, "TILE": ON_DEVICE}
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages")}
    constants |= {"KEEP": True} if name == "forward" else {}
    source = ASTSource(getattr(chain_kernels, name), signature | dict.fromkeys(constants, "constexpr"), constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    (tmp_path / "kernel.cubin").write_bytes(made.asm["cubin"])
    program = next(Path(triton.__file__).parent.rglob("cuobjdump"), None)
    if program is None:
        pytest.skip("compiled; cuobjdump, which says what it uses, is not there")
    said = subprocess.run(
        [program, "--dump-resource-usage", tmp_path / "kernel.cubin"], capture_output=True, text=True, check=True
    ).stdout
    assert max(int(stack) for stack in re.findall(r"STACK:(\d+)", said)) < STACK, said
