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
    outer slopes are 2 d. Spacings lie in [guard, 1], outer slopes in [2 guard, 2 - 2 guard]; with 0.1 no slope is below
    0.1, and the round trip errs by less than 1e-6 in float32 over [-3, 3] whatever the network gives: a flatter piece
    would lose digits that no inverse can bring back. Every piece is evaluated from one of its own knots (no
    cancellation). :mod:`everypoint.models.monotone` has the same with its gradients written out.
    Source: Song et al., Track Everything Everywhere Fast and Robustly, ECCV 2024.
    """

    count = 10

    def __init__(self, guard: float = 0.1) -> None:
        self.guard = guard

    def evaluate(self, value: Tensor, raw: Tensor) -> Tensor:
        x, y, left, right = self._knots(raw)
        return _piecewise(value, x, y, left, right)

    def invert(self, value: Tensor, raw: Tensor) -> Tensor:
        x, y, left, right = self._knots(raw)
        return _piecewise(value, y, x, 1 / left, 1 / right)

    def _knots(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Knots x, y [N, 4] ascending and outer slopes [N]."""
        share = torch.sigmoid(raw)
        spacing = (self.guard + (1 - self.guard) * share[:, :8]).reshape(-1, 2, 4)
        outer_left, inner_left, inner_right, outer_right = spacing.unbind(-1)  # [N, 2]: of x and of y
        knots = torch.stack(
            [-inner_left - outer_left, -inner_left, inner_right, inner_right + outer_right], -1
        )  # [N, 2, 4]
        slopes = 2 * self.guard + (2 - 4 * self.guard) * share[:, 8:]  # symmetric around 1, the identity's slope
        return knots[:, 0], knots[:, 1], slopes[:, 0], slopes[:, 1]


def _piecewise(value: Tensor, x: Tensor, y: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Piecewise-linear function through knots (x, y) [N, 4] with the given outer slopes, at ``value`` [N]."""
    slope = (y[:, 1:] - y[:, :-1]) / (x[:, 1:] - x[:, :-1])  # [N, 3]
    piece = (value[:, None] > x[:, 1:3]).sum(-1, keepdim=True)  # [N, 1]: 0, 1 or 2
    x_left, y_left, inner = (table.gather(1, piece)[:, 0] for table in (x, y, slope))
    middle = y_left + inner * (value - x_left)
    below = y[:, 0] + left * (value - x[:, 0])
    above = y[:, 3] + right * (value - x[:, 3])
    return torch.where(value < x[:, 0], below, torch.where(value > x[:, 3], above, middle))


COUPLINGS: dict[str, Coupling] = {"affine": Affine(), "piecewise": MonotonePiecewiseLinear()}
