"""What the depth networks share: the optional package, weight files, the published rule for the input's size."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from everypoint.artifacts.weights import check_fit
from everypoint.assets.fetch import locate
from everypoint.assets.registry import registry
from everypoint.errors import AssetError, MissingPackageError
from everypoint.numerics import replace_linear, replace_pointwise

IN_FOLDER = ("model.safetensors", "pytorch_model.bin")  # names of the weights in a model's folder


def transformers_for(backend: str) -> ModuleType:
    """The package transformers, which takes seconds to import; raises :class:`MissingPackageError` without it."""
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError(
            f"depth.backend {backend} needs the package transformers",
            str(error),
            "run `python -m pip install '.[depth]'` in the folder of everypoint (transformers is under Apache-2.0)",
        ) from error
    return transformers


def weight_file(value: str) -> Path:
    """The file of weights that an option means: an asset's name, a file, or a model's folder.

    Raises :class:`AssetError` when there is none.
    """
    folder = Path(value).expanduser()
    if value in registry() or not folder.is_dir():
        return locate(value)
    found = next((folder / name for name in IN_FOLDER if (folder / name).is_file()), None)
    if found is None:
        raise AssetError(f"the folder {value} holds no weights", f"it has neither {' nor '.join(IN_FOLDER)}")
    return found


def renamed(state: Mapping[str, Tensor], renames: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Tensors float32 by the keys of the installed package.

    ``renames`` are pairs (pattern, replacement), applied one after the other, that lead from the keys of published
    files to the package's; keys that already are the package's pass unchanged.
    """
    found = {}
    for key, tensor in state.items():
        for pattern, replacement in renames:
            key = re.sub(pattern, replacement, key)
        found[key] = tensor.float()
    return found


def fitted(network: nn.Module, state: Mapping[str, Tensor], path: Path, name: str) -> nn.Module:
    """``network`` with the weights of ``state``, for inference; raises :class:`AssetError` unless they fit exactly."""
    check_fit(state, {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}, str(path), name)
    network.load_state_dict(state, assign=True)
    replace_linear(network)
    replace_pointwise(network)
    return network.requires_grad_(False).eval()


def input_size(
    size: tuple[int, int], target: tuple[int, int], multiple: int, rule: Literal["at least", "nearest"]
) -> tuple[int, int]:
    """(H, W) at which a network sees a frame of ``size`` (H, W), by the rules of MiDaS.

    The frame keeps its shape but for rounding to multiples: ``at least``: both sides reach ``target``; ``nearest``: the
    one side is made its target that takes less scaling.
    """
    scales = [wanted / side for side, wanted in zip(size, target, strict=True)]
    if rule == "at least":
        scale = max(scales)
    else:
        scale = scales[1] if abs(1 - scales[1]) < abs(1 - scales[0]) else scales[0]
    found = []
    for side, wanted in zip(size, target, strict=True):
        rounded = max(multiple, round(scale * side / multiple) * multiple)
        if rule == "at least" and rounded < wanted:
            rounded = math.ceil(scale * side / multiple) * multiple
        found.append(rounded)
    return found[0], found[1]


def to_unit(frame: np.ndarray, device: torch.device) -> Tensor:
    """A frame uint8 [H, W, 3] as float32 [1, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(frame)).to(device).permute(2, 0, 1)[None].float() / 255
