"""How many matches of a pair are kept, so that the table stays within its budget."""

from __future__ import annotations

from everypoint.config.options import MatchOptions

ROW_BYTES = 11  # of the table: two points of 2 x uint16, flags uint8, score float16


def rows_per_pair(options: MatchOptions, pairs: int, taken: int = 0) -> int:
    """K of the reservoir: ``per_pair``, or less when ``pairs`` of them would exceed ``budget_mb``.

    Args:
        options: ``per_pair`` and ``budget_mb`` (1 MB = 10^6 bytes).
        pairs: number of ordered pairs.
        taken: rows that other sources hold already.
    """
    room = int(options.budget_mb * 1e6) - taken * ROW_BYTES
    return max(1, min(options.per_pair, room // (ROW_BYTES * max(pairs, 1))))
