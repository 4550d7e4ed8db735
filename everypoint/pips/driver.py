"""Points through videos of any length: windows that overlap by one frame and hand on the points' appearance.

A window begins where the one before ended, with its positions; what the points look like is carried on, so that the
appearance in the very first frame counts for ever. Frames are asked for window by window, so memory is bounded by the
window and not by the video.
Source: the test scripts published with Zheng et al., PointOdyssey (ICCV 2023).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everypoint.geometry import index_to_raster, raster_to_index, scale_raster
from everypoint.pips.correlation import Pyramid
from everypoint.pips.encoder import CHANNELS, STRIDE
from everypoint.pips.network import PipsInference, Templates, padded_size

logger = logging.getLogger(__name__)

Load = Callable[[int], np.ndarray]  # frame number -> uint8 [H, W, 3]


class Plan(NamedTuple):
    """How a video is run."""

    window: int = 128  # frames
    iterations: int = 16
    beautify: bool = False


class Features:
    """The features of a video's frames at the network's size, of which the first that fit a limit are kept.

    Points that begin in different frames, and passes back in time, then encode no frame twice; a video that does not
    fit is encoded anew by each pass, in part.

    Args:
        inference: the network.
        load: the frames, of any one size.
        count: how many there are.
        size: (H, W) that they are resized to.
        keep: bytes of features that are kept.
    """

    def __init__(
        self, inference: PipsInference, load: Load, count: int, size: tuple[int, int], keep: int = 2**30
    ) -> None:
        self.inference, self.count, self.size = inference, count, size
        self._load = load
        height, width = padded_size(*size)
        one = CHANNELS * (height // STRIDE) * (width // STRIDE) * inference.dtype.itemsize
        self._room = keep // one
        self._kept: dict[int, Tensor] = {}

    def pyramid(self, numbers: list[int]) -> Pyramid:
        """Features of some frames, in this order."""
        height, width = padded_size(*self.size)
        shape = (len(numbers), CHANNELS, height // STRIDE, width // STRIDE)
        out = torch.empty(
            shape, dtype=self.inference.dtype, device=self.inference.device, memory_format=torch.channels_last
        )
        for place, number in enumerate(numbers):
            out[place] = self._frame(number)
        return Pyramid(out)

    def _frame(self, number: int) -> Tensor:
        if number in self._kept:
            return self._kept[number]
        picture = torch.from_numpy(np.array(self._load(number))).permute(2, 0, 1)[None]
        found = self.inference.features(resize(picture.to(self.inference.device), self.size))[0]
        if len(self._kept) < self._room:
            self._kept[number] = found
        return found


def resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames [S, 3, H, W] at ``size``, bilinear, a raster resize; float32 where anything changes."""
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    return F.interpolate(frames.float(), tuple(size), mode="bilinear", align_corners=False)


def follow(features: Features, numbers: list[int], start: np.ndarray, plan: Plan) -> np.ndarray:
    """Points through some frames of a video.

    Args:
        features: the video.
        numbers: frames in the order of the pass; the points begin in the first.
        start: [N, 2] (x, y) in index pixels of ``features.size``.
        plan: window and iterations.

    Returns:
        float32 [len(numbers), N, 2] px; the first row is ``start``.
    """
    count = len(numbers)
    positions = torch.from_numpy(np.array(start, np.float32))[None].repeat(count, 1, 1)  # [S, N, 2]
    if count < 2 or not len(start):
        return positions.numpy()
    carried: Templates | None = None
    begin = 0
    while True:
        if begin + plan.window > count:
            begin = max(count - plan.window, 0)
        end = min(begin + plan.window, count)
        found = features.inference.track(
            features.pyramid(numbers[begin:end]),
            positions[None, begin:end],
            plan.iterations,
            carried.cut(end - begin) if carried is not None else None,
            beautify=plan.beautify,
        )
        positions[begin:end] = found.predictions[-1, 0].cpu()
        positions[end:] = positions[end - 1]
        if end == count:
            return positions.numpy()
        carried = found.templates
        begin += plan.window - 1


def to_network(xy: np.ndarray, size: tuple[int, int], network: tuple[int, int], *, compat: bool = False) -> np.ndarray:
    """Index points of frames of ``size`` (H, W) in index pixels of the network's input.

    ``compat`` multiplies index coordinates by W' / W as the published scripts do, which is off by up to half of a
    pixel; otherwise it is the resize that the frames go through.
    """
    if compat:
        return scale_raster(xy, size, network)
    return raster_to_index(scale_raster(index_to_raster(xy), size, network))


def from_network(
    xy: np.ndarray, size: tuple[int, int], network: tuple[int, int], *, compat: bool = False
) -> np.ndarray:
    """The way back of :func:`to_network`."""
    return to_network(xy, network, size, compat=compat)
