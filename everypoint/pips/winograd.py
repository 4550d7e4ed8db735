"""Convolutions over time with kernel 3 in half of the multiplications: Winograd's F(4, 3).

Four neighbouring outputs need six inputs. With the matrices below, output = A^T [(G w) * (B^T x)]: six products of
rows by matrices for four frames, instead of twelve. The transforms are sums with small factors; in float32 the result
differs from a direct sum in its last digits only, which ``tests/unit/pips/test_delta.py`` measures. Inference only.
Sources: Winograd, Arithmetic Complexity of Computations (1980); Lavin and Gray, Fast Algorithms for Convolutional
Neural Networks (CVPR 2016), section 4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from everypoint.numerics import linear

TILE = 4
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)  # G


class WinogradConv:
    """The convolution [outputs, inputs, 3], zero padded, over rows [P, S, inputs] (points, frames, channels)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        kernel = torch.tensor(_KERNEL, dtype=torch.float64, device=weight.device)
        made = torch.einsum("ik,ock->ioc", kernel, weight.detach().double())
        self.weight = made.to(weight.dtype).contiguous()  # [6, outputs, inputs]
        self.bias = bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        """Rows [P, S, inputs] to [P, S, outputs]."""
        points, frames, _ = x.shape
        tiles = -(-frames // TILE)
        padded = F.pad(x, (0, 0, 1, TILE * tiles + 1 - frames))  # [P, 4 tiles + 2, inputs]
        taps = padded.unfold(1, TILE + 2, TILE).permute(3, 0, 1, 2)  # [6, P, tiles, inputs], a view
        inputs = _transform_inputs(taps)
        if x.device.type == "cpu":
            products = [linear(part, weight) for part, weight in zip(inputs, self.weight, strict=True)]
        else:
            products = list(torch.bmm(torch.stack(inputs), self.weight.transpose(1, 2)))
        out = x.new_empty(points * tiles, TILE, self.weight.shape[1])
        _transform_outputs(products, self.bias, out)
        return out.view(points, TILE * tiles, -1)[:, :frames]


def _transform_inputs(d: Tensor) -> list[Tensor]:
    """B^T x: six arrays [P tiles, inputs] of taps [6, P, tiles, inputs]."""
    far, near = torch.sub(d[4], d[2], alpha=4), torch.sub(d[3], d[1], alpha=4)
    even, odd = d[4] - d[2], 2 * (d[3] - d[1])
    parts = [
        (4 * d[0]).sub_(d[2], alpha=5).add_(d[4]),
        far + near,
        far.sub_(near),
        even + odd,
        even.sub_(odd),
        (4 * d[1]).sub_(d[3], alpha=5).add_(d[5]),
    ]
    return [part.flatten(0, 1) for part in parts]


def _transform_outputs(m: list[Tensor], bias: Tensor, out: Tensor) -> None:
    """A^T m + bias: six arrays [M, outputs] into ``out`` [M, 4, outputs]; the arrays are overwritten."""
    low_sum, low_difference = m[1] + m[2], m[1].sub_(m[2])
    high_sum, high_difference = m[3] + m[4], m[3].sub_(m[4])
    out[:, 0] = m[0].add_(low_sum).add_(high_sum).add_(bias)
    low_difference.add_(bias)
    low_sum.add_(bias)
    torch.add(low_difference, high_difference, alpha=2, out=out[:, 1])
    torch.add(low_sum, high_sum, alpha=4, out=out[:, 2])
    torch.add(low_difference, high_difference, alpha=8, out=low_difference)
    torch.add(low_difference, m[5], out=out[:, 3])
