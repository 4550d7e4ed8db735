"""One-coordinate couplings: invertible 1-D functions whose parameters depend on the other two coordinates and the time.

``evaluate`` maps local to canonical, ``invert`` canonical to local; both are exact. Each family says how many raw
parameters a network must give it (``count``) and which raw values make it the identity (all zeros).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Coupling(Protocol):
    """A family of increasing functions of one variable with ``count`` raw parameters, the identity at zero."""

    count: int

    def evaluate(self, value: Tensor, raw: Tensor) -> Tensor:
        """Function of ``value`` [N] with raw parameters [N, count]."""
        ...

    def invert(self, value: Tensor, raw: Tensor) -> Tensor:
        """Inverse of :meth:`evaluate` in its first argument."""
        ...


class Affine:
    """v -> (v - t) exp(-s): OmniMotion's coupling; s is clamped to [-8, 8]."""

    count = 2

    def evaluate(self, value: Tensor, raw: Tensor) -> Tensor:
        return (value - raw[:, 1]) * torch.exp(-raw[:, 0].clamp(-8, 8))

    def invert(self, value: Tensor, raw: Tensor) -> Tensor:
        return value * torch.exp(raw[:, 0].clamp(-8, 8)) + raw[:, 1]


class MonotonePiecewiseLinear:
    """Four knots and two outer slopes: CaDeX++'s coupling, with tails anchored at the outermost knots.

    With sigmoids d of the raw values, the knots lie at x = -d_2 - d_1, -d_1, d_3, d_3 + d_4 and likewise in y, the
    outer slopes are 2 d. All spacings and slopes are kept above ``guard``, so the function stays invertible whatever
    the network gives. Each piece is evaluated from its own knot (no cancellation): the round trip is exact to float32
    rounding. Source: Song et al., Track Everything Everywhere Fast and Robustly, ECCV 2024.
    """

    count = 10
    guard = 1e-3

    def evaluate(self, value: Tensor, raw: Tensor) -> Tensor:
        x, y, left, right = self._knots(raw)
        return _piecewise(value, x, y, left, right)

    def invert(self, value: Tensor, raw: Tensor) -> Tensor:
        x, y, left, right = self._knots(raw)
        return _piecewise(value, y, x, 1 / left, 1 / right)

    def _knots(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Knots x, y [N, 4] ascending and outer slopes [N]."""
        d = torch.sigmoid(raw) * (1 - self.guard) + self.guard
        spacing = d[:, :8].reshape(-1, 2, 4)  # x and y: left outer, left inner, right inner, right outer
        outer_left, inner_left, inner_right, outer_right = spacing.unbind(-1)
        knots = torch.stack(
            [-inner_left - outer_left, -inner_left, inner_right, inner_right + outer_right], -1
        )  # [N, 2, 4]
        return knots[:, 0], knots[:, 1], 2 * d[:, 8], 2 * d[:, 9]


def _piecewise(value: Tensor, x: Tensor, y: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Piecewise-linear function through knots (x, y) [N, 4] with the given outer slopes, at ``value`` [N]."""
    width = x[:, 1:] - x[:, :-1]  # [N, 3]
    slope = (y[:, 1:] - y[:, :-1]) / width
    into = torch.minimum((value[:, None] - x[:, :-1]).clamp(min=0), width)  # length spent in each piece
    tails = left * (value - x[:, 0]).clamp(max=0) + right * (value - x[:, 3]).clamp(min=0)
    return y[:, 0] + (slope * into).sum(-1) + tails


COUPLINGS: dict[str, Coupling] = {"affine": Affine(), "piecewise": MonotonePiecewiseLinear()}
