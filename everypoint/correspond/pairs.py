"""Which ordered pairs of frames get a flow, and which of them a shard computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from everypoint.config.options import PairOptions
from everypoint.errors import ConfigError, InputError

QUERIED = 5  # of this many frames one holds queries, where that is not known yet (TAP-Vid's strided mode)


def count_pairs(frames: int, options: PairOptions | None) -> int:
    """How many ordered pairs :func:`plan_pairs` plans; None stands for all.

    With ``direct`` it is an upper bound for queries in every fifth frame.
    """
    if options is None:
        return frames * (frames - 1)
    planned = sum(2 * (frames - gap) for gap in _gaps(frames, options))
    direct = 2 * -(-frames // QUERIED) * (frames - 1) if options.direct else 0
    possible = sum(2 * (frames - gap) for gap in range(options.shortest, frames))
    return min(planned + direct, possible)


def plan_pairs(frames: int, options: PairOptions, query_frames: Iterable[int] = ()) -> dict[int, list[int]]:
    """Targets of every source frame, sorted; (i, j) is planned exactly when (j, i) is, and never (i, i).

    Args:
        frames: number of frames T.
        options: the plan. ``exhaustive`` holds all gaps, ``window`` the gaps 1 to ``window``, ``intervals`` exactly the
            gaps listed; ``direct`` adds the pairs between every query frame and all other frames. Pairs of a gap below
            ``shortest`` are left out.
        query_frames: frames in which queries lie (used by ``direct``).

    Raises:
        InputError: a query frame outside the video.
    """
    pairs = {(i, i + gap) for gap in _gaps(frames, options) for i in range(frames - gap)}
    if options.direct:
        for q in query_frames:
            if not 0 <= q < frames:
                raise InputError(f"query frame {q} is outside the video", f"it has frames 0 to {frames - 1}")
            pairs |= {(q, t) for t in range(frames) if abs(t - q) >= options.shortest}
    targets: dict[int, set[int]] = {i: set() for i in range(frames)}
    for i, j in pairs:
        targets[i].add(j)
        targets[j].add(i)
    return {i: sorted(js) for i, js in targets.items() if js}


def _gaps(frames: int, options: PairOptions) -> list[int]:
    """The gaps of a plan that some of the frames have, without direct pairs."""
    gaps = {
        "exhaustive": range(1, frames),
        "window": range(1, min(options.window, frames - 1) + 1),
        "intervals": options.intervals,
    }[options.plan]
    return [gap for gap in gaps if options.shortest <= gap < frames]


def shard_sources(plan: Mapping[int, Sequence[int]], shard: tuple[int, int]) -> list[int]:
    """The source frames of shard k of n (k from 0): contiguous, balanced by number of targets.

    A source belongs to the shard in which the middle of its targets falls when all targets are laid end to end, so the
    shards partition the sources and none exceeds its fair share by more than one source's targets.
    """
    k, n = shard
    if not 0 <= k < n:
        raise ConfigError(f"there is no shard {k} of {n}", "shards count from 0")
    total = sum(len(targets) for targets in plan.values())
    chosen, before = [], 0
    for source in sorted(plan):
        count = len(plan[source])
        if (2 * before + count) * n // (2 * total) == k:
            chosen.append(source)
        before += count
    return chosen
