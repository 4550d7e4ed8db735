"""The real CoTracker, where somebody has installed it: with random weights it gives what its own predictor gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from everypoint.config.options import CotrackerOptions
from everypoint.correspond.cotracker_runner import MODELS, CotrackerRunner
from tests.unit.correspond.zooming import Zoom

QUERIES = np.array([[0, 30.5, 20.25], [4, 12, 36.5], [9, 33, 21]], np.float32)


@pytest.fixture
def real():
    return pytest.importorskip("cotracker.predictor", reason="CoTracker (CC-BY-NC 4.0) is not installed")


def random_weights(real, tmp_path: Path, model: str) -> Path:
    torch.manual_seed(0)
    kind = real.CoTrackerOnlinePredictor if MODELS[model].online else real.CoTrackerPredictor
    made = kind(checkpoint=None, window_len=MODELS[model].window, **MODELS[model].arguments)
    torch.save(made.model.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_built_and_runs(real, tmp_path, model):
    weights = random_weights(real, tmp_path, model)
    found = CotrackerRunner(CotrackerOptions(model=model, weights=str(weights))).track(Zoom(10).frames, QUERIES)
    own = QUERIES[:, 0].astype(int), np.arange(3)
    np.testing.assert_array_equal(found.xy[own], QUERIES[:, 1:])
    assert np.isfinite(found.xy).all()
    assert found.score.min() >= 0
    assert found.score.max() <= 1


@pytest.mark.slow
def test_the_inner_network_gives_what_the_predictor_gives(real, tmp_path):
    weights = random_weights(real, tmp_path, "cotracker3-offline")
    frames = Zoom(10).frames
    found = CotrackerRunner(CotrackerOptions(weights=str(weights))).track(frames, QUERIES)
    predictor = real.CoTrackerPredictor(checkpoint=str(weights), offline=True, window_len=60)
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float()
    tracks, visible = predictor(video, queries=torch.from_numpy(QUERIES)[None], backward_tracking=True)
    np.testing.assert_allclose(found.xy, tracks[0].numpy(), atol=0.05)
    sure = np.abs(found.visibility - 0.9) > 1e-3
    np.testing.assert_array_equal((found.visibility > 0.9)[sure], visible[0].numpy()[sure])
