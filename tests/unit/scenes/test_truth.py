"""Exact tracks, visibility and flow against rays cast in world space, and against the pictures themselves."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from everypoint.errors import InputError
from everypoint.scenes.motion import Curve, Pose
from everypoint.scenes.presets import PRESETS, preset
from everypoint.scenes.render import render
from everypoint.scenes.scene import Camera, Layer, Scene, at, box, surface_at
from everypoint.scenes.shapes import Disc, Plane, Rectangle
from everypoint.scenes.textures import Texture
from everypoint.scenes.truth import annotations, flow, ground_truth, sample_points, surfaces
from tests.unit.scenes.casting import cast_track, first_hit, ray

FLAT = Texture(np.full((8, 8, 3), 200, np.float32), 1.0)
WALL = Layer("wall", Plane(), FLAT, Pose(at(0, 0, 4)))


@pytest.fixture(scope="module")
def scenes():
    return {name: preset(name, (128, 160), 9, seed=3) for name in PRESETS}


@pytest.mark.parametrize("name", PRESETS)
def test_tracks_equal_rays_cast_in_the_world(scenes, name):
    scene = scenes[name]
    rng = np.random.default_rng(0)
    queries = np.column_stack([rng.integers(0, 9, 30), rng.uniform(0, 160, 30), rng.uniform(0, 128, 30)])
    tracks, visible = ground_truth(scene, queries)
    for n, (t, x, y) in enumerate(queries):
        positions, seen = cast_track(scene, int(t), x, y)
        np.testing.assert_allclose(tracks[:, n], positions, atol=1e-8)
        np.testing.assert_array_equal(visible[:, n], seen)
    np.testing.assert_allclose(tracks[queries[:, 0].astype(int), np.arange(30)], queries[:, 1:], atol=1e-9)
    assert visible[queries[:, 0].astype(int), np.arange(30)].all()


def test_scenes_hide_and_show_points_again(scenes):
    for name, least in (("two_planes", 0.02), ("occluder", 0.05), ("parallax", 0.02), ("rotation", 0.01)):
        points, occluded = annotations(scenes[name], 100, seed=0)
        inside = ((points >= 0) & (points <= 1)).all(axis=-1)
        assert (occluded & inside).mean() > least, name  # hidden by a surface, not by the border
    _, occluded = annotations(scenes["occluder"], 100, seed=0)
    shown_again = [("".join("01"[int(hidden)] for hidden in row).strip("1")).count("10") for row in occluded]
    assert sum(count > 0 for count in shown_again) >= 10


def test_a_box_is_what_a_ray_meets_of_it():
    """The nearest of the six faces equals the slab test for rays against a box."""
    pose = Pose(at(0.1, -0.1, 3), Curve((0.5, 0.6, 0.3)), Curve((1.2,)))
    half = np.array([0.5, 0.4, 0.7])
    scene = Scene(box("box", tuple(half), (FLAT,), pose), size=(64, 64), frames=1)
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 64, (400, 2))
    layer, _, nearness = surface_at(scene, 0, xy)
    origin, basis = pose.at(0.0)
    hit = 0
    for n, (x, y) in enumerate(xy):
        eye, direction = ray(scene, 0, x, y)
        start, along = np.linalg.solve(basis, eye - origin), np.linalg.solve(basis, direction)
        low, high = np.sort([(-half - start) / along, (half - start) / along], axis=0)
        meets = low.max() <= high.min()
        assert meets == (layer[n] >= 0)
        if meets:
            assert 1 / nearness[n] == pytest.approx(low.max(), rel=1e-9)
            hit += 1
    assert 50 < hit < 350


@pytest.mark.parametrize("name", PRESETS)
def test_flow_is_the_track_of_every_pixel(scenes, name):
    scene = scenes[name]
    field, occluded = flow(scene, 2, 6)
    assert (field.shape, field.dtype, occluded.shape) == ((128, 160, 2), np.float32, (128, 160))
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 160, 200), rng.integers(0, 128, 200)
    tracks, visible = ground_truth(scene, np.column_stack([np.full(200, 2), x + 0.5, y + 0.5]))
    np.testing.assert_allclose(field[y, x] + np.column_stack([x, y]) + 0.5, tracks[6], atol=1e-4)
    np.testing.assert_array_equal(occluded[y, x], ~visible[6])
    still, hidden = flow(scene, 4, 4)
    np.testing.assert_allclose(still, 0, atol=1e-5)
    assert not hidden.any()


@pytest.mark.parametrize("name", PRESETS)
def test_flow_there_and_back(scenes, name):
    """A point that is seen in both frames comes back to its pixel."""
    scene = scenes[name]
    field, occluded = flow(scene, 1, 7)
    y, x = np.nonzero(~occluded)
    landed = np.column_stack([x, y]) + 0.5 + field[y, x].astype(np.float64)
    inside = ((landed > 0) & (landed < [160, 128])).all(axis=1)
    back, _ = ground_truth(scene, np.column_stack([np.full(inside.sum(), 7), landed[inside]]))
    error = np.abs(back[1] - np.column_stack([x, y])[inside] - 0.5).max(axis=1)
    # Rounding to float32 may move a point over an outline; that happens to next to none.
    assert (error < 1e-3).mean() > 0.999


def warped(frame, field, dx=0.0, dy=0.0):
    """``frame`` j pulled back to frame i through flow i -> j."""
    y, x = np.mgrid[: field.shape[0], : field.shape[1]].astype(np.float32)
    return cv2.remap(
        frame.astype(np.float32),
        x + field[..., 0] + dx,
        y + field[..., 1] + dy,
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_pictures_move_as_the_flow_says(name):
    """Warping by exact flow reproduces the picture; the best extra shift is none, to a fiftieth of a pixel."""
    scene = preset(name, seed=1)
    first, second = render(scene, frames=[4, 6])
    field, occluded = flow(scene, 4, 6)
    # Pixels on an outline mix two surfaces: they are left out, as are those whose window reaches over the border.
    edge = cv2.dilate(cv2.Laplacian(surfaces(scene, 4).astype(np.float32), cv2.CV_32F), None) != 0
    use = ~cv2.dilate((occluded | edge).astype(np.uint8), np.ones((7, 7))).astype(bool)
    use[:4], use[-4:], use[:, :4], use[:, -4:] = False, False, False, False
    assert use.mean() > 0.6

    def error(dx=0.0, dy=0.0):
        return np.square(warped(second, field, dx, dy) - first)[use].mean()

    root = np.sqrt(error())
    unmoved = np.sqrt(np.square(second.astype(np.float32) - first)[use].mean())
    assert root < 3.0
    assert root < 0.15 * unmoved
    step = 0.25
    for axis in ("dx", "dy"):
        before, here, after = error(**{axis: -step}), error(), error(**{axis: step})
        best = step * (before - after) / (2 * (before - 2 * here + after))
        assert abs(best) < 0.02, f"{axis}: the picture lies {best:.3f} px off the truth"


def test_hidden_pixels_do_not_match():
    """The occlusion mask is right in the pictures too: masked pixels warp to something else."""
    scene = preset("occluder")
    first, second = render(scene, frames=[6, 10])
    field, occluded = flow(scene, 6, 10)
    y, x = np.mgrid[:256, :256]
    landed = np.stack([x, y], axis=-1) + field
    covered = occluded & (landed > 0).all(axis=-1) & (landed < 255).all(axis=-1)
    difference = np.abs(warped(second, field) - first).mean(axis=-1)
    assert covered.sum() > 500
    assert np.median(difference[covered]) > 20 * np.median(difference[~occluded])


def test_points_behind_the_camera_are_hidden_and_unknown():
    plate = Layer("plate", Rectangle(5, 5), FLAT, Pose(at(0, 0, 1)))
    scene = Scene((WALL, plate), Camera(Pose(Curve((0, 0, 0), (0, 0, 2)))), (32, 32), 3)
    tracks, visible = ground_truth(scene, [[0, 10, 10]])
    assert visible[:, 0].tolist() == [True, False, False]
    assert np.isnan(tracks[2]).all()
    assert surfaces(scene, 0).tolist() == np.full((32, 32), 1).tolist()
    assert surfaces(scene, 2).tolist() == np.zeros((32, 32)).tolist()
    field, occluded = flow(scene, 0, 2)
    assert np.isnan(field).all()
    assert occluded.all()


def test_the_border_of_the_frame_belongs_to_it():
    """A still wall seen by a camera that pans so that raster x = 16 lands at exactly x = 0, then beyond."""
    focal = 1.0
    scene = Scene((WALL,), Camera(Pose(Curve((0, 0, 0), (4.0, 0, 0))), focal), (32, 32), 3)
    tracks, visible = ground_truth(scene, [[0, 16, 16]])
    np.testing.assert_allclose(tracks[:, 0, 0], [16, 0, -16], atol=1e-12)
    assert visible[:, 0].tolist() == [True, True, False]


def test_resolution_only_scales(scenes):
    for scene in scenes.values():
        queries = sample_points(scene, 12, seed=1)
        tracks, visible = ground_truth(scene, queries)
        large, large_visible = ground_truth(scene.resized((384, 480)), queries * [1, 3, 3])
        np.testing.assert_allclose(large, 3 * tracks, atol=1e-9)
        np.testing.assert_array_equal(large_visible, visible)


def test_annotations(scenes):
    scene = scenes["occluder"]
    points, occluded = annotations(scene, 40, seed=5)
    assert (points.shape, points.dtype, occluded.shape, occluded.dtype) == ((40, 9, 2), np.float32, (40, 9), bool)
    assert (~occluded).any(axis=1).all()
    inside = ((points >= 0) & (points <= 1)).all(axis=-1)
    assert inside[~occluded].all()
    again = annotations(scene, 40, seed=5)
    np.testing.assert_array_equal(again[0], points)
    np.testing.assert_array_equal(again[1], occluded)
    assert not np.array_equal(annotations(scene, 40, seed=6)[0], points)
    queries = sample_points(scene, 40, seed=5)
    names = [scene.layers[first_hit(scene, int(t), x, y)[1]].name for t, x, y in queries]
    assert [names.count(name) for name in ("wall", "box", "disc")] == [14, 13, 13]
    assert len(np.unique(queries[:, 0])) >= 7
    for t, x, y in queries:  # away from outlines
        around = np.array([x, y]) + 1.4 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
        assert len(set(surface_at(scene, int(t), around)[0].tolist())) == 1


def test_queries_that_cannot_be():
    scene = Scene((Layer("disc", Disc(0.2), FLAT, Pose(at(0, 0, 2))),), size=(32, 32), frames=2)
    with pytest.raises(InputError, match="t from 0 to 1"):
        ground_truth(scene, [[2, 16, 16]])
    with pytest.raises(InputError, match="meets no layer"):
        ground_truth(scene, [[0, 16, 16], [1, 1, 1]])
    tracks, visible = ground_truth(scene, np.zeros((0, 3)))
    assert (tracks.shape, visible.shape) == ((2, 0, 2), (2, 0))
    field, occluded = flow(scene, 0, 1)
    assert np.isnan(field[0, 0]).all()
    assert occluded[0, 0]
    with pytest.raises(InputError, match="impossible"):
        Scene((), size=(32, 32))
