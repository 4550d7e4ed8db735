"""RAFT as a flow back-end: weights by name, padding and resizing, each frame encoded once, bounded memory.

Source: Teed and Deng, RAFT, ECCV 2020; the network is torchvision's, run by :mod:`everypoint.correspond.raft_network`.
"""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everypoint.artifacts.folder import sha256_of
from everypoint.assets.fetch import locate
from everypoint.config.options import FlowOptions
from everypoint.correspond.raft_network import FrameCode, RaftNetwork
from everypoint.correspond.raft_weights import load_weights
from everypoint.correspond.resolution import flow_size
from everypoint.numerics import full_precision

logger = logging.getLogger(__name__)

SMALLEST_SIDE = 128  # four levels of correlation need 16 cells of 8 pixels
CACHE_BYTES = 2**30  # encoded frames that a session keeps


def to_network_range(frame: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """A frame uint8 [H, W, 3] RGB as float32 [3, H, W] in [-1, 1]."""
    image = torch.from_numpy(np.array(frame)).to(device)  # a copy: memory-mapped frames are read-only
    return image.permute(2, 0, 1).float() / 127.5 - 1


def padding(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Pixels (left, right, top, bottom) that bring (h, w) to multiples of 8, at least 128, split evenly."""
    extra = [max(SMALLEST_SIDE, -(-side // 8) * 8) - side for side in size]
    top, left = (pixels // 2 for pixels in extra)
    return left, extra[1] - left, top, extra[0] - top


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Raster resize of [C, H, W], low-pass filtered where it shrinks."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def resize_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """Flow [B, 2, h, w] of resized frames as the flow [B, 2, H, W] of the frames themselves, in their pixels.

    The field is resized bilinearly by the raster rule, without the low-pass filter that would mix both sides of a
    motion boundary; the vectors are multiplied by the ratio of the sizes.
    """
    h, w = flow.shape[-2:]
    if (h, w) == tuple(size):
        return flow
    ratio = flow.new_tensor([size[1] / w, size[0] / h])[:, None, None]
    return F.interpolate(flow, size=size, mode="bilinear", align_corners=False) * ratio


class RaftSession:
    """Flows of one video. Features of frames are kept (least recently used out first) within ``cache_bytes``."""

    def __init__(
        self,
        network: RaftNetwork,
        frames: np.ndarray,
        options: FlowOptions,
        device: torch.device,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._network, self._frames, self._options, self._device = network, frames, options, device
        self._size = tuple(frames.shape[1:3])
        self._flow_size = flow_size(self._size, options)
        self._padding = padding(self._flow_size)
        self._cache: OrderedDict[int, Tensor] = OrderedDict()
        self._cache_bytes = cache_bytes
        self.encoded = 0  # feature maps made so far
        logger.info("RAFT at %d x %d: about %.1f GiB a call", *self._flow_size[::-1], self.call_bytes() / 2**30)

    def call_bytes(self) -> int:
        """Estimated memory of one network call: correlation pyramid and its windows, recurrent state, upsampling."""
        left, right, top, bottom = self._padding
        cells = (self._flow_size[0] + top + bottom) * (self._flow_size[1] + left + right) // 64
        a_cell = 4 * cells * 4 // 3 + 4 * 324 * 2 + 4 * 1300 + 4 * 64 * 9 * 6
        return self._options.batch * cells * a_cell

    @torch.inference_mode()
    def flows(self, source: int, targets: Sequence[int]) -> np.ndarray:
        """Flows float32 [n, H, W, 2] in pixels; see :class:`everypoint.correspond.base.FlowSession`.

        Targets enter the network in their order, ``options.batch`` at a time, so that the composition of a batch, and
        with it the last bit of the result, depends on the arguments only.
        """
        result = np.empty((len(targets), *self._size, 2), np.float32)
        if not len(targets):
            return result
        batch = self._options.batch
        with full_precision():
            context = self._network.encode_context(self._image(source))
            code = FrameCode(self._features(source), context)
            for start in range(0, len(targets), batch):
                chunk = [FrameCode(self._features(j), None) for j in targets[start : start + batch]]
                flow = self._network.pair_flows(code, chunk, self._options.iterations)[1]  # [B, 2, padded]
                result[start : start + batch] = self._restore(flow).permute(0, 2, 3, 1).cpu().numpy()
        return result

    def _image(self, index: int) -> Tensor:
        image = resize_image(to_network_range(self._frames[index], self._device), self._flow_size)
        return F.pad(image[None], self._padding, mode="replicate")[0]

    def _features(self, index: int) -> Tensor:
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        features = self._network.encode_features(self._image(index))
        self.encoded += 1
        self._cache[index] = features
        room = max(1, self._cache_bytes // (features.numel() * features.element_size()))
        while len(self._cache) > room:
            self._cache.popitem(last=False)
        return features

    def _restore(self, flow: Tensor) -> Tensor:
        """Padded flow [B, 2, ph, pw] to the flow of the frames [B, 2, H, W]."""
        left, _, top, _ = self._padding
        h, w = self._flow_size
        return resize_flow(flow[..., top : top + h, left : left + w], self._size)


class RaftBackend:
    """RAFT, large or small as the weight file says."""

    def __init__(self, options: FlowOptions, device: torch.device | str = "cpu") -> None:
        self._options = options
        self._device = torch.device(device)

    @functools.cached_property
    def weights(self) -> Path:
        """The weight file; an asset is fetched when it is first needed."""
        return locate(self._options.weights)

    def describe(self) -> dict[str, Any]:
        chosen = self._options.model_dump(include={"iterations", "resolution", "upsample_below", "batch"})
        return {"backend": "raft", "weights": sha256_of(self.weights), **chosen}

    @functools.cached_property
    def network(self) -> RaftNetwork:
        """The network on its device, made on first use."""
        state, small = load_weights(self.weights)
        return RaftNetwork(state, small=small).to(self._device, memory_format=torch.channels_last)

    def open(self, frames: np.ndarray) -> RaftSession:
        return RaftSession(self.network, frames, self._options, self._device)


BACKEND = RaftBackend
