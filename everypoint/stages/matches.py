"""Stage matches: the flows filtered and drawn into the bounded table that optimisers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.artifacts.flows import FlowStore
from everypoint.artifacts.matches import save_matches
from everypoint.config.options import MatchOptions

VERSION = 1


def run(
    *,
    flow: Sequence[str],
    features: str | None,
    options: Mapping[str, Any],
    seed: int,
    output: str,
    statistics: str,
    device: str,
    threads: int,
) -> None:
    """Write ``matches.npz`` and, as ``filter.json``, what share of the pixels was kept at each gap."""
    from everypoint.features.run import load_features
    from everypoint.match.table import build_matches
    from everypoint.stages.device import prepare

    atomic.sweep_stale(Path(output).parent)
    maps = load_features(features) if features else None
    table, kept = build_matches(
        FlowStore([Path(folder) for folder in flow]),
        maps,
        MatchOptions.model_validate(dict(options)),
        seed,
        prepare(device, threads),
    )
    atomic.write_json(statistics, kept)
    save_matches(output, table)
