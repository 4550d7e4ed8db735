"""Query sampling: the specification's example, the reference vectors, properties."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.errors import InputError
from everypoint.evaluate.queries import sample_queries
from tests.shared import shared

OCCLUDED = np.array([[letter == "1" for letter in row] for row in ("1001000", "0000010", "1111111")])
POINTS = np.random.default_rng(0).uniform(0, 1, (3, 7, 2))


def test_first_example():
    sampled = sample_queries(POINTS, OCCLUDED, "first")
    np.testing.assert_array_equal(sampled.frames, [1, 0])
    np.testing.assert_array_equal(sampled.track_index, [0, 1])
    np.testing.assert_array_equal(sampled.query_points[0], [1, POINTS[0, 1, 1], POINTS[0, 1, 0]])
    assert sampled.ids.tolist() == ["first-0", "first-1"]


def test_strided_example():
    sampled = sample_queries(POINTS, OCCLUDED, "strided", 5)
    np.testing.assert_array_equal(sampled.frames, [0, 5])
    np.testing.assert_array_equal(sampled.track_index, [1, 0])
    np.testing.assert_array_equal(sampled.gt_tracks, POINTS[[1, 0]])
    np.testing.assert_array_equal(sampled.gt_occluded, OCCLUDED[[1, 0]])
    assert sampled.ids.tolist() == ["strided-1-0", "strided-0-5"]


def test_reference_vectors():
    vectors = np.load(shared("vectors/tapvid_metric_vectors.npz"))
    for case in sorted({name.split("/")[0] for name in vectors.files}):
        points, occluded = vectors[f"{case}/raw_points"], vectors[f"{case}/raw_occluded"]
        mode, stride = str(vectors[f"{case}/query_mode"]), int(vectors[f"{case}/query_stride"])
        sampled = sample_queries(points, occluded, mode, stride)
        for name in ("query_points", "gt_tracks", "gt_occluded"):
            np.testing.assert_array_equal(getattr(sampled, name), vectors[f"{case}/{name}"][0])
        if f"{case}/trackgroup" in vectors.files:
            np.testing.assert_array_equal(sampled.track_index, vectors[f"{case}/trackgroup"][0])


@pytest.mark.parametrize("mode", ["first", "strided"])
def test_properties(mode):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shape, stride = (int(rng.integers(0, 6)), int(rng.integers(1, 14))), int(rng.integers(1, 7))
        points, occluded = rng.uniform(0, 1, (*shape, 2)), rng.random(shape) < 0.5
        sampled = sample_queries(points, occluded, mode, stride)
        rows = np.arange(len(sampled.ids))
        assert not sampled.gt_occluded[rows, sampled.frames].any()
        np.testing.assert_array_equal(sampled.gt_tracks[rows, sampled.frames], sampled.query_points[:, [2, 1]])
        assert len(set(sampled.ids.tolist())) == len(rows)
        order = list(zip(sampled.frames, sampled.track_index, strict=True))
        if mode == "strided":
            assert order == sorted(order)
            assert len(rows) == (~occluded[:, ::stride]).sum()
        else:
            assert len(rows) == (~occluded).any(axis=1).sum()


def test_errors():
    with pytest.raises(InputError, match="stride of 0"):
        sample_queries(POINTS, OCCLUDED, "strided", 0)
    with pytest.raises(InputError, match="unknown query mode"):
        sample_queries(POINTS, OCCLUDED, "grid")
    with pytest.raises(InputError, match=r"\(3, 7, 2\) and occluded \(3, 6\)"):
        sample_queries(POINTS, OCCLUDED[:, :6], "first")
