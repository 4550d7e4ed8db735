"""PIPs++ metrics: the specification's table, the reference vectors, properties."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.errors import InputError
from everypoint.pips.metrics import pips_metrics
from tests.shared import shared

THRESHOLDS = (1, 2, 4, 8, 16)


def along_x(*errors, scale=1.0):
    """Predictions [T, N, 2] that err along x by these amounts (one tuple a track), and the truth."""
    gt = np.full((len(errors[0]), len(errors), 2), 50.0)
    pred = gt.copy()
    pred[..., 0] += np.array(errors, float).T * scale
    return pred, gt


TABLE = [  # errors a track, valid a track, size, scale of the errors, d_1..d_16, d_avg, survival, median
    ([(0, 1, 17, 3)], ["1111"], (256, 256), 1, [0, 33.333, 66.667, 66.667, 66.667], 46.6667, 50, 2.0),
    ([(0, 1, 17, 3)], ["1101"], (256, 256), 1, [0, 50, 100, 100, 100], 70, 100, 1.0),
    ([(0, 1, 17, 3)], ["1111"], (512, 896), 3.5, [0, 33.333, 66.667, 66.667, 66.667], 46.6667, 50, 2.0),
    ([(0, 16, 16, 0)], ["1111"], (256, 256), 1, [33.333] * 5, 33.3333, 100, 8.0),
    ([(0, 20, 0), (0, 0, 5)], ["111", "111"], (256, 256), 1, [50, 50, 50, 75, 75], 60, 66.6667, 0.0),
]


@pytest.mark.parametrize("errors, valid, size, scale, each, average, survival, median", TABLE)
def test_examples_worked_by_hand(errors, valid, size, scale, each, average, survival, median):
    mask = np.array([[letter == "1" for letter in row] for row in valid]).T
    scores = pips_metrics(*along_x(*errors, scale=scale), mask, size)
    assert [scores[f"d_{x}"] for x in THRESHOLDS] == pytest.approx(each, abs=1e-3)
    assert scores["d_avg"] == pytest.approx(average, abs=1e-4)
    assert scores["survival_16"] == pytest.approx(survival, abs=1e-4)
    assert scores["median_l2"] == pytest.approx(median, abs=1e-4)


def test_reference_vectors():
    vectors = np.load(shared("vectors/pips_metric_vectors.npz"))
    cases = sorted({name.split("/")[0] for name in vectors.files})
    assert len(cases) >= 10
    for case in cases:
        arrays = (vectors[f"{case}/{name}"][0] for name in ("trajs_e", "trajs_g", "valids"))
        scores = pips_metrics(*arrays, (int(vectors[f"{case}/H"]), int(vectors[f"{case}/W"])))
        for name, value in scores.items():
            expected = float(vectors[f"{case}/out/{name.removesuffix('_16') if 'surv' in name else name}"])
            exact = name != "median_l2"
            assert value == expected if exact else value == pytest.approx(expected, abs=1e-6), f"{case} {name}"


def slow(pred, gt, valid, size):
    """The definitions, one number at a time (float64)."""
    frames, tracks = valid.shape
    d = np.hypot(*np.moveaxis((pred - gt) / [size[1] / 256, size[0] / 256], -1, 0))
    scores = {}
    for x in THRESHOLDS:
        hits = sum(d[t, n] < x for t in range(1, frames) for n in range(tracks) if valid[t, n])
        scores[f"d_{x}"] = 100 * hits / (1e-6 + valid[1:].sum())
    scores["d_avg"] = sum(scores.values()) / 5
    ended = (d > 16) & valid
    alive = [not ended[: t + 1, n].any() for t in range(frames) for n in range(tracks)]
    scores["survival_16"] = 100 * np.mean(alive)
    medians = []
    for n in range(tracks):
        kept = sorted(d[t, n] for t in range(frames) if valid[t, n])
        half = len(kept) // 2
        medians.append((kept[half] + kept[-half - 1]) / 2 if kept else np.nan)
    scores["median_l2"] = sum(medians) / tracks
    return scores


def test_equals_a_slow_twin_on_random_cases():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        shape = int(rng.integers(1, 10)), int(rng.integers(1, 6))
        size = (int(rng.choice([256, 512])), int(rng.choice([256, 896])))
        gt = rng.uniform(0, 200, (*shape, 2))
        pred = gt + rng.normal(0, 1, (*shape, 2)) * rng.choice([0, 1, 8, 30], (*shape, 1))
        valid = rng.random(shape) < rng.choice([0, 0.5, 1.0])
        scores, expected = pips_metrics(pred, gt, valid, size), slow(pred, gt, valid, size)
        assert scores.keys() == expected.keys()
        for name in expected:
            assert scores[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-4, nan_ok=True), f"seed {seed} {name}"


def test_edges():
    pred, gt = along_x((0, 3, 99))
    nothing_after = np.array([[True], [False], [False]])
    scores = pips_metrics(pred, gt, nothing_after)
    assert (scores["d_avg"], scores["survival_16"], scores["median_l2"]) == (0, 100, 0)
    assert np.isnan(pips_metrics(pred, gt, np.zeros((3, 1)))["median_l2"])
    assert all(np.isnan(value) for value in pips_metrics(pred[:, :0], gt[:, :0], np.zeros((3, 0))).values())
    lost = pred.copy()
    lost[1] = np.nan
    scores = pips_metrics(lost, gt, np.ones((3, 1)))
    assert scores["survival_16"] == pytest.approx(100 / 3)
    assert scores["d_16"] == 0
    gt[2] = np.nan  # not valid: carries no information
    assert pips_metrics(pred, gt, np.array([[1], [1], [0]]))["survival_16"] == 100
    with pytest.raises(InputError, match=r"\(3, 1, 2\).*\(2, 1, 2\)"):
        pips_metrics(pred, gt[:2], np.ones((3, 1)))
