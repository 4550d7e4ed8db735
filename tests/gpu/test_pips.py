"""PIPs++ on CUDA is what it is on a CPU, in any chunks; a step trains there. Skipped where there is no such device."""

from __future__ import annotations

import copy

import pytest
import torch

from everypoint.numerics import full_precision
from everypoint.pips.network import PipsInference
from everypoint.pips.train_data import Samples, batches
from everypoint.pips.trainer import PipsTrainer
from tests.unit.pips.made import Sliding, options
from tests.unit.pips.test_network import small
from tests.unit.pips.weights import formula_network

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


@pytest.mark.parametrize("memory", [1, 2**30])
def test_positions_are_those_of_the_cpu(memory):
    rgb, start = small()
    found = []
    with full_precision():
        for device in ("cpu", "cuda"):
            inference = PipsInference(formula_network(), device, memory=memory)
            found.append(inference.track(inference.pyramid(rgb), start, 2).predictions.cpu())
    assert (found[0] - found[1]).abs().max() < 1e-2


@pytest.mark.parametrize(("precision", "share"), [("bfloat16", 0.35), ("float16", 0.06)])
def test_half_precision_is_near(precision, share):
    rgb, start = small(frames=9, points=3)
    exact = PipsInference(formula_network(), "cuda")
    expected = exact.track(exact.pyramid(rgb), start, 1).predictions
    half = PipsInference(formula_network(), "cuda", precision=precision)
    found = half.track(half.pyramid(rgb), start, 1).predictions
    moved = (expected[0] - start.cuda()).abs().mean()
    assert 0 < (found - expected).abs().mean() < share * moved


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_trains(precision):
    chosen = options(precision=precision)
    trainer = PipsTrainer(copy.deepcopy(formula_network()), chosen, torch.device("cuda"))
    before = trainer.network.fnet.conv1.weight.detach().clone()
    found = trainer.step(batches(Samples(Sliding(), 2, 0, transpose=True), 0, 1))
    assert found.loss > 0
    assert trainer.is_finite()
    assert not torch.equal(before, trainer.network.fnet.conv1.weight)
