"""Options of a preset for what is computed densely: pairs, flow, features, depth, and the filter of the flows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from everypoint.config.options_base import Options


class PairOptions(Options):
    """Which ordered pairs of frames get a flow; always in both directions."""

    plan: Literal["exhaustive", "window", "intervals"] = Field("intervals", description="The rule for pairs.")
    window: PositiveInt = Field(12, description="plan window: all gaps up to this.")
    intervals: tuple[PositiveInt, ...] = Field((1, 2, 4, 8, 16, 32), description="plan intervals: exactly these gaps.")
    direct: bool = Field(
        False, description="Also the pairs between every query frame and all frames (needed by the direct chains)."
    )
    shortest: PositiveInt = Field(1, description="Pairs of a smaller gap are left out of any plan.")


class FlowOptions(Options):
    """Optical flow between the planned pairs."""

    backend: Literal["raft", "dis", "processed", "none"] = Field(
        "raft",
        description="raft: the network; dis: OpenCV's DIS, weight-free; processed: read from an OmniMotion folder; "
        "none: no flows (matches come from sparse.sources alone).",
    )
    weights: str = Field("raft-things", description="raft: an asset's name or the path of a weight file.")
    rival: str | None = Field(
        None,
        description="raft: weights of a second network, which takes a point's step in a walk where its landing looks "
        "better than the first's; null for none.",
    )
    rival_gap: PositiveInt = Field(8, description="The rival's flows span at least this many frames.")
    rival_upsample_below: PositiveInt | None = Field(
        None, description="Of the rival's flows: instead of upsample_below; null: as that says."
    )
    iterations: PositiveInt = Field(12, description="raft: number of updates (OmniMotion: 20).")
    warm_start: bool = Field(
        False, description="raft: start each flow from the one to the target before, outwards from the source."
    )
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="raft: arithmetic of the convolutions; correlation and positions stay in float32."
    )
    resolution: PositiveInt | None = Field(
        None, description="Compute the flow with the shorter side resized to this many pixels; null: frame size."
    )
    upsample_below: PositiveInt | None = Field(
        None, description="Frames whose shorter side is below this are enlarged to it first; null for never."
    )
    quality: Literal["ultrafast", "fast", "medium"] = Field("medium", description="dis: OpenCV's preset.")
    folder: str | None = Field(
        None,
        description="processed: the folder with raft_exhaustive ({video}: the video's name); null: the video's own.",
    )
    batch: PositiveInt = Field(1, description="raft: pairs a network call (memory grows with it).")
    lookup: Literal["auto", "volume", "sampled"] = Field(
        "auto",
        description="raft: hold all correlations of a pair, or compute those looked up; auto: as volume_gib says.",
    )
    volume_gib: PositiveFloat = Field(
        4.0, description="raft: lookup auto holds the correlations of a call up to this size, in GiB."
    )
    compile: bool = Field(False, description="raft: compile the update with torch.compile (minutes once; for CUDA).")
    shards: PositiveInt | None = Field(
        None, description="Jobs that share the source frames of one video; null: as many as jobs.minutes asks for."
    )
    pairs: PairOptions = PairOptions()

    @property
    def of_rival(self) -> FlowOptions | None:
        """The options of the second network's flows; None where there is none."""
        if self.backend != "raft" or self.rival is None:
            return None
        pairs = self.pairs.model_copy(update={"shortest": max(self.rival_gap, self.pairs.shortest)})
        enlarged = self.rival_upsample_below or self.upsample_below
        own = {"rival": None, "rival_upsample_below": None, "weights": self.rival}
        return self.model_copy(update=own | {"upsample_below": enlarged, "pairs": pairs})


class FeatureOptions(Options):
    """Per-frame features, for the appearance check and for mutual nearest neighbours."""

    backend: Literal["raft-encoder", "vit", "processed", "none"] = Field(
        "raft-encoder",
        description="raft-encoder: RAFT's 1/8 feature map; vit: DINO or DINOv2; processed: read from an OmniMotion "
        "folder; none: no appearance check.",
    )
    weights: str | None = Field(
        None,
        description="An asset's name or the path of a weight file; vit: also timm or timm@REVISION, timm's hub; null: "
        "raft-things, or the asset of vit's model.",
    )
    model: Literal[
        "dino-vits16", "dino-vits8", "dinov2-vits14", "dinov2-vits14-reg", "dinov2-vitb14", "dinov2-vitb14-reg"
    ] = Field("dino-vits16", description="vit: the network.")
    resize: Literal["omnimotion", "omnitrackfast"] = Field(
        "omnimotion",
        description="vit: omnimotion: the shorter side becomes short_side, the other whole groups of four patches (and "
        "64 pixels with dino-vits8); omnitrackfast: both sides are cut down to whole patches.",
    )
    short_side: PositiveInt | None = Field(
        None, description="vit, resize omnimotion: pixels of the shorter side; null: 480, with patches of 14 420."
    )
    folder: str | None = Field(
        None,
        description="processed: the folder with features/dino ({video}: the video's name); null: the video's own.",
    )
    shards: PositiveInt | None = Field(
        None, description="Jobs that share the frames of one video; null: as many as jobs.minutes asks for."
    )

    @property
    def weights_or_default(self) -> str | None:
        """The weights that are used: an asset's name or a path; None where the back-end needs none."""
        return self.weights or {"raft-encoder": "raft-things", "vit": self.model}.get(self.backend)


class DepthOptions(Options):
    """A depth prior of every frame, and which of its pixels can be relied on."""

    backend: Literal["none", "constant", "file", "depth-anything", "zoedepth"] = Field(
        "none",
        description="none; constant: one depth everywhere; file: a folder of .npy, .npz or 16-bit .png; "
        "depth-anything: Depth Anything V2; zoedepth: ZoeDepth.",
    )
    weights: str | None = Field(
        None, description="An asset's name, a weight file or a model's folder; null: the back-end's own asset."
    )
    value: PositiveFloat = Field(1.0, description="constant: the depth in metres.")
    folder: str | None = Field(
        None,
        description="file: the folder, {video} stands for the video's name; null: raw_depth/depth in the video's own.",
    )
    unit: PositiveFloat = Field(0.001, description="file: metres a step of 16-bit pictures (other files hold metres).")
    inverse: bool = Field(False, description="file: the values are inverse depth (disparity).")
    outlier_sigma: Annotated[float, Field(ge=0)] = Field(
        2.0, description="A point this many standard deviations off in distance to its neighbours is masked; 0: none."
    )
    outlier_neighbours: PositiveInt = Field(20, description="Neighbours of a point in the cloud.")
    fov: Annotated[float, Field(gt=0, lt=180)] = Field(
        40.0, description="Horizontal field of view in degrees with which pixels become a cloud of points."
    )

    @property
    def weights_or_default(self) -> str | None:
        """The weights that are used: an asset's name or a path; None where the back-end needs none."""
        own = {"depth-anything": "depth-anything-v2-small", "zoedepth": "zoedepth-kitti"}
        return self.weights or own.get(self.backend)


class MatchOptions(Options):
    """Filter of the flows and the reservoir of matches."""

    cycle_threshold: PositiveFloat = Field(3.0, description="Largest forward-backward error in pixels.")
    appearance_threshold: float = Field(0.5, description="Least cosine similarity of features, for gaps from 3 on.")
    appearance_gap: PositiveInt = Field(3, description="Smallest gap at which the appearance check applies.")
    rescue_gap: Annotated[int, Field(ge=0)] = Field(2, description="Largest gap at which occluded pixels are rescued.")
    rescue_factor: PositiveFloat = Field(
        1.5, description="A rescued pixel's round trip errs by more than this x cycle."
    )
    chain: bool = Field(
        False, description="Densify distant pairs: adjacent flows are added up where the direct flow is not trusted."
    )
    chain_appearance: float = Field(0.5, description="chain: least cosine similarity of features at every step.")
    chain_colour: PositiveFloat = Field(
        0.3, description="chain: largest colour difference to the source at every step (length in RGB of 0..1)."
    )
    stored_masks: bool = Field(
        True,
        description="flow.backend processed: trust the masks that lie beside its flows instead of filtering again.",
    )
    depth_mask: bool = Field(True, description="Only pixels that the depth prior's outlier mask keeps, where it is on.")
    per_pair: PositiveInt = Field(8192, description="At most this many matches a pair are kept (the reservoir).")
    budget_mb: PositiveFloat = Field(
        512.0, description="At most this many megabytes of matches; per_pair shrinks to fit."
    )
    count_weight: bool = Field(True, description="Draw pixels with weight 1 / sqrt(count + 1), as OmniMotion.")
