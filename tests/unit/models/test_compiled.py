"""Compiled blocks are the plain ones, values and gradients, in the form that they have on CUDA.

All is float64, so that nothing but the order of sums may differ.
"""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

from everypoint.config.options import ModelOptions
from everypoint.errors import ResourceError
from everypoint.models.compiled import compile_blocks, wants_compiling
from everypoint.models.files import build_model

FRAMES, SIZE, POINTS = 5, (24, 32), 16
NVP = {"blocks": 2, "hidden": 16, "layers": 2, "code_features": 8, "affine": "small"}
FIELD = {"hidden": 16, "layers": 1, "samples": 6}
PLANES = {"blocks": 3, "plane_resolutions": (4, 8), "plane_channels": 4, "time_channels": 4}
KINDS = {
    "field": {"kind": "field", "nvp": NVP, "field": FIELD},
    "encoded": {"kind": "field", "nvp": NVP, "field": FIELD | {"encoding": "periodic-63"}},
    "hash": {"kind": "field", "nvp": NVP | {"affine": "none"}, "field": FIELD | {"network": "hash"}},
    "pixels": {"kind": "pixels", "nvp": NVP | {"affine": "large"}},
    "planes": {"kind": "planes", **PLANES},
    "planes-affine": {"kind": "planes", "coupling": "affine", **PLANES},
}
BLOCKS = {
    "field": 2 + 2 + 1 + 1,  # couplings, compositing, affine, field
    "encoded": 6,
    "hash": 5,
    "pixels": 3,
    "planes": 3,
    "planes-affine": 3,
}
QUICK = ("field", "planes")

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")


@pytest.fixture(autouse=True)
def as_on_cuda():
    """Products are torch's own, and all rays go at once; compiled code of other tests is forgotten."""
    torch._dynamo.reset()
    with torch.backends.mkldnn.flags(enabled=False):
        yield


def model(kind: str) -> nn.Module:
    made = build_model(FRAMES, SIZE, ModelOptions.model_validate(KINDS[kind]), 3)
    with torch.no_grad():  # at its initial values a point hardly moves
        for name, parameter in made.named_parameters():
            if "last" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    return made.double()


def outcome(made: nn.Module) -> dict[str, Tensor]:
    """What a step asks of a model, and the gradients of all parameters."""
    generator = torch.Generator().manual_seed(1)
    xy = torch.rand(POINTS, 2, generator=generator).double() * torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0])
    i, j = (torch.randint(FRAMES, (POINTS,), generator=generator) for _ in range(2))
    if hasattr(made, "samples"):
        u = torch.rand(POINTS, made.samples, generator=generator).double()
        found = made.trace(xy, i, j, u=u, near_mask=True)
        values = {"xy": found.xy, "z": found.z, "colour": found.colour, "masked": found.masked}
        some, parts = found.canonical[: POINTS // 4], made.parts()  # another shape, as the acceleration's
        values["near"] = made.bijection.local(some, i[: POINTS // 4], parts)
    else:
        found = made.transport(xy, i, j)
        values = {"xy": found.xy, "z": found.z}
    names, parameters = zip(*made.named_parameters(), strict=True)
    weights = [torch.linspace(1, 2, value.numel()).reshape(value.shape) for value in values.values()]
    total = sum((value.double() * weight).sum() for value, weight in zip(values.values(), weights, strict=True))
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return values | {n: g for n, g in zip(names, gradients, strict=True) if g is not None}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.abs().max() > 0, name
        assert (value - second[name]).norm() <= 1e-9 * value.norm(), name


def compiled(kind: str, backend: str) -> tuple[nn.Module, nn.Module, list[str]]:
    plain, fast = model(kind), model(kind)
    return plain, fast, compile_blocks(fast, backend)


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_compiled_blocks_are_the_plain_ones(kind):
    """Traced whole, forward and backward."""
    plain, fast, names = compiled(kind, "aot_eager")
    assert len(names) == BLOCKS[kind]
    torch._dynamo.utils.counters.clear()
    same(outcome(plain), outcome(fast))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("kind", ["encoded", "pixels", "planes"])
def test_fused_blocks_are_the_plain_ones(kind):
    plain, fast, _ = compiled(kind, "inductor")
    same(outcome(plain), outcome(fast))


def test_without_gradients_the_plain_blocks_run():
    """Read-outs have other shapes all the time; and their bits are those of an uncompiled model."""
    plain, fast, _ = compiled("field", "aot_eager")
    torch._dynamo.utils.counters.clear()
    xy, frame = torch.full((3, 2), 5.0, dtype=torch.float64), torch.arange(3)
    with torch.no_grad():
        assert torch.equal(plain.carry(xy, frame, frame).xy, fast.carry(xy, frame, frame).xy)
    assert not torch._dynamo.utils.counters["stats"]


def test_what_is_saved_is_the_same():
    plain, fast, _ = compiled("field", "aot_eager")
    assert plain.state_dict().keys() == fast.state_dict().keys()


def test_a_block_that_cannot_be_compiled_says_so():
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler")

    _, fast, _ = compiled("pixels", "aot_eager")
    compile_blocks(fast, broken)
    with pytest.raises(ResourceError, match=r"cannot be compiled.*set optimize\.compile: never"):
        outcome(fast)


@pytest.mark.parametrize(("choice", "device"), [("auto", "cpu"), ("never", "cpu"), ("never", "cuda"), ("auto", "cuda")])
def test_blocks_stay_plain_unless_asked(choice, device):
    assert not wants_compiling(choice, torch.device(device))


def test_compiling_is_for_cuda():
    assert wants_compiling("always", torch.device("cuda"))
    with pytest.raises(ResourceError, match="it is for CUDA"):
        wants_compiling("always", torch.device("cpu"))
