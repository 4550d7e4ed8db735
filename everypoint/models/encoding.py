"""Periodic encoding of coordinates: sines and cosines of doubling frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Periodic(nn.Module):
    """u -> [u, sin(u'), cos(u'), sin(2 u'), cos(2 u'), ...] with u' = pi u or u; no parameters.

    The order is that of NeRF's encoding: the point (if ``identity``), then by frequency all sines, all cosines.

    Args:
        frequencies: number of frequencies 2^0, 2^1, ...
        scale_pi: multiply the angles by pi.
        identity: begin with the coordinates themselves.
    """

    def __init__(self, frequencies: int, *, scale_pi: bool, identity: bool) -> None:
        super().__init__()
        self.scale_pi, self.identity = scale_pi, identity
        powers = torch.tensor([2.0**power for power in range(frequencies)])  # exact in every floating type
        self.register_buffer("powers", powers, persistent=False)

    def width(self, inputs: int) -> int:
        """Numbers that ``inputs`` coordinates become."""
        return inputs * (2 * len(self.powers) + self.identity)

    def forward(self, values: Tensor) -> Tensor:
        """Encode ``values`` [..., D] -> [..., width(D)]."""
        columns = values.reshape(-1, values.shape[-1]).t().contiguous()  # [D, N]: long rows, whatever D is
        angles = columns * math.pi if self.scale_pi else columns
        angles = angles * self.powers[:, None, None]  # [F, D, N]
        waves = torch.stack([angles.sin(), angles.cos()], 1).flatten(0, 2)
        encoded = torch.cat([columns, waves]) if self.identity else waves
        return encoded.t().reshape(*values.shape[:-1], -1)
