"""TAP-Vid metrics: the specification's hand examples, the reference vectors, a slow twin, properties."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.errors import InputError
from everypoint.evaluate.tapvid import (
    THRESHOLDS,
    evaluation_mask,
    tapvid_metrics,
    tapvid_metrics_per_frame,
    tapvid_metrics_trackwise,
    temporal_coherence,
)
from tests.shared import shared
from tests.unit.evaluate.slow import slow_coherence, slow_metrics

MODES = ("first", "strided")


def bits(*rows):
    """Rows like "0010" as bool [N, T]."""
    return np.array([[letter == "1" for letter in row] for row in rows])


def values(scores, name):
    return [scores[f"{name}_{x}"] for x in THRESHOLDS]


# ------------------------------------------------------------------------------------- examples worked by hand


def example_a():
    gt = np.array([[[10, 10], [12, 10], [14, 10], [16, 10]]], float)
    pred = gt + np.array([[[0, 0], [0.5, 0], [0, 0], [3, 0]]])
    return np.array([[0, 10, 10]]), gt, bits("0010"), pred, bits("0000")


def example_b():
    gt = np.stack([[0, 10, 20, 30, 40], [0] * 5], axis=-1)[None].astype(float)
    pred = gt + np.stack([[0] * 5, [0, 5, 0, 1, 0]], axis=-1)[None]
    return np.array([[2, 0, 20]]), gt, bits("10001"), pred, bits("10010")


def example_c():
    gt = np.full((2, 3, 2), 100.0)
    pred = gt.copy()
    pred[0, 1, 0] += 1.0
    pred[0, 2, 0] += 15.9
    pred[1, 2] += [12, 16]
    return np.array([[0, 100, 100]] * 2), gt, bits("000", "010"), pred, bits("000", "001")


@pytest.mark.parametrize("mode", MODES)
def test_example_a(mode):
    scores = tapvid_metrics(*example_a(), mode)
    assert scores["occlusion_accuracy"] == pytest.approx(2 / 3)
    assert values(scores, "pts_within") == [0.5, 0.5, 1, 1, 1]
    assert scores["average_pts_within_thresh"] == pytest.approx(0.8)
    assert values(scores, "jaccard") == pytest.approx([0.25, 0.25, 2 / 3, 2 / 3, 2 / 3])
    assert scores["average_jaccard"] == pytest.approx(0.5)


def test_example_b_first():
    scores = tapvid_metrics(*example_b(), "first")
    assert scores["occlusion_accuracy"] == 0
    assert values(scores, "pts_within") == [0, 1, 1, 1, 1]
    assert scores["average_pts_within_thresh"] == pytest.approx(0.8)
    assert scores["average_jaccard"] == 0


def test_example_b_strided():
    scores = tapvid_metrics(*example_b(), "strided")
    assert scores["occlusion_accuracy"] == 0.5
    assert values(scores, "pts_within") == [0, 0.5, 0.5, 1, 1]
    assert scores["average_pts_within_thresh"] == pytest.approx(0.6)
    assert values(scores, "jaccard") == pytest.approx([0, 0, 0, 1 / 3, 1 / 3])
    assert scores["average_jaccard"] == pytest.approx(0.4 / 3)


def test_example_c_has_an_exact_tie():
    scores = tapvid_metrics(*example_c(), "first")
    assert scores["occlusion_accuracy"] == 0.5
    assert values(scores, "pts_within") == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 2 / 3])
    assert values(scores, "jaccard") == pytest.approx([0, 0.2, 0.2, 0.2, 0.5])
    assert scores["average_pts_within_thresh"] == pytest.approx(1 / 3)
    assert scores["average_jaccard"] == pytest.approx(0.22)


@pytest.mark.parametrize("example, expected", [(example_a, 0.0), (example_b, 6.0), (example_c, 13.9)])
def test_temporal_coherence_of_the_examples(example, expected):
    _, gt, gt_occluded, pred, _ = example()
    assert temporal_coherence(gt, gt_occluded, pred) == pytest.approx(expected)


# ------------------------------------------------------------------------------------- reference vectors


def test_reference_vectors():
    """Exactly the reference's numbers, metrics and trackwise metrics; acceleration to rounding."""
    vectors = np.load(shared("vectors/tapvid_metric_vectors.npz"))
    cases = sorted({name.split("/")[0] for name in vectors.files})
    assert len(cases) >= 10
    for case in cases:
        mode = str(vectors[f"{case}/query_mode"])
        names = ("query_points", "gt_tracks", "gt_occluded", "pred_tracks", "pred_occluded")
        arrays = [vectors[f"{case}/{name}"][0] for name in names]
        for kind, scores in (
            ("out", tapvid_metrics(*arrays, mode)),
            ("out_trackwise", tapvid_metrics_trackwise(*arrays, mode)),
        ):
            assert len(scores) == 13
            for name, value in scores.items():
                np.testing.assert_array_equal(value, vectors[f"{case}/{kind}/{name}"][0], f"{case} {kind} {name}")
        _, gt, occluded, pred, pred_occluded = arrays
        expected = vectors[f"{case}/out/temporal_coherence"], vectors[f"{case}/out/temporal_coherence_predvis"]
        found = temporal_coherence(gt, occluded, pred), temporal_coherence(gt, occluded, pred, pred_occluded)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12, equal_nan=True)


# ------------------------------------------------------------------------------------- a slow twin


def random_case(seed):
    """Tracks with errors of all sizes, exact ties, all-occluded and never-occluded rows; sometimes no track at all."""
    rng = np.random.default_rng(seed)
    queries, frames = int(rng.integers(0, 6)), int(rng.integers(1, 12))
    gt = np.round(rng.uniform(0, 256, (queries, frames, 2)) * 4) / 4
    error = np.where(rng.random((queries, frames, 1)) < 0.3, [[[1.0, 0.0]]], rng.normal(0, 3, (queries, frames, 2)))
    scale = rng.choice([0, 1, 2, 4, 8, 16], (queries, frames, 1))
    share = rng.choice([0, 0.3, 1.0], (2, queries, 1))
    occluded, pred_occluded = rng.random((2, queries, frames)) < share
    points = np.column_stack([rng.integers(0, frames, queries), gt[:, 0, ::-1]]).astype(float)
    return points, gt, occluded, gt + error * scale, pred_occluded


@pytest.mark.parametrize("mode", MODES)
def test_equals_the_slow_twin_on_random_cases(mode):
    nans = 0
    for seed in range(200):
        case = random_case(seed)
        scores, expected = tapvid_metrics(*case, mode), slow_metrics(*case, mode)
        assert scores.keys() == expected.keys()
        for name in expected:
            np.testing.assert_equal(scores[name], expected[name], f"seed {seed} {name}")
        nans += np.isnan(scores["average_jaccard"])
        _, gt, occluded, pred, pred_occluded = case
        for hidden in (None, pred_occluded):
            found = temporal_coherence(gt, occluded, pred, hidden)
            assert found == pytest.approx(slow_coherence(gt, occluded, pred, hidden))
    assert 10 < nans < 150  # the cases without any scored visible point are among them


@pytest.mark.parametrize("mode", MODES)
def test_trackwise_and_per_frame_equal_the_metrics_of_one_track_or_frame(mode):
    for seed in range(30):
        points, gt, occluded, pred, hidden = random_case(seed)
        trackwise = tapvid_metrics_trackwise(points, gt, occluded, pred, hidden, mode)
        for n in range(len(points)):
            one = slice(n, n + 1)
            alone = tapvid_metrics(points[one], gt[one], occluded[one], pred[one], hidden[one], mode)
            np.testing.assert_equal({k: v[n] for k, v in trackwise.items()}, alone)
        curves = tapvid_metrics_per_frame(points, gt, occluded, pred, hidden, mode)
        for t in range(gt.shape[1]):
            expected = slow_metrics(points, gt, occluded, pred, hidden, mode, frames=[t])
            np.testing.assert_equal({k: curves[k][t] for k in expected}, expected)


def test_median_error_of_a_frame():
    points, gt = np.zeros((3, 3)), np.zeros((3, 2, 2))
    pred = np.array([[[0, 0], [3, 4]], [[0, 0], [1, 0]], [[0, 0], [0, 2]]], float)
    nobody = np.zeros((3, 2), bool)
    curve = tapvid_metrics_per_frame(points, gt, nobody, pred, nobody, "first")["error_median"]
    np.testing.assert_equal(curve, [np.nan, 2.0])
    curve = tapvid_metrics_per_frame(points, gt, bits("00", "01", "01"), pred, nobody, "first")["error_median"]
    np.testing.assert_equal(curve, [np.nan, 5.0])


# ------------------------------------------------------------------------------------- policy and properties


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("queries", [0, 3])
def test_nothing_to_score_is_nan(mode, queries):
    gt, hidden = np.zeros((queries, 4, 2)), np.ones((queries, 4), bool)
    scores = tapvid_metrics(np.zeros((queries, 3)), gt, hidden, gt, hidden, mode)
    assert np.isnan(scores["average_pts_within_thresh"])
    assert np.isnan(scores["average_jaccard"])
    assert np.isnan(scores["occlusion_accuracy"]) == (queries == 0)  # occlusion itself is scored


def test_all_occluded_but_claimed_visible_has_jaccard_zero():
    gt = np.zeros((1, 3, 2))
    scores = tapvid_metrics(np.zeros((1, 3)), gt, bits("111"), gt, bits("000"), "first")
    assert scores["average_jaccard"] == 0
    assert np.isnan(scores["average_pts_within_thresh"])
    assert scores["occlusion_accuracy"] == 0


@pytest.mark.parametrize("mode", MODES)
def test_perfect_prediction(mode):
    points, gt, occluded, _, _ = random_case(7)
    occluded[:, :2] = False
    scores = tapvid_metrics(points, gt, occluded, gt, occluded, mode)
    assert {scores[name] for name in scores} == {1.0}
    assert temporal_coherence(gt, occluded, gt) == 0


@pytest.mark.parametrize("mode", MODES)
def test_permutation_shift_and_hidden_positions_change_nothing(mode):
    rng = np.random.default_rng(0)
    for seed in range(20):
        points, gt, occluded, pred, hidden = random_case(seed)
        scores = tapvid_metrics(points, gt, occluded, pred, hidden, mode)
        order = rng.permutation(len(points))
        permuted = (array[order] for array in (points, gt, occluded, pred, hidden))
        np.testing.assert_equal(tapvid_metrics(*permuted, mode), scores)
        np.testing.assert_equal(tapvid_metrics(points, gt + 64.0, occluded, pred + 64.0, hidden, mode), scores)
        unknown = np.where(occluded[..., None], np.nan, gt)
        np.testing.assert_equal(tapvid_metrics(points, unknown, occluded, pred, hidden, mode), scores)
        coherence = temporal_coherence(gt, occluded, pred)
        assert temporal_coherence(unknown, occluded, pred) == pytest.approx(coherence)
        drift = 3.0 * np.arange(gt.shape[1])[:, None]
        assert temporal_coherence(gt, occluded, pred + drift) == pytest.approx(coherence, abs=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_the_query_frame_is_never_scored(mode):
    for seed in range(20):
        points, gt, occluded, pred, hidden = random_case(seed)
        scores = tapvid_metrics(points, gt, occluded, pred, hidden, mode)
        rows, times = np.arange(len(points)), points[:, 0].astype(int)
        pred[rows, times] += 100
        hidden[rows, times] ^= True
        np.testing.assert_equal(tapvid_metrics(points, gt, occluded, pred, hidden, mode), scores)


def test_a_position_that_is_not_finite_is_a_miss():
    points, gt, occluded, pred, hidden = example_a()
    for bad in (np.nan, np.inf):
        pred[0, 1] = bad
        scores = tapvid_metrics(points, gt, occluded, pred, hidden, "first")
        assert values(scores, "pts_within") == [0, 0, 0.5, 0.5, 0.5]
    assert np.isfinite(temporal_coherence(gt, bits("0000"), pred))


def test_query_times_are_rounded_half_to_even():
    mask = evaluation_mask(np.array([0.5, 1.5, 2.4]), 4, "first")
    np.testing.assert_array_equal(mask, bits("0111", "0001", "0001"))


def test_what_does_not_fit_is_one_sentence_with_both_shapes():
    points, gt, occluded, pred, hidden = example_a()
    with pytest.raises(InputError, match=r"\(1, 3, 2\) where \(1, 4, 2\)"):
        tapvid_metrics(points, gt, occluded, pred[:, :3], hidden, "first")
    with pytest.raises(InputError, match=r"\(1, 2\)"):
        tapvid_metrics(points, gt, occluded, pred, hidden[:, :2], "first")
    with pytest.raises(InputError, match="frame 4"):
        tapvid_metrics(points + 4, gt, occluded, pred, hidden, "first")
    with pytest.raises(InputError, match="unknown query mode 'frist'"):
        tapvid_metrics(points, gt, occluded, pred, hidden, "frist")
