"""What thousands of videos cost before anything is computed: planning, jobs, files, and the overhead of each job.

    python benchmarks/scale.py plan 10 100 1000 [--annotated] [--methods chain-multi cpu]
    python benchmarks/scale.py files
    python benchmarks/scale.py overhead --jobs 200

``plan`` makes folders of hard links to one clip of three frames and asks ``snakemake -n`` what to do: the first time,
when every header is read; again, when the sizes are remembered; and for one file alone, which is what each job of a
cluster plans when it starts. Seconds are of the clock and, in brackets, of the cores. ``files`` runs the default
presets on a tiny video and counts what they leave. ``overhead`` runs jobs that do nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from everypoint.artifacts import atomic
from everypoint.video.encode import write_mp4

ROOT = Path(__file__).resolve().parents[1]
TRIVIAL = """
rule all:
    input: expand("out/{{n}}", n=range({jobs}))
rule nothing:
    output: touch("out/{{n}}")
    {what}
"""
TINY = {"flow": {"backend": "dis"}, "features": {"backend": "none"}, "optimize": {"steps": 20, "log_every": 10}}


class Measured(NamedTuple):
    """One process: wall seconds, those of the cores with its children's, peak memory in MB, and what it printed."""

    seconds: float
    cpu: float
    megabytes: float
    output: str


def measured(command: Sequence[str], folder: Path) -> Measured:
    """Run a command to its end; raises SystemExit with its output when it fails."""
    with tempfile.TemporaryFile() as file:
        start = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
        file.seek(0)
        output = file.read().decode(errors="replace")
    if status:
        raise SystemExit(output)
    return Measured(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, output)


def snakemake(folder: Path, *extra: str) -> Measured:
    """The workflow with ``my.yaml`` of a folder."""
    start = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        str(ROOT / "Snakefile"),
        "--configfile",
        "my.yaml",
        "--cores",
        "2",
    ]
    return measured([*start, *extra], folder)


def make_videos(folder: Path, count: int, *, annotated: bool) -> None:
    """``count`` hard links of one clip and, where asked for, of its ground truth."""
    folder.mkdir(parents=True)
    clip, truth = folder.parent / "clip", folder.parent / "truth.npz"
    write_mp4(clip.with_suffix(".mp4"), iter(np.zeros((3, 32, 32, 3), np.uint8)), 25.0)
    atomic.save_npz(truth, points=np.full((1, 3, 2), 0.5, np.float32), occluded=np.zeros((1, 3), bool))
    for number in range(count):
        name = folder / f"v{number:05d}"
        os.link(clip.with_suffix(".mp4"), name.with_suffix(".mp4"))
        if annotated:
            os.link(truth, name.with_suffix(".annotations.npz"))


def plan(arguments: argparse.Namespace) -> None:
    """Print one row a folder."""
    print("| videos | jobs | first s | again s | peak MB | one job's plan s | its MB |\n|---|---|---|---|---|---|---|")
    for count in arguments.videos:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
            folder = Path(temporary)
            make_videos(folder / "videos", count, annotated=arguments.annotated)
            (folder / "my.yaml").write_text(yaml.safe_dump({"methods": arguments.methods}))
            first, again = snakemake(folder, "-n", "-q", "rules"), snakemake(folder, "-n", "-q", "rules")
            one = snakemake(folder, "results/v00000/frames/frames.npy", "-n", "-q", "rules")
        jobs = re.search(r"^total\s+(\d+)", again.output, re.MULTILINE)
        counted = (count, jobs[1] if jobs else "?", _seconds(first), _seconds(again), f"{again.megabytes:.0f}")
        print(_row(*counted, _seconds(one), f"{one.megabytes:.0f}"), flush=True)


def files(arguments: argparse.Namespace) -> None:
    """Print how many files the default presets leave of a tiny annotated video, by folder."""
    from everypoint.scenes.presets import preset
    from everypoint.scenes.render import render
    from everypoint.scenes.truth import annotations

    scene = preset("two_planes", (64, 96), 24, 0)
    points, occluded = annotations(scene, 12)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        (folder / "videos").mkdir()
        write_mp4(folder / "videos/a.mp4", iter(render(scene, samples=1)), 25.0)
        atomic.save_npz(folder / "videos/a.annotations.npz", points=points, occluded=occluded)
        (folder / "my.yaml").write_text(yaml.safe_dump({"overrides": {"all": TINY}}))
        run = snakemake(folder)
        counts = {path.name: _files(path) for path in sorted((folder / "results/a").iterdir())}
        records = _files(folder / ".snakemake/metadata")
    print(f"24 frames, {run.seconds:.0f} s\n| folder | files |\n|---|---|")
    for name, count in counts.items():
        print(_row(name, count))
    print(_row("all", sum(counts.values())) + "\n" + _row("Snakemake's records of it", records))


def _files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def overhead(arguments: argparse.Namespace) -> None:
    """Print seconds a job that does nothing, in Snakemake's own process, as a command and as a script."""
    what = {"command": 'shell: "true"', "script": 'script: "nothing.py"'}
    print("| job | s a job, two at a time |\n|---|---|")
    for name, line in what.items():
        with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
            folder = Path(temporary)
            (folder / "nothing.py").write_text("")
            (folder / "Snakefile").write_text(TRIVIAL.format(jobs=arguments.jobs, what=line))
            command = [sys.executable, "-m", "snakemake", "--cores", "2", "-q", "all"]
            empty = measured([*command, "-n"], folder)
            print(_row(name, f"{(measured(command, folder).seconds - empty.seconds) / arguments.jobs:.3f}"), flush=True)
    for name, code in {
        "import of the plan": "import everypoint.stages.plan",
        "import of torch": "import torch",
    }.items():
        seconds = min(measured([sys.executable, "-c", code], ROOT).seconds for _ in range(3))
        print(_row(name, f"{seconds:.2f} (once a process)"), flush=True)


def _seconds(run: Measured) -> str:
    return f"{run.seconds:.1f} ({run.cpu:.1f})"


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where temporary folders go; default: the system's")
    commands = parser.add_subparsers(required=True)
    planning = commands.add_parser("plan")
    planning.add_argument("videos", type=int, nargs="+")
    planning.add_argument("--annotated", action="store_true")
    planning.add_argument("--methods", nargs="+", default=["chain-multi", "cpu"])
    planning.set_defaults(run=plan)
    commands.add_parser("files").set_defaults(run=files)
    doing = commands.add_parser("overhead")
    doing.add_argument("--jobs", type=int, default=200)
    doing.set_defaults(run=overhead)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
