"""Which tracker runs, what it needs, and the read-out of a model alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from everypoint.config.options import ChainOptions, CompanionOptions, ModelOptions, Preset
from everypoint.config.presets import load_preset, preset_names
from everypoint.errors import ArtifactError
from everypoint.models.files import save_model
from everypoint.models.motion import MotionModel
from everypoint.scenes.render import render
from everypoint.track import model as model_room
from everypoint.track.chain import chain_tracks
from everypoint.track.companions import starts
from everypoint.track.dispatch import TrackInputs, track, walk_companions
from everypoint.track.evidence import Evidence
from everypoint.track.fuse import fuse
from everypoint.track.model import model_tracks
from everypoint.track.multi import chain_multi_tracks
from tests.fakes import cotracker_weights, install_cotracker
from tests.unit.pips.weights import pips_weights
from tests.unit.track.worlds import constant_store, exact_store, scene

FRAMES, SIZE = 5, (24, 32)
VIDEO = np.zeros((FRAMES, *SIZE, 3), np.uint8)
QUERIES = np.array([[0, 10.0, 8.0], [2, 20.5, 12.25], [4, 3.0, 20.0]], np.float32)
SMALL = ModelOptions(blocks=2, plane_resolutions=(4, 8), plane_channels=4, time_channels=4, depth_scale=0.25)


def still_model() -> MotionModel:
    """A model in which nothing moves: identity couplings, a still camera, flat depth."""
    made = MotionModel(FRAMES, SIZE, SMALL, 0)
    with torch.no_grad():
        for conditioner in made.bijection.conditioners:
            conditioner.last.weight.zero_()
    return made


def preset(tracker: str, **readout: bool) -> Preset:
    return Preset.model_validate({"description": "for tests", "tracker": tracker, "readout": readout})


@pytest.fixture
def flows(tmp_path):
    return constant_store(tmp_path / "flow", FRAMES, SIZE, (0.5, 0.25))


@pytest.fixture
def model(tmp_path) -> Path:
    save_model(tmp_path / "model.pt", still_model())
    return tmp_path / "model.pt"


def run(chosen: Preset, **inputs):
    return track(chosen, QUERIES, TrackInputs(VIDEO, **inputs), "cpu", 0)


def equal(first, second) -> None:
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)


def test_chain(flows):
    chosen = preset("chain")
    equal(run(chosen, flows=flows), chain_tracks(flows, QUERIES, FRAMES, chosen.chain))


def test_chain_multi_with_and_without_features(flows):
    chosen = preset("chain-multi")
    features = np.random.default_rng(0).normal(size=(FRAMES, 6, 8, 4)).astype(np.float16)
    for given in (features, None):
        expected = chain_multi_tracks(Evidence(flows, chosen.chain, given), QUERIES, FRAMES)
        equal(run(chosen, flows=flows, features=given), expected)


def test_optimize_alone_needs_no_flows(model):
    chosen = preset("optimize", fuse=False)
    equal(run(chosen, model=model), model_tracks(still_model(), QUERIES, chosen.readout.occlusion_depth))


def test_optimize_fused(model, flows):
    chosen = preset("optimize", fuse=True)
    proposal = model_tracks(still_model(), QUERIES, chosen.readout.occlusion_depth)
    evidence = chain_multi_tracks(Evidence(flows, chosen.chain), QUERIES, FRAMES)
    equal(
        run(chosen, model=model, flows=flows),
        fuse(evidence, proposal, Evidence(flows, chosen.chain), QUERIES, chosen.readout),
    )


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_runs_and_returns_its_queries(name, model, flows, tmp_path, monkeypatch):
    install_cotracker(monkeypatch)
    chosen = load_preset(name)
    if chosen.tracker == "cotracker":
        weights = cotracker_weights(tmp_path / "cotracker.pth", chosen.cotracker.model)
        chosen = load_preset(name, {name: {"cotracker": {"weights": str(weights)}}})
    if chosen.tracker == "pips2":
        weights = pips_weights(tmp_path / "pips.pth")
        small = {"weights": str(weights), "size": [128, 128], "iterations": 1, "returns": 1}
        chosen = load_preset(name, {name: {"pips": small}})
    found = track(chosen, QUERIES, TrackInputs(VIDEO, flows=flows, model=model), "cpu", 0)
    rows = QUERIES[:, 0].astype(int), np.arange(3)
    assert found.tracks.shape == (FRAMES, 3, 2)
    np.testing.assert_array_equal(found.tracks[rows], QUERIES[:, 1:])
    assert found.visible[rows].all()
    assert (found.confidence[rows] >= 0.5).all()


@pytest.mark.parametrize(
    "chosen, missing",
    [
        (preset("chain"), "flows"),
        (preset("chain-multi"), "flows"),
        (preset("optimize", fuse=True), "the optimised model"),
    ],
    ids=["chain", "chain-multi", "optimize"],
)
def test_a_missing_input_is_one_sentence(chosen, missing):
    with pytest.raises(ArtifactError) as error:
        run(chosen)
    text = str(error.value)
    assert missing in text
    assert text.endswith(".")
    assert "\n" not in text


def test_a_fused_preset_without_flows_says_so(model):
    with pytest.raises(ArtifactError, match="flows"):
        run(preset("optimize", fuse=True), model=model)


def test_a_model_file_that_is_not_there(tmp_path):
    with pytest.raises(ArtifactError, match="missing"):
        run(preset("optimize", fuse=False), model=tmp_path / "model.pt")


@pytest.mark.parametrize("frames, size", [(FRAMES + 1, SIZE), (FRAMES, (24, 30))])
def test_the_model_of_another_video_is_refused(tmp_path, frames, size):
    save_model(tmp_path / "model.pt", MotionModel(frames, size, SMALL, 0))
    with pytest.raises(ArtifactError, match="another video"):
        run(preset("optimize", fuse=False), model=tmp_path / "model.pt")


# ------------------------------------------------------------------------------------------------ model alone


def test_what_lies_behind_the_depth_map_is_occluded():
    made = still_model()
    maps = np.zeros((FRAMES, *made.depth.size), np.float32)
    maps[3, :, :4] = -0.5  # in frame 3 something is in front of the left half
    made.set_depth(maps)
    queries = np.array([[0, 6.0, 8.0], [0, 28.0, 8.0], [3, 6.0, 8.0]], np.float32)
    found = model_tracks(made, queries, 0.1)
    np.testing.assert_allclose(found.tracks, np.repeat(queries[None, :, 1:], FRAMES, axis=0), atol=1e-4)
    assert found.visible[:, 0].tolist() == [True, True, True, False, True]
    assert found.visible[:, 1].all()
    assert found.visible[:, 2].all()  # the one in front is never hidden
    assert found.confidence[3, 0] < 0.1 < found.confidence[2, 0]


def test_what_leaves_the_frame_is_occluded():
    made = still_model()
    path = np.repeat(np.eye(3)[None], FRAMES, axis=0)
    path[:, 0, 2] = 8.0 * np.arange(FRAMES)  # the camera moves right: points move left by 8 px a frame
    made.set_camera(path)
    found = model_tracks(made, np.array([[0, 18.0, 10.0]], np.float32), 0.1)
    np.testing.assert_allclose(found.tracks[:, 0, 0], 18.0 - 8 * np.arange(FRAMES), atol=1e-3)
    assert found.visible[:, 0].tolist() == [True, True, True, False, False]


def test_a_query_on_the_border_is_seen_in_its_own_frame():
    found = model_tracks(still_model(), np.array([[1, -0.5, 23.5]], np.float32), 0.1)
    assert found.visible[:, 0].tolist() == [False, True, False, False, False]
    assert found.tracks[1, 0].tolist() == [-0.5, 23.5]


def test_parts_of_the_queries_give_the_same_as_all_at_once(monkeypatch):
    made = MotionModel(FRAMES, SIZE, SMALL, 3)
    queries = np.column_stack([np.arange(23) % FRAMES, np.linspace(0, 31, 23), np.linspace(0, 23, 23)]).astype("f4")
    whole = model_tracks(made, queries, 0.1)
    monkeypatch.setattr(model_room, "POINTS_AT_ONCE", 7)
    parts = model_tracks(made, queries, 0.1)
    np.testing.assert_allclose(parts.tracks, whole.tracks, atol=1e-4)
    np.testing.assert_array_equal(parts.visible, whole.visible)


def test_no_queries_for_a_model():
    found = model_tracks(still_model(), np.empty((0, 3), np.float32), 0.1)
    assert found.tracks.shape == (FRAMES, 0, 2)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """A scene of 30 frames with exact flows, a rival and features, all of them."""
    made = scene("parallax", 30)
    frames = render(made)
    store = exact_store(made, tmp_path_factory.mktemp("long") / "flow", (1, 2, 4))
    features = np.random.default_rng(0).normal(size=(30, 4, 6, 5)).astype(np.float16)
    return Evidence(store, ChainOptions(intervals=(1, 2, 4)), features, frames, store)


def test_companions_of_a_long_video_are_walked_as_in_one_piece(long_video):
    options = CompanionOptions(every=3, points=12, span=5)
    blocks = walk_companions(long_video, 30, options)
    assert len(blocks) == 6
    whole = chain_multi_tracks(long_video, starts(long_video.store, 30, options), 30)
    column = 0
    for block in blocks:
        frames, count = block.tracks.visible.shape
        assert frames <= 3 * options.span
        part = slice(block.first, block.first + frames), slice(column, column + count)
        equal(block.tracks, [of[part] for of in whole])
        column += count
    assert column == whole.visible.shape[1]
    assert whole.visible[20:, :12].any()  # a whole walk goes on where a block's ends


def test_what_is_said_of_some_frames_is_what_is_said_of_all(long_video):
    part = long_video.between(10, 20)
    xy = np.random.default_rng(1).uniform(8, 24, (6, 2)).astype(np.float32)
    assert part.neighbours(0, 10) == [1, 2, 4]
    assert not part.both_ways(0, 3)
    equal(part.step(2, 4, xy), long_video.step(12, 14, xy))
    queries = np.column_stack([np.full(6, 3), xy])
    rows = np.arange(6)
    here, there = part.appearance(queries), long_video.appearance(queries + np.float32([10, 0, 0]))
    equal(here.similarity(rows, xy, 5), there.similarity(rows, xy, 15))
