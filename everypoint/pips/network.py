"""PIPs++: positions of points in all frames of a clip, refined together over several iterations.

The module has the published network's keys, so that its checkpoints load as they are. It trains
(:meth:`PipsNetwork.forward`), and :class:`PipsInference` runs it without gradients: any number of points within a
bound of memory, convolutions in the order and by the algorithm that are quickest.

Positions are (x, y) in index pixels of the network's input (first pixel's centre at 0); inside, cells = pixels / 8.
Sources: Zheng et al., PointOdyssey (ICCV 2023), section 4; Harley et al., Particle Video Revisited (ECCV 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from everypoint.pips.correlation import CPU_BLOCKS, CUDA_BLOCKS, LATTICE, Blocks, Pyramid, windows
from everypoint.pips.delta import INPUTS, DeltaBlock, FastDelta, point_bytes
from everypoint.pips.encoder import CHANNELS, STRIDE, Encoder, frame_bytes

LEAST_SIDE = 128  # the coarsest level of smaller frames would have one row
LAGS = (2, 4)  # frames between an estimate and the templates taken from it
CODES = 32  # frequencies a code of the motion
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CACHED_ROWS = 1536  # points times frames whose widest layer the cache of a CPU holds


class Templates(NamedTuple):
    """What points look like."""

    first: Tensor  # [B, N, C], in the first frame of the first window
    lagged: tuple[Tensor, ...]  # [B, N, S, C] for each of LAGS, some frames before

    def cut(self, frames: int) -> Templates:
        """Of a window's first frames."""
        return Templates(self.first, tuple(each[:, :, :frames] for each in self.lagged))


class Estimates(NamedTuple):
    """What the network says."""

    predictions: Tensor  # [K + 1, B, S, N, 2] px: after each iteration, frame 0 as predicted; last: with frame 0 given
    locked: Tensor  # [K + 2, B, S, N, 2] px: the start, each iteration with frame 0 given, the last again
    templates: Templates  # as of the last iteration


class PipsNetwork(nn.Module):
    """The network under its published keys: 82 tensors, 17,565,410 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fnet = Encoder()
        self.delta_block = DeltaBlock()
        self.norm = nn.GroupNorm(1, CHANNELS).requires_grad_(False)  # in the published files, used by nothing

    def forward(self, rgb: Tensor, start: Tensor, iterations: int) -> Tensor:
        """Predictions [K + 1, B, S, N, 2] of clips, with gradients; see :class:`Estimates`.

        Args:
            rgb: [B, S, 3, H, W] in 0..255, sides multiples of 8 and at least 128.
            start: [B, S, N, 2] px, where the points begin; frame 0 is given.
            iterations: K.
        """
        batch, length = rgb.shape[:2]
        features = self.fnet(centred(rgb.flatten(0, 1)))
        pyramid = Pyramid(features.float())
        return refine(pyramid, self.delta_block, start, iterations, frames_of(batch, length, rgb.device)).predictions


def centred(rgb: Tensor) -> Tensor:
    """Frames in 0..255 as the encoder takes them, -1..1."""
    return 2 * (rgb.float() / 255) - 1


def frames_of(batch: int, length: int, device: torch.device) -> Tensor:
    """Numbers [B, S] of the frames of a batch of clips."""
    return torch.arange(batch * length, device=device).view(batch, length)


def refine(
    pyramid: Pyramid,
    delta: Callable[[Tensor], Tensor],
    start: Tensor,
    iterations: int,
    frames: Tensor,
    carried: Templates | None = None,
    *,
    beautify: bool = False,
    blocks: Blocks | None = None,
    dtype: torch.dtype = torch.float32,
) -> Estimates:
    """The iterations: look around the estimates, move them.

    Args:
        pyramid: features of B * S frames.
        delta: rows [P, S, 718] to moves [P, S, 2] in cells.
        start: [B, S, N, 2] px; frame 0 stays.
        iterations: K.
        frames: long [B, S], which frame of the pyramid each is.
        carried: templates of the window before: the first for good, the others for the first iteration.
        beautify: halve the moves of the last iterations, as the published demo does.
        blocks: of the look-up; None: as the device likes.
        dtype: of what ``delta`` takes.
    """
    xy = (start / STRIDE).transpose(1, 2).contiguous()  # [B, N, S, 2]
    given = xy[:, :, :1]
    at = frames[:, None].expand(xy.shape[:3])  # [B, N, S]
    first = pyramid.sample(xy[:, :, 0], at[:, :, 0]) if carried is None else carried.first
    steady = first[:, :, None].expand(-1, -1, xy.shape[2], -1)
    lagged = (steady,) * len(LAGS) if carried is None else carried.lagged
    blocks = blocks or (CUDA_BLOCKS if xy.is_cuda else CPU_BLOCKS)
    predictions, locked = [], [xy]
    for iteration in range(iterations):
        xy = xy.detach()
        if iteration:
            lagged = _lagged_templates(pyramid, xy, at)
        rows = _rows(pyramid, (steady, *lagged), xy, frames, blocks, dtype)
        move = delta(rows).view_as(xy)
        if beautify and iteration > 3 * iterations // 4:
            move = move / 2
        xy = xy + move
        predictions.append(xy)
        xy = torch.cat([given, xy[:, :, 1:]], 2)
        locked.append(xy)
    return Estimates(
        torch.stack([*predictions, xy]).transpose(2, 3) * STRIDE,
        torch.stack([*locked, xy]).transpose(2, 3) * STRIDE,
        Templates(first, lagged),
    )


def _lagged_templates(pyramid: Pyramid, xy: Tensor, at: Tensor) -> tuple[Tensor, ...]:
    """Features at the estimates of some frames before, of the first frame where there is none before."""
    here = pyramid.sample(xy, at)  # [B, N, S, C]
    time = torch.arange(xy.shape[2], device=xy.device)
    return tuple(here.index_select(2, (time - lag).clamp(min=0)) for lag in LAGS)


def _rows(
    pyramid: Pyramid, templates: tuple[Tensor, ...], xy: Tensor, frames: Tensor, blocks: Blocks, dtype: torch.dtype
) -> Tensor:
    """What the delta block takes, [B * N, S, 718]: correlations of each template, the motion's codes, the motion."""
    stacked = torch.stack(templates, 3) / CHANNELS**0.5  # [B, N, S, 3, C]
    with torch.autocast(xy.device.type, enabled=False):
        if torch.is_grad_enabled() and stacked.requires_grad:  # the gathered features are far larger than all else
            found = checkpoint(windows, pyramid, stacked, xy, frames, blocks, use_reentrant=False)
        else:
            found = windows(pyramid, stacked, xy, frames, blocks)
    motion = torch.cat([xy[:, :, 1:] - xy[:, :, :-1], xy[:, :, -1:] - xy[:, :, -2:-1]], 2)
    rows = torch.cat([found.flatten(-2).to(dtype), motion_codes(motion).to(dtype)], -1)
    return rows.flatten(0, 1)


def motion_codes(motion: Tensor) -> Tensor:
    """Codes [..., 130] of motions [..., 2]: sin and cos of x, sin and cos of y at 32 frequencies, x, y."""
    steps = torch.arange(CODES, dtype=torch.float32, device=motion.device) / (CODES - 1)
    angles = motion[..., None] * 10000.0**-steps  # [..., 2, 32]
    return torch.cat([torch.stack([angles.sin(), angles.cos()], -2).flatten(-3), motion], -1)


class PipsInference:
    """The network without gradients, on one device, within a bound of memory.

    Args:
        network: its weights are taken as they are now.
        device: where it runs.
        precision: arithmetic of the convolutions; positions, correlations and norms stay in float32. Features are
            kept in the same precision.
        memory: bytes that the work on a chunk of points or frames may take, besides the features of the window
            (which take 3.6 MB a frame of 512 x 896 in float32, and a third more for the coarser levels).
    """

    def __init__(
        self,
        network: PipsNetwork,
        device: torch.device | str = "cpu",
        *,
        precision: str = "float32",
        memory: int = 2**30,
    ) -> None:
        self.device, self.dtype, self.memory = torch.device(device), PRECISIONS[precision], memory
        self._encoder = Encoder().to(self.device, self.dtype, memory_format=torch.channels_last)
        self._encoder.load_state_dict(network.fnet.state_dict())
        self._encoder.requires_grad_(False).eval()
        block = DeltaBlock().to(self.device, self.dtype)
        block.load_state_dict(network.delta_block.state_dict())
        block.requires_grad_(False).eval()
        self._delta = FastDelta(block) if self.dtype == torch.float32 else block

    @torch.no_grad()
    def features(self, rgb: Tensor) -> Tensor:
        """Features [S, 128, h, w] of frames [S, 3, H, W] in 0..255, channels_last.

        Frames whose sides are no multiples of 8, or below 128, are continued at the right and at the bottom by their
        last pixels, so that positions stay what they are.
        """
        padded = padded_size(*rgb.shape[-2:])
        at_once = max(1, self.memory // frame_bytes(*padded, self.dtype.itemsize))
        if self.device.type == "cpu":
            at_once = 1  # what the next layer reads is then still in the cache, or at least in pages that are there
        out = torch.empty(
            len(rgb),
            CHANNELS,
            padded[0] // STRIDE,
            padded[1] // STRIDE,
            dtype=self.dtype,
            device=self.device,
            memory_format=torch.channels_last,
        )
        for start in range(0, len(rgb), at_once):
            frames = pad(centred(rgb[start : start + at_once].to(self.device)), padded).to(self.dtype)
            out[start : start + at_once] = self._encoder(frames.contiguous(memory_format=torch.channels_last))
        return out

    @torch.no_grad()
    def pyramid(self, rgb: Tensor) -> Pyramid:
        """Features of a window of frames [S, 3, H, W] at all levels."""
        return Pyramid(self.features(rgb))

    @torch.no_grad()
    def track(
        self,
        pyramid: Pyramid,
        start: Tensor,
        iterations: int,
        carried: Templates | None = None,
        *,
        beautify: bool = False,
    ) -> Estimates:
        """Points [1, S, N, 2] px through the frames of ``pyramid``, some at a time; see :func:`refine`."""
        length, points = start.shape[1:3]
        start = start.to(self.device)
        at_once = self.points_at_once(length)
        frames = frames_of(1, length, self.device)
        parts = []
        for begin in range(0, points, at_once):
            part = slice(begin, begin + at_once)
            carry = None
            if carried is not None:
                carry = Templates(carried.first[:, part], tuple(each[:, part] for each in carried.lagged))
            found = refine(
                pyramid,
                self._delta,
                start[:, :, part],
                iterations,
                frames,
                carry,
                beautify=beautify,
                dtype=self.dtype,
            )
            parts.append(found)
        return _joined(parts)

    def points_at_once(self, length: int) -> int:
        """How many points of ``length`` frames a chunk has."""
        held = (CUDA_BLOCKS if self.device.type == "cuda" else CPU_BLOCKS).held_cells
        templates = 1 + len(LAGS)
        looked_up = 2 * INPUTS + templates * (held + 2 * LATTICE + 2 * CHANNELS)
        a_point = point_bytes(length) + length * 4 * looked_up
        room = max(1, self.memory // a_point)
        return min(room, max(1, CACHED_ROWS // length)) if self.device.type == "cpu" else room


def _joined(parts: list[Estimates]) -> Estimates:
    """Chunks of points, side by side."""
    if len(parts) == 1:
        return parts[0]
    lagged = zip(*(part.templates.lagged for part in parts), strict=True)
    return Estimates(
        torch.cat([part.predictions for part in parts], 3),
        torch.cat([part.locked for part in parts], 3),
        Templates(torch.cat([part.templates.first for part in parts], 1), tuple(torch.cat(each, 1) for each in lagged)),
    )


def padded_size(height: int, width: int) -> tuple[int, int]:
    """The size that the network sees: sides up to multiples of 8, at least 128."""
    return tuple(max(LEAST_SIDE, -(-side // STRIDE) * STRIDE) for side in (height, width))


def pad(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames [S, 3, H, W] continued at the right and at the bottom by their last pixels."""
    more = (0, size[1] - frames.shape[-1], 0, size[0] - frames.shape[-2])
    return F.pad(frames, more, mode="replicate") if any(more) else frames
