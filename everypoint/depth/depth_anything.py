"""Depth Anything V2 (small, Apache-2.0): relative inverse depth of single frames.

The network gives disparity up to an unknown scale and offset of each frame: zero is the farthest it knows of, larger is
nearer. Here one scale and one offset serve the whole video, so that frames stay comparable as far as the network's
frames are: with n the 98th percentile of all disparities d of the video,

    depth = 1 / (a d + b),    b = 1 / 50,    a = (1 - b) / n.

The unit is thus the distance of the nearest two percent, and what the network calls infinitely far lies at 50 of them.
Without the offset the noise of small disparities would spread the background over all distances.

Larger models than "small" are not free for all uses and have other shapes; they are refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everypoint.artifacts.folder import sha256_of
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import DepthOptions
from everypoint.depth import depth_anything_weights
from everypoint.depth.base import Allocate
from everypoint.depth.network import fitted, input_size, to_unit, transformers_for, weight_file
from everypoint.numerics import full_precision

PATCH = 14
SHORT_SIDE = 518  # of the input, as in training: 37 patches
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NEAR, FAR = 98.0, 50.0  # percentile of the disparities at depth 1; depth of disparity 0
SAMPLES = 1_000_000  # disparities that the percentile is taken from

BACKBONE = {  # DINOv2 ViT-S/14; the head reads after a quarter, a half, three quarters and all of its layers
    "hidden_size": 384,
    "num_attention_heads": 6,
    "num_hidden_layers": 12,
    "out_indices": [3, 6, 9, 12],
}
HEAD = {"neck_hidden_sizes": [48, 96, 192, 384], "fusion_hidden_size": 64, "head_hidden_size": 32}


def network() -> nn.Module:
    """The network with random weights."""
    transformers = transformers_for("depth-anything")
    backbone = transformers.Dinov2Config(
        **BACKBONE, patch_size=PATCH, image_size=SHORT_SIDE, apply_layernorm=True, reshape_hidden_states=False
    )
    sizes = {"patch_size": PATCH, "reassemble_hidden_size": BACKBONE["hidden_size"], **HEAD}
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, **sizes, depth_estimation_type="relative", max_depth=1
    )
    return transformers.DepthAnythingForDepthEstimation(config)


def load_network(path: Path) -> nn.Module:
    """The network with the weights of a file; raises :class:`everypoint.errors.AssetError` unless they fit."""
    return fitted(network(), depth_anything_weights.read(path), path, "Depth Anything V2 small")


def to_input(frame: np.ndarray, device: torch.device) -> Tensor:
    """A frame uint8 [H, W, 3] as the network wants it, float32 [1, 3, h, w]: bicubic, both sides at least 518."""
    image = to_unit(frame, device)
    size = input_size(frame.shape[:2], (SHORT_SIDE, SHORT_SIDE), PATCH, "at least")
    image = F.interpolate(image, size=size, mode="bicubic", align_corners=False)
    mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (image - mean) / std


def nearness(disparity: np.ndarray) -> float:
    """The 98th percentile of disparities [T, h, w], from evenly spaced ones where there are many."""
    values = disparity.reshape(-1)
    return float(np.percentile(values[:: max(1, values.size // SAMPLES)].astype(np.float32), NEAR))


def to_depth(disparity: np.ndarray, near: float) -> np.ndarray:
    """Relative depth float16 of disparities >= 0, 1 at ``near`` and 50 at zero."""
    b = 1 / FAR
    a = (1 - b) / near if near > 0 else 0.0
    return (1 / (a * disparity.astype(np.float32) + b)).astype(np.float16)


class DepthAnything:
    """Depth Anything V2 small, a frame at a time."""

    def __init__(self, options: DepthOptions, device: torch.device | str = "cpu") -> None:
        self._options = options
        self._device = torch.device(device)
        self._near: float | None = None

    @functools.cached_property
    def weights(self) -> Path:
        """The weight file; an asset is fetched when it is first needed."""
        return weight_file(self._options.weights_or_default)

    @functools.cached_property
    def network(self) -> nn.Module:
        """The network on its device, made on first use."""
        transformers_for("depth-anything")  # before a download that would be in vain
        return load_network(self.weights).to(self._device)

    def describe(self) -> dict[str, Any]:
        scale = {"near": self._near, "near_percentile": NEAR, "far": FAR}
        return {"backend": "depth-anything", "unit": "relative", "weights": sha256_of(self.weights), **scale}

    @torch.inference_mode()
    def depth(
        self,
        frames: np.ndarray,
        meta: VideoMeta,
        place: Path | None = None,
        step: Callable[[], None] | None = None,
        allocate: Allocate = np.empty,
    ) -> np.ndarray:
        """Relative depth float16 [T, h, w] on the grid of the network's input (the shorter side 518).

        See :class:`everypoint.depth.base.DepthBackend`.
        """
        size = input_size(frames.shape[1:3], (SHORT_SIDE, SHORT_SIDE), PATCH, "at least")
        disparity = allocate((len(frames), *size), np.float16)
        with full_precision():
            for t, frame in enumerate(frames):
                found = self.network(to_input(frame, self._device)).predicted_depth[0]
                disparity[t] = found.clamp(0, 6e4).cpu().numpy()
                if step is not None:
                    step()
        self._near = nearness(disparity)
        for t in range(len(disparity)):  # in place: a long video need not be held twice
            disparity[t] = to_depth(disparity[t], self._near)
        return disparity


BACKEND = DepthAnything
