"""Shards: names, and parts that add up to the whole."""

from __future__ import annotations

import pytest

from everypoint.stages.shards import shard_of, shard_range


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (7, 3), (8, 8), (100, 7)])
def test_shards_partition_the_frames(frames, count):
    shards = [list(shard_range(frames, k, count)) for k in range(count)]
    assert [frame for shard in shards for frame in shard] == list(range(frames))
    assert {len(shard) for shard in shards} <= {frames // count, -(-frames // count)}


def test_clips_of_four_jobs():
    assert [list(shard_range(14, n, 4)) for n in range(4)] == [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9], [10, 11, 12, 13]]


def test_names_count_from_one():
    assert [shard_of(name) for name in ("1of1", "2of4", "10of12")] == [(0, 1), (1, 4), (9, 12)]
