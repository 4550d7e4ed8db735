"""Do the count maps and flow statistics of a processed folder agree with its masks?

They are sums over the masks, so that a difference tells of masks (and most likely flows) of another run than the rest:
half overwritten by chaining, filtered again with other thresholds, or copied from elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from everypoint.errors import InputError
from everypoint.video.processed_folder import COUNTS, MASKS, STATS, ProcessedFolder, read_bits, read_counts

logger = logging.getLogger(__name__)


class StatisticsCheck:
    """Compares masks, as they are read, with what the folder says of them, and warns of the first difference.

    A source frame's count map is compared when the masks of all of its targets on disk were read.

    Attributes:
        first: the first difference in words; empty while there is none.
    """

    def __init__(self, folder: ProcessedFolder) -> None:
        self._folder, self._stats = folder, folder.statistics() or {}
        self._sums: dict[int, np.ndarray] = {}
        self.first = ""

    def add(self, source: int, target: int, bits: np.ndarray) -> None:
        """The mask bool [H, W, C] of a pair. All masks of a source come before :meth:`finish` for it."""
        per_pixel = bits.sum(axis=-1, dtype=np.uint16)
        total = self._sums.get(source, np.zeros_like(per_pixel))
        a, b = self._folder.names[source], self._folder.names[target]
        said, found = self._stats.get(a, {}).get(b), int(per_pixel.sum())
        if said is not None and said != found:
            self._warn(f"{STATS} says {said} set entries for {a}, {b} and {MASKS} has {found}")
        if total.shape == per_pixel.shape:
            self._sums = {source: total + per_pixel}
        else:
            self._warn(f"the mask of {a}, {b} is {per_pixel.shape}, those before it {total.shape}")

    def finish(self, source: int, targets: Sequence[int]) -> None:
        """The masks of ``targets`` were all that is wanted of ``source``."""
        total = self._sums.pop(source, None)
        path = self._folder.frame_file(COUNTS, source, ".png")
        if total is not None and path is not None and not self._others(source, targets):
            difference = _difference(path, total, self._folder.names[source])
            if difference:
                self._warn(difference)

    def _others(self, source: int, targets: Sequence[int]) -> bool:
        """Whether the source has masks besides those of the targets."""
        names, read = self._folder.names, {self._folder.names[target] for target in targets}
        others = (name for name in self._folder.images if name not in read)
        return any(self._folder.pair_file(MASKS, names[source], name, ".png") for name in others)

    def _warn(self, difference: str) -> None:
        if not self.first:
            self.first = difference
            logger.warning("%s: %s; its masks are used as they are", self._folder.place, difference)


def _difference(path: Path, total: np.ndarray, name: str) -> str:
    """Where a count map says something else than the sum of the masks; '' where they agree."""
    try:
        counts = read_counts(path)
    except InputError as error:
        return error.sentence().rstrip(".")
    if counts.shape != total.shape:
        return f"the count map of {name} is {counts.shape}, its masks are {total.shape}"
    if (counts == total).all():
        return ""
    y, x = np.argwhere(counts != total)[0]
    return f"the count map of {name} says {counts[y, x]} at x {x}, y {y} and {MASKS} have {total[y, x]}"


def check_statistics(folder: ProcessedFolder) -> str:
    """Read all masks between working frames; the first difference to the folder's statistics, or '' for none."""
    check = StatisticsCheck(folder)
    frames = range(len(folder.names))
    for source in frames:
        files = {j: folder.pair_file(MASKS, folder.names[source], folder.names[j], ".png") for j in frames}
        there = {j: path for j, path in files.items() if path is not None}
        for target, path in there.items():
            check.add(source, target, read_bits(path))
        check.finish(source, list(there))
    return check.first
