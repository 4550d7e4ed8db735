"""OmniMotion's model: tracing rays against loops, occlusion of hand-built scenes, gradients, its file."""

from __future__ import annotations

import math

import pytest
import torch

from everypoint.config.options import ModelOptions, ReadoutOptions
from everypoint.models.files import load_model, save_model
from everypoint.models.omnimotion import OmniMotionModel
from tests.unit.models.made_rays import SIZE, Slabs, omnimotion, options, parallax, points, still

FRAMES = 5


def jitter(rays: int, samples: int = 6, seed: int = 8) -> torch.Tensor:
    return torch.rand(rays, samples, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------ tracing


def traced_by_loop(made: OmniMotionModel, xy, i: int, j: int, u: list[float] | None, nearest: bool) -> dict:
    """One ray, sample by sample: colour, point and depth in frame j, weights and masked weights."""
    (height, width), count = SIZE, made.samples
    step, parts = 2 / (count - 1), made.parts()
    passed, weights, masked, colour, mean = 1.0, [], [], [0.0] * 3, [0.0] * 3
    for k in range(count):
        z = k * step
        if u is not None:
            low, high = max(z - step / 2, 0), min(z + step / 2, 2)
            z = low + (high - low) * u[k]
        local = torch.tensor([[[2 * xy[0] / (width - 1) - 1, 2 * xy[1] / (height - 1) - 1, z]]], dtype=torch.float64)
        canonical = made.bijection.canonical(local, torch.tensor([i]), parts)
        mapped = made.bijection.local(canonical, torch.tensor([j]), parts)[0, 0].tolist()
        seen, alpha = made.field(canonical)
        alpha = 0.0 if nearest and k < int(0.2 * count) else float(alpha)
        weights.append(alpha * passed)
        masked.append(weights[-1] if 0 <= mapped[2] <= 2 else 0.0)
        passed *= 1 - alpha + 1e-10
        colour = [a + weights[-1] * b for a, b in zip(colour, seen[0, 0].tolist(), strict=True)]
        mean = [a + masked[-1] * b for a, b in zip(mean, mapped, strict=True)]
    place = [(mean[0] + 1) * (width - 1) / 2, (mean[1] + 1) * (height - 1) / 2]
    return {"weights": weights, "masked": masked, "colour": colour, "xy": place, "z": mean[2]}


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("drawn", [False, True], ids=["even", "drawn"])
@torch.no_grad()
def test_trace_against_a_loop(drawn, nearest):
    made = omnimotion(wild=4.0).double()
    xy, i, j = points(25, FRAMES)
    j = torch.where(j == i, (j + 1) % FRAMES, j)  # in its own frame a ray's ends lie on the limits of the range
    u = jitter(25).double() if drawn else None
    got = made.trace(xy.double(), i, j, u=u, near_mask=nearest)
    for r in range(25):
        expected = traced_by_loop(made, xy[r].tolist(), int(i[r]), int(j[r]), u[r].tolist() if drawn else None, nearest)
        for name, value in expected.items():
            found = getattr(got, name)[r].tolist()
            assert found == pytest.approx(value, abs=1e-6 if name == "xy" else 1e-8), name
    dropped = (got.masked != got.weights).float().mean()
    assert 0.02 < dropped < 0.9  # the mask of the range is at work


@torch.no_grad()
def test_trace_hands_out_what_it_passed_through():
    made = omnimotion(wild=2.0)
    xy, i, j = points(30, FRAMES)
    parts, u = made.parts(), jitter(30)
    got = made.trace(xy, i, j, parts, u)
    assert got.depths.shape == got.weights.shape == got.masked.shape == (30, 6)
    torch.testing.assert_close(got.local[..., 2], got.depths)
    torch.testing.assert_close(got.canonical, made.bijection.canonical(got.local, i, parts))
    torch.testing.assert_close(got.mapped, made.bijection.local(got.canonical, j, parts).float())
    same = made.trace(xy, i, i, parts, u)
    torch.testing.assert_close(same.mapped, same.local, atol=1e-4, rtol=0)
    torch.testing.assert_close(made.trace(xy, i, j, u=u), got)  # parts are only a saving


@torch.no_grad()
def test_rays_do_not_see_each_other():
    made = omnimotion(wild=2.0)
    xy, i, j = points(12, FRAMES)
    whole, u = made.trace(xy, i, j, u=jitter(12)), jitter(12)
    for r in (0, 7):
        alone = made.trace(xy[r : r + 1], i[r : r + 1], j[r : r + 1], u=u[r : r + 1])
        torch.testing.assert_close(alone.xy[0], whole.xy[r], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(alone.colour[0], whole.colour[r])


def test_published_model_has_the_published_parameters():
    published = ModelOptions.model_validate({"kind": "field", "nvp": {"affine": "large"}})
    made = OmniMotionModel(3, SIZE, published, 0)
    assert sum(parameter.numel() for parameter in made.parameters()) == 2_984_085


# ------------------------------------------------------------------------------------------------ a scene by hand


@torch.no_grad()
def test_weights_of_two_slabs_are_on_what_is_in_front():
    made = parallax([0.0, 0.6])
    xy = torch.tensor([[16.0, 11.0], [26.0, 11.0]])  # x = 0: the box before the wall; x = 0.625: the wall alone
    frame = torch.tensor([0, 0])
    ray = made.ray(xy, frame, made.parts())
    first = [math.ceil(z / (2 / 31)) for z in (0.4, 1.4)]  # sample that first meets each slab
    for r in range(2):
        assert ray.weights[r].argmax() == first[r]
        assert math.isclose(float(ray.weights[r, first[r]]), 1, abs_tol=1e-6)
        assert ray.weights[r].sum() < 1 + 1e-5
    torch.testing.assert_close(ray.colour, torch.tensor([[1.0, 0, 0], [0, 1, 0]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("whole", [False, True])
@torch.no_grad()
def test_two_slabs_move_by_their_own_depth(whole):
    made = parallax([0.0, 0.6, -0.6])
    xy = torch.tensor([[16.0, 11.0], [26.0, 11.0]]).repeat(2, 1)
    i, j = torch.zeros(4, dtype=torch.int64), torch.tensor([1, 1, 2, 2])
    there = made.carry(xy, i, j, whole=whole)
    z = torch.tensor([math.ceil(0.4 * 31 / 2), math.ceil(1.4 * 31 / 2)]).repeat(2) * 2 / 31
    shift = -torch.tensor([0.6, 0.6, -0.6, -0.6]) * (z - 1) * 16  # px: 16 is half of the frame's width
    torch.testing.assert_close(there.xy, xy + torch.stack([shift, 0 * shift], -1), atol=1e-3, rtol=0)
    torch.testing.assert_close(there.z, z, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_box_hides_the_wall_where_parallax_puts_it_in_front():
    made = parallax([0.0, 0.6, -0.6])
    wall = torch.tensor([[26.0, 11.0]]).repeat(3, 1)
    j = torch.arange(3)
    there = made.carry(wall, torch.zeros_like(j), j)
    hidden = made.hidden(there.xy, there.z, j)
    torch.testing.assert_close(hidden, torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)
    box = made.carry(torch.tensor([[16.0, 11.0]]).repeat(3, 1), torch.zeros_like(j), j)
    assert made.hidden(box.xy, box.z, j).abs().max() < 1e-6  # what is in front is never hidden


@torch.no_grad()
def test_opacity_closer_than_1_1_spacings_does_not_hide():
    made = parallax([0.0])
    spacing, surface = 2 / 32, math.ceil(0.4 * 31 / 2) * 2 / 31
    z = surface + 1.1 * spacing + torch.tensor([-1e-4, 1e-4])
    xy, frame = torch.tensor([[16.0, 11.0]]).repeat(2, 1), torch.zeros(2, dtype=torch.int64)
    assert made.hidden(xy, z, frame).round().tolist() == [0, 1]


@torch.no_grad()
def test_hidden_against_a_loop():
    made = omnimotion(wild=2.0)
    xy, frame, _ = points(40, FRAMES)
    z = 2.4 * torch.rand(40, generator=torch.Generator().manual_seed(1)) - 0.2
    got = made.hidden(xy, z, frame)
    ray = made.ray(xy, frame, made.parts())
    for n in range(40):
        depths = [2 * k / 5 for k in range(6)]
        expected = sum(float(ray.weights[n, k]) for k in range(6) if depths[k] < float(z[n]) - 1.1 * 2 / 6)
        assert math.isclose(float(got[n]), expected, abs_tol=1e-6)
    assert got.max() > 0.3 > got.min()


@pytest.mark.parametrize("opacity", [0.99, 0.5, 1.0])
def test_visibility_falls_with_what_is_in_front_and_is_a_half_at_the_threshold(opacity):
    class Given(OmniMotionModel):
        def hidden(self, xy, z, frame, parts=None):
            return z

    made = Given(1, SIZE, options("field"), 0)
    score = torch.linspace(0, 1, 401)
    got = made.visibility(torch.zeros(401, 2), score, torch.zeros(401), None, ReadoutOptions(opacity=opacity))
    assert (got.diff() <= 0).all()
    assert torch.equal(got >= 0.5, score <= opacity)
    assert got[0] == 1
    assert (got[-1] == 0) == (opacity < 1)


# ------------------------------------------------------------------------------------------------ read-out


@torch.no_grad()
def test_carried_by_the_largest_weight_or_by_the_mean():
    made = omnimotion(wild=2.0)
    made.field = Slabs(0.6)
    xy, i, j = points(50, FRAMES)
    even = made.trace(xy, i, j)
    best = even.weights.argmax(-1)
    assert len(best.unique()) > 2
    by_max, by_mean = made.carry(xy, i, j), made.carry(xy, i, j, whole=True)
    for n in range(50):
        point = even.mapped[n, best[n]]
        mean = sum(even.weights[n, k] * even.mapped[n, k] for k in range(6))  # the range masks nothing here
        for got, expected in ((by_max, point), (by_mean, mean)):
            place = [(float(expected[0]) + 1) * (SIZE[1] - 1) / 2, (float(expected[1]) + 1) * (SIZE[0] - 1) / 2]
            assert got.xy[n].tolist() == pytest.approx(place, abs=1e-3)
            assert math.isclose(float(got.z[n]), float(expected[2]), abs_tol=1e-4)


@torch.no_grad()
def test_one_anchor_serves_all_frames():
    made = omnimotion(wild=2.0)
    xy, i, _ = points(20, FRAMES)
    parts = made.parts()
    anchor = made.anchor(xy, i, parts)
    assert anchor.points.shape == (20, 1, 3)
    for t in range(FRAMES):
        j = torch.full_like(i, t)
        torch.testing.assert_close(made.place(anchor, j, parts), made.carry(xy, i, j, parts))
    own = made.place(anchor, i, parts)
    torch.testing.assert_close(own.xy, xy, atol=1e-3, rtol=0)


# ------------------------------------------------------------------------------------------------ gradients


def outcome(made: OmniMotionModel, xy: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """A number that all results of a traced ray enter."""
    _, i, j = points(len(xy), FRAMES)
    got = made.trace(xy, i, j, u=u)
    return sum((weight * value.cos()).sum() for weight, value in zip((0.5, 1, 2, 3, 1, 0.1, 1), got[2:], strict=True))


@pytest.mark.parametrize("changes", [{}, {"field": {"encoding": "periodic-63"}}, {"nvp": {"code": "hash"}}])
def test_gradient_of_every_parameter_and_of_the_depths(changes):
    """Along a random direction of each tensor: the slope of the result is what the gradient says."""
    made = omnimotion(wild=1.0, **changes).double()
    xy = points(8, FRAMES)[0].double().requires_grad_()
    u = jitter(8).double().requires_grad_()
    tensors = dict(made.named_parameters()) | {"xy": xy, "u": u}
    grads = dict(zip(tensors, torch.autograd.grad(outcome(made, xy, u), tensors.values()), strict=True))
    generator = torch.Generator().manual_seed(4)
    for name, tensor in tensors.items():
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        expected = float((grads[name] * direction).sum())
        with torch.no_grad():
            ends = []
            for end in (1e-7, -2e-7):
                tensor.add_(end * direction)
                ends.append(float(outcome(made, xy, u)))
            tensor.add_(1e-7 * direction)
        slope = (ends[0] - ends[1]) / 2e-7
        assert slope == pytest.approx(expected, rel=1e-4, abs=1e-5), name
        assert grads[name].abs().max() > 0, name


def test_gradcheck_of_points_and_depths():
    made = omnimotion(wild=1.0).double()
    xy, i, j = points(3, FRAMES)

    def results(xy: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, ...]:
        got = made.trace(xy, i, j, u=u)
        return got.colour, got.xy, got.z, got.masked, got.mapped

    assert torch.autograd.gradcheck(results, (xy.double().requires_grad_(), jitter(3).double().requires_grad_()))


def test_a_step_never_asks_the_device():
    """On the device that holds no values nothing can be read back, and no shape can depend on a value."""
    made = omnimotion().to("meta")
    xy, i, j = (values.to("meta") for values in points(10, FRAMES))
    on = torch.zeros((), device="meta")
    got = made.trace(xy, i, j, u=jitter(10).to("meta"), near_mask=on)
    sum(value.sum() for value in got).backward()
    assert all(parameter.grad.is_meta for parameter in made.parameters())


# ------------------------------------------------------------------------------------------------ seed and file


def test_equal_seeds_give_equal_models():
    torch.manual_seed(3)
    first, other = omnimotion(seed=1), omnimotion(seed=2)
    torch.manual_seed(4)
    for (name, a), b in zip(first.state_dict().items(), omnimotion(seed=1).state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "changes", [{}, {"nvp": {"code": "hash"}, "field": {"network": "hash"}}], ids=["gabor", "hash"]
)
def test_saved_and_loaded_model_traces_bit_for_bit(tmp_path, frozen, changes):
    made = omnimotion(wild=2.0, seed=11, **changes)
    xy, i, j = points(100, FRAMES)
    if frozen:
        made.bijection.freeze()
        with torch.no_grad():  # from now on the table counts, not the network
            next(made.bijection.code_net.parameters()).add_(1)
    save_model(tmp_path / "model.pt", made)
    loaded = load_model(tmp_path / "model.pt")
    with torch.no_grad():
        expected = made.trace(xy, i, j)
    for name, value in loaded.trace(xy, i, j)._asdict().items():
        assert torch.equal(value, getattr(expected, name)), name
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert (loaded.frames, loaded.frame_size, loaded.options) == (FRAMES, SIZE, made.options)


@torch.no_grad()
def test_a_still_model_keeps_points_where_they_are():
    made = still(omnimotion())
    xy, i, j = points(20, FRAMES)
    torch.testing.assert_close(made.carry(xy, i, j).xy, xy, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_video_of_one_frame_and_one_pixel_works():
    made = OmniMotionModel(1, (1, 1), options("field"), 0)
    zero = torch.zeros(1, dtype=torch.int64)
    there = made.carry(torch.zeros(1, 2), zero, zero)
    torch.testing.assert_close(there.xy, torch.zeros(1, 2), atol=1e-5, rtol=0)
