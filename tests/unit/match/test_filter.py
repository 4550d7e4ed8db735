"""The filter on worlds with known answers, and against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everypoint.config.options import MatchOptions
from everypoint.geometry import pixel_grid, sample_index, sample_resized
from everypoint.match.appearance import FeatureMap, similarity
from everypoint.match.cycle import length, round_trip, second_forward_error
from everypoint.match.filter import PairFlows, PointClasses, classify, score
from tests.unit.match.worlds import classify_by_loops, constant, random_pair, square_mask

SIZE = (32, 40)
OPTIONS = MatchOptions()


def field(flow: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(flow).permute(2, 0, 1).contiguous()


def classified(forward, backward, gap=1, options=OPTIONS, maps=None, **more) -> PointClasses:
    size = forward.shape[:2]
    features = [None, None] if maps is None else [FeatureMap(torch.from_numpy(m), size) for m in maps]
    pair = PairFlows(gap, field(forward), field(backward), *features)
    return classify(pixel_grid(*size).reshape(-1, 2), pair.forward.reshape(2, -1).T, pair, options, **more)


def image(flags: torch.Tensor, size=SIZE) -> np.ndarray:
    return flags.reshape(size).numpy()


# ------------------------------------------------------------------------------------------------- translations


@pytest.mark.parametrize("gap", [1, 2, 3, 9])
def test_a_translation_keeps_all_but_what_leaves(gap):
    classes = classified(constant(SIZE, (5, -2)), constant(SIZE, (-5, 2)), gap)
    stays = np.zeros(SIZE, bool)
    stays[2:, :35] = True
    assert np.array_equal(image(classes.cycle), stays)
    assert not classes.occluded.any()
    assert classes.error[classes.cycle].max() < 1e-5
    assert torch.equal(classes.target, pixel_grid(*SIZE).reshape(-1, 2) + torch.tensor([5.0, -2.0]))


def test_a_small_step_out_of_the_frame_is_refused():
    # As published these pixels pass: the flow back reads as zero outside, and 2 px are below the threshold.
    classes = classified(constant(SIZE, (2, 0)), constant(SIZE, (-2, 0)))
    assert not image(classes.cycle)[:, -2:].any()
    assert image(classes.cycle)[:, :-2].all()


@pytest.mark.parametrize(("error", "kept"), [(2.9, True), (3.1, False)])
def test_the_cycle_threshold(error, kept):
    classes = classified(constant(SIZE, (4, 0)), constant(SIZE, (-4 + error, 0)), gap=3)
    assert bool(image(classes.cycle)[:, :36].all()) == kept
    assert bool(classes.cycle.any()) == kept
    assert classes.error.reshape(SIZE)[:, :36].sub(error).abs().max() < 1e-5


# -------------------------------------------------------------------------------------------------- occlusion


def occlusion(step: int, gap: int, options: MatchOptions = OPTIONS) -> tuple[PointClasses, np.ndarray]:
    """A square of side 12 moves right by ``step`` over a still ground; the ground's flow is right everywhere.

    Returns the classes and where the ground of frame i is hidden by the square in frame j.
    """
    here, there = square_mask(SIZE, (8, 10), 12), square_mask(SIZE, (8 + step, 10), 12)
    forward, backward = constant(SIZE, (0, 0)), constant(SIZE, (0, 0))
    forward[here], backward[there] = (step, 0), (-step, 0)
    return classified(forward, backward, gap, options), there & ~here


@pytest.mark.parametrize("gap", [1, 2])
def test_ground_behind_a_square_is_rescued_at_small_gaps(gap):
    classes, hidden = occlusion(step=8, gap=gap)
    assert hidden.sum() == 8 * 12
    assert np.array_equal(image(classes.occluded), hidden)  # e1 = 8 > 4.5 there, and the second step meets again
    assert not (classes.cycle & classes.occluded).any()
    assert np.array_equal(image(classes.cycle), ~hidden)
    assert classes.error[classes.occluded].max() == 0


@pytest.mark.parametrize("gap", [3, 8])
def test_no_rescue_from_gap_three_on(gap):
    classes, hidden = occlusion(step=8, gap=gap)
    assert not classes.occluded.any()
    assert np.array_equal(image(classes.cycle), ~hidden)


@pytest.mark.parametrize(("step", "kept"), [(4, "neither"), (5, "occluded"), (2, "cycle")])
def test_between_three_and_four_and_a_half_pixels_is_neither(step, kept):
    classes, hidden = occlusion(step=step, gap=1)
    found = {"cycle": image(classes.cycle)[hidden], "occluded": image(classes.occluded)[hidden]}
    assert {name: bool(flags.all()) for name, flags in found.items()} == {n: n == kept for n in found}
    assert {name: bool(flags.any()) for name, flags in found.items()} == {n: n == kept for n in found}


def test_rescue_thresholds_are_options():
    assert not occlusion(step=8, gap=1, options=MatchOptions(rescue_gap=0))[0].occluded.any()
    assert not occlusion(step=8, gap=1, options=MatchOptions(rescue_factor=3.0))[0].occluded.any()
    assert occlusion(step=8, gap=5, options=MatchOptions(rescue_gap=5))[0].occluded.any()


def test_no_rescue_where_the_second_step_misses():
    # The flow of the square is off by 4 px, so that walking back and forth again does not meet.
    forward, backward = constant(SIZE, (0, 0)), constant(SIZE, (0, 0))
    forward[square_mask(SIZE, (8, 10), 12)] = (12, 0)
    backward[square_mask(SIZE, (16, 10), 12)] = (-8, 0)
    classes = classified(forward, backward)
    hidden = (slice(10, 22), slice(20, 28))  # e1 = 8 there, and e2 = 4
    assert not image(classes.occluded)[hidden].any()
    assert not image(classes.cycle)[hidden].any()
    assert image(classes.error)[hidden].min() == 8


# -------------------------------------------------------------------------------------------------- appearance


def halves(flip: bool) -> np.ndarray:
    """Features [4, 5, 2] of a frame whose left and right parts look different, or the other way round."""
    maps = np.zeros((4, 5, 2), np.float16)
    maps[:, :2, 0] = maps[:, 2:, 1] = 1
    return maps[..., ::-1].copy() if flip else maps


@pytest.mark.parametrize(("gap", "vetoed"), [(1, False), (2, False), (3, True), (7, True)])
def test_another_appearance_vetoes_from_gap_three_on(gap, vetoed):
    still = constant(SIZE, (0, 0))
    other = classified(still, still, gap, maps=(halves(False), halves(True)))
    assert bool(other.vetoed.any()) == vetoed
    far = np.ones(SIZE, bool)
    far[:, 12:20] = False  # cells of both looks blend there
    assert (~image(other.cycle)[far]).all() if vetoed else image(other.cycle).all()
    assert not (other.cycle & other.vetoed).any()
    assert classified(still, still, gap, maps=(halves(False), halves(False))).cycle.all()


def test_the_appearance_threshold_is_strict_and_an_option():
    still = constant(SIZE, (0, 0))
    flat, turned = np.zeros((4, 5, 2), np.float32), np.zeros((4, 5, 2), np.float32)
    flat[..., 0] = 1
    turned[...] = (0.6, 0.8)
    for threshold, kept in ((0.55, True), (0.65, False)):
        options = MatchOptions(appearance_threshold=threshold)
        assert bool(classified(still, still, 3, options, maps=(flat, turned)).cycle.all()) == kept


@pytest.mark.parametrize("shape", [(4, 5, 3), (1, 1, 2), (7, 1, 4), (60, 107, 16)])
def test_feature_rows_read_as_the_plain_reference(shape):
    random = torch.Generator().manual_seed(0)
    features = torch.randn(shape, generator=random)
    points = torch.rand(500, 2, generator=random) * torch.tensor([50.0, 42.0]) - 5  # also outside
    expected = sample_resized(features.double().permute(2, 0, 1), points.double(), SIZE).float()
    assert torch.allclose(FeatureMap(features, SIZE).sample(points), expected, atol=1e-4)


def test_similarity_is_the_cosine_whatever_the_chunks(monkeypatch):
    random = torch.Generator().manual_seed(0)
    maps = [FeatureMap(torch.randn(4, 5, 8, generator=random), SIZE) for _ in range(2)]
    points = [torch.rand(1000, 2, generator=random) * 30 for _ in range(2)]
    expected = torch.cosine_similarity(maps[0].sample(points[0]), maps[1].sample(points[1]), dim=1)
    assert torch.allclose(similarity(maps[0], points[0], maps[1], points[1]), expected, atol=1e-6)
    monkeypatch.setattr("everypoint.match.appearance.CHUNK", 7)
    assert torch.allclose(similarity(maps[0], points[0], maps[1], points[1]), expected, atol=1e-6)
    assert similarity(maps[0], points[0][:0], maps[1], points[1][:0]).shape == (0,)


# ------------------------------------------------------------------------------------------------------- loops


@pytest.mark.parametrize("gap", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_loops_in_float64(gap, seed):
    size = (14, 17)
    forward, backward = random_pair(size, seed)
    random = np.random.default_rng(seed)
    maps = [random.normal(0.3, 1, (3, 4, 5)).astype(np.float32) for _ in range(2)]
    expected = classify_by_loops(forward, backward, gap, OPTIONS, maps)
    found = classified(forward, backward, gap, maps=maps)
    for name, flags in expected.items():
        assert np.array_equal(image(getattr(found, name), size), flags), name
    assert expected["cycle"].sum() > 20
    assert (expected["vetoed"].sum() > 5) == (gap == 3)
    assert not image(found.cycle, size)[1, 2]  # the flow that could not be stored


def test_the_loops_do_see_occlusions():
    counts = [classify_by_loops(*random_pair((14, 17), seed), 1, OPTIONS)["occluded"].sum() for seed in range(3)]
    assert sum(counts) > 3


def test_some_points_are_judged_as_among_all():
    size = (14, 17)
    forward, backward = random_pair(size, 0)
    random = np.random.default_rng(0)
    maps = [torch.from_numpy(random.normal(0.3, 1, (3, 4, 5)).astype(np.float32)) for _ in range(2)]
    pair = PairFlows(3, field(forward), field(backward), *(FeatureMap(m, size) for m in maps))
    points, flow = pixel_grid(*size).reshape(-1, 2), pair.forward.reshape(2, -1).T
    chosen = torch.tensor([200, 3, 50, 120, 121])
    whole, some = classify(points, flow, pair, OPTIONS), classify(points[chosen], flow[chosen], pair, OPTIONS)
    for name in ("cycle", "occluded", "vetoed"):
        assert torch.equal(getattr(some, name), getattr(whole, name)[chosen])
    assert torch.allclose(some.similarity, whole.similarity[chosen], atol=1e-6)


# ------------------------------------------------------------------------------------------- arithmetic and score


def test_round_trip_by_hand():
    points = torch.tensor([[10.0, 10.0]])
    backward = field(constant(SIZE, (-4, -1)))
    trip = round_trip(points, torch.tensor([[6.0, 1.0]]), backward)
    assert trip.target.tolist() == [[16.0, 11.0]]
    assert trip.displacement.tolist() == [[2.0, 0.0]]
    assert trip.error.tolist() == [2.0]
    assert second_forward_error(points, trip, field(constant(SIZE, (7, 1)))).tolist() == [3.0]  # 12 + 7 - 16


def test_length_is_the_euclidean_norm():
    assert length(torch.tensor([[3.0, 4.0], [-5.0, 12.0], [0.0, 0.0]])).tolist() == [5.0, 13.0, 0.0]


def test_nan_spreads_from_either_flow():
    backward = constant(SIZE, (0, 0))
    backward[5, 6] = np.nan
    assert torch.isnan(sample_index(field(backward), torch.tensor([[5.5, 5.0]]))).all()
    forward = constant(SIZE, (0, 0))
    forward[20, 20] = np.nan
    classes = classified(forward, backward)
    assert not image(classes.cycle)[20, 20]
    assert not image(classes.cycle)[5, 6]
    assert not (classes.occluded | classes.vetoed).any()


def test_scores_by_hand():
    options = MatchOptions(cycle_threshold=4.0)  # s = 2
    true, false = torch.tensor([True]), torch.tensor([False])
    target = torch.zeros(1, 2)

    def one(error: float, cosine: float | None, occluded: bool) -> float:
        similar = None if cosine is None else torch.tensor([cosine])
        flags = (false, true) if occluded else (true, false)
        return float(score(PointClasses(target, *flags, false, torch.tensor([error]), similar), options))

    assert one(0.0, None, False) == 1
    assert one(2.0, None, False) == pytest.approx(np.exp(-0.5))
    assert one(2.0, 0.5, False) == pytest.approx(0.5 * np.exp(-0.5))
    assert one(0.0, -0.2, False) == 0
    assert one(2.0, 0.0, True) == pytest.approx(np.exp(-0.5))


def test_similarity_for_the_score_only_when_asked():
    still = constant(SIZE, (0, 0))
    maps = (halves(False), halves(True))
    assert classified(still, still, 1, maps=maps, for_score=False).similarity is None
    assert classified(still, still, 1, maps=maps).similarity.min() < 0.1
    assert classified(still, still, 3, maps=maps, for_score=False).vetoed.any()
