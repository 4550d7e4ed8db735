"""Cameras: known numbers, exact round trips, points that cannot be seen; the scene box."""

from __future__ import annotations

import math

import pytest
import torch

from everypoint.models.camera import Orthographic, Pinhole, camera_of, scene_box

SIZE = (30, 43)


def given(count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    xy = torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([60.0, 40.0]) - 10
    return xy, 0.1 + 9 * torch.rand(count, generator=generator, dtype=torch.float64)


def test_pinhole_is_the_published_camera():
    """f = W / (2 tan 20 deg); in raster coordinates the middle of the frame is (W / 2, H / 2)."""
    xy, depth = given()
    focal = 43 / (2 * math.tan(math.radians(20)))
    for point, (x, y), d in zip(Pinhole(SIZE, 40.0).lift(xy, depth), xy.tolist(), depth.tolist(), strict=True):
        expected = [(x + 0.5 - 43 / 2) / focal * d, (y + 0.5 - 30 / 2) / focal * d, d]
        torch.testing.assert_close(point, torch.tensor(expected, dtype=torch.float64))


def test_the_field_of_view_spans_the_frame():
    left = Pinhole(SIZE, 60.0).lift(torch.tensor([[-0.5, 14.5]]), torch.tensor([2.0]))[0]
    assert math.degrees(math.atan2(-float(left[0]), float(left[2]))) == pytest.approx(30, abs=1e-4)
    assert float(left[1]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["pinhole", "orthographic"])
@pytest.mark.parametrize("fov", [10.0, 40.0, 150.0])
def test_project_is_the_way_back(kind, fov):
    camera, (xy, depth) = camera_of(kind, SIZE, fov), given()
    points = camera.lift(xy, depth)
    torch.testing.assert_close(points[:, 2], depth)
    torch.testing.assert_close(camera.project(points), xy, rtol=0, atol=1e-10)


def test_orthographic_has_corner_pixels_at_one():
    points = Orthographic(SIZE).lift(torch.tensor([[0.0, 0.0], [42.0, 29.0]]), torch.tensor([1.0, 5.0]))
    assert points.tolist() == [[-1, -1, 1], [1, 1, 5]]


@pytest.mark.parametrize("size", [(1, 1), (1, 7)])
@pytest.mark.parametrize("kind", ["pinhole", "orthographic"])
def test_frames_of_one_pixel(kind, size):
    camera = camera_of(kind, size, 40.0)
    xy = torch.zeros(1, 2)
    torch.testing.assert_close(camera.project(camera.lift(xy, torch.ones(1))), xy)


def test_a_point_in_the_plane_of_the_camera_has_a_finite_gradient():
    points = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, -1e-9], [0.0, 0.0, 1e-9]], requires_grad=True)
    out = Pinhole(SIZE, 40.0).project(points)
    assert out.isfinite().all()
    assert torch.autograd.grad(out.sum(), points)[0].isfinite().all()


def test_box_is_median_and_share_of_the_nearer_end():
    points = torch.tensor([[0.0, -5.0, 1.0], [1.0, 0.0, 2.0], [2.0, 1.0, 9.0], [3.0, 2.0, 3.0], [9.0, 3.0, 4.0]])
    centre, half = scene_box(points, 0.8)
    assert centre.tolist() == [2, 1, 3]
    torch.testing.assert_close(half, 0.8 * torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("depth", [1.0, 40.0])
def test_box_of_one_depth_is_not_flat(depth):
    xy, _ = given()
    centre, half = scene_box(Pinhole(SIZE, 40.0).lift(xy, torch.full((200,), depth, dtype=torch.float64)), 0.8)
    assert float(centre[2]) == depth
    assert float(half[2]) == pytest.approx(0.1 * depth)
    assert (half > 0).all()
