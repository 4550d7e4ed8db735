"""CoTracker as a tracker of its own: no flows, no optimisation."""

from __future__ import annotations

import numpy as np
import torch

from everypoint.config.options import CotrackerOptions
from everypoint.correspond.cotracker_runner import CotrackerRunner
from everypoint.geometry import inside_index
from everypoint.track.base import TrackArrays


def cotracker_tracks(
    frames: np.ndarray, queries: np.ndarray, options: CotrackerOptions, device: torch.device | str = "cpu"
) -> TrackArrays:
    """Track queries [N, 3] (t, x, y index) through frames uint8 [T, H, W, 3].

    Confidence is visibility times confidence; a point is visible where it is at least ``options.visibility`` and the
    point lies in the frame. The models that give a boolean (all but cotracker3-offline) have confidence 0 or 1, and any
    threshold above 0 is that of CoTracker itself. Each track passes through its query exactly, visible.

    Points of one call attend to each other. A grid of support points is always among them; beyond that a track depends
    a little on the other queries of its call, which ``options.points_at_once`` queries in their order share.
    """
    found = CotrackerRunner(options, device).track(frames, queries)
    visible = (found.score >= options.visibility) & inside_index(found.xy, *frames.shape[1:3])
    visible[queries[:, 0].astype(int), np.arange(len(queries))] = True
    return TrackArrays(found.xy, visible, found.score)
