"""Sections of the user's file, ``FramesOptions`` ... ``ReportOptions``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from everypoint.config.options_base import Options
from everypoint.config.options_export import ExportOptions
from everypoint.config.options_pips import PipsTestOptions


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
    cut_threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="Sensitivity of the cut detector, 0 (all) to 1 (none)."
    )


class QueryOptions(Options):
    """Which points are tracked when the video brings no queries of its own."""

    grid: PositiveInt = Field(32, description="Points along the longer side of a regular grid.")
    query_frame: Annotated[int, Field(ge=0)] = Field(0, description="Frame of the grid (index among the used frames).")
    mask: Literal["auto", "ignore"] = Field(
        "auto", description="auto: keep grid points inside the video's mask, where it has one; ignore: everywhere."
    )


class EvaluateOptions(Options):
    """How tracks are measured against ground truth."""

    query_modes: Annotated[tuple[Literal["first", "strided"], ...], Field(min_length=1)] = Field(
        ("strided",), description="TAP-Vid query modes, each measured on its own."
    )
    query_stride: PositiveInt = Field(5, description="Frames between the queries of mode strided.")

    @field_validator("query_modes")
    @classmethod
    def _each_once(cls, modes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(modes)) < len(modes):
            raise ValueError("each mode is to be listed once")
        return modes


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


class JobsOptions(Options):
    """Into which jobs the work is cut, and what they ask of a cluster. Nothing of it changes a result."""

    minutes: PositiveFloat = Field(
        10.0,
        description="Flow, features and the export of clips are cut into jobs of about this many minutes on a GPU (the "
        "export: on a core). Another number computes them again in other pieces.",
    )
    speed: PositiveFloat = Field(
        1.0,
        description="How fast the machines are, against those of docs/slurm.md; the time that jobs ask for is divided "
        "by it.",
    )
    memory: PositiveFloat = Field(1.0, description="Factor on the memory that jobs ask for.")
    per_gpu: PositiveInt = Field(
        1,
        description="Jobs that share one GPU of this machine (small videos do not fill one); start them with "
        "--resources gpu=N, N times the number of GPUs. A cluster has its own way, see docs/slurm.md.",
    )


class PipsUserOptions(Options):
    """PIPs++'s own data, training and tests; targets of their own, not part of the tracking of videos."""

    export: ExportOptions = Field(ExportOptions(), description="Clips of PointOdyssey that training reads.")
    folder: Annotated[str, Field(min_length=1)] = Field("pips", description="Where trainings and tests go.")
    train: dict[str, Any] = Field(
        {}, description="Keys that differ from everypoint/pips/recipes/train.yaml (target pips_train)."
    )
    finetune: dict[str, Any] = Field(
        {}, description="Keys that differ from everypoint/pips/recipes/finetune.yaml (target pips_finetune)."
    )
    test: PipsTestOptions = Field(PipsTestOptions(), description="Tests on annotated videos (target pips_test).")
