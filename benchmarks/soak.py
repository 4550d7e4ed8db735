"""A folder of videos under a killer: kill -9 at random of the whole run or of one of its jobs, again and again.

    OMP_NUM_THREADS=1 python benchmarks/soak.py --videos 14 --minutes 12 --every 10 40 --steps 8000

The videos are small rendered scenes, optimised with the preset ``cpu`` for ``--steps`` steps, with the real Snakefile
and two jobs side by side. Whenever none is at work a run is started, and every so many seconds its process group, or
one of its jobs, gets SIGKILL, until all is done or the time is up. Then a last run may finish. Told is whether the
tracks of all videos are, byte for byte, those of a run that nobody disturbed, and what the kills cost: processor
seconds of the jobs (without those of Snakemake) beyond the undisturbed ones. Exit code 1 when tracks differ or are
missing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measuring import hardware

from tests.slurm.cluster import commands, descendants
from tests.slurm.conftest import overrides
from tests.workflow.conftest import Workflow, add_scene, kill, sha256

SCENES = ("two_planes", "parallax", "occluder")
TICK = os.sysconf("SC_CLK_TCK")


class Work:
    """Processor seconds of the jobs of runs, as far as they were seen alive."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, int], float] = {}  # by process and its start

    @property
    def seconds(self) -> float:
        """Of all jobs so far."""
        return sum(self._seconds.values())

    def look(self, driver: int) -> list[int]:
        """Note what a driver's jobs have used; their processes."""
        lines, found = dict(commands()), []
        for pid in descendants(driver):
            if ".snakemake/scripts/" in lines.get(pid, ""):
                with contextlib.suppress(OSError):
                    values = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                    self._seconds[pid, int(values[19])] = (int(values[11]) + int(values[12])) / TICK
                    found.append(pid)
        return found


def make(folder: Path, arguments: argparse.Namespace) -> Workflow:
    """A folder with its videos and its configuration."""
    workflow = Workflow(folder, methods=["cpu"], overrides=overrides(arguments.steps, arguments.checkpoint))
    for number in range(arguments.videos):
        add_scene(workflow.videos, f"video{number:02d}", SCENES[number % len(SCENES)], 6, truth=False)
    return workflow


def follow(run: subprocess.Popen, work: Work, until: float) -> None:
    """Look at a run until it ends or the time is up."""
    while run.poll() is None and time.monotonic() < until:
        work.look(run.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(0.1)


def disturbed(workflow: Workflow, work: Work, arguments: argparse.Namespace) -> tuple[int, int]:
    """Kill for the time that is given, or until all is done; how many runs and single jobs were killed."""
    generator = random.Random(arguments.seed)
    end, runs, jobs = time.monotonic() + 60 * arguments.minutes, 0, 0
    run = workflow.start(workflow.folder / "output.txt")
    while time.monotonic() < end:
        follow(run, work, time.monotonic() + generator.uniform(*arguments.every))
        if run.poll() == 0:
            break
        if run.poll() is not None:  # it has done what it could without the jobs that were killed
            run = workflow.start(workflow.folder / "output.txt")
            continue
        found = work.look(run.pid)
        if found and generator.random() < 0.5:
            jobs += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(generator.choice(found), signal.SIGKILL)
        else:
            runs += 1
            kill(run)
    kill(run)
    return runs, jobs


def finished(workflow: Workflow, work: Work) -> int:
    """The exit code of a run that nobody disturbs."""
    run = workflow.start(workflow.folder / "output.txt")
    follow(run, work, float("inf"))
    return run.wait()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=15.0, help="of killing")
    parser.add_argument("--every", type=float, nargs=2, default=(20.0, 60.0), metavar=("LEAST", "MOST"), help="seconds")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--checkpoint", type=float, default=5.0, help="seconds between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        calm, storm = (make(Path(folder) / name, arguments) for name in ("calm", "storm"))
        began, work = time.monotonic(), Work()
        if finished(calm, work):
            raise SystemExit((calm.folder / "output.txt").read_text())
        print(f"{time.strftime('%Y-%m-%d')}, {hardware('cpu')}; {arguments.videos} videos of {arguments.steps} steps")
        print(
            f"undisturbed: {time.monotonic() - began:.0f} s, {work.seconds:.0f} processor seconds of jobs", flush=True
        )
        began, spent = time.monotonic(), Work()
        runs, jobs = disturbed(storm, spent, arguments)
        code = finished(storm, spent)
        names = sorted(path.name for path in calm.videos.iterdir())
        same = [
            storm.tracks(name, "cpu").exists() and sha256(storm.tracks(name, "cpu")) == sha256(calm.tracks(name, "cpu"))
            for name in names
        ]
        print(f"killed: {runs} runs, {jobs} single jobs; {time.monotonic() - began:.0f} s, ", end="")
        print(f"{spent.seconds:.0f} processor seconds of jobs: {spent.seconds / work.seconds - 1:+.0%}")
        print(f"tracks equal to the undisturbed: {sum(same)} of {len(names)}; exit code of the last run {code}")
    if code or not all(same):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
