"""``everypoint evaluate``: tracks of any origin against ground truth, with the protocol beside the numbers."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everypoint.evaluate.files import GroundTruth

ROWS = (  # label, key, factor, unit
    ("AJ", "average_jaccard", 100, "%"),
    ("delta_avg", "average_pts_within_thresh", 100, "%"),
    ("OA", "occlusion_accuracy", 100, "%"),
    *((f"jaccard {x} px", f"jaccard_{x}", 100, "%") for x in (1, 2, 4, 8, 16)),
    *((f"within {x} px", f"pts_within_{x}", 100, "%") for x in (1, 2, 4, 8, 16)),
    ("temporal coherence", "temporal_coherence", 1, "px"),
    ("  predicted visible", "temporal_coherence_predvis", 1, "px"),
    ("PIPs++ d_avg", "d_avg", 1, "%"),
    ("PIPs++ survival_16", "survival_16", 1, "%"),
    ("PIPs++ median L2", "median_l2", 1, "px"),
)


def register(subparsers: argparse._SubParsersAction) -> None:
    """Add the command ``evaluate``."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score tracks of any origin against TAP-Vid ground truth",
        description="Score tracks against ground truth by TAP-Vid's and PIPs++'s metrics, in a raster of 256x256.",
    )
    parser.add_argument(
        "prediction",
        type=Path,
        metavar="PRED",
        help="tracks.npz of everypoint, or an npz with tracks, visibility or occluded, and optionally queries "
        "(t, x, y) and frame_size; or a folder of VIDEO.npz, one for each video of GT",
    )
    parser.add_argument("truth", type=Path, metavar="GT", help="a TAP-Vid pickle or NAME.annotations.npz")
    parser.add_argument("--query-mode", choices=("first", "strided"), default="strided", help="default: strided")
    parser.add_argument("--stride", type=int, default=5, help="frames between the queries of strided (default 5)")
    parser.add_argument("--video", metavar="NAME", help="the video of GT that PRED belongs to")
    parser.add_argument("--order", choices=("auto", "tn", "nt"), default="auto", help="tracks [T,N,2] or [N,T,2]")
    parser.add_argument("--size", metavar="HxW", help="frame size of PRED's coordinates, e.g. 256x256")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score and print. Raises :class:`everypoint.errors.EverypointError` when files do not fit each other."""
    from everypoint.evaluate.files import load_ground_truth
    from everypoint.evaluate.protocol import mean_over_videos, protocol_line

    truths = load_ground_truth(arguments.truth, arguments.video)
    results = [_evaluate(_file_of(arguments, truths, truth), truth, arguments) for truth in truths]
    mode = arguments.query_mode
    mean, counted = mean_over_videos(result["modes"][mode] for result in results)
    if arguments.json:
        print(json.dumps(_without_nan({"videos": results, "mean": {mode: mean}, "counted": {mode: counted}}), indent=1))
        return 0
    for result in results:
        _print_table(result["video"], protocol_line(result["protocol"], mode), result["modes"][mode])
    if len(results) > 1:
        frames = _range(result["protocol"]["frames"] for result in results)
        line = protocol_line(results[0]["protocol"] | {"frames": frames}, mode)
        _print_table(f"mean over {len(results)} videos", line, mean)
        for name, count in counted.items():
            if count < len(results):
                print(f"  {name}: {len(results) - count} of {len(results)} videos have no value and are left out")
    return 0


def _file_of(arguments: argparse.Namespace, truths: list[GroundTruth], truth: GroundTruth) -> Path:
    """The prediction of one video: PRED itself, or its file in the folder PRED."""
    from everypoint.errors import InputError

    if arguments.prediction.is_dir():
        return arguments.prediction / f"{truth.name}.npz"
    if len(truths) > 1:
        raise InputError(
            f"{arguments.truth} has {len(truths)} videos",
            f"{arguments.prediction} holds the tracks of one",
            "say which with --video NAME, or give a folder of VIDEO.npz",
        )
    return arguments.prediction


def _evaluate(path: Path, truth: GroundTruth, arguments: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from everypoint.evaluate import protocol
    from everypoint.evaluate.files import load_prediction
    from everypoint.evaluate.queries import sample_queries

    mode, stride = arguments.query_mode, arguments.stride
    sampled = sample_queries(truth.points, truth.occluded, mode, stride)
    frames, size = truth.occluded.shape[1], _parse_size(arguments.size)
    prediction = load_prediction(path, frames, len(sampled.ids), order=arguments.order, size=size)
    if prediction.rows_known_by == "ids":
        rows = protocol.rows_by_id(prediction.tracks, sampled)
    elif prediction.rows_known_by == "queries":
        rows = protocol.rows_by_query(prediction.tracks, sampled)
    else:
        rows = np.arange(len(sampled.ids))
    scores, curves = protocol.score_rows(prediction.tracks, rows, sampled, mode)
    described = protocol.describe_protocol(prediction.tracks, truth.occluded, [mode], stride)
    described["rows_matched_by"] = prediction.rows_known_by
    described["visibility"] = "predicted" if prediction.has_visibility else "none given: visible inside the frame"
    return {"video": truth.name, "protocol": described, "modes": {mode: scores}, "per_frame": {mode: curves}}


def _parse_size(text: str | None) -> tuple[int, int] | None:
    from everypoint.errors import InputError

    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--size {text} is not a frame size", cure="write HEIGHTxWIDTH, for instance 480x854")
    return int(parts[0]), int(parts[1])


def _range(values: Iterable[int]) -> str:
    values = sorted(values)
    return str(values[0]) if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def _print_table(title: str, line: str, scores: dict[str, float]) -> None:
    print(f"{title}: {line}")
    print(f"  {'queries':<20}{scores['queries']:>9} (PIPs++: {scores['pips_queries']}, those at frame 0)")
    for label, key, factor, unit in ROWS:
        value = scores[key]
        shown = f"{factor * value:9.2f} {unit}" if math.isfinite(value) else f"{value:>9}"
        print(f"  {label:<20}{shown}")


def _without_nan(value: Any) -> Any:
    """JSON has no nan and no infinity: both become null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
