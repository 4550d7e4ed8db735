"""``python -m everypoint assets list | fetch | verify | kinetics``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from everypoint.errors import AssetError, EverypointError

if TYPE_CHECKING:
    from everypoint.assets.registry import Asset


def register(subparsers: argparse._SubParsersAction) -> None:
    """Add the command ``assets``; each action is ``run(arguments) -> exit code``."""
    parser = subparsers.add_parser("assets", help="weights, clips and data sets: list, fetch, verify")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--folder", type=Path, help="cache folder (default: $EVERYPOINT_ASSETS or ~/.cache/everypoint)")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser("list", parents=[common], help="all assets, their licences, and which are cached")
    listing.set_defaults(run=run_list)

    fetching = actions.add_parser("fetch", parents=[common], help="bring assets into the cache")
    fetching.add_argument("names", nargs="+", metavar="NAME")
    fetching.add_argument("--accept-licence", action="store_true", help="agree to licences that limit the use")
    fetching.set_defaults(run=run_fetch)

    verifying = actions.add_parser("verify", parents=[common], help="hash cached assets again; fails on damage")
    verifying.add_argument("names", nargs="*", metavar="NAME", help="default: all that are cached")
    verifying.set_defaults(run=run_verify)

    kinetics = actions.add_parser(
        "kinetics", parents=[common], help="a folder of TAP-Vid-Kinetics clips as annotated videos"
    )
    kinetics.add_argument("clips", type=Path, metavar="CLIPS", help="folder of {id}_{start:06}_{end:06}.mp4")
    kinetics.add_argument("output", type=Path, metavar="OUTPUT", help="folder to fill, for `videos: OUTPUT`")
    kinetics.add_argument("--csv", type=Path, help="the official table (default: fetched)")
    kinetics.set_defaults(run=run_kinetics)


def run_list(arguments: argparse.Namespace) -> int:
    """Print the table of assets."""
    from everypoint.assets import cache
    from everypoint.assets.registry import registry

    rows = [("NAME", "KIND", "MB", "LICENCE", "CACHED")]
    for item in registry().values():
        size, state = _state(item, arguments.folder)
        licence = item.licence + (" (ask)" if item.needs_acceptance else "")
        rows.append((item.name, item.kind, f"{size / 1e6:.1f}" if size else "?", licence, state))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        name, kind, size, licence, state = row
        print(f"{name:{widths[0]}}  {kind:{widths[1]}}  {size:>{widths[2]}}  {licence:{widths[3]}}  {state}")
    print(f"\nThe cache is {cache.cache_folder(arguments.folder)}.")
    if any(item.needs_acceptance for item in registry().values()):
        print("(ask): the licence limits the use; fetched only with --accept-licence.")
    return 0


def _state(item: Asset, folder: Path | None) -> tuple[int | None, str]:
    """(bytes where known, "yes" | "no" | "damaged") by size alone; ``verify`` looks at every byte."""
    from everypoint.assets import cache

    path = cache.cache_path(item, folder)
    if not path.is_file():
        return item.bytes, "no"
    size = path.stat().st_size
    try:
        cache.check_size(item, size, cache.read_record(path), item.name)
    except AssetError:
        return item.bytes, "damaged"
    return size, "yes"


def run_fetch(arguments: argparse.Namespace) -> int:
    """Fetch each name; the others go on when one fails, and the exit code says so."""
    from everypoint.assets.fetch import fetch_asset
    from everypoint.assets.registry import asset

    _show_progress()
    failed = 0
    for name in arguments.names:
        try:
            item = asset(name)
            path = fetch_asset(item, arguments.folder, accept_licence=arguments.accept_licence)
        except EverypointError as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        print(f"{name}: {path} ({path.stat().st_size / 1e6:.1f} MB, {item.licence})")
    return 1 if failed else 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Hash assets again: all that are cached, or those named, which must be there."""
    from everypoint.assets import cache
    from everypoint.assets.registry import asset, registry

    items = [asset(name) for name in arguments.names] or list(registry().values())
    checked, faults = 0, 0
    for item in items:
        path = cache.cache_path(item, arguments.folder)
        try:
            found = cache.is_cached(item, path, deep=True)
        except AssetError as error:
            print(error, file=sys.stderr)
            faults += 1
            continue
        if found:
            checked += 1
            print(f"{item.name}: right, sha256 {cache.read_record(path).get('sha256', 'of the registry')}")
        elif arguments.names:
            print(f"{item.name}: not in the cache ({path}).", file=sys.stderr)
            faults += 1
    print(f"{checked} right, {faults} missing or damaged, in {cache.cache_folder(arguments.folder)}.")
    return 1 if faults else 0


def run_kinetics(arguments: argparse.Namespace) -> int:
    """Build the folder of annotated Kinetics clips."""
    from everypoint.assets.datasets import build_kinetics, kinetics_csv

    _show_progress()
    table = arguments.csv or kinetics_csv(arguments.folder)
    index = build_kinetics(table, arguments.clips, arguments.output)
    print(f"{index.summary()}. Use `videos: {arguments.output}`.")
    return 1 if index.failed else 0


def _show_progress() -> None:
    """Let the library's progress and licence lines appear on the terminal."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("everypoint.assets").setLevel(logging.INFO)
