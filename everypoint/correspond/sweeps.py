"""In which order the pairs of several source frames go through a network that takes B pairs a call.

With a warm start the pairs of one source and one direction of time form a chain, outwards from the source: (i, i + 1),
(i, i + 2), ...; each needs the flow of the one before. A network call takes one pair of each of B chains, whose sources
differ. Without a warm start every pair is a chain of its own. What a call holds follows from the plan and B alone, so
that a run that was killed and started again computes the same bits.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple


class Pair(NamedTuple):
    """One pair of a call."""

    source: int
    target: int
    row: int  # place among the targets of the source, as they were asked for
    before: int | None  # the target whose flow starts this one, which an earlier call computed; None: a cold start


def source_groups(plan: Mapping[int, Sequence[int]], size: int) -> list[dict[int, Sequence[int]]]:
    """The plan in groups of ``size`` sources that are computed together, in order."""
    sources = list(plan)
    return [{i: plan[i] for i in sources[start : start + size]} for start in range(0, len(sources), size)]


def chains(plan: Mapping[int, Sequence[int]], *, warm: bool) -> list[list[Pair]]:
    """The chains of a plan {source: targets}, source after source, forward before backward."""
    found: list[list[Pair]] = []
    for source, targets in plan.items():
        rows = sorted(range(len(targets)), key=lambda row: abs(targets[row] - source)) if warm else range(len(targets))
        ways: dict[bool, list[Pair]] = {True: [], False: []}
        for row in rows:
            way = ways[targets[row] > source]
            before = way[-1].target if way and warm else None
            pair = Pair(source, targets[row], row, before)
            if warm:
                way.append(pair)
            else:
                found.append([pair])
        found += [way for way in ways.values() if way]
    return found


def calls(plan: Mapping[int, Sequence[int]], batch: int, *, warm: bool) -> Iterator[list[Pair]]:
    """The network calls for a group of sources: at most ``batch`` pairs each, no chain twice.

    The longest remaining chains go first, those of earlier sources where they are equally long. For chains of equal
    steps that takes the fewest calls there can be (Hu, 1961), max(longest chain, pairs / batch): at the borders of the
    video, where chains have very different lengths, calls stay as full as anywhere.
    """
    waiting = chains(plan, warm=warm)
    heap = [(-len(chain), order) for order, chain in enumerate(waiting)]
    heapq.heapify(heap)
    while heap:
        chosen = [heapq.heappop(heap) for _ in range(min(batch, len(heap)))]
        yield [waiting[order][len(waiting[order]) + left] for left, order in chosen]
        for left, order in chosen:
            if left < -1:
                heapq.heappush(heap, (left + 1, order))
