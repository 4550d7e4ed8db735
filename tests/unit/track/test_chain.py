"""chain: adjacent flows against exact ground truth."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.artifacts.flows import FlowShardWriter, FlowStore
from everypoint.config.options import ChainOptions
from everypoint.errors import ArtifactError
from everypoint.track.chain import chain_tracks, step
from tests.unit.track.worlds import (
    FRAMES,
    constant_store,
    exact_store,
    queries_of,
    scene,
    seen_without_a_break,
    truth_of,
)

OPTIONS = ChainOptions(cycle_threshold=3.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> FlowStore:
    return exact_store(scene("two_planes"), tmp_path_factory.mktemp("flows") / "flow", gaps=(1,))


def moving(tmp_path, step_xy=(2.0, -1.0), frames=6) -> FlowStore:
    return constant_store(tmp_path / "flow", frames, (24, 32), step_xy)


def query(t: float, x: float, y: float) -> np.ndarray:
    return np.array([[t, x, y]], np.float32)


def test_follows_the_true_tracks_while_they_are_seen(store):
    made = scene("two_planes")
    queries = queries_of(made)
    tracks, visible = truth_of(made, queries)
    found = chain_tracks(store, queries, FRAMES, OPTIONS)
    margin = (tracks > 0.2).all(-1) & (tracks < 62.8).all(-1)  # at the very border 1/32 px decides what is inside
    whole = seen_without_a_break(visible & margin, queries)
    error = np.linalg.norm(found.tracks - tracks, axis=-1)
    rows = queries[:, 0].astype(int)
    others = whole.copy()
    others[rows, np.arange(len(queries))] = False
    assert others.sum() > 200
    assert np.median(error[others]) < 0.05
    away = seen_away_from_outlines(made, tracks, visible)
    assert error[whole & away].max() < 0.1
    assert found.visible[whole & away].all()


def seen_away_from_outlines(made, tracks: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Where the bilinear flow around a point belongs to its own surface, at that frame and at all others."""
    from everypoint.scenes.truth import surfaces

    clean = np.ones(tracks.shape[1], bool)
    for t in range(made.frames):
        layer = surfaces(made, t)
        x, y = (np.nan_to_num(tracks[t, :, axis]).astype(int) for axis in range(2))
        inside = visible[t] & (x < made.size[1] - 1) & (y < made.size[0] - 1)
        x, y = np.where(inside, x, 0), np.where(inside, y, 0)
        around = np.stack([layer[y, x], layer[y, x + 1], layer[y + 1, x], layer[y + 1, x + 1]])
        clean &= ~inside | (around.min(0) == around.max(0))
    return np.broadcast_to(clean, visible.shape)


def test_equals_a_plain_loop(store):
    made = scene("two_planes")
    queries = queries_of(made, 24, seed=3)
    found = chain_tracks(store, queries, FRAMES, OPTIONS)
    for n, (t0, x, y) in enumerate(queries):
        for direction in (1, -1):
            xy, seen, t = np.array([x, y], np.float64), True, int(t0)
            while 0 <= t + direction < FRAMES:
                there = xy + bilinear(store.flow(t, t + direction), xy)
                back = there + bilinear(store.flow(t + direction, t), there)
                inside = 0 <= there[0] <= 63 and 0 <= there[1] <= 63
                seen = bool(seen and np.linalg.norm(back - xy) <= OPTIONS.cycle_threshold and inside)
                t, xy = t + direction, there
                np.testing.assert_allclose(found.tracks[t, n], xy, atol=1e-3)
                assert found.visible[t, n] == seen


def bilinear(field: np.ndarray, xy: np.ndarray) -> np.ndarray:
    height, width = field.shape[:2]
    x, y = np.clip(xy[0], 0, width - 1), np.clip(xy[1], 0, height - 1)
    x0, y0 = min(int(x), width - 2), min(int(y), height - 2)
    fx, fy = x - x0, y - y0
    top = field[y0, x0] * (1 - fx) + field[y0, x0 + 1] * fx
    low = field[y0 + 1, x0] * (1 - fx) + field[y0 + 1, x0 + 1] * fx
    return (top * (1 - fy) + low * fy).astype(np.float64)


@pytest.mark.parametrize("t0", [0, 3, 5])
def test_goes_both_ways_from_any_frame(tmp_path, t0):
    found = chain_tracks(moving(tmp_path), query(t0, 14.25, 12.75), 6, OPTIONS)
    for t in range(6):
        np.testing.assert_allclose(found.tracks[t, 0], [14.25 + 2 * (t - t0), 12.75 - (t - t0)], atol=1e-4)
    assert found.visible.all()
    assert found.confidence.min() == 1.0


def test_a_point_that_leaves_stays_lost_though_its_flow_leads_back(tmp_path):
    size, writer = (24, 32), FlowShardWriter(tmp_path / "flow", "there and back", (24, 32))
    x_of = [0, 9, 18, 9, 0]
    for i in range(5):
        targets = [j for j in (i - 1, i + 1) if 0 <= j < 5]
        flows = np.zeros((len(targets), *size, 2), np.float32)
        for n, j in enumerate(targets):
            flows[n, ..., 0] = x_of[j] - x_of[i]
        writer.write(i, targets, flows)
    writer.publish()
    found = chain_tracks(FlowStore([tmp_path / "flow"]), query(0, 20.0, 5.0), 5, OPTIONS)
    assert found.visible[:, 0].tolist() == [True, True, False, False, False]
    np.testing.assert_allclose(found.tracks[:, 0, 0], np.array(x_of) + 20.0, atol=1e-4)
    assert found.confidence[2:].max() == 0


def test_a_cycle_error_above_the_threshold_is_an_occlusion(tmp_path):
    size, writer = (24, 32), FlowShardWriter(tmp_path / "flow", "cycle", (24, 32))

    def right(*pixels: float) -> np.ndarray:
        return np.stack([np.broadcast_to(np.float32([x, 0]), (*size, 2)) for x in pixels])

    writer.write(0, [1], right(2.0))
    writer.write(1, [0, 2], right(0.9, 2.0))
    writer.write(2, [1], right(1.1))
    writer.publish()
    found = chain_tracks(FlowStore([tmp_path / "flow"]), query(0, 8.0, 8.0), 3, OPTIONS)  # errors 2.9 and 3.1
    assert found.visible[:, 0].tolist() == [True, True, False]
    assert 0 < found.confidence[1, 0] < 0.5


def test_a_flow_that_is_no_number_is_an_occlusion_and_the_track_stays_finite(tmp_path):
    size, writer = (24, 32), FlowShardWriter(tmp_path / "flow", "nan", (24, 32))
    flows = np.zeros((1, *size, 2), np.float32)
    holed = flows.copy()
    holed[0, 5, 5] = np.nan
    writer.write(0, [1], holed)
    writer.write(1, [0, 2], np.concatenate([flows, flows]))
    writer.write(2, [1], holed)
    writer.publish()
    store = FlowStore([tmp_path / "flow"])
    queries = np.concatenate([query(0, 4.5, 4.5), query(1, 5.0, 5.0), query(0, 20.0, 9.0)])
    found = chain_tracks(store, queries, 3, OPTIONS)
    assert np.isfinite(found.tracks).all()
    assert np.isfinite(found.confidence).all()
    assert found.visible[:, 0].tolist() == [True, False, False]
    assert found.visible[:, 1].tolist() == [False, True, False]  # the ways there are known, the ways back are not
    assert found.visible[:, 2].all()
    there, error = step(store, 0, 1, np.array([[4.5, 4.5]], np.float32))
    assert error[0] == np.inf
    np.testing.assert_array_equal(there, [[4.5, 4.5]])


def test_queries_at_borders_and_beyond(tmp_path):
    queries = np.concatenate([query(0, -0.5, -0.5), query(0, 31.5, 23.5), query(2, 31.0, 0.0)])
    found = chain_tracks(moving(tmp_path, (0.0, 0.0)), queries, 6, OPTIONS)
    rows = queries[:, 0].astype(int)
    np.testing.assert_array_equal(found.tracks[rows, np.arange(3)], queries[:, 1:])
    assert found.visible[rows, np.arange(3)].all()
    assert found.visible[:, 2].all()


def test_no_queries(tmp_path):
    found = chain_tracks(moving(tmp_path), np.empty((0, 3), np.float32), 6, OPTIONS)
    assert (found.tracks.shape, found.visible.shape, found.confidence.shape) == ((6, 0, 2), (6, 0), (6, 0))


def test_one_frame(tmp_path):
    found = chain_tracks(moving(tmp_path), query(0, 3.0, 4.0), 1, OPTIONS)
    assert found.tracks.tolist() == [[[3.0, 4.0]]]
    assert found.visible.all()


def test_a_missing_flow_is_one_sentence(tmp_path):
    with pytest.raises(ArtifactError, match="no flow 5 -> 6"):
        chain_tracks(moving(tmp_path), query(0, 3.0, 4.0), 7, OPTIONS)


def test_the_result_is_of_plain_types(store):
    found = chain_tracks(store, queries_of(scene("two_planes")).astype(np.float64), FRAMES, OPTIONS)
    assert (found.tracks.dtype, found.visible.dtype, found.confidence.dtype) == (np.float32, bool, np.float32)
    assert found.confidence.min() >= 0
    assert found.confidence.max() <= 1
