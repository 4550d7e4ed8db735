"""A whole step of CaDeX++ against a literal transcription of the published one: losses and gradients, in float64.

The transcription and the copying of weights are those of the benchmark, which compares speed at equal losses.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
import torch

from tests.shared import ROOT
from tests.unit.optimize.test_published_step import BENCHMARKS, imported

FRAMES = 14
SAMPLER = {"pairs": 5, "points": 16, "long_points": 40, "min_valid": 0.0}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("cadex_step")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def matches(bench):
    return bench.with_long_range(bench.problem(FRAMES, (32, 40), per_pair=40)[1])


@pytest.fixture
def trainer(bench, matches):
    def build(variant: str, *, double: bool = True):
        made = bench.trainer_of(variant, matches, "cpu", SAMPLER)
        if double:
            bench.in_float64(made)
        return made

    return build


@pytest.mark.parametrize("variant", ["cadex", "cadex-nomatch"])
@pytest.mark.parametrize("share", [0.02, 0.06, 0.5])
def test_step_is_the_published_one(bench, trainer, variant, share):
    """Each weight of long-range matches, without and with the cut by the median."""
    made = trainer(variant)
    literal = bench.literal_step_of(variant, bench.literal_of(made))
    losses, gradients = bench.disagreement(made, literal, round(share * made.options.steps))
    expected = {"flow", "flow_difference", "depth", "depth_prior", "total"}
    if variant == "cadex":
        expected |= {"depth_slope", "long_range", "long_depth", "long_depth_prior", "long_depth_slope"}
    assert set(losses) == expected
    assert max(losses.values()) < 1e-6
    assert max(gradients) < 1e-5  # the published far knots lose some of the sixteen digits
    assert len(gradients) == len(list(made.model.parameters())) - 6  # the first layer's two halves are one there


def test_terms_are_at_work_and_points_lie_in_the_tails(bench, trainer):
    made = trainer("cadex")
    batch, long, _, _ = bench.batches(made, 11_000)
    assert all(value > 0 for value in made.terms(batch, long, 11_000).values())
    points = made.model.lift(batch.xy_i, made.model.depth(batch.xy_i, batch.i))
    assert (points.abs() > 1).any(1).double().mean() > 0.1  # the knots end near +-1


def test_a_changed_weight_is_noticed(bench, trainer):
    made = trainer("cadex-nomatch")
    model = bench.literal_of(made)
    with torch.no_grad():
        model.blocks[3].net[4].bias[7] += 0.1
    losses, _ = bench.disagreement(made, bench.literal_step_of("cadex-nomatch", model), 11_000)
    assert max(losses.values()) > bench.AGREE


def test_neither_side_imports_the_other():
    assert imported(BENCHMARKS / "published_cadex_step.py") <= sys.stdlib_module_names | {"torch", "__future__"}
    assert not [path for path in ROOT.glob("everypoint/**/*.py") if "published_cadex_step" in path.read_text()]
