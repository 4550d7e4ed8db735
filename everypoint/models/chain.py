"""A chain of plane-conditioned couplings as one differentiable operation: what CaDeX++ spends its time on.

The plain twin is :class:`everypoint.models.bijection.Bijection`. What is different here:

* A look-up and the linear layer behind it commute. The planes go through the first layer once a step (9,360 rows, not
  every point twice), and a point's first hidden layer is one weighted sum of eight rows.
* The batch runs through the whole chain in parts that a processor's cache holds, and so does the way back. Gradients of
  the tables are added up in place, in one buffer a step.
* The piecewise-linear functions have their gradients written out (:mod:`everypoint.models.monotone`).

Nothing is selected by its value and no shape depends on one. Coordinates keep their own type; the networks run in that
of their weights.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from everypoint.models import monotone
from everypoint.models.dense import weight_gradient
from everypoint.numerics import fast, product

SLOPE = 0.01  # of the leaky rectifiers
SORTED = ("cpu",)  # devices where what is added to a table is sorted by its row first
POINTS_AT_ONCE = 16384  # on a CPU: fewer cost more calls than its cache saves


class BlockWeights(NamedTuple):
    """One coupling's network, ready for use; made once a step."""

    table: Tensor  # [rows, width], nodes of all planes and then times of all frames, through the first layer
    middle: Tensor  # [width / 2, width]
    middle_bias: Tensor
    last: Tensor  # [10, width / 2]
    last_bias: Tensor


class Stop(NamedTuple):
    """One coupling on the way of a point."""

    block: int
    axis: int  # the coordinate that it changes
    inverse: bool
    leg: int  # which of the frames it is given conditions it


class Route(NamedTuple):
    """What is done to points, without anything that is optimised."""

    stops: tuple[Stop, ...]
    resolutions: tuple[int, ...]  # nodes a side of the planes
    guard: float


def run(
    route: Route, points: Tensor, frames: Tensor, blocks: tuple[BlockWeights, ...], kernel: str = "torch"
) -> Tensor:
    """Points [3, N] after all stops of a route.

    Args:
        route: the stops.
        points: coordinates in rows.
        frames: int64 [legs, N], the points' frames.
        blocks: the weights.
        kernel: ``triton``: as one fused kernel where :func:`everypoint.models.chain_triton.fits` says that it can be;
            ``auto`` is ``torch`` until the kernel has been measured on a device.
    """
    if kernel == "triton":
        from everypoint.models import chain_triton  # it imports this module

        if chain_triton.fits(points, blocks):
            return chain_triton.run(route, points, frames, blocks)
    return _Chain.apply(route, points.contiguous(), frames, *(tensor for block in blocks for tensor in block))


class _Cells(NamedTuple):
    """Where n points lie in the planes, and the corners of their cells."""

    tanh: tuple[Tensor, Tensor]  # [n] each
    first: tuple[Tensor, ...]  # int32 [n] a plane: row of corner (0, 0)
    inside: tuple[tuple[Tensor, Tensor], ...]  # [n] each: position in the cell, 0..1, along both axes


class _Saved(NamedTuple):
    """What the way back needs of one stop."""

    value: Tensor  # [n] the coordinate before
    cells: _Cells
    hidden: Tensor  # [n, width]
    second: Tensor  # [n, width / 2]
    share: Tensor  # [10, n]


def _cells(kept: tuple[Tensor, Tensor], resolutions: tuple[int, ...], kind: torch.dtype) -> _Cells:
    a, b = (coordinate.to(kind).tanh() for coordinate in kept)
    first, inside, offset = [], [], 0
    for size in resolutions:
        where = ((a + 1) * ((size - 1) / 2), (b + 1) * ((size - 1) / 2))
        low = [at.floor().nan_to_num_(0).clamp_(0, size - 2) for at in where]  # NaN stays a value, never an index
        inside.append((where[0] - low[0], where[1] - low[1]))
        first.append((low[0] * size + (low[1] + offset)).int())
        offset += size * size
    return _Cells((a, b), tuple(first), tuple(inside))


def _corners(cells: _Cells, resolutions: tuple[int, ...]) -> list[Tensor]:
    """Rows [n] of the four corners in each plane."""
    return [
        first + shift for first, size in zip(cells.first, resolutions, strict=True) for shift in (0, 1, size, size + 1)
    ]


def _weights(cells: _Cells) -> list[Tensor]:
    """Weights [n] of the same."""
    found = []
    for fa, fb in cells.inside:
        low_right, top_right = fa * fb, (1 - fa) * fb
        found += [1 - fa - top_right, top_right, fa - low_right, low_right]
    return found


def _slopes(cells: _Cells, resolutions: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Derivatives of the weights by the two coordinates in [-1, 1]."""
    by_a, by_b = [], []
    for (fa, fb), size in zip(cells.inside, resolutions, strict=True):
        half = (size - 1) / 2
        fa, fb = fa * half, fb * half
        rest_a, rest_b = half - fa, half - fb
        by_a += [-rest_b, -fb, rest_b, fb]
        by_b += [-rest_a, rest_a, -fa, fa]
    return by_a, by_b


def _columns(columns: list[Tensor]) -> Tensor:
    """Columns [n] side by side, [n, k]; on a CPU a copy of each is five times as fast as :func:`torch.stack`."""
    out = columns[0].new_empty(len(columns[0]), len(columns))
    for k, column in enumerate(columns):
        out[:, k] = column
    return out


def _mixed(table: Tensor, rows: Tensor, weights: list[Tensor]) -> Tensor:
    """Weighted sums [n, width] of rows [n, k]; detached, so that torch notes nothing for a gradient of its own."""
    return F.embedding_bag(rows, table.detach(), mode="sum", per_sample_weights=_columns(weights))


def _add_rows(into: Tensor, values: Tensor, rows: list[Tensor], weights: list[Tensor]) -> None:
    """Add ``values`` [n, width] times each of the weights [n] to the rows int32 [n] of ``into`` [rows, width].

    On a CPU the additions are sorted by their row first: each row is then one weighted sum of values, which are read
    from the cache, and is written once. Within a row they keep their order, whatever the number of threads.
    """
    if values.device.type not in SORTED:
        scaled = torch.empty_like(values)
        for row, weight in zip(rows, weights, strict=True):
            into.index_add_(0, row, torch.mul(values, weight[:, None], out=scaled))
        return
    every = torch.cat(rows)
    kind = torch.int16 if len(into) <= torch.iinfo(torch.int16).max else torch.int32
    order = every.to(kind).sort(stable=True).indices
    counts = torch.bincount(every, minlength=len(into))
    point = torch.from_numpy(_repeated(len(values), len(rows))).index_select(0, order)
    weight = torch.cat(weights).index_select(0, order)
    starts = (counts.cumsum(0) - counts).int()
    into += F.embedding_bag(point, values, starts, mode="sum", per_sample_weights=weight)


@functools.lru_cache(maxsize=4)
def _repeated(count: int, times: int) -> np.ndarray:
    """0 ... count - 1, again and again, int32 [times count]."""
    return np.tile(np.arange(count, dtype=np.int32), times)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return product(x, weight, bias) if fast(x) else F.linear(x, weight, bias)


def _leaky_back(grad: Tensor, out: Tensor) -> Tensor:
    """``grad`` before the rectifier, in its place; what came out of it has the sign of what went in."""
    return torch.ops.aten.leaky_relu_backward.grad_input(grad, out, SLOPE, True, grad_input=grad)


def _stop(
    value: Tensor, kept: tuple[Tensor, Tensor], block: BlockWeights, frame: Tensor, route: Route, *, inverse: bool
) -> tuple[Tensor, _Saved]:
    """The coordinate [n] of points of frames [n] after a coupling."""
    cells = _cells(kept, route.resolutions, block.table.dtype)
    rows = _columns([*_corners(cells, route.resolutions), (frame + nodes(route)).int()])
    hidden = F.leaky_relu_(_mixed(block.table, rows, [*_weights(cells), torch.ones_like(cells.tanh[0])]), SLOPE)
    second = F.leaky_relu_(_linear(hidden, block.middle, block.middle_bias), SLOPE)
    share = torch.addmm(block.last_bias[:, None], block.last, second.t()).sigmoid_()
    after = monotone.evaluate(monotone.pieces(value, share.to(value.dtype), route.guard, inverse=inverse))
    return after, _Saved(value, cells, hidden, second, share)


def _stop_back(
    grad: Tensor, saved: _Saved, block: BlockWeights, into: BlockWeights, frame: Tensor, route: Route, *, inverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients [n] of the coordinate and of both kept ones; those of the weights are added to ``into``."""
    at = monotone.pieces(saved.value.to(grad.dtype), saved.share, route.guard, inverse=inverse)
    of_value, raw = monotone.gradients(at, grad, saved.share, route.guard, inverse=inverse)  # [n], [10, n]
    into.last.addmm_(raw, saved.second)
    into.last_bias.add_(raw.sum(1))
    of_second = _leaky_back(torch.mm(raw.t(), block.last), saved.second)
    quick = fast(of_second)
    into.middle.add_(weight_gradient(of_second, saved.hidden) if quick else of_second.t() @ saved.hidden)
    into.middle_bias.add_(of_second.sum(0))
    of_hidden = product(of_second, block.middle.t()) if quick else of_second @ block.middle
    of_hidden = _leaky_back(of_hidden, saved.hidden)
    corners, cells = _corners(saved.cells, route.resolutions), saved.cells
    times, once = (frame + nodes(route)).int(), torch.ones_like(cells.tanh[0])
    _add_rows(into.table, of_hidden, [*corners, times], [*_weights(cells), once])
    rows, of_kept = _columns(corners), []
    for tanh, slopes in zip(cells.tanh, _slopes(cells, route.resolutions), strict=True):
        along = _mixed(block.table, rows, slopes).mul_(of_hidden).sum(1)
        of_kept.append(along.mul_(1 - tanh * tanh))
    return of_value, *of_kept


class _Chain(torch.autograd.Function):
    """:func:`run`."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, route: Route, points: Tensor, frames: Tensor, *flat: Tensor
    ) -> Tensor:
        blocks = grouped(flat)
        out, ctx.saved = torch.empty_like(points), []
        keep = any(ctx.needs_input_grad)
        for columns in _parts(points):
            coordinates, kept_of_part = list(points[:, columns].unbind(0)), []
            for stop in route.stops:
                kept = tuple(coordinates[axis] for axis in range(3) if axis != stop.axis)
                after, saved = _stop(
                    coordinates[stop.axis],
                    *(kept, blocks[stop.block], frames[stop.leg, columns], route),
                    inverse=stop.inverse,
                )
                coordinates[stop.axis] = after
                if keep:
                    kept_of_part.append(saved)
            torch.stack(coordinates, out=out[:, columns])
            ctx.saved.append(kept_of_part)
        ctx.route = route
        ctx.save_for_backward(points, frames, *flat)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        points, frames, *flat = ctx.saved_tensors
        route, blocks = ctx.route, grouped(flat)
        into = grouped([torch.zeros_like(tensor) for tensor in flat])
        of_points = torch.empty_like(points)
        grad = grad.to(blocks[0].table.dtype).contiguous()  # what the networks' gradients cannot hold is not computed
        for columns, saved in zip(_parts(points), ctx.saved, strict=True):
            coordinates = list(grad[:, columns].unbind(0))
            for stop, kept in zip(reversed(route.stops), reversed(saved), strict=True):
                of_value, *of_kept = _stop_back(
                    coordinates[stop.axis],
                    *(kept, blocks[stop.block], into[stop.block], frames[stop.leg, columns], route),
                    inverse=stop.inverse,
                )
                coordinates[stop.axis] = of_value
                for axis, part in zip((axis for axis in range(3) if axis != stop.axis), of_kept, strict=True):
                    coordinates[axis] = coordinates[axis] + part
            of_points[:, columns] = torch.stack(coordinates)
        return None, of_points, None, *(tensor for block in into for tensor in block)


def grouped(flat: list[Tensor] | tuple[Tensor, ...]) -> tuple[BlockWeights, ...]:
    """The weights of all blocks, from their tensors one behind the other."""
    size = len(BlockWeights._fields)
    return tuple(BlockWeights(*flat[k : k + size]) for k in range(0, len(flat), size))


def nodes(route: Route) -> int:
    """Nodes of all planes: the table's rows before the frames' times."""
    return sum(size * size for size in route.resolutions)


def _parts(points: Tensor) -> list[slice]:
    """Points that run through the chain at once: as many as fit a processor's cache; elsewhere all."""
    count = points.shape[1]
    at_once = POINTS_AT_ONCE if points.device.type == "cpu" else max(count, 1)
    return [slice(start, min(start + at_once, count)) for start in range(0, count, at_once)]
