"""What the plan remembers between runs: small files of JSON that may be lost, or not writable, at any time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.errors import ArtifactError, EverypointError

logger = logging.getLogger(__name__)


def recall(cache: Path) -> Any:
    """What was remembered; None where the file is not there yet or is no JSON. Its shape is the caller's to check."""
    try:
        return atomic.read_json(cache)
    except ArtifactError:
        return None


def remember(cache: Path, value: Any, what: str) -> bool:
    """Write ``value``; whether that went well. Where it does not, a warning says that ``what`` is not remembered."""
    try:
        atomic.write_json(cache, value)
    except (EverypointError, OSError, UnicodeEncodeError) as error:  # names may hold bytes that are no text
        logger.warning("%s not remembered: %s", what, error)
        return False
    return True
