"""Checkpoints: written atomically with their hash, two kept, the newest whole one is loaded.

A run whose fingerprint differs (other options, other matches) starts afresh.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import sha256_of
from everypoint.errors import ArtifactError

logger = logging.getLogger(__name__)
KEEP = 2


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: str | os.PathLike[str], fingerprint: str) -> None:
        self.folder, self.fingerprint = Path(folder), fingerprint
        self._useless: list[Path] = []  # notes of damaged and foreign checkpoints, removed at the next save

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after ``step`` steps; only then remove all but the newest two whole ones."""
        path = self.folder / f"checkpoint-{step:08d}.pt"
        atomic.write_with(path, lambda file: torch.save({"step": step, **state}, file))
        note = path.with_suffix(".json")
        atomic.write_json(note, {"fingerprint": self.fingerprint, "sha256": sha256_of(path), "step": step})
        old = [other for other in self._useless if other != note]
        for other in old + [other for other in self._newest_first() if other not in old][KEEP:]:
            other.with_suffix(".pt").unlink(missing_ok=True)
            other.unlink(missing_ok=True)
        self._useless = []
        return path

    def load(self) -> dict[str, Any] | None:
        """The newest whole checkpoint of this run, or None."""
        self._useless, passed_over = [], ""
        for note in self._newest_first():
            path = note.with_suffix(".pt")
            try:
                state = self._read(path, atomic.read_json(note))
            except (ArtifactError, OSError, KeyError, TypeError) as error:
                passed_over += f"cannot use {path}: {error} "
                self._useless.append(note)
                continue
            if state is not None:
                if passed_over:
                    logger.warning("%sGoing on from the one before, %s", passed_over, path)
                return state
            logger.info("%s belongs to other options or matches", path)
            self._useless.append(note)
        if passed_over:
            logger.warning("%sNo other is left: starting afresh", passed_over)
        return None

    def _read(self, path: Path, note: dict[str, Any]) -> dict[str, Any] | None:
        """The state in a checkpoint; None when it is another run's."""
        if note["fingerprint"] != self.fingerprint:
            return None
        if sha256_of(path) != note["sha256"]:
            raise ArtifactError(f"{path.name} is damaged", "its hash differs")
        return torch.load(path, map_location="cpu", weights_only=True)

    def clear(self) -> None:
        """Remove all checkpoints (the run is finished)."""
        if self.folder.exists():
            for path in self.folder.glob("*checkpoint-*"):
                path.unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.json"), reverse=True)


class Stop:
    """Whether somebody asked this process to stop."""

    asked = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Let SIGTERM, SIGUSR1 and SIGINT (Ctrl-C) ask for a stop; the handlers before are put back."""
    stop = Stop()

    def ask(*_: object) -> None:
        stop.asked = True

    asking = signal.SIGTERM, signal.SIGUSR1, signal.SIGINT
    try:
        before = {number: signal.signal(number, ask) for number in asking}
    except ValueError:  # not in the main thread: signals are somebody else's
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
