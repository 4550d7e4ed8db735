"""A whole step of OmniMotion's model against a literal transcription of the published one: losses and gradients.

The transcription and the copying of weights are those of the benchmark, which compares speed at equal losses.
"""

from __future__ import annotations

import ast
import importlib
import sys
from types import ModuleType

import pytest
import torch

from everypoint.config.presets import load_preset
from everypoint.optimize.field_trainer import FieldTrainer
from everypoint.optimize.run import prepare
from tests.shared import ROOT

BENCHMARKS = ROOT / "benchmarks"
FRAMES = 8  # a power of two: the frames' times are exact in every type


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("step")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def made(bench):
    return bench.problem(FRAMES, (32, 40), per_pair=40)


def trainer(made, affine: str, pairs: int = 3, points: int = 8) -> FieldTrainer:
    changes = {
        "model": {"nvp": {"affine": affine}, "field": {"samples": 6}},
        "optimize": {"rays": {"pairs": pairs, "points": points}},
    }
    images, matches = made
    return prepare(matches, load_preset("omnimotion", {"omnimotion": changes}), "cpu", 0, images)


@pytest.fixture
def apart(bench, made):
    """Trainers whose frames differ."""

    def build(affine: str, **changes: int) -> FieldTrainer:
        ours = trainer(made, affine, **changes)
        bench.set_apart(ours.model.bijection)
        return ours

    return build


def step_of(trainer: FieldTrainer) -> int:
    """One at which every term has its weight, and points that do not count are among the drawn ones."""
    start = round(0.6 * trainer.options.steps)
    return next(step for step in range(start, start + 100) if (trainer.sampler.draw(step).omega == 0).any())


def in_float64(bench, trainer: FieldTrainer, monkeypatch) -> None:
    """Let the model and all that a step hands it be float64."""
    trainer.model.double()
    batch_of, places, given_of = trainer.sampler._batch, trainer._places, bench.given_of

    def batch(*arguments):
        drawn = batch_of(*arguments)
        return drawn._replace(**{name: getattr(drawn, name).double() for name in ("xy_i", "xy_j", "omega")})

    def given(*arguments):
        handed = given_of(*arguments)
        handed.colour = handed.colour.double()
        return handed

    monkeypatch.setattr(trainer.sampler, "_batch", batch)
    monkeypatch.setattr(trainer, "_places", lambda *arguments: places(*arguments).double())
    monkeypatch.setattr(bench, "given_of", given)


@pytest.mark.parametrize("affine", ["none", "small", "large"])
def test_step_is_the_published_one(bench, apart, affine, monkeypatch):
    """In float64 only the order of additions differs; the colours of the video are float32."""
    ours = apart(affine)
    in_float64(bench, ours, monkeypatch)
    model, names = bench.literal_of(ours.model)
    literal = bench.PublishedStep(model.double(), across_pairs=False)
    losses, gradients = bench.disagreement(ours, literal, names, step_of(ours))
    assert set(losses) == {"flow", "colour", "flow_difference", "depth_range", "distortion", "acceleration", "total"}
    assert max(losses.values()) < 1e-7
    assert max(gradients.values()) < 1e-7
    assert len(gradients) == len(list(model.parameters()))


def test_terms_are_at_work(apart):
    """What is compared is not zero: every term and every parameter's gradient."""
    ours = apart("small")
    step = step_of(ours)
    terms, _ = ours.terms(ours.sampler.draw(step), step)
    assert all(value > 0 for value in terms.values())
    sum(terms.values()).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in ours.model.parameters())


def test_losses_agree_in_float32(bench, apart):
    ours = apart("small", points=16)
    model, names = bench.literal_of(ours.model)
    losses, gradients = bench.disagreement(ours, bench.PublishedStep(model, across_pairs=False), names, step_of(ours))
    assert max(losses.values()) < bench.AGREE
    assert max(gradients.values()) < 1e-2  # a residual or a rectifier near zero may change its sign


def test_a_changed_weight_is_noticed(bench, apart):
    ours = apart("none")
    model, names = bench.literal_of(ours.model)
    with torch.no_grad():
        model.couplings[3].net[4].bias[7] += 0.1
    losses, _ = bench.disagreement(ours, bench.PublishedStep(model, across_pairs=False), names, step_of(ours))
    assert losses["total"] > bench.AGREE


def test_as_published_consecutive_points_run_across_pairs(bench, apart):
    """The one respect in which the literal step follows ours: only the terms of differences change, and little."""
    ours = apart("none")
    model, _ = bench.literal_of(ours.model)
    step = step_of(ours)
    handed = bench.given_of(ours, ours.sampler.draw(step), step)
    weights = bench.ramps.loss_weights(step, ours.options.steps, ours.options.ray_losses)
    ours, published = (
        bench.PublishedStep(model, across_pairs=across).terms(handed, weights) for across in (False, True)
    )
    changed = {name for name in ours if not torch.equal(ours[name], published[name])}
    assert changed == {"colour", "flow_difference"}
    assert len(bench.PublishedStep(model).consecutive(handed.omega)[0]) == handed.omega.numel() - 1


def test_literal_model_has_the_published_parameters(bench):
    made = bench.PublishedModel(5, (8, 8), [0, 1, 2, 2, 1, 0], "large")
    assert sum(parameter.numel() for parameter in made.parameters()) == 2_984_085


def imported(path) -> set[str]:
    """First names of all that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_neither_side_imports_the_other():
    """The comparison is worth something because the transcription shares no line with the package."""
    assert imported(BENCHMARKS / "published_step.py") <= sys.stdlib_module_names | {"torch", "__future__"}
    package = [*ROOT.glob("everypoint/**/*.py"), *ROOT.glob("scripts/*.py")]
    assert len(package) > 100
    others = {path.stem for path in BENCHMARKS.glob("*.py")} | {"benchmarks"}
    assert not [path for path in package if imported(path) & others]
