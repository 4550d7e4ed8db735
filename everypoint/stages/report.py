"""Stage report: one page over all videos and presets, of a whole run or of what a run with failures finished."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everypoint import __version__
from everypoint.artifacts import atomic
from everypoint.config.options import ReportOptions
from everypoint.errors import ArtifactError, EverypointError, InputError
from everypoint.stages.job import record_path
from everypoint.video.paths import natural_key

if TYPE_CHECKING:
    from everypoint.report.collect import Benchmark
    from everypoint.report.data import Failure, VideoReport
    from everypoint.stages.plan import Plan

VERSION = 1
SHARED = ("shots", "frames", "queries")  # logs of the stages that every preset of a video needs

logger = logging.getLogger(__name__)


def gather(results: Path, made: Mapping[str, Sequence[str]], presets: Mapping[str, Any]) -> list[VideoReport]:
    """All that is there of each video, and why the rest is not.

    Args:
        results: the folder of results.
        made: video -> the files that this run makes of it, relative to the video's folder. Others, which an earlier
            configuration left behind, are not shown.
        presets: see :meth:`everypoint.stages.plan.Plan.report_presets`.
    """
    from everypoint.report.collect import collect

    failures = {name: _failures(results / name, items, presets) for name, items in made.items()}
    videos = collect(
        results,
        list(made),
        {name: parts["matches"] for name, parts in presets.items()},
        benchmarks={name: _benchmarks(results / name / "logs", presets) for name in made},
        failures=failures,
    )
    return [_current(video, made[video.name], failures[video.name]) for video in videos]


def _failures(folder: Path, made: Sequence[str], presets: Mapping[str, Any]) -> dict[str, Failure]:
    """Why the video, or some preset on it, was not finished; the empty preset stands for the video as a whole."""
    from everypoint.report.data import Failure

    shared = _failure(folder, SHARED)
    if shared is not None:
        return {"": shared}
    found = {}
    for preset, parts in presets.items():
        failure = _failure(folder, parts["logs"])
        missing = [item for item in made if _belongs(item, preset, parts) and not (folder / item).exists()]
        if failure is None and missing:
            why = f"{missing[0]} was not made; the log of its stage says why."
            failure = Failure(missing[0].split("/")[0], why, f"{folder}/logs")
        if failure is not None:
            found[preset] = failure
    return found


def _failure(folder: Path, logs: Iterable[str]) -> Failure | None:
    """The first of these jobs that failed when it was last tried."""
    from everypoint.report.data import Failure

    for log in shard_logs(folder / "logs", logs):
        path = record_path(folder / "logs" / f"{log}.log")
        if path.exists():
            try:
                record = atomic.read_json(path)
            except ArtifactError as error:
                record = {"rule": log.split(".")[0], "sentence": str(error), "log": str(path)}
            return Failure(record["rule"], record["sentence"], record["log"])
    return None


def shard_logs(folder: Path, logs: Iterable[str]) -> Iterator[str]:
    """Names of logs; those of all shards in place of ``flow.KEY.*``, of the newest cut where there were several."""
    for log in logs:
        if not log.endswith(".*"):
            yield log
            continue
        cuts: dict[int, list[Path]] = {}
        for path in folder.glob(f"{log[:-1]}*of*.log"):
            cuts.setdefault(int(path.stem.rpartition("of")[2]), []).append(path)
        if cuts:
            newest = max(cuts.values(), key=lambda paths: max(path.stat().st_mtime for path in paths))
            yield from sorted((path.stem for path in newest), key=natural_key)


def _belongs(item: str, preset: str, parts: Mapping[str, Any]) -> bool:
    """Whether a file of a video is this preset's, its own or a shared one it needs."""
    stage, key = item.split("/")[:2]
    return key == preset or stage == "frames" or (stage == "matches" and key == parts["matches"])


def _benchmarks(folder: Path, presets: Mapping[str, Any]) -> list[Benchmark]:
    """The benchmark files of a video's jobs; shards of one stage have one key."""
    from everypoint.report.collect import Benchmark

    found = []
    named = dict.fromkeys([*SHARED, *(log for parts in presets.values() for log in parts["logs"])])
    for log in shard_logs(folder, named):
        rule, _, key = log.partition(".")
        found.append(Benchmark(rule, key.partition(".")[0], folder / f"{log}.jsonl"))
    return found


def _current(video: VideoReport, made: Sequence[str], failures: Mapping[str, Failure]) -> VideoReport:
    """A video without what an earlier run or configuration left behind."""
    from everypoint.report.data import PresetReport

    if "" in failures:
        return dataclasses.replace(video, meta=None, results={}, stages=())
    results = {}
    for preset, one in video.results.items():
        if preset in failures:
            results[preset] = PresetReport(failure=failures[preset])
            continue
        absent = {}
        for name, item in (("overlay", "overlay"), ("trails", "overlay"), ("metrics", "evaluate")):
            if not any(path.startswith(f"{item}/{preset}/") for path in made):
                absent[name] = None
        results[preset] = dataclasses.replace(one, **absent)
    return dataclasses.replace(video, results=results)


def write(results: Path, videos: Sequence[VideoReport], presets: Mapping[str, Any], options: ReportOptions) -> None:
    """Write ``report.html`` and ``metrics.csv`` into the folder of results."""
    from everypoint.config.options import Preset
    from everypoint.report.html import write_report
    from everypoint.report.software import software_used

    used = {name: Preset.model_validate(parts["preset"]) for name, parts in presets.items()}
    write_report(results / "report.html", results / "metrics.csv", videos, options, software_used(used))


def run(
    *, products: Sequence[str], presets: Mapping[str, Any], options: Mapping[str, Any], page: str, summary: str
) -> None:
    """Write ``report.html`` (``page``), ``metrics.csv`` beside it and ``summary.json``, the list of what they show.

    ``products`` are the files that the rule waited for, ``RESULTS/<video>/<stage>/...``.
    """
    if not products:  # the workflow may be there for the training of PIPs++ alone
        raise InputError("no videos are given", cure="set videos to a folder, or name a target such as pips_export")
    results = Path(page).parent
    atomic.sweep_stale(results)
    made: dict[str, list[str]] = {}
    for product in products:
        name, _, item = Path(product).relative_to(results).as_posix().partition("/")
        made.setdefault(name, []).append(item)
    write(results, gather(results, made, presets), presets, ReportOptions.model_validate(dict(options)))
    atomic.write_json(summary, {"everypoint": __version__, "presets": list(presets), "videos": list(made)})


def partial(plan: Plan) -> None:
    """The report of what a run with failures finished, and one line a failure on the terminal.

    ``summary.json`` goes, so that the rule makes the report again once every video is done. Called by the workflow
    after a failed run; nothing here may hide the failure that brought us here, so nothing is raised.
    """
    if not plan.entries:
        return
    results = Path(plan.results)
    (results / "report" / "summary.json").unlink(missing_ok=True)
    try:
        names = [name for video in plan.videos for name in _entries(plan, video)]
        found = gather(results, {name: plan.made(name) for name in names}, plan.report_presets())
        _tell(found)
        write(results, found, plan.report_presets(), plan.config.report)
        _say(f"everypoint: the report of what is finished is {results}/report.html")
    except EverypointError as error:
        _say(f"everypoint: there is no report: {error}")
    except Exception as error:  # noqa: BLE001 - see above
        _say(f"everypoint: there is no report, by a defect of everypoint ({type(error).__name__}: {error})")


def _entries(plan: Plan, video: str) -> list[str]:
    """The video, or its shots when it is split and they were found."""
    listing = Path(plan.path(video, "shots/shots.json"))
    failed = record_path(plan.path(video, "logs/shots.log")).exists()
    return plan.shots(video, listing) if plan.is_split(video) and listing.exists() and not failed else [video]


def _tell(videos: Sequence[VideoReport]) -> None:
    failed = [video for video in videos if video.failures]
    if failed:
        _say(f"\neverypoint: {len(failed)} of {len(videos)} videos did not finish:")
    for video in failed:
        for preset, failure in video.failures:
            where = f"{video.name}, {preset}" if preset else video.name
            _say(f"  {where}: {failure.sentence} (log: {failure.log})")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the terminal of the person who runs the workflow
