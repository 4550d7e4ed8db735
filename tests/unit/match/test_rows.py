"""Rows of sparse sources as tables, tables joined, and rows refused by appearance."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.artifacts.matches import CYCLE, LONG_RANGE, MatchRows, load_matches, save_matches
from everypoint.config.options import MatchOptions
from everypoint.match.budget import ROW_BYTES, rows_per_pair
from everypoint.match.rows import alike_rows, chosen_rows, join_tables, table_of
from everypoint.match.table import build_matches
from everypoint.match.video import FeatureMaps
from tests.unit.match.worlds import translation

SIZE, FRAMES = (20, 30), 5


def random_rows(count: int = 400, seed: int = 0) -> MatchRows:
    random = np.random.default_rng(seed)
    frame_i = random.integers(0, FRAMES, count).astype(np.int32)
    return MatchRows(
        frame_i,
        ((frame_i + random.integers(1, FRAMES, count)) % FRAMES).astype(np.int32),
        *(random.uniform(1, (28, 18), (2, count, 2)).astype(np.float32)),
        random.uniform(0, 1, count).astype(np.float32),
        np.full(count, LONG_RANGE, np.uint8),
    )


def content(table) -> set[tuple]:
    pairs = table.pairs[table.rows_pair]
    rows = np.hstack([pairs, table.fixed_i, table.fixed_j, table.flags[:, None], table.score[:, None]])
    return {tuple(row) for row in rows.tolist()}


def test_every_row_is_there_in_both_directions(tmp_path):
    rows = random_rows()
    table = table_of(rows, SIZE, FRAMES, 10**6, 0)
    assert len(table) == 2 * len(rows)
    found = content(table)
    for k in range(len(rows)):
        ends = [np.round(xy[k] * 32).astype(int).tolist() for xy in (rows.xy_i, rows.xy_j)]
        rest = [LONG_RANGE, float(np.float16(rows.score[k]))]
        assert (rows.frame_i[k], rows.frame_j[k], *ends[0], *ends[1], *rest) in found
        assert (rows.frame_j[k], rows.frame_i[k], *ends[1], *ends[0], *rest) in found
    key = table.pairs[:, 0] * FRAMES + table.pairs[:, 1]
    assert (np.diff(key) > 0).all()
    assert np.array_equal(table.valid_count, np.diff(table.offsets))
    save_matches(tmp_path / "matches.npz", table)
    assert content(load_matches(tmp_path / "matches.npz")) == found


def test_the_order_and_direction_of_the_rows_do_not_matter_where_all_fit():
    rows = random_rows()
    swapped = MatchRows(rows.frame_j, rows.frame_i, rows.xy_j, rows.xy_i, rows.score, rows.flags)
    assert content(table_of(rows, SIZE, FRAMES, 1000, 0)) == content(table_of(swapped[::-1], SIZE, FRAMES, 1000, 0))


def test_a_pair_keeps_no_more_than_its_share_and_the_same_rows_both_ways():
    rows = random_rows(4000)
    table = table_of(rows, SIZE, FRAMES, 50, 3)
    assert np.diff(table.offsets).tolist() == [50] * (FRAMES * (FRAMES - 1))
    assert table.valid_count.sum() == 2 * 4000
    by_pair = {tuple(pair): p for p, pair in enumerate(table.pairs.tolist())}
    forth, back = (slice(*table.offsets[by_pair[pair] : by_pair[pair] + 2]) for pair in ((1, 3), (3, 1)))
    assert np.array_equal(table.fixed_i[forth], table.fixed_j[back])
    other = table_of(rows, SIZE, FRAMES, 50, 4)
    assert not np.array_equal(other.fixed_i, table.fixed_i)


def test_what_is_kept_does_not_depend_on_the_place():
    """A fair draw: over many seeds every row of a full pair is kept equally often."""
    count, limit, seeds = 40, 10, 400
    rows = random_rows(count)
    rows = MatchRows(np.zeros_like(rows.frame_i), np.ones_like(rows.frame_j), *(
        getattr(rows, name) for name in ("xy_i", "xy_j", "score", "flags")
    ))  # fmt: skip
    kept = np.zeros(count)
    whole = table_of(rows, SIZE, FRAMES, count, 0)
    first = [tuple(row) for row in whole.fixed_i[:count].tolist()]
    for seed in range(1000, 1000 + seeds):
        drawn = {tuple(row) for row in table_of(rows, SIZE, FRAMES, limit, seed).fixed_i[:limit].tolist()}
        kept += [row in drawn for row in first]
    expected, spread = seeds * limit / count, np.sqrt(seeds * limit / count * (1 - limit / count))
    assert np.abs(kept - expected).max() < 4 * spread


def test_ends_at_the_border_or_outside_are_dropped():
    inside, edge = [10, 10], [0.5, 10]
    rows = MatchRows(
        np.array([0, 0, 0, 0, 2], np.int32), np.array([1, 1, 1, 1, 2], np.int32),
        np.array([inside, edge, inside, inside, inside], np.float32),
        np.array([inside, inside, [28.5, 10], [np.nan, 3], inside], np.float32),
        np.ones(5, np.float32), np.full(5, CYCLE, np.uint8),
    )  # fmt: skip
    table = table_of(rows, SIZE, FRAMES, 10, 0)
    assert table.pairs.tolist() == [[0, 1], [1, 0]]
    assert len(table) == 2


def test_no_rows_are_a_table_too(tmp_path):
    table = table_of(random_rows(0), SIZE, FRAMES, 10, 0)
    save_matches(tmp_path / "matches.npz", join_tables([table, table], SIZE, FRAMES))
    assert len(load_matches(tmp_path / "matches.npz")) == 0
    assert len(join_tables([], SIZE, FRAMES)) == 0


def test_joined_tables_hold_all_rows_of_each_grouped_by_pair():
    dense, _ = build_matches(translation(3, SIZE, (2, 1)), None, MatchOptions(per_pair=40), 0)
    sparse = table_of(random_rows(), SIZE, FRAMES, 20, 0)
    both = join_tables([dense, sparse], SIZE, FRAMES)
    assert len(both) == len(dense) + len(sparse)
    assert content(both) == content(dense) | content(sparse)
    by_pair = {tuple(pair): p for p, pair in enumerate(both.pairs.tolist())}
    for table in (dense, sparse):
        for p, pair in enumerate(table.pairs.tolist()):
            assert both.valid_count[by_pair[tuple(pair)]] >= table.valid_count[p]
    assert both.valid_count.sum() == dense.valid_count.sum() + sparse.valid_count.sum()
    start = both.offsets[by_pair[0, 1]]
    assert np.array_equal(
        both.fixed_i[start : start + 40], dense.fixed_i[:40]
    )  # the rows of the first table come first
    with pytest.raises(ValueError, match="different sizes"):
        join_tables([dense], (21, 30), FRAMES)


def test_rows_of_unlike_ends_are_taken_out():
    features = np.zeros((FRAMES, 1, 2, 2), np.float16)
    features[:, :, 0, 0] = features[:, :, 1, 1] = 1  # left and right half look different
    rows = random_rows()
    table = table_of(rows, SIZE, FRAMES, 1000, 0)
    keep = alike_rows(table, FeatureMaps(features, SIZE), 0.9)
    left = [table.xy_i[:, 0] < 8, table.xy_j[:, 0] < 8]
    right = [table.xy_i[:, 0] > 21, table.xy_j[:, 0] > 21]
    assert keep[left[0] & left[1]].all()
    assert keep[right[0] & right[1]].all()
    assert not keep[left[0] & right[1]].any()
    fewer = chosen_rows(table, keep)
    assert len(fewer) == keep.sum() > 0
    assert np.array_equal(fewer.pairs, table.pairs)
    assert content(fewer) < content(table)


def test_the_budget_bounds_the_rows():
    assert rows_per_pair(MatchOptions(per_pair=100, budget_mb=1), 10) == 100
    assert rows_per_pair(MatchOptions(per_pair=10**6, budget_mb=1), 10) == 10**6 // (10 * ROW_BYTES)
    assert rows_per_pair(MatchOptions(per_pair=10**6, budget_mb=1), 10, taken=50_000) == 450_000 // (10 * ROW_BYTES)
    assert rows_per_pair(MatchOptions(), 0) == MatchOptions().per_pair
    assert rows_per_pair(MatchOptions(budget_mb=0.001), 10**6) == 1
    table, report = build_matches(translation(3, SIZE, (1, 0)), None, MatchOptions(budget_mb=0.01), 0)
    columns = (table.fixed_i, table.fixed_j, table.flags, table.score)
    assert report["per_pair"] == 10_000 // (6 * ROW_BYTES)
    assert 0.9 * 10_000 < sum(column.nbytes for column in columns) <= 10_000
