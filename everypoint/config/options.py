"""Every option of everypoint as a typed model; schema, default YAML and reference page are made from these.

``FramesOptions`` ... ``ReportOptions`` are sections of the user's file; ``Preset`` is a file of ``everypoint/presets``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator


class Options(BaseModel):
    """Base of all options: unknown keys are refused, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FramesOptions(Options):
    """Which frames of a video are used and at what size."""

    start: Annotated[int, Field(ge=0)] = Field(0, description="First frame of the source that is used (0-based).")
    max_frames: PositiveInt | None = Field(None, description="At most this many frames; null for all.")
    stride: PositiveInt = Field(1, description="Use every stride-th frame of the source.")
    max_side: PositiveInt | None = Field(
        854, description="Shrink frames so that the longer side has at most this many pixels; null for never."
    )
    resize: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="Exact working size [height, width], e.g. [256, 256] for TAP-Vid's official track."
    )
    on_cut: Literal["warn", "split", "ignore"] = Field(
        "warn", description="A shot cut inside the range: warn, split into one entry a shot, or ignore."
    )
    cut_threshold: PositiveFloat = Field(0.5, description="Sensitivity of the cut detector, 0 (all) to 1 (none).")


class QueryOptions(Options):
    """Which points are tracked when the video brings no queries of its own."""

    grid: PositiveInt = Field(32, description="Points along the longer side of a regular grid.")
    query_frame: Annotated[int, Field(ge=0)] = Field(0, description="Frame of the grid (index among the used frames).")
    mask: Literal["auto", "ignore"] = Field(
        "auto", description="auto: keep grid points inside the video's mask, where it has one; ignore: everywhere."
    )


class EvaluateOptions(Options):
    """How tracks are measured against ground truth."""

    query_modes: tuple[Literal["first", "strided"], ...] = Field(
        ("strided",), description="TAP-Vid query modes, each measured on its own."
    )
    query_stride: PositiveInt = Field(5, description="Frames between the queries of mode strided.")


class OverlayOptions(Options):
    """How overlays are drawn."""

    enabled: bool = Field(True, description="Whether overlay videos are made.")
    max_points: PositiveInt = Field(1024, description="At most this many tracks are drawn (evenly chosen).")
    trail: Annotated[int, Field(ge=0)] = Field(12, description="Length of the trails in frames; 0 for none.")
    stabilise: bool = Field(False, description="Remove the camera's motion (background median) from trails.")
    max_side: PositiveInt = Field(960, description="Longest side of the overlay video in pixels.")


class ReportOptions(Options):
    """What the report holds."""

    title: str = Field("everypoint", description="Heading of the report.")
    max_video_mb: PositiveFloat = Field(
        20.0, description="Overlays above this size are linked from the page, not embedded."
    )


# ------------------------------------------------------------------------------------------------ presets


class PairOptions(Options):
    """Which ordered pairs of frames get a flow; always in both directions."""

    plan: Literal["exhaustive", "window", "intervals"] = Field("intervals", description="The rule for pairs.")
    window: PositiveInt = Field(12, description="plan window: all gaps up to this.")
    intervals: tuple[PositiveInt, ...] = Field((1, 2, 4, 8, 16, 32), description="plan intervals: exactly these gaps.")
    direct: bool = Field(
        False, description="Also the pairs between every query frame and all frames (needed by the direct chains)."
    )


class FlowOptions(Options):
    """Optical flow between the planned pairs."""

    backend: Literal["raft", "dis"] = Field("raft", description="raft: the network; dis: OpenCV's DIS, weight-free.")
    weights: str = Field("raft-things", description="raft: an asset's name or the path of a weight file.")
    iterations: PositiveInt = Field(12, description="raft: number of updates.")
    resolution: PositiveInt | None = Field(
        None, description="Compute the flow with the shorter side resized to this many pixels; null: frame size."
    )
    upsample_below: PositiveInt | None = Field(
        None, description="Frames whose shorter side is below this are enlarged to it first; null for never."
    )
    quality: Literal["ultrafast", "fast", "medium"] = Field("medium", description="dis: OpenCV's preset.")
    batch: PositiveInt = Field(1, description="raft: targets a network call (memory grows with it).")
    shards: PositiveInt = Field(1, description="Jobs that share the source frames of one video.")
    pairs: PairOptions = PairOptions()


class FeatureOptions(Options):
    """Per-frame features for the appearance check."""

    backend: Literal["raft-encoder", "none"] = Field(
        "raft-encoder", description="raft-encoder: RAFT's 1/8 feature map; none: no appearance check."
    )
    weights: str = Field("raft-things", description="An asset's name or the path of a weight file.")


class MatchOptions(Options):
    """Filter of the flows and the reservoir of matches."""

    cycle_threshold: PositiveFloat = Field(3.0, description="Largest forward-backward error in pixels.")
    appearance_threshold: float = Field(0.5, description="Least cosine similarity of features, for gaps from 3 on.")
    appearance_gap: PositiveInt = Field(3, description="Smallest gap at which the appearance check applies.")
    rescue_gap: Annotated[int, Field(ge=0)] = Field(2, description="Largest gap at which occluded pixels are rescued.")
    rescue_factor: PositiveFloat = Field(
        1.5, description="A rescued pixel's round trip errs by more than this x cycle."
    )
    per_pair: PositiveInt = Field(8192, description="At most this many matches a pair are kept (the reservoir).")
    count_weight: bool = Field(True, description="Draw pixels with weight 1 / sqrt(count + 1), as OmniMotion.")


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


class ModelOptions(Options):
    """The motion model of one video: a bijection between every frame and a canonical space, and depth maps."""

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
    warmup: Annotated[int, Field(ge=0)] = Field(50, description="Steps of linear warm-up.")
    final_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.02, description="Last rate as a share of the first (cosine)."
    )
    holdout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.02, description="Share of matches kept out of training to measure the error."
    )
    sampler: SamplerOptions = SamplerOptions()
    losses: LossOptions = LossOptions()
    log_every: PositiveInt = Field(50, description="Steps between rows of train.jsonl.")
    checkpoint_seconds: PositiveFloat = Field(60.0, description="Seconds between checkpoints.")
    tensorboard: bool = Field(True, description="Write TensorBoard scalars.")


class ReadoutOptions(Options):
    """How tracks are read out of an optimised model, or refined by the flows."""

    fuse: bool = Field(
        True, description="Let the flow evidence refine the model's proposals (needs the flows); false: model alone."
    )
    occlusion_depth: PositiveFloat = Field(
        0.1, description="Model alone: occluded when this much (normalised depth) behind the depth map."
    )
    refine_rounds: Annotated[int, Field(ge=0)] = Field(
        2, description="Rounds of refinement by the flows from both directions of time; chain-multi too."
    )
    agreement: PositiveFloat = Field(3.0, description="Distance in pixels within which evidence agrees.")
    recover_support: PositiveInt = Field(
        2, description="Agreeing arrivals that make a frame visible which the walk called occluded."
    )
    recover_error: PositiveFloat = Field(
        5.0, description="Largest forward-backward error in pixels of an arrival that counts."
    )


class Preset(Options):
    """A named method: what tracks, and from what."""

    description: str = Field(description="One sentence for the report and the documentation.")
    tracker: Literal["chain", "chain-multi", "optimize"] = Field(description="The kind of tracker.")
    flow: FlowOptions = FlowOptions()
    features: FeatureOptions = FeatureOptions()
    matches: MatchOptions = MatchOptions()
    chain: ChainOptions = ChainOptions()
    model: ModelOptions = ModelOptions()
    optimize: OptimizeOptions = OptimizeOptions()
    readout: ReadoutOptions = ReadoutOptions()
