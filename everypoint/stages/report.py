"""Stage report: one page over all videos and presets, of a whole run or of what a run with failures finished."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everypoint import __version__
from everypoint.artifacts import atomic
from everypoint.config.options import ReportOptions
from everypoint.errors import ArtifactError, EverypointError
from everypoint.stages.job import record_path

if TYPE_CHECKING:
    from everypoint.report.data import Failure, PresetReport, StageTime, VideoReport
    from everypoint.stages.plan import Plan

VERSION = 1
SHARED = ("shots", "frames", "queries")  # logs of the stages that every preset of a video needs

logger = logging.getLogger(__name__)


def gather(results: Path, name: str, presets: Mapping[str, Mapping[str, Any]]) -> VideoReport:
    """All that is there of one video.

    ``presets`` says of each preset which logs its jobs have (``logs``), which files it must have made (``products``)
    and where the statistics of its matches are (``statistics``), all relative to the video's folder.
    """
    from everypoint.report.data import VideoReport

    folder = results / name
    failure = _failure(folder, SHARED)
    found = {preset: _preset(folder, preset, parts, failure) for preset, parts in presets.items()}
    logs = dict.fromkeys([*SHARED, *(log for parts in presets.values() for log in parts["logs"])])
    return VideoReport(
        name=name,
        meta=_json(folder / "frames" / "video.json") if failure is None else None,
        results=found if failure is None else {},
        stages=[time for log in logs for time in _times(folder / "logs" / f"{log}.jsonl")],
        failure=failure,
    )


def _preset(folder: Path, preset: str, parts: Mapping[str, Any], shared: Failure | None) -> PresetReport:
    from everypoint.report.data import Failure, PresetReport

    failure = shared or _failure(folder, parts["logs"])
    missing = [item for item in parts["products"] if not (folder / item).exists()]
    if failure is None and missing:
        why = f"{Path(missing[0]).name} was not made; the log of its stage says why."
        failure = Failure(missing[0].split("/")[0], why, str(folder / "logs"))
    if failure is not None:
        return PresetReport(failure=failure)
    clips = {kind: folder / "overlay" / preset / f"{kind}.mp4" for kind in ("overlay", "trails")}
    shown = {kind: path if _listed(path, folder, parts) else None for kind, path in clips.items()}
    metrics = folder / "evaluate" / preset / "metrics.json"
    statistics = parts.get("statistics")
    return PresetReport(
        metrics=_json(metrics) if _listed(metrics, folder, parts) else None,
        filter_stats=_json(folder / statistics) if statistics else None,
        train_rows=_rows(folder / "optimize" / preset / "train.jsonl") if statistics else (),
        **shown,
    )


def _listed(path: Path, folder: Path, parts: Mapping[str, Any]) -> bool:
    """Whether a file belongs to this run; one that an earlier configuration left behind does not."""
    return str(path.relative_to(folder)) in parts["products"]


def _failure(folder: Path, logs: Iterable[str]) -> Failure | None:
    """The first of these jobs that failed when it was last tried."""
    from everypoint.report.data import Failure

    for log in logs:
        record = _json(record_path(folder / "logs" / f"{log}.log"))
        if record:
            return Failure(str(record.get("rule")), str(record.get("sentence")), str(record.get("log")))
    return None


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return atomic.read_json(path)
    except ArtifactError as error:
        logger.warning("%s", error)
        return None


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a last line that was cut off by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            logger.warning("%s holds a line that is not JSON", path)
    return rows


def _times(path: Path) -> list[StageTime]:
    """What a job cost, from Snakemake's benchmark record."""
    from everypoint.report.data import StageTime

    rule, _, key = path.stem.partition(".")
    return [StageTime(rule, key, _number(row.get("s")), _number(row.get("max_rss"))) for row in _rows(path)[-1:]]


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


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
    results = Path(page).parent
    atomic.sweep_stale(results)
    made: dict[str, list[str]] = {}
    for product in products:
        name, _, item = Path(product).relative_to(results).as_posix().partition("/")
        made.setdefault(name, []).append(item)
    found = [gather(results, name, _with_products(presets, items)) for name, items in made.items()]
    write(results, found, presets, ReportOptions.model_validate(dict(options)))
    atomic.write_json(summary, {"everypoint": __version__, "presets": list(presets), "videos": list(made)})


def _with_products(presets: Mapping[str, Any], items: Sequence[str]) -> dict[str, Any]:
    """Each preset with those of a video's files that are its own."""
    return {
        preset: parts
        | {"products": [item for item in items if item.split("/")[1] == preset or item == parts["statistics"]]}
        for preset, parts in presets.items()
    }


def partial(plan: Plan) -> None:
    """The report of what a run with failures finished, and one line a failure on the terminal.

    ``summary.json`` goes, so that the rule makes the report again once every video is done. Called by the workflow
    after a failed run; nothing here may hide the failure that brought us here, so nothing is raised.
    """
    results = Path(plan.results)
    (results / "report" / "summary.json").unlink(missing_ok=True)
    try:
        names = [name for video in plan.videos for name in _entries(plan, video)]
        found = [gather(results, name, plan.report_presets(name)) for name in names]
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
