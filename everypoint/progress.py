"""Progress of long loops: a bar on a terminal, one line a minute in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

LOG_SECONDS = 60.0


class Progress:
    """Count finished items of a loop and say how long the rest will take.

    On a terminal a tqdm bar is drawn on stderr. Elsewhere a line goes to ``logger`` at most every ``LOG_SECONDS``
    seconds and once at the end. Items that were found finished (``skipped``) do not enter the estimate.

    Args:
        total: number of items.
        label: what is done, with the name of the video where it is known.
        unit: what an item is, in the plural.
        skipped: items finished before this run.
        clock: seconds that never go back; for tests.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        unit: str = "items",
        skipped: int = 0,
        logger: logging.Logger | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done, self._skipped = total, skipped, skipped
        self._label, self._unit, self._clock = label, unit, clock
        self._logger = logger or logging.getLogger(__name__)
        self._started = self._spoken = clock()
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=skipped, desc=label, unit=f" {unit}")

    def advance(self, count: int = 1) -> None:
        """Note ``count`` more finished items."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._clock() - self._spoken >= LOG_SECONDS:
            self._spoken = self._clock()
            self._logger.info("%s", self.line())

    def line(self) -> str:
        """One line: what, how much of how much, elapsed and remaining time."""
        elapsed = self._clock() - self._started
        fresh = self.done - self._skipped
        rest = duration(elapsed / fresh * (self.total - self.done)) if fresh else "unknown"
        share = 100 * self.done // max(self.total, 1)
        return f"{self._label}: {self.done} of {self.total} {self._unit} ({share} %), {duration(elapsed)}, {rest} left"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            spent = duration(self._clock() - self._started)
            self._logger.info("%s: %d %s in %s", self._label, self.done, self._unit, spent)


def duration(seconds: float) -> str:
    """Seconds as a short text: 7 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
