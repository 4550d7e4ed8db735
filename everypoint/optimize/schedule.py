"""Learning rates as functions of the step alone, so that a resumed run finds its place."""

from __future__ import annotations

import math


def rate(step: int, steps: int, warmup: int, final: float) -> float:
    """Multiplier of the learning rate at ``step`` (0-based): linear warm-up, then a cosine down to ``final``."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    fall = 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))
    return rise * (final + (1 - final) * fall)
