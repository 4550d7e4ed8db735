"""Options of a preset for matches that do not come from the flows: long-range, trackers, files at hand."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from everypoint.config.options_base import Options
from everypoint.config.options_dense import FeatureOptions


class MutualOptions(Options):
    """Long-range matches: mutual nearest neighbours of ViT patches under OmniTrackFast's rules."""

    features: FeatureOptions = Field(
        FeatureOptions(backend="vit", model="dinov2-vits14", resize="omnitrackfast"),
        description="The features whose cells are matched.",
    )
    gap: PositiveInt = Field(10, description="Smallest gap of the pairs of frames.")
    stride: PositiveInt = Field(1, description="Only pairs of frames that are multiples of this.")
    similarity: float = Field(0.75, description="Least cosine similarity of a match.")
    lookalike: float = Field(0.55, description="A cell of the own frame more similar than this looks alike ...")
    lookalikes: PositiveInt = Field(100, description="... and a match has fewer of them, in both frames.")
    local_range: tuple[float, float] = Field(
        (30.0, 100.0), description="Bounds of the sum of similarities to the 10 x 10 cells around a match."
    )
    support_cells: PositiveFloat = Field(
        4.0, description="The two nearest other matches lie closer than this many cells, in both frames."
    )
    support_pixels: PositiveFloat = Field(32.0, description="The same in pixels, once the depth mask has been applied.")


class XFeatOptions(Options):
    """Long-range matches of XFeat, a light network for key points and their descriptors."""

    weights: str = Field("xfeat", description="An asset's name or the path of a weight file.")
    gap: PositiveInt = Field(10, description="Smallest gap of the pairs of frames.")
    stride: PositiveInt = Field(1, description="Only pairs of frames that are multiples of this.")
    points: PositiveInt = Field(4096, description="At most this many key points a frame.")
    similarity: float = Field(0.82, description="Least cosine similarity of a match (mutual nearest neighbours).")
    epipolar: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Pixels from the epipolar line of a rigid scene that a match may err; 0: not checked."
    )


class CotrackerOptions(Options):
    """CoTracker, which the user installs (CC-BY-NC 4.0): as a source of matches and as a tracker of its own."""

    model: Literal["cotracker3-offline", "cotracker3-online", "cotracker2", "cotracker2-online"] = Field(
        "cotracker3-offline", description="The network and how it is run."
    )
    weights: str | None = Field(
        None, description="An asset's name or the path of a weight file; null: the model's own."
    )
    query_stride: PositiveInt = Field(8, description="Source: a grid of points is tracked from every so many frames.")
    grid: PositiveInt = Field(32, description="Source: points along the longer side of the grid.")
    points_at_once: PositiveInt = Field(1024, description="Points in one call (memory grows with it and the frames).")
    visibility: Annotated[float, Field(ge=0, le=1)] = Field(
        0.6, description="Least visibility times confidence that counts as visible."
    )
    cycle_threshold: PositiveFloat = Field(
        3.0, description="Source: tracked back from its end a point returns within this many pixels."
    )
    cycle_check: bool = Field(True, description="Source: track back and compare (doubles the work).")
    max_gap: PositiveInt | None = Field(None, description="Source: largest gap of the pairs; null: any.")

    @property
    def weights_or_default(self) -> str:
        """The weights that are used: an asset's name or a path."""
        return self.weights or self.model.replace("cotracker2-online", "cotracker2")


class TrackFileOptions(Options):
    """Tracks that were made elsewhere (CoTracker, TAPIR, everypoint) as a source of matches."""

    file: str | None = Field(
        None,
        description=".npz with tracks and visibility; {video} stands for the name; null: NAME.tracks.npz beside it.",
    )
    visibility: Annotated[float, Field(ge=0, le=1)] = Field(0.9, description="Least visibility that counts.")
    gap: PositiveInt = Field(1, description="Smallest gap of the pairs of frames.")
    max_gap: PositiveInt | None = Field(None, description="Largest gap of the pairs of frames; null: any.")
    coordinates: Literal["index", "raster"] = Field(
        "index", description="index: the first pixel's centre is at 0 (CoTracker); raster: at 0.5 (TAPIR, TAP-Vid)."
    )
    size: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="[height, width] of the frames the coordinates refer to; null: the original video's."
    )


class ProcessedOptions(Options):
    """Long-range matches that OmniTrackFast's preprocessing left on disk (match/*.npz)."""

    folder: str | None = Field(
        None, description="The folder ({video}: the video's name) that holds match; null: the video's own."
    )


class SparseOptions(Options):
    """Matches besides those of the filtered flows: long-range matches, trackers, what is at hand already."""

    sources: tuple[Literal["mutual", "xfeat", "cotracker", "tracks", "processed"], ...] = Field(
        (), description="Which of them: each is a section below (cotracker's stands beside this one)."
    )
    per_pair: PositiveInt = Field(1024, description="At most this many rows a source and pair.")
    appearance_threshold: float | None = Field(
        None, description="Least cosine similarity of the preset's features at both ends; null: not checked."
    )
    mutual: MutualOptions = MutualOptions()
    xfeat: XFeatOptions = XFeatOptions()
    tracks: TrackFileOptions = TrackFileOptions()
    processed: ProcessedOptions = ProcessedOptions()

    @model_validator(mode="after")
    def _each_once(self) -> SparseOptions:
        if len(set(self.sources)) != len(self.sources):
            raise ValueError("a source is listed twice")
        return self
