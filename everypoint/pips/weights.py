"""Weight files of PIPs++."""

from __future__ import annotations

import functools
import os

import torch

from everypoint.artifacts.weights import check_fit, load_tensors
from everypoint.pips.network import PipsNetwork


@functools.cache
def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the published network, by key."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in PipsNetwork().state_dict().items()}


def load_network(path: str | os.PathLike[str]) -> PipsNetwork:
    """The network with the weights of a file: a published checkpoint or one of everypoint's.

    The tensors stand under ``model_state_dict`` or alone, with or without the prefix ``module.``. Raises
    :class:`everypoint.errors.AssetError` when the file cannot be read or does not fit.
    """
    state = load_tensors(path)
    check_fit(state, expected_shapes(), str(path), "PIPs++")
    network = PipsNetwork()
    network.load_state_dict(state)
    return network.eval()
