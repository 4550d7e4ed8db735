"""Features of RAFT's own encoder: what its correlation volume is made of, at 1/8 of the frame.

They tell whether two points look alike to RAFT. They are no semantic features: light, blur and large rotations change
them more than those of a vision transformer. Their map needs no weights beyond RAFT's.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everypoint.artifacts.folder import sha256_of
from everypoint.artifacts.weights import check_fit, load_tensors, rename
from everypoint.assets.fetch import locate
from everypoint.config.options import FeatureOptions
from everypoint.networks.raft_encoder import STRIDE as CELL
from everypoint.networks.raft_encoder import encoder_names, feature_encoder, shapes_of, without_values
from everypoint.numerics import full_precision, replace_pointwise

SMALLEST_SIDE = 64  # pixels of the encoded image; instance normalisation over fewer cells says little


def load_encoder(path: str | os.PathLike[str]) -> nn.Module:
    """RAFT's feature encoder, in evaluation mode, with the weights of a file of either layout.

    Raises :class:`everypoint.errors.AssetError` when the file cannot be read or does not hold the encoder.
    """
    state = load_tensors(path)
    theirs, ours = (_part(state, prefix) for prefix in ("fnet.", "feature_encoder."))
    small = any(key.startswith(("layer1.0.conv3", "layer1.0.convnormrelu3")) for key in (*theirs, *ours))
    found = rename(theirs, dict(encoder_names(small=small))) if theirs else ours
    encoder = without_values(lambda: feature_encoder(small=small))
    check_fit(found, shapes_of(encoder), str(path), "RAFT's feature encoder")
    encoder.load_state_dict(found, assign=True)
    encoder.float()  # whatever the file holds
    replace_pointwise(encoder)
    return encoder.requires_grad_(False).eval()


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


class RaftEncoder:
    """The feature encoder of RAFT, large (256 channels) or small (128) as the weight file says."""

    def __init__(self, options: FeatureOptions, device: torch.device | str = "cpu") -> None:
        self._options = options
        self._device = torch.device(device)

    @functools.cached_property
    def weights(self) -> Path:
        """The weight file; an asset is fetched when it is first needed."""
        return locate(self._options.weights_or_default)

    @functools.cached_property
    def encoder(self) -> nn.Module:
        """The network on its device, made on first use."""
        return load_encoder(self.weights).to(self._device, memory_format=torch.channels_last)

    def describe(self) -> dict[str, Any]:
        return {"backend": "raft-encoder", "weights": sha256_of(self.weights)}

    @torch.inference_mode()
    def features(
        self,
        frames: np.ndarray,
        step: Callable[[], None] | None = None,
        allocate: Callable[[tuple[int, ...], Any], np.ndarray] = np.empty,
    ) -> np.ndarray:
        """Feature maps float16 [T, h, w, C]; see :class:`everypoint.features.base.FeatureBackend`.

        Frames are resized (not padded) to the next multiples of 8, so that the cells tile the frame.
        """
        size = tuple(max(SMALLEST_SIDE, -(-side // CELL) * CELL) for side in frames.shape[1:3])
        channels = self.encoder.conv.out_channels
        maps = allocate((len(frames), size[0] // CELL, size[1] // CELL, channels), np.float16)
        with full_precision():
            for t, frame in enumerate(frames):
                features = self.encoder(self._image(frame, size))[0]  # [C, h, w]
                maps[t] = F.normalize(features, dim=0).permute(1, 2, 0).cpu().numpy()
                if step is not None:
                    step()
        return maps

    def _image(self, frame: np.ndarray, size: tuple[int, int]) -> Tensor:
        """A frame uint8 [H, W, 3] as [1, 3, h, w] in [-1, 1] at the size of the encoded image (raster resize)."""
        image = torch.from_numpy(np.array(frame)).to(self._device).permute(2, 0, 1)[None].float() / 127.5 - 1
        if tuple(image.shape[-2:]) != size:
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
        return image.contiguous(memory_format=torch.channels_last)


BACKEND = RaftEncoder
