"""XFeat's weights and images for tests: formula-made ones, and the published weights where they are cached."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from everypoint.assets.fetch import fetch
from everypoint.correspond.xfeat_network import XFeatNetwork
from everypoint.errors import EverypointError


def formula_weights() -> dict[str, Tensor]:
    """Weights by key, made of the key's name: those under which the reference numbers were made."""
    return {key: _formula(key, tensor) for key, tensor in XFeatNetwork().state_dict().items()}


def _formula(key: str, like: Tensor) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros_like(like)
    random = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(like.shape))
    if like.ndim == 4:
        random *= np.sqrt(2 / np.prod(like.shape[1:]))
    elif key.endswith("running_var"):
        random = 1 + 0.1 * np.abs(random)
    else:
        random *= 0.1
    return torch.from_numpy(random.astype(np.float32))


def formula_file(folder: Path) -> Path:
    """A weight file with formula-made weights."""
    torch.save(formula_weights(), folder / "xfeat.pt")
    return folder / "xfeat.pt"


def formula_image(height: int, width: int, top: int = 0, left: int = 0) -> np.ndarray:
    """A window uint8 [height, width, 3] into an endless picture of boxes on boxes."""
    y, x = np.mgrid[top : top + height, left : left + width]
    grey = np.zeros((height, width), np.int64)
    for k, side in enumerate((37, 23, 13, 8)):
        box = (y // side) * 73856093 ^ (x // side) * 19349663 ^ (k + 1) * 83492791
        grey += (box * 2654435761 >> 16 & 255) * (4 - k)
    return np.stack([grey // 10, (grey // 10 + 10) % 256, grey // 12], axis=-1).astype(np.uint8)


def published() -> Path:
    """The published weights, or a skip that says that they are not cached."""
    try:
        return fetch("xfeat", offline=True)
    except EverypointError as error:
        pytest.skip(f"xfeat is not cached: {error}")
