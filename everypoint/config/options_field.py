"""Options of OmniMotion and its variants: bijection, canonical field, rays, their sampler and losses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from everypoint.config.options_base import Options


class NvpOptions(Options):
    """OmniMotion's bijection: affine couplings conditioned on a code of the frame."""

    blocks: PositiveInt = Field(6, description="Number of couplings.")
    hidden: PositiveInt = Field(256, description="Width of a coupling's network.")
    layers: PositiveInt = Field(3, description="Hidden layers of a coupling's network (the thesis: 2).")
    frequencies: PositiveInt = Field(4, description="Frequencies of the encoding of the two kept coordinates.")
    affine: Literal["none", "small", "large"] = Field(
        "small", description="2-D affine map before the couplings: none; small: 2 layers, as meant; large: 8, as built."
    )
    code: Literal["gabor", "hash"] = Field(
        "gabor", description="Network of the frame's code: OmniMotion's, or the thesis' hash grid."
    )
    code_features: PositiveInt = Field(128, description="Length of a frame's code.")
    freeze_code: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Freeze the codes into a table at this share of the steps (the thesis: 0.4); null: never."
    )


class FieldOptions(Options):
    """The canonical field (colour and density) and the rays through it."""

    network: Literal["gabor", "hash"] = Field("gabor", description="Network of the field.")
    hidden: PositiveInt = Field(512, description="gabor: width.")
    layers: PositiveInt = Field(3, description="gabor: number of layers.")
    encoding: Literal["none", "periodic-63", "periodic-66"] = Field(
        "none",
        description="Encoding of canonical points: none; 10 frequencies and the point (63); 11 frequencies (66).",
    )
    samples: Annotated[int, Field(ge=2)] = Field(32, description="Samples a ray.")
    near: float = Field(0.0, description="Depth at which rays begin.")
    far: float = Field(2.0, description="Depth at which rays end.")
    tiny_cuda_nn: bool = Field(
        False, description="hash: use tiny-cuda-nn where it is installed, instead of the same network in PyTorch."
    )

    @model_validator(mode="after")
    def _is_a_field(self) -> FieldOptions:
        if self.network == "hash" and self.encoding != "none":
            raise ValueError("a hash grid takes the points themselves: encoding must be none")
        if self.far <= self.near:
            raise ValueError(f"far ({self.far:g}) must be larger than near ({self.near:g})")
        return self


class RaySamplerOptions(Options):
    """How pairs of frames and matches are drawn, as OmniMotion does."""

    pairs: PositiveInt = Field(8, description="Pairs a step.")
    points: PositiveInt = Field(256, description="Matches a pair.")
    start_interval: PositiveInt = Field(20, description="Largest gap at the start.")
    grow_every: PositiveInt = Field(2000, description="Steps (of 100,000) after which the largest gap grows by one.")
    adjacent_floor: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description="Weight that each adjacent frame is set to, the window's own adding up to 1; 0: its own weight.",
    )
    hard_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="Share of matches drawn in proportion to their accumulated error (the thesis: 1.0)."
    )
    hard_start: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="Share of the steps after which errors guide the draws."
    )
    hard_quantile: Annotated[float, Field(gt=0, le=1)] = Field(
        0.98, description="Errors above this quantile count as this quantile: the worst matches are wrong ones."
    )
    refresh: PositiveInt = Field(500, description="Steps between updates of the error-weighted tables.")
    sweep_every: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="Share of the steps between sweeps that measure matches anew, drawn or not; 0: none."
    )
    sweep_rows: Annotated[int, Field(ge=0)] = Field(65536, description="Matches that a sweep measures, in turn.")
    swap: bool = Field(True, description="Swap the two frames of a pair half of the time.")


class RayLossOptions(Options):
    """Weights of OmniMotion's losses, at the end of their ramps; 0 switches a term off."""

    flow: Annotated[float, Field(ge=0)] = Field(1.0, description="Distance of the mapped point to its match, px.")
    colour: Annotated[float, Field(ge=0)] = Field(10.0, description="Rendered colour, and its differences.")
    flow_difference: Annotated[float, Field(ge=0)] = Field(0.1, description="Differences of mapped points.")
    depth_range: Annotated[float, Field(ge=0)] = Field(10.0, description="Mapped samples outside of the box.")
    distortion: Annotated[float, Field(ge=0)] = Field(10.0, description="Spread of the weights along a ray.")
    acceleration: Annotated[float, Field(ge=0)] = Field(20.0, description="Acceleration of samples over three frames.")
    depth: Annotated[float, Field(ge=0)] = Field(
        5.0, description="omnimotion-depth: mapped depth against the other frame's."
    )
    depth_prior: Annotated[float, Field(ge=0)] = Field(
        1.0, description="omnimotion-depth: depth against the prior, values and differences."
    )
    ramp_steps: PositiveFloat | None = Field(
        None, description="Steps that the published ramps of 100,000 steps are scaled to; null: the plan's own."
    )
    mask_near: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share of the steps (published: 0.04) in which the nearest fifth of each ray is empty."
    )
