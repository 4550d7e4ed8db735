"""PIPs++: time and memory of the forward pass, ours beside the published one.

    OMP_NUM_THREADS=1 python benchmarks/pips.py speed --points 256 --frames 48 --size 512x896 --iterations 16
    python benchmarks/pips.py speed --device cuda --precision bfloat16
    OMP_NUM_THREADS=1 python benchmarks/pips.py memory --points 1000 --frames 128 --iterations 1

speed runs both on equal weights and inputs, in turns, and prints the least of each part's times: the published form is
a transcription (published_pips.py) that holds whole volumes. memory runs ours alone, on frames that are made when they
are asked for, and prints the largest resident size of the process.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import published_pips
import torch

from everypoint.numerics import full_precision
from everypoint.pips.driver import Features, Plan, follow
from everypoint.pips.network import PipsInference, PipsNetwork


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory"))
    parser.add_argument("--points", type=int, default=256)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--size", default="512x896")
    parser.add_argument("--iterations", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", type=float, default=1.0, help="GiB, the option pips.memory_gib")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", help="of ours; the published form runs in float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    size = tuple(int(side) for side in arguments.size.split("x"))
    with torch.no_grad(), full_precision():
        (speed if arguments.what == "speed" else memory)(arguments, size)


def video(frames: int, size: tuple[int, int]) -> Callable[[int], np.ndarray]:
    """Frames of a texture that slides by (2, 1) px."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, ((size[0] + frames) // 8 + 2, (size[1] + 2 * frames) // 8 + 2, 3))
    picture = np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)
    return lambda t: picture[t : t + size[0], 2 * t : 2 * t + size[1]]


def speed(arguments: argparse.Namespace, size: tuple[int, int]) -> None:
    """Encoder and iterations of both, in turns."""
    network = PipsNetwork().to(arguments.device).eval()
    load = video(arguments.frames, size)
    rgb = torch.from_numpy(np.stack([load(t) for t in range(arguments.frames)])).permute(0, 3, 1, 2).contiguous()
    rgb = rgb.to(arguments.device)
    xy = torch.rand(arguments.points, 2) * torch.tensor([size[1], size[0]])
    start = xy.repeat(arguments.frames, 1, 1).to(arguments.device)
    inference = PipsInference(
        network, arguments.device, precision=arguments.precision, memory=int(arguments.memory * 2**30)
    )
    least: dict[str, float] = {}
    found: dict[str, torch.Tensor] = {}

    def timed(name: str, run: Callable[..., Any], *given: Any) -> Any:
        _wait(arguments.device)
        began, cpu = time.perf_counter(), time.process_time()
        result = run(*given)
        _wait(arguments.device)
        spent = (time.process_time() - cpu) if arguments.device == "cpu" else time.perf_counter() - began
        least[name] = min(least.get(name, np.inf), spent)
        return result

    for _ in range(arguments.repeats):
        pyramid = timed("ours, encoder", inference.pyramid, rgb)
        tracked = timed("ours, iterations", inference.track, pyramid, start[None], arguments.iterations)
        found["ours"] = tracked.predictions[-1, 0]
        del pyramid
        maps = timed("published, encoder", _frame_by_frame, network, rgb)
        tracked = timed("published, iterations", published_pips.iterate, network, maps, start, arguments.iterations)
        found["published"] = tracked[-1]
        del maps
    ours, published = (sum(least[f"{name}, {part}"] for part in ("encoder", "iterations")) for name in found)
    for name, seconds in least.items():
        print(f"{name:24} {seconds:8.2f} s")
    print(f"{'ours / published':24} {ours:8.2f} / {published:.2f} s: {published / ours:.2f} times as fast")
    print(f"{'points x frames a second':24} {arguments.points * arguments.frames / ours:8.0f}")
    away = (found["ours"].cpu() - found["published"].cpu()).abs()
    print(f"median difference of positions {away.median():.1e} px, largest {away.max():.1e} px")
    if arguments.device == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB, of both")


def _frame_by_frame(network: PipsNetwork, rgb: torch.Tensor) -> torch.Tensor:
    """The published encoder; frame by frame on a CPU, so that its memory fits, which does not slow it down there."""
    at_once = len(rgb) if rgb.is_cuda else 1
    return torch.cat([published_pips.features(network.fnet, part) for part in rgb.split(at_once)])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def memory(arguments: argparse.Namespace, size: tuple[int, int]) -> None:
    """The driver on as many frames as asked for."""
    inference = PipsInference(
        PipsNetwork().eval(), arguments.device, precision=arguments.precision, memory=int(arguments.memory * 2**30)
    )
    before = _peak()
    features = Features(
        inference, video(arguments.frames, size), arguments.frames, size, keep=int(arguments.memory * 2**30)
    )
    start = np.random.default_rng(0).uniform(0, [size[1], size[0]], (arguments.points, 2))
    began = time.perf_counter()
    follow(features, list(range(arguments.frames)), start, Plan(128, arguments.iterations))
    print(
        f"{arguments.points} points, {arguments.frames} frames of {arguments.size}, {arguments.iterations} iterations"
    )
    print(f"peak {_peak():.2f} GiB, of which {before:.2f} GiB are the libraries and the weights")
    print(f"{time.perf_counter() - began:.1f} s")


def _peak() -> float:
    """Largest resident size of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
