"""The published vision transformers of DINO and DINOv2: what they are made of, and their weight files in any layout.

A file has the authors' keys (``.pth``, as downloaded or as the teacher of a training checkpoint) or those of timm
(``.safetensors`` of its hub). Without registers the two agree; with registers timm has added the class token's
position to the class token and keeps a table of the patches' positions alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from everypoint.artifacts.weights import check_fit, load_tensors
from everypoint.assets.fetch import is_offline, locate
from everypoint.errors import AssetError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

BLOCKS = 12
MLP_RATIO = 4
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DINO_STD = (0.228, 0.224, 0.225)  # so in the authors' script for video, which OmniMotion follows
HUB_FILE = "model.safetensors"


@dataclass(frozen=True)
class Architecture:
    """One published network: 12 pre-norm blocks with heads of 64 channels (Caron et al. 2021, Oquab et al. 2023)."""

    timm: str  # its name in timm, with the tag of the published weights
    patch: int  # pixels a side of a patch
    side: int  # patches a side of the images it was trained on: that of the table of positions
    width: int = 384
    registers: int = 0
    layer_scale: bool = True  # a learned factor a channel on both branches of a block: DINOv2
    std: tuple[float, float, float] = IMAGENET_STD
    short_side: int = 420  # pixels of the shorter side, by OmniMotion's rule

    @property
    def group(self) -> int:
        """Pixels of which the longer side is a multiple by OmniMotion's rule: 64, or 56 with patches of 14."""
        return 64 // self.patch * self.patch

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches: the class and the registers."""
        return 1 + self.registers


_DINO = {"layer_scale": False, "std": DINO_STD, "short_side": 480}
ARCHITECTURES = {
    "dino-vits16": Architecture("vit_small_patch16_224.dino", patch=16, side=14, **_DINO),
    "dino-vits8": Architecture("vit_small_patch8_224.dino", patch=8, side=28, **_DINO),
    "dinov2-vits14": Architecture("vit_small_patch14_dinov2.lvd142m", patch=14, side=37),
    "dinov2-vits14-reg": Architecture("vit_small_patch14_reg4_dinov2.lvd142m", patch=14, side=37, registers=4),
    "dinov2-vitb14": Architecture("vit_base_patch14_dinov2.lvd142m", patch=14, side=37, width=768),
    "dinov2-vitb14-reg": Architecture(
        "vit_base_patch14_reg4_dinov2.lvd142m", patch=14, side=37, width=768, registers=4
    ),
}


def expected_shapes(model: str, *, authors: bool) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a model's weights, in the authors' layout (without DINOv2's ``mask_token``) or in timm's."""
    net = ARCHITECTURES[model]
    width = net.width
    positions = net.side**2 + (1 if authors or not net.registers else 0)
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, positions, width)}
    if net.registers:
        shapes["register_tokens" if authors else "reg_token"] = (1, net.registers, width)
    shapes["patch_embed.proj.weight"] = (width, 3, net.patch, net.patch)
    shapes["patch_embed.proj.bias"] = (width,)
    linear = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (MLP_RATIO * width, width),
        "mlp.fc2": (width, MLP_RATIO * width),
    }
    for block in (f"blocks.{index}" for index in range(BLOCKS)):
        for name, (rows, columns) in linear.items():
            shapes |= {f"{block}.{name}.weight": (rows, columns), f"{block}.{name}.bias": (rows,)}
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
        if net.layer_scale:
            shapes |= {f"{block}.{scale}.gamma": (width,) for scale in ("ls1", "ls2")}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def load_vit(path: str | os.PathLike[str], model: str) -> dict[str, Tensor]:
    """The weights of a file of either layout, float32, in timm's layout and with the table of positions as trained.

    Raises :class:`AssetError` when the file cannot be read or is not of ``model``; where it is of another model that
    we know, the error says so.
    """
    state = _backbone(load_tensors(path))
    state.pop("mask_token", None)  # of the training task alone
    authors = "register_tokens" in state
    try:
        check_fit(state, expected_shapes(model, authors=authors), str(path), model)
    except AssetError as error:
        others = [other for other in ARCHITECTURES if _fits(state, other, authors)]
        cure = f"set features.model to {others[0]}, whose weights these are" if others else error.cure
        raise AssetError(error.what, error.why, cure) from error
    if authors:
        table = state["pos_embed"]
        state["cls_token"] = state["cls_token"] + table[:, :1]
        state["pos_embed"] = table[:, 1:]
        state["reg_token"] = state.pop("register_tokens")
    return {key: tensor.float() for key, tensor in state.items()}


def _backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network alone, where a teacher's state holds it beside the projection head of the training."""
    inner = {key.removeprefix("backbone."): tensor for key, tensor in state.items() if key.startswith("backbone.")}
    return inner or dict(state)


def _fits(state: Mapping[str, Tensor], model: str, authors: bool) -> bool:
    return {key: tuple(tensor.shape) for key, tensor in state.items()} == expected_shapes(model, authors=authors)


def position_table(table: Tensor, model: str, grid: tuple[int, int]) -> Tensor:
    """The table of positions of timm's layout, [1, side^2 (+ 1), C], for a grid of (h, w) patches: [1, h w (+ 1), C].

    As the authors resize it, bicubic: by the factor (h + 0.1) / side and without antialiasing; the networks with
    registers to the size itself and with antialiasing. timm does the latter for all of them, which moves the position
    of a patch by up to 0.1 patches at the far edge and, with fewer patches than trained on, blurs the table.
    """
    import torch
    import torch.nn.functional as F

    net = ARCHITECTURES[model]
    if grid == (net.side, net.side):
        return table
    prefix, cells = table[:, : -(net.side**2)], table[:, -(net.side**2) :]
    cells = cells.reshape(1, net.side, net.side, -1).permute(0, 3, 1, 2)
    if net.registers:
        cells = F.interpolate(cells, size=grid, mode="bicubic", antialias=True)
    else:
        factors = tuple((patches + 0.1) / net.side for patches in grid)
        cells = F.interpolate(cells, scale_factor=factors, mode="bicubic")
    return torch.cat([prefix, cells.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def weight_file(weights: str, model: str) -> Path:
    """The file of the option ``features.weights``: a path, an asset's name, ``timm`` or ``timm@REVISION``.

    (A file of that name is written ``./timm``.) Raises :class:`AssetError` when it cannot be had.
    """
    source, _, revision = weights.partition("@")
    if source == "timm":
        return _hub_file(ARCHITECTURES[model].timm, revision or None)
    return locate(weights)


def _hub_file(name: str, revision: str | None) -> Path:
    """A model's file of timm's hub, in the cache of the hub's own client; a revision is a commit, tag or branch."""
    from huggingface_hub import hf_hub_download, is_offline_mode
    from huggingface_hub.errors import LocalEntryNotFoundError

    label = f"{name} of timm's hub" + (f" at revision {revision}" if revision else "")
    offline = is_offline() or is_offline_mode()
    try:
        path = Path(hf_hub_download(f"timm/{name}", HUB_FILE, revision=revision, local_files_only=offline))
    except LocalEntryNotFoundError as error:
        why = "it is not in the cache and connections are forbidden" if offline else "the hub cannot be reached"
        cure = "fetch it once where there is a network, or set features.weights to a file of the weights"
        raise AssetError(f"{label} cannot be had", why, cure) from error
    except Exception as error:  # the client's own kinds, and those of what it speaks to the network with
        reason = " ".join(str(error).split()).split(". ")[0] or type(error).__name__
        raise AssetError(f"{label} cannot be had", reason, "check the revision and the network") from error
    commit = path.parent.name  # of the cache: snapshots/<commit>/<file>
    logger.info("%s: commit %s, licence Apache-2.0; `weights: timm@%s` pins it", label, commit, commit)
    return path
