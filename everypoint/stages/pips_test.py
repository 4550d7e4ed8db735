"""Stages of the tests of PIPs++: one data set, and the table of all."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.config.options_pips import PipsTestOptions
from everypoint.errors import InputError

VERSION = 1
logger = logging.getLogger(__name__)


def measure(
    *,
    name: str,
    options: Mapping[str, Any],
    memory_gib: float,
    output: str,
    device: str,
    threads: int,
    weights: str | None = None,
) -> None:
    """Metrics of the test set ``name`` (tapvid, crohd, odyssey) as ``output``, JSON.

    ``weights`` are those of another target; else ``options`` names them.
    """
    from everypoint.assets.fetch import locate
    from everypoint.numerics import full_precision
    from everypoint.pips.network import PipsInference
    from everypoint.pips.testing import measure_set, table
    from everypoint.pips.weights import load_network
    from everypoint.stages.device import prepare

    asked = PipsTestOptions.model_validate(dict(options))
    place = prepare(device, threads)
    network = load_network(weights or locate(asked.weights))
    inference = PipsInference(network, place, precision=asked.precision, memory=int(memory_gib * 2**30))
    with full_precision():
        sequences, total = _sequences(name, asked)
        result = measure_set(name, sequences, total, inference, asked)
    if not result["videos"]:
        raise InputError(
            f"the test set {name} holds no video that can be scored", cure="look at the warnings in the log"
        )
    result["weights"] = str(weights or asked.weights)
    result["compat"] = asked.compat
    for line in table(result).splitlines():
        logger.info("%s", line)
    atomic.write_json(output, result)


def _sequences(name: str, options: PipsTestOptions) -> tuple[Any, int | None]:
    """The videos of a test set, and how many there are at most where that is known before."""
    if name == "tapvid":
        from everypoint.assets.datasets import dataset_path
        from everypoint.pips.testing import tapvid_sequences
        from everypoint.video.tapvid import index_of, pickles_of

        path = dataset_path(options.tapvid)
        return tapvid_sequences(path, compat=options.compat), sum(len(index_of(part)) for part in pickles_of(path))
    if name == "crohd":
        from everypoint.pips.data import crohd

        return crohd.sequences(Path(options.crohd).expanduser(), corrected=not options.compat), None
    from everypoint.pips.data import odyssey

    root = Path(options.odyssey).expanduser()
    total = len(odyssey.sequence_folders(root, "test"))
    return odyssey.full_sequences(root, "test", points=options.points), total


def summary(*, results: Sequence[str], output: str, text: str) -> None:
    """All tests as one JSON file and one text table, with the published figures beside."""
    from everypoint.pips.testing import table

    found = [atomic.read_json(path) for path in results]
    if not found:
        raise InputError(
            "no test set of PIPs++ is named", cure="set pips.test.tapvid, pips.test.crohd or pips.test.odyssey"
        )
    shown = "\n\n".join(table(result) for result in found)
    atomic.write_json(output, {result["name"]: result for result in found})
    atomic.write_text(text, shown + "\n")
    for line in shown.splitlines():
        logger.info("%s", line)
