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
    """Where values lie among their knots; all [N] or tuples of four."""

    a: tuple[Tensor, ...]  # spacings in the argument
    b: tuple[Tensor, ...]  # spacings in the value
    left: Tensor  # slope of the left tail
    right: Tensor
    below: Tensor  # min(v - x_0, 0)
    above: Tensor  # max(v - x_3, 0)
    t: tuple[Tensor, ...]  # shares of the three pieces below v


def pieces(value: Tensor, share: Tensor, guard: float, *, inverse: bool) -> Pieces:
    """Where ``value`` [N] lies, from the sigmoids ``share`` [10, N] of the raw parameters."""
    spacing = (guard + (1 - guard) * share[:8]).unbind(0)
    left, right = (2 * guard + (2 - 4 * guard) * share[8:]).unbind(0)
    a, b = spacing[:4], spacing[4:]
    if inverse:
        a, b, left, right = b, a, 1 / left, 1 / right
    from_left = value + (a[1] + a[0])
    below, above = from_left.clamp(max=0), (value - (a[2] + a[3])).clamp(min=0)
    t0 = (from_left / a[0]).clamp(0, 1)
    t1 = ((value + a[1]) / (a[1] + a[2])).clamp(0, 1)
    t2 = ((value - a[2]) / a[3]).clamp(0, 1)
    return Pieces(a, b, left, right, below, above, (t0, t1, t2))


def evaluate(at: Pieces) -> Tensor:
    """f(v) [N]."""
    t0, t1, t2 = at.t
    b0, b1, b2, b3 = at.b
    inner = torch.addcmul((t0 - 1) * b0 + (t1 - 1) * b1, t1, b2).addcmul_(t2, b3)
    return inner.addcmul_(at.left, at.below).addcmul_(at.right, at.above)


def gradients(at: Pieces, grad: Tensor, share: Tensor, guard: float, *, inverse: bool) -> tuple[Tensor, Tensor]:
    """Gradients of v [N] and of the raw parameters [10, N], from that of f(v) [N]."""
    t0, t1, t2 = at.t
    (a0, a1, a2, a3), (b0, b1, b2, b3) = at.a, at.b
    slope = torch.where(t1 > 0, (b1 + b2) / (a1 + a2), b0 / a0)  # the piece or tail that v lies in
    slope = torch.where(t2 > 0, b3 / a3, slope)
    slope = torch.where(at.below < 0, at.left, torch.where(at.above > 0, at.right, slope))
    of_value = grad * slope
    of_b = [grad * j for j in (t0 - 1, t1 - 1, t1, t2)]
    of_a = [part.mul(slope).neg_() for part in of_b]
    left, right = grad * at.below, grad * at.above
    if inverse:
        of_a, of_b = of_b, of_a
        left, right = (part.mul_(tail).mul_(tail).neg_() for part, tail in ((left, at.left), (right, at.right)))
    raw = torch.stack([*of_a, *of_b, left, right])
    raw[:8] *= 1 - guard
    raw[8:] *= 2 - 4 * guard
    return of_value, raw.mul_(share).mul_(1 - share)


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
