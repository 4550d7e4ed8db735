"""Every option of everypoint as a typed model; schema, default YAML and reference page are made from these.

Other rooms import the models from here.
"""

from __future__ import annotations

from everypoint.config.options_base import Options
from everypoint.config.options_cadex import CadexLossOptions, CadexOptions, CadexSamplerOptions
from everypoint.config.options_dense import DepthOptions, FeatureOptions, FlowOptions, MatchOptions, PairOptions
from everypoint.config.options_export import ExportOptions
from everypoint.config.options_field import FieldOptions, NvpOptions, RayLossOptions, RaySamplerOptions
from everypoint.config.options_pips import PipsOptions
from everypoint.config.options_preset import (
    ChainOptions,
    CompanionOptions,
    LossOptions,
    ModelOptions,
    OptimizeOptions,
    Preset,
    ReadoutOptions,
    SamplerOptions,
)
from everypoint.config.options_sparse import (
    CotrackerOptions,
    MutualOptions,
    ProcessedOptions,
    SparseOptions,
    TrackFileOptions,
    XFeatOptions,
)
from everypoint.config.options_user import (
    EvaluateOptions,
    FramesOptions,
    JobsOptions,
    OverlayOptions,
    PipsUserOptions,
    QueryOptions,
    ReportOptions,
)

__all__ = [
    "CadexLossOptions",
    "CadexOptions",
    "CadexSamplerOptions",
    "ChainOptions",
    "CompanionOptions",
    "CotrackerOptions",
    "DepthOptions",
    "EvaluateOptions",
    "ExportOptions",
    "FeatureOptions",
    "FieldOptions",
    "FlowOptions",
    "FramesOptions",
    "JobsOptions",
    "LossOptions",
    "MatchOptions",
    "ModelOptions",
    "MutualOptions",
    "NvpOptions",
    "OptimizeOptions",
    "Options",
    "OverlayOptions",
    "PairOptions",
    "PipsOptions",
    "PipsUserOptions",
    "Preset",
    "ProcessedOptions",
    "QueryOptions",
    "RayLossOptions",
    "RaySamplerOptions",
    "ReadoutOptions",
    "ReportOptions",
    "SamplerOptions",
    "SparseOptions",
    "TrackFileOptions",
    "XFeatOptions",
]
