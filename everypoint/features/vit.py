"""Features of a vision transformer trained without labels: DINO (Caron et al. 2021) or DINOv2 (Oquab et al. 2023).

The tokens of the patches after the last block and the final norm, as OmniMotion and OmniTrackFast use them, through
timm's network. They look alike for alike parts of things, also under another light or from another side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everypoint.artifacts.folder import sha256_of
from everypoint.config.options import FeatureOptions
from everypoint.errors import ConfigError
from everypoint.features.vit_weights import (
    ARCHITECTURES,
    IMAGENET_MEAN,
    MLP_RATIO,
    Architecture,
    load_vit,
    position_table,
    weight_file,
)
from everypoint.numerics import full_precision, replace_linear

CUDA_BYTES = 2 * 2**30  # activations of a call on a GPU; the attention of torch holds no token-by-token matrix


def encoded_size(frame_size: tuple[int, int], network: Architecture, rule: str, short_side: int) -> tuple[int, int]:
    """Size (H, W) at which a frame is encoded: whole patches, by the rule of OmniMotion or of OmniTrackFast.

    OmniMotion's takes the height of a square frame for its shorter side, so that 256x256 becomes 480x448.
    """
    height, width = frame_size
    if rule == "omnitrackfast":
        return max(height // network.patch, 1) * network.patch, max(width // network.patch, 1) * network.patch
    long_side = short_side * max(frame_size) // min(frame_size) // network.group * network.group
    return (long_side, short_side) if height > width else (short_side, long_side)


def build_network(state: Mapping[str, Tensor], model: str, size: tuple[int, int]) -> nn.Module:
    """The network of timm for images of ``size`` (whole patches), with the weights that :func:`load_vit` gives."""
    import timm

    network = ARCHITECTURES[model]
    grid = size[0] // network.patch, size[1] // network.patch
    with torch.device("meta"):  # no time for random weights that are thrown away
        vit = timm.create_model(network.timm, pretrained=False, num_classes=0, img_size=size)
    positions = position_table(state["pos_embed"], model, grid)
    vit.load_state_dict({**state, "pos_embed": positions}, assign=True)
    replace_linear(vit)
    return vit.requires_grad_(False).eval()


class Vit:
    """One of the six published networks; DINO's are normalised as in its authors' script for video (std .228)."""

    def __init__(self, options: FeatureOptions, device: torch.device | str = "cpu") -> None:
        self._options = options
        self._device = torch.device(device)
        self._network = ARCHITECTURES[options.model]
        self._short_side = options.short_side or self._network.short_side
        if options.resize == "omnimotion":
            _check_short_side(self._short_side, options.model)

    @functools.cached_property
    def weights(self) -> Path:
        """The weight file; an asset is fetched when it is first needed."""
        return weight_file(self._options.weights_or_default, self._options.model)

    def describe(self) -> dict[str, Any]:
        resize = {"resize": self._options.resize}
        if self._options.resize == "omnimotion":
            resize["short_side"] = self._short_side
        return {"backend": "vit", "model": self._options.model, "weights": sha256_of(self.weights)} | resize

    @torch.inference_mode()
    def features(
        self,
        frames: np.ndarray,
        step: Callable[[], None] | None = None,
        allocate: Callable[[tuple[int, ...], Any], np.ndarray] = np.empty,
    ) -> np.ndarray:
        """Feature maps float16 [T, h, w, C]; see :class:`everypoint.features.base.FeatureBackend`.

        Frames are resized (not cut) to whole patches, so that the cells tile the frame.
        """
        size = encoded_size(frames.shape[1:3], self._network, self._options.resize, self._short_side)
        h, w = size[0] // self._network.patch, size[1] // self._network.patch
        vit = build_network(load_vit(self.weights, self._options.model), self._options.model, size).to(self._device)
        maps = allocate((len(frames), h, w, self._network.width), np.float16)
        together = self._together(h * w)
        with full_precision():
            for start in range(0, len(frames), together):
                images = self._images(frames[start : start + together], size)
                tokens = vit.forward_features(images)[:, self._network.prefix :]  # [B, h w, C]
                tokens = F.normalize(tokens, dim=-1).half().cpu().numpy()
                maps[start : start + len(tokens)] = tokens.reshape(-1, h, w, self._network.width)
                for _ in range(len(tokens) if step is not None else 0):
                    step()
        return maps

    def _images(self, frames: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Frames uint8 [B, H, W, 3] as normalised images [B, 3, h, w].

        Resized in uint8 and without antialiasing as the published code does with OpenCV, by OpenCV's variant that
        gives the same bits on every machine: at most one grey level from its faster one.
        """
        resized = np.stack(
            [
                np.ascontiguousarray(frame)
                if frame.shape[:2] == size
                else cv2.resize(np.ascontiguousarray(frame), size[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
                for frame in frames
            ]
        )
        images = torch.from_numpy(resized).to(self._device).permute(0, 3, 1, 2).float() / 255
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, self._network.std))
        return (images - mean) / std

    def _together(self, patches: int) -> int:
        """Frames a call: one on the CPU, where more gain nothing, and what :data:`CUDA_BYTES` hold on a GPU."""
        if self._device.type == "cpu":
            return 1
        per_token = self._network.width * (2 * MLP_RATIO + 8) * 4  # hidden layer twice; qkv, attention, two residuals
        return max(1, CUDA_BYTES // ((patches + self._network.prefix) * per_token))


def _check_short_side(short_side: int, model: str) -> None:
    network = ARCHITECTURES[model]
    if short_side % network.patch or short_side < network.group:
        raise ConfigError(
            f"features.short_side {short_side} does not suit {model}",
            f"it must be a multiple of its patches' {network.patch} pixels, and at least {network.group}",
            f"the nearest is {max(network.group, round(short_side / network.patch) * network.patch)}",
        )


BACKEND = Vit
