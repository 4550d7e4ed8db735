"""From flows to the table: rows that are right, statistics that add up, the same result in any order and place."""

from __future__ import annotations

import json

import numpy as np
import pytest

from everypoint.artifacts.matches import CYCLE, OCCLUDED, load_matches, save_matches
from everypoint.config.options import MatchOptions
from everypoint.match.table import build_matches
from tests.unit.match.worlds import (
    MemoryStore,
    classify_by_loops,
    constant,
    random_pair,
    square_mask,
    translation,
    written,
)

SIZE = (24, 32)
COLUMNS = ("pairs", "offsets", "fixed_i", "fixed_j", "flags", "score", "valid_count")


def equal(first, second) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in COLUMNS)


def occlusion_world() -> MemoryStore:
    """Two frames: a square of side 8 moves right by 6 over a still ground."""
    forward, backward = constant(SIZE, (0, 0)), constant(SIZE, (0, 0))
    forward[square_mask(SIZE, (6, 8), 8)] = (6, 0)
    backward[square_mask(SIZE, (12, 8), 8)] = (-6, 0)
    return MemoryStore({(0, 1): forward, (1, 0): backward})


def random_world(frames: int = 4) -> MemoryStore:
    flows = {}
    for i in range(frames):
        for j in range(i + 1, frames):
            flows[i, j], flows[j, i] = random_pair(SIZE, 10 * i + j)
    return MemoryStore(flows)


def test_rows_of_a_translation(tmp_path):
    store = written(translation(4, SIZE, (3, -2)), tmp_path / "flow")
    matches, _ = build_matches(store, None, MatchOptions(per_pair=100), 0)
    assert matches.pairs.tolist() == [[i, j] for i in range(4) for j in range(4) if i != j]
    assert np.diff(matches.offsets).tolist() == [100] * 12
    gaps = (matches.pairs[:, 1] - matches.pairs[:, 0])[matches.rows_pair]
    moved = matches.xy_j - matches.xy_i
    assert np.abs(moved - gaps[:, None] * np.array([3, -2])).max() <= 1 / 32
    assert (matches.xy_i == np.round(matches.xy_i)).all()  # pixels of frame i
    assert (matches.flags == CYCLE).all()
    assert matches.score.min() > 0.999
    assert matches.valid_count[0] == (32 - 3) * (24 - 2)
    assert (matches.size, matches.frames) == (SIZE, 4)


def test_every_row_is_a_valid_pixel_with_its_flow_and_flag():
    store, options = random_world(), MatchOptions(per_pair=300)
    random = np.random.default_rng(0)
    features = random.normal(0.3, 1, (4, 3, 4, 5)).astype(np.float16)
    matches, report = build_matches(store, features, options, 0)
    seen = 0
    for p, (i, j) in enumerate(matches.pairs.tolist()):
        expected = classify_by_loops(store.flow(i, j), store.flow(j, i), abs(i - j), options, features[[i, j]])
        rows = slice(*matches.offsets[p : p + 2])
        x, y = matches.xy_i[rows].astype(int).T
        assert np.array_equal((matches.flags[rows] & CYCLE) > 0, expected["cycle"][y, x])
        assert np.array_equal((matches.flags[rows] & OCCLUDED) > 0, expected["occluded"][y, x])
        assert (matches.flags[rows] > 0).all()
        target = np.stack([x, y], 1) + store.flow(i, j)[y, x]
        assert np.abs(target - matches.xy_j[rows]).max() <= 1 / 64 + 1e-5
        assert matches.valid_count[p] == expected["cycle"].sum() + expected["occluded"].sum()
        assert report["pairs"][p]["vetoed"] == expected["vetoed"].sum()
        seen += expected["occluded"].sum()
    assert seen > 5


def test_an_occluded_row_is_flagged_and_goes_where_its_surface_is(tmp_path):
    matches, report = build_matches(occlusion_world(), None, MatchOptions(per_pair=10**6), 0)
    rows = (matches.rows_pair == 0) & (matches.flags == OCCLUDED)
    hidden = np.argwhere(square_mask(SIZE, (12, 8), 8) & ~square_mask(SIZE, (6, 8), 8))[:, ::-1]
    assert {tuple(xy) for xy in matches.xy_i[rows]} == {tuple(xy) for xy in hidden}
    assert np.array_equal(matches.xy_i[rows], matches.xy_j[rows])  # the ground stands still
    assert report["by_gap"][1]["occluded"] == 2 * len(hidden) / (2 * 24 * 32)


def test_statistics_add_up_and_are_json():
    store = random_world()
    features = np.random.default_rng(0).normal(0.3, 1, (4, 3, 4, 5)).astype(np.float16)
    matches, report = build_matches(store, features, MatchOptions(per_pair=50), 0)
    json.dumps(report)
    assert set(report["by_gap"]) == {1, 2, 3}
    assert [report["by_gap"][gap]["pairs"] for gap in (1, 2, 3)] == [6, 4, 2]
    assert report["by_gap"][3]["appearance_vetoed"] > 0 == report["by_gap"][2]["appearance_vetoed"]
    assert report["by_gap"][1]["occluded"] > 0 == report["by_gap"][3]["occluded"]
    for gap, share in report["by_gap"].items():
        members = [p for p, (i, j) in enumerate(matches.pairs) if abs(i - j) == gap]
        assert share["kept"] * report["pixels"] * share["pairs"] == pytest.approx(matches.valid_count[members].sum())
        assert share["kept"] == pytest.approx(share["cycle"] + share["occluded"])
    assert report["rows"] == len(matches) == sum(pair["rows"] for pair in report["pairs"])
    assert report["options"]["per_pair"] == 50
    assert report["pairs_without_reverse"] == 0


def test_pairs_without_a_reverse_are_left_out_and_counted():
    flows = random_world(3)._flows
    del flows[2, 0]
    matches, report = build_matches(MemoryStore(flows), None, MatchOptions(), 0)
    assert [0, 2] not in matches.pairs.tolist()
    assert report["pairs_without_reverse"] == 1
    assert len(matches.pairs) == 4


def test_a_pair_does_not_depend_on_the_others_without_count_weights():
    whole, options = random_world(), MatchOptions(per_pair=40, count_weight=False)
    alone = MemoryStore({pair: whole._flows[pair] for pair in ((1, 3), (3, 1))})
    among, _ = build_matches(whole, None, options, 5)
    single, _ = build_matches(alone, None, options, 5)
    p = among.pairs.tolist().index([3, 1])
    rows = slice(*among.offsets[p : p + 2])
    assert np.array_equal(among.fixed_i[rows], single.fixed_i[single.rows_pair == 1])


def test_count_weights_prefer_pixels_with_few_matches():
    # Frame 0 has three targets; its left half is matched in all of them, its right half in frame 1 only.
    still = constant(SIZE, (0, 0))
    far = still.copy()
    far[:, 16:] = (0, 50)
    flows = {(0, 1): still, (1, 0): still}
    for j in (2, 3):
        flows[0, j], flows[j, 0] = far, still
    store = MemoryStore(flows)
    shares = {}
    for weighted in (True, False):
        draws = [
            build_matches(store, None, MatchOptions(per_pair=64, count_weight=weighted), seed)[0] for seed in range(12)
        ]
        right = np.concatenate([m.xy_i[m.rows_pair == 0][:, 0] >= 16 for m in draws])
        shares[weighted] = right.mean()
    light, heavy = 1 / np.sqrt(4), 1 / np.sqrt(2)
    assert shares[True] == pytest.approx(heavy / (heavy + light), abs=0.01)
    assert shares[False] == pytest.approx(0.5, abs=0.01)


def test_same_seed_same_table_other_seed_other_rows():
    store = random_world()
    first, again, other = (build_matches(store, None, MatchOptions(per_pair=30), seed)[0] for seed in (1, 1, 2))
    assert equal(first, again)
    assert not np.array_equal(first.fixed_i, other.fixed_i)
    assert np.array_equal(first.valid_count, other.valid_count)


def test_the_order_of_the_shards_does_not_matter(tmp_path):
    from everypoint.artifacts.flows import FlowShardWriter, FlowStore

    world = random_world()
    for k, sources in enumerate(([0, 1], [2, 3])):
        writer = FlowShardWriter(tmp_path / str(k), k, SIZE)
        for i in sources:
            writer.write(i, world.targets(i), np.stack([world.flow(i, j) for j in world.targets(i)]))
        writer.publish()
    tables = [
        build_matches(FlowStore([tmp_path / str(k) for k in order]), None, MatchOptions(per_pair=30), 0)[0]
        for order in ((0, 1), (1, 0))
    ]
    assert equal(*tables)


@pytest.mark.parametrize("features", [None, np.empty((4, 0, 0, 0), np.float16)])
def test_without_features_nothing_is_vetoed(features):
    _, report = build_matches(random_world(), features, MatchOptions(), 0)
    assert report["all"]["appearance_vetoed"] == 0


@pytest.mark.parametrize("frames", [None, 7])
def test_a_store_without_pairs_is_an_empty_table(tmp_path, frames):
    class Empty(MemoryStore):
        def __init__(self) -> None:
            self._flows, self.size = {}, SIZE

    matches, report = build_matches(Empty(), None, MatchOptions(), 0, frames=frames)
    assert len(matches) == len(matches.pairs) == report["rows"] == 0
    assert matches.frames == (frames or 1)
    save_matches(tmp_path / "matches.npz", matches)
    assert equal(load_matches(tmp_path / "matches.npz"), matches)


def test_a_pair_without_a_valid_pixel_has_no_rows():
    away = constant(SIZE, (100, 0))
    matches, report = build_matches(MemoryStore({(0, 1): away, (1, 0): away}), None, MatchOptions(), 0)
    assert np.diff(matches.offsets).tolist() == [0, 0]
    assert report["all"]["kept"] == 0


def test_round_trip_through_the_file(tmp_path):
    matches, _ = build_matches(random_world(), None, MatchOptions(per_pair=30), 0)
    save_matches(tmp_path / "matches.npz", matches)
    loaded = load_matches(tmp_path / "matches.npz")
    assert equal(loaded, matches)
    assert (loaded.size, loaded.frames) == (matches.size, matches.frames)
