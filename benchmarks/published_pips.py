"""PIPs++'s forward pass as published, transcribed step by step: what everypoint's is measured and tested against.

Whole correlation volumes at four levels for each of three templates, grid sampling, one-dimensional convolutions over
[N, C, S], all points and frames at once. It works on the weights of a :class:`everypoint.pips.network.PipsNetwork` in
their own precision (float64 makes an oracle). Never imported by the package.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS, RADIUS = 4, 3


def features(fnet: nn.Module, rgb: Tensor) -> Tensor:
    """Encoder on frames [S, 3, H, W] in 0..255."""
    x = 2 * (rgb.to(fnet.conv1.weight.dtype) / 255.0) - 1
    _, _, height, width = x.shape
    x = F.relu(F.instance_norm(F.conv2d(x, fnet.conv1.weight, fnet.conv1.bias, 2, 3)))
    stages = []
    for number in (1, 2, 3, 4):
        for block in getattr(fnet, f"layer{number}"):
            stride = block.conv1.stride[0]
            y = F.relu(F.instance_norm(F.conv2d(x, block.conv1.weight, block.conv1.bias, stride, 1)))
            y = F.relu(F.instance_norm(F.conv2d(y, block.conv2.weight, block.conv2.bias, 1, 1)))
            if stride != 1:
                down = block.downsample[0]
                x = F.instance_norm(F.conv2d(x, down.weight, down.bias, stride))
            x = F.relu(x + y)
        stages.append(x)
    size = (height // 8, width // 8)
    x = torch.cat([F.interpolate(stage, size, mode="bilinear", align_corners=True) for stage in stages], 1)
    x = F.relu(F.instance_norm(F.conv2d(x, fnet.conv2.weight, fnet.conv2.bias, 1, 1)))
    return F.conv2d(x, fnet.conv3.weight, fnet.conv3.bias)


def pyramid(fmaps: Tensor) -> list[Tensor]:
    """Four levels [S, C, h, w]."""
    levels = [fmaps]
    for _ in range(LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2, stride=2))
    return levels


def volumes(levels: list[Tensor], template: Tensor) -> list[Tensor]:
    """Correlations of a template [S, N, C] with every cell: [S, N, h, w] at each level."""
    made = []
    for maps in levels:
        length, channels, h, w = maps.shape
        made.append((torch.matmul(template, maps.view(length, channels, h * w)) / channels**0.5).view(length, -1, h, w))
    return made


def look_up(corrs: list[Tensor], coords: Tensor) -> Tensor:
    """Windows [S, N, 196] around coords [S, N, 2]."""
    length, points, _ = coords.shape
    steps = torch.arange(-RADIUS, RADIUS + 1, dtype=coords.dtype, device=coords.device)
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)  # the slow index moves x
    found = []
    for level, corr in enumerate(corrs):
        h, w = corr.shape[-2:]
        where = coords.reshape(length * points, 1, 1, 2) / 2**level + offsets
        size = torch.tensor([w - 1, h - 1], dtype=coords.dtype, device=coords.device)
        picked = F.grid_sample(corr.reshape(length * points, 1, h, w), 2 * where / size - 1, align_corners=True)
        found.append(picked.view(length, points, -1))
    return torch.cat(found, -1)


def sample(fmaps: Tensor, coords: Tensor) -> Tensor:
    """Features [S, N, C] at coords [S, N, 2], indices clamped to the border."""
    _, _, h, w = fmaps.shape
    x, y = coords[..., 0], coords[..., 1]
    x0, y0 = x.floor(), y.floor()
    total = 0
    for dx in (0, 1):
        for dy in (0, 1):
            weight = (1 - (x - (x0 + dx)).abs()) * (1 - (y - (y0 + dy)).abs())
            column, row = (x0 + dx).clamp(0, w - 1).long(), (y0 + dy).clamp(0, h - 1).long()
            index = (row * w + column)[:, None].expand(-1, fmaps.shape[1], -1)
            total = total + weight[..., None] * fmaps.flatten(2).gather(2, index).transpose(1, 2)
    return total


def codes(motion: Tensor) -> Tensor:
    """[..., 2] to [..., 130]."""
    frequency = 10000.0 ** (-torch.arange(32, dtype=motion.dtype, device=motion.device) / 31)
    x, y = motion[..., :1] * frequency, motion[..., 1:] * frequency
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos(), motion], -1)


def delta(block: nn.Module, x: Tensor) -> Tensor:
    """[N, S, 718] to [N, S, 2]."""

    def conv(layer: nn.Module, y: Tensor) -> Tensor:
        return F.conv1d(F.pad(y, (1, 1)), layer.conv.weight, layer.conv.bias)

    x = F.relu(conv(block.first_block_conv, x.permute(0, 2, 1)))
    for number, each in enumerate(block.basicblock_list):
        y = x if number == 0 else F.relu(F.instance_norm(x))
        y = F.relu(F.instance_norm(conv(each.conv1, y)))
        y = conv(each.conv2, y)
        more = y.shape[1] - x.shape[1]
        if more:
            x = F.pad(x.transpose(-1, -2), (more // 2, more - more // 2)).transpose(-1, -2)
        x = x + y
    return F.linear(F.relu(x).permute(0, 2, 1), block.dense.weight, block.dense.bias)


@torch.no_grad()
def forward(network: nn.Module, rgb: Tensor, start: Tensor, iterations: int) -> Tensor:
    """Predictions [K + 1, S, N, 2] px of frames [S, 3, H, W] and starts [S, N, 2] px."""
    return iterate(network, features(network.fnet, rgb), start, iterations)


@torch.no_grad()
def iterate(network: nn.Module, fmaps: Tensor, start: Tensor, iterations: int) -> Tensor:
    """The same of features [S, C, h, w]."""
    coords = start.to(fmaps.dtype) / 8
    given = coords[:1]
    levels = pyramid(fmaps)
    first = sample(fmaps[:1], coords[:1]).expand(len(coords), -1, -1)
    first_volumes = volumes(levels, first)
    second, fourth = first, first
    time = torch.arange(len(coords), device=coords.device)
    found = []
    for iteration in range(iterations):
        coords = coords.detach()
        if iteration:
            now = sample(fmaps, coords)
            second, fourth = now[(time - 2).clamp(min=0)], now[(time - 4).clamp(min=0)]
        each = [look_up(first_volumes, coords)]
        each += [look_up(volumes(levels, template), coords) for template in (second, fourth)]
        motion = coords[1:] - coords[:-1]
        motion = torch.cat([motion, motion[-1:]])
        rows = torch.cat([*each, codes(motion)], -1).permute(1, 0, 2)
        coords = coords + delta(network.delta_block, rows).permute(1, 0, 2)
        found.append(coords * 8)
        coords = torch.cat([given, coords[1:]])
    return torch.stack([*found, coords * 8])
