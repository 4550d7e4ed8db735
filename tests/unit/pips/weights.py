"""Formula-made weights: the ones under which the reference vectors were made."""

from __future__ import annotations

import functools
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from everypoint.artifacts import atomic
from everypoint.pips.network import PipsNetwork


def formula(key: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor, from its key and shape alone."""
    r = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        made = 0.1 * r + ("norm" in key and key.endswith("weight"))
    else:
        made = r / np.sqrt(np.prod(shape[1:])) * (0.1 if key == "delta_block.dense.weight" else 1)
    return torch.from_numpy(np.asarray(made, np.float32))


@functools.cache
def formula_network() -> PipsNetwork:
    """The network with those weights; not to be changed."""
    network = PipsNetwork()
    network.load_state_dict({key: formula(key, tuple(value.shape)) for key, value in network.state_dict().items()})
    return network.eval()


def pips_weights(path: Path) -> Path:
    """A checkpoint file as the published training leaves it, with those weights."""
    state = {"model_state_dict": formula_network().state_dict(), "optimizer_state_dict": {}}
    atomic.write_with(path, lambda file: torch.save(state, file))
    return path
