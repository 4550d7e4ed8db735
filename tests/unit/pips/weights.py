"""Formula-made weights: the ones under which the reference vectors were made."""

from __future__ import annotations

import functools
import zlib

import numpy as np
import torch
from torch import Tensor

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
