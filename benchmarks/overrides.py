"""What the benchmarks of whole runs share: overrides on their command lines, and the time of an optimisation."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from everypoint.config.load import deep_merge


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """The argument ``--overrides``."""
    parser.add_argument(
        "--overrides",
        nargs="*",
        default=[],
        metavar="YAML",
        help="as overrides: in the configuration; files or text, later ones on top of earlier ones",
    )


def read_overrides(given: list[str], methods: list[str]) -> dict[str, Any]:
    """What is given, merged; presets that do not run are left out."""
    merged: dict[str, Any] = {}
    for one in given:
        text = Path(one).read_text(encoding="utf-8") if one.endswith((".yaml", ".yml")) else one
        merged = deep_merge(merged, yaml.safe_load(text) or {})
    return {name: options for name, options in merged.items() if name in ("all", *methods)}


def training_seconds(video: Path, method: str) -> str:
    """Seconds that the optimisation of a video took, all tries together; empty for presets without one."""
    path = video / "optimize" / method / "train.jsonl"
    if not path.exists():
        return ""
    return f"{json.loads(path.read_text().splitlines()[-1])['seconds']:.0f}"
