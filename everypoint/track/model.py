"""Tracks read out of an optimised model alone, of any kind."""

from __future__ import annotations

import numpy as np
import torch

from everypoint.config.options import ReadoutOptions
from everypoint.geometry import inside_index
from everypoint.models.files import VideoModel
from everypoint.models.motion import MotionModel
from everypoint.track.base import TrackArrays, empty_tracks
from everypoint.track.rays import ray_tracks

POINTS_AT_ONCE = 65536  # queries times 1 frame in one pass; bounds the memory whatever the number of queries


def proposal(model: VideoModel, queries: np.ndarray, options: ReadoutOptions) -> TrackArrays:
    """Carry queries [N, 3] (t, x, y index) into every frame of a model of any kind."""
    if model.options.kind == "planes":
        return model_tracks(model, queries, options.occlusion_depth)
    return ray_tracks(model, queries, options)


@torch.no_grad()
def model_tracks(model: MotionModel, queries: np.ndarray, occlusion_depth: float) -> TrackArrays:
    """Carry queries [N, 3] (t, x, y index) into every frame of the model.

    A point is occluded when it lies more than ``occlusion_depth`` (normalised depth) behind the depth map of the frame,
    or outside of it. Every query's canonical point is computed once.
    """
    device = model.camera.device
    out = empty_tracks(model.frames, queries)
    parts = model.bijection.time_parts()
    for first in range(0, len(queries), POINTS_AT_ONCE):
        rows = slice(first, first + POINTS_AT_ONCE)
        frame = torch.from_numpy(queries[rows, 0].astype(np.int64)).to(device)
        xy = torch.from_numpy(queries[rows, 1:].astype(np.float32)).to(device)
        canonical = model.canonical(xy, frame, parts)
        for t in range(model.frames):
            target = torch.full_like(frame, t)
            there = model.project(canonical, target, parts)
            behind = there.z - model.depth(there.xy, target)
            position = there.xy.cpu().numpy()
            out.tracks[t, rows] = position
            out.visible[t, rows] = (behind < occlusion_depth).cpu().numpy() & inside_index(position, *model.frame_size)
            out.confidence[t, rows] = torch.sigmoid(4 * (1 - behind / occlusion_depth)).cpu().numpy()
    out.confidence[~out.visible] *= 0.5
    own = queries[:, 0].astype(int), np.arange(len(queries))  # the query itself, without rounding and always seen
    out.tracks[own], out.visible[own], out.confidence[own] = queries[:, 1:], True, 1.0
    return out
