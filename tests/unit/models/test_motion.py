"""The motion model: camera maps, transport between frames, its file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everypoint.errors import ArtifactError
from everypoint.models.files import load_model, save_model
from everypoint.models.motion import MotionModel
from tests.unit.models.made import SIZE, model, options, pixels


def camera_path(frames: int) -> np.ndarray:
    """A camera that pans, turns and zooms: affine maps [T, 2, 3] into frame 0."""
    affine = np.empty((frames, 2, 3))
    for t in range(frames):
        angle, zoom = 0.04 * t, 1.03**t
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        affine[t] = np.column_stack([turn, [3.0 * t, -1.5 * t]])
    return affine


def corners() -> torch.Tensor:
    height, width = SIZE
    return torch.tensor([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], dtype=torch.float32)


@pytest.mark.parametrize("frames", [2, 5, 25, 100])
def test_all_corners_of_all_frames_lie_in_the_unit_square_and_touch_it(frames):
    made = model(frames)
    made.set_camera(camera_path(frames))
    lifted = torch.cat([made.lift(corners(), torch.full((4,), t)) for t in range(frames)])[:, :2].detach()
    assert lifted.abs().max() <= 1 + 1e-6
    assert lifted.abs().max() > 1 - 1e-5
    span = lifted.amax(0) - lifted.amin(0)
    torch.testing.assert_close(lifted.amax(0) + lifted.amin(0), torch.zeros(2), atol=1e-5, rtol=0)  # centred
    torch.testing.assert_close(span.max(), torch.tensor(2.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [2, 5, 25, 100])
def test_camera_map_and_its_inverse(frames):
    made = model(frames)
    made.set_camera(camera_path(frames))
    xy, frame, _, _ = pixels(500, frames)
    with torch.no_grad():
        parts = made.bijection.time_parts()
        there = made.project(made.canonical(xy, frame, parts), frame, parts)
    assert (there.xy - xy).abs().max() < 1e-4 * (1 + 1.03**frames / 4)  # px; zoomed-out frames are small in the plane


def test_camera_motion_alone_transports_like_the_affine_maps():
    """With couplings that are the identity the model is the camera path."""
    made = model(6)
    with torch.no_grad():
        for conditioner in made.bijection.conditioners:
            conditioner.last.weight.zero_()
    affine = camera_path(6)
    made.set_camera(affine)
    full = np.concatenate([affine, np.tile([[[0, 0, 1]]], (6, 1, 1))], axis=1)
    xy, i, j, _ = pixels(300, 6)
    with torch.no_grad():
        moved = made.transport(xy, i, j).xy.numpy()
    for n in range(300):
        expected = np.linalg.inv(full[j[n]]) @ full[i[n]] @ [*xy[n].tolist(), 1]
        np.testing.assert_allclose(moved[n], expected[:2], atol=1e-4)


@pytest.mark.parametrize("coupling", ["piecewise", "affine"])
@pytest.mark.parametrize("frames", [2, 5, 25])
def test_transport_over_a_third_frame_is_the_direct_one(coupling, frames):
    made = model(frames, wild=3.0, blocks=6, coupling=coupling)
    made.set_camera(camera_path(frames))
    xy, i, j, k = pixels(2000, frames)
    with torch.no_grad():
        parts = made.bijection.time_parts()
        canonical = made.canonical(xy, i, parts)
        local = made.bijection.local(canonical, j, parts)
        again = made.bijection.canonical(local, j, parts)
        direct = made.project(canonical, k, parts)
        over = made.project(again, k, parts)
        same = made.transport(xy, i, i, parts)
    assert (over.xy - direct.xy).abs().max() < 1e-4
    assert (over.z - direct.z).abs().max() < 1e-5
    assert (same.xy - xy).abs().max() < 1e-4
    assert (same.z - made.depth(xy, i)).abs().max() < 1e-5


def test_depth_of_a_pixel_is_that_of_its_frame():
    made = model(3)
    maps = np.random.default_rng(0).normal(size=(3, *made.depth.size)).astype(np.float32)
    made.set_depth(maps)
    torch.testing.assert_close(made.depth.maps(), torch.from_numpy(maps))
    xy, frame, _, _ = pixels(100, 3)
    torch.testing.assert_close(made.lift(xy, frame)[:, 2], made.depth(xy, frame))


def test_equal_seeds_give_equal_models():
    first, second, other = model(6, seed=1), model(6, seed=1), model(6, seed=2)
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values()):
        assert torch.equal(a, b), name
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters()))


def test_making_a_model_leaves_the_global_generator_where_only_it_was():
    """Initial values come from the seed alone, whatever was drawn before."""
    torch.manual_seed(3)
    first = model(6)
    torch.manual_seed(4)
    for a, b in zip(first.parameters(), model(6).parameters()):
        assert torch.equal(a, b)


# ------------------------------------------------------------------------------------------------ the file


def test_saved_and_loaded_model_transports_bit_for_bit(tmp_path):
    made = model(6, wild=10.0, seed=11, blocks=6)
    made.set_camera(camera_path(6))
    save_model(tmp_path / "model.pt", made)
    loaded = load_model(tmp_path / "model.pt")
    xy, i, j, _ = pixels(1000, 6)
    with torch.no_grad():
        expected = made.transport(xy, i, j)
    got = loaded.transport(xy, i, j)
    assert torch.equal(got.xy, expected.xy)
    assert torch.equal(got.z, expected.z)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert (loaded.frames, loaded.frame_size, loaded.options) == (6, SIZE, made.options)


def one_sentence(error: pytest.ExceptionInfo[ArtifactError], name: str) -> None:
    text = str(error.value)
    assert name in text
    assert "\n" not in text
    assert "weights_only" not in text  # torch's advice to load the file unsafely is not ours
    assert len(text) < 400


def test_missing_model_is_one_sentence(tmp_path):
    with pytest.raises(ArtifactError, match="missing") as error:
        load_model(tmp_path / "model.pt")
    one_sentence(error, "model.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_model_is_refused(tmp_path, share):
    path = tmp_path / "model.pt"
    save_model(path, model(6))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ArtifactError) as error:
        load_model(path)
    one_sentence(error, "model.pt")


@pytest.mark.parametrize(
    "content",
    [
        {"weights": torch.zeros(3)},
        [1, 2],
        {"schema_version": 2, "frames": 6},
        {
            "schema_version": 1,
            "frames": 6,
            "frame_size": [32, 48],
            "options": {"blocks": 3, "hidden": 256},
            "state": {},
        },
        {
            "schema_version": 1,
            "frames": 6,
            "frame_size": [32, 48],
            "options": options().model_dump(),
            "state": {"camera": torch.zeros(6, 2, 3)},
        },
    ],
    ids=["foreign", "list", "newer", "unknown option", "missing weights"],
)
def test_foreign_model_is_refused(tmp_path, content):
    path = tmp_path / "model.pt"
    torch.save(content, path)
    with pytest.raises(ArtifactError) as error:
        load_model(path)
    one_sentence(error, "model.pt")


class Hostile:
    def __reduce__(self):
        return (print, ("ran",))


def test_hostile_model_is_refused_before_it_runs(tmp_path, capsys):
    path = tmp_path / "model.pt"
    torch.save({"schema_version": Hostile()}, path)
    with pytest.raises(ArtifactError) as error:
        load_model(path)
    one_sentence(error, "model.pt")
    assert "ran" not in capsys.readouterr().out


def test_a_flipped_bit_in_the_weights_is_noticed(tmp_path):
    made = model(6, wild=1.0)
    path = tmp_path / "model.pt"
    save_model(path, made)
    data = bytearray(path.read_bytes())
    at = data.index(made.depth.map.detach().numpy().tobytes()[:64])  # inside the stored depth maps
    data[at + 10] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(ArtifactError):
        load_model(path)


def test_a_video_of_two_frames_and_two_pixels_works():
    made = MotionModel(2, (2, 2), options(), 0)
    made.set_camera(np.repeat(np.eye(3)[None, :2], 2, axis=0))
    xy = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    moved = made.transport(xy, torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert moved.xy.isfinite().all()
