"""From tracks to the matches of all pairs of frames, evenly capped a pair, in bounded memory.

N tracks over T frames hold up to N T^2 / 2 matches. They pass by here in blocks, and of each pair of frames the
``limit`` rows with the smallest random keys stay, so that a pair's rows are an even draw from all of its matches,
whatever the blocks. A row's key is u + v modulo 2^32 with a random number u of its track and one v of its pair: two
draws instead of one a row, and another part of the tracks for every pair.
"""

from __future__ import annotations

import numpy as np

from everypoint.artifacts.matches import MatchRows

BLOCK = 2**20  # points (frames times tracks) that are looked at together
PENDING = 2**18  # rows that wait, at least, before the surplus is dropped
TABLE_BYTES = 22  # of a row in the table: 11 in either direction

_ROW = np.dtype([("key", "u4"), ("pair", "i4"), ("xy_i", "f4", 2), ("xy_j", "f4", 2), ("score", "f4")])


def rows_a_pair(per_pair: int, budget_mb: float, pairs: int) -> int:
    """``per_pair``, or less where a table of so many ``pairs`` would exceed ``budget_mb`` (of 10^6 bytes)."""
    return max(1, min(per_pair, int(budget_mb * 1e6) // (TABLE_BYTES * max(pairs, 1))))


class PairReservoir:
    """Matches of tracks by pair of frames i < j.

    Memory: the rows that are kept (at most ``capacity``, 28 bytes each), a quarter more that wait, and while they are
    sorted about as much again.

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
        self._kept = np.empty(0, _ROW)
        self._waiting: list[np.ndarray] = []
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
        for number, gap in enumerate(self.gaps):
            if gap >= len(xy):
                break
            pairs = self._first[number] + start + np.arange(len(xy) - gap)
            both = (sets[:-gap] == sets[gap:]) & (sets[:-gap] > 0)  # [t - gap, N]
            keys = key + self._turn[pairs][:, None]  # modulo 2^32
            i, n = np.nonzero(both & (keys < self._below[pairs][:, None]))
            if not len(i):
                continue
            rows = np.empty(len(i), _ROW)
            rows["key"], rows["pair"] = keys[i, n], pairs[i]
            rows["xy_i"], rows["xy_j"] = xy[i, n], xy[i + gap, n]
            rows["score"] = np.minimum(score[i, n], score[i + gap, n])
            self._waiting.append(rows)
            self.waiting += len(rows)
            if self.waiting >= max(self.capacity // 4, PENDING):
                self._drop_surplus()

    def _drop_surplus(self) -> None:
        """Keep the ``limit`` smallest keys of every pair; of equal keys the first to come."""
        rows = np.concatenate([self._kept, *self._waiting])
        self._waiting, self.waiting = [], 0
        order = np.lexsort((rows["key"], rows["pair"]))
        pair = rows["pair"][order]
        starts = np.flatnonzero(np.diff(pair, prepend=-1))
        rank = np.arange(len(pair)) - np.repeat(starts, np.diff(starts, append=len(pair)))
        last = order[rank == self.limit - 1]
        self._below[rows["pair"][last]] = rows["key"][last]
        self._kept = rows[order[rank < self.limit]]

    def rows(self, flags: int) -> MatchRows:
        """The matches that were kept, by gap and first frame, all with the same flags."""
        self._drop_surplus()
        kept = self._kept
        number = np.searchsorted(self._first, kept["pair"], side="right") - 1
        frame_i = (kept["pair"] - self._first[number]).astype(np.int32)
        gap = (number + self.gaps.start).astype(np.int32)
        return MatchRows(
            frame_i=frame_i,
            frame_j=frame_i + gap,
            xy_i=kept["xy_i"].copy(),
            xy_j=kept["xy_j"].copy(),
            score=kept["score"].copy(),
            flags=np.full(len(kept), flags, np.uint8),
        )


def _words(random: np.random.Generator, count: int) -> np.ndarray:
    """Random uint32 [count]; calls one after the other give the same as one for all."""
    return (random.integers(0, 2**64, count, dtype=np.uint64) >> np.uint64(32)).astype(np.uint32)
