"""What each part of OmniMotion buys: the same matches, queries and schedule, one part changed at a time.

    python benchmarks/ablation.py RESULTS/VIDEO WORK --steps 3000

RESULTS/VIDEO is the folder of a video in the results of a run whose presets computed matches; the newest table is
taken. Each variant is trained and read out by the real stages (kind field, the model alone) and scored with the
video's annotations. Finished variants are not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runs import add_overrides, median_error, read_overrides

from everypoint.artifacts import atomic
from everypoint.config.load import deep_merge
from everypoint.config.presets import load_preset
from everypoint.stages import evaluate, optimize, relevant, tracks

REDUCED = Path(__file__).with_name("reduced.yaml")


def _loss(**weights: float) -> dict[str, Any]:
    return {"optimize": {"ray_losses": weights}}


def _rays(**options: Any) -> dict[str, Any]:
    return {"optimize": {"rays": options}}


VARIANTS: dict[str, dict[str, Any]] = {
    "as reduced": {},
    "no colour": _loss(colour=0.0),
    "no flow difference": _loss(flow_difference=0.0),
    "no depth range": _loss(depth_range=0.0),
    "no distortion": _loss(distortion=0.0),
    "acceleration 2": _loss(acceleration=2.0),
    "weights as published": _loss(colour=10.0, distortion=10.0, depth_range=10.0, acceleration=20.0),
    "near mask 0.04": _loss(mask_near=0.04),
    "hard mining: none": _rays(hard_share=0.0),
    "hard mining: all matches (thesis)": _rays(hard_share=1.0),
    "hard mining: measured every fifth only (published)": _rays(refresh=10**9),
    "encoding of canonical points (63)": {"model": {"field": {"encoding": "periodic-63"}}},
    "codes frozen at 0.4": {"model": {"nvp": {"freeze_code": 0.4}}},
    "codes from a hash grid": {"model": {"nvp": {"code": "hash"}}},
    "affine: small": {"model": {"nvp": {"affine": "small"}}},
    "affine: large": {"model": {"nvp": {"affine": "large"}}},
}


def run(video: Path, work: Path, name: str, steps: int, overrides: dict[str, Any]) -> dict[str, Any]:
    """Train, read out and score one variant; returns its scores, seconds and last row."""
    folder = work / video.name / f"{steps}-{name.replace(' ', '-').replace(':', '')}"
    plan = {"optimize": {"steps": steps, "log_every": max(steps // 20, 1)}}
    base = deep_merge(read_overrides([str(REDUCED)], ["omnimotion"])["omnimotion"], overrides)
    preset = load_preset("omnimotion", {"omnimotion": deep_merge(deep_merge(base, plan), VARIANTS[name])})
    frames = str(video / "frames" / "frames.npy")
    matches = max(video.glob("matches/*/matches.npz"), key=lambda path: path.stat().st_mtime)
    common = {"frames": frames, "seed": 0, "device": "cpu", "threads": 1}
    model, found, scores = folder / "model.pt", folder / "tracks.npz", folder / "metrics.json"
    if not scores.exists():
        started = time.process_time()
        part = relevant.optimize(preset)
        part["optimize"] |= {"log_every": max(steps // 20, 1), "tensorboard": False}
        optimize.run(matches=str(matches), preset=part, output=str(model), **common)
        seconds = time.process_time() - started
        tracks.run(
            queries=str(video / "queries" / "queries.npz"),
            preset=relevant.tracks(preset),
            name="omnimotion",
            output=str(found),
            table=str(folder / "tracks.csv"),
            model=str(model),
            **common,
        )
        evaluate.run(
            tracks=str(found),
            annotations=str(video / "queries" / "annotations.npz"),
            frames=frames,
            options={"query_modes": ["strided"], "query_stride": 5},
            video=video.name,
            preset=name,
            output=str(scores),
        )
        atomic.write_json(folder / "seconds.json", seconds)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return {
        **atomic.read_json(scores)["modes"]["strided"],
        "median": median_error(found, video / "queries" / "annotations.npz", 256),
        "seconds": atomic.read_json(folder / "seconds.json"),
        "held_out": rows[-1]["error"],
    }


def lines(video: Path, work: Path, names: list[str], steps: int, overrides: dict[str, Any]) -> Iterator[str]:
    """Rows of Markdown, as they come."""
    yield f"| {video.name}, {steps} steps | AJ | delta_avg | OA | TC | median error px of 256 | held-out px | CPU s |"
    yield "|" + " --- |" * 8
    for name in names:
        one = run(video, work, name, steps, overrides)
        cells = [100 * one[key] for key in ("average_jaccard", "average_pts_within_thresh", "occlusion_accuracy")]
        numbers = [f"{value:.1f}" for value in cells]
        numbers += [f"{one[key]:.2f}" for key in ("temporal_coherence", "median", "held_out")]
        yield f"| {name} | {' | '.join(numbers)} | {one['seconds']:.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS), metavar="VARIANT")
    add_overrides(parser)
    given = parser.parse_args()
    overrides = read_overrides(given.overrides, ["omnimotion"]).get("omnimotion", {})
    for line in lines(given.video, given.work, given.only, given.steps, overrides):
        print(line, flush=True)


if __name__ == "__main__":
    main()
