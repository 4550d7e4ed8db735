"""Options of PIPs++: as a tracker, its training, and its tests on data sets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from everypoint.config.options_base import Options

Size = tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]]


class PipsOptions(Options):
    """PIPs++ as a tracker: no flows, no optimisation, weights of its own."""

    weights: str = Field("pips2", description="An asset's name or the path of a checkpoint (model-*.pth).")
    size: Size = Field((512, 896), description="[height, width] at which the network sees the frames.")
    window: Annotated[int, Field(ge=2)] = Field(
        128, description="Frames at once; longer videos go on from the last frame of the window before."
    )
    iterations: PositiveInt = Field(16, description="Refinements of all positions in a window.")
    beautify: bool = Field(False, description="Halve the moves of the last iterations, as the published demo does.")
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="Arithmetic of the convolutions; positions and correlations stay in float32."
    )
    memory_gib: PositiveFloat = Field(
        1.0,
        description="Bound for the work on a chunk of points or frames, and as much again for features of frames that "
        "are kept (3.6 MB a frame of 512 x 896); a window of features comes on top.",
    )
    visibility: PositiveFloat = Field(
        6.0,
        description="A point counts as visible where a track back from a later frame comes within so many pixels of "
        "the network's input; PIPs++ itself says nothing of visibility.",
    )
    returns: PositiveInt = Field(
        2, description="Tracks back start from so many frames, evenly spread up to the last; cost grows with it."
    )
