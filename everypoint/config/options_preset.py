"""Options of a preset for trackers, model, optimisation and read-out, and the preset itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from everypoint.config.options_base import Options
from everypoint.config.options_cadex import CadexLossOptions, CadexOptions, CadexSamplerOptions
from everypoint.config.options_dense import DepthOptions, FeatureOptions, FlowOptions, MatchOptions
from everypoint.config.options_field import FieldOptions, NvpOptions, RayLossOptions, RaySamplerOptions
from everypoint.config.options_pips import PipsOptions
from everypoint.config.options_sparse import CotrackerOptions, SparseOptions


class ChainOptions(Options):
    """Trackers made of flows alone, and the flow evidence that refines an optimised model."""

    cycle_threshold: PositiveFloat = Field(
        3.0, description="A step whose forward-backward error exceeds this many pixels says occluded."
    )
    cycle_relative: Annotated[float, Field(ge=0)] = Field(
        0.05, description="chain-multi: the threshold grows by this many pixels a pixel of motion."
    )
    intervals: tuple[PositiveInt, ...] = Field(
        (1, 2, 4, 8, 16, 32), description="chain-multi: gaps of the flows that a track may use."
    )
    direct: bool = Field(True, description="chain-multi: also the flow from the query's own frame, where computed.")
    step_cost: PositiveFloat = Field(0.005, description="chain-multi: cost of any step; prefers few long steps.")
    occlusion_cost: PositiveFloat = Field(5.0, description="chain-multi: cost of a step whose check fails.")
    appearance_cost: Annotated[float, Field(ge=0)] = Field(
        2.0, description="chain-multi: price of looking unlike the query (times 1 - cosine) when arrivals compete."
    )
    appearance_threshold: float = Field(
        0.1, description="chain-multi: a point less like its query than this (cosine) ..."
    )
    step_appearance_threshold: float = Field(
        0.3, description="chain-multi: ... and less like itself one step before than this is on another surface."
    )
    boundary_radius: Annotated[float, Field(ge=0)] = Field(
        0.0, description="At motion boundaries flows up to this many pixels around a point compete for it; 0: its own."
    )
    boundary_gain: Annotated[float, Field(gt=0, le=1)] = Field(
        0.6, description="A flow beside the point carries it if its patches differ less than this share of its own's."
    )
    slip_fall: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="A step in which the likeness to the query (cosine) falls by more than this, and the pixels change "
        "too, has slipped onto another surface; 0: not asked.",
    )


class ModelOptions(Options):
    """The motion model of one video: a bijection between every frame and a canonical space, and depth maps."""

    kind: Literal["planes", "field", "pixels", "cadex"] = Field(
        "planes",
        description="planes: couplings on feature planes and a coarse depth map; field: OmniMotion, rays through a "
        "canonical field; pixels: OmniMotion's bijection and one depth a pixel; cadex: CaDeX++, couplings on feature "
        "planes and a depth map that starts from a prior.",
    )
    nvp: NvpOptions = NvpOptions()
    field: FieldOptions = FieldOptions()
    cadex: CadexOptions = CadexOptions()
    coupling: Literal["piecewise", "affine"] = Field(
        "piecewise", description="piecewise: monotone piecewise-linear (CaDeX++); affine: OmniMotion's."
    )
    blocks: PositiveInt = Field(6, description="Number of couplings.")
    plane_resolutions: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (12, 96), min_length=1, description="Nodes a side of the feature planes."
    )
    plane_channels: PositiveInt = Field(32, description="Features a plane.")
    time_channels: PositiveInt = Field(16, description="Features a time grid.")
    time_factors: tuple[PositiveInt, ...] = Field(
        (1, 5, 13), min_length=1, description="Nodes of the time grids, times T / 20."
    )
    depth_scale: PositiveFloat = Field(0.125, description="Size of the depth maps relative to the frame.")
    motion_depth: Annotated[float, Field(ge=0)] = Field(
        0.5, description="Initial depth difference of what moves against the camera; 0 starts flat."
    )
    motion_nearer: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="pixels and cadex: what moves against the camera starts nearer than its depth prior, by up to this "
        "share of it; 0: the prior as it is. For a prior that knows nothing (depth.backend constant).",
    )


class SamplerOptions(Options):
    """How matches are drawn in a step: on the device, by (seed, step) alone, with replacement."""

    batch: PositiveInt = Field(4096, description="Matches a step.")
    adjacent_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="Share of draws that fall on pairs of neighbouring frames."
    )
    motion_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.4, description="Share of draws in proportion to the motion that differs from the camera's (clipped)."
    )
    hard_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share of draws in proportion to the accumulated error of the matches (clipped)."
    )
    hard_quantile: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="Errors above this quantile count as this quantile: the worst matches are wrong ones."
    )
    refresh: PositiveInt = Field(100, description="Steps between updates of the error-weighted table.")

    @model_validator(mode="after")
    def _shares_fit(self) -> SamplerOptions:
        total = self.adjacent_share + self.motion_share + self.hard_share
        if total > 1 + 1e-9:
            raise ValueError(f"its shares add up to {total:g}, more than 1")
        return self


class LossOptions(Options):
    """Weights of the loss terms; 0 switches a term off."""

    flow: Annotated[float, Field(ge=0)] = Field(1.0, description="Robust distance of the mapped point to its match.")
    flow_scale: PositiveFloat = Field(1.0, description="Pixels at which the robust loss turns from square to linear.")
    depth: Annotated[float, Field(ge=0)] = Field(0.1, description="Mapped depth against the other frame's depth map.")
    occlusion: Annotated[float, Field(ge=0)] = Field(
        0.1, description="Matches known to be occluded must lie behind the other frame's depth map."
    )
    occlusion_margin: PositiveFloat = Field(0.05, description="How far behind, in normalised depth.")


class OptimizeOptions(Options):
    """The optimisation of one video."""

    steps: PositiveInt = Field(2000, description="Optimiser steps in all; a resumed run never exceeds them.")
    max_seconds: PositiveFloat | None = Field(
        None, description="Stop early after this time. The result then depends on the machine's speed; null: never."
    )
    learning_rate: PositiveFloat = Field(3e-3, description="Adam's rate for the bijection.")
    depth_learning_rate: PositiveFloat = Field(5e-3, description="Adam's rate for the depth maps.")
    camera_learning_rate: Annotated[float, Field(ge=0)] = Field(1e-5, description="Adam's rate for the camera maps.")
    code_learning_rate: PositiveFloat = Field(1e-3, description="field, pixels: Adam's rate for the frames' codes.")
    field_learning_rate: PositiveFloat = Field(3e-4, description="field: Adam's rate for the canonical field.")
    decay: Literal["cosine", "steps"] = Field(
        "cosine",
        description="field, pixels, cadex: cosine: warm-up and a cosine; steps: halved after every fifth of the plan "
        "(cadex: a third after every 5,000 of 22,000 steps).",
    )
    gradient_clip: Annotated[float, Field(ge=0)] = Field(
        0.0, description="field, pixels: largest norm of each group's gradient; 0 (published): off."
    )
    warmup: Annotated[int, Field(ge=0)] = Field(50, description="Steps of linear warm-up.")
    final_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.02, description="Last rate as a share of the first (cosine)."
    )
    holdout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.02, description="Share of matches kept out of training to measure the error."
    )
    sampler: SamplerOptions = SamplerOptions()
    losses: LossOptions = LossOptions()
    rays: RaySamplerOptions = RaySamplerOptions()
    ray_losses: RayLossOptions = RayLossOptions()
    cadex: CadexSamplerOptions = CadexSamplerOptions()
    cadex_losses: CadexLossOptions = CadexLossOptions()
    early_stop: PositiveInt | None = Field(
        None, description="Stop when the held-out error has not improved over so many rows of the log; null: never."
    )
    log_every: PositiveInt = Field(50, description="Steps between rows of train.jsonl.")
    checkpoint_seconds: PositiveFloat = Field(60.0, description="Seconds between checkpoints.")
    capture: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Replay the step as a CUDA graph; auto: on CUDA, where the step can be captured; always: or fail.",
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto",
        description="field, pixels, planes: networks and compositing through torch.compile on CUDA (a minute or so at "
        "the start); auto: never, until a device has timed both.",
    )
    matmul: Literal["float32", "tf32"] = Field(
        "float32",
        description="Matrix products of networks on CUDA; tf32 rounds their factors to 11 bits, and the coordinates "
        "that a network is given with them. On a CPU it changes nothing. What it gains and costs has not been "
        "measured: 100,000 steps of omnimotion are 1.5e17 operations, some 40 minutes at the nominal float32 rate of "
        "an H200.",
    )
    tensorboard: bool = Field(True, description="Write TensorBoard scalars.")
    pictures: Annotated[float, Field(ge=0, le=1)] = Field(
        0.02, description="Share of the time for pictures in TensorBoard: correspondences, depth, colour; 0: none."
    )

    @model_validator(mode="after")
    def _stops_by_something(self) -> OptimizeOptions:
        if self.early_stop is not None and not self.holdout:
            raise ValueError("early_stop needs held-out matches, and holdout is 0")
        return self


class CompanionOptions(Options):
    """Points tracked all over the video, whose motion says where a hidden point is."""

    every: Annotated[int, Field(ge=0)] = Field(
        0, description="Frames between those in which companions start; 0: none."
    )
    points: PositiveInt = Field(800, description="Companions that start in such a frame, at most.")
    span: PositiveInt = Field(
        32, description="Frames before and after its start through which a companion is followed, at least."
    )
    neighbours: Annotated[int, Field(ge=3)] = Field(8, description="Companions that vote for a hidden point's place.")
    radius: PositiveFloat = Field(0.1, description="How far away they may be, as a share of the frame's longer side.")
    similarity: float = Field(
        0.3, description="A hidden point is visible where they put it if it looks this much (cosine) as elsewhere."
    )
    doubt: float = Field(0.5, description="A visible point that looks less like itself (cosine) may be moved there ...")
    margin: float = Field(0.1, description="... if it looks so much more like itself there.")


class ReadoutOptions(Options):
    """How tracks are read out of an optimised model, or refined by the flows."""

    fuse: bool = Field(
        True, description="Let the flow evidence refine the model's proposals (needs the flows); false: model alone."
    )
    occlusion_depth: PositiveFloat = Field(
        0.1, description="Model alone: occluded when this much (normalised depth) behind the depth map."
    )
    opacity: Annotated[float, Field(gt=0, le=1)] = Field(
        0.99, description="kind field, model alone: occluded when more opacity than this lies in front."
    )
    ray_point: Literal["max", "mean"] = Field(
        "max", description="kind field: a ray is carried by its sample of largest weight, or by the weighted mean."
    )
    depth_error: PositiveFloat = Field(
        0.03, description="kind cadex, model alone: occluded when this much behind the depth map."
    )
    depth_error_unit: Literal["relative", "absolute"] = Field(
        "relative",
        description="relative: depth_error is a share of the depth there; absolute: in its unit (published: 0.02 m).",
    )
    refine_rounds: Annotated[int, Field(ge=0)] = Field(
        2, description="Rounds of refinement by the flows from both directions of time; chain-multi too."
    )
    adjust_rounds: Annotated[int, Field(ge=0)] = Field(
        1,
        description="Rounds in which the visible positions of a track move to where all flows between them agree; "
        "chain-multi too.",
    )
    agreement: PositiveFloat = Field(3.0, description="Distance in pixels within which evidence agrees.")
    recover_support: PositiveInt = Field(
        2, description="Agreeing arrivals that make a frame visible which the walk called occluded."
    )
    recover_error: PositiveFloat = Field(
        5.0, description="Largest forward-backward error in pixels of an arrival that counts."
    )
    companions: CompanionOptions = CompanionOptions()


class Preset(Options):
    """A named method: what tracks, and from what."""

    description: str = Field(description="One sentence for the report and the documentation.")
    tracker: Literal["chain", "chain-multi", "optimize", "cotracker", "pips2"] = Field(
        description="The kind of tracker."
    )
    flow: FlowOptions = FlowOptions()
    features: FeatureOptions = FeatureOptions()
    depth: DepthOptions = DepthOptions()
    matches: MatchOptions = MatchOptions()
    sparse: SparseOptions = SparseOptions()
    cotracker: CotrackerOptions = CotrackerOptions()
    pips: PipsOptions = PipsOptions()
    chain: ChainOptions = ChainOptions()
    model: ModelOptions = ModelOptions()
    optimize: OptimizeOptions = OptimizeOptions()
    readout: ReadoutOptions = ReadoutOptions()

    @property
    def walks(self) -> bool:
        """Whether its tracks are walked along flows, at least in part."""
        return self.tracker in ("chain", "chain-multi") or (self.tracker == "optimize" and self.readout.fuse)

    @property
    def uses_flow(self) -> bool:
        """Whether anything of it reads flows."""
        return self.flow.backend != "none" and self.tracker not in ("cotracker", "pips2")

    @property
    def uses_features(self) -> bool:
        """Whether anything of it reads the feature maps of ``features``."""
        if self.features.backend == "none" or self.tracker in ("chain", "cotracker", "pips2"):
            return False
        return self.uses_flow or self.sparse.appearance_threshold is not None

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Preset:
        if self.flow.backend == "none" and self.walks:
            raise ValueError(
                "its tracks need flows: choose a flow.backend, or readout.fuse false to use the model alone"
            )
        if self.tracker == "optimize" and self.flow.backend == "none" and not self.sparse.sources:
            raise ValueError("it has neither flows nor sparse.sources, so there is nothing to optimise")
        if self.matches.chain and self.flow.pairs.plan == "intervals" and 1 not in self.flow.pairs.intervals:
            raise ValueError("matches.chain needs the flows of adjacent frames: flow.pairs.intervals lacks 1")
        return self
