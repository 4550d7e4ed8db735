"""Options of PIPs++: as a tracker, its training, and its tests on data sets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from everypoint.config.options_base import Options

Side = Annotated[int, Field(ge=128, multiple_of=8)]
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


class PipsTrainOptions(Options):
    """A training of PIPs++; the two recipes in everypoint/pips/recipes give every key that has no default."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = Field("aa", description="Part of the run's name.")
    data: Literal["clips", "odyssey"] = Field(
        description="clips: those that pips_export wrote; odyssey: PointOdyssey itself."
    )
    source: str | None = Field(
        None, description="Folder of clips, or of PointOdyssey; null: what pips.export writes, or reads."
    )
    validation: str | None = Field(
        None,
        description="Folder of clips of the split val; data odyssey: null stands for the split val of source. Clips "
        "without: no validation.",
    )
    validation_clips: PositiveInt = Field(16, description="Clips of a validation, always the same.")
    weights: str | None = Field(
        None,
        description="What it starts from, an asset's name or a path; train: what target pips_train makes; null: at "
        "random.",
    )
    steps: PositiveInt = Field(description="Steps of the optimiser.")
    batch: PositiveInt = Field(description="Clips a step, over all processes.")
    frames: Annotated[int, Field(ge=4)] = Field(description="Frames of a clip (S).")
    points: PositiveInt = Field(description="Tracks of a clip (N).")
    size: Annotated[tuple[Side, Side], Field(description="[height, width] of a clip.")]
    strides: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (1, 2), description="odyssey: frames of the source between frames of a clip."
    )
    iterations: PositiveInt = Field(description="Refinements in training; validation makes twice as many.")
    learning_rate: PositiveFloat = Field(5e-4, description="Largest rate of AdamW.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(1e-6, description="Weight decay of AdamW.")
    schedule: bool = Field(True, description="One linear cycle of the rate over all steps; false: constant.")
    clip: Annotated[float, Field(ge=0)] = Field(description="Largest norm of the gradient; 0: any.")
    accumulate: PositiveInt = Field(1, description="Batches whose gradients make one step.")
    augment: bool = Field(True, description="Augment colours, and transpose half of the batches.")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="Arithmetic of the convolutions.")
    validate_every: PositiveInt = Field(100, description="Steps between validations.")
    log_every: PositiveInt = Field(1000, description="Steps between pictures in TensorBoard.")
    checkpoint_seconds: PositiveFloat = Field(600.0, description="Seconds between checkpoints.")
    workers: Annotated[int, Field(ge=0)] = Field(6, description="Processes that read clips, for each that trains.")
    processes: PositiveInt = Field(1, description="Processes a machine, each with a GPU of its own where there are.")
    nodes: PositiveInt = Field(1, description="Machines, within a SLURM job of as many nodes.")

    @model_validator(mode="after")
    def _divides(self) -> PipsTrainOptions:
        if self.batch % (self.processes * self.nodes):
            raise ValueError(f"batch {self.batch} does not divide among {self.processes * self.nodes} processes")
        return self


# Keys that change no result; more processes only add up gradients in another order.
RUNTIME_OF_TRAINING = ("log_every", "checkpoint_seconds", "workers", "processes", "nodes")


class PipsTestOptions(Options):
    """A test of PIPs++ on annotated videos."""

    weights: str = Field(
        "pips2",
        description="An asset's name or the path of a checkpoint (model-*.pth); train, finetune: what "
        "these targets make.",
    )
    tapvid: str | None = Field(None, description="TAP-Vid-DAVIS: a pickle's path, or tapvid-davis; null: no such test.")
    crohd: str | None = Field(None, description="Folder of HT21 (CroHD); null: no such test.")
    odyssey: str | None = Field(None, description="Folder of PointOdyssey, split test; null: no such test.")
    size: Size = Field((512, 896), description="[height, width] at which the network sees the frames.")
    window: Annotated[int, Field(ge=2)] = Field(128, description="Frames at once.")
    iterations: PositiveInt = Field(16, description="Refinements.")
    points: PositiveInt = Field(256, description="odyssey: tracks of a video.")
    precision: Literal["float32", "float16", "bfloat16"] = Field("float32", description="As pips.precision of presets.")
    memory_gib: PositiveFloat = Field(1.0, description="As pips.memory_gib of presets.")
    compat: bool = Field(
        False,
        description="Coordinates as the published scripts scale them: TAP-Vid's by W - 1 and H - 1, all "
        "resizes without the half pixel, and CroHD's frames where a head is not seen.",
    )
