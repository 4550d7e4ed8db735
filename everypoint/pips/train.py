"""The training loop of PIPs++: steps, validation, log, checkpoints.

Everything that the next step depends on is in the checkpoint, and samples follow from the seed and their number, so a
run that was killed and resumed ends in the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from everypoint.artifacts import atomic
from everypoint.artifacts.checkpoint import Checkpoints, stop_signals
from everypoint.errors import EXIT_TRY_AGAIN, TrainingError
from everypoint.pips.clip import Clip
from everypoint.pips.train_data import Batch, Samples, batches
from everypoint.pips.train_log import Board, Pools, parameter_table, run_name, step_line
from everypoint.pips.trainer import PipsTrainer, Stepped

logger = logging.getLogger(__name__)


class Training:
    """One run in one folder: ``checkpoints/``, ``events/NAME/{t,v}/``, ``train.jsonl`` and at its end the model.

    Args:
        trainer: network, optimiser and schedule.
        samples: what it learns from.
        validation: functions that read the clips it is measured on, always the same; none: no validation.
        folder: where it writes; all processes read checkpoints there, the first one writes.
        fingerprint: of all that the result depends on; checkpoints of another one are not gone on from.
        tensorboard: whether events are written.
    """

    def __init__(
        self,
        trainer: PipsTrainer,
        samples: Samples,
        validation: Sequence[Callable[[], Clip]],
        folder: Path,
        fingerprint: str,
        *,
        tensorboard: bool = True,
    ) -> None:
        self.trainer, self.samples, self.validation, self.folder = trainer, samples, validation, folder
        self.options, self.ranks = trainer.options, trainer.ranks
        self._checkpoints = Checkpoints(folder / "checkpoints", fingerprint)
        self._tensorboard = tensorboard
        self._board: Board | None = None
        self._pools = Pools()
        self._rows: list[dict[str, Any]] = []
        self._name = run_name(self.options)

    def run(self) -> Path:
        """All steps that are left; returns the model, ``model-{steps:09d}.pth`` in the published layout.

        Raises :class:`TrainingError` when loss or weights are not finite (the last good checkpoint stays), and
        SystemExit with ``EXIT_TRY_AGAIN`` after SIGTERM, SIGUSR1 or SIGINT, once a checkpoint is written.
        """
        done = self._resume()
        if self.ranks.is_first:
            logger.info("model_name %s", self._name)
            logger.info("%s", parameter_table(self.trainer.network))
            if self._tensorboard:
                self._board = Board(self.folder / "events" / self._name, done)
        try:
            with stop_signals() as stop:
                self._steps(done, stop)
            if not self.trainer.is_finite():
                raise self._diverged(self.options.steps)
            return self._finish()
        finally:
            if self._board is not None:
                self._board.close()

    def _steps(self, done: int, stop: Any) -> None:
        options, saved = self.options, time.monotonic()
        reading = self._reading(done)
        timed = _Timed(reading)
        for step in range(done + 1, options.steps + 1):
            started, timed.seconds = time.monotonic(), 0.0
            rate = self.trainer.learning_rate
            found = self.trainer.step(timed)
            if not math.isfinite(found.loss):
                raise self._diverged(step)
            validates = step % options.validate_every == 0 or step == options.steps
            valued = self.trainer.validate(self.validation) if self.validation and validates else None
            self._note(step, found, valued, rate)
            if self.ranks.is_first:
                line = step_line(
                    self._name,
                    step,
                    options.steps,
                    read=timed.seconds,
                    iteration=time.monotonic() - started,
                    loss=found.loss,
                    pools=self._pools,
                    validates=bool(self.validation),
                )
                logger.info("%s", line)
            # The clocks of several processes differ: the first one's decides when to save.
            late = self.ranks.is_first and time.monotonic() - saved > options.checkpoint_seconds
            asked = self.ranks.any(stop.asked, self.trainer.device)
            if asked or self.ranks.any(late, self.trainer.device):
                self._save(step)
                saved = time.monotonic()
            if asked and step < options.steps:
                raise SystemExit(EXIT_TRY_AGAIN)

    def _reading(self, done: int) -> Iterator[Batch]:
        more = self.options.accumulate
        return batches(
            self.samples,
            done * more,
            self.options.steps * more,
            rank=self.ranks.rank,
            world=self.ranks.world,
            workers=self.options.workers,
        )

    def _note(
        self,
        step: int,
        found: Stepped,
        valued: tuple[dict[str, float], tuple[Clip, Any] | None] | None,
        rate: float,
    ) -> None:
        """Pools, row, TensorBoard."""
        self._pools.add("t", {"loss": found.loss, **found.measures})
        row = {"step": step, "loss": found.loss, "d_t": found.measures["d_avg"], "learning_rate": rate}
        if valued is not None:
            self._pools.add("v", valued[0])
            row |= {f"v_{name}": value for name, value in valued[0].items()}
        self._rows.append({name: value if math.isfinite(value) else None for name, value in row.items()})
        if self._board is None:
            return
        means = self._pools.means("t")
        loss = means.pop("loss")
        self._board.scalars("t", step, {"loss": loss, "current_lr": rate, **means})
        pictured = step % self.options.log_every == 0
        if pictured:
            self._board.picture("t", step, found.clip, found.estimate)
        if valued is not None:
            self._board.scalars("v", step, self._pools.means("v"))
            if valued[1] is not None and (pictured or step == self.options.steps):
                self._board.picture("v", step, *valued[1])

    def _resume(self) -> int:
        state = self._checkpoints.load()
        if state is None:
            return 0
        self.trainer.load_state(state)
        self._pools, self._rows, self._name = Pools(state["pools"]), state["rows"], state["name"]
        logger.info("resumed after step %d of %d", state["step"], self.options.steps)
        return state["step"]

    def _save(self, step: int) -> None:
        """A checkpoint, only of weights that are finite; the others wait until it is written."""
        if not self.trainer.is_finite():
            raise self._diverged(step)
        if self.ranks.is_first:
            state = {**self.trainer.state(), "pools": self._pools.state(), "rows": self._rows, "name": self._name}
            logger.info("saved a checkpoint: %s", self._checkpoints.save(step, state))
            self._write_rows()
        self.ranks.barrier()

    def _finish(self) -> Path:
        path = self.folder / f"model-{self.options.steps:09d}.pth"
        if self.ranks.is_first:
            atomic.write_with(path, lambda file: torch.save(self.trainer.state(), file))
            self._write_rows()
            self._checkpoints.clear()
            logger.info("saved a checkpoint: %s", path)
        self.ranks.barrier()
        return path

    def _write_rows(self) -> None:
        lines = (json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in self._rows)
        atomic.write_text(self.folder / "train.jsonl", "".join(lines))

    def _diverged(self, step: int) -> TrainingError:
        return TrainingError(
            f"the training of PIPs++ is not finite around step {step}",
            "it diverged",
            "lower learning_rate; the last good checkpoint is kept",
        )


class _Timed:
    """Batches, and the seconds that were waited for them."""

    def __init__(self, inner: Iterator[Batch]) -> None:
        self._inner, self.seconds = inner, 0.0

    def __iter__(self) -> _Timed:
        return self

    def __next__(self) -> Batch:
        started = time.monotonic()
        try:
            return next(self._inner)
        finally:
            self.seconds += time.monotonic() - started
