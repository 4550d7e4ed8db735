"""Rendered scenes with exact ground truth through the real workflow: error and visibility of the presets.

    python benchmarks/scenes.py --size 256 --frames 24 --methods chain chain-multi cpu
    python benchmarks/scenes.py --size 128 --methods omnimotion --overrides benchmarks/reduced.yaml

The error is the distance to the exact position in px of the rendered frame, over all frames but the query's where the
point is visible; its median is taken over all points and frames of a scene.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from runs import add_overrides, median_error, read_overrides, training_seconds

from everypoint.artifacts import atomic

ROOT = Path(__file__).resolve().parents[1]
SCENES = ("two_planes", "occluder", "parallax", "rotation")


def prepare(
    work: Path, size: int, frames: int, methods: list[str], scenes: list[str], overrides: dict[str, Any]
) -> Path:
    """Render the scenes and write a configuration."""
    for scene in scenes:
        if not (work / "videos" / f"{scene}.annotations.npz").exists():
            command = [sys.executable, "-m", "everypoint", "render-scene", scene, str(work / "videos")]
            subprocess.run([*command, "--size", f"{size}x{size}", "--frames", str(frames)], check=True)
    config = {
        "videos": str(work / "videos"),
        "results": str(work / "results"),
        "methods": methods,
        "overlay": {"enabled": False},
        "overrides": overrides,
    }
    atomic.write_text(work / "config.yaml", yaml.safe_dump(config))
    return work / "config.yaml"


def table(work: Path, methods: list[str], size: int, scenes: list[str]) -> str:
    """Markdown, one row a scene and preset."""
    lines = ["| scene | preset | median error px | AJ | delta_avg | OA | optimise s |", "|" + " --- |" * 7]
    for scene in scenes:
        for method in methods:
            path = work / "results" / scene / "evaluate" / method / "metrics.json"
            scores = atomic.read_json(path)["modes"]["strided"]
            names = ("average_jaccard", "average_pts_within_thresh", "occlusion_accuracy")
            percent = " | ".join(f"{100 * scores[name]:.1f}" for name in names)
            tracks = work / "results" / scene / "tracks" / method / "tracks.npz"
            error = median_error(tracks, work / "videos" / f"{scene}.annotations.npz", size)
            seconds = training_seconds(work / "results" / scene, method)
            lines.append(f"| {scene} | {method} | {error:.2f} | {percent} | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--methods", nargs="+", default=["chain", "chain-multi", "cpu"])
    parser.add_argument("--work", type=Path, default=None, help="folder for inputs and results")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--scenes", nargs="+", default=list(SCENES))
    add_overrides(parser)
    arguments = parser.parse_args()
    work = (arguments.work or ROOT / "benchmarks" / "out" / f"scenes-{arguments.size}").resolve()
    overrides = read_overrides(arguments.overrides, arguments.methods)
    config = prepare(work, arguments.size, arguments.frames, arguments.methods, arguments.scenes, overrides)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(work)]
    subprocess.run([*command, "--configfile", str(config), "--cores", str(arguments.cores)], check=True)
    text = table(work, arguments.methods, arguments.size, arguments.scenes)
    atomic.write_text(work / "table.md", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
