"""The XFeat network: of a grey image a map of descriptors, scores of key points and how far both can be relied on.

Six blocks of small convolutions bring the image down to 1/4, 1/8, 1/16 and 1/32; the last three are brought to 1/8,
added and fused into 64 channels. Key points have a branch of their own, which sees the image as cells of 8 x 8 pixels.

Source: Potje et al., XFeat: Accelerated Features for Lightweight Image Matching, CVPR 2024, figure 3. Names of modules
are those of the published weight file, so that it loads as it is.
"""

from __future__ import annotations

import os

import torch.nn.functional as F
from torch import Tensor, nn

from everypoint.artifacts.weights import check_fit, load_tensors
from everypoint.numerics import one_thread, replace_pointwise

CELL = 8  # pixels a side of a cell of the maps
MULTIPLE = 32  # sides of the image: the deepest block works at 1/32
DESCRIPTOR = 64  # channels
UNUSED = "fine_matcher."  # the weights of XFeat's semi-dense mode, which the file also holds


class ConvNormRelu(nn.Module):
    """A convolution without bias, batch normalisation without scale, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
        self.layer = nn.Sequential(convolution, nn.BatchNorm2d(channels_out, affine=False), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def _pointwise(layers: int) -> list[nn.Module]:
    return [ConvNormRelu(DESCRIPTOR, DESCRIPTOR, kernel=1) for _ in range(layers)]


class XFeatNetwork(nn.Module):
    """XFeat without its semi-dense matcher: 657,910 weights. For inference: :func:`load_network`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(1)
        self.skip1 = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 24, 1))
        self.block1 = nn.Sequential(
            ConvNormRelu(1, 4), ConvNormRelu(4, 8, stride=2), ConvNormRelu(8, 8), ConvNormRelu(8, 24, stride=2)
        )
        self.block2 = nn.Sequential(ConvNormRelu(24, 24), ConvNormRelu(24, 24))
        self.block3 = nn.Sequential(ConvNormRelu(24, 64, stride=2), ConvNormRelu(64, 64), *_pointwise(1))
        self.block4 = nn.Sequential(ConvNormRelu(64, 64, stride=2), ConvNormRelu(64, 64), ConvNormRelu(64, 64))
        self.block5 = nn.Sequential(
            ConvNormRelu(64, 128, stride=2), ConvNormRelu(128, 128), ConvNormRelu(128, 128), ConvNormRelu(128, 64, 1)
        )
        self.block_fusion = nn.Sequential(ConvNormRelu(64, 64), ConvNormRelu(64, 64), nn.Conv2d(64, DESCRIPTOR, 1))
        self.heatmap_head = nn.Sequential(*_pointwise(2), nn.Conv2d(DESCRIPTOR, 1, 1), nn.Sigmoid())
        self.keypoint_head = nn.Sequential(*_pointwise(3), nn.Conv2d(DESCRIPTOR, CELL * CELL + 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of grey images [B, 1, H, W] of any range; H and W are multiples of 32.

        Returns:
            Descriptors [B, 64, H / 8, W / 8], not of length 1; logits [B, 65, H / 8, W / 8] of the key point being
            pixel 8 y + x of the cell, or (the last) none of them; reliability [B, 1, H / 8, W / 8] in 0..1.
        """
        image = self.norm(image)
        quarter = self.block2(self.block1(image) + self.skip1(image))
        eighth = self.block3(quarter)
        sixteenth = self.block4(eighth)
        with one_thread(image):
            deepest = self.block5(sixteenth)
        size = eighth.shape[-2:]
        pyramid = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (sixteenth, deepest)]
        descriptors = self.block_fusion(eighth + pyramid[0] + pyramid[1])
        logits = self.keypoint_head(F.pixel_unshuffle(image, CELL))
        return descriptors, logits, self.heatmap_head(descriptors)


def heatmap(logits: Tensor) -> Tensor:
    """Probability [B, 1, H, W] of a key point at each pixel, of logits [B, 65, H / 8, W / 8]."""
    return F.pixel_shuffle(logits.softmax(dim=1)[:, :-1], CELL)


def load_network(path: str | os.PathLike[str]) -> XFeatNetwork:
    """The network with the weights of a file, in evaluation mode.

    Raises :class:`everypoint.errors.AssetError` when the file cannot be read or does not hold the network.
    """
    state = {key: tensor for key, tensor in load_tensors(path).items() if not key.startswith(UNUSED)}
    network = XFeatNetwork()
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    check_fit(state, expected, str(path), "XFeat")
    network.load_state_dict(state)
    replace_pointwise(network)
    return network.requires_grad_(False).eval()
