"""Stage export: the tracks of one video and preset in the format of another program."""

from __future__ import annotations

import logging
from pathlib import Path

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import FolderWriter, sha256_of
from everypoint.artifacts.tracks import load_tracks

VERSION = 1

logger = logging.getLogger(__name__)


def run(*, tracks: str, kind: str, output: str) -> None:
    """Write the folder ``output``: one file a track, or for formats that are one file that file, ``tracks`` by name."""
    from everypoint.report.exports import FORMATS, write

    found, out = load_tracks(tracks), Path(output)
    atomic.sweep_stale(out.parent)
    if FORMATS[kind].per_track:
        written = write(found, out, kind)
    else:
        folder, results = FolderWriter(out, {"format": kind, "tracks": sha256_of(tracks)}), []
        folder.add(f"tracks{FORMATS[kind].suffix}", lambda path: results.append(write(found, path, kind)))
        folder.publish()
        written = results[0]
    logger.info("%d of %d tracks", written.count, written.total)
    if written.count + written.unseen < written.total:
        logger.warning("only %d tracks, evenly chosen; everypoint export has --limit", written.count)
