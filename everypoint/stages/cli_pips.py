"""``everypoint demo-pips`` and ``everypoint train-pips``: PIPs++ from the command line."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from everypoint.artifacts import atomic


def register(subparsers: argparse._SubParsersAction) -> None:
    """Add the commands."""
    demo = subparsers.add_parser(
        "demo-pips",
        help="track a grid of points through a video with PIPs++",
        description="Clips of 48 frames, one after the other, each with a new grid; the last may be shorter. Writes a "
        "video with the tracks and prints the time. For tracks of a folder use the preset pips2.",
    )
    demo.add_argument("video", type=Path, metavar="VIDEO", help="a video file, or a folder of images")
    demo.add_argument("--weights", default="pips2", metavar="FILE", help="a checkpoint (default: the asset pips2)")
    demo.add_argument("--output", type=Path, metavar="MP4", help="default: VIDEO's name with -pips.mp4, here")
    demo.add_argument("--points", type=int, default=256, metavar="N", help="rounded to a square grid (default 256)")
    demo.add_argument("--frames", type=int, default=48, metavar="S", help="frames of a clip (default 48)")
    demo.add_argument("--stride", type=int, default=1, metavar="N", help="use every N-th frame (default 1)")
    demo.add_argument("--iterations", type=int, default=16, metavar="K", help="refinements (default 16)")
    demo.add_argument("--size", default="512x896", metavar="HxW", help="what the network sees (default 512x896)")
    demo.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    demo.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default 2)")
    demo.set_defaults(run=run_demo)

    train = subparsers.add_parser("train-pips", help="one process of a training of PIPs++; torchrun calls it")
    train.add_argument("spec", type=Path, metavar="SPEC", help="launch.json of the training's folder")
    train.set_defaults(run=run_train)


def run_demo(arguments: argparse.Namespace) -> int:
    """Track, draw, and say how long it took."""
    from everypoint.errors import InputError
    from everypoint.stages.pips_demo import demo

    height, cross, width = arguments.size.partition("x")
    if not (cross and height.isdigit() and width.isdigit() and min(int(height), int(width)) >= 32):
        raise InputError(f"--size {arguments.size} is not HxW", cure="give for instance 512x896")
    least = {"points": 1, "frames": 2, "stride": 1, "iterations": 1}
    for name, lowest in least.items():
        if getattr(arguments, name) < lowest:
            raise InputError(f"--{name} must be at least {lowest}")
    output = arguments.output or Path(f"{arguments.video.stem}-pips.mp4")
    said = demo(
        arguments.video,
        arguments.weights,
        output,
        points=arguments.points,
        length=arguments.frames,
        stride=arguments.stride,
        iterations=arguments.iterations,
        size=(int(height), int(width)),
        device=arguments.device,
        threads=arguments.threads,
    )
    print(said)
    print(f"wrote {output}")
    return 0


def run_train(arguments: argparse.Namespace) -> int:
    """Train, with a log on stderr."""
    from everypoint.stages.pips_train import work

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    work(atomic.read_json(arguments.spec))
    return 0
