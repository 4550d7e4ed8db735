"""Bytes by stage against what the writers themselves make of small and odd sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from everypoint.artifacts.flows import FlowShardWriter
from everypoint.artifacts.matches import Matches, save_matches
from everypoint.artifacts.tracks import Tracks, save_tracks, save_tracks_csv
from everypoint.artifacts.video import VideoMeta, save_video
from everypoint.config.options import DepthOptions, FeatureOptions, FlowOptions
from everypoint.config.presets import load_preset
from everypoint.correspond.pairs import plan_pairs
from everypoint.stages import space
from everypoint.stages.queries import grid_points, grid_shape
from everypoint.video.sizes import Size

SIZES = [Size(9, 60, 107), Size(20, 96, 54), Size(33, 128, 128)]


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("size", SIZES)
def test_frames(tmp_path, size):
    frames, height, width = size
    meta = VideoMeta("clip", "clip.mp4", "0" * 64, 25.0, frames, height, width, height, width)
    meta.timestamps.extend(np.round(np.arange(frames) / 25, 6).tolist())
    save_video(tmp_path, np.zeros((frames, height, width, 3), np.uint8), meta)
    assert bytes_in(tmp_path) == pytest.approx(space.frames(size), rel=0.05)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", ["dis", "processed"])
def test_flows_and_their_masks(tmp_path, size, backend):
    options = FlowOptions(backend=backend, pairs={"plan": "intervals", "intervals": [1, 2, 8]})
    writer = FlowShardWriter(tmp_path / "1of1", {}, size[1:])
    for source, targets in plan_pairs(size.frames, options.pairs).items():
        masks = np.zeros((len(targets), *size[1:]), np.uint8) if backend == "processed" else None
        writer.write(source, targets, np.zeros((len(targets), *size[1:], 2), np.int16), masks)
    writer.publish()
    assert bytes_in(tmp_path) == pytest.approx(space.flow(size, options), rel=0.02)


@pytest.mark.parametrize("frame", [(480, 854), (854, 480), (256, 256), (96, 128)])
@pytest.mark.parametrize("rule", ["omnimotion", "omnitrackfast"])
def test_cells_of_transformers_are_those_of_the_back_end(frame, rule):
    from everypoint.features.vit import encoded_size
    from everypoint.features.vit_weights import ARCHITECTURES

    for model, network in ARCHITECTURES.items():
        for short in (None, network.group * 3):
            options = FeatureOptions(backend="vit", model=model, resize=rule, short_side=short)
            height, width = encoded_size(frame, network, rule, short or network.short_side)
            cells = (height // network.patch, width // network.patch, network.width)
            assert space.vit_map(*frame, options) == cells


@pytest.mark.parametrize("frame", [(480, 854), (100, 60), (8, 8)])
def test_cells_of_the_encoder_are_those_of_the_back_end(frame):
    from everypoint.features.raft_encoder import CELL, SMALLEST_SIDE

    cells = np.prod([max(SMALLEST_SIDE, -(-side // CELL) * CELL) // CELL for side in frame])
    found = space.features(Size(10, *frame), FeatureOptions(backend="raft-encoder"))
    assert found - space.NOTES == 10 * cells * 256 * 2  # the large RAFT's channels


def test_a_full_table_of_matches(tmp_path):
    size = Size(12, 96, 128)
    preset = load_preset("cpu", {"all": {"matches": {"per_pair": 500}}}, "x")
    pairs = [(i, j) for i, targets in plan_pairs(size.frames, preset.flow.pairs).items() for j in targets]
    rows = 500 * len(pairs)
    table = Matches(
        pairs=np.array(pairs, np.int32),
        offsets=500 * np.arange(len(pairs) + 1),
        fixed_i=np.zeros((rows, 2), np.uint16),
        fixed_j=np.zeros((rows, 2), np.uint16),
        flags=np.zeros(rows, np.uint8),
        score=np.zeros(rows, np.float16),
        valid_count=np.zeros(len(pairs), np.int64),
        size=size[1:],
        frames=size.frames,
    )
    save_matches(tmp_path / "matches.npz", table)
    assert bytes_in(tmp_path) == pytest.approx(space.matches(size, preset), rel=0.05)


def test_the_budget_bounds_the_table():
    size = Size(100, 480, 854)
    small = load_preset("cpu", {"all": {"matches": {"budget_mb": 10}}}, "x")
    assert space.matches(size, small) == pytest.approx(10e6, rel=0.01)


@pytest.mark.parametrize("name", ["cpu", "fast", "omnimotion", "omnimotion-lite", "omnimotion-depth", "cadex-nomatch"])
@pytest.mark.parametrize("size", [Size(6, 96, 128), Size(40, 240, 426)])
def test_models(tmp_path, name, size):
    from everypoint.models.files import build_model, save_model

    preset = load_preset(name, {}, "x")
    save_model(tmp_path / "model.pt", build_model(size.frames, size[1:], preset.model, 0))
    rows = preset.optimize.steps / preset.optimize.log_every
    assert bytes_in(tmp_path) == pytest.approx(space.optimize(size, preset) - 300 * rows, rel=0.15)


@pytest.mark.parametrize("size", SIZES)
def test_tracks(tmp_path, size):
    points = len(grid_points(size[1:], 24))
    assert np.prod(grid_shape(size[1:], 24)) == points
    draws = np.random.default_rng(0)
    tracks = Tracks(
        tracks=draws.uniform(0, 1, (size.frames, points, 2)).astype(np.float32) * size[:0:-1],
        visibility=np.ones((size.frames, points), bool),
        confidence=draws.random((size.frames, points)).astype(np.float32),
        queries=np.zeros((points, 3), np.float32),
        query_ids=np.array([f"grid-{n}" for n in range(points)]),
        frame_size=size[1:],
        fps=25.0,
    )
    save_tracks(tmp_path / "tracks.npz", tracks)
    save_tracks_csv(tmp_path / "tracks.csv", tracks)
    assert bytes_in(tmp_path) == pytest.approx(space.tracks(size, points), rel=0.1)


@pytest.mark.parametrize("frame", [(480, 854), (1080, 1920), (64, 96), (96, 480)])
def test_overlays_are_drawn_at_the_size_that_is_assumed(frame):
    from everypoint.report.overlay import overlay_size

    pixels = np.prod(overlay_size(*frame, 960))
    assert space.overlay(Size(10, *frame), 960) - 3000 == pytest.approx(space.OVERLAY * 10 * pixels, rel=0.02)


def test_depth_follows_the_back_end():
    from everypoint.depth.network import input_size

    size = Size(10, 480, 854)
    options = [DepthOptions(backend=name) for name in ("constant", "depth-anything", "zoedepth")]
    constant, anything, zoe = (space.depth(size, one) for one in options)
    assert constant < 2 * space.NOTES
    cells = np.prod(input_size(size[1:], (518, 518), 14, "at least"))
    assert anything == pytest.approx(3 * 10 * cells, rel=0.02)
    assert zoe < anything


def test_the_page_holds_no_more_than_it_may():
    assert space.report(1e6, 0) == pytest.approx(4 / 3 * 1e6 + space.PAGE)
    assert space.report(1e12, 0) < 300e6
