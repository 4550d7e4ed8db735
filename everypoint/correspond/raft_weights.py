"""RAFT weight files: what their keys are called, and whether they fit.

Two layouts exist: the authors' (``fnet``, ``cnet``, ``update_block``; saved from DataParallel with the prefix
``module.``) and torchvision's. The network here holds torchvision's modules, so the authors' names are translated by a
table of module names; what is left over or lacking is an error.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from everypoint.errors import AssetError

_WRAPPERS = ("model", "state_dict", "model_state_dict")


def module_names(*, small: bool) -> Iterator[tuple[str, str | None]]:
    """Pairs (name of a module in the authors' files, its name in torchvision's network; None: a duplicate to drop)."""
    convolutions = (1, 2, 3) if small else (1, 2)
    for theirs, ours in (("fnet", "feature_encoder"), ("cnet", "context_encoder")):
        yield f"{theirs}.conv1", f"{ours}.convnormrelu.0"
        yield f"{theirs}.norm1", f"{ours}.convnormrelu.1"
        yield f"{theirs}.conv2", f"{ours}.conv"
        for block in (f"layer{layer}.{index}" for layer in (1, 2, 3) for index in (0, 1)):
            for k in convolutions:
                yield f"{theirs}.{block}.conv{k}", f"{ours}.{block}.convnormrelu{k}.0"
                yield f"{theirs}.{block}.norm{k}", f"{ours}.{block}.convnormrelu{k}.1"
            for part in (0, 1):
                yield f"{theirs}.{block}.downsample.{part}", f"{ours}.{block}.downsample.{part}"
            yield f"{theirs}.{block}.norm{len(convolutions) + 1}", None  # the same tensors as downsample.1
    for branch, name in (("convc", "convcorr"), ("convf", "convflow")):
        for k in (1, 2):
            yield f"update_block.encoder.{branch}{k}", f"update_block.motion_encoder.{name}{k}.0"
    yield "update_block.encoder.conv", "update_block.motion_encoder.conv.0"
    for gate in "zrq":
        for k in ("",) if small else ("1", "2"):
            yield f"update_block.gru.conv{gate}{k}", f"update_block.recurrent_block.convgru{k or 1}.conv{gate}"
    for k in (1, 2):
        yield f"update_block.flow_head.conv{k}", f"update_block.flow_head.conv{k}"
    yield "update_block.mask.0", "mask_predictor.convrelu.0"
    yield "update_block.mask.2", "mask_predictor.conv"


@functools.cache
def expected_shapes(*, small: bool) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of torchvision's network, by key."""
    from torchvision.models.optical_flow import raft_large, raft_small

    with torch.device("meta"):
        net = (raft_small if small else raft_large)(weights=None)
    return {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}


def to_torchvision(state: dict[str, Tensor], name: str = "the weights") -> tuple[dict[str, Tensor], bool]:
    """Weights of either layout as (state of torchvision's network, whether it is the small one).

    Raises :class:`AssetError` when a key or a shape does not fit; ``name`` is used in its sentence.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith("fnet.") for key in state):
        small = "update_block.gru.convz.weight" in state
        state = _translate(state, small)
    else:
        small = "feature_encoder.layer1.0.convnormrelu3.0.weight" in state
    expected = expected_shapes(small=small)
    counters = {key for key in expected if key.endswith("num_batches_tracked")}  # unused in inference, may be lacking
    state |= {key: torch.zeros((), dtype=torch.long) for key in counters - state.keys()}
    _check(state, expected, name)
    return state, small


def _translate(state: dict[str, Tensor], small: bool) -> dict[str, Tensor]:
    """The authors' keys as torchvision's; unknown keys stay as they are, to be named by the check."""
    names = dict(module_names(small=small))
    translated = {}
    for key, tensor in state.items():
        module, _, parameter = key.rpartition(".")
        target = names.get(module, module)
        if target is not None:
            translated[f"{target}.{parameter}"] = tensor
    return translated


def _check(state: dict[str, Tensor], expected: dict[str, tuple[int, ...]], name: str) -> None:
    shapes = {key: tuple(getattr(value, "shape", ())) for key, value in state.items()}
    problems = {
        "lacks": [key for key in expected if key not in shapes],
        "has unknown": [key for key in shapes if key not in expected],
        "has the wrong shape in": [key for key in expected if key in shapes and shapes[key] != expected[key]],
    }
    found = [f"it {verb} {_some(keys)}" for verb, keys in problems.items() if keys]
    if found:
        raise AssetError(f"{name} does not fit RAFT", " and ".join(found), "use a RAFT weight file")


def _some(keys: list[str]) -> str:
    return keys[0] + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a weight file, by key, without running anything the file holds; wrappers are taken off.

    Raises :class:`AssetError` for a file that cannot be read as tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a foreign, hostile or damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AssetError(f"{path} is not a weight file that can be read", reason, "fetch it again") from error
    return _unwrap(content, path)


def _unwrap(content: Any, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    while isinstance(content, dict):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise AssetError(f"{path} is not a weight file that can be read", "it does not hold tensors by name")
    return content


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], bool]:
    """Read a weight file of either layout: (state of torchvision's network, whether it is the small one)."""
    return to_torchvision(read_state(path), str(path))
