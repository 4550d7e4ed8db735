"""``everypoint render-scene`` and the data sets ``render-odyssey`` and ``render-heads``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SMALLEST, LARGEST = 16, 4096  # sides of rendered frames, in pixels
NAMES = ("two_planes", "occluder", "parallax", "rotation")  # everypoint.scenes.presets.PRESETS, which imports OpenCV


def register(subparsers: argparse._SubParsersAction) -> None:
    """Add the commands of this room."""
    _register_data_sets(subparsers)
    parser = subparsers.add_parser(
        "render-scene",
        help="render a scene with exact ground truth",
        description="Write OUT/NAME/00000.png, ... and OUT/NAME.annotations.npz (points, occluded). "
        "Equal arguments give equal files, and files that are there already with the same bytes are not touched.",
    )
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to, for instance videos/")
    parser.add_argument("--size", default="256x256", metavar="HxW", help="frame size (default 256x256)")
    parser.add_argument("--frames", type=int, default=24, help="number of frames (default 24)")
    parser.add_argument("--seed", type=int, default=0, help="seed of textures and annotated points (default 0)")
    parser.add_argument("--points", type=int, default=64, help="number of annotated points (default 64)")
    parser.set_defaults(run=run)


def _register_data_sets(subparsers: argparse._SubParsersAction) -> None:
    odyssey = subparsers.add_parser(
        "render-odyssey",
        help="render a small data set in PointOdyssey's layout",
        description="Write OUT/{train,val,test}/SEQUENCE/ with pictures, depth, masks, normals, anno.npz and info.npz. "
        "Equal arguments give equal files.",
    )
    odyssey.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    odyssey.add_argument("--sequences", type=int, default=6, help="number of sequences of all splits (default 6)")
    odyssey.add_argument("--frames", type=int, default=48, help="frames a sequence (default 48)")
    odyssey.add_argument("--size", default="160x128", metavar="HxW", help="frame size (default 160x128)")
    odyssey.add_argument("--points", type=int, default=512, help="tracks a sequence (default 512)")
    odyssey.add_argument("--seed", type=int, default=0, help="seed of the first sequence (default 0)")
    odyssey.add_argument(
        "--layout", choices=("v1.2", "v1.0"), default="v1.2", help="annotation layout of this release (default v1.2)"
    )
    odyssey.set_defaults(run=run_odyssey)

    heads = subparsers.add_parser(
        "render-heads",
        help="render a small data set in the layout of HT21 (CroHD)",
        description="Write OUT/HT21/train/HT21-01/ ... with img1/ and gt/gt.txt. Equal arguments give equal files.",
    )
    heads.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    heads.add_argument("--sequences", type=int, default=1, help="number of videos (default 1)")
    heads.add_argument("--frames", type=int, default=140, help="frames a video (default 140)")
    heads.add_argument("--size", default="192x320", metavar="HxW", help="frame size (default 192x320)")
    heads.add_argument("--heads", type=int, default=8, help="heads a video (default 8)")
    heads.add_argument("--seed", type=int, default=0, help="seed of the first video (default 0)")
    heads.set_defaults(run=run_heads)


def run_odyssey(arguments: argparse.Namespace) -> int:
    """Render and write the data set. Raises :class:`everypoint.errors.InputError` for impossible arguments."""
    from everypoint.scenes.odyssey import write_odyssey

    written = write_odyssey(
        arguments.out,
        arguments.sequences,
        arguments.frames,
        _size(arguments.size),
        points=arguments.points,
        seed=_at_least(arguments.seed, 0, "--seed"),
        layout=arguments.layout,
    )
    print(f"{arguments.out}: " + ", ".join(f"{len(names)} {split}" for split, names in written.items()))
    return 0


def run_heads(arguments: argparse.Namespace) -> int:
    """Render and write the data set. Raises :class:`everypoint.errors.InputError` for impossible arguments."""
    from everypoint.scenes.heads import write_heads

    seed, size = _at_least(arguments.seed, 0, "--seed"), _size(arguments.size)
    write_heads(arguments.out, arguments.sequences, arguments.frames, size, heads=arguments.heads, seed=seed)
    print(f"{arguments.out / 'HT21'}: {arguments.sequences} videos of {arguments.frames} frames")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Render and write. Raises :class:`everypoint.errors.EverypointError` for arguments that cannot be used."""
    from everypoint.scenes.presets import preset
    from everypoint.scenes.render import render
    from everypoint.scenes.truth import annotations

    name = arguments.name.replace("-", "_")
    scene = preset(name, _size(arguments.size), arguments.frames, _at_least(arguments.seed, 0, "--seed"))
    points, occluded = annotations(scene, _at_least(arguments.points, 1, "--points"), arguments.seed)
    files = {arguments.out / name / f"{t:05d}.png": _png(picture) for t, picture in enumerate(render(scene))}
    _refuse_others(arguments.out / name, {path.name for path in files})
    changed = sum(_write(path, data) for path, data in files.items())
    changed += _write_npz(arguments.out / f"{name}.annotations.npz", points=points, occluded=occluded)
    print(f"{arguments.out / name}: {scene.frames} frames, {len(points)} annotated points, {changed} files written")
    return 0


def _refuse_others(folder: Path, ours: set[str]) -> None:
    """Frames of another video in the folder would be read as part of this one."""
    from everypoint.errors import InputError

    others = sorted(path.name for path in folder.glob("*") if path.name not in ours and path.name[0] != ".")
    if others:
        raise InputError(
            f"{folder} already holds other files",
            f"{others[0]} and {len(others) - 1} more" if len(others) > 1 else others[0],
            "delete the folder or choose another one",
        )


def _write(path: Path, data: bytes) -> bool:
    """Write a file unless it is there with the same bytes; returns whether it was written."""
    from everypoint.artifacts.atomic import write_bytes

    if path.is_file() and path.read_bytes() == data:
        return False
    write_bytes(path, data)
    return True


def _write_npz(path: Path, **arrays: np.ndarray) -> bool:
    """:func:`_write` for arrays: compares values."""
    import numpy as np

    from everypoint.artifacts.atomic import load_npz, save_npz
    from everypoint.errors import ArtifactError

    try:
        there = load_npz(path)
    except ArtifactError:  # missing or damaged
        there = {}
    if there.keys() == arrays.keys() and all(np.array_equal(there[name], arrays[name]) for name in arrays):
        return False
    save_npz(path, **arrays)
    return True


def _png(picture: np.ndarray) -> bytes:
    import cv2

    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError("OpenCV cannot encode PNG")
    return data.tobytes()


def _size(text: str) -> tuple[int, int]:
    from everypoint.errors import InputError

    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text.lower())
    if match is None:
        raise InputError(f"--size {text} is not a frame size", cure="write HEIGHTxWIDTH, for instance 256x256")
    size = int(match[1]), int(match[2])
    if not SMALLEST <= min(size) <= max(size) <= LARGEST:
        what = f"--size {text} is too {'small' if min(size) < SMALLEST else 'large'}"
        raise InputError(what, cure=f"sides are from {SMALLEST} to {LARGEST} pixels")
    return size


def _at_least(value: int, least: int, option: str) -> int:
    from everypoint.errors import InputError

    if value < least:
        raise InputError(f"{option} {value} is impossible", cure=f"use {least} or more")
    return value
