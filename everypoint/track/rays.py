"""Tracks read out of a model of rays (kind field) or of a depth a pixel (kind pixels), by the model alone."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from everypoint.config.options import ReadoutOptions
from everypoint.geometry import inside_index
from everypoint.models.motion import Transported
from everypoint.models.nvp import FrameParts
from everypoint.models.rays import Anchor
from everypoint.track.base import TrackArrays, empty_tracks

MEMORY = {"cpu": 2**28, "cuda": 2**32}  # bytes of hidden layers in one pass
LAYERS_ALIVE = 8  # hidden layers and what they are made from that exist at the same time
OUTSIDE = 0.4  # factor of the confidence outside of the frame: below 0.5, where nothing is visible


class PointModel(Protocol):
    """A model of one video that finds what stands for a pixel once, and places it in any frame."""

    frames: int
    frame_size: tuple[int, int]
    point_bytes: int

    def parts(self) -> FrameParts: ...

    def anchor(self, xy: Tensor, frame: Tensor, parts: FrameParts, *, whole: bool = False) -> Anchor: ...

    def place(self, anchor: Anchor, frame: Tensor, parts: FrameParts) -> Transported: ...

    def visibility(
        self, xy: Tensor, z: Tensor, frame: Tensor, parts: FrameParts, readout: ReadoutOptions
    ) -> Tensor: ...


def points_at_once(model: PointModel, device: torch.device) -> int:
    """Points of one pass, for which the hidden layers of all their samples fit the device's budget."""
    return max(1, MEMORY.get(device.type, MEMORY["cpu"]) // (LAYERS_ALIVE * model.point_bytes))


@torch.no_grad()
def ray_tracks(model: nn.Module, queries: np.ndarray, options: ReadoutOptions) -> TrackArrays:
    """Carry queries [N, 3] (t, x, y index) into every frame of the model.

    Every query's canonical points are found once and placed in all frames, several frames at once where there are few
    queries. A point is occluded where the model says that it is hidden, and outside of the frame. The query itself is
    kept as it was given, and is always seen.
    """
    device = next(model.parameters()).device
    out = empty_tracks(model.frames, queries)
    parts = model.parts()
    limit = points_at_once(model, device)
    for first in range(0, len(queries), limit):
        rows = slice(first, first + limit)
        frame = torch.from_numpy(queries[rows, 0].astype(np.int64)).to(device)
        xy = torch.from_numpy(queries[rows, 1:].astype(np.float32)).to(device)
        anchor = model.anchor(xy, frame, parts, whole=options.ray_point == "mean")
        together = max(1, limit // len(frame))
        for start in range(0, model.frames, together):
            targets = range(start, min(start + together, model.frames))
            position, confidence = _in_frames(model, anchor, targets, parts, options)
            out.tracks[targets.start : targets.stop, rows] = position
            out.confidence[targets.start : targets.stop, rows] = confidence
    inside = inside_index(out.tracks, *model.frame_size)
    out.visible[:] = (out.confidence >= 0.5) & inside
    out.confidence[~inside] *= OUTSIDE
    own = queries[:, 0].astype(int), np.arange(len(queries))
    out.tracks[own], out.visible[own], out.confidence[own] = queries[:, 1:], True, 1.0
    return out


def _in_frames(
    model: PointModel, anchor: Anchor, targets: range, parts: FrameParts, options: ReadoutOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Positions [F, N, 2] and confidences [F, N] of N anchors in F frames, in one pass."""
    count = len(anchor.points)
    frame = torch.arange(targets.start, targets.stop, device=anchor.points.device).repeat_interleave(count)
    copies = Anchor(*(values.repeat(len(targets), *[1] * (values.dim() - 1)) for values in anchor))
    there = model.place(copies, frame, parts)
    confidence = model.visibility(there.xy, there.z, frame, parts, options)
    return there.xy.reshape(len(targets), count, 2).cpu().numpy(), confidence.reshape(len(targets), count).cpu().numpy()
