"""ZoeDepth (MIT): metric depth of single frames, as OmniTrackFast uses it.

A frame is enlarged by reflection, because the network is wrong at borders, and seen twice, as it is and mirrored; both
answers are averaged. The weights of K (driving, to 80 m) are the asset; those of N (indoors, to 10 m) are recognised
by their shapes. The two-headed NK is another network and is refused.

Resizing keeps the corners of frames where they are (the raster rule), on the way in and out. The published code maps
centres of corner pixels on each other on the way in alone, which moves depths by up to half a pixel.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everypoint.artifacts.folder import sha256_of
from everypoint.artifacts.video import VideoMeta
from everypoint.artifacts.weights import load_tensors
from everypoint.config.options import DepthOptions
from everypoint.depth.base import Allocate
from everypoint.depth.network import fitted, input_size, renamed, to_unit, transformers_for, weight_file
from everypoint.geometry import pixel_grid, sample_resized
from everypoint.numerics import full_precision

MULTIPLE = 32
# The kind of bin centres: size of the input (H, W) that the frame comes near to, and largest depth in metres. K's
# centres are shares of its largest depth; N's are free.
KINDS = {"normed": ((384, 768), 80.0), "softplus": ((384, 512), 10.0)}
LEAST_DEPTH = 1e-3

BACKBONE = {  # BEiT-L/16, 384 pixels
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "intermediate_size": 4096,
    "image_size": 384,
    "out_features": ["stage6", "stage12", "stage18", "stage24"],
}
HEAD = {"neck_hidden_sizes": [256, 512, 1024, 1024], "num_attractors": [16, 8, 4, 1], "bin_embedding_dim": 128}
BINS = 64

RENAMES = (  # from the keys of the published file
    (r"^backbone\.embeddings\.", "backbone.beit.embeddings."),
    (r"^backbone\.encoder\.layer\.", "backbone.beit.layers."),
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.attention\.attention\.relative_position_bias\.", ".relative_position_bias."),
    (r"^(backbone\..*)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"^(backbone\..*)\.output\.dense\.", r"\1.mlp.fc2."),
)
TABLES = r"\.relative_position_index$|\.k_idx$|\.k_minus_1$"  # constants that some files hold


def network(kind: str = "normed") -> nn.Module:
    """The network with random weights; ``kind`` is a key of KINDS."""
    transformers = transformers_for("zoedepth")
    backbone = transformers.BeitConfig(
        **BACKBONE, patch_size=16, use_relative_position_bias=True, reshape_hidden_states=False
    )
    bins = [{"n_bins": BINS, "min_depth": LEAST_DEPTH, "max_depth": KINDS[kind][1]}]
    config = transformers.ZoeDepthConfig(
        backbone_config=backbone, **HEAD, bin_centers_type=kind, bin_configurations=bins
    )
    return transformers.ZoeDepthForDepthEstimation(config)


def kind_of(state: Mapping[str, Tensor]) -> str:
    """``softplus`` (N) or ``normed`` (K), whose attractors have two numbers each."""
    weight = state.get("metric_head.attractors.0.conv2.weight")
    return "softplus" if weight is not None and len(weight) == HEAD["num_attractors"][0] else "normed"


def load_network(path: Path) -> tuple[nn.Module, str]:
    """(the network with the weights of a file, their kind).

    Raises :class:`everypoint.errors.AssetError` unless they fit.
    """
    transformers_for("zoedepth")
    state = renamed(load_tensors(path), RENAMES)
    state = {key: tensor for key, tensor in state.items() if not re.search(TABLES, key)}
    kind = kind_of(state)
    return fitted(network(kind), state, path, "ZoeDepth K or N"), kind


def padding(side: int) -> int:
    """By how many pixels a side is continued at each end."""
    return min(int(3 * math.sqrt(side / 2)), side - 1)


def cut_out(depth: Tensor, frame_size: tuple[int, int], pads: tuple[int, int]) -> Tensor:
    """The part [h', w'] of a map [h, w] over an enlarged frame that covers the frame itself, in cells of like size."""
    (height, width), (above, left) = frame_size, pads
    whole = (height + 2 * above, width + 2 * left)
    h, w = (max(1, round(n * side / full)) for n, side, full in zip(depth.shape, frame_size, whole, strict=True))
    cells = depth.new_tensor([width / w, height / h])
    points = (pixel_grid(h, w, device=depth.device) + 0.5) * cells - 0.5 + depth.new_tensor([left, above])
    return sample_resized(depth[None], points, whole)[..., 0]


class ZoeDepth:
    """ZoeDepth K or N, a frame and its mirror image at a time."""

    def __init__(self, options: DepthOptions, device: torch.device | str = "cpu") -> None:
        self._options = options
        self._device = torch.device(device)

    @functools.cached_property
    def weights(self) -> Path:
        """The weight file; an asset is fetched when it is first needed."""
        return weight_file(self._options.weights_or_default)

    @functools.cached_property
    def loaded(self) -> tuple[nn.Module, str]:
        """(the network on its device, the kind of its weights), made on first use."""
        transformers_for("zoedepth")  # before a download that would be in vain
        made, kind = load_network(self.weights)
        return made.to(self._device), kind

    def describe(self) -> dict[str, Any]:
        scale = {"kind": self.loaded[1], "max_depth": KINDS[self.loaded[1]][1]}
        return {"backend": "zoedepth", "unit": "metre", "weights": sha256_of(self.weights), **scale}

    @torch.inference_mode()
    def depth(
        self,
        frames: np.ndarray,
        meta: VideoMeta,
        place: Path | None = None,
        step: Callable[[], None] | None = None,
        allocate: Allocate = np.empty,
    ) -> np.ndarray:
        """Depth float16 [T, h, w] in metres, on about the grid of the network's input.

        See :class:`everypoint.depth.base.DepthBackend`.
        """
        maps: np.ndarray | None = None
        with full_precision():
            for t, frame in enumerate(frames):
                found = self._depth_of(frame).half().cpu().numpy()
                if maps is None:
                    maps = allocate((len(frames), *found.shape), np.float16)
                maps[t] = found
                if step is not None:
                    step()
        return maps

    def _depth_of(self, frame: np.ndarray) -> Tensor:
        """Depth float32 [h, w] of a frame uint8 [H, W, 3]."""
        made, kind = self.loaded
        above, left = (padding(side) for side in frame.shape[:2])
        image = F.pad(to_unit(frame, self._device), (left, left, above, above), mode="reflect")
        size = input_size(tuple(image.shape[-2:]), KINDS[kind][0], MULTIPLE, "nearest")
        image = F.interpolate(image, size=size, mode="bilinear", align_corners=False) * 2 - 1
        seen, mirrored = made(torch.cat([image, image.flip(-1)])).predicted_depth  # [h, w] each
        return cut_out((seen + mirrored.flip(-1)) / 2, frame.shape[:2], (above, left))


BACKEND = ZoeDepth
