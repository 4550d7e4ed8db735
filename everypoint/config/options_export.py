"""Options of the export of training clips, ``pips.export`` of the user's file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from everypoint.config.options_base import Options

Side = Annotated[int, Field(ge=32, multiple_of=8)]


class ExportOptions(Options):
    """Clips of PointOdyssey for the training of PIPs++."""

    root: str | None = Field(
        None, description="Folder of PointOdyssey that holds train, val and test; null: nothing is exported."
    )
    folder: Annotated[str, Field(min_length=1)] = Field(
        "pod_export", description="Where clips go: one folder NAME_S_N_HxW inside it for each export."
    )
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = Field("aa", description="Name of the export.")
    split: Literal["train", "val", "test"] = Field("train", description="Split that is exported.")
    frames: Annotated[int, Field(ge=4)] = Field(36, description="Frames of a clip (S).")
    points: PositiveInt = Field(128, description="Tracks of a clip (N).")
    size: tuple[Side, Side] = Field((256, 384), description="[height, width] of a clip.")
    resize: tuple[PositiveInt, PositiveInt] = Field(
        (432, 560),
        description="[height, width] that pictures get before they are scaled and cropped; at least 16 more than size.",
    )
    strides: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (1, 2, 4), description="Frames of the source between frames of a clip; each gives clips of its own."
    )
    step: PositiveInt = Field(2, description="Frames of the source between the starts of clips.")
    augment: bool = Field(True, description="Whether colours, erased parts, direction, scale and place are augmented.")
    require_full: bool = Field(
        True, description="A clip needs N good tracks; false: half of them, and the rest is padded with zeros."
    )
    compat: bool = Field(
        False, description="Keep the published export's defects that move its figures (positions, validity, repeats)."
    )
    shards: PositiveInt | None = Field(
        None, description="Jobs that share the clips, each a range of them; null: as many as jobs.minutes asks for."
    )

    @model_validator(mode="after")
    def _strides_once(self) -> ExportOptions:
        if len(set(self.strides)) < len(self.strides):
            raise ValueError("a stride is listed twice")
        return self
