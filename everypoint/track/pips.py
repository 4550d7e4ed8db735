"""PIPs++ as a tracker of its own: no flows, no optimisation.

The network says where a point is and nothing of whether it is seen. Visibility here is a check of our own: the point is
tracked back from later frames, and a frame counts as visible where one of these tracks comes close to the forward one.
A point that the track lost, or that was hidden when the way back began, does not come back to where it was.
"""

from __future__ import annotations

import numpy as np
import torch

from everypoint.assets.fetch import locate
from everypoint.config.options import PipsOptions
from everypoint.geometry import inside_index
from everypoint.numerics import full_precision
from everypoint.pips.driver import Features, Plan, follow, from_network, to_network
from everypoint.pips.network import PipsInference
from everypoint.pips.weights import load_network
from everypoint.track.base import TrackArrays, empty_tracks


def pips_tracks(
    frames: np.ndarray, queries: np.ndarray, options: PipsOptions, device: torch.device | str = "cpu"
) -> TrackArrays:
    """Track queries [N, 3] (t, x, y index) through frames uint8 [T, H, W, 3].

    Queries of one frame are followed together, to the end and to the beginning of the video. Confidence is
    1 / (1 + (d / ``options.visibility``)^2) with d the least distance, in pixels of the network's input, between the
    track and those that come back from later frames (earlier ones, before the query); a point is visible where that is
    at least a half and it lies in the frame. Points never interact, so a track is the same alone or among others.

    Raises :class:`everypoint.errors.AssetError` where the weights are missing or do not fit.
    """
    found = empty_tracks(len(frames), queries)
    if not len(queries) or len(frames) < 2:
        return found
    memory = int(options.memory_gib * 2**30)
    network = load_network(locate(options.weights))
    inference = PipsInference(network, device, precision=options.precision, memory=memory)
    features = Features(inference, lambda number: frames[number], len(frames), options.size, keep=memory)
    plan = Plan(options.window, options.iterations, options.beautify)
    size = (frames.shape[1], frames.shape[2])
    error = np.full(found.visible.shape, np.inf)
    start = to_network(queries[:, 1:], size, options.size).astype(np.float32)
    times = queries[:, 0].astype(int)
    with full_precision():
        for first in np.unique(times):
            chosen = np.flatnonzero(times == first)
            for numbers in (list(range(first, len(frames))), list(range(first, -1, -1))):
                if len(numbers) < 2:
                    continue
                ahead = follow(features, numbers, start[chosen], plan)
                place = np.ix_(numbers[1:], chosen)
                found.tracks[place] = from_network(ahead[1:], size, options.size)
                error[place] = return_error(features, numbers, ahead, plan, options.returns)[1:]
    error[times, np.arange(len(queries))] = 0
    error = np.where(np.isfinite(found.tracks).all(-1), error, np.inf)
    confidence = (1 / (1 + (error / options.visibility) ** 2)).astype(np.float32)
    visible = (confidence >= 0.5) & inside_index(found.tracks, *size)
    visible[times, np.arange(len(queries))] = True
    return TrackArrays(found.tracks, visible, confidence)


def return_error(features: Features, numbers: list[int], ahead: np.ndarray, plan: Plan, returns: int) -> np.ndarray:
    """Least distance [len(numbers), N] of tracks [len(numbers), N, 2] to those back from ``returns`` frames."""
    last = len(numbers) - 1
    error = np.full(ahead.shape[:2], np.inf)
    for turn in sorted({round(last * (k + 1) / returns) for k in range(returns)} - {0}):
        back = follow(features, numbers[turn::-1], ahead[turn], plan)[::-1]
        # Where the way back begins it agrees with itself; its word counts from the frame before.
        error[:turn] = np.fmin(error[:turn], np.linalg.norm(back[:turn] - ahead[:turn], axis=-1))
    error[last] = error[last - 1]  # from the last frame nothing comes back: it is as good as its neighbour
    return error
