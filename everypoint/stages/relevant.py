"""Which options a stage's result depends on, and the short key under which presets share a stage.

Only these options are parameters of a job: a batch size or a seldom used knob of another back-end changes no result,
so changing it must redo nothing.
"""

from __future__ import annotations

from typing import Any

from everypoint.artifacts.folder import fingerprint_of
from everypoint.config.options import DepthOptions, FeatureOptions, FlowOptions, PairOptions, Preset

_RUNTIME = {
    "flow": ("batch", "shards", "lookup", "volume_gib", "compile"),
    "optimize": ("checkpoint_seconds", "log_every", "tensorboard", "pictures", "capture", "compile"),
    "cadex": ("kernel",),
}
_OF_RAYS = (  # keys of optimize by kind
    *("rays", "ray_losses", "code_learning_rate", "field_learning_rate", "gradient_clip", "decay"),
)
_OF_PLANES = ("sampler", "losses", "camera_learning_rate")
_OF_CADEX = ("cadex", "cadex_losses")
_CADEX_MODEL = ("kind", "cadex", "blocks", "time_channels", "time_factors", "depth_scale")
WITH_PRIOR = ("pixels", "cadex")  # kinds of models that start from a depth prior
_OF_BACKEND = {  # back-end: the keys of its section that its result depends on, besides the plan of pairs
    "raft": ("weights", "iterations", "warm_start", "precision", "resolution", "upsample_below"),
    "dis": ("quality", "resolution", "upsample_below"),
    "processed": ("folder",),
    "none": (),
    "raft-encoder": ("weights",),
    "vit": ("weights", "model", "resize", "short_side"),
    "constant": ("value",),
    "file": ("folder", "unit", "inverse", "outlier_sigma", "outlier_neighbours", "fov"),
    "depth-anything": ("weights", "outlier_sigma", "outlier_neighbours", "fov"),
    "zoedepth": ("weights", "outlier_sigma", "outlier_neighbours", "fov"),
}


def _chosen(options: Any) -> dict[str, Any]:
    """The back-end of a section and the keys it reads; weights by their name also where the default is meant."""
    value = options.model_dump(mode="json")
    value["weights"] = getattr(options, "weights_or_default", value.get("weights"))
    return {"backend": options.backend} | {key: value[key] for key in _OF_BACKEND[options.backend]}


def pairs(options: PairOptions) -> dict[str, Any]:
    """The pair plan without the keys of other plans."""
    value = options.model_dump(mode="json")
    unused = {"exhaustive": ("window", "intervals"), "window": ("intervals",), "intervals": ("window",)}
    return {key: item for key, item in value.items() if key not in unused[options.plan]}


def flow(options: FlowOptions) -> dict[str, Any]:
    """What the flows depend on."""
    return _chosen(options) | {"pairs": pairs(options.pairs)}


def features(options: FeatureOptions) -> dict[str, Any] | None:
    """What the feature maps depend on; None for the back-end none."""
    return None if options.backend == "none" else _chosen(options)


def depth(options: DepthOptions) -> dict[str, Any] | None:
    """What the depth prior depends on; None for the back-end none."""
    return None if options.backend == "none" else _chosen(options)


def sparse(preset: Preset, source: str) -> dict[str, Any]:
    """The part of a preset that a sparse source depends on, itself a valid preset."""
    options = preset.sparse.model_dump(mode="json")
    value = {"sparse": {"sources": [source], "per_pair": options["per_pair"]}}
    if source == "cotracker":
        return _header(preset) | value | {"cotracker": preset.cotracker.model_dump(mode="json")}
    value["sparse"][source] = options[source]
    if source == "mutual":
        value["sparse"][source] = options[source] | {"features": features(preset.sparse.mutual.features)}
        value |= {"depth": depth(preset.depth)} if masks_depth(preset) else {}
    return _header(preset) | value


def masks_depth(preset: Preset) -> bool:
    """Whether the outlier mask of a depth prior decides which pixels may be matched."""
    return preset.matches.depth_mask and preset.depth.backend != "none"


def matches(preset: Preset) -> dict[str, Any]:
    """What the filter and the reservoir depend on besides the files they read: options of both, valid as they are."""
    value = preset.matches.model_dump(mode="json")
    if not preset.matches.chain:
        value = {key: item for key, item in value.items() if not key.startswith("chain_")}
    if preset.flow.backend != "processed":
        del value["stored_masks"]
    if not masks_depth(preset):
        del value["depth_mask"]
    return {"matches": value, "appearance_threshold": preset.sparse.appearance_threshold}


def optimize(preset: Preset) -> dict[str, Any]:
    """The part of an optimising preset that its model depends on, itself a valid preset."""
    value = {
        key: item for key, item in preset.optimize.model_dump(mode="json").items() if key not in _RUNTIME["optimize"]
    }
    if preset.optimize.early_stop is not None:  # it counts rows of the log
        value["log_every"] = preset.optimize.log_every
    model = preset.model.model_dump(mode="json")
    if preset.model.kind == "planes":
        model = {key: item for key, item in model.items() if key not in ("nvp", "field", "cadex")}
        unused = (*_OF_RAYS, *_OF_CADEX)
    elif preset.model.kind == "cadex":
        model = {key: item for key, item in model.items() if key in _CADEX_MODEL or key.startswith("plane_")}
        unused = (*(key for key in _OF_RAYS if key != "decay"), *_OF_PLANES)
    else:
        model = {key: model[key] for key in ("kind", "nvp", "field")}
        unused = (*_OF_PLANES, *_OF_CADEX)
    value = {key: item for key, item in value.items() if key not in unused}
    if "cadex" in model:
        model["cadex"] = {key: item for key, item in model["cadex"].items() if key not in _RUNTIME["cadex"]}
    return _header(preset) | {"model": model, "optimize": value}


def tracks(preset: Preset) -> dict[str, Any]:
    """The part of a preset that its read-out depends on, besides the files it reads; itself a valid preset."""
    chain, readout = preset.chain.model_dump(mode="json"), preset.readout.model_dump(mode="json")
    if preset.tracker == "chain":
        return _header(preset) | {"chain": {"cycle_threshold": chain["cycle_threshold"]}}
    if preset.tracker == "chain-multi":
        return _header(preset) | {"chain": chain, "readout": readout}
    if preset.tracker == "cotracker":
        used = ("model", "weights", "points_at_once", "visibility")
        return _header(preset) | {"cotracker": {key: preset.cotracker.model_dump(mode="json")[key] for key in used}}
    if is_pips(preset):
        return _header(preset) | {"pips": preset.pips.model_dump(mode="json", exclude={"memory_gib"})}
    return _header(preset) | {"readout": readout} | ({"chain": chain} if preset.readout.fuse else {})


def reported(preset: Preset) -> dict[str, Any]:
    """What the report says of a preset; itself a valid preset."""
    value = preset.model_dump(mode="json")
    return {**value, "flow": flow(preset.flow), "optimize": optimize(preset)["optimize"]}


def runtime(presets: dict[str, Preset]) -> dict[str, Any]:
    """What jobs need to know but their results do not depend on: by flow key and by preset."""
    batches = {
        flow_key(preset): {key: getattr(preset.flow, key) for key in _RUNTIME["flow"] if key != "shards"}
        for preset in presets.values()
    }
    knobs = {
        name: {key: getattr(preset.optimize, key) for key in _RUNTIME["optimize"]} for name, preset in presets.items()
    }
    bounds = {name: {"memory_gib": preset.pips.memory_gib} for name, preset in presets.items() if is_pips(preset)}
    kernels = {
        name: {"cadex": {key: getattr(preset.model.cadex, key) for key in _RUNTIME["cadex"]}}
        for name, preset in presets.items()
        if preset.model.kind == "cadex"
    }
    bounded = {name: {"pips": value} for name, value in bounds.items()}
    return {"flow": batches, "optimize": knobs, "models": kernels, "tracks": bounded}


def is_pips(preset: Preset) -> bool:
    """Whether PIPs++ tracks."""
    return preset.tracker == "pips2"


def _header(preset: Preset) -> dict[str, Any]:
    return {"description": preset.tracker, "tracker": preset.tracker}


def _key(backend: str, value: Any) -> str:
    return f"{backend}-{fingerprint_of(value)[:6]}"


def flow_key(preset: Preset) -> str:
    """``raft-1a2b3c``: back-end and hash of what the flows depend on."""
    return _key(preset.flow.backend, flow(preset.flow))


def features_key(options: FeatureOptions) -> str:
    """As :func:`flow_key`, of the feature maps."""
    return _key(options.backend, features(options))


def depth_key(options: DepthOptions) -> str:
    """As :func:`flow_key`, of the depth prior."""
    return _key(options.backend, depth(options))


def sparse_key(preset: Preset, source: str) -> str:
    """As :func:`flow_key`, of one sparse source."""
    return _key(source, sparse(preset, source))


def matches_key(preset: Preset) -> str:
    """As :func:`flow_key`, of the matches table and all that it is made from."""
    made_from = [flow(preset.flow), features(preset.features), matches(preset)]
    made_from += [depth(preset.depth) if masks_depth(preset) else None]
    made_from += [sparse(preset, source) for source in preset.sparse.sources]
    name = preset.flow.backend if preset.flow.backend != "none" else preset.sparse.sources[0]
    return _key(name, made_from)
