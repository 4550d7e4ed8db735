"""What a GPU that is lent for minutes has to tell, in one command: no Snakemake, ffmpeg or OpenCV is needed there.

Here, where the shared data and RAFT's weights are:

    python benchmarks/lent.py prepare .lent        # eight videos, weights, a problem for steps: 44 MB
    python benchmarks/lent.py prepare .lent --rival --videos libby bmx-trees car-roundabout horsejump-high   # or this
    python -m pip download --no-deps ...           # the wheels to carry; `prepare` prints the line with its versions

There, with the folder carried beside the checkout; ``OUT`` receives lent.txt, lent.json and lent.log:

    python3 -m pip install -q --no-index --no-deps --target .lent-site .lent/wheels/*.whl
    PYTHONPATH=.lent-site python3 benchmarks/lent.py run .lent OUT
    PYTHONPATH=.lent-site python3 benchmarks/lent.py run .lent OUT --parts davis --methods fast --steps 2000

That machine has to bring torch, Pillow, numpy and scipy; what is missing is said first. The
parts, in their order; each has its share of ``--seconds`` and a process of its own, and what one leaves over goes to
the next:

* tests: all that need CUDA, the slow ones too.
* roofline: a large copy; large products in float32, TF32 and bfloat16.
* steps: an optimiser step of each preset, plain, captured, compiled, in TF32, with the fused kernels; see :mod:`step`.
* sharing: 1, 2 and 4 optimisations at once, each of the size of ``cpu``.
* davis: flow, features, matches, optimisation and tracks of TAP-Vid-DAVIS's first 32 frames at 480p, with scores.
  Without ``--rival`` no flows of a second network compete (21 MB more, so that not all videos fit).
  ``cadex-nomatch`` has RAFT's features and a constant prior here, since no weights of DINO or ZoeDepth are carried.

Results are written as they come: what is cut off loses only what was not done. Without OpenCV a stand-in
(``stand_ins/cv2.py``) does what reading tracks out needs of it, with equal results; lent.json says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package is not installed there
STAND_INS = ROOT / "benchmarks" / "stand_ins"
SHARES = {"tests": 2.0, "roofline": 0.5, "steps": 4.0, "sharing": 1.0, "davis": 5.0}  # of the time
GRACE = 10.0  # s that a part may go on behind its time, to end what it is at
NEEDED = ("torch", "numpy", "scipy", "PIL", "pydantic", "yaml")
WHEELS = (  # what the machine may lack; by the versions of this environment
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions", "pyyaml"),
    *("pytest", "iniconfig", "pluggy", "pygments", "packaging"),
)
PLATFORMS = ("2_28_x86_64", "2_17_x86_64", "2014_x86_64")
LARGEST = 61e6  # bytes of the folder with the wheels


# ------------------------------------------------------------------------------------------------- prepare


def prepare(folder: Path, size: tuple[int, int], videos: list[str] | None = None, rival: bool = False) -> None:
    """Videos as JPEG with annotations, RAFT's weights, and the problem of the steps; what is there stays."""
    import numpy as np
    from davis32 import SHARED

    from everypoint.artifacts import atomic
    from everypoint.artifacts.pickles import load_arrays_pickle
    from everypoint.assets.fetch import fetch

    for name, item in load_arrays_pickle(SHARED / "data" / "tapvid_davis32_dev.pkl").items():
        if videos and name not in videos:
            continue
        for picture in sorted((SHARED / "data" / "davis480" / name / "color").glob("*.jpg")):
            atomic.write_bytes(folder / "videos" / name / picture.name, picture.read_bytes())
        points, occluded = np.asarray(item["points"], np.float32), np.asarray(item["occluded"], bool)
        atomic.save_npz(folder / "videos" / f"{name}.npz", points=points, occluded=occluded)
    for file, asset in (("raft.pth", "raft-things"), *([("rival.pth", "raft-sintel")] if rival else [])):
        atomic.write_bytes(folder / "weights" / file, fetch(asset).read_bytes())
    if not (folder / "problem" / "matches.npz").exists():
        save_problem(folder / "problem", size)
    about(folder)
    (folder / "wheels").mkdir(exist_ok=True)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {total / 1e6:.1f} MB, of which wheels {len(list((folder / 'wheels').glob('*.whl')))}")
    if total > LARGEST:
        sys.exit(f"that is more than {LARGEST / 1e6:.0f} MB")
    print(f"wheels, where they are not there yet:\n{download_line(folder / 'wheels')}")


def save_problem(folder: Path, size: tuple[int, int], frames: int = 24) -> None:
    """The rendered problem of :mod:`problem`: its pictures as JPEG, its matches exact."""
    from PIL import Image
    from problem import problem

    from everypoint.artifacts import atomic
    from everypoint.artifacts.matches import save_matches

    images, matches = problem(frames, size)
    for number, picture in enumerate(images):
        with atomic.atomic_path(folder / f"{number:05d}.jpg") as temporary:
            Image.fromarray(picture).save(temporary, "JPEG", quality=95)
    save_matches(folder / "matches.npz", matches)


def about(folder: Path) -> None:
    """Note the commit, which the machine may not know."""
    from everypoint.artifacts import atomic

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    atomic.write_json(folder / "about.json", {"commit": commit.strip(), "prepared": time.strftime("%Y-%m-%d")})


def download_line(folder: Path) -> str:
    """What fetches the wheels for the machine's Python."""
    kinds = " ".join(f"--platform manylinux{'' if kind == '2014_x86_64' else '_'}{kind}" for kind in PLATFORMS)
    pins = " ".join(f"{name}=={importlib.metadata.version(name)}" for name in WHEELS)
    chosen = f"--no-deps --only-binary=:all: --python-version 3.12 --implementation cp {kinds}"
    return f"python -m pip download {chosen} -d {folder} {pins}"


# ----------------------------------------------------------------------------------------------------- run


class Results:
    """lent.txt, lent.json and lent.log, whole at any moment."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.records, self._log = folder, [], []

    def add(self, part: str, record: dict[str, Any]) -> None:
        """One result."""
        from everypoint.artifacts import atomic

        self.records.append({"part": part, **record})
        print(f"{part}: {record['line']}", flush=True)
        lines = [f"{one['part']}: {one['line']}" for one in self.records]
        atomic.write_text(self.folder / "lent.txt", "\n".join(lines) + "\n")
        atomic.write_json(self.folder / "lent.json", self.records)

    def log(self, part: str, lines: list[str]) -> None:
        """What else a part said."""
        from everypoint.artifacts import atomic

        self._log += [f"== {part}", *lines]
        atomic.write_text(self.folder / "lent.log", "\n".join(self._log)[-8_000_000:] + "\n")


def run(arguments: argparse.Namespace) -> int:
    """All parts in turn; 1 where one failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results, end = Results(arguments.out), time.monotonic() + arguments.seconds
    results.add("machine", machine(arguments.folder))
    for number, name in enumerate(arguments.parts):
        share = SHARES[name] / sum(SHARES[other] for other in arguments.parts[number:])
        seconds = share * (end - time.monotonic())
        if seconds >= 1:
            run_part(name, arguments, results, seconds)
        else:
            results.add(name, {"line": "left out, the time is up", "left_out": name})
    return 1 if any("failed" in record for record in results.records) else 0


def machine(folder: Path) -> dict[str, Any]:
    """What runs this, and what it lacks."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    opencv = "its own" if has_opencv() else "the stand-in"
    noted = folder / "about.json"
    commit = json.loads(noted.read_text())["commit"] if noted.exists() else "unknown"
    line = f"{time.strftime('%Y-%m-%d')}, commit {commit}, Python {platform.python_version()}, "
    line += f"{os.cpu_count()} CPUs, OpenCV: {opencv}"
    line += f"; MISSING: {', '.join(missing)}" if missing else ""
    return {"line": line, "commit": commit, "opencv": opencv, "missing": missing}


def has_opencv() -> bool:
    """Whether the package itself is installed."""
    found = importlib.util.find_spec("cv2")
    return found is not None and not Path(found.origin or "").is_relative_to(STAND_INS)


def environment() -> dict[str, str]:
    """For the processes of the parts: the package, the benchmarks, and OpenCV's stand-in behind everything else."""
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    places = [*map(os.path.abspath, given), str(ROOT), str(ROOT / "benchmarks")]  # parts may run elsewhere
    places += [] if has_opencv() else [str(STAND_INS)]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(places),
        "PYTHONUNBUFFERED": "1",
        "EVERYPOINT_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }


def run_part(name: str, arguments: argparse.Namespace, results: Results, seconds: float) -> None:
    """One part in a process group of its own, which ends when its time is up."""
    from lent_parts import MARK

    command = [sys.executable, __file__, "part", name, str(arguments.folder), "--seconds", f"{seconds:.0f}"]
    command += ["--device", arguments.device, *(["--tiny"] if arguments.tiny else [])]
    command += ["--steps", str(arguments.steps)] if arguments.steps else []
    command += ["--methods", *arguments.methods] if arguments.methods else []
    started, others = time.monotonic(), []
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        stop = threading.Timer(seconds + GRACE, os.killpg, (process.pid, signal.SIGKILL))
        stop.start()
        try:
            for text in process.stdout:
                if text.startswith(MARK):
                    results.add(name, json.loads(text.removeprefix(MARK)))
                else:
                    others.append(text.rstrip("\n"))
        finally:
            stop.cancel()
            if process.poll() is None and sys.exc_info()[0]:  # this program is to end: its part must not live on
                os.killpg(process.pid, signal.SIGKILL)
    results.log(name, others)
    spent = f"{time.monotonic() - started:.0f} s of {seconds:.0f}"
    if process.returncode == -signal.SIGKILL:
        results.add(name, {"line": f"cut off after {spent}", "cut": name})
    elif process.returncode:
        said = next((line for line in reversed(others) if line.strip()), "nothing was said")
        results.add(name, {"line": f"failed after {spent}: {said}", "failed": name})
    else:
        results.add(name, {"line": f"done in {spent}"})


def run_one(arguments: argparse.Namespace) -> None:
    """The body of a part's process."""
    import lent_davis
    import lent_parts

    if arguments.tiny:
        from everypoint.optimize import camera

        camera.ADJUSTMENT_STEPS = 5
    given = lent_parts.Given(
        arguments.folder, arguments.device, arguments.tiny, time.monotonic() + arguments.seconds,
        arguments.steps, tuple(arguments.methods or lent_davis.METHODS),
    )  # fmt: skip
    (lent_davis.davis if arguments.name == "davis" else getattr(lent_parts, arguments.name))(given)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(required=True)
    action = actions.add_parser("prepare", help="make the folder to carry")
    action.add_argument("folder", type=Path)
    action.add_argument(
        "--size", type=int, nargs=2, default=(240, 428), metavar=("H", "W"), help="of the steps' problem"
    )
    action.add_argument("--videos", nargs="+", default=None, help="names; default: all eight")
    action.add_argument("--rival", action="store_true", help="carry the weights of a second network for the flows")
    action.set_defaults(
        run=lambda arguments: prepare(arguments.folder, tuple(arguments.size), arguments.videos, arguments.rival)
    )
    running = actions.add_parser("run", help="measure")
    running.add_argument("folder", type=Path)
    running.add_argument("out", type=Path)
    running.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES))
    running.set_defaults(run=run)
    part = actions.add_parser("part")  # what `run` and `sharing` start
    part.add_argument("name", choices=[*SHARES, "worker"])
    part.add_argument("folder", type=Path)
    part.set_defaults(run=run_one)
    for action in (running, part):
        action.add_argument("--seconds", type=float, default=540.0, help="for all parts together")
        action.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
        action.add_argument("--tiny", action="store_true", help="shapes for a test of this program; no figures")
        action.add_argument(
            "--steps", type=int, default=None, help="davis: of each optimisation, instead of the preset's"
        )
        action.add_argument("--methods", nargs="+", default=None, help="davis: which presets")
    arguments = parser.parse_args()
    sys.exit(arguments.run(arguments))


if __name__ == "__main__":
    main()
