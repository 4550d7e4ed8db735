"""Training of CaDeX++: terms are the losses, the error falls, resumed equals uninterrupted, bad values stop it."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch

from everypoint.artifacts.checkpoint import Checkpoints
from everypoint.artifacts.matches import LONG_RANGE
from everypoint.config.options import Preset
from everypoint.config.presets import load_preset
from everypoint.errors import TrainingError
from everypoint.geometry import inside_index
from everypoint.optimize import cadex_losses, ramps, ray_losses, run
from everypoint.optimize.cadex_trainer import CadexTrainer
from everypoint.optimize.loop import train
from everypoint.optimize.progress import Progress
from tests.unit.optimize.made import SIZE, camera_matches, jsonl, same_state, with_long_range

STEPS, FRAMES, PAIRS, POINTS = 20, 6, 3, 16
MODEL = {"kind": "cadex", "blocks": 3, "plane_resolutions": (4, 9), "plane_channels": 4, "time_channels": 4}


def preset(*, sampler: dict | None = None, losses: dict | None = None, **optimize) -> Preset:
    plan = {"steps": STEPS, "log_every": 5, "tensorboard": False, "decay": "steps"}
    draws = {"pairs": PAIRS, "points": POINTS, "long_points": 24, "start_frames": 3, "grow_frames": 2}
    return Preset.model_validate(
        {
            "description": "for tests",
            "tracker": "optimize",
            "model": MODEL | {"depth_scale": 0.3},
            "optimize": plan | {"cadex": draws | (sampler or {}), "cadex_losses": losses or {}} | optimize,
        }
    )


@functools.cache
def world():
    """Matches of a camera path, a quarter of them long-range, and a depth prior."""
    depth = np.random.default_rng(0).uniform(2, 3, (FRAMES, 8, 12))
    return with_long_range(camera_matches(FRAMES, gaps=(1, 2, 3))), (depth, np.ones(depth.shape, bool))


def trainer(seed: int = 0, **changes) -> CadexTrainer:
    matches, depth = world()
    return run.prepare(matches, preset(**changes), "cpu", seed, None, depth)


def nearer(made: Preset, share: float) -> Preset:
    return made.model_copy(update={"model": made.model.model_copy(update={"motion_nearer": share})})


def moved(made: CadexTrainer) -> CadexTrainer:
    """Depths off their prior, weights off their start: no term is zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.model.depth.map.mul_(1 + 0.1 * torch.randn(made.model.depth.map.shape, generator=generator))
        for conditioner in made.model.bijection.conditioners:
            conditioner.last.weight.mul_(10)
            for plane in conditioner.planes:
                plane.table.normal_(0, 0.3, generator=generator)
    return made


def trained(made: CadexTrainer, folder, steps: int = STEPS):
    train(made, Checkpoints(folder / "checkpoints", "x"), Progress(folder, steps, tensorboard=False, title="test"))
    return jsonl(folder)


# --------------------------------------------------------------------------------------------------- terms


@pytest.mark.parametrize("step", [0, 15])
def test_terms_are_the_losses_at_their_weights(step):
    made = moved(trainer())
    batch, long = made.sampler.draw(step), made.sampler.draw_long(step)
    terms = made.terms(batch, long, step)
    weights = ramps.cadex_weights(step, STEPS, made.options.cadex_losses)
    maps, prior, model = made.model.depth.map, made.prior, made.model

    def look_up(values: torch.Tensor, xy: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        """Own, left and upper cell [N, 3] in a loop."""
        h, w = values.shape[1:]
        found = []
        for (x, y), t in zip(xy.tolist(), frame.tolist(), strict=True):
            r, c = min(int((y + 0.5) * h / SIZE[0]), h - 1), min(int((x + 0.5) * w / SIZE[1]), w - 1)
            found.append(torch.stack([values[t, r, c], values[t, r, max(c - 1, 0)], values[t, max(r - 1, 0), c]]))
        return torch.stack(found)

    expected = {}
    for drawn, prefix in ((batch, ""), (long, "long_")):
        there = model.transport(drawn.xy_i, drawn.i, drawn.j)
        now, before = look_up(maps, drawn.xy_j, drawn.j), look_up(prior, drawn.xy_j, drawn.j)
        counts = ~drawn.occluded
        if prefix and step >= 2000 / 22_000 * STEPS:
            counts = cadex_losses.within_medians(there.xy, drawn.xy_j, 2.0)
            assert 0 < counts.sum() < len(counts)
        if not prefix:
            expected["flow"] = ray_losses.flow(there.xy, drawn.xy_j, drawn.omega, SIZE)
            pairs = [values.reshape(PAIRS, POINTS, -1) for values in (there.xy, drawn.xy_j, drawn.omega)]
            if step:
                expected["flow_difference"] = ray_losses.flow_difference(pairs[0], pairs[1], pairs[2][..., 0])
        else:
            expected["long_range"] = cadex_losses.match_distance(there.xy, drawn.xy_j, counts)
        expected[f"{prefix}depth"] = (there.z - now[:, 0]).abs()[counts].mean()
        expected[f"{prefix}depth_prior"] = (there.z - before[:, 0]).abs()[counts].mean()
        inside = inside_index(there.xy, *SIZE)
        slope = 0.0
        for xy, frame in ((drawn.xy_i, drawn.i), (drawn.xy_j, drawn.j)):
            mine, other = look_up(maps, xy, frame), look_up(prior, xy, frame)
            slope = slope + cadex_losses.depth_slopes(mine[:, 1:] - mine[:, :1], other[:, 1:] - other[:, :1], inside)
        expected[f"{prefix}depth_slope"] = slope
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert value > 0, name
        torch.testing.assert_close(terms[name], weights[name] * value, rtol=1e-4, atol=1e-6, msg=name)


def test_a_weight_of_zero_leaves_its_term_out():
    off = {"flow_difference": 0, "depth": 0, "depth_prior": 0, "depth_slope": 0, "long_depth": 0, "long_depth_slope": 0}
    made = trainer(losses=off)
    assert set(made.terms(made.sampler.draw(9), made.sampler.draw_long(9), 9)) == {
        "flow", "long_range", "long_depth_prior",
    }  # fmt: skip
    made = trainer(losses={"long_range": 0})
    assert not [name for name in made.step(9) if name.startswith("long")]


def test_presets_have_the_published_weights():
    full, plain = (load_preset(name).optimize for name in ("cadex", "cadex-nomatch"))
    assert (full.steps, full.learning_rate, full.depth_learning_rate) == (22_000, 3e-3, 5e-3)
    weights = ramps.cadex_weights(1500, 22_000, full.cadex_losses)
    assert weights == {
        "flow": 1, "flow_difference": 0.003, "depth": 100, "depth_prior": 1, "depth_slope": 1,
        "long_range": 0.1, "long_depth": 10, "long_depth_prior": 1, "long_depth_slope": 10,
    }  # fmt: skip
    weights = ramps.cadex_weights(1500, 22_000, plain.cadex_losses)
    assert {name: value for name, value in weights.items() if value} == {
        "flow": 1, "flow_difference": 0.003, "depth": 100, "depth_prior": 10,
    }  # fmt: skip
    assert (full.cadex_losses.least_depth, plain.cadex_losses.least_depth) == (0.01, 0)


# ------------------------------------------------------------------------------------------------ training


def test_the_error_falls(tmp_path):
    made = trainer(steps=250, log_every=50, holdout=0.1, decay="cosine", sampler={"points": 64})
    before = made.held_out_error()
    rows = trained(made, tmp_path, 250)
    assert rows[-1]["error"] < 0.25 * before
    assert all(np.isfinite(value) for row in rows for value in row.values())


@pytest.mark.parametrize("stop", [1, 7])
def test_resumed_equals_uninterrupted(tmp_path, stop):
    whole = trainer()
    trained(whole, tmp_path / "whole")
    first = trainer()
    for step in range(stop):
        first.step(step)
    checkpoints = Checkpoints(tmp_path / "parts" / "checkpoints", "x")
    checkpoints.save(stop, {**first.state(), "sums": {}, "rows": []})
    second = trainer()
    with torch.no_grad():  # other values, all of which the checkpoint replaces
        for parameter in second.model.parameters():
            parameter.normal_()
    train(second, checkpoints, Progress(tmp_path / "parts", STEPS, tensorboard=False, title="test"))
    assert same_state(whole.model.state_dict(), second.model.state_dict())
    assert same_state(whole.optimizer.state_dict(), second.optimizer.state_dict())


def test_the_prior_of_a_resumed_run_is_that_of_the_file():
    """It is no part of the checkpoint, which holds depths that have moved."""
    first, second = trainer(), trainer()
    for step in range(5):
        first.step(step)
    second.load_state(first.state())
    assert torch.equal(second.prior, first.prior)
    assert not torch.equal(second.prior, second.model.depth.map)


def test_rates_fall_to_a_third_after_5000_of_22000_steps():
    made = trainer(steps=22)
    rates = []
    for step in (0, 4, 5, 9, 10, 21):
        made.step(step)
        rates.append([group["lr"] for group in made.optimizer.param_groups])
    base = np.array([3e-3, 5e-3])
    assert np.allclose(rates, [base, base, 0.33 * base, 0.33 * base, 0.33**2 * base, 0.33**4 * base])


def test_the_gradient_of_the_depth_alone_is_clipped():
    found = []
    for clip in (None, 1e-3):
        made = moved(trainer(losses={"depth_clip": clip}))
        made.step(0)
        found.append((made.model.depth.map.grad, made.model.bijection.conditioners[0].last.weight.grad))
    assert float(found[1][0].norm()) == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(found[1][0] / found[1][0].norm(), found[0][0] / found[0][0].norm())
    assert torch.equal(found[0][1], found[1][1])


def test_a_weight_that_is_not_a_number_stops_within_a_log_interval(tmp_path):
    made = trainer()
    with torch.no_grad():
        made.model.bijection.conditioners[0].last.weight.fill_(torch.nan)
    with pytest.raises(TrainingError, match="not finite"):
        trained(made, tmp_path)


def test_points_that_land_on_the_plane_of_the_camera_leave_all_finite():
    made = trainer()
    with torch.no_grad():
        made.model.depth.map[:, ::2].zero_()
        made.model.depth.map[:, 1::2].fill_(-1e-4)
    made.step(0)
    assert all(tensor.isfinite().all() for tensor in made.tensors())


@pytest.mark.parametrize("frames", [2, 3])
def test_the_shortest_clips_without_a_prior(tmp_path, frames):
    made = run.prepare(camera_matches(frames, gaps=(1,)), preset(holdout=0.1), "cpu", 0)
    rows = trained(made, tmp_path)
    assert rows[-1]["step"] == STEPS
    assert np.isfinite(rows[-1]["error"])


def test_long_range_matches_hold_frames_together_that_flows_do_not_join():
    """Flows within two groups of frames, long-range matches between them."""
    full = camera_matches(FRAMES, gaps=(1, 2, 3, 4, 5))
    across = (full.pairs < 3).sum(1) == 1
    marked = dataclasses.replace(full, flags=np.where(across[full.rows_pair], LONG_RANGE, full.flags).astype(np.uint8))
    errors = []
    for weight in (0.0, 1.0):
        made = run.prepare(
            marked,
            preset(steps=150, decay="cosine", losses={"long_range": weight, "ramp_steps": 1e6}, sampler={"points": 32}),
            *("cpu", 0),
        )
        for step in range(150):
            made.step(step)
        with torch.no_grad():
            batch = made.sampler.long.batch(torch.linspace(0, 0.999, 400, dtype=torch.float64))
            there = made.model.transport(batch.xy_i, batch.i, batch.j)
        errors.append(float((there.xy - batch.xy_j).norm(dim=-1).median()))
    assert errors[1] < 0.5 * errors[0]


# ------------------------------------------------------------------------------------------------ the prior


@pytest.mark.parametrize("prior", [None, (np.full((FRAMES, 1, 1), 2.0), np.ones((FRAMES, 1, 1), bool))])
def test_what_moves_starts_in_front_of_a_prior_that_knows_nothing(prior):
    matches = camera_matches(FRAMES, per_pair=1500, square=(2.0, 1.0))
    flat, made = (
        run.prepare(matches, nearer(preset(), share), "cpu", 0, None, prior).model.depth.maps() for share in (0.0, 0.2)
    )
    far = 1.0 if prior is None else 2.0
    assert (flat == far).all()
    assert made[:, 4, 6].max() < 0.88 * far  # within the square in all frames
    assert made[:, :, -1].min() > 0.95 * far


def test_a_run_keeps_to_the_prior_with_what_moves_in_front():
    matches, depth = camera_matches(FRAMES, per_pair=1500, square=(2.0, 1.0)), world()[1]
    made = run.prepare(matches, nearer(preset(), 0.2), "cpu", 0, None, depth)
    assert torch.equal(made.prior, made.model.depth.maps())
    assert not torch.equal(made.prior, run.prepare(matches, preset(), "cpu", 0, None, depth).prior)
