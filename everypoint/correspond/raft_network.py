"""RAFT inference for many pairs: each frame encoded once, correlations held or not, one upsampling.

The usual forward encodes both images of every pair, evaluates the context half of the recurrent convolutions and the
upsampling mask at each of the iterations, and returns upsampled flows only. For all pairs of a video that is about half
of the work for nothing. :class:`RaftNetwork` runs the network's parts (:mod:`everypoint.correspond.raft_parts`) so that

* a frame is encoded once (its context only when it is a source) and ``pair_flows`` called once a batch of pairs, whose
  sources may differ,
* the convolutions of the recurrent block over the (constant) context are evaluated once a source frame,
* the mask predictor and the convex upsampling run after the last iteration only,
* the volume of correlations is held as far as a limit allows (:mod:`everypoint.correspond.raft_lookup`),
* the convolutions may run in half precision; features, correlation, positions and upsampling stay in float32.

The plain reference is torchvision's own forward; ``tests/unit/correspond/test_raft_network.py`` compares the two.
Source: Teed and Deng, RAFT, ECCV 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everypoint.correspond.raft_lookup import (
    Lookup,
    build_lookup,
    first_held_level,
    level_bytes,
    looked_up_bytes,
)
from everypoint.correspond.raft_parts import LEVELS, ConvGru, RaftParts
from everypoint.geometry import pixel_grid
from everypoint.networks.raft_encoder import fold_norms, without_values
from everypoint.numerics import replace_pointwise

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Context(NamedTuple):
    """What RAFT needs to know of a source frame besides its features; maps at 1/8 of the padded size (h, w)."""

    hidden: Tensor  # [H, h, w], initial hidden state
    gates: tuple[tuple[Tensor, Tensor], ...]  # a GRU pass: context part of (z,r) [2H,h,w], of q [H,h,w]


Gates = tuple[tuple[Tensor, Tensor], ...]  # as of a Context, with a first axis for the pairs


class FrameCode(NamedTuple):
    """What RAFT needs to know of one frame."""

    features: Tensor  # [C, h, w] float32, the matching features at 1/8 of the padded size
    context: Context | None  # None in a frame that is a target only


class _SplitGru(nn.Module):
    """One :class:`ConvGru`, its convolutions split into a part over the context and a part over (hidden, motion)."""

    def __init__(self, gru: ConvGru, hidden: int, context: int) -> None:
        super().__init__()
        zr_weight = torch.cat([gru.convz.weight, gru.convr.weight])
        self.padding = gru.convz.padding
        self.register_buffer("zr", _without(zr_weight, hidden, context))
        self.register_buffer("q", _without(gru.convq.weight, hidden, context))
        self.register_buffer("zr_context", zr_weight[:, hidden : hidden + context].clone())
        self.register_buffer("q_context", gru.convq.weight[:, hidden : hidden + context].clone())
        self.register_buffer("zr_bias", torch.cat([gru.convz.bias, gru.convr.bias]))
        self.register_buffer("q_bias", gru.convq.bias.clone())

    def context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        zr = F.conv2d(context, self.zr_context, self.zr_bias, padding=self.padding)
        q = F.conv2d(context, self.q_context, self.q_bias, padding=self.padding)
        return zr, q

    def forward(self, hidden: Tensor, motion: Tensor, gates: tuple[Tensor, Tensor]) -> Tensor:
        zr = F.conv2d(torch.cat([hidden, motion], 1), self.zr, padding=self.padding) + gates[0]
        z, r = torch.sigmoid(zr).chunk(2, dim=1)
        q = F.conv2d(torch.cat([r * hidden, motion], 1), self.q, padding=self.padding) + gates[1]
        return torch.lerp(hidden, torch.tanh(q), z)  # (1 - z) h + z q


def _without(weight: Tensor, hidden: int, context: int) -> Tensor:
    """The convolution weight with its input channels over the context taken out."""
    return torch.cat([weight[:, :hidden], weight[:, hidden + context :]], dim=1)


class LookupPlan(NamedTuple):
    """Which correlations a network call holds; see :mod:`everypoint.correspond.raft_lookup`."""

    mode: str = "volume"  # or "sampled", or "auto"
    limit: float = float("inf")  # bytes, for "auto"


VOLUME = LookupPlan()


class RaftNetwork(nn.Module):
    """RAFT for many pairs of one video. Inference only.

    Args:
        state: weights under torchvision's keys.
        small: which of the two networks they fit.
        precision: arithmetic of the convolutions, a key of ``PRECISIONS``.
        lookup: which correlations are held.
        compiled: run the update through ``torch.compile``, anew for each shape; on CUDA as a graph.
    """

    def __init__(
        self,
        state: dict[str, Tensor],
        *,
        small: bool = False,
        precision: str = "float32",
        lookup: LookupPlan = VOLUME,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        net = without_values(lambda: RaftParts(small=small))
        net.load_state_dict(state, strict=True, assign=True)
        net.float()  # whatever the file holds
        sizes = net.sizes
        self.feature_encoder = net.feature_encoder
        self.context_encoder = net.context_encoder
        self.motion_encoder = net.update_block.motion_encoder
        self.flow_head = net.update_block.flow_head
        self.mask_predictor = net.mask_predictor
        self.radius, self.levels, self.hidden_size = sizes.radius, LEVELS, sizes.hidden
        self.feature_size = net.feature_encoder.conv.out_channels
        self.grus = nn.ModuleList(_SplitGru(gru, sizes.hidden, sizes.context) for gru in net.update_block.grus)
        fold_norms(self.context_encoder)
        replace_pointwise(self)
        self.dtype, self.lookup, self.compiled = PRECISIONS[precision], lookup, compiled
        self.requires_grad_(False).eval().to(dtype=self.dtype, memory_format=torch.channels_last)
        self._step: Callable[..., tuple[Tensor, Tensor]] | None = None

    def encode(self, image: Tensor) -> FrameCode:
        """Encode one image [3, H, W] in [-1, 1]; H and W multiples of 8 and at least 128."""
        return FrameCode(self.encode_features(image), self.encode_context(image))

    @torch.inference_mode()
    def encode_features(self, image: Tensor) -> Tensor:
        """The matching features [C, H / 8, W / 8] float32 of one image [3, H, W] in [-1, 1]."""
        return self.feature_encoder(self._batch(image))[0].float()

    @torch.inference_mode()
    def encode_context(self, image: Tensor) -> Context:
        """The context of one image [3, H, W] in [-1, 1], which a frame needs as a source only."""
        both = self.context_encoder(self._batch(image))
        hidden, context = both.split_with_sizes([self.hidden_size, self.context_channels], dim=1)
        context = F.relu(context)
        gates = tuple(tuple(part[0] for part in gru.context(context)) for gru in self.grus)
        return Context(torch.tanh(hidden)[0], gates)

    @property
    def context_channels(self) -> int:
        return self.grus[0].zr_context.shape[1]

    @torch.inference_mode()
    def pair_flows(
        self,
        sources: Sequence[FrameCode],
        targets: Sequence[FrameCode],
        iterations: int,
        flow_init: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Flows from each source frame to the target frame at its place: B pairs in one call.

        Returns the low-resolution flow [B, 2, h, w] (pixels of the 1/8 grid) and the upsampled flow [B, 2, 8h, 8w]
        (pixels), float32. ``flow_init`` [B, 2, h, w] is the warm start of OmniMotion's recipe: the low-resolution flow
        with which the pairs begin, instead of zero.
        """
        if len(sources) != len(targets):
            raise ValueError(f"{len(sources)} sources for {len(targets)} targets")
        contexts = [source.context for source in sources if source.context is not None]
        if len(contexts) < len(sources):
            raise ValueError("a source frame was encoded without its context")
        lookup = self._lookup(stack_maps([s.features for s in sources]), stack_maps([t.features for t in targets]))
        h, w = sources[0].features.shape[-2:]
        grid = pixel_grid(h, w, device=sources[0].features.device).permute(2, 0, 1)[None]  # [1, 2, h, w]
        flow = grid.new_zeros(len(sources), 2, h, w) if flow_init is None else flow_init.clone()
        hidden = stack_maps([c.hidden for c in contexts]).contiguous(memory_format=torch.channels_last)
        gates = tuple(
            tuple(stack_maps([c.gates[gru][part] for c in contexts]) for part in (0, 1))
            for gru in range(len(self.grus))
        )
        step = self._compiled_step(flow.device) if self.compiled else self._update
        for _ in range(iterations):
            flow, hidden = step(lookup, grid, flow, hidden, gates)
        return flow, self._upsample(flow, hidden)

    def call_bytes(self, batch: int, h: int, w: int) -> int:
        """Estimated peak of one ``pair_flows`` of ``batch`` pairs with maps (h, w), without weights and frame codes.

        Levels that are held, pooled features of the others, copies of features, windows of the look-up, recurrent
        state and gates; or, where that is more, what the upsampling takes.
        """
        cells, first, half = batch * h * w, self._first_held(batch, h, w), torch.finfo(self.dtype).bits // 8
        held = sum(level_bytes(batch, h, w, self.levels)[first:])
        scratch = looked_up_bytes(batch, h, w, self.feature_size, self.radius, first, gathered=self._gathered)
        windows = self.levels * (2 * self.radius + 1) ** 2
        copies = batch > 1  # of what a single pair uses where it is
        features = 4 * self.feature_size * (1 + 2 * copies + sum(4.0**-level for level in range(1, first + 1)))
        state = half * self.hidden_size * (2 + (1 + 3 * len(self.grus)) * copies) + 4 * 6
        recurrent = half * (6 * self.hidden_size + 2 * self.motion_encoder.out_channels)
        update = max(4 * 2 * windows + half * self.hidden_size + scratch / cells, recurrent)
        upsampling = 4 * 64 * (2 * 9 + 3) if self.mask_predictor is not None else 4 * 64 * 4
        return int(held + cells * (features + state + max(update, upsampling)))

    def encode_bytes(self, height: int, width: int) -> int:
        """Estimated peak of encoding one image: five maps of the first block, at half of the size, and the image."""
        channels = self.feature_encoder.convnormrelu[0].out_channels
        return height * width * (5 * channels // 4 + 3) * torch.finfo(self.dtype).bits // 8

    @property
    def _gathered(self) -> bool:
        """Which look-up without a volume is used: the one whose shapes are known before, except eagerly on the CPU."""
        return self.compiled or self.grus[0].zr.device.type != "cpu"

    def _batch(self, image: Tensor) -> Tensor:
        return image[None].to(self.dtype).contiguous(memory_format=torch.channels_last)

    def _first_held(self, batch: int, h: int, w: int) -> int:
        return first_held_level(*self.lookup, batch, h, w, self.levels)

    def _lookup(self, f1: Tensor, f2: Tensor) -> Lookup:
        """The look-up of some pairs' features [B, C, h, w]."""
        first = self._first_held(f1.shape[0], *f1.shape[-2:])
        return build_lookup(f1, f2, self.levels, self.radius, first, gathered=self._gathered)

    def _update(
        self, lookup: Lookup, grid: Tensor, flow: Tensor, hidden: Tensor, gates: Gates
    ) -> tuple[Tensor, Tensor]:
        """One iteration: the next flow [B, 2, h, w] and hidden state [B, H, h, w]."""
        motion = self.motion_encoder(flow.to(self.dtype), lookup.windows(grid + flow).to(self.dtype))
        for gru, part in zip(self.grus, gates, strict=True):
            hidden = gru(hidden, motion, part)
        return flow + self.flow_head(hidden).float(), hidden

    def _compiled_step(self, device: torch.device) -> Callable[..., tuple[Tensor, Tensor]]:
        """``_update`` through the compiler, made on first use.

        On CUDA the iteration becomes a graph, whose outputs the next replay overwrites: they are copied.
        """
        if self._step is None:
            graph = device.type == "cuda"
            fast = torch.compile(self._update, dynamic=False, mode="reduce-overhead" if graph else None)

            def step(*arguments: object) -> tuple[Tensor, Tensor]:
                flow, hidden = fast(*arguments)
                return (flow.clone(), hidden.clone()) if graph else (flow, hidden)

            self._step = step
        return self._step

    def _upsample(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """Convex upsampling by 8 (large net) or bilinear (small net, which predicts no mask)."""
        batch, _, h, w = flow.shape
        if self.mask_predictor is None:
            return 8 * F.interpolate(flow, scale_factor=8, mode="bilinear", align_corners=True)
        mask = self.mask_predictor(hidden).float().reshape(batch, 9, 8, 8, h, w).softmax(dim=1)
        patches = F.unfold(8 * flow, 3, padding=1).reshape(batch, 2, 9, 1, 1, h, w)
        fine = torch.stack([(mask * patches[:, axis]).sum(1) for axis in (0, 1)], 1)  # [B, 2, 8, 8, h, w]
        return fine.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, 8 * h, 8 * w)


def stack_maps(maps: Sequence[Tensor]) -> Tensor:
    """Maps [C, h, w], channels last in memory, as [B, C, h, w] likewise; no copy where they are one and the same."""
    if all(each is maps[0] for each in maps):
        return maps[0][None].expand(len(maps), -1, -1, -1)
    return torch.stack([each.permute(1, 2, 0) for each in maps]).permute(0, 3, 1, 2)
