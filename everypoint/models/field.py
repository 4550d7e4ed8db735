"""The canonical field: colour and opacity of every point of the canonical space, the same for all frames."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from everypoint.config.options import FieldOptions
from everypoint.models.dense import by_rays
from everypoint.models.encoding import Periodic
from everypoint.models.gabor import GaborNet
from everypoint.models.rays import alpha_of, contract
from everypoint.models.tcnn import hash_net

GABOR_ALPHA = 3.0  # shape of the distribution that the widths of its Gabor filters are drawn from


class Sampled(NamedTuple):
    """What the field says of points."""

    colour: Tensor  # [..., 3], 0..1
    alpha: Tensor  # [...], opacity of a sample, 0..1


class CanonicalField(nn.Module):
    """F: canonical point -> colour and opacity.

    All of space is contracted into the ball of radius 2 first, and the networks see the contracted point u: the
    GaborNet u itself or its periodic encoding (u, then sines and cosines of 2^k u, k = 0..9, without pi: 63 numbers;
    with 11 frequencies and without u: 66), the hash grid (u + 2) / 4. OmniMotion's field, a GaborNet 3 -> 512 (4
    filters) -> 4, has 806,404 parameters.

    Args:
        options: the network.
        generator: source of every initial value.
    """

    BLOCKS = ("forward",)  # what :mod:`everypoint.models.compiled` compiles

    def __init__(self, options: FieldOptions, generator: torch.Generator) -> None:
        super().__init__()
        self.kind = options.network
        self.encode = _encoding(options.encoding)
        if self.kind == "hash":
            self.net = hash_net(3, 4, generator, tiny_cuda_nn=options.tiny_cuda_nn)
        else:
            width = 3 if self.encode is None else self.encode.width(3)
            encoded = self.encode is not None
            self.net = GaborNet(width, options.hidden, options.layers, 4, GABOR_ALPHA, generator, encoded=encoded)

    def forward(self, points: Tensor) -> Sampled:
        """Colour and opacity at canonical points [..., 3]."""
        points = contract(points)
        if self.kind == "hash":
            raw = self.net((points / 4 + 0.5).reshape(-1, 3)).reshape(*points.shape[:-1], 4)
        else:
            raw = by_rays(self._network, points.reshape(-1, 1, 3)).reshape(*points.shape[:-1], 4)
        return Sampled(raw[..., :3].sigmoid(), alpha_of(raw[..., 3]))

    def _network(self, points: Tensor) -> Tensor:
        return self.net(points if self.encode is None else self.encode(points))


def _encoding(name: str) -> Periodic | None:
    if name == "periodic-63":
        return Periodic(10, scale_pi=False, identity=True)
    return Periodic(11, scale_pi=False, identity=False) if name == "periodic-66" else None
