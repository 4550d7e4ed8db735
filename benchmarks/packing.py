"""Several small videos at once on a CPU: as processes, as threads of one process, as one longer batch.

    OMP_NUM_THREADS=1 python benchmarks/packing.py --videos 1 2 --steps 100

Every way optimises V videos (the same rendered scene with other seeds) by the same steps, one thread each, and is
timed from the moment when all are ready: milliseconds a step of one video, so that less is more throughput. What is
called batch is a bound: one model gets batches V times as long, which spares more than a leading dimension over V
videos could, for their tables and weights are not one model's.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier

import torch
from measuring import hardware
from problem import problem

from everypoint.artifacts.matches import Matches
from everypoint.config.presets import load_preset
from everypoint.optimize.run import prepare
from everypoint.optimize.trainer import Trainer

WARM_UP = 3  # steps that are not timed


@functools.cache
def matches_of(frames: int, size: tuple[int, int]) -> Matches:
    """The matches that all videos have, made once a process."""
    return problem(frames, size)[1]


def ready(arguments: argparse.Namespace, seed: int, times: int = 1) -> Trainer:
    """A trainer after its first steps, its batch ``times`` as long as the preset's."""
    torch.set_num_threads(1)
    batch = load_preset(arguments.preset).optimize.sampler.batch * times
    chosen = load_preset(arguments.preset, {arguments.preset: {"optimize": {"sampler": {"batch": batch}}}})
    trainer = prepare(matches_of(arguments.frames, tuple(arguments.size)), chosen, "cpu", seed)
    for step in range(WARM_UP):
        trainer.step(step)
    return trainer


def work(trainer: Trainer, steps: int) -> None:
    """What is timed."""
    torch.set_num_threads(1)  # a thread has a number of its own
    for step in range(WARM_UP, WARM_UP + steps):
        trainer.step(step)


def processes(arguments: argparse.Namespace, videos: int) -> float:
    """Seconds of V processes side by side."""
    spawning = multiprocessing.get_context("spawn")
    gate = spawning.Barrier(videos + 1)
    started = [spawning.Process(target=_process, args=(arguments, seed, gate)) for seed in range(videos)]
    for process in started:
        process.start()
    gate.wait()
    begun = time.perf_counter()
    gate.wait()
    seconds = time.perf_counter() - begun
    for process in started:
        process.join()
    return seconds


def _process(arguments: argparse.Namespace, seed: int, gate: Barrier) -> None:
    trainer = ready(arguments, seed)
    gate.wait()
    work(trainer, arguments.steps)
    gate.wait()


def threads(arguments: argparse.Namespace, videos: int) -> float:
    """Seconds of V threads of this process."""
    trainers = [ready(arguments, seed) for seed in range(videos)]
    started = [threading.Thread(target=work, args=(trainer, arguments.steps)) for trainer in trainers]
    begun = time.perf_counter()
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return time.perf_counter() - begun


def batch(arguments: argparse.Namespace, videos: int) -> float:
    """Seconds of one model with a batch V times as long."""
    trainer = ready(arguments, 0, videos)
    begun = time.perf_counter()
    work(trainer, arguments.steps)
    return time.perf_counter() - begun


WAYS: dict[str, Callable[[argparse.Namespace, int], float]] = {
    "processes": processes,
    "threads": threads,
    "batch": batch,
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=["cpu", "fast"], default="cpu", help="of the kind planes")
    parser.add_argument("--videos", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d')}, {hardware('cpu')}, preset {arguments.preset}; best of {arguments.repeats}\n")
    print(f"| videos | {' | '.join(f'{way}, ms' for way in WAYS)} |\n|{'---|' * (len(WAYS) + 1)}")
    for videos in arguments.videos:
        best = [min(way(arguments, videos) for _ in range(arguments.repeats)) for way in WAYS.values()]
        cells = " | ".join(f"{1e3 * seconds / arguments.steps / videos:.1f}" for seconds in best)
        print(f"| {videos} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
