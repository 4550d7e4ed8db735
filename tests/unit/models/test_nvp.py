"""OmniMotion's bijection: the published map, exact round trips whatever the weights, codes that can be frozen."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from everypoint.config.options_field import NvpOptions
from everypoint.models.nvp import NvpBijection, PlanarAffine, bounded

FRAMES, RAYS, SAMPLES = 10, 64, 16
SMALL = {"hidden": 24, "code_features": 12}
AFFINES = ["none", "small", "large"]


def made(frames: int = FRAMES, seed: int = 0, **changes) -> NvpBijection:
    return NvpBijection(frames, NvpOptions(**changes), torch.Generator().manual_seed(seed))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def box_points(rays: int = RAYS, seed: int = 5) -> torch.Tensor:
    """Points [R, K, 3] of [-3, 3]^3: more than the box of a frame, [-1, 1]^2 x [0, 2]."""
    return torch.rand(rays, SAMPLES, 3, generator=torch.Generator().manual_seed(seed)) * 6 - 3


def frames_of(rays: int = RAYS) -> torch.Tensor:
    return torch.arange(rays) % FRAMES


def published(
    bijection: NvpBijection, points: torch.Tensor, frame: torch.Tensor, *, inverse: bool = False
) -> torch.Tensor:
    """The map as published, in one type: code beside every sample, 2x2 matrices inverted, no bound on shifts."""
    codes = bijection.codes()
    samples = frame.repeat_interleave(points.shape[1])
    coordinates = points.reshape(-1, 3)

    def plane(coordinates):
        if bijection.affine is None:
            return coordinates
        net = bijection.affine
        hidden = torch.cat([bijection.times[samples], net.encode(coordinates[:, 2:])], -1)
        for layer in (net.first, *net.middle):
            hidden = layer(hidden).relu()
        theta, a, tx, b, ty = net.last(hidden).unbind(-1)
        rows = [a.exp() * theta.cos(), -a.exp() * theta.sin(), b.exp() * theta.sin(), b.exp() * theta.cos()]
        matrix, shift = torch.stack(rows, -1).reshape(-1, 2, 2), torch.stack([tx, ty], -1)
        if inverse:
            adjugate = matrix.flip(1, 2).mT * torch.tensor([[1, -1], [-1, 1]])
            inverted = adjugate / (matrix[:, :1, :1] * matrix[:, 1:, 1:] - matrix[:, :1, 1:] * matrix[:, 1:, :1])
            xy = (inverted @ (coordinates[:, :2] - shift)[..., None])[..., 0]
        else:
            xy = (matrix @ coordinates[:, :2, None])[..., 0] + shift
        return torch.cat([xy, coordinates[:, 2:]], -1)

    if not inverse:
        coordinates = plane(coordinates)
    blocks = list(zip(bijection.order.tolist(), bijection.conditioners, strict=True))
    for changed, conditioner in reversed(blocks) if inverse else blocks:
        kept = coordinates[:, [axis for axis in range(3) if axis != changed]]
        s, t = conditioner.reference(kept, conditioner.project(codes)[samples]).unbind(-1)
        value, s = coordinates[:, changed], s.clamp(-8, 8)
        value = value * s.exp() + t if inverse else (value - t) * (-s).exp()
        columns = [value if axis == changed else coordinates[:, axis] for axis in range(3)]
        coordinates = torch.stack(columns, -1)
    if inverse:
        coordinates = plane(coordinates)
    return coordinates.reshape(points.shape)


# --------------------------------------------------------------------------------------------------- the published map


@pytest.mark.parametrize("changes", [{"affine": kind} for kind in AFFINES] + [{"layers": 2}, {"code": "hash"}])
def test_is_the_published_map(changes):
    """Values and gradients in float64, both directions, of weights that move points a good way."""
    bijection = made(**{**SMALL, **changes}).double()
    with torch.no_grad():
        for conditioner in bijection.conditioners:
            conditioner.last.weight.mul_(3)
    points, frame = box_points(20).double(), frames_of(20)
    results, gradients = [], []
    for fast in (True, False):
        bijection.zero_grad()
        given = points.clone().requires_grad_()
        if fast:
            parts = bijection.frame_parts()
            canonical = bijection.canonical(given, frame, parts)
            local = bijection.local(canonical, (frame + 3) % FRAMES, parts)
        else:
            canonical = published(bijection, given, frame)
            local = published(bijection, canonical, (frame + 3) % FRAMES, inverse=True)
        (local.square().mean() + canonical.sin().mean()).backward()
        results.append((canonical.detach(), local.detach()))
        gradients.append([given.grad, *(parameter.grad.clone() for parameter in bijection.parameters())])
    assert (results[0][0] - points).abs().mean() > 0.3
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-9)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


@pytest.mark.parametrize("affine", AFFINES)
def test_is_the_published_map_in_float32(affine):
    """As it is trained: the fast layers of a CPU, rays in chunks (the last one smaller), values and gradients."""
    bijection, points, frame = made(affine=affine, **SMALL), box_points(150), frames_of(150)
    exact = copy.deepcopy(bijection).double()
    parts = bijection.frame_parts()
    canonical = bijection.canonical(points, frame, parts)
    local = bijection.local(canonical, (frame + 3) % FRAMES, parts)
    expected = published(exact, points.double(), frame)
    expected_local = published(exact, expected, (frame + 3) % FRAMES, inverse=True)
    torch.testing.assert_close(canonical, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(local, expected_local, rtol=0, atol=1e-4)
    (local.square().mean() + canonical.sin().mean()).backward()
    (expected_local.square().mean() + expected.sin().mean()).backward()
    for (name, value), reference in zip(bijection.named_parameters(), exact.parameters(), strict=True):
        difference = (value.grad - reference.grad).norm() / reference.grad.norm()
        assert difference < 0.01, name  # 0.005 is one unit on the other side of its kink; the plain form has it too


def test_published_numbers_of_parameters():
    bijection = made(affine="none")
    conditioner = bijection.conditioners[0]
    assert count(conditioner.project) == 33_024
    assert count(conditioner) - count(conditioner.project) == 235_522
    assert count(bijection.conditioners) == 1_611_276
    assert count(bijection.code_net) == 167_552
    assert count(bijection) == 1_611_276 + 167_552


def test_numbers_of_parameters_of_the_affine():
    """Published: asked for 2 layers of 256, got 8; a layer is a matrix, the last one included."""
    assert count(PlanarAffine(8, 4, torch.Generator())) == count(made(affine="large").affine) == 398_853
    assert count(made(affine="small").affine) == (10 + 1) * 256 + (256 + 1) * 5
    assert count(made(affine="large").conditioners) + 398_853 == 2_010_129


def test_numbers_of_parameters_of_the_variants():
    """The thesis' couplings have one hidden layer fewer, its codes a hash grid."""
    thesis = made(affine="none", layers=2, code="hash")
    assert count(thesis.conditioners) == 1_611_276 - 6 * (256 + 1) * 256
    assert count(thesis.code_net) == 722_704


def test_times_and_inputs_of_the_codes():
    """t = 1/T .. 1; the hash grid sees (t, log(t + 1)), which lie in [0, 1]."""
    bijection = made(frames=5, code="hash", **SMALL)
    torch.testing.assert_close(bijection.times[:, 0], torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]))
    seen = []
    bijection.code_net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    codes = bijection.codes()
    assert codes.shape == (5, 12)
    torch.testing.assert_close(seen[0], torch.cat([bijection.times, (1 + bijection.times).log()], 1))
    assert seen[0].min() >= 0
    assert seen[0].max() <= 1
    torch.testing.assert_close(made(frames=5, **SMALL).codes()[2], made(frames=10, **SMALL).codes()[5])


# ------------------------------------------------------------------------------------------------------- exactness


def enlarged(bijection: NvpBijection, factor: float, which: str) -> NvpBijection:
    """All weights, or those of the last layers (s and t grow by the factor)."""
    bijection = copy.deepcopy(bijection)
    with torch.no_grad():
        for name, parameter in bijection.named_parameters():
            if which == "all" or (".last." in name and "code_net" not in name):
                parameter.mul_(factor)
    return bijection


@pytest.fixture(scope="module")
def trained() -> NvpBijection:
    """After some large steps on a scene that moves evenly, 0.2 of the frame's half width a frame."""
    bijection = made(affine="small")
    optimiser = torch.optim.Adam(bijection.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(3)
    losses = []
    for _ in range(20):
        points = torch.rand(12, 8, 3, generator=generator) * 2 - 1
        i, j = (torch.randint(FRAMES, (12,), generator=generator) for _ in range(2))
        target = points + torch.tensor([1.0, -0.5, 0.5]) * (0.2 * (j - i))[:, None, None]
        parts = bijection.frame_parts()
        loss = (bijection.local(bijection.canonical(points, i, parts), j, parts) - target).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    return bijection


def errors(bijection: NvpBijection, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every point the error of the round trip, and of i -> j -> k against i -> k in pixels of an 854 px frame."""
    i = frames_of(len(points))
    j, k = (i + 3) % FRAMES, (i + 7) % FRAMES
    with torch.no_grad():
        parts = bijection.frame_parts()
        canonical = bijection.canonical(points, i, parts)
        back = bijection.local(canonical, i, parts) - points
        direct = bijection.local(canonical, k, parts)
        between = bijection.local(canonical, j, parts)
        detour = bijection.local(bijection.canonical(between, j, parts), k, parts)
    return back.abs().amax(-1), (detour - direct)[..., :2].abs().amax(-1) * (853 / 2)


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize(("factor", "which"), [(1, "all"), (10, "last"), (100, "last"), (10, "all"), (100, "all")])
def test_inverse_is_exact_whatever_the_weights(affine, factor, which):
    """Networks in float32, weights up to 100 times their initial size: 1e-5 is asked for, 1e-9 is reached.

    i -> j -> k is exact too, except where the middle point lies millions of boxes away, which takes all of: the
    affine map, networks whose slope is 1e9, a point that both throw out; float64 has no digits left for the box there.
    """
    back, detour = errors(enlarged(made(affine=affine), factor, which), box_points())
    assert back.max() < 1e-5
    sane = factor == 1 or (factor, which) == (10, "last") or affine == "none"
    assert (detour < 1e-4).double().mean() >= (1 if sane else 0.9)


def test_inverse_is_exact_after_training(trained):
    back, detour = errors(trained, box_points())
    assert back.max() < 1e-5
    assert detour.max() < 1e-4
    back, detour = errors(enlarged(trained, 10, "last"), box_points())
    assert back.max() < 1e-5
    assert (detour < 1e-4).double().mean() > 0.99


def test_float32_coordinates_would_not_do(trained):
    """The published formula in float32: what the tests above ask for is lost, so they can fail."""
    points, i = box_points(), frames_of()
    j, k = (i + 3) % FRAMES, (i + 7) % FRAMES
    with torch.no_grad():
        for bijection in (trained, enlarged(made(), 10, "last")):
            canonical = published(bijection, points, i)
            back = published(bijection, canonical, i, inverse=True)
            assert not (back - points).abs().max() < 1e-5  # NaN is none either
            between = published(bijection, canonical, j, inverse=True)
            detour = published(bijection, published(bijection, between, j), k, inverse=True)
            direct = published(bijection, canonical, k, inverse=True)
            assert not (detour - direct)[..., :2].abs().max() * (853 / 2) < 1e-3


def test_large_weights_are_large():
    """The exactness tests would be easy for a map close to the identity, or for one that ignores the frame."""
    bijection = enlarged(made(), 100, "all")
    points = box_points()
    with torch.no_grad():
        parts = bijection.frame_parts()
        moved = [bijection.canonical(points, torch.full((RAYS,), frame), parts) for frame in (0, 5)]
    assert (moved[0] - points).abs().median() > 10
    assert (moved[0] - moved[1]).abs().amax(-1).median() > 1


def test_bound():
    """The value itself up to the limit, never more than twice the limit, increasing, with a smooth slope."""
    value = torch.linspace(-100, 100, 4001, dtype=torch.float64)
    found = bounded(value, 8.0)
    inside = value.abs() <= 8
    assert torch.equal(found[inside], value[inside])
    assert found.abs().max() <= 16
    assert (found.diff() >= 0).all()
    assert bounded(torch.tensor([torch.inf, -torch.inf]), 8.0).tolist() == [16.0, -16.0]
    at = torch.tensor([-30.0, -8.5, -8.0, -1.0, 0.0, 7.9, 8.0, 9.0, 20.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: bounded(value, 8.0), at, eps=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("tf32", [False, True])
def test_inverse_is_exact_on_a_gpu(trained, tf32):
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        with torch.device("cuda"):
            back, detour = errors(copy.deepcopy(trained).cuda(), box_points().cuda())
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert back.max() < 1e-5
    assert detour.max() < 1e-4


# ------------------------------------------------------------------------------------------- order, state, freezing


def test_a_block_changes_its_own_coordinate_only():
    bijection = made(blocks=1, affine="none", **SMALL)
    points = box_points().double()
    with torch.no_grad():
        moved = bijection.canonical(points, frames_of(), bijection.frame_parts())
    changed = [axis for axis in range(3) if not torch.equal(moved[..., axis], points[..., axis])]
    assert changed == bijection.order.tolist()


def test_every_three_blocks_change_every_coordinate_once():
    orders = {tuple(made(seed=seed, **SMALL).order.tolist()) for seed in range(8)}
    assert len(orders) > 1
    assert all(sorted(order[:3]) == sorted(order[3:]) == [0, 1, 2] for order in orders)


def saved(bijection: NvpBijection) -> dict:
    file = io.BytesIO()
    torch.save(bijection.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def mapped(bijection: NvpBijection) -> torch.Tensor:
    with torch.no_grad():
        return bijection.canonical(box_points(), frames_of(), bijection.frame_parts())


def test_the_state_holds_all_of_the_map():
    first = made(seed=0, **SMALL)
    other = next(
        bijection
        for bijection in (made(seed=seed, **SMALL) for seed in range(1, 50))
        if bijection.order.tolist() != first.order.tolist()
    )
    assert not torch.equal(mapped(other), mapped(first))
    other.load_state_dict(saved(first))
    assert torch.equal(mapped(other), mapped(first))


def test_the_generator_decides_alone():
    before = torch.get_rng_state()
    first, again = made(seed=1, **SMALL), made(seed=1, **SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))


def step(bijection: NvpBijection, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    parts = bijection.frame_parts()
    points = box_points(20)
    bijection.local(bijection.canonical(points, frames_of(20), parts), frames_of(20).flip(0), parts).mean().backward()
    optimiser.step()


def test_frozen_codes_stay_and_all_else_is_trained():
    bijection = made(**SMALL)
    optimiser = torch.optim.Adam(bijection.parameters(), 1e-2)
    step(bijection, optimiser)
    before, codes = mapped(bijection), bijection.codes().detach().clone()
    assert not bijection.codes_frozen
    bijection.freeze()
    assert bijection.codes_frozen
    assert torch.equal(mapped(bijection), before)
    assert all(value.grad is None and not value.requires_grad for value in bijection.code_net.parameters())
    kept = {name: value.clone() for name, value in bijection.named_parameters()}
    optimiser.step()  # with the gradients of before
    for _ in range(2):  # twice: the table must not carry a graph from one step to the next
        step(bijection, optimiser)
    assert torch.equal(bijection.codes(), codes)
    assert not bijection.codes().requires_grad
    for name, value in bijection.named_parameters():  # momentum would move the code net without its gradient
        assert torch.equal(value, kept[name]) == name.startswith("code_net."), name


@pytest.mark.parametrize("code", ["gabor", "hash"])
def test_a_frozen_state_goes_on_as_it_would_have(code):
    first, other = (made(seed=seed, code=code, **SMALL) for seed in (0, 1))
    first.freeze()
    with torch.no_grad():
        first.code_net.requires_grad_(False)
        for parameter in first.code_net.parameters():
            parameter.zero_()  # the table counts, not the net it came from
    other.load_state_dict(saved(first))
    assert other.codes_frozen
    assert torch.equal(mapped(other), mapped(first))
    assert first.codes().abs().max() > 0
    for bijection in (first, other):
        optimiser = torch.optim.Adam(bijection.parameters(), 1e-2)
        for _ in range(2):
            step(bijection, optimiser)
    assert torch.equal(mapped(other), mapped(first))


def test_an_unfrozen_state_thaws():
    """A frozen bijection that is given an earlier state trains its code net again."""
    bijection = made(**SMALL)
    early = saved(bijection)
    bijection.freeze()
    bijection.load_state_dict(early)
    step(bijection, torch.optim.Adam(bijection.parameters(), 1e-2))
    assert not bijection.codes_frozen
    assert all(parameter.grad is not None for parameter in bijection.code_net.parameters())


class NoHostReads(TorchDispatchMode):
    """Refuses what makes the host wait for the device, or gives a shape that depends on data."""

    refused = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "_to_copy_host")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.refused:
            raise AssertionError(f"{func} in a step")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{"affine": "small"}, {"code": "hash"}])
def test_a_step_reads_nothing_back(changes):
    bijection = made(**SMALL, **changes)
    optimiser = torch.optim.SGD(bijection.parameters(), 1e-2)
    with NoHostReads():
        step(bijection, optimiser)
    with pytest.raises(AssertionError, match="in a step"), NoHostReads():
        torch.ones(1).item()
