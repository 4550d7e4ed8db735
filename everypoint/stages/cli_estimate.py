"""``everypoint estimate``: what a run will take, before it starts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CACHE = ".snakemake/everypoint"  # as rules/common.smk, so that the headers of videos are read once


def register(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "estimate",
        help="say how long a run will take and how much disk it needs",
        description="Hours and bytes of each video, by the sizes that headers give; nothing is decoded and nothing "
        "written. Hours are those of the machines that everypoint/stages/costs.py was measured on; see jobs.speed.",
    )
    parser.add_argument("videos", nargs="?", metavar="VIDEOS", help="folder of videos, instead of the one configured")
    parser.add_argument("--methods", nargs="+", metavar="PRESET", help="presets to run, instead of those configured")
    parser.add_argument("--results", metavar="FOLDER", help="where results go (default: as configured)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a configuration to start from")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="where networks and optimisers run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the estimate."""
    from everypoint.stages.cli import keys_of

    print("\n".join(lines_of(keys_of(arguments))))
    return 0


def lines_of(keys: Mapping[str, Any]) -> list[str]:
    """The estimate of a configuration, in lines."""
    from everypoint.stages.estimate import estimate
    from everypoint.stages.plan import make_plan

    return estimate(make_plan(keys, "the configuration", CACHE)).lines
