"""What a run will take, before it starts: hours and bytes of every video, by the sizes that headers give.

The jobs are those of the plan: each product is followed through the plan's input functions down to the video. Seconds
come from :mod:`everypoint.stages.costs` and bytes from :mod:`everypoint.stages.space`.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from everypoint.correspond.pairs import count_pairs
from everypoint.stages import costs, space
from everypoint.stages.plan import Plan
from everypoint.stages.plan_jobs import UNKNOWN
from everypoint.stages.queries import grid_shape
from everypoint.stages.shards import shard_of
from everypoint.video.sizes import Size

SHOWN = 20  # videos that are listed
_OF_KEY = ("flow", "features", "depth", "sparse", "matches")
_OF_PRESET = ("optimize", "tracks", "overlay", "evaluate", "export")


class Job(NamedTuple):
    """One job: what it takes, and whether its result is there already."""

    stage: str
    pairs: float  # of flow; a shard has its part
    bytes: float
    core_seconds: float
    gpu_seconds: float
    done: bool


class Sum(NamedTuple):
    """Of several jobs."""

    pairs: float
    bytes: float
    core_seconds: float
    gpu_seconds: float


def total(jobs: Iterable[Job]) -> Sum:
    """What jobs take together."""
    jobs = list(jobs)
    keys = ("pairs", "bytes", "core_seconds", "gpu_seconds")
    return Sum(*(sum(getattr(job, key) for job in jobs) for key in keys))


# ------------------------------------------------------------------------------------------------------- the jobs


def jobs_of(plan: Plan, video: str) -> list[Job]:
    """The jobs of a video, each once. Shots count when they are known; before, the video counts as one shot."""
    listing = plan.path(video, "shots/shots.json")
    names = plan.shots(video, listing) if plan.is_split(video) and os.path.exists(listing) else [video]
    wanted, found = list(plan.products(names)), {}
    while wanted:
        path = wanted.pop()
        place = _place(plan, path)
        if place is None or place in found:
            continue
        found[place] = _job(plan, place, path)
        for value in _inputs(plan, *place).values():
            wanted += [value] if isinstance(value, str) else value
    return list(found.values())


def _place(plan: Plan, path: str) -> tuple[str, str, str, str] | None:
    """(video, stage, key or preset, shard or format) of a result; None for a file of the user's."""
    if not path.startswith(f"{plan.results}/"):
        return None
    video, stage, *rest = path[len(plan.results) + 1 :].split("/")
    if stage in ("frames", "queries", "shots"):
        return video, stage, "", ""
    part = rest[1] if stage == "export" or (stage in ("flow", "features") and "of" in rest[1]) else ""
    return video, stage, rest[0], part


def _wildcards(video: str, stage: str, key: str, shard: str) -> Any:
    values = {"video": video}
    if stage in (*_OF_KEY, *_OF_PRESET):
        values["key" if stage in _OF_KEY else "preset"] = key
    return SimpleNamespace(**values, **({"shard": shard} if shard and stage in _OF_KEY else {}))


def _inputs(plan: Plan, video: str, stage: str, key: str, shard: str) -> Mapping[str, Any]:
    """What a job reads, as far as the plan says; metrics read the tracks."""
    wildcards = _wildcards(video, stage, key, shard)
    if stage == "features":
        return {} if shard else plan.features_inputs(wildcards)
    functions = {
        "queries": plan.query_inputs,
        "flow": plan.flow_inputs,
        "sparse": plan.sparse_inputs,
        "matches": plan.matches_inputs,
        "optimize": plan.optimize_inputs,
        "tracks": plan.tracks_inputs,
        "overlay": plan.overlay_inputs,
        "export": plan.overlay_inputs,  # tracks, which have read what it names besides
    }
    return functions[stage](wildcards) if stage in functions else {}


def _job(plan: Plan, place: tuple[str, str, str, str], path: str) -> Job:
    video, stage, key, shard = place
    wildcards = _wildcards(*place)
    cost = plan.cost(stage, wildcards)
    if stage == "features" and not shard and "parts" in plan.features_inputs(wildcards):
        cost = costs.Cost(0.0, cost.megabytes, costs.START)  # it only joins what its parts have computed
    elsewhere = bool(plan.gpus and plan.may_find_gpu() and stage in costs.GPU_SPEED)
    seconds = cost.elapsed(costs.GPU_SPEED[stage] if elsewhere else 1) / plan.config.jobs.speed
    size, part = plan.size(video), shard_of(shard)[1] if shard and stage in _OF_KEY else 1
    pairs = count_pairs(size.frames, plan._flows[key].pairs) / part if stage == "flow" else 0
    needs = 0.0 if stage == "features" and shard else _bytes(plan, video, stage, key, size) / part + space.LOGS
    return Job(stage, pairs, needs, *((0.0, seconds) if elsewhere else (seconds, 0.0)), os.path.exists(path))


def _bytes(plan: Plan, video: str, stage: str, key: str, size: Size) -> float:
    points = math.prod(grid_shape((size.height, size.width), plan.queries_of(video).grid))
    if stage in ("frames", "queries"):
        return space.frames(size) if stage == "frames" else space.queries(points)
    if stage in ("flow", "features", "depth"):
        options = {"flow": plan._flows, "features": plan._features, "depth": plan._depths}[stage][key]
        return getattr(space, stage)(size, options)
    if stage == "sparse":
        return space.sparse(size, plan._sparse[key][0])
    if stage == "matches":
        return space.matches(size, plan._matches[key])
    if stage == "optimize":
        return space.optimize(size, plan.presets[key])
    if stage == "export":
        return space.export(size, points)
    if stage == "overlay":
        return space.overlay(size, plan.config.overlay.max_side)
    return space.tracks(size, points) if stage == "tracks" else space.NOTES


# ------------------------------------------------------------------------------------------------------- in words


class Estimate(NamedTuple):
    """Of a whole run: lines for people, the bytes of all results, and of those that are still to be written."""

    lines: list[str]
    bytes: float
    to_come: float
    free: int


def estimate(plan: Plan) -> Estimate:
    """What a run of this plan takes, video by video."""
    jobs = {video: jobs_of(plan, video) for video in plan.videos}
    every = [job for found in jobs.values() for job in found]
    drawn = [job.bytes for job in every if job.stage == "overlay"]
    page = space.report(sum(drawn), 2 * len(drawn))
    whole, rest = total(every), total(job for job in every if not job.done)
    free = _free(plan.results)
    lines = _table(plan, jobs, whole)
    lines.append(f"on disk: {_by_stage(every)}; report {amount(page)}")
    if rest != whole:
        lines.append(f"still to come, by what is not there yet: {hours(rest)}, {amount(rest.bytes)}")
    lines.append(f"free in {plan.results}: {amount(free)}")
    if rest.bytes + page > free:
        lines.append(warning(rest.bytes + page, free, plan.results))
    return Estimate(lines, whole.bytes + page, rest.bytes + page, free)


def warning(needed: float, free: float, folder: str) -> str:
    """The line for a disk that is too small."""
    return (
        f"WARNING: {amount(needed)} are to be written and {amount(free)} are free in {folder}: free space, choose "
        "another results folder, or run fewer videos at a time and delete their flow/ and features/ between"
    )


def _table(plan: Plan, jobs: Mapping[str, list[Job]], whole: Sum) -> list[str]:
    width = min(40, max(5, *map(len, [*list(jobs)[:SHOWN], "all 0000 videos"])))
    lines = [f"{'video':<{width}} {'frames':>6} {'size':>10} {'pairs':>7} {'disk':>9}  time"]
    for video in list(jobs)[:SHOWN]:
        size, one = plan.size(video), total(jobs[video])
        doubt = " (its header says nothing: a guess)" if plan.source_size(video) is UNKNOWN else ""
        shape = f"{size.width}x{size.height}"
        numbers = f"{size.frames:>6} {shape:>10} {one.pairs:>7.0f} {amount(one.bytes):>9}  {hours(one)}{doubt}"
        lines.append(f"{video[:width]:<{width}} {numbers}")
    if len(jobs) > SHOWN:
        lines.append(f"... and {len(jobs) - SHOWN} more")
    frames = sum(plan.size(video).frames for video in jobs)
    name = f"all {len(jobs)} videos" if len(jobs) != 1 else "in all"
    numbers = f"{frames:>6} {'':>10} {whole.pairs:>7.0f} {amount(whole.bytes):>9}  {hours(whole)}"
    return [*lines, f"{name:<{width}} {numbers}"]


def _by_stage(jobs: Iterable[Job]) -> str:
    stages: dict[str, float] = {}
    for job in jobs:
        stages[job.stage] = stages.get(job.stage, 0.0) + job.bytes
    largest = sorted(stages.items(), key=lambda item: -item[1])
    return ", ".join(f"{stage} {amount(value)}" for stage, value in largest if value >= 1e5) or "hardly anything"


def amount(number: float) -> str:
    """Bytes for people: ``423 MB``."""
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e6:.1f} MB" if number < 9.95e6 else f"{number / 1e6:.0f} MB"


def hours(one: Sum) -> str:
    """``0.42 core hours and 0.1 GPU hours``."""
    parts = [f"{one.core_seconds / 3600:.2g} core hours"]
    parts += [f"{one.gpu_seconds / 3600:.2g} GPU hours"] if one.gpu_seconds else []
    return " and ".join(parts)


def _free(folder: str) -> int:
    """Bytes that a user may still write in a folder that need not be there yet."""
    there = next(path for path in (Path(folder).absolute(), *Path(folder).absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free
