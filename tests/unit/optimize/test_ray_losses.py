"""OmniMotion's losses against loops in float64, values and gradients.

The loops work on scalars with autograd, so that a gradient is the loop's own derivative.
"""

from __future__ import annotations

import pytest
import torch

from everypoint.optimize import ray_losses as losses

B, P, K, SIZE = 3, 7, 6, (20, 30)


def random(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + 1000 * len(shape) + sum(shape))
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def chosen(*shape: int, share: float, seed: int = 0) -> torch.Tensor:
    return random(*shape, seed=seed) < share


def trimmed(values: list, weights: list | None = None):
    """Mean of weight * value over the values below the largest; 0 without any."""
    if not values:
        return torch.zeros((), dtype=torch.float64)
    weights = [1.0] * len(values) if weights is None else weights
    largest = max(float(value.detach()) for value in values)
    kept = [weight * value for value, weight in zip(values, weights) if float(value.detach()) < largest]
    return sum(kept) / len(kept) if kept else torch.zeros((), dtype=torch.float64)


def l1(a, b):
    return sum(abs(x - y) for x, y in zip(a, b)) / len(a)


# ------------------------------------------------------------------------------------------------ the loops


def flow_loop(predicted, target, omega):
    inside = [
        r for r in range(len(predicted)) if 0 <= predicted[r, 0] <= SIZE[1] - 1 and 0 <= predicted[r, 1] <= SIZE[0] - 1
    ]
    return trimmed([l1(predicted[r], target[r]) for r in inside], [omega[r] for r in inside])


def colour_loop(rendered, truth, inside):
    terms = [
        sum((rendered[b, p, c] - truth[b, p, c]) ** 2 for c in range(3)) / 3
        for b in range(B)
        for p in range(P)
        if inside[b, p]
    ]
    return sum(terms) / len(terms)


def colour_difference_loop(rendered, truth, inside):
    terms = []
    for b in range(B):
        for p in range(P - 1):
            if inside[b, p] and inside[b, p + 1]:
                terms.append(l1(rendered[b, p + 1] - rendered[b, p], truth[b, p + 1] - truth[b, p]))
    return trimmed(terms)


def flow_difference_loop(predicted, target, omega):
    total, weights = 0.0, 0.0
    for b in range(B):
        for p in range(P - 1):
            weight = omega[b, p] * omega[b, p + 1]
            total += weight * l1(predicted[b, p + 1] - predicted[b, p], target[b, p + 1] - target[b, p])
            weights += weight
    return total / weights


def depth_range_loop(z):
    violations = [torch.clamp(0.25 - value, min=0) + torch.clamp(value - 1.5, min=0) for value in z.flatten()]
    return sum(violation**2 for violation in violations) / z.numel()


def distortion_loop(weights, depths):
    total = 0.0
    for w, z in zip(weights, depths):
        edges = [*z, z[-1]]
        middles = [(edges[k] + edges[k + 1]) / 2 for k in range(len(z))]
        for k in range(len(z)):
            for m in range(len(z)):
                total += w[k] * w[m] * abs(middles[k] - middles[m])
            total += w[k] ** 2 * (edges[k + 1] - edges[k]) / 3
    return total / len(weights)


def acceleration_loop(before, here, after, neighbours):
    terms = []
    for r in range(len(here)):
        for k in range(here.shape[1]):
            if neighbours[r]:
                terms.append(l1(here[r, k] - before[r, k], after[r, k] - here[r, k]))
    return trimmed(terms)


def point_distance_loop(predicted, target, weight):
    total = 0.0
    for b in range(B):
        for p in range(P):
            total += weight[b, p] * sum(abs(predicted[b, p, axis] - target[b, p, axis]) for axis in range(2))
    return total / P


def depth_prior_loop(depth, prior):
    n, h, w = depth.shape
    x = [
        ((depth[f, y, c + 1] - depth[f, y, c]) - (prior[f, y, c + 1] - prior[f, y, c])) ** 2
        for f in range(n)
        for y in range(h)
        for c in range(w - 1)
    ]
    y = [
        ((depth[f, r + 1, c] - depth[f, r, c]) - (prior[f, r + 1, c] - prior[f, r, c])) ** 2
        for f in range(n)
        for r in range(h - 1)
        for c in range(w)
    ]
    off = [abs(a - b) for a, b in zip(depth.flatten(), prior.flatten())]
    return sum(x) / len(x) + sum(y) / len(y) + sum(off) / len(off)


# ------------------------------------------------------------------------------------------------ against them

POINTS = random(B, P, 2, low=-6, high=34)
NEAR_POINTS = POINTS + random(B, P, 2, seed=1, low=-4, high=4)
OMEGA = random(B, P, seed=2) * chosen(B, P, share=0.8, seed=3)
COLOURS, TRUE_COLOURS = random(B, P, 3, seed=4), random(B, P, 3, seed=5)
SAMPLES = [random(5, K, 3, seed=seed, low=-1, high=1) for seed in (6, 7, 8)]
DEPTHS = random(5, K, seed=9, high=2).sort(1).values
CASES = {
    "flow": (
        lambda a, b, w: losses.flow(a, b, w, SIZE),
        flow_loop,
        (POINTS.reshape(-1, 2), NEAR_POINTS.reshape(-1, 2), OMEGA.reshape(-1)),
    ),
    "colour": (losses.colour, colour_loop, (COLOURS, TRUE_COLOURS, chosen(B, P, share=0.7))),
    "colour_difference": (
        losses.colour_difference,
        colour_difference_loop,
        (COLOURS, TRUE_COLOURS, chosen(B, P, share=0.8)),
    ),
    "flow_difference": (losses.flow_difference, flow_difference_loop, (POINTS, NEAR_POINTS, OMEGA)),
    "depth_range": (
        lambda z: losses.depth_range(z, 0.25, 1.5),
        depth_range_loop,
        (random(5, K, low=-1, high=3),),
    ),
    "distortion": (losses.distortion, distortion_loop, (random(5, K, seed=10), DEPTHS)),
    "acceleration": (losses.acceleration, acceleration_loop, (*SAMPLES, torch.tensor([1, 0, 1, 1, 0]).bool())),
    "point_distance": (losses.point_distance, point_distance_loop, (POINTS, NEAR_POINTS, OMEGA)),
    "depth_prior": (losses.depth_prior, depth_prior_loop, (random(2, 4, 5), random(2, 4, 5, seed=1))),
}


@pytest.mark.parametrize("name", CASES)
def test_against_a_loop(name):
    term, loop, values = CASES[name]
    results = []
    for function in (term, loop):
        leaves = [v.clone().requires_grad_() if v.is_floating_point() else v for v in values]
        value = function(*leaves)
        value.backward()
        results.append((value.detach(), [leaf.grad for leaf in leaves if leaf.is_floating_point()]))
    (got, got_grads), (expected, expected_grads) = results
    assert got.shape == ()
    assert got > 0
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    for grad, expected_grad in zip(got_grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-11, atol=1e-14)
        assert (grad != 0).any()


@pytest.mark.parametrize("name", CASES)
def test_gradients_by_finite_differences(name):
    """Of what the model makes: the first argument, and all samples of the acceleration."""
    term, _, values = CASES[name]
    moved = 3 if name == "acceleration" else 1
    leaves = [value.clone().requires_grad_() for value in values[:moved]]
    assert torch.autograd.gradcheck(lambda *leaves: term(*leaves, *values[moved:]), leaves)


@pytest.mark.parametrize("name", CASES)
def test_float32_agrees_with_float64(name):
    term, _, values = CASES[name]
    single = [v.float() if v.is_floating_point() else v for v in values]
    value = term(*single)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), term(*values), rtol=3e-6, atol=0)


# ------------------------------------------------------------------------------------------------ flow


def test_flow_counts_predictions_in_the_image_only():
    """On the border is inside; targets do not decide."""
    predicted = torch.tensor([[0.0, 0.0], [29.0, 19.0], [29.01, 5.0], [5.0, -0.01], [3.0, 3.0]])
    target = predicted + torch.tensor([[1.0, 1.0], [2.0, 2.0], [100.0, 0.0], [100.0, 0.0], [50.0, 50.0]])
    assert losses.flow(predicted, target, torch.ones(5), SIZE) == pytest.approx((1 + 2) / 2)  # 50 is the largest


def test_flow_drops_the_largest_residual_whatever_its_weight_and_is_not_divided_by_the_weights():
    predicted = torch.full((4, 2), 5.0, requires_grad=True)
    target = torch.tensor([[6.0, 6.0], [8.0, 8.0], [5.0, 5.0], [15.0, 15.0]])
    value = losses.flow(predicted, target, torch.tensor([0.5, 0.2, 1.0, 0.01]), SIZE)
    assert value.item() == pytest.approx((0.5 * 1 + 0.2 * 3 + 0) / 3)
    value.backward()
    assert predicted.grad[3].tolist() == [0, 0]
    assert predicted.grad[0].tolist() == pytest.approx([-0.5 / 3 / 2] * 2)


@pytest.mark.parametrize("target", [5.0, 7.0])
def test_flow_of_equal_residuals_and_of_nothing_is_zero_with_a_gradient(target):
    """All are the largest: strictly below it is none."""
    predicted = torch.full((4, 2), 5.0, requires_grad=True)
    value = losses.flow(predicted, torch.full((4, 2), target), torch.ones(4), SIZE)
    value.backward()
    assert value.item() == 0
    assert torch.equal(predicted.grad, torch.zeros(4, 2))


def test_flow_with_all_predictions_outside_is_zero():
    predicted = torch.full((4, 2), -5.0, requires_grad=True)
    value = losses.flow(predicted, torch.rand(4, 2), torch.ones(4), SIZE)
    value.backward()
    assert value.item() == 0
    assert torch.equal(predicted.grad, torch.zeros(4, 2))


def test_a_prediction_that_is_not_a_number_shows():
    predicted = torch.full((4, 2), 5.0)
    predicted[1] = torch.nan
    assert losses.flow(predicted, torch.zeros(4, 2), torch.ones(4), SIZE).isnan()


# ------------------------------------------------------------------------------------------------ differences


def test_differences_are_taken_within_pairs_only():
    """A constant offset a pair costs nothing, though it differs between pairs."""
    offset = torch.tensor([0.0, 10.0, -20.0], dtype=torch.float64)[:, None, None]
    assert losses.flow_difference(POINTS + offset, POINTS, OMEGA).item() == pytest.approx(0, abs=1e-13)
    ones = torch.ones(B, P, dtype=torch.bool)
    assert losses.colour_difference(COLOURS + offset, COLOURS, ones).item() == pytest.approx(0, abs=1e-13)


def test_flow_difference_without_any_weight_is_zero():
    predicted = POINTS.float().clone().requires_grad_()
    alternating = (torch.arange(P) % 2).float().expand(B, P)  # no two neighbours count
    value = losses.flow_difference(predicted, NEAR_POINTS.float(), alternating)
    value.backward()
    assert value.item() == 0
    assert torch.equal(predicted.grad, torch.zeros_like(predicted))


def test_colour_without_any_point_inside_is_zero():
    nothing = torch.zeros(B, P, dtype=torch.bool)
    assert losses.colour(COLOURS, TRUE_COLOURS, nothing) == 0
    assert losses.colour_difference(COLOURS, TRUE_COLOURS, nothing) == 0


# ------------------------------------------------------------------------------------------------ rays


def test_depths_in_the_box_cost_nothing():
    assert losses.depth_range(torch.tensor([[0.0, 1.0, 2.0]])) == 0
    assert losses.depth_range(torch.tensor([[-1.0, 1.0, 2.5]])).item() == pytest.approx((1 + 0.25) / 3)


def test_distortion_of_all_weight_on_one_sample_is_its_own_width():
    depths = torch.linspace(0, 2, 32).expand(1, 32)
    weights = torch.zeros(1, 32)
    weights[0, 10] = 1
    assert losses.distortion(weights, depths).item() == pytest.approx(2 / 31 / 3, rel=1e-5)
    weights[0, 10], weights[0, 31] = 0, 1  # the last interval has no width
    assert losses.distortion(weights, depths).item() == 0


def test_distortion_keeps_its_digits_where_a_ray_is_almost_opaque():
    """In single precision, at 32 samples: a sum of differences of running sums would lose them."""
    depths = torch.linspace(0, 2, 32).expand(64, 32).clone()
    depths[:, 1:-1] += random(64, 30, low=-0.03, high=0.03).float()
    weights = 1e-5 * random(64, 32).float()
    weights[:, 12] = 1 - weights.sum(1)
    single, double = losses.distortion(weights, depths), losses.distortion(weights.double(), depths.double())
    assert single.item() == pytest.approx(double.item(), rel=1e-5)


def test_uniform_motion_has_no_acceleration():
    here, velocity = SAMPLES[0], SAMPLES[1]
    everyone = torch.ones(5, dtype=torch.bool)
    assert losses.acceleration(here - velocity, here, here + velocity, everyone).item() == pytest.approx(0, abs=1e-15)


def test_acceleration_without_any_frame_between_two_is_zero():
    assert losses.acceleration(*SAMPLES, torch.zeros(5, dtype=torch.bool)) == 0


@pytest.mark.parametrize("points, taken", [(256, 64), (8, 2), (1, 1), (10, 2)])
def test_first_points_are_those_of_every_pair(points, taken):
    values = torch.arange(3 * points * 2).reshape(3 * points, 2)
    got = losses.first_points(values, 3)
    assert torch.equal(got, values.reshape(3, points, 2)[:, :taken].reshape(-1, 2))


# ------------------------------------------------------------------------------------- one depth a pixel

MAPS = random(4, 8, 9)


def nearest_depth(maps):
    return lambda xy, frame: maps[frame, xy[:, 1].round().long(), xy[:, 0].round().long()]


def test_depth_agreement_is_read_at_the_match_in_its_frame():
    rows, points = 12, 6
    frame_i, frame_j = torch.arange(rows) % 4, (torch.arange(rows) * 3 + 1) % 4
    xy_i, xy_j = (random(rows, 2, seed=seed) * torch.tensor([8.0, 7.0]) for seed in (1, 2))
    mapped, seen = random(rows, seed=3), chosen(rows, share=0.7, seed=4)
    maps = MAPS.clone().requires_grad_()
    got = losses.depth_agreement(mapped, nearest_depth(maps), xy_j, frame_j, seen, points)
    expected, touched = 0.0, set()
    for r in range(rows):
        cell = (int(frame_j[r]), round(float(xy_j[r, 1])), round(float(xy_j[r, 0])))
        if seen[r]:
            expected += abs(float(mapped[r]) - float(MAPS[cell])) / points
            touched.add(cell)
    assert got.item() == pytest.approx(expected, rel=1e-12)
    got.backward()
    assert {tuple(cell) for cell in maps.grad.nonzero().tolist()} == touched
    elsewhere = losses.depth_agreement(mapped, nearest_depth(MAPS), xy_i, frame_i, seen, points)
    assert elsewhere.item() != pytest.approx(expected, rel=1e-3)


def test_depth_agreement_has_a_gradient_to_the_mapped_depth():
    mapped = random(5).requires_grad_()
    xy, frame = random(5, 2, seed=1) * 7, torch.arange(5) % 4
    term = lambda z: losses.depth_agreement(z, nearest_depth(MAPS), xy, frame, torch.ones(5), 5)  # noqa: E731
    assert torch.autograd.gradcheck(term, (mapped,))


def test_the_depth_prior_is_zero_at_the_prior_and_slopes_do_not_see_an_offset():
    assert losses.depth_prior(MAPS, MAPS) == 0
    assert losses.depth_prior(MAPS + 0.25, MAPS).item() == pytest.approx(0.25)


@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 5, 1), (1, 1, 1)])
def test_the_depth_prior_of_a_frame_one_pixel_wide(shape):
    prior = torch.zeros(shape)
    assert losses.depth_prior(prior + 1, prior) == 1
