"""Where the optional shared data (real videos, reference vectors) lies; tests that need it skip without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared(name: str) -> Path:
    """The path of a shared file, or a skip that says what is missing."""
    folder = Path(os.environ.get("EVERYPOINT_SHARED", ROOT.parent / "shared"))
    path = folder / name
    if not path.exists():
        pytest.skip(f"shared data {name} is not here (set EVERYPOINT_SHARED)")
    return path
