"""Weight files of PIPs++."""

from __future__ import annotations

import os

from everypoint.artifacts.weights import check_fit, load_tensors
from everypoint.pips.network import PipsNetwork


def load_network(path: str | os.PathLike[str]) -> PipsNetwork:
    """The network with the weights of a file: a published checkpoint or one of everypoint's.

    The tensors stand under ``model_state_dict`` or alone, with or without the prefix ``module.``. Raises
    :class:`everypoint.errors.AssetError` when the file cannot be read or does not fit.
    """
    state, network = load_tensors(path), PipsNetwork()
    check_fit(state, shapes_of(network), str(path), "PIPs++")
    network.load_state_dict(state)
    return network.eval()


def shapes_of(network: PipsNetwork) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, by key."""
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}
