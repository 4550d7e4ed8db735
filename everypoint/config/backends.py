"""Every back-end that a preset may choose: what it does, what it needs, what it costs.

The reference page is made from this list. Costs are of two CPU cores (environment and commands: benchmarks/RESULTS.md)
at 854x480 unless it says otherwise.
"""

from __future__ import annotations

from typing import NamedTuple


class Backend(NamedTuple):
    """One back-end of one option."""

    key: str  # the option that names it
    name: str
    what: str
    needs: str  # weights and packages with their licences
    options: str  # keys of its own
    cost: str


BACKENDS = (
    Backend(
        "flow.backend",
        "raft",
        "RAFT, large or small as the weight file says; OmniMotion: exhaustive pairs, warm start, 20 iterations.",
        "weights raft-things (BSD-3-Clause) or another raft-* asset; no package besides",
        "weights, iterations, warm_start, precision, resolution, upsample_below, batch, lookup, volume_gib, compile",
        "2.5 s a pair at 12 iterations (one thread), 0.4 GiB; 1080p about 16 s, 1.7 GiB",
    ),
    Backend(
        "flow.backend",
        "dis",
        "OpenCV's dense inverse search: no weights, far quicker, less exact.",
        "nothing",
        "quality, resolution, upsample_below",
        "quality ultrafast 5 ms a pair, medium 29 ms (one thread)",
    ),
    Backend(
        "flow.backend",
        "processed",
        "Flows and masks that OmniMotion's or OmniTrackFast's preprocessing left on disk.",
        "such a folder",
        "folder, and matches.stored_masks",
        "reading: seconds a source frame",
    ),
    Backend(
        "flow.backend",
        "none",
        "No flows: matches come from sparse.sources, tracks from the model alone or from CoTracker.",
        "nothing",
        "",
        "nothing",
    ),
    Backend(
        "features.backend",
        "raft-encoder",
        "RAFT's own feature map at 1/8 of the frame; stands in where no vision transformer's weights are at hand.",
        "weights raft-things (BSD-3-Clause)",
        "weights",
        "0.3 s a frame (two threads)",
    ),
    Backend(
        "features.backend",
        "vit",
        "DINO ViT-S/16 and S/8, DINOv2 ViT-S/14 and B/14, the latter also with registers, through timm.",
        "weights of the model's name (Apache-2.0), fetched from their publisher or given as a file",
        "model, weights, resize, short_side",
        "dino-vits16: 0.6 s a frame (two threads), dinov2-vitb14 about three times that; 1.2 MB a frame on disk",
    ),
    Backend(
        "features.backend",
        "processed",
        "Features that OmniMotion's or OmniTrackFast's preprocessing left on disk.",
        "such a folder",
        "folder",
        "reading",
    ),
    Backend("features.backend", "none", "No appearance check.", "nothing", "", "nothing"),
    Backend("depth.backend", "none", "No depth prior.", "nothing", "", "nothing"),
    Backend("depth.backend", "constant", "One depth everywhere, nothing masked.", "nothing", "value", "nothing"),
    Backend(
        "depth.backend",
        "file",
        "A folder of .npy, .npz or 16-bit .png, one a frame; OmniTrackFast's raw_depth as it is.",
        "such a folder",
        "folder, unit, inverse, outlier_sigma, outlier_neighbours, fov",
        "reading, and 0.25 s a frame for the outliers",
    ),
    Backend(
        "depth.backend",
        "depth-anything",
        "Depth Anything V2 small: relative depth, one scale a video.",
        "weights depth-anything-v2-small (Apache-2.0); package transformers (Apache-2.0)",
        "weights, outlier_sigma, outlier_neighbours, fov",
        "about 3.4 s a frame (one thread)",
    ),
    Backend(
        "depth.backend",
        "zoedepth",
        "ZoeDepth K: metric depth, as OmniTrackFast uses it.",
        "weights zoedepth-kitti (MIT) or zoedepth-nyu; package transformers (Apache-2.0)",
        "weights, outlier_sigma, outlier_neighbours, fov",
        "about 34 s a frame (one thread, estimated); the weights are 1.4 GB",
    ),
    Backend(
        "sparse.sources",
        "mutual",
        "Mutual nearest neighbours of feature cells under OmniTrackFast's eight rules, long-range.",
        "weights of its features: dinov2-vits14 (Apache-2.0) unless others are chosen",
        "sparse.mutual",
        "40 ms a pair of 34 x 61 cells (one thread); pairs grow with the square of the frames, see stride",
    ),
    Backend(
        "sparse.sources",
        "xfeat",
        "Key points and descriptors of XFeat, mutual nearest neighbours, long-range.",
        "weights xfeat (Apache-2.0)",
        "sparse.xfeat",
        "32 ms a frame and 50 ms a pair (one thread)",
    ),
    Backend(
        "sparse.sources",
        "cotracker",
        "Tracks of CoTracker from a grid of points, checked by tracking back.",
        "the package cotracker, which you install, and its weights (CC-BY-NC-4.0: not for commercial use)",
        "cotracker",
        "not measured: the package could not be installed where this was written",
    ),
    Backend(
        "sparse.sources",
        "tracks",
        "Tracks that CoTracker, TAPIR or everypoint made before (.npz).",
        "such a file",
        "sparse.tracks",
        "reading",
    ),
    Backend(
        "sparse.sources",
        "processed",
        "Long-range matches that OmniTrackFast's preprocessing left on disk.",
        "such a folder",
        "sparse.processed",
        "reading",
    ),
    Backend(
        "tracker",
        "chain",
        "Adjacent flows added up, occluded for good once a check fails.",
        "flows",
        "chain.cycle_threshold",
        "seconds a video, besides the flows",
    ),
    Backend(
        "tracker",
        "chain-multi",
        "At every frame the best of flows over several gaps, refined from both directions of time.",
        "flows; features are optional",
        "chain, readout",
        "seconds a video, besides the flows",
    ),
    Backend(
        "tracker",
        "optimize",
        "One motion model a video fitted to the table of matches, read out alone or refined by the flows.",
        "matches of any source",
        "matches, sparse, model, optimize, readout",
        "a minute a video (32 frames) with the preset cpu, besides the flows",
    ),
    Backend(
        "tracker",
        "cotracker",
        "CoTracker alone, a baseline.",
        "the package cotracker, which you install, and its weights (CC-BY-NC-4.0: not for commercial use)",
        "cotracker",
        "not measured: the package could not be installed where this was written",
    ),
    Backend(
        "tracker",
        "pips2",
        "PIPs++ alone, a baseline; it predicts no visibility, so points are tracked back and compared.",
        "weights pips2 (MIT), which you get by hand: no address gives the file alone",
        "pips",
        "about 40 s for 256 points and 48 frames one way (one thread), the ways back on top; 2 GiB",
    ),
)
