"""The part of the plan about jobs: into how many a video's work is cut, and what each asks of a cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everypoint.artifacts import atomic
from everypoint.config.options import FeatureOptions, FlowOptions, FramesOptions
from everypoint.config.user import Config
from everypoint.errors import ArtifactError
from everypoint.stages import costs, devices
from everypoint.stages.costs import Cost
from everypoint.stages.plan_correspond import CorrespondencePlan
from everypoint.stages.shards import shard_of
from everypoint.video.sizes import Size, source_sizes, working

UNKNOWN = Size(100, 480, 854)  # stands for a video whose header says nothing; its jobs say what is wrong with it
Ask = Callable[..., int]


class JobsPlan(CorrespondencePlan):
    """Shards, and the functions that give a rule's ``mem_mb`` and ``runtime``."""

    config: Config
    cache: Path | None  # folder that remembers what headers said

    @property
    def gpus(self) -> int:
        """GPUs that a job of a GPU stage asks for."""
        return 0 if self.config.device == "cpu" else 1

    def may_find_gpu(self) -> bool:
        """Whether jobs on this machine may get a GPU. No result hangs on it, only how many go side by side."""
        return self.config.device != "auto" or devices.likely()

    def frames_of(self, name: str) -> FramesOptions:
        """Frame options of a video or shot."""
        raise NotImplementedError

    # --------------------------------------------------------------------------------------------- sizes

    @functools.cached_property
    def _sources(self) -> dict[str, Size | None]:
        return source_sizes(self.entries.values(), self.cache)

    def source_size(self, name: str) -> Size:
        """The size of a video's source as stored."""
        return self._sources[self.parent(name)[0]] or UNKNOWN

    def size(self, name: str) -> Size:
        """The size of the frames that are used of a video or shot: by the header, so it may err by some frames."""
        video, shot = self.parent(name)
        whole = working(self.source_size(video), self.frames_of(video))
        if not shot:
            return Size(max(2, whole.frames), whole.height, whole.width)
        try:
            first, end = atomic.read_json(self.path(video, "shots/shots.json"))["shots"][shot - 1]
        except (ArtifactError, KeyError, IndexError):  # before the checkpoint nobody asks; a damaged list has its job
            return whole
        return Size(max(2, end - first), whole.height, whole.width)

    # -------------------------------------------------------------------------------------------- shards

    def flow_shards(self, video: str, options: FlowOptions) -> int:
        """Jobs that share a video's flows."""
        return options.shards or self._shards(costs.flow(self.size(video), options), "flow", self.size(video).frames)

    def features_shards(self, video: str, options: FeatureOptions) -> int:
        """Jobs that share a video's feature maps."""
        if options.backend in ("processed", "none"):
            return 1
        cost, frames = costs.features(self.size(video), options), self.size(video).frames
        return min(frames, options.shards or self._shards(cost, "features", frames))

    def _shards(self, cost: Cost, stage: str, frames: int) -> int:
        """By the speed of a GPU wherever it runs: results must not be cut anew when the machine changes."""
        return costs.pieces(cost.seconds / costs.GPU_SPEED[stage], self.config.jobs.minutes, frames // 2)

    # ----------------------------------------------------------------------------------------- resources

    def minutes(self, stage: str) -> Ask:
        """The function for a rule's ``runtime``."""

        def ask(wildcards: Any, attempt: int = 1, threads: int = 1) -> int:
            cores = costs.GPU_SPEED[stage] if self.gpus and stage in costs.GPU_SPEED else max(1, threads)
            return costs.ask_minutes(self.cost(stage, wildcards), cores, self.config.jobs.speed, attempt)

        return ask

    def megabytes(self, stage: str) -> Ask:
        """The function for a rule's ``mem_mb``."""

        def ask(wildcards: Any, attempt: int = 1) -> int:
            cost = self.cost(stage, wildcards)
            if self.gpus and stage in costs.GPU_SPEED:
                cost = cost._replace(megabytes=cost.megabytes + costs.CUDA_MB)
            return costs.ask_megabytes(cost, self.config.jobs.memory, attempt)

        return ask

    def cost(self, stage: str, wildcards: Any) -> Cost:
        """What one job of a stage costs."""
        video = wildcards.video
        size = self.size(video)
        if stage in ("frames", "shots"):
            return costs.frames(size, self.source_size(video))
        if stage == "flow":
            return _part(costs.flow(size, self._flows[wildcards.key]), wildcards.shard)
        if stage == "features":
            cost = costs.features(size, self._features[wildcards.key])
            return _part(cost, wildcards.shard) if hasattr(wildcards, "shard") else cost
        if stage == "depth":
            return costs.depth(size, self._depths[wildcards.key])
        if stage == "sparse":
            preset, source = self._sparse[wildcards.key]
            return costs.sparse(size, preset.sparse, source)
        if stage == "matches":
            return costs.matches(size, self._matches[wildcards.key])
        if stage == "optimize":
            return costs.optimize(size, self.presets[wildcards.preset])
        if stage == "tracks":
            return costs.tracks(size, self.presets[wildcards.preset], self.config.queries.grid**2)
        return costs.overlay(size) if stage == "overlay" else costs.small(size)


def _part(cost: Cost, shard: str) -> Cost:
    """The cost of one of n shards, ``3of8``."""
    return cost._replace(seconds=cost.seconds / shard_of(shard)[1])
