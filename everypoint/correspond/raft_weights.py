"""RAFT weight files: what their keys are called, and whether they fit.

Two layouts exist: the authors' (``fnet``, ``cnet``, ``update_block``; saved from DataParallel with the prefix
``module.``) and torchvision's. The parts here are named as torchvision's, so the authors' names are translated by a
table of module names; what is left over or lacking is an error.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from everypoint.artifacts.weights import check_fit, load_tensors, rename
from everypoint.correspond.raft_parts import RaftParts
from everypoint.networks.raft_encoder import encoder_names, shapes_of, without_values


def module_names(*, small: bool) -> Iterator[tuple[str, str | None]]:
    """Pairs (name of a module in the authors' files, its name in torchvision's network; None: a duplicate to drop)."""
    norms = 4 if small else 3
    for theirs, ours in (("fnet", "feature_encoder"), ("cnet", "context_encoder")):
        for module, name in encoder_names(small=small):
            yield f"{theirs}.{module}", f"{ours}.{name}"
        for block in (f"layer{layer}.{index}" for layer in (1, 2, 3) for index in (0, 1)):
            yield f"{theirs}.{block}.norm{norms}", None  # the same tensors as downsample.1
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
    """Shape of every tensor of the network, by key."""
    return shapes_of(without_values(lambda: RaftParts(small=small)))


def to_torchvision(state: Mapping[str, Tensor], name: str = "the weights") -> tuple[dict[str, Tensor], bool]:
    """Weights of either layout (without ``module.``) as (state of torchvision's network, whether it is the small one).

    Raises :class:`everypoint.errors.AssetError` when a key or a shape does not fit; ``name`` is used in its sentence.
    """
    if any(key.startswith("fnet.") for key in state):
        small = "update_block.gru.convz.weight" in state
        state = rename(state, dict(module_names(small=small)))
    else:
        small = "feature_encoder.layer1.0.convnormrelu3.0.weight" in state
    expected = expected_shapes(small=small)
    counters = {key for key in expected if key.endswith("num_batches_tracked")}  # unused in inference, may be lacking
    complete = dict(state) | {key: torch.zeros((), dtype=torch.long) for key in counters - state.keys()}
    check_fit(complete, expected, name, "RAFT")
    return complete, small


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], bool]:
    """Read a weight file of either layout: (state of torchvision's network, whether it is the small one)."""
    return to_torchvision(load_tensors(path), str(path))
