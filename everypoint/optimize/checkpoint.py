"""Checkpoints: written atomically with their hash, two kept, the newest whole one is loaded.

A run whose fingerprint differs (other options, other matches) starts afresh.
"""

from __future__ import annotations

import logging
import os
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

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after ``step`` steps; only then remove all but the newest two."""
        path = self.folder / f"checkpoint-{step:08d}.pt"
        atomic.write_with(path, lambda file: torch.save({"step": step, **state}, file))
        note = {"fingerprint": self.fingerprint, "sha256": sha256_of(path), "step": step}
        atomic.write_json(path.with_suffix(".json"), note)
        for old in self._newest_first()[KEEP:]:
            old.with_suffix(".pt").unlink(missing_ok=True)
            old.unlink()
        return path

    def load(self) -> dict[str, Any] | None:
        """The newest whole checkpoint of this run, or None."""
        for note_path in self._newest_first():
            path = note_path.with_suffix(".pt")
            try:
                note = atomic.read_json(note_path)
                if note["fingerprint"] != self.fingerprint:
                    logger.info("%s belongs to other options or matches: starting afresh", path)
                    return None
                if sha256_of(path) != note["sha256"]:
                    raise ArtifactError(f"{path} is damaged", "its hash differs")
                return torch.load(path, map_location="cpu", weights_only=True)
            except (ArtifactError, OSError, KeyError, TypeError) as error:
                logger.warning("cannot use %s (%s); trying the checkpoint before it", path, error)
        return None

    def clear(self) -> None:
        """Remove all checkpoints (the run is finished)."""
        if self.folder.exists():
            for path in self.folder.glob("*checkpoint-*"):
                path.unlink(missing_ok=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*.json"), reverse=True)
