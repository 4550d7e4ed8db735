"""Pair plans by enumeration, shards by their properties."""

from __future__ import annotations

import pytest

from everypoint.config.options import PairOptions
from everypoint.correspond.pairs import count_pairs, plan_pairs, shard_sources
from everypoint.errors import ConfigError, InputError


def pairs_of(plan: dict[int, list[int]]) -> set[tuple[int, int]]:
    return {(i, j) for i, targets in plan.items() for j in targets}


def brute(frames: int, wanted) -> set[tuple[int, int]]:
    return {(i, j) for i in range(frames) for j in range(frames) if i != j and wanted(i, j)}


PLANS = [
    (PairOptions(plan="exhaustive"), lambda i, j: True),
    (PairOptions(plan="window", window=3), lambda i, j: abs(i - j) <= 3),
    (PairOptions(plan="window", window=50), lambda i, j: True),
    (PairOptions(plan="intervals", intervals=(1, 2, 4)), lambda i, j: abs(i - j) in (1, 2, 4)),
    (PairOptions(plan="intervals", intervals=(3,)), lambda i, j: abs(i - j) == 3),
    (PairOptions(plan="intervals", intervals=(1, 99)), lambda i, j: abs(i - j) == 1),
    (PairOptions(plan="intervals", intervals=(1,), direct=True), lambda i, j: abs(i - j) == 1 or {i, j} & {0, 4}),
    (PairOptions(plan="window", window=1, direct=False), lambda i, j: abs(i - j) == 1),
    (PairOptions(plan="exhaustive", shortest=3), lambda i, j: abs(i - j) >= 3),
    (PairOptions(plan="window", window=4, shortest=3), lambda i, j: abs(i - j) in (3, 4)),
    (PairOptions(plan="intervals", intervals=(1, 2, 4), shortest=3), lambda i, j: abs(i - j) == 4),
    (
        PairOptions(plan="intervals", intervals=(1, 2), direct=True, shortest=2),
        lambda i, j: abs(i - j) == 2 or (abs(i - j) > 2 and bool({i, j} & {0, 4})),
    ),
]


@pytest.mark.parametrize("frames", [0, 1, 2, 5, 9])
@pytest.mark.parametrize(("options", "wanted"), PLANS)
def test_plans_by_enumeration(frames, options, wanted):
    queries = [q for q in (0, 4, 4) if q < frames]
    plan = plan_pairs(frames, options, queries)
    assert pairs_of(plan) == brute(frames, wanted)
    assert all(targets == sorted(set(targets)) and targets for targets in plan.values())
    assert list(plan) == sorted(plan)


@pytest.mark.parametrize("frames", [0, 1, 2, 5, 9, 40])
@pytest.mark.parametrize("options", [options for options, _ in PLANS])
def test_pairs_are_counted_without_planning_them(frames, options):
    planned = sum(map(len, plan_pairs(frames, options, range(0, frames, 5)).values()))
    counted = count_pairs(frames, options)
    assert counted >= planned if options.direct else counted == planned
    assert count_pairs(frames, None) == frames * (frames - 1) >= counted


def test_the_default_plan_in_numbers():
    plan = plan_pairs(32, PairOptions(intervals=(1, 2, 4, 8, 16)))
    assert sum(map(len, plan.values())) == 258  # 2 (31 + 30 + 28 + 24 + 16)
    assert plan[0] == [1, 2, 4, 8, 16]
    assert plan[16] == [0, 8, 12, 14, 15, 17, 18, 20, 24]


def test_cost_is_linear_in_frames_at_a_fixed_window():
    counts = [sum(map(len, plan_pairs(n, PairOptions(plan="window", window=4)).values())) for n in (100, 200)]
    assert counts == [2 * (4 * n - 10) for n in (100, 200)]


@pytest.mark.parametrize("query", [-1, 5, 40])
def test_a_query_outside_the_video_is_one_sentence(query):
    with pytest.raises(InputError, match=f"query frame {query} is outside"):
        plan_pairs(5, PairOptions(direct=True), [query])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("options", [options for options, _ in PLANS])
def test_shards_are_contiguous_balanced_and_a_partition(options, count):
    plan = plan_pairs(20, options, [0, 4])
    shards = [shard_sources(plan, (k, count)) for k in range(count)]
    assert [source for shard in shards for source in shard] == sorted(plan)
    total, largest = sum(map(len, plan.values())), max(map(len, plan.values()))
    for shard in shards:
        assert sum(len(plan[source]) for source in shard) <= total / count + largest


def test_empty_plan_has_empty_shards():
    assert shard_sources({}, (0, 2)) == []


@pytest.mark.parametrize("shard", [(2, 2), (-1, 3), (0, 0)])
def test_a_shard_that_is_none_is_refused(shard):
    with pytest.raises(ConfigError, match="shard"):
        shard_sources({0: [1]}, shard)
