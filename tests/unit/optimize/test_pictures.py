"""Pictures for TensorBoard: what they show, and that they keep their share of the time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everypoint.config.options import ModelOptions
from everypoint.models.motion import MotionModel
from everypoint.optimize import pictures
from everypoint.optimize.pictures import FIRST_SECONDS, Pictures
from everypoint.optimize.progress import Progress
from tests.unit.models import made_rays

FRAMES, SIZE = 5, made_rays.SIZE
IMAGES = np.random.default_rng(0).integers(0, 256, (FRAMES, *SIZE, 3), np.uint8)


def planes() -> MotionModel:
    return MotionModel(FRAMES, SIZE, ModelOptions(blocks=2, plane_resolutions=(3, 5), plane_channels=4), 0)


MODELS = {"planes": planes, "field": made_rays.omnimotion, "pixels": made_rays.pixels}


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_has_its_pictures(kind):
    made = Pictures(IMAGES, 0.02).make(MODELS[kind]())
    expected = {"correspondences/0_to_1", "correspondences/0_to_2", "correspondences/0_to_4", "depth/0", "depth/2"}
    assert set(made) == expected | ({"colour/0"} if kind == "field" else set())
    assert all(picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 for picture in made.values())
    assert made["correspondences/0_to_1"].shape == (SIZE[0], 2 * SIZE[1], 3)


@pytest.mark.parametrize("frames", [1, 2])
def test_the_shortest_videos_have_pictures_too(frames):
    model = MotionModel(frames, SIZE, ModelOptions(blocks=2, plane_resolutions=(3,), plane_channels=4), 0)
    made = Pictures(IMAGES[:frames], 0.02).make(model)
    assert "depth/0" in made


def test_a_still_model_shows_each_point_at_its_place():
    """An untrained model of planes hardly moves anything: both halves of the panel carry the same discs."""
    still = np.repeat(IMAGES[:1], FRAMES, 0)
    panel = Pictures(still, 0.02).make(planes())["correspondences/0_to_4"]
    left, right = panel[:, : SIZE[1]], panel[:, SIZE[1] :]
    assert (left != still[0]).any()
    assert (left != right).any(-1).mean() < 0.05


def test_depth_is_that_of_the_model():
    model = made_rays.pixels()
    assert pictures.small_size(SIZE) == SIZE  # small enough to be shown pixel by pixel
    assert np.allclose(pictures.depth_of(model, 3), model.depth.maps()[3].detach(), atol=1e-6)
    ray = made_rays.omnimotion()
    found = pictures.depth_of(ray, 1)
    xy = torch.tensor([[7.0, 5.0]])
    one = ray.ray(xy, torch.tensor([1]), ray.parts())
    assert found[5, 7] == pytest.approx(float((one.weights * one.depths).sum().detach()), abs=1e-5)


def test_large_frames_are_rendered_small():
    assert pictures.small_size((480, 854)) == (54, 96)
    assert pictures.small_size((50, 40)) == (50, 40)


def test_near_is_bright_and_a_flat_map_is_no_failure():
    picture = pictures.depth_picture(np.linspace(0, 1, 50).reshape(5, 10)).astype(int)
    assert (picture[0, 0] != picture[-1, -1]).any()
    assert pictures.depth_picture(np.ones((3, 4))).shape == (3, 4, 3)


def test_the_wheel_gives_opposite_points_different_colours():
    colours = pictures.wheel(np.array([[0, 0], [10, 0], [10, 10], [0, 10]], np.float32))
    assert len(set(colours)) == 4


def test_pictures_keep_their_share(monkeypatch):
    """Each takes 2 s by the clock; with a share of 2 % the next is due 100 s of training later."""
    times = iter(range(0, 1000, 2))
    made = Pictures(IMAGES, 0.02, clock=lambda: next(times))
    model = planes()
    assert not made.due(FIRST_SECONDS - 1)
    assert made.due(FIRST_SECONDS)
    made.make(model)
    assert not made.due(199)  # 2 s spent, 2 s to come
    assert made.due(200)
    made.make(model)
    assert not made.due(299)
    assert made.due(300)
    assert not Pictures(IMAGES, 0.0).due(1e9)


def test_they_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    progress = Progress(tmp_path, 10, tensorboard=True, title="t", pictures=Pictures(IMAGES, 1.0))
    progress.start(0, [])
    row = {"step": 5, "seconds": 100.0, "error": 1.0}
    progress.row(row)
    progress.show(planes(), row)
    progress.close()
    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"images": 0})
    events.Reload()
    assert "depth/0" in events.Tags()["images"]
    assert events.Images("depth/0")[0].step == 5


def test_without_tensorboard_nothing_is_drawn(tmp_path):
    class Never(Pictures):
        def make(self, model):
            raise AssertionError

    progress = Progress(tmp_path, 10, tensorboard=False, title="t", pictures=Never(IMAGES, 1.0))
    progress.start(0, [])
    progress.show(planes(), {"step": 5, "seconds": 1e6})
