"""What exhaustive pairs cost on disk and in memory: flows, filter, table.

    python benchmarks/filter.py WORK --frames 100 --size 480x854 --chain

A rendered scene, DIS flows (ultrafast) between all ordered pairs, features of the shape of DINO's at 480p, then the
stage `matches` in a process of its own, whose largest resident set is the figure. Flows that WORK holds already are
used again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import sha256_of
from everypoint.artifacts.matches import load_matches
from everypoint.artifacts.video import VideoMeta, save_video
from everypoint.config.options import FlowOptions, MatchOptions, PairOptions
from everypoint.correspond.run import compute_flows
from everypoint.match.budget import ROW_BYTES
from everypoint.scenes.presets import preset
from everypoint.scenes.render import render

STAGE = """
import json, sys
from everypoint.stages import matches
matches.run(**json.loads(sys.argv[1]))
"""


def prepare(work: Path, count: int, size: tuple[int, int]) -> None:
    """Frames, features and flows of a rendered scene."""
    frames = render(preset("parallax", size, count, 0), samples=2)
    meta = VideoMeta(
        "scene", "", "0" * 64, 25.0, count, *size, *size, 0, 1, [t / 25 for t in range(count)], [], []
    )  # fmt: skip
    save_video(work / "frames", frames, meta)
    random = np.random.default_rng(0)
    cells = (count, 30, round(30 * size[1] / size[0]), 384)
    maps = (1 + 0.5 * random.standard_normal(cells, np.float32)).astype(np.float16)  # cosines around 0.8
    atomic.save_npy(work / "features.npy", maps)
    description = {"made_by": {}, "shape": cells, "sha256": sha256_of(work / "features.npy")}
    atomic.write_json(work / "features.json", description)
    options = FlowOptions(backend="dis", quality="ultrafast", pairs=PairOptions(plan="exhaustive"))
    if not (work / "flow").exists():
        compute_flows(frames, options, [], (0, 1), work / "flow")


def matches(work: Path, options: MatchOptions) -> tuple[float, float]:
    """Run the stage; returns (seconds, largest resident set in GiB)."""
    arguments = {
        "meta": str(work / "frames" / "video.json"),
        "frames": str(work / "frames" / "frames.npy"),
        "flow": [str(work / "flow")],
        "features": str(work / "features.npy"),
        "options": {"matches": options.model_dump(mode="json"), "appearance_threshold": None},
        "seed": 0,
        "output": str(work / "matches.npz"),
        "statistics": str(work / "filter.json"),
        "device": "cpu",
        "threads": 1,
    }
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", STAGE, json.dumps(arguments)], check=True)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def main() -> None:
    """Prepare, measure, print one row of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--size", default="480x854")
    parser.add_argument("--budget", type=float, default=MatchOptions().budget_mb)
    parser.add_argument("--chain", action="store_true")
    given = parser.parse_args()
    size = tuple(map(int, given.size.split("x")))
    prepare(given.work, given.frames, size)
    files = list((given.work / "flow").glob("0*.npy"))
    seconds, memory = matches(given.work, MatchOptions(chain=given.chain, budget_mb=given.budget))
    table = load_matches(given.work / "matches.npz")
    print(
        "| frames | size | pairs | chain | flow files | flows GB | as float32 | peak GiB | s | rows a pair | table MB |"
    )
    print("|" + " --- |" * 11)
    stored, pairs = sum(file.stat().st_size for file in files) / 1e9, given.frames * (given.frames - 1)
    float32 = pairs * size[0] * size[1] * 8 / 1e9
    print(
        f"| {given.frames} | {given.size} | {pairs} | {'on' if given.chain else 'off'} | {len(files)} | {stored:.2f} | "
        f"{float32:.2f} | {memory:.2f} | {seconds:.0f} | {len(table) / pairs:.0f} | "
        f"{len(table) * ROW_BYTES / 1e6:.0f} |"
    )


if __name__ == "__main__":
    main()
