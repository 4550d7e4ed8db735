"""Of a run of the workflow, the share of its time that was not spent inside any stage.

    python benchmarks/overhead.py FOLDER     the working directory of the last finished run

Each stage leaves a benchmark record: how long its process took, Python's start included, and (by the time of the file)
when it ended. With jobs side by side the time spent inside stages is that in which at least one of them was at work:
the union of their intervals. What is left of the run's wall time is overhead: planning, starting jobs, waiting in a
queue, noticing that they are over. Of each job the same is what lies between its start or submission and the moment
that Snakemake calls it finished, less its own seconds.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

STAMP = re.compile(r"^\[(\w{3} \w{3} +\d+ [\d:]{8} \d{4})\]$")
STARTED = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):$")
FINISHED = re.compile(r"^Finished jobid: (\d+) ")


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of what intervals cover together."""
    covered, end = 0.0, float("-inf")
    for first, last in sorted(intervals):
        covered += max(0.0, last - max(first, end))
        end = max(end, last)
    return covered


def record(folder: Path, name: str) -> tuple[float, float]:
    """Start and end of a stage, seconds since the epoch, from its benchmark record."""
    path = folder / name
    seconds = json.loads(path.read_text().splitlines()[-1])["s"]
    return path.stat().st_mtime - seconds, path.stat().st_mtime


def jobs(log: str) -> list[dict]:
    """Of each finished job: rule, benchmark file, seconds when it was started (or submitted) and called finished."""
    found: dict[str, dict] = {}
    now, current = 0.0, {}
    for line in log.splitlines():
        if match := STAMP.match(line):
            now = datetime.strptime(match[1], "%a %b %d %H:%M:%S %Y").timestamp()
        elif match := STARTED.match(line):
            current = {"rule": match[1], "started": now}
        elif line.startswith("    jobid: "):
            found[line.split()[-1]] = current
        elif line.startswith("    benchmark: "):
            current["benchmark"] = line.split(": ", 1)[1]
        elif match := FINISHED.match(line):
            found[match[1]]["finished"] = now
    return [job for job in found.values() if "finished" in job and "benchmark" in job]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    log = max((folder / ".snakemake" / "log").glob("*.snakemake.log"))
    start = datetime.strptime(log.name.removesuffix(".snakemake.log"), "%Y-%m-%dT%H%M%S.%f").timestamp()
    wall = log.stat().st_mtime - start
    done = jobs(log.read_text())
    stages = [record(folder, job["benchmark"]) for job in done]
    inside, total = union(stages), sum(last - first for first, last in stages)
    waits = sorted(
        job["finished"] - job["started"] - (last - first) for job, (first, last) in zip(done, stages, strict=True)
    )
    print(f"wall time            {wall:8.1f} s, {len(done)} jobs")
    print(f"inside of stages     {inside:8.1f} s of wall time, {total:.1f} s of them all together")
    print(f"outside of any stage {wall - inside:8.1f} s, {100 * (1 - inside / wall):.1f} %")
    print(f"a job besides its stage: median {waits[len(waits) // 2]:.1f} s, at most {waits[-1]:.1f} s")


if __name__ == "__main__":
    main()
