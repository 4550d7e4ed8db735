"""What made the results: versions of the software and the weights that the presets use, with their licences."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from everypoint import __version__
from everypoint.assets.registry import registry
from everypoint.config.options import Preset

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "opencv-python-headless",
    "imageio-ffmpeg",
    "timm",
    "snakemake",
)


def software_used(presets: Mapping[str, Preset]) -> dict[str, Any]:
    """The ``software`` argument of :func:`everypoint.report.html.write_report` for these presets."""
    return {
        "versions": versions(),
        "weights": weights_used(presets),
        "presets": {name: preset.description for name, preset in presets.items()},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }


def versions() -> list[dict[str, str]]:
    """Name, version and licence of Python and of the packages that shape the result, where installed."""
    rows = [{"name": "everypoint", "version": __version__, "licence": "MIT"}]
    rows += [{"name": "Python", "version": platform.python_version(), "licence": "PSF-2.0"}]
    for name in PACKAGES:
        try:
            found = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        rows.append({"name": name, "version": str(found["Version"]), "licence": _licence(found)})
    return rows


def _licence(found: Any) -> str:  # an email.message.Message
    """The licence a package states: its SPDX expression, its classifier, or a short licence field."""
    stated = found.get("License-Expression")
    if stated:
        return str(stated)
    classifiers = [text for text in found.get_all("Classifier") or [] if text.startswith("License ::")]
    if classifiers:
        return classifiers[0].rsplit(" :: ", 1)[-1]
    text = str(found.get("License") or "")
    return text if len(text) < 40 and "\n" not in text else ""


def weights_used(presets: Mapping[str, Preset]) -> list[dict[str, str]]:
    """One row a weight file: name, licence, sha256, note, and what uses it (``chain: flow; cpu: flow, features``)."""
    uses: dict[str, dict[str, list[str]]] = {}
    for name, preset in presets.items():
        for weights, stage in _weights_of(preset):
            uses.setdefault(weights, {}).setdefault(name, []).append(stage)
    return [_weight_row(weights, used) for weights, used in uses.items()]


def _weights_of(preset: Preset) -> Iterator[tuple[str, str]]:
    """Pairs (weight file, stage that uses it) of a preset."""
    if preset.flow.backend == "raft" and preset.uses_flow:
        yield preset.flow.weights, "flow"
        if preset.flow.rival:
            yield preset.flow.rival, "flow"
    if preset.uses_features and preset.features.weights_or_default:
        yield preset.features.weights_or_default, "features"
    if preset.tracker == "cotracker":
        yield preset.cotracker.weights_or_default, "tracks"
    if preset.tracker == "pips2":
        yield preset.pips.weights, "tracks"
    if preset.tracker != "optimize":
        return
    used = preset.matches.depth_mask or preset.model.kind in ("pixels", "cadex")  # by the filter, or as a prior
    if used and preset.depth.weights_or_default:
        yield preset.depth.weights_or_default, "depth"
    own = {
        "mutual": preset.sparse.mutual.features.weights_or_default,
        "xfeat": preset.sparse.xfeat.weights,
        "cotracker": preset.cotracker.weights_or_default,
    }
    for source in preset.sparse.sources:
        if own.get(source):
            yield own[source], source


def _weight_row(weights: str, used: Mapping[str, list[str]]) -> dict[str, str]:
    row = {"used_by": "; ".join(f"{preset}: {', '.join(stages)}" for preset, stages in used.items())}
    asset = registry().get(weights)
    if asset is None:  # a file of the user's own
        return row | {"name": Path(weights).name, "licence": "not known: your own file", "sha256": "", "note": ""}
    known = {"name": asset.name, "licence": asset.licence, "sha256": asset.sha256 or "", "note": asset.note or ""}
    return row | known
