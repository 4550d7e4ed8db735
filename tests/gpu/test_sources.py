"""What computes on a CPU computes the same on CUDA. Skipped where there is no such device."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from everypoint.artifacts import atomic
from everypoint.config.options import FlowOptions, MatchOptions
from everypoint.correspond.base import flow_backend
from everypoint.match.table import build_matches
from everypoint.optimize import run
from tests.unit.correspond.weights import formula_weights
from tests.unit.match.worlds import translation
from tests.unit.optimize import test_ray_trainers as rays

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

SIZE = (128, 160)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "raft.pth"
    with atomic.atomic_path(path) as file:
        torch.save(formula_weights(small=False), file)
    return str(path)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Smooth noise that moves by (3, 1) px a frame: no OpenCV, which a lent machine may lack."""
    coarse = torch.rand(1, 3, 24, 28, generator=torch.Generator().manual_seed(0))
    (large,) = 255 * F.interpolate(coarse, scale_factor=8, mode="bicubic").clamp(0, 1)  # [3, 192, 224]
    views = [large[:, 16 - t : 16 - t + SIZE[0], 16 - 3 * t : 16 - 3 * t + SIZE[1]] for t in range(4)]
    return torch.stack(views).permute(0, 2, 3, 1).to(torch.uint8).numpy()


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, 0.01),
        ({"batch": 3}, 0.01),
        ({"lookup": "sampled"}, 0.01),
        ({"precision": "float16"}, 0.05),
        ({"precision": "bfloat16"}, 0.2),
        ({"compile": True}, 0.02),
    ],
    ids=str,
)
def test_flows_on_cuda_are_those_of_the_cpu(weights, frames, changes, limit):
    plain = {"weights": weights, "iterations": 6}
    expected = flow_backend(FlowOptions(**plain), "cpu").open(frames).flows(0, [1, 2, 3])
    found = flow_backend(FlowOptions(**plain, **changes), "cuda").open(frames).flows(0, [1, 2, 3])
    assert np.median(np.abs(found - expected)) < limit


def test_the_filter_on_cuda_is_that_of_the_cpu():
    store = translation(4, (24, 32), (2.5, -1.25))
    features = np.random.default_rng(0).normal(0.5, 1, (4, 5, 6, 8)).astype(np.float16)
    first, second = (
        build_matches(store, features, MatchOptions(per_pair=100), 0, device)[0] for device in ("cpu", "cuda")
    )
    assert np.array_equal(first.valid_count, second.valid_count)
    assert np.array_equal(first.fixed_j, second.fixed_j)
    assert np.allclose(first.score.astype(float), second.score.astype(float), atol=2e-3)


def _middle(count: int, _: int, device: str) -> torch.Tensor:
    """Every sample in the middle of its interval: random numbers differ between devices."""
    return torch.full((count, 6), 0.5, device=device)


@pytest.mark.parametrize("kind", ["field", "pixels"])
def test_a_step_on_cuda_is_that_of_the_cpu(kind):
    matches, images, depth = rays.world()
    losses = []
    for device in ("cpu", "cuda"):
        made = run.prepare(matches, rays.preset(kind), device, 0, images, depth if kind == "pixels" else None)
        batch = run.prepare(matches, rays.preset(kind), "cpu", 0, images, None).sampler.draw(3)
        batch = type(batch)(*(value.to(device) for value in batch))
        if kind == "field":
            made._places = functools.partial(_middle, device=device)
        losses.append({name: float(term) for name, term in made.terms(batch, 3)[0].items()})
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        assert losses[1][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("kind", ["field", "pixels"])
def test_training_on_cuda_makes_the_error_fall(tmp_path, kind):
    matches, images, depth = rays.world()
    chosen = rays.preset(
        kind, steps=200, log_every=40, holdout=0.1, nvp={"affine": "none"}, losses=rays.SOFT, **rays.FAST
    )
    made = run.prepare(matches, chosen, "cuda", 0, images, depth if kind == "pixels" else None)
    before = made.held_out_error()
    assert rays.trained(made, tmp_path, 200)[-1]["error"] < 0.6 * before
