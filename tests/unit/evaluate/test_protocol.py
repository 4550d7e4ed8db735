"""From a tracks file and annotations to the numbers: rows, scale, frame border, protocol, means."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from everypoint.artifacts.tracks import Tracks
from everypoint.errors import InputError
from everypoint.evaluate.protocol import (
    evaluate_tracks,
    mean_over_videos,
    protocol_line,
    queries_from_annotations,
    rows_by_query,
)
from everypoint.evaluate.queries import sample_queries
from everypoint.evaluate.tapvid import tapvid_metrics, temporal_coherence
from everypoint.pips.metrics import pips_metrics

SIZE = (480, 854)
MODES = ("first", "strided")


def annotated(seed=0, tracks=6, frames=12):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0.1, 0.9, (tracks, frames, 2)).astype(np.float32)
    occluded = rng.random((tracks, frames)) < 0.3
    occluded[-1] = True
    return points, occluded


def tracked(points, occluded, *, noise=0.0, modes=MODES, size=SIZE, seed=1):
    """Tracks of all queries, wrong by ``noise`` pixels of the original frame, in a shuffled order."""
    queries, ids, _ = queries_from_annotations(points, occluded, modes, 5, size)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(ids))
    source = [int(name.split("-")[1]) for name in ids]
    exact = (points[source] * np.array([size[1], size[0]])).transpose(1, 0, 2)
    error = rng.normal(0, noise, exact.shape) if noise else 0.0
    visible = ~occluded[source].T
    return Tracks(
        tracks=(exact + error).astype(np.float32)[:, order],
        visibility=visible[:, order],
        confidence=visible[:, order].astype(np.float32),
        queries=queries[order],
        query_ids=ids[order],
        frame_size=size,
        fps=24.0,
    )


def test_queries_are_raster_points_of_the_original_frame():
    points, occluded = annotated()
    queries, ids, sets = queries_from_annotations(points, occluded, MODES, 5, SIZE)
    assert queries.dtype == np.float32
    assert len(set(ids.tolist())) == len(ids) == len(sets) == len(queries)
    assert set(sets.tolist()) == {"tapvid-first", "tapvid-strided"}
    for (t, x, y), name, kind in zip(queries, ids, sets, strict=True):
        parts = name.split("-")
        assert kind == f"tapvid-{parts[0]}"
        assert len(parts) == (2 if parts[0] == "first" else 3)
        np.testing.assert_allclose([x, y], points[int(parts[1]), int(t)] * [854, 480], rtol=1e-6)
    empty, no_ids, no_sets = queries_from_annotations(points[-1:], occluded[-1:], MODES, 5, SIZE)
    assert empty.shape == (0, 3)
    assert len(no_ids) == len(no_sets) == 0


def test_perfect_tracks_score_perfectly():
    points, occluded = annotated()
    result = evaluate_tracks(tracked(points, occluded), points, occluded, MODES, 5, working_size=(240, 427))
    for mode in MODES:
        scores = result["modes"][mode]
        assert scores["average_jaccard"] == scores["average_pts_within_thresh"] == scores["occlusion_accuracy"] == 1
        assert scores["temporal_coherence"] == pytest.approx(0, abs=1e-3)
        assert scores["d_avg"] == pytest.approx(100, abs=1e-4)
        assert scores["survival_16"] == 100
        assert scores["median_l2"] == pytest.approx(0, abs=1e-3)
        assert scores["queries"] == len(sample_queries(points, occluded, mode).ids)
        assert scores["pips_queries"] == (~occluded[:, 0]).sum()
        assert [len(curve) for curve in result["per_frame"][mode].values()] == [12, 12]
    protocol = result["protocol"]
    assert (protocol["frames"], protocol["query_stride"], protocol["annotated_tracks"]) == (12, 5, 6)
    assert (protocol["original_size"], protocol["working_size"], protocol["scored_size"]) == (
        [480, 854],
        [240, 427],
        [256, 256],
    )
    assert protocol_line(protocol, "strided") == (
        "query strided (every 5 frames), 12 frames, worked at 240x427, scored at 256x256"
    )
    assert protocol_line(protocol, "first").startswith("query first, 12 frames")


@pytest.mark.parametrize("mode", MODES)
def test_equals_the_metrics_on_scaled_arrays(mode):
    points, occluded = annotated(3)
    tracks = tracked(points, occluded, noise=6.0)
    scores = evaluate_tracks(tracks, points, occluded, MODES)["modes"][mode]

    sampled = sample_queries(points.astype(np.float64) * 256, occluded, mode)
    rows = [tracks.query_ids.tolist().index(name) for name in sampled.ids]
    pred = tracks.tracks[:, rows].transpose(1, 0, 2).astype(np.float64) * [256 / 854, 256 / 480]
    hidden = ~tracks.visibility[:, rows].T | ((pred < 0) | (pred > 256)).any(axis=-1)
    expected = tapvid_metrics(sampled.query_points, sampled.gt_tracks, sampled.gt_occluded, pred, hidden, mode)
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, abs=1e-12)
    coherence = temporal_coherence(sampled.gt_tracks, sampled.gt_occluded, pred)
    assert scores["temporal_coherence"] == pytest.approx(coherence)

    start = sampled.frames == 0
    arrays = (pred[start], sampled.gt_tracks[start], ~sampled.gt_occluded[start])
    pips = pips_metrics(*(array.swapaxes(0, 1) for array in arrays))
    for name, value in pips.items():
        assert scores[name] == pytest.approx(value, rel=1e-5)


def test_pips_numbers_do_not_depend_on_the_mode():
    points, occluded = annotated(5)
    modes = evaluate_tracks(tracked(points, occluded), points, occluded, MODES)["modes"]
    for name in ("d_1", "d_avg", "survival_16", "median_l2", "pips_queries"):
        assert modes["first"][name] == modes["strided"][name]


def test_outside_the_frame_is_occluded():
    points, occluded = annotated(tracks=2, frames=6)
    occluded[:] = False
    occluded[0, 3:] = True
    tracks = tracked(points, occluded, modes=("first",))
    row = tracks.query_ids.tolist().index("first-0")
    tracks.visibility[3:, row] = True  # predicted visible, yet outside
    tracks.tracks[3, row] = [-0.1, 10]
    tracks.tracks[4, row] = [10, 480.1]
    tracks.tracks[5, row] = [np.nan, 10]
    scores = evaluate_tracks(tracks, points, occluded, ("first",))["modes"]["first"]
    assert scores["occlusion_accuracy"] == 1
    assert scores["average_jaccard"] == 1
    tracks.tracks[3, row] = [0, 480]  # the border belongs to the frame
    scores = evaluate_tracks(tracks, points, occluded, ("first",))["modes"]["first"]
    assert scores["occlusion_accuracy"] == pytest.approx(0.9)


def test_no_queries_at_all():
    points, occluded = annotated(tracks=1)
    scores = evaluate_tracks(tracked(points, occluded), points, occluded, MODES)["modes"]["first"]
    assert scores["queries"] == scores["pips_queries"] == 0
    assert np.isnan([scores["average_jaccard"], scores["d_avg"], scores["median_l2"]]).all()


def test_what_does_not_fit_is_said():
    points, occluded = annotated()
    tracks = tracked(points, occluded, modes=("first",))
    with pytest.raises(InputError, match="queries have no track, 'strided-"):
        evaluate_tracks(tracks, points, occluded, ("strided",))
    with pytest.raises(InputError, match=r"\(12, 5, 2\).*\(6, 11, 2\)"):
        evaluate_tracks(tracks, points[:, :11], occluded[:, :11], ("first",))
    with pytest.raises(InputError, match=r"the track for '[a-z]+-.*made for query .* the annotations say"):
        evaluate_tracks(tracks, points + 0.01, occluded, ("first",))


def test_rows_are_found_by_their_query_points():
    points, occluded = annotated()
    tracks = tracked(points, occluded, modes=("strided",))
    sampled = sample_queries(points, occluded, "strided")
    named = [tracks.query_ids.tolist().index(name) for name in sampled.ids]
    np.testing.assert_array_equal(rows_by_query(tracks, sampled), named)
    with pytest.raises(InputError, match=r"no track was queried at frame \d+, as '[a-z]+-"):
        rows_by_query(dataclasses.replace(tracks, queries=tracks.queries + np.array([0.5, 0, 0])), sampled)
    with pytest.raises(InputError, match="made for query"):
        rows_by_query(dataclasses.replace(tracks, queries=tracks.queries + np.array([0, 1, 0])), sampled)


def test_mean_over_videos_counts_what_it_leaves_out():
    rows = [
        {"average_jaccard": 0.5, "queries": 3},
        {"average_jaccard": float("nan"), "queries": 0},
        {"average_jaccard": 1.0, "queries": 4},
        {"average_jaccard": None, "queries": 1},
    ]
    means, counted = mean_over_videos(rows)
    assert means == {"average_jaccard": 0.75, "queries": 8}
    assert counted == {"average_jaccard": 2, "queries": 4}
    assert mean_over_videos([]) == ({}, {})
