"""Preset ``chain`` on real videos against an independent computation: OpenCV's sampling, float64, own metric loop."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from everypoint.artifacts.flows import FlowStore
from everypoint.artifacts.pickles import load_arrays_pickle
from everypoint.assets.fetch import fetch
from everypoint.config.options import ChainOptions, FlowOptions, PairOptions
from everypoint.correspond.run import compute_flows
from everypoint.errors import AssetError
from everypoint.evaluate.queries import sample_queries
from everypoint.evaluate.tapvid import tapvid_metrics
from everypoint.track.chain import chain_tracks
from tests.shared import shared

DIS = FlowOptions(backend="dis", pairs=PairOptions(intervals=(1,)))
RAFT = FlowOptions(backend="raft", iterations=12, pairs=PairOptions(intervals=(1,)))


def independent(flows: dict, occluded: np.ndarray, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """AJ, delta_avg, OA of chained adjacent flows, computed without any code of the package."""
    frames, rows = occluded.shape[1], []
    tp, fp, visible, within, right, scored = np.zeros(5), np.zeros(5), 0, np.zeros(5), 0, 0
    for q in range(0, frames, 5):
        rows += [(n, q) for n in np.flatnonzero(~occluded[:, q])]

    def at(field: np.ndarray, x: float, y: float) -> np.ndarray:
        where = np.float32([[[np.clip(x, 0, size[1] - 1), np.clip(y, 0, size[0] - 1)]]])
        return cv2.remap(field, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0, 0]

    for n, q in rows:
        for direction in (1, -1):
            x, y = points[n, q] * [size[1], size[0]] - 0.5
            seen, t = True, q
            while 0 <= t + direction < frames:
                dx, dy = at(flows[t, t + direction], x, y)
                bx, by = at(flows[t + direction, t], x + dx, y + dy)
                seen &= np.hypot(dx + bx, dy + by) <= 3
                x, y, t = x + dx, y + dy, t + direction
                seen &= 0 <= x <= size[1] - 1 and 0 <= y <= size[0] - 1
                error = np.hypot(*((np.array([x, y]) + 0.5) / [size[1], size[0]] * 256 - points[n, t] * 256))
                near, truth = error < np.array([1, 2, 4, 8, 16]), not occluded[n, t]
                tp, fp = tp + (truth and seen) * near, fp + seen * (1 - truth * near)
                within, visible = within + truth * near, visible + truth
                right, scored = right + (seen == truth), scored + 1
    return 100 * np.array([(tp / (visible + fp)).mean(), (within / visible).mean(), right / scored])


def video_scores(frames: np.ndarray, item: dict, options: FlowOptions, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(ours, independent) scores of one video."""
    compute_flows(frames, options, [0], (0, 1), folder / "flow", torch.device("cpu"), "test")
    store, size = FlowStore([folder / "flow"]), frames.shape[1:3]
    asked = sample_queries(item["points"] * 256, item["occluded"], "strided", 5)
    xy = asked.query_points[:, [2, 1]] / 256 * [size[1], size[0]] - 0.5
    found = chain_tracks(store, np.column_stack([asked.query_points[:, 0], xy]), len(frames), ChainOptions())
    raster = (found.tracks.transpose(1, 0, 2) + 0.5) / [size[1], size[0]] * 256
    score = tapvid_metrics(asked.query_points, asked.gt_tracks, asked.gt_occluded, raster, ~found.visible.T, "strided")
    names = ("average_jaccard", "average_pts_within_thresh", "occlusion_accuracy")
    ours = 100 * np.array([float(np.squeeze(score[name])) for name in names])
    flows = {(i, j): store.flow(i, j) for i in store.sources() for j in store.targets(i)}
    return ours, independent(flows, item["occluded"], item["points"], size)


def decoded(item: dict) -> np.ndarray:
    pictures = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in item["video"]]
    return np.stack(pictures)[..., ::-1].copy()


@pytest.mark.parametrize("name", ["goat", "horsejump-high"])
def test_chain_agrees_with_an_independent_computation_on_dis(name, tmp_path):
    item = load_arrays_pickle(shared("data/tapvid_davis32_dev.pkl"))[name]
    ours, other = video_scores(decoded(item), item, DIS, tmp_path)
    np.testing.assert_allclose(ours, other, atol=0.3)  # OpenCV samples at 1/32 px


@pytest.mark.slow
def test_chain_on_raft_at_256_has_the_known_mean_of_the_eight_videos(tmp_path):
    data = load_arrays_pickle(shared("data/tapvid_davis32_dev.pkl"))
    try:
        fetch("raft-things")
    except AssetError as error:
        pytest.skip(f"the RAFT weights cannot be had here: {error}")
    pairs = [video_scores(decoded(item), item, RAFT, tmp_path / name) for name, item in data.items()]
    ours, other = np.mean(pairs, axis=0)
    np.testing.assert_allclose(ours, other, atol=0.2)
    np.testing.assert_allclose(ours, [38.3, 49.8, 78.4], atol=0.3)  # measured independently beforehand


@pytest.mark.slow
def test_chain_on_480p_frames_agrees_with_the_independent_computation(tmp_path):
    item = load_arrays_pickle(shared("data/tapvid_davis32_dev.pkl"))["goat"]
    files = sorted(shared("data/davis480/goat/color").glob("*.jpg"))
    frames = np.stack([cv2.imread(str(file)) for file in files])[..., ::-1].copy()
    ours, other = video_scores(frames, item, DIS, tmp_path)
    np.testing.assert_allclose(ours, other, atol=0.3)
