"""Whole small runs of the real Snakefile, in folders of their own."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from everypoint.artifacts import atomic
from everypoint.scenes.presets import preset
from everypoint.scenes.render import render
from everypoint.scenes.truth import annotations

ROOT = Path(__file__).resolve().parents[2]
SIZE = (64, 96)
THREADED = ("flow", "features", "matches", "optimize", "tracks")
LENGTH = 40  # frames of a whole scene; the first few of them move gently
STARTED = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):$")
WILDCARDS = re.compile(r"^    wildcards: (.*)$")

# Small enough for seconds: no weights, few steps, no drawing unless a test asks for it.
TINY: dict[str, Any] = {
    "methods": ["chain"],
    "overlay": {"enabled": False, "max_side": 128},
    "queries": {"grid": 6},
    "overrides": {
        "all": {
            "flow": {"backend": "dis", "quality": "ultrafast", "pairs": {"intervals": [1, 2, 4]}},
            "features": {"backend": "none"},
            "matches": {"per_pair": 512},
        },
        "cpu": {
            "model": {"blocks": 2, "plane_resolutions": [4, 12], "plane_channels": 8},
            "optimize": {
                "steps": 40,
                "log_every": 5,
                "checkpoint_seconds": 0.1,
                "tensorboard": False,
                "sampler": {"batch": 256},
            },
        },
    },
}


@dataclass(frozen=True)
class Run:
    """One call of Snakemake: its exit code, what it printed, and the jobs it started."""

    code: int
    output: str

    @property
    def jobs(self) -> list[str]:
        """``rule``, or ``rule video ...`` with the values of its wildcards, sorted; without the target rule."""
        found = []
        for line in self.output.splitlines():
            if match := STARTED.match(line):
                found.append(match[1])
            elif (match := WILDCARDS.match(line)) and found:
                found[-1] += " " + " ".join(part.split("=")[1] for part in match[1].split(", "))
        return sorted(job for job in found if job != "all")

    @property
    def rules(self) -> list[str]:
        return [job.split()[0] for job in self.jobs]


@functools.cache
def _zygote() -> subprocess.Popen:
    """See zygote.py; it ends with this process, when its stdin closes."""
    command = [sys.executable, str(Path(__file__).with_name("zygote.py"))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Workflow:
    """A folder with videos, a configuration and results."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder, self.videos, self.results = folder, folder / "videos", folder / "results"
        self.videos.mkdir(parents=True, exist_ok=True)
        self.configure(**config)

    def configure(self, **keys: Any) -> None:
        self.config = {**TINY, **keys}
        (self.folder / "my.yaml").write_text(yaml.safe_dump(self.config))

    def arguments(self, *extra: str) -> list[str]:
        """The working directory is the folder of this run; Snakefile, scripts and profile are the checkout's."""
        start = ["-s", str(ROOT / "Snakefile"), "--configfile", "my.yaml", "--cores", "2"]
        # arrays are tiny here: two threads would wait for each other, two jobs do not
        return [*start, "--set-threads", *(f"{rule}=1" for rule in THREADED), *extra]

    def run(self, *extra: str, environment: dict[str, str] | None = None) -> Run:
        output = self.folder / "output.txt"
        call = {"argv": self.arguments(*extra), "cwd": str(self.folder), "output": str(output)}
        call["environment"] = {**os.environ, **(environment or {})}
        zygote = _zygote()
        zygote.stdin.write(json.dumps(call) + "\n")
        zygote.stdin.flush()
        return Run(int(zygote.stdout.readline()), output.read_text())

    def start(self, output: Path, *extra: str, environment: dict[str, str] | None = None) -> subprocess.Popen:
        """The same as a process group of its own, which can be killed."""
        with open(output, "wb") as file:
            command = [sys.executable, "-m", "snakemake", *self.arguments(*extra)]
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **(environment or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finished(self, *extra: str, **options: Any) -> Run:
        """A run that has to succeed."""
        run = self.run(*extra, **options)
        assert run.code == 0, f"{run.output}\n{self.logs()}"
        return run

    def logs(self) -> str:
        return "\n".join(f"== {path}\n{path.read_text()}" for path in sorted(self.results.rglob("*.log")))

    def tracks(self, video: str, method: str = "chain") -> Path:
        return self.results / video / "tracks" / method / "tracks.npz"


def kill(process: subprocess.Popen) -> None:
    """kill -9 of a process group, and the end of its leader."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@functools.cache
def frames_of(name: str, frames: int, seed: int = 0) -> np.ndarray:
    """The first frames of a scene of gentle motion, uint8 [T, H, W, 3]."""
    return render(preset(name, SIZE, LENGTH, seed), frames=range(frames), samples=2)


def truth_of(name: str, frames: int, points: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Annotations of the same frames: points [N, T, 2] and occluded [N, T]."""
    positions, occluded = annotations(preset(name, SIZE, LENGTH), points)
    return positions[:, :frames], occluded[:, :frames]


def add_scene(folder: Path, name: str, scene: str = "two_planes", frames: int = 6, *, truth: bool = True) -> None:
    """A rendered scene as a folder of images, with its annotations beside it."""
    (folder / name).mkdir(parents=True)
    for number, picture in enumerate(frames_of(scene, frames)):
        cv2.imwrite(str(folder / name / f"{number:05d}.png"), picture[..., ::-1])
    if truth:
        points, occluded = truth_of(scene, frames)
        atomic.save_npz(folder / f"{name}.annotations.npz", points=points, occluded=occluded)


def add_mp4(folder: Path, name: str, *parts: np.ndarray) -> None:
    from everypoint.video.encode import write_mp4

    write_mp4(folder / f"{name}.mp4", iter(np.concatenate(parts)), 25.0)


def add_gif(folder: Path, name: str, frames: np.ndarray) -> None:
    from PIL import Image

    first, *rest = [Image.fromarray(picture) for picture in frames]
    first.save(folder / f"{name}.gif", save_all=True, append_images=rest, duration=40)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session", autouse=True)
def _end_of_zygote():
    yield
    if _zygote.cache_info().currsize:
        process = _zygote()
        process.stdin.close()
        process.stdout.close()
        process.wait()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A function that makes an empty :class:`Workflow`."""
    return lambda **config: Workflow(tmp_path_factory.mktemp("run"), **config)
