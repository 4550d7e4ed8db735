"""CoTracker as a tracker of its own, by a fake of it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from everypoint.config.presets import load_preset
from everypoint.errors import MissingPackageError
from everypoint.track.cotracker import cotracker_tracks
from everypoint.track.dispatch import TrackInputs, track
from tests.fakes import cotracker_weights, install_cotracker
from tests.unit.correspond.zooming import Zoom

QUERIES = np.array([[0, 30.5, 20.25], [3, 12, 36.5], [7, 33, 21], [4, 62.5, 10]], np.float32)


@pytest.fixture
def preset(monkeypatch, tmp_path):
    install_cotracker(monkeypatch)

    def chosen(**options):
        model = options.get("model", "cotracker3-offline")
        options["weights"] = str(cotracker_weights(tmp_path / f"{model}.pth", model))
        return load_preset("cotracker", {"cotracker": {"cotracker": options}})

    return chosen


@pytest.fixture(scope="module")
def zoom() -> Zoom:
    return Zoom(8, zoom=1.05)


@pytest.mark.parametrize("model", ["cotracker3-offline", "cotracker2-online"])
def test_follows_the_true_tracks(preset, zoom, model):
    found = track(preset(model=model), QUERIES, TrackInputs(zoom.frames), "cpu", 0)
    truth = zoom.truth(QUERIES)
    assert np.linalg.norm(found.tracks - truth, axis=-1)[zoom.inside(truth)].max() < 0.05
    own = QUERIES[:, 0].astype(int), np.arange(4)
    np.testing.assert_array_equal(found.tracks[own], QUERIES[:, 1:])
    assert found.visible[own].all()
    assert (found.confidence[own] == 1).all()
    assert found.visible[zoom.inside(truth, 0.1)].all()
    others = ~zoom.inside(truth, -0.1)
    others[own] = False
    assert others.any()
    assert not found.visible[others].any()
    assert (found.tracks.dtype, found.visible.dtype, found.confidence.dtype) == (np.float32, bool, np.float32)


@pytest.mark.parametrize("model, score", [("cotracker3-offline", 0.64), ("cotracker3-online", 1), ("cotracker2", 0)])
@pytest.mark.parametrize("threshold", [0.6, 0.7])
def test_the_threshold_of_visibility(preset, zoom, model, score, threshold):
    frames = zoom.frames.copy()
    frames[5, ..., 2] = 25  # everything looks a little different: visibility 0.67, confidence 0.95
    chosen = preset(model=model, visibility=threshold)
    found = cotracker_tracks(frames, QUERIES[:1], chosen.cotracker)
    assert found.confidence[5, 0] == pytest.approx(score, abs=0.03)
    assert found.visible[:, 0].tolist() == [t != 5 or score >= threshold for t in range(8)]


@pytest.mark.parametrize("threshold", [0.6, 1.0])
def test_a_query_is_visible_whatever_the_threshold_and_the_place(preset, zoom, threshold):
    outside = np.array([[2, -0.5, 47.5], [2, 70, 20]], np.float32)
    found = cotracker_tracks(zoom.frames, outside, preset(visibility=threshold).cotracker)
    assert found.visible[2].all()
    np.testing.assert_array_equal(found.tracks[2], outside[:, 1:])


def test_what_lies_outside_is_not_visible_though_the_network_says_so(preset, zoom, monkeypatch):
    network = sys.modules["cotracker.predictor"].Network
    monkeypatch.setattr(network, "fault", lambda self, tracks, visibility, queries: (tracks, 0.99 + 0 * visibility))
    truth = zoom.truth(QUERIES)
    found = cotracker_tracks(zoom.frames, QUERIES, preset().cotracker)
    outside = ~zoom.inside(truth, -0.1)
    outside[4, 3] = False  # its own frame
    assert outside.any()
    assert not found.visible[outside].any()
    assert (found.confidence[outside] > 0.9).all()


def test_no_queries(preset, zoom):
    found = cotracker_tracks(zoom.frames, np.empty((0, 3), np.float32), preset().cotracker)
    assert (found.tracks.shape, found.visible.shape, found.confidence.shape) == ((8, 0, 2), (8, 0), (8, 0))


def test_the_preset_needs_neither_flows_nor_features():
    preset = load_preset("cotracker")
    assert (preset.flow.backend, preset.features.backend, preset.walks) == ("none", "none", False)
    assert "CC-BY-NC 4.0" in preset.description


def test_without_the_package_it_is_one_sentence(zoom, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cotracker", None)
    chosen = load_preset("cotracker", {"all": {"cotracker": {"weights": str(cotracker_weights(tmp_path / "w.pth"))}}})
    with pytest.raises(MissingPackageError, match="CC-BY-NC 4.0"):
        track(chosen, QUERIES, TrackInputs(zoom.frames), "cpu", 0)
