"""A step never waits for the device, whatever the model: no value is read back, no shape depends on a value.

Two watches, each blind to a part of what the other sees: Python's ways to read a tensor raise, and the operators that
a step runs, backward pass included, are looked through for those that wait on CUDA. The steps watched include those
that refresh the tables of error-weighted draws and those that sweep, the first one with errors and the one at which
the codes are frozen; left out is what comes before step 0. What a CUDA driver does inside is not seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from everypoint.config.presets import load_preset
from everypoint.models import chain
from everypoint.optimize.run import prepare
from everypoint.optimize.trainer import Trainer
from tests.unit.optimize.made import SIZE, camera_matches, tiny_preset, with_long_range
from tests.unit.optimize.made import trainer as planes_trainer
from tests.unit.optimize.test_loop import Waiting

FRAMES, STEPS = 6, 40
READS = (
    *("item", "tolist", "numpy", "cpu", "nonzero", "unique"),
    *("__bool__", "__float__", "__int__", "__index__", "__array__", "__contains__"),
)


@pytest.fixture(autouse=True)
def as_on_cuda(monkeypatch):
    """Where steps have code for a CPU alone, that for CUDA is watched."""
    monkeypatch.setattr(chain, "SORTED", ())


class ReadError(Exception):
    """A tensor was read."""


SMALL = {"blocks": 2, "hidden": 16, "code_features": 8}
RAYS = {"pairs": 3, "points": 16, "hard_start": 0.25, "refresh": 4, "sweep_every": 0.2, "sweep_rows": 64}
VARIANTS = {
    "omnimotion": {"model": {"nvp": {**SMALL, "affine": "small"}}},
    "omnimotion-lite": {"model": {"nvp": {**SMALL, "freeze_code": 0.4}}},
    "omnimotion-depth": {"model": {"nvp": SMALL}},
}
PLANES = {"blocks": 3, "plane_resolutions": (4, 8), "plane_channels": 4, "time_channels": 4}
CADEX = {"pairs": 3, "points": 16, "long_points": 8, "start_frames": 2, "grow_frames": 2}


def trainer_of(variant: str, device: str = "cpu", **optimize) -> Trainer:
    """A small one, whose error tables are refreshed and whose sweeps and frozen codes come within ``STEPS``."""
    if variant == "planes":
        return planes_trainer(tiny_preset(**optimize), device=device)
    if variant.startswith("cadex"):
        changes = {"model": PLANES, "optimize": {"steps": STEPS, "cadex": CADEX} | optimize}
        return prepare(with_long_range(camera_matches(FRAMES)), load_preset(variant, {variant: changes}), device, 0)
    changes = {"model": VARIANTS[variant]["model"] | {"field": {"hidden": 16, "layers": 2, "samples": 6}}}
    changes["optimize"] = {"steps": STEPS, "rays": RAYS} | optimize
    images = np.random.default_rng(0).integers(0, 255, (FRAMES, *SIZE, 3), np.uint8)
    return prepare(camera_matches(FRAMES), load_preset(variant, {variant: changes}), device, 0, images)


@contextlib.contextmanager
def no_reads() -> Iterator[None]:
    """Let every way to read a tensor in Python raise."""

    def refusing(name: str):
        def refuse(*_: object, **__: object) -> None:
            raise ReadError(name)

        return refuse

    with pytest.MonkeyPatch.context() as patch:
        for name in READS:
            patch.setattr(torch.Tensor, name, refusing(name))
        yield


def watched(made: Trainer, steps: range) -> tuple[dict[int, list[str]], set[str]]:
    """Operators of each step that wait, and the names of all that ran."""
    waited, seen = {}, set()
    for step in steps:
        with no_reads(), Waiting() as watch:
            made.step(step)
        seen.update(watch.seen)
        if watch.waited:
            waited[step] = watch.waited
    return waited, seen


@pytest.mark.parametrize("variant", ["planes", *VARIANTS, "cadex", "cadex-nomatch"])
def test_no_step_waits_for_the_device(variant):
    made = trainer_of(variant)
    waited, seen = watched(made, range(made.options.steps))
    if variant == "planes":  # torch.quantile compares its q through `equal` on a CPU; on CUDA it does not wait
        refreshes = range(made.sampler.options.refresh - 1, made.options.steps, made.sampler.options.refresh)
        assert waited.keys() <= set(refreshes)
        waited = {step: names for step, names in waited.items() if names != ["aten.equal.default"]}
    assert waited == {}
    assert ("aten.median.default" in seen) == (variant == "cadex")  # the cut of long-range matches
    for part in ("adam", "index", "backward"):  # the optimiser and the backward pass were watched too
        assert any(part in name for name in seen), part


@pytest.mark.parametrize("variant", VARIANTS)
def test_watched_steps_are_of_all_kinds(variant):
    """With and without errors that guide the draws, refreshes, sweeps, and the codes frozen on the way."""
    made, sweeps = trainer_of(variant), []
    note_sweep = made.sampler.note_sweep
    made.sampler.note_sweep = lambda *given: (sweeps.append(1), note_sweep(*given))
    before = made.sampler.state()["frame_weight"].clone()
    for step in range(made.options.steps):
        made.step(step)
    assert sweeps
    assert [made.sampler.mines(step) for step in (0, made.options.steps - 1)] == [False, True]
    assert not torch.equal(made.sampler.state()["frame_weight"], before)
    assert made.model.bijection.codes_frozen == (variant == "omnimotion-lite")


READING = {
    "item": lambda t: t.sum().item(),
    "truth": lambda t: 1 if t.sum() > 0 else 0,
    "float": lambda t: float(t.sum()),
    "index": lambda t: range(t.sum().long()),
    "list": lambda t: t.tolist(),
    "array": np.asarray,
    "places": lambda t: t.nonzero(),
}


@pytest.mark.parametrize("read", READING)
def test_a_read_in_the_step_is_noticed(read):
    """Of each kind, in the middle of a step."""
    made = trainer_of("omnimotion-depth")
    terms = made.losses

    def reading(*given):
        found = terms(*given)
        READING[read](found[1])
        return found

    made.losses = reading
    with pytest.raises(ReadError):
        watched(made, range(1))


def test_a_choice_by_value_is_noticed():
    """By a mask: no method of Python's is called, only the operator tells."""
    made = trainer_of("omnimotion-depth")
    terms = made.losses
    made.losses = lambda *given: (found := terms(*given), found[1][found[1] > 0])[0]
    waited, _ = watched(made, range(1))
    assert waited
