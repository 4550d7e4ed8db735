"""What a run says of itself: rows for train.jsonl, TensorBoard scalars, a bar on a terminal or a line a minute."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everypoint.artifacts import atomic
from everypoint.optimize.pictures import Pictures

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 60.0


class Progress:
    """Collects rows; ``flush`` writes them. Rows come back from a checkpoint, so the file is whole after a resume."""

    def __init__(
        self, folder: Path, steps: int, *, tensorboard: bool, title: str, pictures: Pictures | None = None
    ) -> None:
        self.path, self.steps, self.title = folder / "train.jsonl", steps, title
        self.rows: list[dict[str, Any]] = []
        self._pictures = pictures
        self._events = folder / "events" if tensorboard else None
        self._writer: Any = None
        self._bar: Any = None
        self._started = self._said = time.monotonic()
        self._first_step = 0

    def start(self, step: int, rows: list[dict[str, Any]]) -> None:
        self.rows, self._first_step = list(rows), step
        self._started = self._said = time.monotonic()
        if self._events is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow import, only when asked for

            self._writer = SummaryWriter(str(self._events), purge_step=step)
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.steps, initial=step, desc=self.title, unit="step")

    def row(self, row: dict[str, Any]) -> None:
        """Note one row {"step": ..., ...}; numbers become scalars."""
        self.rows.append(row)
        if self._writer is not None:
            for name, value in row.items():
                if name != "step":
                    self._writer.add_scalar(name, value, row["step"])
        if self._bar is not None:
            self._bar.update(row["step"] - self._bar.n)
            self._bar.set_postfix(error=f"{row['error']:.2f}px")
        elif time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            pace = (self._said - self._started) / max(row["step"] - self._first_step, 1)
            left = (self.steps - row["step"]) * pace
            message = "%s: step %d of %d, median error %.2f px, %.0f s left"
            logger.info(message, self.title, row["step"], self.steps, row["error"], left)

    def show(self, model: nn.Module, row: dict[str, Any]) -> None:
        """Draw pictures of the model beside a row, when TensorBoard is on and they keep their share of the time."""
        if self._writer is None or self._pictures is None or not self._pictures.due(row["seconds"]):
            return
        for name, picture in self._pictures.make(model).items():
            self._writer.add_image(name, picture, row["step"], dataformats="HWC")

    def flush(self) -> None:
        lines = (json.dumps(_without_nan(row), sort_keys=True, allow_nan=False) + "\n" for row in self.rows)
        atomic.write_text(self.path, "".join(lines))
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        self.flush()
        if self._writer is not None:
            self._writer.close()
        if self._bar is not None:
            self._bar.close()


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """NaN (no held-out matches, say) as null, so that every reader accepts the file."""
    return {name: value if math.isfinite(value) else None for name, value in row.items()}
