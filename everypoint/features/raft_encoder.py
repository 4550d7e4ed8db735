"""Features of RAFT's own encoder: what its correlation volume is made of, at 1/8 of the frame.

They tell whether two points look alike to RAFT. They are no semantic features: light, blur and large rotations change
them more than those of a vision transformer. Their map needs no weights beyond RAFT's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from everypoint.artifacts.folder import sha256_of
from everypoint.assets.fetch import locate
from everypoint.config.options import FeatureOptions
from everypoint.correspond.raft import SMALLEST_SIDE, full_precision, resize_image, to_network_range
from everypoint.correspond.raft_network import RaftNetwork
from everypoint.correspond.raft_weights import load_weights

CELL = 8  # pixels of the encoded image a cell


class RaftEncoder:
    """The feature encoder of RAFT, large (256 channels) or small (128) as the weight file says."""

    def __init__(self, options: FeatureOptions, device: torch.device | str = "cpu") -> None:
        self._options = options
        self._device = torch.device(device)

    @functools.cached_property
    def weights(self) -> Path:
        """The weight file; an asset is fetched when it is first needed."""
        return locate(self._options.weights)

    @functools.cached_property
    def network(self) -> RaftNetwork:
        """The network on its device, made on first use."""
        state, small = load_weights(self.weights)
        return RaftNetwork(state, small=small).to(self._device, memory_format=torch.channels_last)

    def describe(self) -> dict[str, Any]:
        return {"backend": "raft-encoder", "weights": sha256_of(self.weights)}

    @torch.inference_mode()
    def features(self, frames: np.ndarray, step: Callable[[], None] | None = None) -> np.ndarray:
        """Feature maps float16 [T, h, w, C]; see :class:`everypoint.features.base.FeatureBackend`.

        Frames are resized (not padded) to the next multiples of 8, at least 128, so that the cells tile the frame.
        """
        size = tuple(max(SMALLEST_SIDE, -(-side // CELL) * CELL) for side in frames.shape[1:3])
        channels = self.network.feature_encoder.conv.out_channels
        maps = np.empty((len(frames), size[0] // CELL, size[1] // CELL, channels), np.float16)
        with full_precision():
            for t, frame in enumerate(frames):
                image = resize_image(to_network_range(frame, self._device), size)
                features = F.normalize(self.network.encode_features(image), dim=0)  # [C, h, w]
                maps[t] = features.permute(1, 2, 0).cpu().numpy()
                if step is not None:
                    step()
        return maps


BACKEND = RaftEncoder
