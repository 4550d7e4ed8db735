"""Weights for tests: formula-made ones under the authors' keys, and the published ones where they are cached."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from everypoint.assets.fetch import fetch
from everypoint.correspond.raft_network import RaftNetwork
from everypoint.correspond.raft_weights import expected_shapes, module_names
from everypoint.errors import EverypointError


def princeton_shapes(small: bool) -> dict[str, tuple[int, ...]]:
    """Keys (without the prefix ``module.``) and shapes of the authors' files; duplicates under ``downsample.1``."""
    theirs = {ours: name for name, ours in module_names(small=small) if ours is not None}
    shapes = {}
    for key, shape in expected_shapes(small=small).items():
        module, _, parameter = key.rpartition(".")
        shapes[f"{theirs[module]}.{parameter}"] = shape
    return shapes


def formula_weights(small: bool) -> dict[str, Tensor]:
    """The weights under which the reference vectors were made."""
    return {
        key: torch.from_numpy(np.asarray(_formula(key, shape), np.float32))
        for key, shape in princeton_shapes(small).items()
        if not key.endswith("num_batches_tracked")
    }


def _formula(key: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(key.encode()))
    r = random.standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return r / np.sqrt(np.prod(shape[1:]))
    if key.endswith("running_var"):
        return 1 + 0.1 * np.abs(r)
    scale = key.endswith(".weight") and ("norm" in key or "downsample.1" in key)
    return 0.1 * r + (1 if scale else 0)


def random_network(small: bool, seed: int = 0) -> tuple[RaftNetwork, dict[str, Tensor]]:
    """Our network and the state that torchvision's own was filled with."""
    from torchvision.models.optical_flow import raft_large, raft_small

    torch.manual_seed(seed)
    state = (raft_small if small else raft_large)(weights=None).state_dict()
    return RaftNetwork(state, small=small), state


def things() -> Path:
    """The published raft-things, or a skip that says that it is not cached."""
    try:
        return fetch("raft-things", offline=True)
    except EverypointError as error:
        pytest.skip(f"raft-things is not cached: {error}")
