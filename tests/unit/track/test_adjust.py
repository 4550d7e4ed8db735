"""All frames of a track at once: against a dense solver, against the truth, and what stays as it is."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.config.options import ChainOptions, ReadoutOptions
from everypoint.track import adjust as module
from everypoint.track.adjust import Measurements, adjust, measure, solve
from everypoint.track.base import TrackArrays
from everypoint.track.evidence import Evidence
from tests.unit.track.worlds import constant_store, exact_store, queries_of, scene, truth_of

FRAMES, POINTS, SCALE = 14, 5, 3.0
GAPS = (1, 2, 4, 8)
OPTIONS = ReadoutOptions(adjust_rounds=1, agreement=SCALE)
CHAIN = ChainOptions(intervals=GAPS)


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of frames at the gaps."""
    found = [(i, j) for i in range(FRAMES) for j in range(FRAMES) if abs(i - j) in GAPS]
    return np.array(found).T


def measured_of(tracks: np.ndarray, noise: float, seed: int = 0) -> Measurements:
    """Measurements of true tracks, each with noise of its own; some are missing."""
    rng, (i, j) = np.random.default_rng(seed), pairs()
    motion = tracks[j] - tracks[i] + noise * rng.normal(size=(len(i), tracks.shape[1], 2))
    return Measurements(i, j, motion, rng.random((len(i), tracks.shape[1])) < 0.8)


@pytest.fixture
def truth() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(size=(FRAMES, POINTS, 2)).cumsum(0) * 4 + 50


@pytest.fixture
def own() -> np.ndarray:
    return np.array([0, 3, 7, FRAMES - 1, 5])


def dense(tracks: np.ndarray, own: np.ndarray, measured: Measurements) -> np.ndarray:
    """The same reweighted least squares, one point and one equation at a time."""
    result = tracks.copy()
    for n in range(tracks.shape[1]):
        x = tracks[:, n].copy()
        for _ in range(module.REWEIGHTINGS):
            matrix, right = module.STAY * np.eye(FRAMES), module.STAY * x
            for i, j, motion, counts in zip(*measured[:2], measured.motion[:, n], measured.counts[:, n], strict=True):
                if counts:
                    row = np.zeros(FRAMES)
                    row[i], row[j] = -1, 1
                    away = np.linalg.norm(x[j] - x[i] - motion)
                    weight = 1 / (1 + (away / SCALE) ** 2) ** 2
                    matrix += weight * np.outer(row, row)
                    right = right + weight * row[:, None] * motion
            free = np.arange(FRAMES) != own[n]
            right = right - matrix[:, [own[n]]] * x[own[n]]
            x[free] = np.linalg.solve(matrix[np.ix_(free, free)], right[free])
        result[:, n] = x
    return result


def test_equals_a_dense_solver(truth, own):
    start = truth + np.random.default_rng(2).normal(size=truth.shape)
    start[own, np.arange(POINTS)] = truth[own, np.arange(POINTS)]
    measured = measured_of(truth, 0.5)
    np.testing.assert_allclose(solve(start, own, measured, SCALE), dense(start, own, measured), atol=1e-3)


def test_exact_measurements_give_the_truth(truth, own):
    start = truth + np.random.default_rng(2).normal(size=truth.shape)
    start[own, np.arange(POINTS)] = truth[own, np.arange(POINTS)]
    np.testing.assert_allclose(solve(start, own, measured_of(truth, 0), SCALE), truth, atol=5e-3)


def test_routes_outvote_noise_and_wrong_ones(truth, own):
    measured = measured_of(truth, 0.5)
    step = {(i, j): motion for i, j, motion in zip(*measured[:3], strict=True)}
    walked = truth.copy()
    for n, start in enumerate(own):  # by the shortest steps, whose noise adds up
        for t in range(start + 1, FRAMES):
            walked[t, n] = walked[t - 1, n] + step[t - 1, t][n]
        for t in range(start - 1, -1, -1):
            walked[t, n] = walked[t + 1, n] + step[t + 1, t][n]
    measured.motion[(measured.j == 9) & (measured.i < 8)] += 20
    before = np.linalg.norm(walked - truth, axis=-1)
    after = np.linalg.norm(solve(walked, own, measured, SCALE) - truth, axis=-1)
    assert np.median(after) < 0.5 * np.median(before)
    assert after[9].max() < 2


def test_what_nothing_measures_stays(truth, own):
    measured = measured_of(truth, 0.5)
    alone = (measured.i == 6) | (measured.j == 6)
    measured.counts[alone] = False
    start = truth + 1.0
    np.testing.assert_allclose(solve(start, own, measured, SCALE)[6], start[6], atol=1e-6)


def test_parts_of_the_points_give_the_same(truth, own, monkeypatch, tmp_path):
    evidence = Evidence(constant_store(tmp_path / "flow", FRAMES, (64, 64), (0.5, -0.25)), CHAIN)
    queries = np.column_stack([own, np.full((POINTS, 2), 30.0)])
    rng = np.random.default_rng(0)
    found = TrackArrays(
        (30 + rng.normal(size=(FRAMES, POINTS, 2))).astype(np.float32),
        rng.random((FRAMES, POINTS)) < 0.8,
        np.ones((FRAMES, POINTS), np.float32),
    )
    found.visible[own, np.arange(POINTS)] = True
    whole = adjust(found, evidence, queries, OPTIONS)
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 100)
    parts = adjust(found, evidence, queries, OPTIONS)
    np.testing.assert_allclose(parts.tracks, whole.tracks, atol=1e-3)


@pytest.fixture(scope="module")
def made():
    return scene("parallax", FRAMES)


@pytest.fixture(scope="module")
def world(made, tmp_path_factory):
    return Evidence(exact_store(made, tmp_path_factory.mktemp("flows") / "flow"), CHAIN)


def test_a_disturbed_track_of_a_scene_comes_back(made, world):
    queries = queries_of(made, 60)
    tracks, visible = truth_of(made, queries)
    rng = np.random.default_rng(0)
    moved = (tracks + rng.normal(size=tracks.shape)).astype(np.float32)
    start = queries[:, 0].astype(int), np.arange(len(queries))
    moved[start] = queries[:, 1:]
    found = TrackArrays(moved, visible, visible.astype(np.float32))
    result = adjust(found, world, queries, OPTIONS)
    before, after = (np.linalg.norm(x.tracks - tracks, axis=-1)[visible] for x in (found, result))
    assert np.median(before) > 1
    assert np.median(after) < 0.3 * np.median(before)
    np.testing.assert_array_equal(result.tracks[start], queries[:, 1:])
    np.testing.assert_array_equal(result.visible, visible)
    np.testing.assert_array_equal(result.tracks[~visible], moved[~visible])


def test_hidden_frames_measure_nothing(made, world):
    queries = queries_of(made, 20)
    tracks, visible = truth_of(made, queries)
    visible = visible & (np.arange(FRAMES) % 3 != 1)[:, None]
    found = TrackArrays(tracks.astype(np.float32), visible, visible.astype(np.float32))
    pairs = {i: world.neighbours(i, FRAMES) for i in range(FRAMES)}
    measured = measure(found, pairs, world, OPTIONS, world.appearance(queries))
    assert measured.counts.any()
    assert not measured.counts[~(visible[measured.i] & visible[measured.j])].any()
    assert np.isfinite(measured.motion).all()


def test_no_rounds_no_points_no_flows(made, world, tmp_path):
    queries = queries_of(made, 4)
    tracks, visible = truth_of(made, queries)
    found = TrackArrays(tracks.astype(np.float32) + 1, visible, visible.astype(np.float32))
    off = OPTIONS.model_copy(update={"adjust_rounds": 0})
    np.testing.assert_array_equal(adjust(found, world, queries, off).tracks, found.tracks)
    none = TrackArrays(*(part[:, :0] for part in found))
    assert adjust(none, world, queries[:0], OPTIONS).tracks.shape == (FRAMES, 0, 2)
    longer = Evidence(world.store, CHAIN.model_copy(update={"intervals": (FRAMES + 1,)}))
    alone = adjust(found, longer, queries, OPTIONS)
    np.testing.assert_allclose(alone.tracks, found.tracks, atol=1e-6)
