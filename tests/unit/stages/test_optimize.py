"""Stage optimize: the same model whatever the number of threads that the job was given."""

from __future__ import annotations

import pytest
import torch

from everypoint.artifacts.folder import sha256_of
from everypoint.artifacts.matches import save_matches
from everypoint.optimize import camera
from everypoint.stages import optimize
from tests.unit.optimize.made import camera_matches
from tests.unit.optimize.test_run import small_preset, video


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_model_does_not_depend_on_the_threads_of_the_job(tmp_path, monkeypatch):
    monkeypatch.setattr(camera, "ADJUSTMENT_STEPS", 20)
    matches = camera_matches(frames=6, gaps=(1, 2), square=(2.0, 0.0))
    save_matches(tmp_path / "matches.npz", matches)
    frames = video(tmp_path / "frames", 6, matches.size)
    preset = small_preset(steps=6, sampler={"batch": 4096}).model_dump(mode="json")
    models = []
    for threads in (1, 2):
        output = tmp_path / str(threads) / "model.pt"
        optimize.run(
            matches=str(tmp_path / "matches.npz"),
            frames=str(frames / "frames.npy"),
            preset=preset,
            seed=0,
            output=str(output),
            device="cpu",
            threads=threads,
        )
        models.append(sha256_of(output))
    assert len(set(models)) == 1
