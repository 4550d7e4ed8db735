"""``everypoint export``: tracks for compositors and other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

# As everypoint/report/exports.py has them, which is imported when the command runs.
LIMIT = 500
FORMATS = ("nuke", "after-effects", "blender", "csv", "tapvid")


def register(subparsers: argparse._SubParsersAction) -> None:
    """Add the command ``export``."""
    parser = subparsers.add_parser(
        "export",
        help="write tracks for Nuke, After Effects or Blender",
        description="Write a tracks.npz in the format of another program. nuke and after-effects: a folder with one "
        "text file a track; blender: a script; csv: a table; tapvid: an npz with points and occluded.",
    )
    parser.add_argument("tracks", type=Path, metavar="TRACKS", help="tracks.npz of everypoint")
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to write; for nuke and after-effects a folder")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument(
        "--first",
        type=int,
        metavar="N",
        help="number of the video's first frame there (default 1 for nuke and blender, 0 for after-effects)",
    )
    parser.add_argument(
        "--limit", type=int, default=LIMIT, metavar="N", help=f"most tracks of a compositor's format (default {LIMIT})"
    )
    parser.add_argument("--ids", nargs="+", default=[], metavar="ID", help="only the tracks of these queries")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write and say what was written. Raises :class:`everypoint.errors.EverypointError`."""
    from everypoint.artifacts.tracks import load_tracks
    from everypoint.errors import InputError
    from everypoint.report import exports

    if arguments.limit < 1:
        raise InputError(f"--limit {arguments.limit} leaves nothing", cure="give 1 or more")
    if arguments.first is not None and exports.FORMATS[arguments.format].first is None:
        raise InputError(f"--first says nothing about {arguments.format}", "its frames count from 0", "leave it away")
    tracks = exports.chosen(load_tracks(arguments.tracks), arguments.ids)
    written = exports.write(tracks, arguments.out, arguments.format, first=arguments.first, limit=arguments.limit)
    print(f"{arguments.out}: {sentence(written)}")
    return 0


def sentence(written: tuple[int, int, int]) -> str:
    """What an export holds and what it leaves out, in words."""
    count, total, unseen = written
    text = f"{count} of {total} tracks" if count < total else f"{count} tracks"
    if unseen:
        text += f", {unseen} are never visible"
    left = total - unseen
    return text + (f"; evenly chosen, --limit {left} writes all" if count < left else "")
