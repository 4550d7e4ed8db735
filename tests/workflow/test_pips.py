"""PIPs++ through the real workflow: as a tracker, and its test on a data set. Weights are made by formula."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.artifacts.tracks import SCHEMA_VERSION, load_tracks
from tests.unit.pips.weights import pips_weights
from tests.workflow.conftest import add_scene

FRAMES = 5


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(pips_weights(tmp_path_factory.mktemp("weights") / "model-000000001.pth"))


@pytest.fixture(scope="module")
def tracked(workspace, weights):
    small = {"weights": weights, "size": [128, 192], "iterations": 1, "returns": 1}
    folder = workspace(methods=["pips2"], overrides={"pips2": {"pips": small}}, evaluate={"query_modes": ["first"]})
    add_scene(folder.videos, "scene", frames=FRAMES)
    folder.first = folder.finished()
    return folder


def test_tracks_pass_through_their_queries(tracked):
    """The scene brings annotations, hence queries of its own in several frames."""
    found = load_tracks(tracked.tracks("scene", "pips2"))
    rows = found.queries[:, 0].astype(int)
    assert found.tracks.shape[0] == FRAMES
    assert np.isfinite(found.tracks).all()
    assert np.array_equal(found.tracks[rows, np.arange(len(rows))], found.queries[:, 1:])
    assert found.visibility[rows, np.arange(len(rows))].all()
    assert found.meta["visibility"].startswith("forward-backward consistency")
    assert found.meta["preset"] == "pips2"
    assert SCHEMA_VERSION == 1


def test_it_needs_neither_flow_nor_features_nor_model(tracked):
    assert set(tracked.first.rules) == {"frames", "queries", "tracks", "evaluate", "report"}
    scores = json.loads((tracked.results / "scene" / "evaluate" / "pips2" / "metrics.json").read_text())
    assert scores


def test_a_bound_of_memory_redoes_nothing_but_a_size_does(tracked):
    small = tracked.config["overrides"]["pips2"]["pips"]
    config = {key: value for key, value in tracked.config.items() if key != "overrides"}
    tracked.configure(**config, overrides={"pips2": {"pips": {**small, "memory_gib": 0.5}}})
    assert "tracks" not in tracked.finished("-n").rules
    tracked.configure(**config, overrides={"pips2": {"pips": {**small, "size": [128, 160]}}})
    assert "tracks" in tracked.finished("-n").rules


def test_the_test_on_tapvid_prints_the_published_figures(workspace, weights):
    video = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)
    points = np.random.default_rng(1).uniform(0.2, 0.8, (4, 3, 2)).astype(np.float32)
    entry = {"video": video, "points": points, "occluded": np.zeros((4, 3), bool)}
    folder = workspace()
    folder.videos.rmdir()
    atomic.write_bytes(folder.folder / "davis.pkl", pickle.dumps({"goat": entry}))
    test = {"weights": weights, "tapvid": "davis.pkl", "size": [128, 160], "iterations": 1}
    folder.configure(pips={"test": test})
    folder.finished("--rerun-incomplete", "pips_test")  # a flag between, or the list of threads would take the target
    text = (folder.folder / "pips" / "test" / "summary.txt").read_text()
    assert [line.split()[0] for line in text.splitlines()] == ["tapvid", "goat", "mean", "published"]
    assert text.splitlines()[-1].split()[1:] == ["70.6", "89.3", "6.9"]
    result = json.loads((folder.folder / "pips" / "test" / "summary.json").read_text())["tapvid"]
    assert 0 <= result["mean"]["d_avg"] <= 100
