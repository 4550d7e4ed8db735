"""RAFT's frame encoder: residual stages that end at 1/8 of the image, for matching features and for context.

Flows and features both use it, so it lies below both. Parameters are named as in torchvision's files, which therefore
load as they are; :func:`encoder_names` translates the authors'. The modules are our own because importing torchvision
costs more than importing torch does (it loads torch's compiler), in every process that runs RAFT.

Source: Teed and Deng, RAFT: Recurrent All-Pairs Field Transforms for Optical Flow, ECCV 2020, section 3.1 and appendix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from everypoint.networks.instance_norm import InstanceNorm

Norm = Callable[[int], nn.Module]
STRIDE = 8  # pixels of the image a cell
LAYERS = {False: (64, 64, 96, 128), True: (32, 32, 64, 96)}  # channels of the stem and of three stages, by small
FEATURES = {False: 256, True: 128}  # channels of the matching features
_STRIDES = (1, 2, 2)  # of the stages; the stem has 2


def convolution(
    inputs: int,
    outputs: int,
    size: int,
    stride: int = 1,
    norm: Norm | None = None,
    *,
    relu: bool = True,
) -> nn.Sequential:
    """A convolution that keeps its edges, then maybe a norm, then maybe a rectifier: modules 0, 1 and the last."""
    parts: list[nn.Module] = [nn.Conv2d(inputs, outputs, size, stride, padding=(size - 1) // 2)]
    if norm is not None:
        parts.append(norm(outputs))
    if relu:
        parts.append(nn.ReLU(inplace=True))
    return nn.Sequential(*parts)


class Residual(nn.Module):
    """A stage's block: relu(skip + convolutions), the skip projected where size or channels change.

    Args:
        convolutions: (inputs, outputs, size, stride) of each.
        norm: behind each of them.
    """

    def __init__(self, convolutions: Sequence[tuple[int, int, int, int]], norm: Norm | None) -> None:
        super().__init__()
        self._count = len(convolutions)
        for k, (inputs, outputs, size, stride) in enumerate(convolutions, 1):
            setattr(self, f"convnormrelu{k}", convolution(inputs, outputs, size, stride, norm))
        stride = max(stride for *_, stride in convolutions)
        first, last = convolutions[0][0], convolutions[-1][1]
        self.downsample = nn.Identity() if stride == 1 else convolution(first, last, 1, stride, norm, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] to [B, D, H / stride, W / stride]."""
        y = x
        for k in range(1, self._count + 1):
            y = getattr(self, f"convnormrelu{k}")(y)
        return (self.downsample(x) + y).relu_()


def plain_block(inputs: int, outputs: int, stride: int, norm: Norm | None) -> Residual:
    """Two 3x3 convolutions: the large network's."""
    return Residual([(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)], norm)


def bottleneck_block(inputs: int, outputs: int, stride: int, norm: Norm | None) -> Residual:
    """A 3x3 convolution between two 1x1 at a quarter of the channels: the small network's."""
    inner = outputs // 4
    return Residual([(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)], norm)


class RaftEncoder(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] to maps [B, outputs, H / 8, W / 8]; H and W multiples of 8.

    Args:
        small: which of the two networks.
        outputs: channels of the maps.
        norm: behind every convolution but the last.
    """

    def __init__(self, *, small: bool, outputs: int, norm: Norm | None) -> None:
        super().__init__()
        stem, *stages = LAYERS[small]
        block = bottleneck_block if small else plain_block
        self.convnormrelu = convolution(3, stem, 7, 2, norm)
        for index, (inputs, channels, stride) in enumerate(zip((stem, *stages), stages, _STRIDES, strict=False), 1):
            blocks = block(inputs, channels, stride, norm), block(channels, channels, 1, norm)
            setattr(self, f"layer{index}", nn.Sequential(*blocks))
        self.conv = nn.Conv2d(stages[-1], outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.convnormrelu(images)
        return self.conv(self.layer3(self.layer2(self.layer1(x))))


def feature_encoder(*, small: bool) -> RaftEncoder:
    """The encoder of the matching features, normalised an instance at a time."""
    return RaftEncoder(small=small, outputs=FEATURES[small], norm=lambda _: InstanceNorm())


def fold_norms(network: nn.Module) -> None:
    """Put what batch norms do in inference into the convolutions before them, in place."""
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential) and len(child) > 1 and isinstance(child[1], nn.BatchNorm2d):
            folded = fuse_conv_bn_eval(child[0].eval(), child[1].eval())
            setattr(network, name, nn.Sequential(folded, *child[2:]))
        else:
            fold_norms(child)


def encoder_names(*, small: bool) -> Iterator[tuple[str, str]]:
    """Pairs (module of an encoder in the authors' files, its name here)."""
    yield "conv1", "convnormrelu.0"
    yield "norm1", "convnormrelu.1"
    yield "conv2", "conv"
    for block in (f"layer{layer}.{index}" for layer in (1, 2, 3) for index in (0, 1)):
        for k in (1, 2, 3) if small else (1, 2):
            yield f"{block}.conv{k}", f"{block}.convnormrelu{k}.0"
            yield f"{block}.norm{k}", f"{block}.convnormrelu{k}.1"
        for part in (0, 1):
            yield f"{block}.downsample.{part}", f"{block}.downsample.{part}"


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a network's state, by key."""
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def without_values(build: Callable[[], nn.Module]) -> nn.Module:
    """What ``build`` makes, without memory or time for initial values: for its shapes, or to be given weights."""
    with torch.device("meta"):
        return build()
