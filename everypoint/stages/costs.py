"""What jobs cost: seconds and memory of every stage by the size of its video. The one place where they are estimated.

Seconds are those of one core of the machine that the figures were measured on (benchmarks/costs.py compares them with
the records of any run); on a GPU they are divided by ``GPU_SPEED``, which is a careful guess until it is measured.
What a job asks of a cluster is a multiple of the estimate: a job that is killed for its time or memory costs more than
one that asked for too much, and its next try asks for more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from everypoint.artifacts.flows import BLOCK_MB
from everypoint.config.options import DepthOptions, FeatureOptions, FlowOptions, Preset, SparseOptions
from everypoint.correspond.pairs import count_pairs
from everypoint.video.sizes import Size

TIME_SLACK, MEMORY_SLACK = 3.0, 1.5
LEAST_MINUTES, LEAST_MB = 10, 500
START = 2.0  # s of a job without torch
START_TORCH = 8.0
PLAIN_MB, TORCH_MB, CUDA_MB = 150, 750, 3500  # of a process, with torch, and of the host's side of CUDA
GPU_SPEED = {  # cores of the reference machine that one GPU is worth; not measured
    "flow": 60.0,
    "features": 60.0,
    "depth": 60.0,
    "sparse": 30.0,
    "matches": 15.0,
    "optimize": 60.0,
    "tracks": 8.0,
}
MOST_SHARDS = 1024
CLIP_SECONDS, CLIP_MB = 1.5, 1200  # of one training clip of PIPs++ on a core; a guess
TRAINER_MB = 2500  # of one process that trains or reads clips; a guess
_VIT = {"dino-vits16": 6.0, "dino-vits8": 50.0, "dinov2-vits14": 10.0, "dinov2-vits14-reg": 10.0}  # core s a megapixel
_VIT_OTHER = 25.0
_DEPTH = {"depth-anything": 4.0, "zoedepth": 30.0}  # core s a frame
_MIB = 2**20
KEPT_MB = 256  # of features that a walk holds as float32: KEPT of everypoint.track.appearance, too slow to import here


class Cost(NamedTuple):
    """Of one job: core seconds of computing, what start-up adds, and the most memory in MB, all without slack."""

    seconds: float
    megabytes: float
    start: float = START_TORCH
    single: float = 0.0  # core seconds besides, that neither a GPU nor more cores shorten

    def elapsed(self, cores: float) -> float:
        """Seconds on as many cores as ``cores`` (a GPU counts as several)."""
        return self.start + self.single + self.seconds / cores


def ask_minutes(cost: Cost, cores: float, speed: float, attempt: int) -> int:
    """Minutes that a job asks for: the estimate on machines ``speed`` times as fast, its slack, doubled a try."""
    minutes = TIME_SLACK * cost.elapsed(cores) / speed / 60
    return math.ceil(max(LEAST_MINUTES, minutes) * 2 ** (attempt - 1))


def ask_megabytes(cost: Cost, factor: float, attempt: int) -> int:
    """Memory that a job asks for in MB: the estimate times ``factor``, its slack, and half as much again a try."""
    return math.ceil(max(LEAST_MB, MEMORY_SLACK * cost.megabytes * factor) * 1.5 ** (attempt - 1))


def pieces(seconds: float, minutes: float, most: int = MOST_SHARDS) -> int:
    """Into how many jobs of about ``minutes`` work is cut, at most ``most``.

    A power of two: a figure of this file that is measured anew then seldom cuts finished work in another way.
    """
    wanted = max(1.0, seconds / (60 * minutes))
    return 2 ** min(math.ceil(math.log2(wanted)), math.floor(math.log2(max(1, min(most, MOST_SHARDS)))))


# ------------------------------------------------------------------------------------- decoding, drawing, measuring


def frames(size: Size, source: Size) -> Cost:
    """Decode and shrink: all frames of the working size in memory."""
    pixels = size.frames * size.megapixels
    return Cost(0.02 * source.frames * source.megapixels + 0.02 * pixels, PLAIN_MB + 4 * pixels, START)


def overlay(size: Size) -> Cost:
    """Two videos drawn and encoded."""
    return Cost(0.6 * size.frames * size.megapixels, PLAIN_MB + 100 + 20 * size.megapixels, START)


def small(size: Size) -> Cost:
    """Queries, shots' lists and metrics."""
    return Cost(0.01 * size.frames * size.megapixels, PLAIN_MB, START)


# ------------------------------------------------------------------------------------------------ correspondences


def flow(size: Size, options: FlowOptions) -> Cost:
    """All flows of a video; a shard has its part of the seconds."""
    pairs, pixels = count_pairs(size.frames, options.pairs), _flow_megapixels(size, options)
    if options.backend == "raft":
        seconds = pairs * pixels * (1.2 + 0.36 * options.iterations) + 2.5 * size.frames * pixels
        volume = min(5.4 * (pixels * 1e6 / 64) ** 2 * options.batch / _MIB, options.volume_gib * 1024)
        kept = min(4 * pairs * size.megapixels, BLOCK_MB)
        return Cost(seconds, TORCH_MB + volume + 800 * pixels * options.batch + kept)
    each = {"dis": {"ultrafast": 0.05, "fast": 0.1, "medium": 0.3}[options.quality]}.get(options.backend, 0.2)
    return Cost(each * pairs * pixels, PLAIN_MB + 100 * pixels, START)


def _flow_megapixels(size: Size, options: FlowOptions) -> float:
    """Of a frame as the flow sees it."""
    shorter = min(size.height, size.width)
    side = options.resolution or max(shorter, options.upsample_below or 0)
    return size.megapixels * (side / shorter) ** 2


def features(size: Size, options: FeatureOptions) -> Cost:
    """Feature maps of all frames."""
    pixels = size.frames * size.megapixels
    if options.backend == "vit":
        return Cost(_VIT.get(options.model, _VIT_OTHER) * pixels, TORCH_MB + 400 + 1500 * size.megapixels)
    return Cost((1.0 if options.backend == "raft-encoder" else 0.2) * pixels, TORCH_MB + 900 * size.megapixels)


def depth(size: Size, options: DepthOptions) -> Cost:
    """Depth maps of all frames."""
    masked = 2.0 if options.outlier_sigma and options.backend not in ("none", "constant") else 0.05
    seconds = size.frames * (_DEPTH.get(options.backend, 0.0) + masked * size.megapixels)
    network = {"depth-anything": 800, "zoedepth": 3000}.get(options.backend, 0)
    return Cost(seconds, TORCH_MB + network + 400 * size.megapixels)


def sparse(size: Size, options: SparseOptions, source: str) -> Cost:
    """Rows of one sparse source."""
    each = {"cotracker": 60.0, "xfeat": 3.0, "mutual": 6.0}.get(source, 1.0)  # core s a megapixel
    rows = 40e-6 * count_pairs(size.frames, None) * options.per_pair
    return Cost(each * size.frames * size.megapixels, TORCH_MB + 500 * size.megapixels + min(rows, 4096))


def matches(size: Size, preset: Preset) -> Cost:
    """Filter and reservoir."""
    pairs = _pairs(size, preset)
    seconds = pairs * size.megapixels * (0.45 if preset.matches.chain else 0.15)
    return Cost(seconds, TORCH_MB + 800 * size.megapixels + 2 * _table(size, preset))


def _pairs(size: Size, preset: Preset) -> int:
    return count_pairs(size.frames, preset.flow.pairs) if preset.uses_flow else count_pairs(size.frames, None)


def _table(size: Size, preset: Preset) -> float:
    """MB of a preset's matches, at most."""
    rows = _pairs(size, preset) * preset.matches.per_pair
    return min(rows * 12 / _MIB, preset.matches.budget_mb)


# ------------------------------------------------------------------------------------------------ models and tracks


def optimize(size: Size, preset: Preset) -> Cost:
    """The training of one model, all of its steps."""
    each, batch, megabytes = _step(preset)
    chosen = preset.optimize
    seconds = chosen.steps * (0.004 + each * batch)
    if chosen.max_seconds is not None:
        seconds = min(seconds, chosen.max_seconds)
    pixels = 60 * size.frames * size.megapixels if preset.model.kind == "pixels" else 0
    return Cost(seconds, TORCH_MB + megabytes + pixels + 3 * _table(size, preset))


def _step(preset: Preset) -> tuple[float, int, float]:
    """Core seconds a point of a step, points a step, and MB of their activations."""
    chosen, model = preset.optimize, preset.model
    if model.kind == "planes":
        return 18e-6, chosen.sampler.batch, 150
    if model.kind == "cadex":
        batch = chosen.cadex.pairs * chosen.cadex.points + 2 * chosen.cadex.long_points
        return 11e-6, batch, 150 + 6e-3 * batch
    points = chosen.rays.pairs * chosen.rays.points
    if model.kind == "pixels":
        return 300e-6, points, 150 + 0.15 * points
    samples = points * model.field.samples
    wide = (model.nvp.hidden / 256) ** 2
    return (18e-6 + 22e-6 * wide), samples, 100 + 0.03 * samples * (0.25 + 0.75 * wide)


def tracks(size: Size, preset: Preset, points: int) -> Cost:
    """Read-out of ``points`` queries: the walk along the flows on one core, the model on the device."""
    if preset.tracker in ("cotracker", "pips2"):
        return Cost(60.0 * size.frames * size.megapixels, TORCH_MB + 2500)
    carried, video = size.frames * points, 4 * size.frames * size.megapixels
    if preset.tracker == "chain":
        return Cost(3e-5 * carried, PLAIN_MB + video, START)
    walk, held = _walk(size, preset, points) if preset.walks else (0.0, 0.0)
    if preset.tracker == "chain-multi":
        return Cost(0.0, PLAIN_MB + video + held, START, walk)
    return Cost((1e-4 if preset.walks else 5e-4) * carried, TORCH_MB + 300 + 0.05 * points + held, single=walk)


def _walk(size: Size, preset: Preset, points: int) -> tuple[float, float]:
    """Core seconds and MB of the walk, the refinement and the adjustment, with companions where there are some."""
    options, cells = preset.readout.companions, size.megapixels * 1e6 / 64
    each = 2.5e-4 if preset.chain.boundary_radius else 8e-5
    whole = preset.uses_features and (options.every or 4 * points >= cells)  # frames of features as float32
    megabytes = 50 + (min(KEPT_MB, 1024 * cells * size.frames / _MIB) if whole else 0.0)
    if not options.every:
        return each * size.frames * points, megabytes
    companions = options.points * math.ceil(size.frames / options.every)
    steps = companions * min(size.frames, 3 * options.span)
    return each * size.frames * points + 8e-5 * steps, megabytes + 150 + 13 * steps / _MIB
