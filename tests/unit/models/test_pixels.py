"""The model of one depth a pixel: look-ups, transport, its start from a prior, gradients, its file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everypoint.config.options import ReadoutOptions
from everypoint.geometry import pixel_grid, sample_resized
from everypoint.models.files import load_model, save_model
from everypoint.models.pixels import PixelDepthModel, normalise_depth
from tests.unit.models.made_rays import SIZE, Shear, options, pixels, points, still

FRAMES = 5
HEIGHT, WIDTH = SIZE


def maps(made: PixelDepthModel) -> torch.Tensor:
    return made.depth.maps().detach()


# ------------------------------------------------------------------------------------------------ depth of a pixel


@torch.no_grad()
def test_depth_at_pixels_is_that_of_their_own_frame_whatever_the_batch():
    """All pixels of all frames in one shuffled batch: every row reads its own frame."""
    made = pixels()
    rows = torch.randperm(FRAMES * HEIGHT * WIDTH, generator=torch.Generator().manual_seed(0))
    frame, y, x = rows // (HEIGHT * WIDTH), rows // WIDTH % HEIGHT, rows % WIDTH
    got = made.depth(torch.stack([x, y], -1).float(), frame)
    torch.testing.assert_close(got, maps(made)[frame, y, x])


@torch.no_grad()
def test_depth_between_pixels_is_bilinear():
    made = pixels()
    xy, frame, _ = points(200, FRAMES)
    got, stored = made.depth(xy, frame), maps(made).double()
    for n in range(200):
        x, y = xy[n].tolist()
        x0, y0 = min(int(x), WIDTH - 2), min(int(y), HEIGHT - 2)
        fx, fy = x - x0, y - y0
        (a, b), (c, d) = stored[frame[n], y0 : y0 + 2, x0 : x0 + 2].tolist()
        expected = (a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy
        assert float(got[n]) == pytest.approx(expected, abs=1e-5)


def test_the_depth_loss_reads_frame_j_at_the_match_and_moves_nothing_else():
    """The gradient of z_hat - D_j(p2) reaches D_i around p1 and D_j around p2, of each row's own frames."""
    made = pixels(wild=2.0)
    xy_i, xy_j = torch.tensor([[4.5, 6.5], [20.5, 3.5]]), torch.tensor([[10.5, 15.5], [28.5, 20.5]])
    i, j = torch.tensor([0, 3]), torch.tensor([2, 1])
    (made.trace(xy_i, i, j).z - made.depth(xy_j, j)).sum().backward()
    touched = made.depth.map.grad.reshape(FRAMES, *SIZE) != 0
    expected = torch.zeros_like(touched)
    for xy, frame in ((xy_i, i), (xy_j, j)):
        for n in range(2):
            x, y = int(xy[n, 0]), int(xy[n, 1])
            expected[frame[n], y : y + 2, x : x + 2] = True
    assert torch.equal(touched, expected)
    at_match = made.depth.map.grad.reshape(FRAMES, *SIZE)[2, 15:17, 10:12]
    torch.testing.assert_close(at_match, torch.full((2, 2), -0.25))


def test_an_optimiser_made_before_a_state_is_loaded_still_owns_the_depths():
    """The state holds the depths, and a resumed run goes on optimising them."""
    source, made = pixels(seed=1), pixels(seed=2)
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
    state = {name: value.clone() for name, value in source.state_dict().items()}
    assert any(value.numel() == FRAMES * HEIGHT * WIDTH for value in state.values())
    made.load_state_dict(state)
    assert torch.equal(maps(made), maps(source))
    made.depth(torch.tensor([[3.0, 4.0]]), torch.tensor([2])).sum().backward()
    optimizer.step()
    assert maps(made)[2, 4, 3] == maps(source)[2, 4, 3] - 1


# ------------------------------------------------------------------------------------------------ transport


@torch.no_grad()
def test_transport_is_the_bijection_at_the_pixels_depth():
    made = pixels(wild=2.0)
    xy, i, j = points(50, FRAMES)
    got, parts = made.transport(xy, i, j), made.parts()
    for n in range(50):
        unit = [2 * float(xy[n, 0]) / (WIDTH - 1) - 1, 2 * float(xy[n, 1]) / (HEIGHT - 1) - 1]
        local = torch.tensor([[[*unit, float(made.depth(xy[n : n + 1], i[n : n + 1]))]]])
        mapped = made.bijection.local(made.bijection.canonical(local, i[n : n + 1], parts), j[n : n + 1], parts)[0, 0]
        place = [(float(mapped[0]) + 1) * (WIDTH - 1) / 2, (float(mapped[1]) + 1) * (HEIGHT - 1) / 2]
        assert got.xy[n].tolist() == pytest.approx(place, abs=1e-3)
        assert float(got.z[n]) == pytest.approx(float(mapped[2]), abs=1e-4)


@torch.no_grad()
def test_transport_to_the_own_frame_and_over_a_third():
    made = pixels(wild=2.0)
    xy, i, j = points(200, FRAMES)
    own = made.transport(xy, i, i)
    torch.testing.assert_close(own.xy, xy, atol=1e-3, rtol=0)
    torch.testing.assert_close(own.z, made.depth(xy, i), atol=1e-4, rtol=0)
    parts = made.parts()
    over = made.trace(xy, i, j, parts)
    again = made.bijection.canonical(over.mapped, j, parts)
    torch.testing.assert_close(again, over.canonical, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_anchored_points_are_transported_ones():
    made = pixels(wild=2.0)
    xy, i, j = points(20, FRAMES)
    parts = made.parts()
    torch.testing.assert_close(made.place(made.anchor(xy, i, parts), j, parts), made.transport(xy, i, j, parts))


@torch.no_grad()
def test_what_is_nearer_hides_what_parallax_puts_behind_it():
    made = pixels(frames=2)
    made.bijection = Shear([0.0, 0.5])
    depth = torch.full((2, *SIZE), 1.5)
    depth[:, :, 13:20] = 0.5  # in frame 0 the box lies in the middle, half a width further right of the wall's point
    depth[1] = depth[0].roll(4, -1)  # and moves by 0.5 * 0.5 * 16 px
    made.set_depth(depth)
    parts, readout = made.parts(), ReadoutOptions(occlusion_depth=0.1)
    xy, j = torch.tensor([[23.0, 11.0], [28.0, 11.0], [16.0, 11.0]]), torch.ones(3, dtype=torch.int64)
    there = made.place(made.anchor(xy, j - 1, parts), j, parts)
    torch.testing.assert_close(there.xy[:, 0], torch.tensor([19.0, 24.0, 20.0]), atol=1e-3, rtol=0)
    assert (made.visibility(there.xy, there.z, j, parts, readout) >= 0.5).tolist() == [False, True, True]


@pytest.mark.parametrize("near, far", [(0.0, 2.0), (0.0, 20.0), (-1.0, 3.0)])
@torch.no_grad()
def test_occlusion_is_relative_to_the_range_of_depths(near, far):
    made = still(pixels(field={"near": near, "far": far}))
    half, frame = (far - near) / 2, torch.zeros(3, dtype=torch.int64)
    made.set_depth(torch.full((FRAMES, *SIZE), near + half))
    z = near + half * (1 + torch.tensor([0.19, 0.21, -0.5]))
    got = made.visibility(torch.full((3, 2), 5.0), z, frame, made.parts(), ReadoutOptions(occlusion_depth=0.2))
    assert (got >= 0.5).tolist() == [True, False, True]
    assert got[2] > got[0] > got[1]


def test_gradcheck_of_the_trace():
    made = pixels(frames=2, wild=1.0).double()
    xy, i, j = points(3, 2)

    def results(xy: torch.Tensor, depth: torch.Tensor) -> tuple[torch.Tensor, ...]:
        state = {"depth.map": depth.reshape(-1, 1)}
        got = torch.func.functional_call(
            Tracing(made), {f"of.{name}": value for name, value in state.items()}, (xy, i, j)
        )
        return got.xy, got.z, got.mapped

    small = torch.rand(2, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    assert torch.autograd.gradcheck(results, (xy.double().requires_grad_(), small), fast_mode=True)


class Tracing(torch.nn.Module):
    def __init__(self, of: PixelDepthModel) -> None:
        super().__init__()
        self.of = of

    def forward(self, *given):
        return self.of.trace(*given)


# ------------------------------------------------------------------------------------------------ start and file


def test_a_model_without_a_prior_starts_in_the_middle():
    made = PixelDepthModel(2, SIZE, options("pixels", field={"near": 1.0, "far": 2.0}), 0)
    assert (maps(made) == 1.5).all()


def prior(dtype: type = np.float16) -> np.ndarray:
    """Depths of 4 frames, in metres, with some that are far too large."""
    made = np.random.default_rng(0).uniform(2, 30, (4, 12, 11))
    made[1, 3, 4] = 5000
    return made.astype(dtype)


def test_a_prior_is_stretched_by_one_range_for_the_whole_video():
    values = prior()
    got = normalise_depth(values, None, values.shape[1:], 0.0, 2.0).double().numpy()
    low, high = np.quantile(values.astype(np.float64), [0.01, 0.99])
    expected = np.clip((values.astype(np.float64) - low) / (high - low) * 2, 0, 2)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert got.min() == 0
    assert got.max() == 2


def test_masked_cells_do_not_stretch_the_range():
    values, mask = prior(), np.ones((4, 12, 11), bool)
    values[:, :, :3] = 900  # smeared edges, say
    mask[:, :, :3] = False
    got = normalise_depth(values, mask, values.shape[1:], 0.0, 2.0).numpy()
    inner = normalise_depth(values[:, :, 3:], None, (12, 8), 0.0, 2.0).numpy()
    np.testing.assert_allclose(got[:, :, 3:], inner)
    assert (got[:, :, :3] == 2).all()


@pytest.mark.parametrize("size", [SIZE, (6, 5), (12, 11)])
def test_a_prior_is_resized_as_a_picture_whose_cells_tile_the_frame(size):
    values = prior()
    got = normalise_depth(values, None, size, 0.5, 1.5)
    own = normalise_depth(values, None, values.shape[1:], 0.5, 1.5)
    for t in range(4):
        expected = sample_resized(own[t][None], pixel_grid(*size), size)[..., 0]
        torch.testing.assert_close(got[t], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mask", [None, np.zeros((3, 4, 5), bool)])
def test_a_prior_of_one_value_says_nothing(mask):
    got = normalise_depth(np.full((3, 4, 5), 7.0, np.float16), mask, SIZE, 0.0, 2.0)
    assert got.shape == (3, *SIZE)
    assert (got == 1).all()


def test_a_large_prior_is_measured_by_a_part_of_it(monkeypatch):
    values = np.random.default_rng(1).uniform(2, 30, (4, 100, 90)).astype(np.float16)
    whole = normalise_depth(values, None, (100, 90), 0.0, 2.0)
    monkeypatch.setattr("everypoint.models.pixels.RANGE_VALUES", 5000)
    torch.testing.assert_close(normalise_depth(values, None, (100, 90), 0.0, 2.0), whole, atol=0.02, rtol=0)


@pytest.mark.parametrize("frozen", [False, True])
def test_saved_and_loaded_model_transports_bit_for_bit(tmp_path, frozen):
    made = pixels(wild=2.0, seed=11)
    if frozen:
        made.bijection.freeze()
    save_model(tmp_path / "model.pt", made)
    loaded = load_model(tmp_path / "model.pt")
    xy, i, j = points(100, FRAMES)
    with torch.no_grad():
        expected = made.transport(xy, i, j)
    got = loaded.transport(xy, i, j)
    assert torch.equal(got.xy, expected.xy)
    assert torch.equal(got.z, expected.z)
    assert torch.equal(maps(loaded), maps(made))
