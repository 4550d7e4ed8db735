"""TAP-Vid-DAVIS, first 32 frames, 8 development videos: the presets through the real workflow, and their table.

    python benchmarks/davis32.py --size 256 --methods chain
    python benchmarks/davis32.py --size 480 --methods chain chain-multi cpu
    python benchmarks/davis32.py --size 256 --methods omnimotion --overrides benchmarks/reduced.yaml

Needs the shared data (EVERYPOINT_SHARED, default ../shared). Figures count as "TAP-Vid-DAVIS, first 32 frames" and are
not comparable with published full-length ones.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from runs import add_overrides, read_overrides, training_seconds

from everypoint.artifacts import atomic
from everypoint.artifacts.pickles import load_arrays_pickle
from everypoint.evaluate.protocol import mean_over_videos

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("EVERYPOINT_SHARED", ROOT.parent / "shared"))
COLUMNS = {
    "average_jaccard": "AJ",
    "average_pts_within_thresh": "delta_avg",
    "occlusion_accuracy": "OA",
    "pts_within_1": "<1",
    "pts_within_2": "<2",
    "pts_within_4": "<4",
    "pts_within_8": "<8",
    "pts_within_16": "<16",
    "temporal_coherence": "TC",
}


def prepare(work: Path, size: int, wanted: list[str]) -> dict[str, Any]:
    """Inputs of one resolution, of the wanted videos; returns the part of the configuration that names them."""
    pickle = SHARED / "data" / "tapvid_davis32_dev.pkl"
    if size == 256:
        return {"dataset": str(pickle)}
    videos = work / "videos"
    for name, item in load_arrays_pickle(pickle).items():
        if wanted and name not in wanted:
            continue
        target = videos / name
        if not target.exists():
            shutil.copytree(SHARED / "data" / "davis480" / name / "color", target / "color")
        points, occluded = np.asarray(item["points"], np.float32), np.asarray(item["occluded"], bool)
        atomic.save_npz(videos / f"{name}.annotations.npz", points=points, occluded=occluded)
    return {"videos": str(videos)}


def run(
    work: Path, inputs: dict[str, Any], methods: list[str], overrides: dict[str, Any], cores: int, further: str
) -> Path:
    """Run the workflow; returns its results folder."""
    results = work / "results"
    config = {**inputs, "results": str(results), "methods": methods, "overrides": overrides}
    config["overlay"] = {"enabled": False}
    atomic.write_text(work / "config.yaml", yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(work)]
    command += ["--configfile", str(work / "config.yaml"), "--cores", str(cores)]
    if further:
        command += further.split()
    subprocess.run(command, check=True)
    return results


def table(results: Path, methods: list[str]) -> str:
    """Markdown: the mean of every preset, then every video, in % (TC in px at 256x256)."""
    found = {
        method: {path.parts[-4]: atomic.read_json(path) for path in sorted(results.glob(f"*/evaluate/{method}/*.json"))}
        for method in methods
    }
    header = ["preset", "video", *COLUMNS.values(), "optimise s"]
    rows = []
    for method, videos in found.items():
        scores = {video: content["modes"]["strided"] for video, content in videos.items()}
        if not scores:
            continue
        means, _ = mean_over_videos(list(scores.values()))
        rows.append([f"**{method}**", f"**mean of {len(scores)}**", *_cells(means), ""])
        for video, values in scores.items():
            rows.append([method, video, *_cells(values), training_seconds(results / video, method)])
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(values: dict[str, float]) -> list[str]:
    return [f"{values[key]:.2f}" if key == "temporal_coherence" else f"{100 * values[key]:.1f}" for key in COLUMNS]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, choices=(256, 480), default=256)
    parser.add_argument("--methods", nargs="+", default=["chain"])
    parser.add_argument("--work", type=Path, default=None, help="folder for inputs and results")
    add_overrides(parser)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--videos", nargs="*", default=[], help="480: some of the videos by name; default: all")
    parser.add_argument("--snakemake", default="", help="further arguments for snakemake")
    arguments = parser.parse_args()
    work = (arguments.work or ROOT / "benchmarks" / "out" / f"davis32-{arguments.size}").resolve()
    work.mkdir(parents=True, exist_ok=True)
    overrides = read_overrides(arguments.overrides, arguments.methods)
    inputs = prepare(work, arguments.size, arguments.videos)
    results = run(work, inputs, arguments.methods, overrides, arguments.cores, arguments.snakemake)
    text = table(results, arguments.methods)
    atomic.write_text(work / "table.md", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
