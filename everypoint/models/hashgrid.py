"""A hash grid and a small network behind it, in plain PyTorch: the twin of tiny-cuda-nn's NetworkWithInputEncoding.

Same configuration keys, same number of parameters, same grid addresses; float32 instead of half precision, any device.
The parameters lie in one flat tensor as there: the network's matrices, then the tables, level by level.
Source: Mueller et al., Instant Neural Graphics Primitives, SIGGRAPH 2022.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everypoint.errors import ConfigError

ENCODING: dict[str, Any] = {
    "otype": "HashGrid",
    "n_levels": 16,
    "n_features_per_level": 2,
    "log2_hashmap_size": 15,
    "base_resolution": 16,
    "per_level_scale": 1.5,
}
NETWORK: dict[str, Any] = {
    "otype": "FullyFusedMLP",
    "activation": "ReLU",
    "output_activation": "None",
    "n_neurons": 64,
    "n_hidden_layers": 2,
}
MAX_INPUTS = 4
_PRIMES = (1, 2654435761, 805459861, 3674653429)
_BITS32 = 0xFFFFFFFF
_PADDING = 16  # widths of a fully fused network are multiples of this


class Level(NamedTuple):
    """One level of the grid."""

    scale: float  # of the inputs, a float32 value
    resolution: int  # nodes a side
    entries: int  # rows of its table
    hashed: bool


def grid_levels(inputs: int, encoding: Mapping[str, Any]) -> list[Level]:
    """The levels of a hash grid over ``inputs`` dimensions.

    The scale is computed in float32, as there: a last bit decides whether a resolution is rounded up to the next one.
    """
    levels = []
    step = _float32(math.log2(_float32(encoding["per_level_scale"])))
    for index in range(encoding["n_levels"]):
        grown = _float32(2.0 ** _float32(index * step))
        scale = _float32(_float32(grown * encoding["base_resolution"]) - 1.0)
        resolution = math.ceil(scale) + 1
        dense = resolution**inputs
        entries = min(-(-dense // 8) * 8, 2 ** encoding["log2_hashmap_size"])
        levels.append(Level(scale, resolution, entries, hashed=dense > entries))
    return levels


class HashNet(nn.Module):
    """Inputs [N, D] in [0, 1] -> outputs [N, outputs]: hash grid, then a network of ReLU layers without biases.

    Args:
        inputs: D, 1 to 4.
        outputs: width of the result; the last matrix has it rounded up to a multiple of 16, the rest is cut off.
        generator: source of every initial value.
        encoding, network: configurations with tiny-cuda-nn's keys; what they leave out is :data:`ENCODING`'s and
            :data:`NETWORK`'s.

    Raises:
        ConfigError: another kind of encoding, network or activation than HashGrid, MLP and ReLU; too many inputs.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        encoding: Mapping[str, Any] | None = None,
        network: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        encoding, network = complete(inputs, encoding, network)
        self.inputs, self.outputs = inputs, outputs
        self.features = encoding["n_features_per_level"]
        self.levels = grid_levels(inputs, encoding)
        self._shapes = _matrix_shapes(len(self.levels) * self.features, outputs, network)
        matrices = [_xavier(shape, generator) for shape in self._shapes]
        rows = sum(level.entries for level in self.levels)
        table = torch.empty(rows * self.features).uniform_(-1e-4, 1e-4, generator=generator)
        self.params = nn.Parameter(torch.cat([*matrices, table]))
        self._register_levels()

    def _register_levels(self) -> None:
        """Constants of the levels as buffers: no copy to the device in a step."""
        starts = [0, *itertools.accumulate(level.entries for level in self.levels)][:-1]
        powers = [[level.resolution**axis for axis in range(self.inputs)] for level in self.levels]
        constants = {
            "scales": torch.tensor([level.scale for level in self.levels])[:, None],  # [L, 1]
            "starts": torch.tensor(starts)[:, None],  # [L, 1]
            "sizes": torch.tensor([level.entries for level in self.levels])[:, None],  # [L, 1]
            "hashed": torch.tensor([level.hashed for level in self.levels])[:, None],  # [L, 1]
            "strides": torch.tensor([[value & _BITS32 for value in row] for row in powers]),  # [L, D]
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [N, outputs] at ``x`` [N, D] in [0, 1]."""
        *matrices, table = self.params.split(
            [*(rows * columns for rows, columns in self._shapes), sum(self.features * lv.entries for lv in self.levels)]
        )
        hidden = self._encode(x, table.view(-1, self.features))
        hidden = F.pad(hidden, (0, self._shapes[0][1] - hidden.shape[-1]))
        for flat, shape in zip(matrices[:-1], self._shapes[:-1], strict=True):
            hidden = F.linear(hidden, flat.view(shape)).relu_()
        return F.linear(hidden, matrices[-1].view(self._shapes[-1])[: self.outputs])

    def _encode(self, x: Tensor, table: Tensor) -> Tensor:
        """Multilinear look-up in every level: [N, D] -> [N, L * F], level by level."""
        where = x[:, None] * self.scales + 0.5  # [N, L, D]
        low = where.detach().floor()
        inside = where - low
        rows = self._rows(low.long())
        share = torch.ones_like(inside[..., :1])
        for axis in range(self.inputs):
            both = torch.stack([1 - inside[..., axis], inside[..., axis]], -1)  # [N, L, 2]
            share = (share[..., None] * both[..., None, :]).flatten(-2)
        found = table.index_select(0, rows.flatten()).view(*rows.shape, self.features)
        return (share[..., None] * found).sum(-2).flatten(1)

    def _rows(self, low: Tensor) -> Tensor:
        """Rows [N, L, 2^D] of the table for the corners of cells [N, L, D], last axis fastest; in uint32."""
        dense = hashed = low.new_zeros(*low.shape[:-1], 1)
        for axis in range(self.inputs):
            both = torch.stack([low[..., axis], low[..., axis] + 1], -1)[..., None, :]  # [N, L, 1, 2]
            dense = (dense[..., None] + both * self.strides[:, axis, None, None]).flatten(-2)
            hashed = (hashed[..., None] ^ (both * _PRIMES[axis] & _BITS32)).flatten(-2)
        return torch.where(self.hashed, hashed, dense & _BITS32) % self.sizes + self.starts


def complete(
    inputs: int, encoding: Mapping[str, Any] | None, network: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both configurations with what they leave out, checked; raises :class:`ConfigError`."""
    encoding, network = {**ENCODING, **(encoding or {})}, {**NETWORK, **(network or {})}
    for given, known in ((encoding, ENCODING), (network, NETWORK)):
        if unknown := sorted(set(given) - set(known)):
            raise ConfigError(f"hash grid: unknown key {unknown[0]}", "", f"use one of {', '.join(known)}")
        for key in ("otype", "activation", "output_activation"):
            if given.get(key) != known.get(key):
                raise ConfigError(f"hash grid: {key} {given[key]} is not built", "", f"use {known[key]}")
    if not 1 <= inputs <= MAX_INPUTS:
        raise ConfigError(f"hash grid: {inputs} inputs", "", f"use 1 to {MAX_INPUTS}")
    return encoding, network


def _matrix_shapes(width: int, outputs: int, network: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Shapes [out, in] of the network's matrices; input and output padded to multiples of 16."""
    neurons = network["n_neurons"]
    widths = [_padded(width), *[neurons] * network["n_hidden_layers"], _padded(outputs)]
    return [(after, before) for before, after in itertools.pairwise(widths)]


def _padded(width: int) -> int:
    return -(-width // _PADDING) * _PADDING


def _xavier(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    bound = math.sqrt(6 / sum(shape))
    return torch.empty(shape[0] * shape[1]).uniform_(-bound, bound, generator=generator)


def _float32(value: float) -> float:
    """``value`` rounded to float32; the same on every machine, which vectorised float32 functions are not."""
    return torch.tensor(value, dtype=torch.float64).float().item()
