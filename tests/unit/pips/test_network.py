"""The network against the reference vectors, which formula-made weights gave on the published code."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from benchmarks import published_pips
from everypoint.pips.correlation import Blocks, Pyramid
from everypoint.pips.driver import Features, Plan, follow, to_network
from everypoint.pips.metrics import pips_metrics
from everypoint.pips.network import PipsInference, PipsNetwork, frames_of, refine
from tests.shared import shared
from tests.unit.pips.weights import formula_network


@pytest.fixture(scope="module")
def vectors():
    return np.load(shared("vectors/pips_forward_vectors.npz"))


@pytest.fixture(scope="module")
def inference():
    return PipsInference(formula_network())


def start_of(vectors):
    return torch.from_numpy(vectors["pips_xy0"])[None, None].expand(1, 8, 5, 2)


@pytest.fixture(scope="module")
def first(vectors, inference):
    """Features, and the first run of three iterations."""
    pyramid = inference.pyramid(torch.from_numpy(vectors["pips_rgb"]))
    return pyramid, inference.track(pyramid, start_of(vectors), 3)


def test_keys_and_count():
    state = PipsNetwork().state_dict()
    assert len(state) == 82
    assert sum(value.numel() for value in state.values()) == 17_565_410
    large = {key: value.numel() for key, value in state.items() if value.numel() > 100_000}
    assert large["delta_block.first_block_conv.conv.weight"] == 275_712
    assert large["fnet.conv2.weight"] == 958_464
    assert large["delta_block.basicblock_list.7.conv2.conv.weight"] == 3_145_728
    assert "fnet.layer2.0.downsample.0.weight" in state
    assert "norm.weight" in state


def test_features(vectors, inference):
    features = inference.features(torch.from_numpy(vectors["pips_rgb"]))
    assert np.abs(features.numpy() - vectors["pips_fmaps"]).max() < 1e-3


def test_positions_after_each_iteration(vectors, first):
    _, found = first
    assert np.abs(found.predictions.numpy() - vectors["pips_preds"]).max() < 1e-2
    assert np.abs(found.locked.numpy() - vectors["pips_preds_vis"]).max() < 1e-2


def test_training_forward_is_the_same(vectors):
    with torch.no_grad():
        found = formula_network()(torch.from_numpy(vectors["pips_rgb"])[None], start_of(vectors), 3)
    assert np.abs(found.numpy() - vectors["pips_preds"]).max() < 1e-2


def test_templates_are_carried(vectors, inference, first):
    pyramid = inference.pyramid(torch.from_numpy(vectors["pips_rgb_featinit"]))
    start = torch.from_numpy(vectors["pips_preds"][-1])
    found = inference.track(pyramid, start, 3, first[1].templates)
    assert np.abs(found.predictions.numpy() - vectors["pips_preds_featinit"]).max() < 2e-2


def test_beautify_halves_the_last_moves(vectors, inference, first):
    """Under these weights an error doubles with each iteration.

    The very last digits of the features, which differ between processors, are about 0.05 px after seven iterations:
    float64 arithmetic is 0.057 px away from the vectors after eight. So they bind the first six, and the last one is
    bound to its own run without halving.
    """
    pyramid, _ = first
    found = inference.track(pyramid, start_of(vectors), 8, beautify=True)
    difference = np.abs(found.predictions.numpy() - vectors["pips_preds_beautify_it8"]).max((1, 2, 3, 4))
    assert difference[:6].max() < 5e-2
    assert difference[6] < 1e-1  # doubled once more
    assert difference.max() < 0.2
    plain = inference.track(pyramid, start_of(vectors), 8)
    assert torch.equal(plain.predictions[:7], found.predictions[:7])
    moves = [each.predictions[7] - each.locked[7] for each in (plain, found)]
    assert torch.allclose(moves[0], 2 * moves[1], atol=1e-4)


def test_whole_driver(vectors, inference):
    """19 frames of 96 x 160 at 128 x 192, windows of 8, the last one shifted back; and the metrics of the result."""
    frames = vectors["full_rgb"].transpose(0, 2, 3, 1)
    truth = to_network(vectors["full_trajs_g"][0], (96, 160), (128, 192), compat=True)
    assert np.allclose(truth, vectors["full_trajs_g_scaled"][0], atol=1e-4)
    features = Features(inference, lambda number: frames[number], 19, (128, 192))
    found = follow(features, list(range(19)), truth[0], Plan(window=8, iterations=2))
    assert np.abs(found - vectors["full_trajs_e"][0]).max() < 1e-2
    assert np.array_equal(found[0], truth[0])
    scores = pips_metrics(found, truth, vectors["full_valids"][0], (128, 192))
    for name, value in scores.items():
        assert value == pytest.approx(
            float(vectors[f"full_out/{name.removesuffix('_16') if 'surv' in name else name}"]), abs=1e-2
        )


def small(frames: int = 9, points: int = 7):
    """A clip of 128 x 136 and points, some of which begin outside."""
    random = np.random.default_rng(0)
    picture = np.kron(random.integers(0, 256, (3, 20, 20)), np.ones((1, 8, 8)))
    rgb = np.stack([picture[:, t : t + 128, 2 * t : 2 * t + 136] for t in range(frames)]).astype(np.uint8)
    xy = random.uniform(-10, 140, (points, 2)).astype(np.float32)
    return torch.from_numpy(rgb), torch.from_numpy(xy)[None, None].repeat(1, frames, 1, 1)


def test_equals_the_published_forward_pass_in_float64():
    """The transcription holds whole volumes; it gives the reference vectors itself, and here the truth."""
    rgb, start = small()
    truth = published_pips.forward(copy.deepcopy(formula_network()).double(), rgb, start[0], 2)
    inference = PipsInference(formula_network())
    found = inference.track(inference.pyramid(rgb), start, 2).predictions[:, 0]
    assert (found - truth).abs().max() < 2e-3
    assert (truth[-1] - start[0]).abs().max() > 1  # it says something
    assert truth[-1, 4, 3].tolist() == pytest.approx(EXPECTED, abs=1e-4)


EXPECTED = [6.231774375, 90.393902648]  # of the fourth point in the fifth frame, where no vectors are at hand


def test_the_transcription_gives_the_vectors(vectors):
    found = published_pips.forward(formula_network(), torch.from_numpy(vectors["pips_rgb"]), start_of(vectors)[0], 3)
    assert np.abs(found.numpy() - vectors["pips_preds"][:, 0]).max() < 1e-2


def test_chunks_of_points_and_kinds_of_look_up_agree():
    network = formula_network()
    rgb, start = small(frames=5, points=3)
    whole = PipsInference(network)
    pyramid = whole.pyramid(rgb)
    expected = whole.track(pyramid, start, 2)
    tight = PipsInference(network, memory=1)
    assert tight.points_at_once(5) == 1
    found = tight.track(tight.pyramid(rgb), start, 2)
    assert torch.allclose(found.predictions, expected.predictions, atol=2e-3)
    assert torch.allclose(found.templates.first, expected.templates.first, atol=1e-3)
    frames = frames_of(1, 5, torch.device("cpu"))
    with torch.no_grad():
        for blocks in (Blocks(2**17, 0), Blocks(2**30, 2**30)):
            other = refine(pyramid, network.delta_block, start, 2, frames, blocks=blocks)
            assert torch.allclose(other.predictions, expected.predictions, atol=2e-3)


def test_small_and_odd_frames_give_numbers():
    inference = PipsInference(formula_network())
    rgb = torch.randint(0, 256, (3, 3, 50, 75), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    start = torch.tensor([[10.0, 10.0], [70.0, 45.0]])[None, None].repeat(1, 3, 1, 1)
    found = inference.track(inference.pyramid(rgb), start, 2)
    assert found.predictions.isfinite().all()
    assert torch.equal(found.predictions[-1, :, 0], start[:, 0])


@pytest.mark.parametrize(("precision", "share"), [("bfloat16", 0.35), ("float16", 0.06)])
def test_half_precision_is_near(precision, share):
    """As a share of the moves, which are noise under these weights (and of short clips, more so)."""
    network = formula_network()
    rgb, start = small(frames=9, points=3)
    exact = PipsInference(network)
    expected = exact.track(exact.pyramid(rgb), start, 1).predictions
    half = PipsInference(network, precision=precision)
    found = half.track(half.pyramid(rgb), start, 1).predictions
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().mean() < share * (expected[0] - start).abs().mean()


def test_lost_points_do_not_spread():
    """A position that is no number stays with its point, and far points look at nothing."""
    inference = PipsInference(formula_network())
    rgb, start = small(frames=3, points=3)
    pyramid = inference.pyramid(rgb)
    expected = inference.track(pyramid, start, 2).predictions
    start[:, :, 0] = 1e30
    found = inference.track(pyramid, start, 2).predictions
    assert torch.allclose(found[:, :, :, 1:], expected[:, :, :, 1:], atol=2e-3)


@pytest.mark.parametrize("held", [0, 2**30])
def test_gradients_are_those_of_whole_volumes(held):
    """Gathered features, or whole levels, in the checkpointed look-up, against the transcription differentiated."""
    network = formula_network()
    features = torch.randn(8, 128, 16, 17, generator=torch.Generator().manual_seed(0))
    _, start = small(frames=8, points=3)
    weight = torch.randn(3, 8, 3, 2, generator=torch.Generator().manual_seed(1))

    def ours(maps):
        frames = frames_of(1, 8, torch.device("cpu"))
        return refine(Pyramid(maps), network.delta_block, start, 2, frames, blocks=Blocks(2**17, held)).predictions[
            :, 0
        ]

    def published(maps):
        return published_pips.iterate.__wrapped__(network, maps, start[0], 2)

    gradients = []
    for forward in (ours, published):
        maps = features.clone().requires_grad_()
        with torch.enable_grad():
            gradients += torch.autograd.grad((forward(maps) * weight).sum(), maps)
    assert gradients[1].norm() > 1e-3
    assert (gradients[0] - gradients[1]).norm() < 1e-2 * gradients[1].norm()
