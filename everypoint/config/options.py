"""Every option of everypoint as a typed model; the schema, the default YAML and the reference page are made from these.

``FramesOptions`` ... ``ReportOptions`` are sections of the user's file; ``Preset`` is one file of ``everypoint/presets``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


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
    mask: Literal["auto", "off"] = Field(
        "auto", description="auto: keep grid points inside the video's mask, where it has one; off: ignore masks."
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
    rescue_factor: PositiveFloat = Field(1.5, description="A rescued pixel's round trip errs by more than this x cycle.")
    per_pair: PositiveInt = Field(8192, description="At most this many matches a pair are kept (the reservoir).")
    count_weight: bool = Field(True, description="Draw pixels with weight 1 / sqrt(count + 1), as OmniMotion.")


class ChainOptions(Options):
    """Trackers made of flows alone."""

    cycle_threshold: PositiveFloat = Field(3.0, description="chain: occluded once the forward-backward error exceeds this.")
    intervals: tuple[PositiveInt, ...] = Field((1,), description="Gaps that a chain may use; (1,) is plain chaining.")
    direct: bool = Field(True, description="chain-multi: also the direct flow from the query frame, where computed.")


class Preset(Options):
    """A named method: what tracks, and from what."""

    description: str = Field(description="One sentence for the report and the documentation.")
    tracker: Literal["chain", "chain-multi", "optimize"] = Field(description="The kind of tracker.")
    flow: FlowOptions = FlowOptions()
    features: FeatureOptions = FeatureOptions()
    matches: MatchOptions = MatchOptions()
    chain: ChainOptions = ChainOptions()
    model: dict = Field({}, description="optimize: the model part and its options (everypoint.models).")
    optimize: dict = Field({}, description="optimize: schedule, sampler, losses, checkpoints (everypoint.optimize).")
    readout: dict = Field({}, description="How tracks are read out of the model (everypoint.track).")
