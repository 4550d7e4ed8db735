"""From tracks to the matches of all pairs of frames, evenly capped a pair, in bounded memory.

N tracks over T frames hold up to N T^2 / 2 matches. They pass by here in blocks, and of each pair of frames the
``limit`` rows with the smallest random keys stay, so that a pair's rows are an even draw from all of its matches,
whatever the blocks. A row's key is u + v modulo 2^32 with a random number u of its track and one v of its pair: two
draws instead of one a row, and another part of the tracks for every pair.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from everypoint.artifacts.matches import MatchRows

BLOCK = 2**20  # points (frames times tracks) that are looked at together
PENDING = 2**18  # rows that wait, at least, before the surplus is dropped
TABLE_BYTES = 22  # of a row in the table: 11 in either direction

_PAIR = np.uint64(32)  # a row's place: its pair in the upper 32 bits, its key in the lower


class _Rows(NamedTuple):
    """Rows of any pairs."""

    place: np.ndarray  # uint64 [M], pair and key
    ends: np.ndarray  # float32 [M, 5], x_i, y_i, x_j, y_j, score


_NONE = _Rows(np.empty(0, np.uint64), np.empty((0, 5), np.float32))


def rows_a_pair(per_pair: int, budget_mb: float, pairs: int) -> int:
    """``per_pair``, or less where a table of so many ``pairs`` would exceed ``budget_mb`` (of 10^6 bytes)."""
    return max(1, min(per_pair, int(budget_mb * 1e6) // (TABLE_BYTES * max(pairs, 1))))


class PairReservoir:
    """Matches of tracks by pair of frames i < j.

    Memory: at most ``capacity`` rows of 28 bytes are kept and a quarter more wait; with what sorting and the final
    columns need, the peak is about 95 bytes a row of ``capacity`` (460 MiB for 100 frames and 1024 rows a pair).

    Args:
        frames: number of frames T.
        gaps: smallest and largest j - i; None: up to the whole video.
        per_pair: at most this many rows a pair.
        budget_mb: size of a table with all rows (see :func:`rows_a_pair`).
        seed: of the draw.
    """

    def __init__(self, frames: int, gaps: tuple[int, int | None], per_pair: int, budget_mb: float, seed: int) -> None:
        last = frames - 1 if gaps[1] is None else min(gaps[1], frames - 1)
        self.gaps = range(gaps[0], last + 1)
        lengths = np.array([frames - gap for gap in self.gaps], np.int64)
        self._first = np.concatenate([[0], np.cumsum(lengths)])  # first pair of each gap, then their number
        pairs = int(self._first[-1])
        self.limit = rows_a_pair(per_pair, budget_mb, pairs)
        self.capacity = pairs * self.limit
        self._random = np.random.Generator(np.random.PCG64([seed, 0]))
        self._turn = _words(np.random.Generator(np.random.PCG64([seed, 1])), pairs)
        self._below = np.full(pairs, 2**32, np.uint64)  # only smaller keys still have a chance
        self._kept = _NONE
        self._waiting: list[_Rows] = []
        self.waiting = 0

    def add(self, xy: np.ndarray, score: np.ndarray, sets: np.ndarray, start: int = 0) -> None:
        """Offer all matches of tracks.

        Args:
            xy: float32 [t, N, 2], positions in frames ``start`` to ``start + t - 1``.
            score: float32 [t, N]; a row's score is the lesser of its two ends.
            sets: uint8 [t, N]; two frames of a track match where both have the same number and it is not 0.
            start: first frame of the arrays.
        """
        block = max(1, BLOCK // max(len(xy), 1))
        for first in range(0, xy.shape[1], block):
            part = slice(first, first + block)
            self._add(xy[:, part], score[:, part], sets[:, part], start)

    def _add(self, xy: np.ndarray, score: np.ndarray, sets: np.ndarray, start: int) -> None:
        key = _words(self._random, xy.shape[1])
        points, scores = np.ascontiguousarray(xy).reshape(-1, 2), np.ascontiguousarray(score).ravel()
        for number, gap in enumerate(self.gaps):
            if gap >= len(xy):
                break
            pairs = self._first[number] + start + np.arange(len(xy) - gap)
            both = (sets[:-gap] == sets[gap:]) & (sets[:-gap] > 0)  # [t - gap, N]
            keys = key + self._turn[pairs][:, None]  # modulo 2^32
            here = np.flatnonzero(both & (keys < self._below[pairs][:, None]))
            if not len(here):
                continue
            there = here + gap * xy.shape[1]
            pair = pairs[here // xy.shape[1]].astype(np.uint64)
            ends = np.empty((len(here), 5), np.float32)
            ends[:, :2], ends[:, 2:4] = points[here], points[there]
            np.minimum(scores[here], scores[there], out=ends[:, 4])
            rows = _Rows(pair << _PAIR | keys.ravel()[here], ends)
            self._waiting.append(rows)
            self.waiting += len(here)
            if self.waiting >= max(self.capacity // 4, PENDING):
                self._drop_surplus()

    def _drop_surplus(self) -> None:
        """Keep the ``limit`` smallest keys of every pair; sorted by pair, then key."""
        parts = [self._kept, *self._waiting]
        self._kept, self._waiting, self.waiting = _NONE, [], 0
        place = np.concatenate([part.place for part in parts])
        ends = np.concatenate([part.ends for part in parts])
        parts.clear()
        order = np.argsort(place)  # two tracks of a pair have the same key once in 2^32 times
        place, limit = place[order], self.limit
        pair = (place >> _PAIR).astype(np.int32)
        stays = np.ones(len(pair), bool)
        stays[limit:] = pair[limit:] != pair[:-limit]  # fewer than ``limit`` of its pair lie before it
        full = (
            np.flatnonzero(stays[limit - 1 :] & (pair[limit - 1 :] == pair[: max(len(pair) - limit + 1, 0)]))
            + limit
            - 1
        )
        self._below[pair[full]] = place[full] & np.uint64(2**32 - 1)
        self._kept = _Rows(place[stays], ends[order[stays]])

    def rows(self, flags: int) -> MatchRows:
        """The matches that were kept, by gap and first frame, all with the same flags."""
        self._drop_surplus()
        pair, ends = (self._kept.place >> _PAIR).astype(np.int32), self._kept.ends
        number = (np.searchsorted(self._first, pair, side="right") - 1).astype(np.int32)
        frame_i = (pair - self._first[number]).astype(np.int32)
        return MatchRows(
            frame_i=frame_i,
            frame_j=frame_i + (number + self.gaps.start).astype(np.int32),
            xy_i=ends[:, :2].copy(),
            xy_j=ends[:, 2:4].copy(),
            score=ends[:, 4].copy(),
            flags=np.full(len(pair), flags, np.uint8),
        )


def _words(random: np.random.Generator, count: int) -> np.ndarray:
    """Random uint32 [count]; calls one after the other give the same as one for all."""
    return (random.integers(0, 2**64, count, dtype=np.uint64) >> np.uint64(32)).astype(np.uint32)
