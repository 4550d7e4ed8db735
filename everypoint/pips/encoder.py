"""The frame encoder of PIPs++: RAFT-like residual stages, fused at 1/8 of the frame.

Keys of the state are those of the published network. Instance norm has no parameters and no running statistics, so
training and inference are one computation; without gradients it is done in place, in the memory order that the
convolutions like.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everypoint.networks.instance_norm import normalise

STRIDE = 8
CHANNELS = 128
_STAGES = (64, 96, 128, 128)


def _relu(x: Tensor) -> Tensor:
    return F.relu(x, inplace=not torch.is_grad_enabled())


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norm and rectifier each, and a skip, projected where the stride is not 1."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        # A list of one, for the published key ``downsample.0``.
        self.downsample = nn.ModuleList([nn.Conv2d(inputs, outputs, 1, stride)]) if stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        y = normalise(self.conv1(x), relu=True)
        y = normalise(self.conv2(y), relu=True)
        skip = x if self.downsample is None else normalise(self.downsample[0](x))
        return _relu(y.add_(skip) if not torch.is_grad_enabled() else y + skip)


class Encoder(nn.Module):
    """Frames [B, 3, H, W] in -1..1, sides multiples of 8, to features [B, 128, H / 8, W / 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _STAGES[0], 7, 2, padding=3)
        inputs = _STAGES[0]
        for number, outputs in enumerate(_STAGES, 1):
            blocks = [ResidualBlock(inputs, outputs, 1 if number == 1 else 2), ResidualBlock(outputs, outputs, 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            inputs = outputs
        self.conv2 = nn.Conv2d(sum(_STAGES), 2 * CHANNELS, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * CHANNELS, CHANNELS, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        size = (x.shape[-2] // STRIDE, x.shape[-1] // STRIDE)
        x = normalise(self.conv1(x), relu=True)
        fused = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            fused.append(F.interpolate(x, size, mode="bilinear", align_corners=True))
        x = normalise(self.conv2(torch.cat(fused, 1)), relu=True)
        return self.conv3(x)


def frame_bytes(height: int, width: int, element: int = 4) -> int:
    """Estimated peak of encoding one frame: four maps of the first stage, the fused features, the frame itself."""
    first, fused = _STAGES[0] * height * width // 4, sum(_STAGES) * height * width // STRIDE**2
    return element * (4 * first + 2 * fused + 6 * height * width)
