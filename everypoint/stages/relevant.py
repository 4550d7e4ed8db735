"""Which options a stage's result depends on, and the short key under which presets share a stage.

Only these options are parameters of a job: a batch size or a seldom used knob of another back-end changes no result,
so changing it must redo nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from everypoint.artifacts.folder import fingerprint_of
from everypoint.config.options import DepthOptions, FeatureOptions, FlowOptions, PairOptions, Preset

_RUNTIME = {
    "flow": ("batch", "shards", "lookup", "volume_gib", "compile"),
    "optimize": ("checkpoint_seconds", "log_every", "tensorboard", "pictures", "capture", "compile"),
    "cadex": ("kernel",),
}
_UNREAD = {  # kind of model: what it does not read of model and optimize
    "planes": (
        *("model.nvp", "model.field", "model.cadex", "optimize.rays", "optimize.ray_losses", "optimize.cadex"),
        *("optimize.cadex_losses", "optimize.code_learning_rate", "optimize.field_learning_rate"),
        *("optimize.gradient_clip", "optimize.decay", "model.motion_nearer"),
    ),
    "field": (
        *("optimize.sampler", "optimize.losses", "optimize.cadex", "optimize.cadex_losses"),
        *("optimize.camera_learning_rate", "optimize.depth_learning_rate"),
        *("optimize.ray_losses.depth", "optimize.ray_losses.depth_prior"),
    ),
    "pixels": (
        *("optimize.sampler", "optimize.losses", "optimize.cadex", "optimize.cadex_losses"),
        *("optimize.camera_learning_rate", "optimize.field_learning_rate", "optimize.ray_losses.colour"),
        *("optimize.ray_losses.flow_difference", "optimize.ray_losses.distortion", "optimize.ray_losses.mask_near"),
        *(f"model.field.{key}" for key in ("network", "hidden", "layers", "encoding", "samples")),
    ),
    "cadex": (
        *("optimize.sampler", "optimize.losses", "optimize.rays", "optimize.ray_losses", "optimize.gradient_clip"),
        *(f"optimize.{key}_learning_rate" for key in ("camera", "code", "field")),
        *("model.nvp", "model.field", "model.coupling", "model.motion_depth"),
    ),
}
_OF_RAYS = {  # the keys of model that field and pixels read
    "field": ("kind", "nvp", "field"),
    "pixels": ("kind", "nvp", "field", "motion_nearer"),
}
_READOUT = {  # kind of model: what its own read-out reads
    "planes": ("occlusion_depth",),
    "field": ("opacity", "ray_point"),
    "pixels": ("occlusion_depth",),
    "cadex": ("depth_error", "depth_error_unit"),
}
# keys of chain that need features
_BY_LOOKS = ("appearance_cost", "appearance_threshold", "step_appearance_threshold", "slip_fall")
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
    used = _OF_BACKEND[options.backend]
    if options.backend == "vit" and options.resize != "omnimotion":
        used = tuple(key for key in used if key != "short_side")
    return {"backend": options.backend} | {key: value[key] for key in used}


def _without(value: dict[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """``value`` without what paths such as ``model.nvp`` name, new where anything is left out."""
    for path in paths:
        key, _, rest = path.partition(".")
        if rest and key in value:
            value = value | {key: _without(value[key], [rest])}
        else:
            value = {name: item for name, item in value.items() if name != key}
    return value


def pairs(options: PairOptions) -> dict[str, Any]:
    """The pair plan without the keys of other plans."""
    value = options.model_dump(mode="json")
    unused = {"exhaustive": ("window", "intervals"), "window": ("intervals",), "intervals": ("window",)}[options.plan]
    unused += ("shortest",) if options.shortest == 1 else ()
    return {key: item for key, item in value.items() if key not in unused}


def flow(options: FlowOptions) -> dict[str, Any]:
    """What the flows depend on."""
    return _chosen(options) | {"pairs": pairs(options.pairs)}


def rival(preset: Preset) -> FlowOptions | None:
    """The flows of a second network, which walks read; None where there is none."""
    return preset.flow.of_rival if preset.walks and preset.tracker != "chain" else None


def flows(preset: Preset) -> list[FlowOptions]:
    """All flows that a preset computes: its own, and its rival's where there are such."""
    return [options for options in (preset.flow, rival(preset)) if options is not None]


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
    if source in ("cotracker", "tracks"):
        value["matches"] = {"budget_mb": preset.matches.budget_mb}
    if source == "cotracker":
        unread = () if preset.cotracker.cycle_check else ("cycle_threshold",)
        return _header(preset) | value | {"cotracker": _without(preset.cotracker.model_dump(mode="json"), unread)}
    value["sparse"][source] = options[source]
    if source == "mutual":
        value["sparse"][source] = options[source] | {"features": features(preset.sparse.mutual.features)}
        value |= {"depth": depth(preset.depth)} if masks_depth(preset) else {}
    return _header(preset) | value


def masks_depth(preset: Preset) -> bool:
    """Whether the outlier mask of a depth prior decides which pixels may be matched."""
    return (preset.uses_flow or reads_mutual(preset)) and preset.matches.depth_mask and preset.depth.backend != "none"


def reads_mutual(preset: Preset) -> bool:
    """Whether the source mutual makes matches."""
    return preset.tracker == "optimize" and "mutual" in preset.sparse.sources


def matches(preset: Preset) -> dict[str, Any]:
    """What the filter and the reservoir depend on besides the files they read: options of both, valid as they are."""
    unread = [] if preset.matches.chain else ["chain_appearance", "chain_colour"]
    if not preset.uses_features:
        unread += ["appearance_threshold", "appearance_gap", "chain_appearance"]
    if preset.flow.backend != "processed":
        unread.append("stored_masks")
    if not masks_depth(preset):
        unread.append("depth_mask")
    value = _without(preset.matches.model_dump(mode="json"), unread) if preset.uses_flow else {}
    checked = preset.sparse.sources and preset.uses_features
    return {"matches": value, "appearance_threshold": preset.sparse.appearance_threshold if checked else None}


def optimize(preset: Preset) -> dict[str, Any]:
    """The part of an optimising preset that its model depends on, itself a valid preset."""
    kind, field, options = preset.model.kind, preset.model.field, preset.optimize
    unread = [f"optimize.{key}" for key in _RUNTIME["optimize"]] + [f"model.cadex.{key}" for key in _RUNTIME["cadex"]]
    if options.early_stop is not None:  # it counts rows of the log
        unread.remove("optimize.log_every")
    if options.decay == "steps" and kind != "planes":
        unread += ["optimize.warmup", "optimize.final_rate"]
    if preset.model.cadex.camera != "pinhole":
        unread.append("model.cadex.fov")
    hashed = kind == "field" and field.network == "hash"
    if hashed:
        unread += ["model.field.hidden", "model.field.layers"]
    if not hashed and preset.model.nvp.code != "hash":
        unread.append("model.field.tiny_cuda_nn")
    value = preset.model_dump(mode="json", include={"model", "optimize"})
    if kind in _OF_RAYS:
        value["model"] = {key: value["model"][key] for key in _OF_RAYS[kind]}
    return _header(preset) | _without(value, [*unread, *_UNREAD[kind]])


def tracks(preset: Preset) -> dict[str, Any]:
    """The part of a preset that its read-out depends on, besides the files it reads; itself a valid preset."""
    if preset.tracker == "cotracker":
        used = ("model", "weights", "points_at_once", "visibility")
        return _header(preset) | {"cotracker": {key: preset.cotracker.model_dump(mode="json")[key] for key in used}}
    if is_pips(preset):
        return _header(preset) | {"pips": preset.pips.model_dump(mode="json", exclude={"memory_gib"})}
    chain = _without(preset.chain.model_dump(mode="json"), () if preset.uses_features else _BY_LOOKS)
    if preset.tracker == "chain":
        return _header(preset) | {"chain": {"cycle_threshold": chain["cycle_threshold"]}}
    readout = preset.readout.model_dump(mode="json")
    own = {key: readout[key] for key in _READOUT[preset.model.kind]} | {"fuse": preset.readout.fuse}
    walk = _without(readout, ["fuse", *(key for keys in _READOUT.values() for key in keys)])
    if preset.tracker == "chain-multi":
        return _header(preset) | {"chain": chain, "readout": walk}
    model = {"optimize": {"matmul": preset.optimize.matmul}}  # read out as it was trained
    walked = {"chain": chain, "readout": own | walk} if preset.readout.fuse else {"readout": own}
    return _header(preset) | model | walked


def reported(preset: Preset) -> dict[str, Any]:
    """What the report says of a preset, its description and the weights that it uses; itself a valid preset."""
    value: dict[str, Any] = {"description": preset.description, "tracker": preset.tracker}
    if preset.tracker == "cotracker":
        return value | {"cotracker": {"weights": preset.cotracker.weights_or_default}}
    if is_pips(preset):
        return value | {"pips": {"weights": preset.pips.weights}}
    second = rival(preset)
    value["flow"] = _named(preset.flow.backend, preset.flow.weights if preset.flow.backend == "raft" else None)
    value["flow"] |= {"rival": second.weights} if second else {}
    value["features"] = _named(*_weights(preset.features)) if preset.uses_features else {"backend": "none"}
    if preset.tracker != "optimize":
        return value
    sources, sparse_ = preset.sparse.sources, preset.sparse
    value["sparse"] = {"sources": sources}
    if preset.uses_features and not preset.uses_flow:
        value["sparse"]["appearance_threshold"] = sparse_.appearance_threshold
    if "mutual" in sources:
        value["sparse"]["mutual"] = {"features": _named(*_weights(sparse_.mutual.features))}
    if "xfeat" in sources:
        value["sparse"]["xfeat"] = {"weights": sparse_.xfeat.weights}
    if "cotracker" in sources:
        value["cotracker"] = {"weights": preset.cotracker.weights_or_default}
    if masks_depth(preset) or preset.model.kind in WITH_PRIOR:
        value["depth"] = _named(*_weights(preset.depth))
    return value | {"model": {"kind": preset.model.kind}, "readout": {"fuse": preset.flow.backend != "none"}}


def _weights(options: FeatureOptions | DepthOptions) -> tuple[str, str | None]:
    """The back-end and its weights, by their name also where the default is meant; None where it reads none."""
    return options.backend, options.weights_or_default if "weights" in _OF_BACKEND[options.backend] else None


def _named(backend: str, weights: str | None) -> dict[str, Any]:
    return {"backend": backend} | ({"weights": weights} if weights else {})


def runtime(presets: dict[str, Preset]) -> dict[str, Any]:
    """What jobs need to know but their results do not depend on: by flow key and by preset.

    Flows that several presets share are computed as the one with the largest batch has them.
    """
    wanted = sorted((options for preset in presets.values() for options in flows(preset)), key=lambda one: one.batch)
    batches = {
        flow_key(options): {key: getattr(options, key) for key in _RUNTIME["flow"] if key != "shards"}
        for options in wanted
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


def flow_key(options: FlowOptions) -> str:
    """``raft-1a2b3c``: back-end and hash of what the flows depend on."""
    return _key(options.backend, flow(options))


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
    made_from = [flow(preset.flow) if preset.uses_flow else None]
    made_from += [features(preset.features) if preset.uses_features else None, matches(preset)]
    made_from += [depth(preset.depth) if masks_depth(preset) else None]
    made_from += [sparse(preset, source) for source in preset.sparse.sources]
    name = preset.flow.backend if preset.flow.backend != "none" else preset.sparse.sources[0]
    return _key(name, made_from)
