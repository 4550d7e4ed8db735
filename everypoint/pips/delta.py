"""The delta block of PIPs++: a one-dimensional residual network over the frames of every point.

All arrays are rows [P, S, C] (points, frames, channels). For training and in half precision the convolutions are
torch's; :class:`FastDelta` computes the same for inference in float32 with half of the multiplications
(:mod:`everypoint.pips.winograd`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everypoint.networks.instance_norm import EPS
from everypoint.pips.winograd import WinogradConv

INPUTS = 718  # three templates of 4 x 49 correlations, 128 codes of the motion, the motion
HIDDEN = 128
WIDTHS = (128, 128, 256, 256, 512, 512, 1024, 1024)

Conv = Callable[[Tensor], Tensor]


def normalise_time(x: Tensor) -> Tensor:
    """Instance norm over the frames of rows [P, S, C], in float32, and the rectifier behind it."""
    wide = x.float()
    centred = wide - wide.mean(1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(1, keepdim=True) + EPS)
    if torch.is_grad_enabled():
        return F.relu(centred * scale).to(x.dtype)
    return F.relu_(centred.mul_(scale)).to(x.dtype)


class TimeConv(nn.Module):
    """Convolution over time, kernel 3, zero padded; the inner module has the published key ``conv``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Rows [P, S, inputs] to [P, S, outputs].

        As a convolution of pictures [P, inputs, 1, S] that are channels_last in memory, as the rows are.
        """
        picture = x.transpose(1, 2)[:, :, None]
        weight = self.conv.weight[:, :, None].contiguous(memory_format=torch.channels_last)
        return F.conv2d(picture, weight, self.conv.bias, padding=(0, 1))[:, :, 0].transpose(1, 2)


class TimeBlock(nn.Module):
    """Two convolutions and a skip; all blocks but the first begin with norm and rectifier."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = TimeConv(inputs, outputs)
        self.conv2 = TimeConv(outputs, outputs)


class DeltaBlock(nn.Module):
    """Rows [P, S, 718] to position updates [P, S, 2] in cells."""

    def __init__(self) -> None:
        super().__init__()
        self.first_block_conv = TimeConv(INPUTS, HIDDEN)
        inputs = (HIDDEN, *WIDTHS[:-1])
        self.basicblock_list = nn.ModuleList(TimeBlock(i, o) for i, o in zip(inputs, WIDTHS, strict=True))
        self.dense = nn.Linear(WIDTHS[-1], 2)

    def convolutions(self) -> list[TimeConv]:
        """All convolutions in the order of their use."""
        blocks = [conv for block in self.basicblock_list for conv in (block.conv1, block.conv2)]
        return [self.first_block_conv, *blocks]

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return run(x, self.convolutions(), self.dense)


class FastDelta:
    """The block of ``delta`` as it is now, for inference in float32."""

    def __init__(self, delta: DeltaBlock) -> None:
        self._convolutions = [WinogradConv(conv.conv.weight, conv.conv.bias) for conv in delta.convolutions()]
        self._dense = delta.dense

    def __call__(self, x: Tensor) -> Tensor:
        """Rows [P, S, 718] to position updates [P, S, 2]."""
        return run(x, self._convolutions, self._dense)


def run(x: Tensor, convolutions: list[Conv], dense: Conv) -> Tensor:
    """The network with any implementation of its convolutions, in the order of :meth:`DeltaBlock.convolutions`."""
    x = F.relu(convolutions[0](x))
    pairs = zip(convolutions[1::2], convolutions[2::2], strict=True)
    for number, (conv1, conv2) in enumerate(pairs):
        y = conv2(normalise_time(conv1(x if number == 0 else normalise_time(x))))
        more = y.shape[-1] - x.shape[-1]
        x = y + (F.pad(x, (more // 2, more - more // 2)) if more else x)
    return dense(F.relu(x)).float()


def point_bytes(frames: int, element: int = 4) -> int:
    """Estimated peak of one point of so many frames: the widest block's input, its transforms, products and output."""
    return frames * element * 8 * WIDTHS[-1]
