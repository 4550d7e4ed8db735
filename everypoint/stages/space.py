"""What results take on disk: bytes of every stage by the size of its video. The one place where they are estimated.

Most of it follows from the formats: arrays of known shapes. What hangs on the pictures (overlays, how many matches
survive) was measured; a test compares all of it with real runs. Checkpoints, which are removed, are not counted.
"""

from __future__ import annotations

import math
import re

from everypoint.config.options import DepthOptions, FeatureOptions, FlowOptions, Preset
from everypoint.correspond.pairs import count_pairs
from everypoint.video.sizes import Size

NOTES = 1500  # manifest and description of one stage
LOGS = 700  # log and benchmark of one job
ROW = 11  # of a table of matches: two points of 2 x uint16, flags uint8, score float16
IN_TABLE, IN_CSV = 13, 41  # a point and frame: position, visibility and confidence; a line of text
IN_EXPORT = 22  # of the formats of compositors, which have 14 to 45 characters a point and frame
OVERLAY = 0.22  # a pixel of a drawn frame, both videos together (0.20 to 0.23 at 480p, 0.19 to 0.28 at 96x128)
PAGE, POSTER = 30e3, 35e3  # of the report without videos; the still picture of one clip
EMBEDDED = 200e6  # bytes of clips that the page holds at most, in base64
_CELL, _FEWEST = 8, 8  # pixels a side of a cell of RAFT's features, and cells a side at least
_PATCH = re.compile(r"vit(?P<kind>[sb])(?P<patch>\d+)")


def frames(size: Size) -> float:
    """The working frames and their description, with a time stamp each."""
    return size.frames * (3 * _pixels(size) + 22) + NOTES


def _pixels(size: Size) -> int:
    return size.height * size.width


def flow(size: Size, options: FlowOptions) -> float:
    """All flows of a video: int16 x 2 a pixel and pair; those that are read may bring masks, two bits a pixel."""
    each = 4 * _pixels(size) + 22  # with its place in the lists of the folder
    if options.backend == "processed":
        each += 2 * math.ceil(_pixels(size) / 8)
    return count_pairs(size.frames, options.pairs) * each + NOTES


def features(size: Size, options: FeatureOptions) -> float:
    """Feature maps, float16; those that are read may have any shape, here that of RAFT's."""
    if options.backend == "vit":
        height, width, channels = vit_map(size.height, size.width, options)
    else:
        height, width = (max(_FEWEST, -(-side // _CELL)) for side in (size.height, size.width))
        channels = 128 if "small" in (options.weights_or_default or "") else 256
    return 2 * size.frames * height * width * channels + NOTES


def vit_map(height: int, width: int, options: FeatureOptions) -> tuple[int, int, int]:
    """Cells and channels (h, w, C) of a transformer's map, as its back-end encodes a frame (height, width)."""
    network = _PATCH.search(options.model)
    if network is None:
        raise ValueError(f"the model {options.model} has no patch in its name")
    patch, channels = int(network["patch"]), {"s": 384, "b": 768}[network["kind"]]
    if options.resize == "omnitrackfast":
        return max(height // patch, 1), max(width // patch, 1), channels
    short = options.short_side or (420 if options.model.startswith("dinov2") else 480)
    group = 64 // patch * patch
    long = short * max(height, width) // min(height, width) // group * group
    high, wide = (long, short) if height > width else (short, long)
    return high // patch, wide // patch, channels


def depth(size: Size, options: DepthOptions) -> float:
    """Depth float16 and its mask: on the grid of a network's input, one cell for a constant, else as the frames."""
    if options.backend == "constant":
        cells = 1.0
    elif options.backend == "depth-anything":  # the shorter side has 518 cells
        cells = 518**2 * max(size.height, size.width) / min(size.height, size.width)
    elif options.backend == "zoedepth":  # at most 384 x 512
        cells = 384 * 512
    else:
        cells = _pixels(size)
    return 3 * size.frames * cells + NOTES


def sparse(size: Size, preset: Preset) -> float:
    """The table of one sparse source, at most: every pair with all the rows that it may have."""
    pairs = count_pairs(size.frames, None)
    rows = min(preset.sparse.per_pair, _pixels(size)) * pairs * ROW
    return min(rows, preset.matches.budget_mb * 1e6) + 24 * pairs + NOTES


def matches(size: Size, preset: Preset) -> float:
    """The table of a preset: the reservoir of each pair full, which all but a few percent are, within its budget."""
    pairs = count_pairs(size.frames, preset.flow.pairs) if preset.uses_flow else 0
    rows = min(preset.matches.per_pair, _pixels(size)) * pairs * ROW
    rows += sum(sparse(size, preset) for _ in preset.sparse.sources)
    return min(rows, preset.matches.budget_mb * 1e6) + 24 * pairs + 4 * NOTES


def optimize(size: Size, preset: Preset) -> float:
    """A model: planes and a coarse depth, one depth a pixel, or a fixed number of weights."""
    model, coarse = preset.model, _pixels(size) * preset.model.depth_scale**2
    if model.kind in ("planes", "cadex"):
        nodes = model.blocks * model.plane_channels * sum(side**2 for side in model.plane_resolutions)
        each = 4000 + 600 * model.plane_channels  # weights of a coupling's small network, and names of its tensors
        content = 4 * (nodes + size.frames * coarse) + each * model.blocks
    elif model.kind == "pixels":
        content = 7.1e6 + 4 * size.frames * _pixels(size)
    else:
        content = 10.2e6
    rows = preset.optimize.steps / preset.optimize.log_every
    return content + 300 * rows + NOTES


def queries(points: int) -> float:
    """Queries and where they come from; ground truth is small beside them."""
    return 60 * points + NOTES


def tracks(size: Size, points: int) -> float:
    """``tracks.npz`` and ``tracks.csv``."""
    return points * (size.frames * (IN_TABLE + IN_CSV) + 44) + NOTES


def export(size: Size, points: int) -> float:
    """Tracks for another program, at most: a line of text a point and frame."""
    return points * (size.frames * IN_EXPORT + 300) + NOTES


def overlay(size: Size, max_side: int) -> float:
    """Two videos of the tracks, drawn at the size of :func:`everypoint.report.overlay.overlay_size`."""
    longer = max(size.height, size.width)
    scale = 2.0 if 2 * longer <= max_side else min(1.0, max_side / longer)
    return OVERLAY * size.frames * _pixels(size) * scale**2 + 3000


def report(overlays: float, clips: int) -> float:
    """The page, which holds the overlays of a run as long as they are not too many."""
    return PAGE + 4 / 3 * (min(overlays, EMBEDDED) + POSTER * clips)
