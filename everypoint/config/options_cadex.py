"""Options of CaDeX++: camera, scene box and couplings, the sampler of its matches, its losses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from everypoint.config.options_base import Options


class CadexOptions(Options):
    """What the model of kind cadex has besides blocks, planes, time grids and depth_scale."""

    camera: Literal["pinhole", "orthographic"] = Field(
        "pinhole", description="How a pixel with its depth becomes a point: along its ray, or straight on."
    )
    fov: Annotated[float, Field(gt=0, lt=180)] = Field(
        40.0, description="pinhole: assumed horizontal field of view in degrees."
    )
    box: PositiveFloat = Field(
        0.8, description="Half-width of the scene box, as a share of the way from the median to the nearer end."
    )
    guard: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        1e-3, description="Least spacing of the knots and half of the least outer slope, of 1 at most."
    )
    kernel: Literal["auto", "torch", "triton"] = Field(
        "auto",
        description="What runs the couplings on a CUDA device: plain torch, or one fused Triton kernel each way, which "
        "changes no result beyond rounding. auto is torch until the kernel has been measured on a device. A CPU always "
        "has torch, and so has a run with torch's deterministic algorithms.",
    )


class CadexSamplerOptions(Options):
    """How pairs of frames and matches are drawn, as OmniTrackFast does. Steps are those of a run of 22,000."""

    pairs: PositiveInt = Field(96, description="Pairs a step.")
    points: PositiveInt = Field(1024, description="Matches a pair.")
    window: PositiveInt = Field(12, description="Largest gap.")
    start_frames: PositiveInt = Field(
        20, description="Frames in the middle of the video that pairs begin with at first."
    )
    grow_frames: Annotated[int, Field(ge=0)] = Field(20, description="Frames that join them ...")
    grow_every: PositiveFloat = Field(100, description="... after every so many steps.")
    gap_sigma: Annotated[float, Field(ge=0)] = Field(
        10.0, description="Gaps are drawn by a normal density of this width; below 1: evenly."
    )
    gap_flat: PositiveInt = Field(4, description="Gaps up to this weigh the same.")
    min_valid: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01,
        description="Pairs with fewer valid pixels than this share of the frame are passed over, where others are.",
    )
    swap: bool = Field(True, description="Swap the two frames of a pair half of the time.")
    long_points: PositiveInt = Field(1024, description="Long-range matches a step, evenly from all there are.")


class CadexLossOptions(Options):
    """Weights of CaDeX++'s losses; 0 switches a term off. Steps are those of a run of 22,000."""

    flow: Annotated[float, Field(ge=0)] = Field(1.0, description="Distance of the mapped point to its match, px.")
    flow_difference: Annotated[float, Field(ge=0)] = Field(
        0.1, description="Differences of mapped points, at the end of a ramp of 50,000 steps."
    )
    depth: Annotated[float, Field(ge=0)] = Field(100.0, description="Mapped depth against the other frame's.")
    depth_prior: Annotated[float, Field(ge=0)] = Field(1.0, description="Mapped depth against the other frame's prior.")
    depth_slope: Annotated[float, Field(ge=0)] = Field(
        1.0, description="Differences between cells of the depth map against the prior's, in both frames."
    )
    long_range: Annotated[float, Field(ge=0)] = Field(
        1.0,
        description="All terms of long-range matches together: at first, a tenth of it from step 1,000 on, "
        "a hundredth from step 2,000 on, nothing from step 24,000 on.",
    )
    long_depth: Annotated[float, Field(ge=0)] = Field(100.0, description="Long-range: as depth.")
    long_depth_prior: Annotated[float, Field(ge=0)] = Field(10.0, description="Long-range: as depth_prior.")
    long_depth_slope: Annotated[float, Field(ge=0)] = Field(100.0, description="Long-range: as depth_slope.")
    long_cut: PositiveFloat = Field(
        2.0, description="Long-range, from step 2,000 on: matches off by more than this many medians do not count."
    )
    least_depth: Annotated[float, Field(ge=0)] = Field(
        0.01, description="Mapped points nearer than this do not count for flow; 0: all count."
    )
    depth_clip: PositiveFloat | None = Field(10.0, description="Largest norm of the depth maps' gradient; null: any.")
    ramp_steps: PositiveFloat | None = Field(
        None, description="Steps that the published ramps of 22,000 steps are scaled to; null: the plan's own."
    )
