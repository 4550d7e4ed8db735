"""The user's file: what is tracked, by which presets, and where the results go."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from everypoint.config.options import (
    EvaluateOptions,
    FramesOptions,
    JobsOptions,
    Options,
    OverlayOptions,
    QueryOptions,
    ReportOptions,
)
from everypoint.config.options_user import PipsUserOptions


class VideoOptions(Options):
    """What differs for one video: parts of ``frames`` and ``queries``."""

    frames: dict[str, Any] = Field({}, description="Keys of frames that differ for this video.")
    queries: dict[str, Any] = Field({}, description="Keys of queries that differ for this video.")


class Config(Options):
    """One run of the workflow. Paths are relative to the working directory."""

    videos: str | None = Field(
        "videos", description="Folder of video files and image folders; null when only a data set is used."
    )
    dataset: str | None = Field(
        None, description="A TAP-Vid pickle (path) or a data set's name, e.g. tapvid-davis; null for none."
    )
    results: Annotated[str, Field(min_length=1)] = Field("results", description="Folder that receives the results.")
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("chain-multi", "cpu"), description="Presets that are run on every video."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where networks and optimisers run; cpu: their jobs run side by side."
    )
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(0, description="Seed of every random draw.")
    assets: str | None = Field(
        None, description="Folder of fetched weights and clips; null: $EVERYPOINT_ASSETS or the user's cache."
    )
    frames: FramesOptions = Field(FramesOptions(), description="Which frames are used and at what size.")
    queries: QueryOptions = Field(QueryOptions(), description="Which points are tracked.")
    evaluate: EvaluateOptions = Field(EvaluateOptions(), description="How tracks are measured against ground truth.")
    overlay: OverlayOptions = Field(OverlayOptions(), description="How overlays are drawn.")
    exports: tuple[Literal["nuke", "after-effects", "blender", "tapvid"], ...] = Field(
        (), description="Formats for other programs that tracks are written in besides (docs/export.md)."
    )
    report: ReportOptions = Field(ReportOptions(), description="What the report holds.")
    jobs: JobsOptions = Field(
        JobsOptions(), description="Into which jobs the work is cut, and what they ask of a cluster (docs/slurm.md)."
    )
    pips: PipsUserOptions = Field(
        PipsUserOptions(), description="PIPs++'s own data, training and tests: targets of their own (docs/methods.md)."
    )
    overrides: dict[str, dict[str, Any]] = Field(
        {}, description="Keys of presets that differ, by preset name or under all: {all: {flow: {backend: dis}}}."
    )
    per_video: dict[str, VideoOptions] = Field(
        {}, description="Keys of frames and queries that differ, by video: {clip: {frames: {start: 10}}}."
    )

    @field_validator("methods")
    @classmethod
    def _each_once(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        double = sorted({name for name in methods if methods.count(name) > 1})
        if double:
            raise ValueError(f"{', '.join(double)} is listed twice")
        return methods
