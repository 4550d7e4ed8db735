"""RAFT as a flow back-end: weights by name, padding and resizing, each frame encoded once, bounded memory.

OmniMotion's recipe is 20 iterations with ``warm_start``: the flow from i to j starts from the low-resolution flow from
i to the target before, outwards from i, in each direction of time. Both live on the grid of i, so nothing is warped.
From a target to the next frame it is taken as it is, as published. Over a longer step it is scaled by the ratio of the
distances to the source, as if points kept their velocity. Development videos at gap 16 with the gaps 1, 2, 4, 8, 16 and
12 iterations, shorter side 320, share of pixels with a forward-backward error below 1 px: car-roundabout 25.9 % cold,
39.5 % as it is, 42.0 % scaled; horsejump-high 49.0, 47.3 and 47.9 %.

Source: Teed and Deng, RAFT, ECCV 2020; its parts are run by :mod:`everypoint.correspond.raft_network`.
"""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everypoint.artifacts.folder import sha256_of
from everypoint.assets.fetch import locate
from everypoint.config.options import FlowOptions
from everypoint.correspond.raft_network import Context, FrameCode, LookupPlan, RaftNetwork
from everypoint.correspond.raft_weights import load_weights
from everypoint.correspond.readback import encode, one_ahead, to_host
from everypoint.correspond.resolution import flow_size
from everypoint.correspond.sweeps import Pair, calls
from everypoint.errors import ResourceError
from everypoint.numerics import full_precision

logger = logging.getLogger(__name__)

SMALLEST_SIDE = 128  # four levels of correlation need 16 cells of 8 pixels
CACHE_BYTES = 2**30  # encoded frames that a session keeps
HALVINGS = 3  # of the pairs of a call that does not fit into memory
USED = {  # options that touch the flows, were it in the last bit
    *("iterations", "warm_start", "precision", "resolution", "upsample_below"),
    *("batch", "lookup", "volume_gib", "compile"),
}


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
    """Flows of one video.

    Memory, besides the weights: features of frames (least recently used out first, within ``cache_bytes``); one network
    call (``call_bytes``); the results of the sources of one group, as int16 (``group_bytes``: 100 frames at 480p,
    exhaustive, 0.16 GB a source, so 1.3 GB with a batch of 8); their contexts and last flows.
    """

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
        left, right, top, bottom = self._padding
        self._padded_size = self._flow_size[0] + top + bottom, self._flow_size[1] + left + right
        self._cache: OrderedDict[int, Tensor] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._contexts: dict[int, Context] = {}
        self._last: dict[tuple[int, int], Tensor] = {}  # (source, target) -> low-resolution flow, of open chains
        self._at_once = options.batch  # pairs that go through the network together: less where they did not fit
        self.encoded = 0  # feature maps made so far
        width, height = self._flow_size[::-1]
        estimate = self.call_bytes() / 2**30
        logger.info("RAFT at %d x %d, %d pairs a call: about %.2f GiB a call", width, height, self.batch, estimate)

    @property
    def batch(self) -> int:
        """Pairs a network call."""
        return self._options.batch

    @property
    def group_size(self) -> int:
        """Sources computed together: enough of them to fill the calls with chains of different sources."""
        return self._options.batch

    def call_bytes(self, pairs: int | None = None) -> int:
        """Estimated memory of one network call with the flows that it gives, or of encoding, where that is more.

        ``pairs``: how many go through the network in it; the batch when None.
        """
        h, w = self._padded_size
        pairs = self.batch if pairs is None else pairs
        given = pairs * self._size[0] * self._size[1] * 2 * 10  # float32, scaled for the encoding, int16
        return max(self._network.call_bytes(pairs, h // 8, w // 8) + given, self._network.encode_bytes(h, w))

    def group_bytes(self, plan: Mapping[int, Sequence[int]]) -> int:
        """Bytes of the results of a group {source: targets}, all of which may be held at its end."""
        return sum(map(len, plan.values())) * self._size[0] * self._size[1] * 2 * 2

    def flows(self, source: int, targets: Sequence[int]) -> np.ndarray:
        """Flows float32 [n, H, W, 2] in pixels; see :class:`everypoint.correspond.base.FlowSession`."""
        result = np.empty((len(targets), *self._size, 2), np.float32)
        for call, flows in self._computed({source: targets}):
            result[[pair.row for pair in call]] = flows.cpu().numpy()
        self._close(source)
        return result

    def group_flows(
        self, plan: Mapping[int, Sequence[int]], advance: Callable[[int], None] = lambda pairs: None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """See :class:`everypoint.correspond.base.GroupedFlows`. Flows are encoded where they are computed."""
        left = {source: len(targets) for source, targets in plan.items()}
        results: dict[int, np.ndarray] = {}
        encoded = ((call, to_host(encode(flows))) for call, flows in self._computed(plan))
        for call, host in one_ahead(encoded):
            for pair, flow in zip(call, host.get(), strict=True):
                if pair.source not in results:
                    results[pair.source] = np.empty((len(plan[pair.source]), *self._size, 2), np.int16)
                results[pair.source][pair.row] = flow
                left[pair.source] -= 1
            advance(len(call))
            for source in sorted({pair.source for pair in call if not left[pair.source]}):
                self._close(source)
                yield source, results.pop(source)

    def _computed(self, plan: Mapping[int, Sequence[int]]) -> Iterator[tuple[list[Pair], Tensor]]:
        """The calls for a group of sources, each with its flows float32 [B, H, W, 2] on the device."""
        for call in calls(plan, self.batch, warm=self._options.warm_start):
            yield call, self._call(call)

    @torch.inference_mode()
    def _call(self, call: list[Pair]) -> Tensor:
        """One network call; keeps the low-resolution flows that warm starts need."""
        with full_precision():
            # Compiled code wants one shape: the last pair is repeated up to a whole batch.
            padded = call + call[-1:] * (self.batch - len(call)) if self._options.compile else call
            sources = {pair.source: FrameCode(self._features(pair.source), self._context(pair.source)) for pair in call}
            targets = {pair.target: FrameCode(self._features(pair.target), None) for pair in call}
            low, flow = self._fitting(
                [sources[pair.source] for pair in padded],
                [targets[pair.target] for pair in padded],
                torch.cat([self._start(pair) for pair in padded]) if self._options.warm_start else None,
            )
            for pair, last in zip(call, low[:, None], strict=False):
                if self._options.warm_start:
                    self._last.pop((pair.source, pair.before), None)
                    self._last[pair.source, pair.target] = last
            return self._restore(flow[: len(call)]).permute(0, 2, 3, 1)

    def _fitting(
        self, sources: Sequence[FrameCode], targets: Sequence[FrameCode], start: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """``pair_flows`` of all pairs; while memory runs out, of half as many at a time, ``HALVINGS`` times.

        A number that fits is kept for the calls that follow. Raises :class:`ResourceError` when none does.
        """
        for last in (False,) * HALVINGS + (True,):
            size = min(self._at_once, len(sources))
            try:
                return self._in_parts(sources, targets, start, size)
            except torch.OutOfMemoryError as error:
                why = str(error).partition(". ")[0]
                logger.debug("a call of %d pairs", size, exc_info=error)
            # From here on nothing holds the failed call's tensors, as its traceback did.
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            if last or size == 1:
                break
            self._at_once = (size + 1) // 2
            logger.warning("%d pairs a call do not fit into memory (%s): %d from now on", size, why, self._at_once)
        what = f"{size} pairs" if size > 1 else "one pair"
        raise ResourceError(
            f"RAFT does not fit into the memory of {self._device} with {what} a call",
            f"that takes about {self.call_bytes(size) / 2**30:.2f} GiB besides weights and encoded frames ({why})",
            "lower flow.batch, flow.volume_gib, flow.resolution or frames.max_side, or free memory on the device",
        )

    def _in_parts(
        self, sources: Sequence[FrameCode], targets: Sequence[FrameCode], start: Tensor | None, size: int
    ) -> tuple[Tensor, Tensor]:
        """``pair_flows`` of all pairs, at most ``size`` in one call of the network."""
        parts = [slice(first, first + size) for first in range(0, len(sources), size)]
        found = [
            self._network.pair_flows(
                sources[part], targets[part], self._options.iterations, None if start is None else start[part]
            )
            for part in parts
        ]
        if len(found) == 1:
            return found[0]
        low, flow = zip(*found, strict=True)
        return torch.cat(low), torch.cat(flow)

    def _start(self, pair: Pair) -> Tensor:
        """The flow [1, 2, h, w] with which a pair begins under a warm start."""
        if pair.before is None:
            h, w = self._padded_size
            return torch.zeros(1, 2, h // 8, w // 8, device=self._device)
        last = self._last[pair.source, pair.before]
        if abs(pair.target - pair.before) == 1:
            return last
        return last * ((pair.target - pair.source) / (pair.before - pair.source))

    def _context(self, source: int) -> Context:
        if source not in self._contexts:
            self._contexts[source] = self._network.encode_context(self._image(source))
        return self._contexts[source]

    def _close(self, source: int) -> None:
        """Forget what was kept of a source until its last pair."""
        self._contexts.pop(source, None)
        self._last = {key: flow for key, flow in self._last.items() if key[0] != source}

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
        return {"backend": "raft", "weights": sha256_of(self.weights), **self._options.model_dump(include=USED)}

    @functools.cached_property
    def network(self) -> RaftNetwork:
        """The network on its device, made on first use."""
        state, small = load_weights(self.weights)
        options = self._options
        if options.precision == "float16" and self._device.type == "cpu":
            logger.warning("float16 is many times slower than float32 on most CPUs; they are quick in bfloat16")
        return RaftNetwork(
            state,
            small=small,
            precision=options.precision,
            lookup=LookupPlan(options.lookup, options.volume_gib * 2**30),
            compiled=options.compile,
        ).to(self._device)

    def open(self, frames: np.ndarray) -> RaftSession:
        return RaftSession(self.network, frames, self._options, self._device)


BACKEND = RaftBackend
