"""Linear layers of the ray models with what stands around them, fast on a CPU.

In float32 on a CPU the products go through oneDNN, whose kernels use the widest instructions of every processor;
torch's own go through a library that reaches half of that rate outside of one maker's. Its results are of the same
precision, and were seen to be equal bits for every number of threads. Everywhere else (CUDA, float64) it is plain
torch; :func:`plain` is the reference that the fast way is tested against.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from everypoint.numerics import fast, product

ROWS_AT_ONCE = 2048  # rows of a hidden layer that a processor's cache holds: 2 MiB with 256 columns


def dense(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, part: Tensor | None = None, slope: float | None = None
) -> Tensor:
    """Linear layer, and a leaky rectifier behind it.

    Args:
        x: [..., inputs]; with ``part`` [R, K, inputs].
        weight: [outputs, inputs].
        bias: [outputs].
        part: [R, outputs], added to all K rows of each of R rays.
        slope: of the rectifier for negative values (0: ReLU); None: no rectifier.
    """
    if not fast(x):
        return plain(x, weight, bias, part, slope)
    return _Dense.apply(x.reshape(-1, x.shape[-1]), weight, bias, part, slope).view(*x.shape[:-1], -1)


def plain(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, part: Tensor | None = None, slope: float | None = None
) -> Tensor:
    """The same as :func:`dense` in plain torch."""
    out = F.linear(x, weight, bias)
    if part is not None:
        out = out.add_(part[:, None])  # in place, and the rectifier too: one tensor a layer is kept for backward
    return out if slope is None else F.leaky_relu_(out, slope)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x [outputs, inputs] of rows [M, outputs] and [M, inputs]; the shorter side first is what oneDNN likes."""
    if grad.shape[1] <= x.shape[1]:
        return product(grad.t(), x.t())
    return product(x.t(), grad.t()).t()


def rays_at_once(values: Tensor, rows: int = ROWS_AT_ONCE) -> int:
    """How many of the rays of ``values`` [R, K, ...] a network gets at once.

    On a CPU as many as its cache holds the hidden layers of, so that what is done to each value costs no way to the
    memory; elsewhere all.
    """
    rays, samples = values.shape[:2]
    return max(rows // max(samples, 1) if values.device.type == "cpu" else rays, 1)


def by_rays(network: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """``network`` of values [R, K, ...] (the first) and [R, ...], :func:`rays_at_once` rays after the other.

    No ray may have a say in what becomes of another one.
    """
    at_once = rays_at_once(values[0])
    if len(values[0]) <= at_once:
        return network(*values)
    pieces = zip(*(value.split(at_once) for value in values), strict=True)
    return torch.cat([network(*piece) for piece in pieces])


class _Dense(torch.autograd.Function):
    """:func:`dense` of rows [M, inputs]."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        part: Tensor | None,
        slope: float | None,
    ) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()  # with a slice of columns oneDNN is a thousand times slower
        out = product(x, weight, bias)
        if part is not None:
            out.view(len(part), -1, out.shape[1]).add_(part[:, None])
        if slope is not None:
            F.leaky_relu_(out, slope)
        ctx.slope, ctx.rays = slope, None if part is None else len(part)
        ctx.save_for_backward(x, weight, None if slope is None else out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_part, _ = ctx.needs_input_grad
        if out is not None:  # a rectified value has the sign of what it was
            grad = torch.ops.aten.leaky_relu_backward(grad, out, ctx.slope, True)
        grad = grad.contiguous()
        return (
            product(grad, weight.t()) if needs_x else None,
            weight_gradient(grad, x) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
            grad.view(ctx.rays, -1, grad.shape[1]).sum(1) if needs_part else None,
            None,
        )
