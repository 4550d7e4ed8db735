"""RAFT inference around torchvision's network: each frame encoded once, one look-up volume a pair, one upsampling.

torchvision's ``RAFT.forward`` encodes both images of every pair, evaluates the context half of the recurrent
convolutions and the upsampling mask at each of the iterations, and returns upsampled flows only. For all pairs of a
video that is about half of the work for nothing. :class:`RaftNetwork` holds torchvision's modules (so that their
weights load as they are) and runs them so that

* a frame is encoded once (its context only when it is a source) and ``pair_flows`` called once a batch of pairs,
* the convolutions of the recurrent block over the (constant) context are evaluated once a source frame,
* the mask predictor and the convex upsampling run after the last iteration only.

The plain reference is torchvision's own forward; ``tests/unit/correspond/test_raft.py`` compares the two.
Source: Teed and Deng, RAFT, ECCV 2020.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.optical_flow import raft_large, raft_small
from torchvision.models.optical_flow.raft import ConvGRU

from everypoint.geometry import pixel_grid
from everypoint.numerics import replace_pointwise


class Context(NamedTuple):
    """What RAFT needs to know of a source frame besides its features; maps at 1/8 of the padded size (h, w)."""

    hidden: Tensor  # [H, h, w], initial hidden state
    gates: tuple[tuple[Tensor, Tensor], ...]  # a GRU pass: context part of (z,r) [2H,h,w], of q [H,h,w]


class FrameCode(NamedTuple):
    """What RAFT needs to know of one frame."""

    features: Tensor  # [C, h, w], the matching features at 1/8 of the padded size
    context: Context | None  # None in a frame that is a target only


class _SplitGru(nn.Module):
    """One ConvGRU whose convolutions are split into a part over the context and a part over (hidden, motion)."""

    def __init__(self, gru: ConvGRU, hidden: int, context: int) -> None:
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


class RaftNetwork(nn.Module):
    """RAFT for many pairs of one video. ``state`` has torchvision's keys. Inference only."""

    def __init__(self, state: dict[str, Tensor], *, small: bool = False) -> None:
        super().__init__()
        net = (raft_small if small else raft_large)(weights=None)
        net.load_state_dict(state, strict=True)
        self.feature_encoder = net.feature_encoder
        self.context_encoder = net.context_encoder
        self.motion_encoder = net.update_block.motion_encoder
        self.flow_head = net.update_block.flow_head
        self.mask_predictor = net.mask_predictor
        self.radius = net.corr_block.radius
        self.levels = net.corr_block.num_levels
        self.hidden_size = net.update_block.hidden_state_size
        recurrent = net.update_block.recurrent_block
        motion = self.motion_encoder.out_channels
        grus = [g for g in (recurrent.convgru1, recurrent.convgru2) if isinstance(g, ConvGRU)]
        context = grus[0].convz.weight.shape[1] - self.hidden_size - motion
        self.grus = nn.ModuleList(_SplitGru(g, self.hidden_size, context) for g in grus)
        replace_pointwise(self)
        self.requires_grad_(False).eval()

    def encode(self, image: Tensor) -> FrameCode:
        """Encode one image [3, H, W] in [-1, 1]; H and W multiples of 8 and at least 128."""
        return FrameCode(self.encode_features(image), self.encode_context(image))

    @torch.inference_mode()
    def encode_features(self, image: Tensor) -> Tensor:
        """The matching features [C, H / 8, W / 8] of one image [3, H, W] in [-1, 1]."""
        return self.feature_encoder(image[None].contiguous(memory_format=torch.channels_last))[0]

    @torch.inference_mode()
    def encode_context(self, image: Tensor) -> Context:
        """The context of one image [3, H, W] in [-1, 1], which a frame needs as a source only."""
        both = self.context_encoder(image[None].contiguous(memory_format=torch.channels_last))
        hidden, context = both.split_with_sizes([self.hidden_size, self.context_channels], dim=1)
        context = F.relu(context)
        gates = tuple(tuple(part[0] for part in gru.context(context)) for gru in self.grus)
        return Context(torch.tanh(hidden)[0], gates)

    @property
    def context_channels(self) -> int:
        return self.grus[0].zr_context.shape[1]

    @torch.inference_mode()
    def pair_flows(
        self, source: FrameCode, targets: list[FrameCode], iterations: int, flow_init: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Flows from one source frame to several targets.

        Returns the low-resolution flow [B, 2, h, w] (pixels of the 1/8 grid) and the upsampled flow [B, 2, 8h, 8w]
        (pixels). ``flow_init`` [B, 2, h, w] is the warm start of OmniMotion's recipe.
        """
        if source.context is None:
            raise ValueError("the source frame was encoded without its context")
        batch = len(targets)
        pyramid = self._correlation(source.features, torch.stack([t.features for t in targets]))
        h, w = source.features.shape[-2:]
        grid = pixel_grid(h, w, device=source.features.device).permute(2, 0, 1)[None]  # [1, 2, h, w]
        flow = grid.new_zeros(batch, 2, h, w) if flow_init is None else flow_init.clone()
        hidden = source.context.hidden.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        for _ in range(iterations):
            motion = self.motion_encoder(flow, self._lookup(pyramid, grid + flow))
            for gru, gates in zip(self.grus, source.context.gates, strict=True):
                hidden = gru(hidden, motion, gates)
            flow = flow + self.flow_head(hidden)
        return flow, self._upsample(flow, hidden)

    def _correlation(self, f1: Tensor, f2: Tensor) -> list[Tensor]:
        """Pyramid of <f1, f2> / sqrt(C); level l is [B * h * w, 1, h / 2^l, w / 2^l]."""
        channels, h, w = f1.shape
        volume = torch.matmul(f1.reshape(channels, h * w).T / channels**0.5, f2.reshape(-1, channels, h * w))
        volume = volume.reshape(-1, 1, h, w)
        pyramid = [volume]
        for _ in range(self.levels - 1):
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        return pyramid

    def _lookup(self, pyramid: list[Tensor], centres: Tensor) -> Tensor:
        """Sample a (2r+1)^2 window around ``centres`` [B, 2, h, w] at every level -> [B, levels * (2r+1)^2, h, w]."""
        batch, _, h, w = centres.shape
        offset = torch.arange(-self.radius, self.radius + 1, dtype=centres.dtype, device=centres.device)
        delta = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), -1)  # slow index moves x
        centres = centres.permute(0, 2, 3, 1).reshape(batch * h * w, 1, 1, 2)
        sampled = []
        for volume in pyramid:
            size = centres.new_tensor([volume.shape[-1] - 1, volume.shape[-2] - 1])
            where = (centres + delta) * (2 / size) - 1
            window = F.grid_sample(volume, where, align_corners=True)
            sampled.append(window.reshape(batch, h, w, -1))
            centres = centres / 2
        return torch.cat(sampled, -1).permute(0, 3, 1, 2)  # channels_last in memory

    def _upsample(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """Convex upsampling by 8 (large net) or bilinear (small net, which predicts no mask)."""
        batch, _, h, w = flow.shape
        if self.mask_predictor is None:
            return 8 * F.interpolate(flow, scale_factor=8, mode="bilinear", align_corners=True)
        mask = self.mask_predictor(hidden).reshape(batch, 1, 9, 8, 8, h, w).softmax(dim=2)
        patches = F.unfold(8 * flow, 3, padding=1).reshape(batch, 2, 9, 1, 1, h, w)
        return (mask * patches).sum(2).permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, 8 * h, 8 * w)
