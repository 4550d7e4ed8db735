"""The chain of :mod:`everypoint.models.chain` as two fused kernels for CUDA devices, written in Triton.

In plain torch every stop writes its hidden layers to the device's memory and reads them back, forward and backward, in
some sixty launches. Here one launch carries a tile of points through all stops; what is kept for the way back is one
coordinate a stop and point, and the networks run again.

Coordinates keep their type (float64 or float32), the networks are float32. With float32 inputs products are rounded
as float32 (no TF32). Gradients of the networks are added up by every program for itself and then once over all, in a
fixed order. Gradients of the tables are added atomically, in whatever order programs come: on CUDA they differ in their
last digits from run to run. Where torch is asked for deterministic algorithms, :func:`fits` says no.

Triton is optional: it comes with torch's builds for CUDA. Sources of the method: see :mod:`everypoint.models.chain`.
"""

from __future__ import annotations

import contextlib
import functools
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from everypoint.errors import MissingPackageError
from everypoint.models.chain import SLOPE, BlockWeights, Route, grouped, nodes

TILE = 32  # points of a program; with more, or fewer warps, the way back keeps kilobytes a thread outside of registers
WARPS = 8
PROGRAMS = 4  # of the way back, for each multiprocessor
INTERPRETED_PROGRAMS = 2  # without a device
INDEX = 2**31  # kernels count the rows of a block in 32 bits


def fits(points: Tensor, blocks: tuple[BlockWeights, ...]) -> bool:
    """Whether :func:`run` can do for points [3, N] what torch does: CUDA, float32 networks, any order of additions."""
    table = blocks[0].table
    known = points.dtype in (torch.float32, torch.float64) and table.dtype == torch.float32
    small = table.numel() < INDEX and 3 * points.numel() < INDEX
    return (
        points.is_cuda and known and small and points.numel() > 0 and not torch.are_deterministic_algorithms_enabled()
    )


def run(route: Route, points: Tensor, frames: Tensor, blocks: tuple[BlockWeights, ...]) -> Tensor:
    """Points [3, N] after all stops of a route: :func:`everypoint.models.chain.run`, N > 0.

    Tensors lie on a CUDA device, or on the CPU when TRITON_INTERPRET=1 was set before the first call; only there may
    the networks be float64. Raises :class:`MissingPackageError` without Triton.
    """
    flat = (tensor for block in blocks for tensor in block)
    return _Fused.apply(route, points.contiguous(), frames.contiguous(), *flat)


@functools.cache
def _kernels() -> ModuleType:
    try:
        from everypoint.models import chain_kernels
    except ImportError as error:
        raise MissingPackageError(
            "model.cadex.kernel triton needs the package triton",
            str(error),
            "install torch in its build for CUDA, which brings triton (MIT licence), or set model.cadex.kernel: torch",
        ) from error
    return chain_kernels


@functools.lru_cache(maxsize=64)
def _on_device(route: Route, device: torch.device) -> tuple[Tensor, Tensor]:
    """Stops int32 [stops, 4] and nodes a side int32 [planes]; kept, so that a step waits for no copy."""
    stops = [[stop.axis, int(stop.inverse), stop.block, stop.leg] for stop in route.stops]
    return tuple(torch.tensor(values, dtype=torch.int32, device=device) for values in (stops, route.resolutions))


def _packed(blocks: tuple[BlockWeights, ...]) -> tuple[Tensor, Tensor]:
    """Tables [blocks, rows, width], and everything else [blocks, size] in the order of the fields."""
    small = [torch.cat([tensor.reshape(-1) for tensor in block[1:]]) for block in blocks]
    return torch.stack([block.table for block in blocks]), torch.stack(small)


def _unpacked(table: Tensor, small: Tensor, like: BlockWeights) -> list[Tensor]:
    """The tensors of all blocks one behind the other, from what :func:`_packed` gives."""
    sizes = [tensor.numel() for tensor in like[1:]]
    found = []
    for own, rest in zip(table, small, strict=True):
        parts = zip(rest.split(sizes), like[1:], strict=True)
        found += [own, *(part.view_as(tensor) for part, tensor in parts)]
    return found


def _constants(route: Route, block: BlockWeights) -> dict[str, int | float | str]:
    """What both kernels are compiled for."""
    half, width = block.middle.shape
    return {
        "STOPS": len(route.stops),
        "PLANES": len(route.resolutions),
        "WIDTH": width,
        "HALF": half,
        "PADDED": _padded(width),
        "PADDED_HALF": _padded(half),
        "TILE": TILE,
        "GUARD": route.guard,
        "SLOPE": SLOPE,
        "PRECISION": "ieee",
        "num_warps": WARPS,
        "num_stages": 1,  # rows are gathered: to fetch them ahead would fill the shared memory
    }


def _padded(width: int) -> int:
    """The next power of two that a matrix product can have as a side."""
    return max(16, 1 << (width - 1).bit_length())


def _programs(device: torch.device, tiles: int) -> int:
    if device.type != "cuda":
        return min(tiles, INTERPRETED_PROGRAMS)
    return min(tiles, PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count)


def _current(device: torch.device) -> contextlib.AbstractContextManager:
    """Kernels start on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class _Fused(torch.autograd.Function):
    """:func:`run`."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, route: Route, points: Tensor, frames: Tensor, *flat: Tensor
    ) -> Tensor:
        blocks, count, keep = grouped(flat), points.shape[1], any(ctx.needs_input_grad)
        (table, small), (stops, sizes) = _packed(blocks), _on_device(route, points.device)
        out = torch.empty_like(points)
        before = points.new_empty((len(route.stops), count) if keep else (1,))
        with _current(points.device):
            _kernels().forward[(-(-count // TILE),)](
                *(points, frames, table, small, stops, sizes, out, before),
                *(count, table.shape[1], nodes(route)),
                **_constants(route, blocks[0]),
                KEEP=keep,
            )
        ctx.route = route
        if keep:
            ctx.save_for_backward(out, before, frames, table, small, *blocks[0][1:])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        out, before, frames, table, small, *rest = ctx.saved_tensors
        route, count, like = ctx.route, out.shape[1], BlockWeights(table[0], *rest)
        stops, sizes = _on_device(route, out.device)
        programs = _programs(out.device, -(-count // TILE))
        of_points, of_table = torch.empty_like(out), torch.zeros_like(table)
        of_small = small.new_zeros(programs, *small.shape)
        with _current(out.device):
            _kernels().backward[(programs,)](
                *(out, grad.contiguous(), frames, table, small, stops, sizes, before, of_points, of_table, of_small),
                *(count, table.shape[1], nodes(route), len(table)),
                **_constants(route, like),
            )
        return None, of_points, None, *_unpacked(of_table, of_small.sum(0), like)
