"""Training of OmniMotion's models: terms are the losses, errors fall, resumed equals uninterrupted, codes freeze."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from everypoint.artifacts.checkpoint import Checkpoints
from everypoint.config.options import Preset
from everypoint.errors import TrainingError
from everypoint.optimize import ramps, ray_losses, run
from everypoint.optimize.colours import frame_colours
from everypoint.optimize.field_trainer import FieldTrainer
from everypoint.optimize.loop import train
from everypoint.optimize.progress import Progress
from tests.unit.optimize.made import SIZE, camera_matches, jsonl, same_state

STEPS, FRAMES = 20, 6
NVP = {"blocks": 3, "hidden": 16, "layers": 2, "code_features": 8}
FIELD = {"hidden": 16, "layers": 2, "samples": 6}
RAYS = {"pairs": 3, "points": 16, "refresh": 4, "sweep_rows": 200}


def preset(kind: str, *, nvp: dict | None = None, rays: dict | None = None, losses: dict | None = None, **optimize):
    plan = {"steps": STEPS, "log_every": 5, "tensorboard": False, "decay": "steps", "learning_rate": 1e-3}
    return Preset.model_validate(
        {
            "description": "for tests",
            "tracker": "optimize",
            "model": {"kind": kind, "nvp": NVP | (nvp or {}), "field": FIELD},
            "optimize": plan | {"rays": RAYS | (rays or {}), "ray_losses": losses or {}} | optimize,
        }
    )


@functools.cache
def world():
    """Matches of a camera path, and a video whose colours are a smooth function of the place in frame 0."""
    matches = camera_matches(FRAMES, gaps=(1, 2, 3))
    grid = np.stack(np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0])), -1)
    colours = np.stack([grid[..., 0] * 5, grid[..., 1] * 7, 128 + 0 * grid[..., 0]], -1).astype(np.uint8)
    depth = np.linspace(1, 3, FRAMES * 8 * 12).reshape(FRAMES, 8, 12)
    return matches, np.repeat(colours[None], FRAMES, 0), (depth, np.ones(depth.shape, bool))


def trainer(kind: str = "field", seed: int = 0, **changes):
    matches, images, depth = world()
    return run.prepare(matches, preset(kind, **changes), "cpu", seed, images, depth if kind == "pixels" else None)


def trained(made, folder, steps: int = STEPS):
    progress = Progress(folder, steps, tensorboard=False, title="test")
    train(made, Checkpoints(folder / "checkpoints", "x"), progress)
    return jsonl(folder)


# --------------------------------------------------------------------------------------------------- terms


def test_terms_are_the_losses_at_their_weights():
    made = trainer(losses={"mask_near": 0})
    step = 15
    batch = made.sampler.draw(step)
    terms, error = made.terms(batch, step)
    weights = ramps.loss_weights(step, STEPS, made.options.ray_losses)
    assert set(terms) == {"flow", "flow_difference", "colour", "depth_range", "distortion", "acceleration"}
    parts = made.model.parts()
    traced = made.model.trace(batch.xy_i, batch.i, batch.j, parts, made._places(len(batch.rows), step))
    assert torch.equal(error, (traced.xy - batch.xy_j).norm(dim=-1))
    flow = ray_losses.flow(traced.xy, batch.xy_j, batch.omega, SIZE)
    assert torch.allclose(terms["flow"], weights["flow"] * flow)
    truth = frame_colours(made.images, batch.xy_i, batch.i).reshape(3, 16, 3)
    inside = torch.ones(3, 16, dtype=torch.bool)
    rendered = traced.colour.reshape(3, 16, 3)
    colour = ray_losses.colour(rendered, truth, inside) + ray_losses.colour_difference(rendered, truth, inside)
    assert torch.allclose(terms["colour"], weights["colour"] * colour)
    spread = ray_losses.distortion(traced.masked, traced.depths.expand(len(batch.rows), -1))
    assert torch.allclose(terms["distortion"], weights["distortion"] * spread)


def test_acceleration_carries_the_first_points_into_the_neighbouring_frames():
    made = trainer()
    batch, parts = made.sampler.draw(0), made.model.parts()
    traced = made.model.trace(batch.xy_i, batch.i, batch.j, parts)
    found = made.acceleration(batch, traced.local, traced.canonical, parts)
    rows = torch.cat([torch.arange(p * 16, p * 16 + 4) for p in range(3)])
    frame, here = batch.i[rows], traced.local[rows]
    around = []
    for shift in (-1, 1):
        to = (frame + shift).clamp(0, FRAMES - 1)
        around.append(made.model.bijection.local(traced.canonical[rows], to, parts).float())
    inner = (frame > 0) & (frame < FRAMES - 1)
    assert torch.allclose(found, ray_losses.acceleration(around[0], here, around[1], inner))
    assert found > 0


@pytest.mark.parametrize("kind", ["field", "pixels"])
def test_a_weight_of_zero_leaves_its_term_out(kind):
    off = {"acceleration": 0, "distortion": 0, "colour": 0, "flow_difference": 0, "depth_prior": 0}
    made = trainer(kind, losses=off)
    terms, _ = made.terms(made.sampler.draw(18), 18)
    assert set(terms) == {"flow", "depth_range"} | ({"depth"} if kind == "pixels" else set())


def test_the_depth_term_reads_the_other_frame_at_the_match():
    made = trainer("pixels")
    batch = made.sampler.draw(3)
    terms, _ = made.terms(batch, 3)
    moved = made.model.transport(batch.xy_i, batch.i, batch.j)
    stored = made.model.depth(batch.xy_j, batch.j)
    expected = 5 * (moved.z - stored).abs().sum() / 16
    assert torch.allclose(terms["depth"], expected)
    assert torch.equal(made.prior, made.model.depth.maps())  # nothing is trained yet
    assert terms["depth_prior"] == 0


def test_one_depth_a_pixel_may_start_with_what_moves_in_front():
    matches = camera_matches(FRAMES, per_pair=1500, square=(2.0, 1.0))
    plain = preset("pixels")
    nearer = plain.model_copy(update={"model": plain.model.model_copy(update={"motion_nearer": 0.2})})
    maps, flat = (run.prepare(matches, one, "cpu", 0).model.depth.maps() for one in (nearer, plain))
    assert flat.min() == flat.max()
    assert (maps[:, 12:16, 18:22].mean((1, 2)) < maps[:, :, -6:].mean((1, 2)) - 0.5).all()  # of 0..2


# ------------------------------------------------------------------------------------------------ training


FAST = {"learning_rate": 1e-2, "field_learning_rate": 1e-2, "code_learning_rate": 1e-2, "decay": "cosine"}
SOFT = {"acceleration": 0.01, "distortion": 0.1, "colour": 0.1, "depth_range": 1}


@pytest.mark.parametrize("kind", ["field", "pixels"])
def test_the_error_falls(tmp_path, kind):
    made = trainer(kind, steps=200, log_every=40, holdout=0.1, nvp={"affine": "none"}, losses=SOFT, **FAST)
    before = made.held_out_error()
    rows = trained(made, tmp_path, 200)
    assert rows[-1]["error"] < 0.6 * before  # by seed it falls to 0.2-0.5 of it
    assert rows[-1]["step"] == 200
    assert all(np.isfinite(value) for row in rows for value in row.values())


@pytest.mark.parametrize("kind", ["field", "pixels"])
@pytest.mark.parametrize("stop", [7, 11])
def test_resumed_equals_uninterrupted(tmp_path, kind, stop):
    changes = {"nvp": {"freeze_code": 0.5}, "rays": {"hard_start": 0.2}}  # frozen at 10, mining from 4, swept at 4, 8..
    whole = trainer(kind, **changes)
    trained(whole, tmp_path / "whole")
    first = trainer(kind, **changes)
    for step in range(stop):
        first.step(step)
    checkpoints = Checkpoints(tmp_path / "parts" / "checkpoints", "x")
    checkpoints.save(stop, {**first.state(), "sums": {}, "rows": []})
    second = trainer(kind, seed=5, **changes)  # other initial values, all of which the checkpoint replaces
    second.sampler.seed, second.sampler._turns = whole.sampler.seed, whole.sampler._turns
    if kind == "field":
        second._jitter = whole._jitter
    train(second, checkpoints, Progress(tmp_path / "parts", STEPS, tensorboard=False, title="test"))
    assert same_state(whole.model.state_dict(), second.model.state_dict())
    assert same_state(whole.optimizer.state_dict(), second.optimizer.state_dict())


def test_frozen_codes_stay_while_the_rest_learns():
    made = trainer(nvp={"freeze_code": 0.5})
    for step in range(10):
        made.step(step)
    assert not made.model.bijection.codes_frozen
    before = made.model.bijection.codes().detach().clone()
    last = made.model.bijection.conditioners[0].last.weight.detach().clone()
    for step in range(10, 14):
        made.step(step)
    assert made.model.bijection.codes_frozen
    assert torch.equal(made.model.bijection.codes(), before)
    assert not torch.equal(made.model.bijection.conditioners[0].last.weight, last)


def test_rates_are_halved_after_every_fifth():
    made = trainer(steps=100)
    rates = []
    for step in (0, 19, 20, 45, 99):
        made.step(step)
        rates.append([group["lr"] for group in made.optimizer.param_groups])
    base = np.array([1e-3, 1e-3, 3e-4])
    assert np.allclose(rates, [base, base, base / 2, base / 4, base / 16])


def test_a_sweep_measures_rows_that_were_not_drawn(monkeypatch):
    made = trainer(rays={"sweep_every": 0.25, "sweep_rows": 100000})
    monkeypatch.setattr("everypoint.optimize.ray_trainer.SWEEP_COST", 1e-3)  # all of them
    for step in range(4):
        made.step(step)
    rows = made.sampler.all_rows
    assert (made.sampler._errors.error[rows] < 0).any()
    made.step(4)
    assert (made.sampler._errors.error[rows] >= 0).all()


def test_a_sweep_costs_less_than_what_was_drawn():
    made, swept = trainer(rays={"sweep_every": 0.25, "sweep_rows": 100000}), []
    made._errors = lambda rows: (swept.append(len(rows)), torch.zeros(len(rows)))[1]
    for step in range(10):
        made.step(step)
    drawn = 5 * RAYS["pairs"] * RAYS["points"]  # between two sweeps
    assert len(swept) == 2
    assert all(rows <= drawn // 4 + 1 for rows in swept)


def test_without_mining_there_is_no_sweep():
    made = trainer(rays={"hard_share": 0})
    for step in range(6):
        made.step(step)
    assert made.sampler.state() == {}


@pytest.mark.parametrize("kind", ["field", "pixels"])
def test_a_loss_that_is_not_a_number_stops_within_a_log_interval(tmp_path, kind):
    made = trainer(kind)
    with torch.no_grad():
        made.model.bijection.conditioners[0].last.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match="not finite"):
        trained(made, tmp_path)


def test_it_stops_early_when_the_held_out_error_stands(tmp_path):
    made = trainer(steps=60, log_every=2, early_stop=3, holdout=0.1, **dict.fromkeys(FAST, 1e-30) | {"decay": "steps"})
    rows = trained(made, tmp_path, 60)
    assert 4 <= len(rows) < 20


def test_a_field_needs_the_frames():
    with pytest.raises(ValueError, match="frames"):
        run.prepare(world()[0], preset("field"), "cpu", 0)
    assert isinstance(trainer(), FieldTrainer)
