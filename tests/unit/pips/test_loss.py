"""Loss, starts and measures, against loops and their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everypoint.pips.clip import Clip
from everypoint.pips.loss import masked_mean, measures, sequence_loss, standing, start_positions, transposed
from everypoint.pips.metrics import pips_metrics
from tests.shared import shared


def test_loss_by_loops():
    random = torch.Generator().manual_seed(0)
    predictions, truth = torch.randn(3, 2, 4, 5, 2, generator=random), torch.randn(2, 4, 5, 2, generator=random)
    valids = (torch.rand(2, 4, 5, generator=random) < 0.7).float()
    total = 0.0
    for k in range(3):
        errors = [
            float((predictions[k, b, t, n] - truth[b, t, n]).abs().sum()) / 2
            for b in range(2)
            for t in range(4)
            for n in range(5)
            if valids[b, t, n]
        ]
        total += 0.8 ** (2 - k) * sum(errors) / (len(errors) + 1e-6)
    assert float(sequence_loss(predictions, truth, valids)) == pytest.approx(total / 3, rel=1e-5)


def test_loss_of_the_reference_vectors():
    vectors = np.load(shared("vectors/pips_forward_vectors.npz"))
    arrays = (torch.from_numpy(vectors[f"pips_{name}"]) for name in ("preds", "trajs_g", "valids"))
    predictions, truth, valids = arrays
    found = sequence_loss(predictions[:-1], truth, valids)
    assert float(found) == pytest.approx(float(vectors["pips_loss"]), rel=1e-5)


def test_ranks_that_share_a_batch_have_its_mean():
    random = torch.Generator().manual_seed(1)
    predictions, truth = torch.randn(3, 4, 4, 5, 2, generator=random), torch.randn(4, 4, 5, 2, generator=random)
    valids = torch.ones(4, 4, 5)
    valids[:2, 1:] = 0  # one half has far fewer
    whole = sequence_loss(predictions, truth, valids)
    halves = [sequence_loss(predictions[:, p], truth[p], valids[p], valids.sum()) for p in (slice(0, 2), slice(2, 4))]
    assert torch.allclose(whole, sum(halves), rtol=1e-5)


def test_nothing_valid_is_no_nan():
    assert masked_mean(torch.ones(3), torch.zeros(3)) == 0


def test_starts():
    """Frame 0 is the truth; half stand still; the others lie between truth and picture, each by a share of its own."""
    random = np.random.default_rng(0)
    truth = random.uniform(0, 100, (6, 4000, 2)).astype(np.float32)
    start = start_positions(truth, (100, 200), random)
    assert np.array_equal(start[0], truth[0])
    still = (start == truth[:1]).all((0, 2))
    assert 0.45 < still.mean() < 0.55
    moving = start[1:, ~still]
    assert moving.min() >= 0
    assert moving[..., 0].max() > 150
    assert moving[..., 1].max() <= 100
    away = np.abs(moving - truth[1:, ~still]).mean((0, 2))
    assert np.quantile(away, 0.05) < 5  # a share near 1
    assert np.quantile(away, 0.95) > 40  # near 0
    assert np.array_equal(standing(truth)[3], truth[0])


def clip(frames: int = 4, points: int = 3) -> Clip:
    random = np.random.default_rng(0)
    ones = np.ones((frames, points), np.float32)
    rgb = random.integers(0, 256, (frames, 3, 8, 12), np.uint8)
    return Clip(rgb, random.uniform(0, 8, (frames, points, 2)).astype(np.float32), ones, ones.copy(), True)


def test_transposed_pictures_and_points_belong_together():
    one = clip()
    other = transposed(one)
    assert other.rgb.shape == (4, 3, 12, 8)
    x, y = 5, 3
    assert np.array_equal(one.rgb[:, :, y, x], other.rgb[:, :, x, y])
    assert np.array_equal(one.trajs[..., 0], other.trajs[..., 1])


def test_measures_leave_out_tracks_that_are_not_known_at_the_start():
    one = clip()
    one.valids[0, 1] = 0
    one.visibs[2:, 0] = 0
    estimate = one.trajs + np.array([3, 4], np.float32)
    estimate[:, 1] += 1000
    found = measures(estimate, one)
    expected = pips_metrics(estimate[:, [0, 2]], one.trajs[:, [0, 2]], np.ones((4, 2)), (8, 12))
    assert {name: found[name] for name in expected} == expected
    one.valids[:, 1] = 0
    found = measures(estimate, one)
    assert found["l1"] == pytest.approx(7, rel=1e-4)
    assert found["ate_all"] == pytest.approx(5, rel=1e-4)
    assert [found["ate_vis"], found["ate_occ"]] == pytest.approx([5, 5], rel=1e-4)
