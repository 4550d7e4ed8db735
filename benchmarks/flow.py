"""RAFT: time a pair and a frame, peak memory, throughput of batches, arithmetic against what the machine can do.

    OMP_NUM_THREADS=2 python benchmarks/flow.py --sizes 256 480p 1080p --variants volume sampled bfloat16 --repeats 3
    python benchmarks/flow.py --device cuda --variants volume sampled float16 batch8 batch8-float16 batch8-compile

Each row is a process of its own, one after the other. Frames are a development video of the shared data, any folder of
pictures (``--frames``), or a rendered scene where there is none. Columns:

* ms a pair: the network call, frames encoded before; the median of the repeats after one call that does not count. In
  brackets the time that the cores spent in it: with one thread that is what a machine without other work would take.
* ms a frame: encoding, features and context together.
* pairs/s: the whole way of the flow stage, encoding and copies to the host included, over several frames.
* peak GiB: of the process beyond what it held before the first call (CPU: resident; CUDA: allocated), and the estimate.
* TFLOP/s: multiplications and additions of convolutions and matrix products in a call, and the share of the rate that
  the faster of a matrix product and a convolution reaches here in the same precision, measured before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from measuring import hardware
from torch.utils.flop_counter import FlopCounterMode

from everypoint.config.options import FlowOptions
from everypoint.correspond.raft import RaftBackend, RaftSession
from everypoint.numerics import full_precision

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("EVERYPOINT_SHARED", ROOT.parent / "shared"))
SIZES = {"256": (256, 256), "480p": (480, 854), "1080p": (1080, 1920)}
VARIANTS: dict[str, dict[str, Any]] = {
    "volume": {"lookup": "volume"},
    "auto": {},
    "sampled": {"lookup": "sampled"},
    "bfloat16": {"lookup": "volume", "precision": "bfloat16"},
    "float16": {"lookup": "volume", "precision": "float16"},
    "batch8": {"batch": 8},
    "batch8-warm": {"batch": 8, "warm_start": True},
    "batch8-float16": {"batch": 8, "precision": "float16"},
    "batch8-compile": {"batch": 8, "compile": True},
}
GIB = 2**30


def load_frames(folder: Path | None, size: tuple[int, int], count: int) -> np.ndarray:
    """``count`` frames uint8 [T, H, W, 3] RGB of ``size``."""
    folder = folder or SHARED / "data" / "davis480" / "horsejump-high" / "color"
    files = sorted(path for path in folder.glob("*") if path.suffix in (".jpg", ".png")) if folder.is_dir() else []
    if len(files) < count:
        from everypoint.scenes.presets import preset
        from everypoint.scenes.render import render

        return render(preset("parallax", size, count))
    pictures = [cv2.imread(str(path))[..., ::-1] for path in files[:count]]
    return np.stack([cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR) for picture in pictures])


def wait(device: torch.device) -> None:
    """Until the device has done all it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], repeats: int, device: torch.device) -> tuple[float, float]:
    """Median time of ``work`` and of the cores in it, after one run that does not count."""
    taken = []
    for _ in range(repeats + 1):
        wait(device)
        start, busy = time.perf_counter(), time.process_time()
        work()
        wait(device)
        taken.append((time.perf_counter() - start, time.process_time() - busy))
    wall, cores = zip(*taken[1:], strict=True)
    return statistics.median(wall), statistics.median(cores)


def memory(device: torch.device, *, peak: bool) -> int:
    """Bytes in use, or the most that were."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def attainable(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a matrix product or of a convolution as RAFT's, whichever is faster here."""
    side = 8192 if device.type == "cuda" else 1536
    a = torch.randn(side, side, dtype=dtype, device=device)
    maps = torch.randn(16 if device.type == "cuda" else 1, 256, 60, 107, dtype=dtype, device=device)
    maps = maps.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), full_precision():
        product = 2 * side**3 / seconds(lambda: a @ a, 3, device)[0]
        convolution = 2 * weight.numel() * maps.numel() / 256 / seconds(lambda: F.conv2d(maps, weight), 3, device)[0]
    return max(product, convolution)


def measure(size: tuple[int, int], options: FlowOptions, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    device = torch.device(arguments.device)
    frames = load_frames(arguments.frames, size, 5)
    backend = RaftBackend(options, device)
    reachable = attainable(backend.network.dtype, device)
    session, before = backend.open(frames), memory(device, peak=False)
    assert isinstance(session, RaftSession)
    with torch.inference_mode(), full_precision():
        images = [session._image(index) for index in (0, 1)]
        codes = [backend.network.encode(image) for image in images]
        given = codes[:1] * options.batch, codes[1:] * options.batch, options.iterations
        a_call, cores = seconds(lambda: backend.network.pair_flows(*given), arguments.repeats, device)
        a_frame, _ = seconds(lambda: backend.network.encode(images[0]), arguments.repeats, device)
    peak = memory(device, peak=True) - before
    plan = {source: [j for j in range(5) if j != source] for source in range(arguments.sources)}
    dict(session.group_flows({0: [1]}))  # nothing is made for the first time afterwards
    start = time.perf_counter()
    dict(backend.open(frames).group_flows(plan))
    stage = time.perf_counter() - start
    counted = FlopCounterMode(display=False)
    plain = RaftBackend(options.model_copy(update={"compile": False}), device).network
    with torch.inference_mode(), counted:
        plain.pair_flows(*given)
    rate = counted.get_total_flops() / a_call
    return {
        "pair": 1e3 * a_call / options.batch,
        "cores": 1e3 * cores / options.batch,
        "frame": 1e3 * a_frame,
        "throughput": sum(map(len, plan.values())) / stage,
        "peak": peak / GIB,
        "estimate": session.call_bytes() / GIB,
        "rate": rate / 1e12,
        "share": 100 * rate / reachable,
    }


def row(size: str, variant: str, arguments: argparse.Namespace) -> str:
    """One line of the table, computed in a process of its own."""
    command = [sys.executable, __file__, "--one", size, variant, "--device", arguments.device]
    command += ["--repeats", str(arguments.repeats), "--iterations", str(arguments.iterations)]
    command += ["--weights", arguments.weights, "--sources", str(arguments.sources)]
    command += ["--frames", str(arguments.frames)] if arguments.frames else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"| {size} | {variant} | failed: {(done.stderr.strip().splitlines() or ['killed'])[-1]} |" + " |" * 5
    found = json.loads(done.stdout.strip().splitlines()[-1])
    cells = f"{found['pair']:.0f} ({found['cores']:.0f}) | {found['frame']:.0f} | {found['throughput']:.2f} | "
    cells += f"{found['peak']:.2f} / {found['estimate']:.2f} | {found['rate']:.3f} ({found['share']:.0f} %)"
    return f"| {size} | {variant} | {cells} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["volume", "sampled", "bfloat16"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--sources", type=int, default=1, help="frames whose flows to four others give pairs/s")
    parser.add_argument("--weights", default="raft-things")
    parser.add_argument("--frames", type=Path, default=None, help="a folder of pictures")
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "VARIANT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        size, variant = arguments.one
        base = {"weights": arguments.weights, "iterations": arguments.iterations}
        print(json.dumps(measure(SIZES[size], FlowOptions(**base, **VARIANTS[variant]), arguments)))
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"{time.strftime('%Y-%m-%d')}, {hardware(arguments.device)}, commit {commit.strip()}, ", end="")
    print(f"{arguments.iterations} iterations, {arguments.repeats} repeats\n")
    print("| size | variant | ms a pair (cores) | ms a frame | pairs/s | peak / estimated GiB | TFLOP/s (attainable) |")
    print("|---|---|---|---|---|---|---|")
    for size in arguments.sizes:
        for variant in arguments.variants:
            print(row(size, variant, arguments), flush=True)


if __name__ == "__main__":
    main()
