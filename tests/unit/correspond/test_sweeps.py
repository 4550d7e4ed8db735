"""Calls over several sources: every pair once, chains in order, calls as full as the chains allow."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.config.options import PairOptions
from everypoint.correspond.pairs import plan_pairs
from everypoint.correspond.sweeps import Pair, calls, chains, source_groups

PLANS = {
    "exhaustive": plan_pairs(23, PairOptions(plan="exhaustive")),
    "intervals": plan_pairs(40, PairOptions(intervals=(1, 2, 4, 8, 16))),
    "direct": plan_pairs(17, PairOptions(plan="window", window=2, direct=True), [0, 9]),
    "unsorted": {3: [9, 1, 4, 2, 8], 0: [5], 7: [1, 2, 3], 5: []},
}


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("name", PLANS)
def test_every_pair_is_in_one_call_at_the_place_that_was_asked_for(name, batch, warm):
    plan = PLANS[name]
    done = [pair for call in calls(plan, batch, warm=warm) for pair in call]
    assert sorted((pair.source, pair.row, pair.target) for pair in done) == sorted(
        (source, row, target) for source, targets in plan.items() for row, target in enumerate(targets)
    )


@pytest.mark.parametrize("name", PLANS)
def test_a_warm_start_comes_from_the_next_nearer_target_of_an_earlier_call(name):
    plan, computed = PLANS[name], set()
    for call in calls(plan, 4, warm=True):
        assert len(call) <= 4
        for pair in call:
            way = np.sign(pair.target - pair.source)
            nearer = [j for j in plan[pair.source] if 0 < way * (j - pair.source) < way * (pair.target - pair.source)]
            assert pair.before == (max(nearer, key=lambda j: way * j) if nearer else None)
            assert pair.before is None or (pair.source, pair.before) in computed
        computed |= {(pair.source, pair.target) for pair in call}


def test_cold_calls_take_the_pairs_in_their_order():
    found = list(calls({4: [1, 7, 5], 2: [3, 0]}, 2, warm=False))
    assert [[pair[:2] for pair in call] for call in found] == [[(4, 1), (4, 7)], [(4, 5), (2, 3)], [(2, 0)]]
    assert all(pair.before is None for call in found for pair in call)


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
@pytest.mark.parametrize("name", ["exhaustive", "intervals", "direct"])
def test_calls_are_as_few_as_the_chains_allow_at_the_borders_too(name, batch):
    for group in source_groups(PLANS[name], batch):
        lengths = [len(chain) for chain in chains(group, warm=True)]
        assert len(list(calls(group, batch, warm=True))) == max(*lengths, -(-sum(lengths) // batch))


def test_chains_of_a_source():
    assert chains({3: [1, 4, 2, 9]}, warm=True) == [
        [Pair(3, 4, 1, None), Pair(3, 9, 3, 4)],
        [Pair(3, 2, 2, None), Pair(3, 1, 0, 2)],
    ]


def test_groups_hold_the_plan_in_order():
    groups = source_groups(PLANS["direct"], 5)
    assert [len(group) for group in groups] == [5, 5, 5, 2]
    assert {source: targets for group in groups for source, targets in group.items()} == PLANS["direct"]
    assert [source for group in groups for source in group] == list(PLANS["direct"])
    assert source_groups({}, 3) == []
