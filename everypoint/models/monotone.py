"""CaDeX++'s monotone piecewise-linear function without a search, and its gradients written out.

The definition, its plain twin with autograd, is :class:`everypoint.models.couplings.MonotonePiecewiseLinear`. With a_k
the four spacings of the knots in the argument, b_k those in the value (outer left, inner left, inner right, outer
right) and t_0, t_1, t_2 how much of the left, middle and right piece lies below v, each 0..1,

    f(v) = (t_0 - 1) b_0 + (t_1 - 1) b_1 + t_1 b_2 + t_2 b_3 + l min(v - x_0, 0) + r max(v - x_3, 0)

holds in every piece and in both tails, which so begin at the outermost knots: nothing far away is subtracted from
something far away. With J = (t_0 - 1, t_1 - 1, t_1, t_2) and m the slope at v the derivatives are

    df/dv = m    df/db_k = J_k    df/da_k = -m J_k    df/dl = min(v - x_0, 0)    df/dr = max(v - x_3, 0)

The inverse is the same with the roles of a and b swapped and the slopes inverted. Parameters lie in rows,
[10, N]: every operation then runs over whole vectors.

Source: Song et al., Track Everything Everywhere Fast and Robustly, ECCV 2024 (CaDeX++).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

COUNT = 10  # parameters of a function


class Pieces(NamedTuple):
    """Where N values lie among their knots."""

    a: Tensor  # [4, N] spacings in the argument
    b: Tensor  # [4, N] spacings in the value
    left: Tensor  # [N] slope of the left tail
    right: Tensor
    below: Tensor  # [N] min(v - x_0, 0)
    above: Tensor  # [N] max(v - x_3, 0)
    by_b: Tensor  # [4, N] J: t_0 - 1, t_1 - 1, t_1, t_2


def pieces(value: Tensor, share: Tensor, guard: float, *, inverse: bool) -> Pieces:
    """Where ``value`` [N] lies, from the sigmoids ``share`` [10, N] of the raw parameters."""
    spacing, slopes = guard + (1 - guard) * share[:8], 2 * guard + (2 - 4 * guard) * share[8:]
    a, b = spacing[:4], spacing[4:]
    if inverse:
        a, b, slopes = b, a, slopes.reciprocal()
    outer_left, inner_left, inner_right, outer_right = a.unbind(0)
    from_left = value + (inner_left + outer_left)
    below, above = from_left.clamp(max=0), (value - (inner_right + outer_right)).clamp_(min=0)
    t1 = ((value + inner_left) / (inner_left + inner_right)).clamp_(0, 1)
    by_b = torch.stack([from_left.div_(outer_left), t1, t1, (value - inner_right).div_(outer_right)])
    by_b[::3].clamp_(0, 1)
    by_b[:2] -= 1
    return Pieces(a, b, slopes[0], slopes[1], below, above, by_b)


def evaluate(at: Pieces) -> Tensor:
    """f(v) [N]."""
    return (at.by_b * at.b).sum(0).addcmul_(at.left, at.below).addcmul_(at.right, at.above)


def gradients(at: Pieces, grad: Tensor, share: Tensor, guard: float, *, inverse: bool) -> tuple[Tensor, Tensor]:
    """Gradients of v [N] and of the raw parameters [10, N], from that of f(v) [N]."""
    middle = (at.b[1] + at.b[2]) / (at.a[1] + at.a[2])
    outer = at.b[::3] / at.a[::3]
    slope = torch.where(at.by_b[2] > 0, middle, outer[0])  # of the piece or tail that v lies in
    slope = torch.where(at.by_b[3] > 0, outer[1], slope)
    slope = torch.where(at.below < 0, at.left, torch.where(at.above > 0, at.right, slope))
    of_value = grad * slope
    of_b = grad * at.by_b
    of_a = (of_b * slope).neg_()
    left, right = grad * at.below, grad * at.above
    if inverse:
        of_a, of_b = of_b, of_a
        left, right = (part.mul_(tail).mul_(tail).neg_() for part, tail in ((left, at.left), (right, at.right)))
    raw = torch.cat([of_a, of_b, left[None], right[None]]).mul_(share).mul_(1 - share)
    raw[:8] *= 1 - guard
    raw[8:] *= 2 - 4 * guard
    return of_value, raw


def monotone(value: Tensor, raw: Tensor, guard: float, *, inverse: bool) -> Tensor:
    """f(v) [N] of ``value`` [N] with raw parameters [10, N], or its inverse."""
    return _Monotone.apply(value, raw, guard, inverse)


class _Monotone(torch.autograd.Function):
    """:func:`monotone`; keeps the value and the sigmoids, and looks up the pieces again on the way back."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, value: Tensor, raw: Tensor, guard: float, inverse: bool
    ) -> Tensor:
        share = torch.sigmoid(raw)
        ctx.save_for_backward(value, share)
        ctx.guard, ctx.inverse = guard, inverse
        return evaluate(pieces(value, share, guard, inverse=inverse))

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, share = ctx.saved_tensors
        at = pieces(value, share, ctx.guard, inverse=ctx.inverse)
        return *gradients(at, grad, share, ctx.guard, inverse=ctx.inverse), None, None
