"""``everypoint run``, ``everypoint demo`` and ``everypoint config``: the workflow from the command line."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from everypoint.errors import InputError
from everypoint.stages import cli_pips, devices

ROOT = Path(__file__).resolve().parents[2]
ON_CPU, ON_GPU = ["chain-multi", "cpu"], ["chain-multi", "fast"]  # presets for someone who names none
DEMO_CLIP = "bikes"
DEMO_SCENE = "occluder"


def register(subparsers: argparse._SubParsersAction) -> None:
    """Add the commands ``run``, ``demo`` and ``config``."""
    run = subparsers.add_parser(
        "run",
        help="track the videos of a folder (calls Snakemake)",
        description="What is given here changes the configuration; the result is kept as RESULTS/config.yaml. With no "
        "configuration at all the presets are chain-multi and, where there is a GPU, fast, else cpu.",
    )
    run.add_argument("videos", metavar="VIDEOS", help="folder of video files and image folders, or one video file")
    _add_keys(run)
    run.add_argument("--cores", type=_cores, metavar="N", help="CPU cores to use (default: all)")
    run.add_argument("-n", "--dry-run", action="store_true", help="only show what would be done")
    run.set_defaults(run=run_folder)

    demo = subparsers.add_parser("demo", help="fetch a clip, render a scene, track both with three presets")
    demo.add_argument("--cores", type=_cores, metavar="N", help="CPU cores to use (default: all)")
    demo.set_defaults(run=run_demo)
    _register_config(subparsers)
    _register_estimate(subparsers)
    cli_pips.register(subparsers)


def _add_keys(parser: argparse.ArgumentParser) -> None:
    """The arguments that :func:`keys_of` reads besides the videos."""
    parser.add_argument("--methods", nargs="+", metavar="PRESET", help="presets to run, instead of those configured")
    parser.add_argument("--results", metavar="FOLDER", help="where results go (default: as configured)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a configuration to start from")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="where networks and optimisers run")


def _register_estimate(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "estimate",
        help="say how long a run will take and how much disk it needs",
        description="Hours and bytes of each video, by the sizes that headers give; nothing is decoded and nothing "
        "written. Hours are those of the machines that everypoint/stages/costs.py was measured on; see jobs.speed.",
    )
    parser.add_argument("videos", nargs="?", metavar="VIDEOS", help="folder of videos, instead of the one configured")
    _add_keys(parser)
    parser.set_defaults(run=run_estimate)


def _cores(text: str) -> int:
    """A number of cores from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of cores from 1 on")
    return int(text)


def _register_config(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("config", help="check a configuration, or write the default one and its reference")
    actions = parser.add_subparsers(title="actions", metavar="<action>", required=True)
    write = actions.add_parser("write", help="write workflow_config.yaml, its JSON schema and docs/config.md")
    write.set_defaults(run=config_write)
    check = actions.add_parser("check", help="check a configuration, or whether the generated files have drifted")
    check.add_argument("file", type=Path, nargs="?", help="a configuration; without it the generated files are checked")
    check.set_defaults(run=config_check)
    reference = actions.add_parser("reference", help="print every key with its type, default and meaning")
    reference.set_defaults(run=config_reference)
    for action in (write, check):
        action.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)


# --------------------------------------------------------------------------------------------- the workflow


def snakemake(config: Path, *, cores: int | None = None, extra: tuple[str, ...] = (), cwd: Path | None = None) -> int:
    """Run the workflow with one configuration file; returns Snakemake's exit code."""
    snakefile = ROOT / "Snakefile"
    if not snakefile.exists():
        raise InputError(
            f"{snakefile} is missing", "the workflow comes with the checkout", "install with pip install -e"
        )
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--configfile", str(config)]
    command += ["--cores", str(cores or "all"), *extra]
    with _interrupts() as seen:
        code = subprocess.Popen(command, cwd=cwd).wait()
    if seen and code:
        raise KeyboardInterrupt
    return code


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Note Ctrl-C, which Snakemake hears too, instead of leaving: it ends its jobs first, and takes its time.

    A handler of Python's is not inherited, while a signal that is ignored would be ignored by Snakemake as well.
    """
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def run_folder(arguments: argparse.Namespace) -> int:
    """Run the workflow on a folder of videos."""
    from everypoint.artifacts import atomic
    from everypoint.config.generate import dump_yaml
    from everypoint.config.load import parse_config

    keys = keys_of(arguments)
    results = Path(parse_config(keys, "the command line").results).expanduser()
    with tempfile.TemporaryDirectory() as elsewhere:  # for a dry run, which leaves results as they are
        file = (Path(elsewhere) if arguments.dry_run else results) / "config.yaml"
        atomic.write_text(file, dump_yaml(keys))
        return snakemake(file, cores=arguments.cores, extra=("--dry-run",) if arguments.dry_run else ())


def run_estimate(arguments: argparse.Namespace) -> int:
    """Print what a run will take."""
    from everypoint.stages.estimate import estimate
    from everypoint.stages.plan import CACHE, make_plan

    print("\n".join(estimate(make_plan(keys_of(arguments), "the configuration", CACHE)).lines))
    return 0


def keys_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keys of a run: of the configuration and the command line, and presets where neither names any."""
    base = _base(arguments.config)
    asked = {key: getattr(arguments, key) for key in ("videos", "methods", "results", "device")}
    given = {key: value for key, value in asked.items() if value is not None}
    keys = (base or {}) | given
    if base is None and not arguments.methods:
        keys["methods"], why = methods_here(arguments.device)
        print(f"{why}: runs {' and '.join(keys['methods'])} (--methods names others)", flush=True)
        if keys["methods"] == ON_CPU:
            keys["device"] = "cpu"  # so that no job waits for the one GPU that there is not
    return keys


def _base(config: Path | None) -> dict[str, Any] | None:
    """The keys to start from, checked: the file given, or that of the working directory; None without either."""
    from everypoint.config.load import load_config, read_yaml

    file = config or Path("workflow_config.yaml")
    if config is None and not file.exists():
        return None
    load_config(file)
    return read_yaml(file)


def methods_here(device: str | None) -> tuple[list[str], str]:
    """The presets for someone who names none, by what ``device`` (None: auto) finds on this machine; and why."""
    if device == "cpu":
        return ON_CPU, "The device is to be the CPU"
    if device == "cuda":
        return ON_GPU, "The device is to be a GPU"
    found = devices.present()
    if not found:
        return ON_CPU, "There is no GPU here"
    return ON_GPU, f"There {'is a GPU' if len(found) == 1 else f'are {len(found)} GPUs'} here"


def run_demo(arguments: argparse.Namespace) -> int:
    """Prepare the demo's videos where they are absent, run the workflow on them, say where the report is."""
    prepare_demo(ROOT / "demo" / "videos")
    code = snakemake(Path("demo/config.yaml"), cores=arguments.cores, cwd=ROOT)
    if code == 0:
        print(f"\nThe report is {os.path.relpath(ROOT / 'demo' / 'results' / 'report.html')}: open it in a browser.")
    return code


def prepare_demo(folder: Path) -> None:
    """The sample clip, fetched, and a rendered scene with exact ground truth, unless they are there already."""
    from everypoint.artifacts import atomic
    from everypoint.assets.fetch import fetch
    from everypoint.scenes import cli as scenes

    clip = folder / f"{DEMO_CLIP}.mp4"
    if not clip.exists():
        with atomic.atomic_path(clip) as temporary:
            shutil.copyfile(fetch(DEMO_CLIP), temporary)
    if not (folder / f"{DEMO_SCENE}.annotations.npz").exists():  # written last
        wanted = {"name": DEMO_SCENE, "out": folder, "size": "192x256", "frames": 20, "seed": 0, "points": 256}
        scenes.run(argparse.Namespace(**wanted))


# ---------------------------------------------------------------------------------------- the configuration


def config_write(arguments: argparse.Namespace) -> int:
    """Write the generated files that are out of date."""
    from everypoint.artifacts import atomic
    from everypoint.config.generate import stale

    for name, text in stale(arguments.root).items():
        atomic.write_text(arguments.root / name, text)
        print(f"wrote {name}")
    return 0


def config_check(arguments: argparse.Namespace) -> int:
    """Check one configuration, or whether the generated files have drifted."""
    if arguments.file is not None:
        from everypoint.config.load import load_config

        print(f"{arguments.file}: presets {', '.join(load_config(arguments.file).methods)}")
        return 0
    from everypoint.config.generate import CURE, drift

    difference = drift(arguments.root)
    if difference:
        print(f"{difference}\nthe generated files have drifted from the option models; run: {CURE}", file=sys.stderr)
    return 1 if difference else 0


def config_reference(arguments: argparse.Namespace) -> int:
    """Print the reference page."""
    from everypoint.config.generate import reference_markdown

    print(reference_markdown())
    return 0
