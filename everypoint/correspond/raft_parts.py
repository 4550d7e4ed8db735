"""The parts of RAFT, large and small, under the names of torchvision's files; :mod:`raft_network` runs them.

Source: Teed and Deng, RAFT, ECCV 2020; sizes of both networks from its appendix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from everypoint.networks.raft_encoder import RaftEncoder, convolution, feature_encoder

LEVELS = 4  # of correlations, each half the size of the one before
UPSAMPLED = 8 * 8 * 9  # numbers a cell that upsampling mixes nine neighbours by, for each of its pixels
MASK_SCALE = 0.25  # of these numbers: balances gradients in training, and belongs to the weights


class Sizes(NamedTuple):
    """Channels of one of the networks."""

    hidden: int  # of the recurrent state
    context: int
    radius: int  # cells around a point in which correlations are read
    correlation: tuple[int, ...]  # convolutions over the correlations: 1x1, then 3x3
    flow: tuple[int, int]  # convolutions over the flow: 7x7, then 3x3
    motion: int  # of what the recurrent block is told, the flow included
    gates: tuple[tuple[int, int], ...]  # kernels of the passes of the recurrent block
    head: int  # between the two convolutions of the flow head
    mask: int | None  # before the upsampling's numbers; None: bilinear upsampling


SIZES = {
    False: Sizes(128, 128, 4, (256, 192), (128, 64), 128, ((1, 5), (5, 1)), 256, 256),
    True: Sizes(96, 64, 3, (96,), (64, 32), 82, ((3, 3),), 128, None),
}


class MotionEncoder(nn.Module):
    """Correlations [B, K, h, w] around the present flow, and the flow [B, 2, h, w], as [B, motion, h, w]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        windows = LEVELS * (2 * sizes.radius + 1) ** 2
        self.out_channels = sizes.motion
        self.convcorr1 = convolution(windows, sizes.correlation[0], 1)
        self.convcorr2 = convolution(*sizes.correlation, 3) if len(sizes.correlation) == 2 else nn.Identity()
        self.convflow1 = convolution(2, sizes.flow[0], 7)
        self.convflow2 = convolution(*sizes.flow, 3)
        self.conv = convolution(sizes.correlation[-1] + sizes.flow[-1], sizes.motion - 2, 3)

    def forward(self, flow: Tensor, windows: Tensor) -> Tensor:
        looked_up = self.convcorr2(self.convcorr1(windows))
        moved = self.convflow2(self.convflow1(flow))
        return torch.cat([self.conv(torch.cat([looked_up, moved], 1)), flow], 1)


class ConvGru(nn.Module):
    """The convolutions of one pass of the recurrent block; the pass itself is :class:`raft_network._SplitGru`."""

    def __init__(self, hidden: int, inputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = kernel[0] // 2, kernel[1] // 2
        for gate in ("convz", "convr", "convq"):
            setattr(self, gate, nn.Conv2d(hidden + inputs, hidden, kernel, padding=padding))


class FlowHead(nn.Module):
    """The recurrent state [B, hidden, h, w] to the change of the flow [B, 2, h, w]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(sizes.hidden, sizes.head, 3, padding=1)
        self.conv2 = nn.Conv2d(sizes.head, 2, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv2(self.conv1(hidden).relu_())


class MaskPredictor(nn.Module):
    """The recurrent state [B, hidden, h, w] to the numbers [B, UPSAMPLED, h, w] of the convex upsampling."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.convrelu = convolution(sizes.hidden, sizes.mask, 3)
        self.conv = nn.Conv2d(sizes.mask, UPSAMPLED, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return MASK_SCALE * self.conv(self.convrelu(hidden))


class UpdateBlock(nn.Module):
    """What an iteration consists of."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.motion_encoder = MotionEncoder(sizes)
        self.recurrent_block = nn.Module()
        for k, kernel in enumerate(sizes.gates, 1):
            gru = ConvGru(sizes.hidden, sizes.context + sizes.motion, kernel)
            self.recurrent_block.add_module(f"convgru{k}", gru)
        self.flow_head = FlowHead(sizes)

    @property
    def grus(self) -> list[ConvGru]:
        """The passes of the recurrent block."""
        return list(self.recurrent_block.children())


class RaftParts(nn.Module):
    """All parts of one of the networks, with the state of torchvision's; they are run by others."""

    def __init__(self, *, small: bool) -> None:
        super().__init__()
        self.sizes = sizes = SIZES[small]
        self.feature_encoder = feature_encoder(small=small)
        self.context_encoder = RaftEncoder(
            small=small, outputs=sizes.hidden + sizes.context, norm=None if small else nn.BatchNorm2d
        )
        self.update_block = UpdateBlock(sizes)
        self.mask_predictor = None if sizes.mask is None else MaskPredictor(sizes)
