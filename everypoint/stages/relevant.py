"""Which options a stage's result depends on, and the short key under which presets share a stage.

Only these options are parameters of a job: a batch size or a seldom used knob of another back-end changes no result,
so changing it must redo nothing.
"""

from __future__ import annotations

from typing import Any

from everypoint.artifacts.folder import fingerprint_of
from everypoint.config.options import FlowOptions, PairOptions, Preset

_RUNTIME = {"flow": ("batch", "shards"), "optimize": ("checkpoint_seconds", "log_every", "tensorboard")}
_ONLY = {
    "dis": ("weights", "iterations", "batch"),  # keys of the other back-ends, which dis ignores
    "raft": ("quality",),
}


def pairs(options: PairOptions) -> dict[str, Any]:
    """The pair plan without the keys of other plans."""
    value = options.model_dump(mode="json")
    unused = {"exhaustive": ("window", "intervals"), "window": ("intervals",), "intervals": ("window",)}
    return {key: item for key, item in value.items() if key not in unused[options.plan]}


def flow(options: FlowOptions) -> dict[str, Any]:
    """What the flows depend on."""
    value = options.model_dump(mode="json")
    unused = (*_RUNTIME["flow"], *_ONLY.get(options.backend, ()))
    return {key: item for key, item in value.items() if key not in unused} | {"pairs": pairs(options.pairs)}


def features(preset: Preset) -> dict[str, Any] | None:
    """What the feature maps depend on; None when the preset uses none."""
    return None if preset.features.backend == "none" else preset.features.model_dump(mode="json")


def matches(preset: Preset) -> dict[str, Any]:
    """What the filter and the reservoir depend on, besides flows and features."""
    return preset.matches.model_dump(mode="json")


def optimize(preset: Preset) -> dict[str, Any]:
    """The part of an optimising preset that its model depends on, itself a valid preset."""
    value = {
        key: item for key, item in preset.optimize.model_dump(mode="json").items() if key not in _RUNTIME["optimize"]
    }
    return _header(preset) | {"model": preset.model.model_dump(mode="json"), "optimize": value}


def tracks(preset: Preset) -> dict[str, Any]:
    """The part of a preset that its read-out depends on, besides the files it reads; itself a valid preset."""
    chain, readout = preset.chain.model_dump(mode="json"), preset.readout.model_dump(mode="json")
    if preset.tracker == "chain":
        return _header(preset) | {"chain": {"cycle_threshold": chain["cycle_threshold"]}}
    if preset.tracker == "chain-multi":
        return _header(preset) | {"chain": chain}
    return _header(preset) | {"readout": readout} | ({"chain": chain} if preset.readout.fuse else {})


def reported(preset: Preset) -> dict[str, Any]:
    """What the report says of a preset; itself a valid preset."""
    value = preset.model_dump(mode="json")
    return {**value, "flow": flow(preset.flow), "optimize": optimize(preset)["optimize"]}


def runtime(presets: dict[str, Preset]) -> dict[str, Any]:
    """What jobs need to know but their results do not depend on: by flow key and by preset."""
    batches = {flow_key(preset): {"batch": preset.flow.batch} for preset in presets.values()}
    knobs = {
        name: {key: getattr(preset.optimize, key) for key in _RUNTIME["optimize"]} for name, preset in presets.items()
    }
    return {"flow": batches, "optimize": knobs}


def _header(preset: Preset) -> dict[str, Any]:
    return {"description": preset.tracker, "tracker": preset.tracker}


def _key(backend: str, value: Any) -> str:
    return f"{backend}-{fingerprint_of(value)[:6]}"


def flow_key(preset: Preset) -> str:
    """``raft-1a2b3c``: back-end and hash of what the flows depend on."""
    return _key(preset.flow.backend, flow(preset.flow))


def features_key(preset: Preset) -> str:
    """As :func:`flow_key`, of the feature maps."""
    return _key(preset.features.backend, features(preset))


def matches_key(preset: Preset) -> str:
    """As :func:`flow_key`, of the matches table and all that it is made from."""
    return _key(preset.flow.backend, [flow(preset.flow), features(preset), matches(preset)])
