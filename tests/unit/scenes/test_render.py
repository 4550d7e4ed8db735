"""Pictures: area-correct, deterministic, trackable."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from everypoint.errors import InputError
from everypoint.scenes.motion import Curve, Pose
from everypoint.scenes.presets import PRESETS, preset
from everypoint.scenes.render import SKY, render
from everypoint.scenes.scene import Camera, Layer, Scene, at
from everypoint.scenes.shapes import Disc, Plane, Polygon, Rectangle, star
from everypoint.scenes.textures import Texture, make_texture
from everypoint.scenes.truth import flow, surfaces


def flat(*colour):
    return Texture(np.full((8, 8, 3), colour, np.float32), 1.0)


def disc_scene(x=0.0, y=0.0, size=(48, 64), radius=0.5, frames=1):
    """A white disc before a black wall; focal length and depth are such that 1 unit is 24 pixels of 48."""
    wall = Layer("wall", Plane(), flat(0, 0, 0), Pose(at(0, 0, 4)))
    disc = Layer("disc", Disc(radius), flat(255, 255, 255), Pose(at(x, y, 2)))
    return Scene((disc, wall), Camera(focal=1.0), size, frames)


def test_a_disc_has_its_area_and_centre():
    for x, y in ((0.0, 0.0), (0.11, -0.07), (0.3, 0.21)):
        share = render(disc_scene(x, y), samples=8)[0, ..., 0] / 255
        assert share.sum() == pytest.approx(np.pi * 12**2, rel=2e-3)
        centre_y, centre_x = ((np.mgrid[:48, :64] + 0.5) * share).sum(axis=(1, 2)) / share.sum()
        assert (centre_x, centre_y) == pytest.approx((32 + 24 * x, 24 + 24 * y), abs=0.02)


@pytest.mark.parametrize("name", PRESETS)
def test_pixels_show_the_nearest_layer(name):
    """With one plain colour a layer, every pixel away from outlines has the colour that surface_at says."""
    scene = preset(name, (96, 128), 5)
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (len(scene.layers), 3))
    layers = tuple(
        Layer(layer.name, layer.shape, flat(*colour), layer.pose, layer.place)
        for layer, colour in zip(scene.layers, colours, strict=True)
    )
    plain = Scene(layers, scene.camera, scene.size, scene.frames)
    for t in (0, 2, 4):
        seen = surfaces(plain, t)
        low, high = (
            cv2.erode(seen.astype(np.int16), np.ones((3, 3))),
            cv2.dilate(seen.astype(np.int16), np.ones((3, 3))),
        )
        inner = low == high
        assert inner.mean() > 0.8
        right = (render(plain, frames=[t])[0] == colours[seen]).all(axis=-1)
        assert right[inner].mean() > 0.999  # a sliver thinner than a pixel may pass between the centres


def test_order_of_layers_does_not_matter():
    scene = preset("parallax", (64, 64), 3)
    turned = Scene(scene.layers[::-1], scene.camera, scene.size, scene.frames)
    np.testing.assert_array_equal(render(scene), render(turned))


def test_equal_seeds_give_equal_bytes():
    frames = render(preset("occluder", (64, 80), 4, seed=2))
    assert (frames.shape, frames.dtype) == ((4, 64, 80, 3), np.uint8)
    scene = preset("occluder", (64, 80), 4, seed=2)
    np.testing.assert_array_equal(render(scene), frames)
    np.testing.assert_array_equal(render(scene, frames=[3, 1]), frames[[3, 1]])
    assert not np.array_equal(render(preset("occluder", (64, 80), 4, seed=3)), frames)
    assert render(scene, (32, 32), [0]).shape == (1, 32, 32, 3)


def test_what_no_layer_covers_is_sky():
    scene = Scene((Layer("disc", Disc(0.1), flat(0, 0, 0), Pose(at(0, 0, 2))),), size=(32, 32), frames=1)
    assert render(scene)[0, 0, 0].tolist() == list(SKY)
    behind = Scene((Layer("disc", Disc(0.1), flat(0, 0, 0), Pose(at(0, 0, -2))),), size=(32, 32), frames=1)
    assert (render(behind)[0] == SKY).all()


@pytest.mark.parametrize("name", PRESETS)
def test_scenes_can_be_tracked(name):
    """OpenCV's DIS, a plain dense flow, finds the motion between neighbouring frames to a fraction of a pixel."""
    scene = preset(name)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in render(scene, frames=[10, 11])]
    found = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    true, occluded = flow(scene, 10, 11)
    error = np.linalg.norm(found - true, axis=-1)[~occluded]
    assert np.median(error) < 0.15
    assert np.quantile(error, 0.9) < 0.6
    moved = np.linalg.norm(true, axis=-1)
    assert moved.max() > 2.5
    assert moved.max() < 16


def test_pictures_are_well_exposed():
    for name in PRESETS:
        frame = render(preset(name), frames=[0])[0].astype(float)
        assert 60 < frame.mean() < 190
        assert frame.std() > 35
        # Blocks of 16 pixels without structure would be nothing to hold on to.
        blocks = frame.mean(axis=-1).reshape(16, 16, 16, 16).std(axis=(1, 3))
        assert (blocks > 6).mean() > 0.97


def test_textures_tile_and_have_levels():
    texture = make_texture(5, 2.0, hue=0.4)
    image = texture.image
    seam = np.abs(image[0] - image[-1]).mean(), np.abs(image[:, 0] - image[:, -1]).mean()
    inner = np.abs(np.diff(image, axis=0)).mean()
    assert max(seam) < 1.5 * inner
    assert [level.shape[0] for level in texture.levels] == [1024, 512, 256, 128, 64, 32, 16, 8]
    u, v = np.meshgrid(np.linspace(-3, 5, 50, dtype=np.float32), np.linspace(0, 1, 9, dtype=np.float32))
    step = 2.0 / 1024
    np.testing.assert_allclose(texture.sample(u, v, step), texture.sample(u + 2, v - 4, step), atol=2.0)
    coarse = texture.sample(u, v, 2.0 / 16)
    np.testing.assert_allclose(coarse.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=15)
    assert coarse.std() < 0.85 * texture.sample(u, v, step).std()


def test_levels_are_blended_without_a_jump():
    texture = make_texture(5, 2.0, hue=0.4)
    u, v = np.meshgrid(np.linspace(0, 1, 40, dtype=np.float32), np.linspace(0, 1, 40, dtype=np.float32))
    texel = 2.0 / 1024
    fine, coarse = texture.sample(u, v, texel), texture.sample(u, v, 2 * texel)
    assert np.abs(fine - coarse).max() > 5
    between = texture.sample(u, v, 2**0.25 * texel)
    np.testing.assert_allclose(between, 0.75 * fine + 0.25 * coarse, atol=1e-2)
    np.testing.assert_array_equal(texture.sample(u, v, texel / 3), fine)
    assert np.isfinite(texture.sample(u, v, 1e9)).all()


def test_a_texel_lies_where_it_should():
    """The colour of texel (i, j) is met at ((i + 0.5), (j + 0.5)) / density."""
    image = np.zeros((16, 16, 3), np.float32)
    image[3, 12] = 90
    texture = Texture(image, 4.0)
    u, v = np.float32([[12.5 / 4, 12.0 / 4, 12.5 / 4 + 4]]), np.float32([[3.5 / 4] * 3])
    np.testing.assert_allclose(texture.sample(u, v, 0.01)[0, :, 0], [90, 45, 90], atol=1e-3)


SQUARE = ((-1, -1), (1, -1), (1, 1), (-1, 1))


@pytest.mark.parametrize(
    "shape, area",
    [
        (Disc(0.8), np.pi * 0.64),
        (Rectangle(0.5, 0.9), 1.8),
        (Polygon(SQUARE), 4.0),
        (star(5, 1.0, 0.4), 5 * 1.0 * 0.4 * np.sin(np.pi / 5)),
        (Polygon(((-0.6, -0.6), (0.1, -0.6), (0.1, 0.0), (0.6, 0.0), (0.6, 0.6), (-0.6, 0.6))), 1.2 * 1.2 - 0.5 * 0.6),
    ],
)
def test_shapes(shape, area):
    centres = (np.arange(800) + 0.5) / 400 - 1
    u, v = np.meshgrid(centres, centres)
    inside = shape.inside(u, v)
    assert 4 * inside.mean() == pytest.approx(area, rel=5e-3)
    low, high = shape.hull().min(axis=0), shape.hull().max(axis=0)
    assert (u[inside] >= low[0]).all()
    assert (u[inside] <= high[0]).all()
    assert (v[inside] >= low[1]).all()
    assert (v[inside] <= high[1]).all()


def test_curves():
    curve = Curve((1.0, 2.0), (4.0, 0.0), (0.0, 3.0), cycles=0.5)
    np.testing.assert_allclose(curve.at(0.0), [1, 2])
    np.testing.assert_allclose(curve.at(0.5), [3, 5])


def test_unknown_scene():
    with pytest.raises(InputError, match="no scene 'ocluder'; choose one of two_planes, occluder"):
        preset("ocluder")
    assert len(preset("two-planes").layers) == 2
