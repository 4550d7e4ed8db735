"""Stages of the export of training clips: its index, the clips of one shard, and what came of all."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.config.options_export import ExportOptions
from everypoint.stages.shards import shard_of, shard_range

VERSION = 1

log = logging.getLogger(__name__)


def index(*, options: Mapping[str, Any], seed: int, output: str) -> None:
    """List the sequences and count the clips; ``output`` is ``index.json`` in the export's folder."""
    from everypoint.pips.data.export import write_index

    made = write_index(Path(output).parent, ExportOptions.model_validate(dict(options)), seed)
    log.info("%d clips of %d sequences", made["clips"], len(made["sequences"]))


def clips(*, index: str, shard: str, output: str) -> None:
    """Make the clips of one shard (``2of8``) that are not there yet, and count them in ``output``."""
    from everypoint.pips.data.export import export_clips, open_export

    export = open_export(Path(index).parent)
    atomic.write_json(output, export_clips(export, shard_range(len(export.windows), *shard_of(shard))))


def summary(*, shards: Sequence[str], output: str) -> None:
    """Add up the shards: how many clips there are, and why the others are not."""
    from everypoint.pips.data.pipeline import REASONS

    counts = [atomic.read_json(shard) for shard in shards]
    failed = Counter[str]()
    for count in counts:
        failed.update(count["failed"])
    unreadable = [text for count in counts for text in count["unreadable"]]
    total, made = (sum(count[name] for count in counts) for name in ("total", "clips"))
    atomic.write_json(output, {"total": total, "clips": made, "failed": dict(failed), "unreadable": unreadable})
    log.info("%d of %d windows gave a clip", made, total)
    for name, text in REASONS.items():
        if failed[name]:
            log.info("%6d %s", failed[name], text)
    for text in dict.fromkeys(unreadable):
        log.warning("%s", text)
