"""The rendered data set in PointOdyssey's layout says of itself what its pictures show."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.errors import InputError
from everypoint.scenes import odyssey
from everypoint.scenes.presets import preset
from everypoint.scenes.truth import ground_truth, sample_points

SIZE, FRAMES, POINTS = (48, 64), 5, 40


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odyssey") / "occluder"
    scene = preset("occluder", SIZE, FRAMES, 3)
    odyssey.write_sequence(folder, scene, POINTS, seed=3)
    return folder, scene


def test_every_file_of_the_layout_is_there(sequence):
    folder, _ = sequence
    for kind, name, dtype, channels in (
        ("rgbs", "rgb_%05d.jpg", np.uint8, 3),
        ("depths", "depth_%05d.png", np.uint16, 1),
        ("masks", "mask_%05d.png", np.uint8, 1),
        ("normals", "normal_%05d.jpg", np.uint8, 3),
    ):
        assert sorted(path.name for path in (folder / kind).iterdir()) == [name % t for t in range(FRAMES)]
        image = cv2.imread(str(folder / kind / (name % 0)), cv2.IMREAD_UNCHANGED)
        assert image.dtype == dtype
        assert image.shape == (SIZE if channels == 1 else (*SIZE, 3))
    arrays, info = atomic.load_npz(folder / "anno.npz"), atomic.load_npz(folder / "info.npz")
    assert set(arrays) == {"trajs_2d", "trajs_3d", "visibs", "valids", "intrinsics", "extrinsics"}
    assert {name: tuple(shape) for name, shape in info.items()} == {name: a.shape for name, a in arrays.items()}


def test_the_camera_takes_world_points_to_the_tracks(sequence):
    arrays = atomic.load_npz(sequence[0] / "anno.npz")
    world = np.concatenate([arrays["trajs_3d"], np.ones((FRAMES, POINTS, 1))], axis=-1)
    camera = np.einsum("tij,tnj->tni", arrays["extrinsics"], world)[..., :3]
    image = np.einsum("tij,tnj->tni", arrays["intrinsics"], camera)
    np.testing.assert_allclose(image[..., :2] / image[..., 2:], arrays["trajs_2d"], atol=2e-3)


def test_depth_and_mask_fit_the_tracks_that_are_seen(sequence):
    folder, _ = sequence
    arrays = atomic.load_npz(folder / "anno.npz")
    for t in range(FRAMES):
        depth = cv2.imread(str(folder / "depths" / f"depth_{t:05d}.png"), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(folder / "masks" / f"mask_{t:05d}.png"), cv2.IMREAD_UNCHANGED)
        xy = np.rint(arrays["trajs_2d"][t]).astype(int)
        inside = arrays["visibs"][t] & (xy >= 0).all(axis=1) & (xy[:, 0] < SIZE[1]) & (xy[:, 1] < SIZE[0])
        x, y = xy[inside].T
        z = (arrays["trajs_3d"][t] @ arrays["extrinsics"][t, :3, :3].T + arrays["extrinsics"][t, :3, 3])[inside, 2]
        error = np.abs(depth[y, x] / 65535 * 1000 - z)
        assert np.median(error) < 0.016  # depth is stored in steps of 15 mm
        assert np.mean(error < 0.06) > 0.8  # but for points less than a pixel from an outline
        assert set(np.unique(mask)) <= {86, 170, 255}  # of the three objects
    assert not (mask == 0).any()


def test_tracks_are_the_scenes_truth_in_index_pixels(sequence):
    folder, scene = sequence
    arrays = atomic.load_npz(folder / "anno.npz")
    tracks, visible = ground_truth(scene, sample_points(scene, POINTS, 3))
    np.testing.assert_allclose(arrays["trajs_2d"], tracks - 0.5, atol=1e-3)
    np.testing.assert_array_equal(arrays["visibs"], visible)
    assert arrays["valids"].all()
    assert 0 < visible.mean() < 1


def test_the_old_layout_says_the_same_in_one_array(sequence):
    scene = sequence[1]
    new, old = odyssey.annotations(scene, POINTS, 3), odyssey.annotations(scene, POINTS, 3, "v1.0")
    assert "visibs" not in old
    np.testing.assert_array_equal(old["visibilities"] == 1, new["visibs"])
    np.testing.assert_array_equal(old["visibilities"] < 2, new["valids"])
    np.testing.assert_array_equal(old["trajs_2d"], new["trajs_2d"])


def test_normals_face_the_camera_with_unit_length(sequence):
    scene = sequence[1]
    for t in (0, FRAMES - 1):
        normals = odyssey._normals(scene, t) / 127.5 - 1
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=0.02)
        assert (normals[:, 2] <= 0.01).all()


@pytest.mark.parametrize(
    ("sequences", "train", "val", "test"), [(1, 1, 0, 0), (2, 2, 0, 0), (3, 1, 1, 1), (6, 4, 1, 1), (12, 8, 2, 2)]
)
def test_splits(sequences, train, val, test):
    splits = odyssey._splits(sequences)
    assert [splits.count(name) for name in odyssey.SPLITS] == [train, val, test]


def test_equal_arguments_give_equal_files(tmp_path):
    for name in ("one", "two"):
        written = odyssey.write_odyssey(tmp_path / name, 1, 2, (16, 24), points=4, seed=5)
    assert written == {"train": ["two_planes_00"], "val": [], "test": []}
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert len(files) == 2 * 4 + 2
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_impossible_data_sets_are_refused(tmp_path):
    with pytest.raises(InputError, match="0 sequences of 5 frames"):
        odyssey.write_odyssey(tmp_path, 0, 5, SIZE)
