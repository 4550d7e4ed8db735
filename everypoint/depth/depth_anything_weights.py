"""What the keys of Depth Anything V2's weight files are called: in its authors' files, and in those for transformers.

The installed package has names of its own, to which both are translated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from everypoint.artifacts.weights import load_tensors
from everypoint.depth.network import renamed

PUBLISHED = (  # from the file for transformers
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
)
AUTHORS = (  # from depth_anything_v2_vits.pth
    (r"^pretrained\.(cls_token|mask_token)$", r"backbone.embeddings.\1"),
    (r"^pretrained\.pos_embed$", "backbone.embeddings.position_embeddings"),
    (r"^pretrained\.patch_embed\.proj\.", "backbone.embeddings.patch_embeddings.projection."),
    (r"^pretrained\.norm\.", "backbone.layernorm."),
    (r"^pretrained\.blocks\.", "backbone.encoder.layer."),
    (r"^(backbone\..*)\.ls([12])\.gamma$", r"\1.layer_scale\2.lambda1"),
    (r"^(backbone\..*)\.attn\.proj\.", r"\1.attention.o_proj."),
    (r"^depth_head\.projects\.(\d)\.", r"neck.reassemble_stage.layers.\1.projection."),
    (r"^depth_head\.resize_layers\.(\d)\.", r"neck.reassemble_stage.layers.\1.resize."),
    *((rf"^depth_head\.scratch\.layer{n + 1}_rn\.", f"neck.convs.{n}.") for n in range(4)),
    *((rf"^depth_head\.scratch\.refinenet{4 - n}\.", f"neck.fusion_stage.layers.{n}.") for n in range(4)),
    (r"^(neck\..*)\.out_conv\.", r"\1.projection."),
    (r"\.resConfUnit([12])\.conv([12])\.", r".residual_layer\1.convolution\2."),
    (r"^depth_head\.scratch\.output_conv1\.", "head.conv1."),
    (r"^depth_head\.scratch\.output_conv2\.0\.", "head.conv2."),
    (r"^depth_head\.scratch\.output_conv2\.2\.", "head.conv3."),
)


def read(path: Path) -> dict[str, Tensor]:
    """Tensors float32 of a weight file of either layout, or of the package's own, by the package's keys."""
    return renamed(_split(load_tensors(path)), (*PUBLISHED, *AUTHORS))


def _split(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the authors' joint matrices of queries, keys and values [3 C, ...] taken apart."""
    parts = {}
    for key, tensor in state.items():
        joint = re.fullmatch(r"(pretrained\.blocks\.\d+)\.attn\.qkv\.(weight|bias)", key)
        if joint and len(tensor) % 3 == 0:
            for name, part in zip("qkv", tensor.chunk(3), strict=True):
                parts[f"{joint[1]}.attention.{name}_proj.{joint[2]}"] = part
        else:
            parts[key] = tensor
    return parts
