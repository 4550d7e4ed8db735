"""Shards: the parts of one work that several jobs share, named ``1of4`` ... ``4of4``."""

from __future__ import annotations


def shard_of(name: str) -> tuple[int, int]:
    """``"2of4"`` as (index from 0, number of shards)."""
    index, count = name.split("of")
    return int(index) - 1, int(count)


def shard_range(count: int, shard: int, shards: int) -> range:
    """Which of ``count`` things are those of ``shard`` (from 0): neighbours, in each shard as many, or one more."""
    return range(count * shard // shards, count * (shard + 1) // shards)
