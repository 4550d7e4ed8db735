"""benchmarks/lent.py on a CPU, in its smallest shapes, as where OpenCV and much else is missing."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from everypoint.artifacts import atomic
from everypoint.artifacts.matches import save_matches
from everypoint.scenes.presets import preset
from everypoint.scenes.render import render
from everypoint.scenes.truth import annotations
from tests.shared import ROOT
from tests.unit.correspond.weights import formula_weights
from tests.unit.optimize.made import camera_matches

BENCHMARKS = ROOT / "benchmarks"
SIZE, FRAMES = (64, 96), 4
ABSENT = ("imageio_ffmpeg", "snakemake", "tensorboard", "matplotlib", "pandas", "timm", "transformers")
BLOCK = """
from functools import partial
from importlib.machinery import PathFinder
plain = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in {absent!r} else plain(name, path, target)
PathFinder.find_spec = partial(find_spec)  # pytest makes it an attribute of a class
"""


def save_pictures(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for number, picture in enumerate(images):
        Image.fromarray(picture).save(folder / f"{number:05d}.jpg", quality=95)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """As ``prepare`` makes it: one rendered video, a small RAFT that sees no motion, a problem of a few pairs."""
    folder = tmp_path_factory.mktemp("lent")
    scene = preset("two_planes", SIZE, FRAMES)
    save_pictures(folder / "videos" / "made-up", render(scene, samples=1))
    points, occluded = annotations(scene, 8)
    atomic.save_npz(folder / "videos" / "made-up.npz", points=points, occluded=occluded)
    (folder / "weights").mkdir()
    still = {name: value * ("flow_head" not in name) for name, value in formula_weights(small=True).items()}
    with atomic.atomic_path(folder / "weights" / "raft.pth") as file:
        torch.save(still, file)
    matches = camera_matches(frames=24, gaps=(1, 4, 12), square=(2.0, 0.0))
    save_pictures(folder / "problem", np.zeros((24, *matches.size, 3), np.uint8))
    save_matches(folder / "problem" / "matches.npz", matches)
    atomic.write_json(folder / "about.json", {"commit": "abc1234"})
    return folder


def lent(folder: Path, out: Path, *further: str) -> tuple[int, list[dict], str]:
    """Run it as on a machine without OpenCV and the like: exit code, results, and what it printed."""
    site = out.parent / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(BLOCK.format(absent=ABSENT))
    path = os.pathsep.join([str(site), str(BENCHMARKS / "stand_ins")])
    command = [sys.executable, str(BENCHMARKS / "lent.py"), "run", str(folder), str(out), "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*command, *further], env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    records = json.loads((out / "lent.json").read_text())
    assert (out / "lent.txt").read_text().splitlines() == [f"{one['part']}: {one['line']}" for one in records]
    return done.returncode, records, done.stdout + done.stderr


def of(records: list[dict], part: str) -> list[dict]:
    return [one for one in records if one["part"] == part]


def test_steps_and_videos(folder, tmp_path):
    code, records, printed = lent(folder, tmp_path / "out", "--parts", "steps", "davis")
    assert code == 0, f"{printed}\n{(tmp_path / 'out' / 'lent.log').read_text()}"
    (machine,) = of(records, "machine")
    assert (machine["commit"], machine["opencv"], machine["missing"]) == ("abc1234", "the stand-in", [])
    steps = {(one["variant"], one["mode"]): one["ms"] for one in of(records, "steps") if "mode" in one}
    assert steps.keys() == {("cpu", "eager"), ("cadex-nomatch", "eager")}
    assert all(ms > 0 for ms in steps.values())
    stages = {one["method"]: set(one["seconds"]) for one in of(records, "davis") if "video" in one}
    walked, optimised = {"flow", "features", "tracks"}, {"flow", "features", "matches", "optimize", "tracks"}
    assert stages == {"chain-multi": walked, "fast": optimised, "cadex-nomatch": optimised | {"depth"}}
    means = [one["line"].split(":")[0] for one in of(records, "davis") if "videos" in one]
    assert means == [f"**{name}, mean of 1**" for name in stages]
    trained = {one["method"]: one["training"] for one in of(records, "davis") if one.get("training")}
    planned = {name: (one["steps"], one["planned"]) for name, one in trained.items()}
    assert planned == {"fast": (4, 4), "cadex-nomatch": (4, 4)}


def test_a_part_that_fails_says_so_and_the_next_runs(folder, tmp_path):
    """There is no problem for the steps; the tests that need CUDA are started, and skipped."""
    broken = tmp_path / "broken"
    broken.mkdir()
    code, records, _ = lent(broken, tmp_path / "out", "--parts", "tests", "steps")
    failed = [one for one in of(records, "steps") if "failed" in one]
    assert (code, [one["failed"] for one in failed]) == (1, ["cpu eager", "cadex-nomatch eager"])
    assert "ArtifactError" in failed[0]["reason"] or "need at least one array" in failed[0]["reason"]
    (told,) = [one for one in of(records, "tests") if "code" in one]
    assert "skipped" in told["line"] or torch.cuda.is_available()


def test_without_time_nothing_is_tried(folder, tmp_path):
    code, records, _ = lent(folder, tmp_path / "out", "--parts", "sharing", "davis", "--seconds", "0")
    assert code == 0
    assert [one.get("left_out") for one in records] == [None, "sharing", "davis"]


@pytest.mark.slow
def test_rates_and_processes_side_by_side(folder, tmp_path):
    code, records, printed = lent(folder, tmp_path / "out", "--parts", "roofline", "sharing")
    assert code == 0, printed
    rates = {key: value for one in of(records, "roofline") for key, value in one.items() if key not in ("part", "line")}
    assert rates.keys() == {"device", "torch", "copy", "float32", "tf32", "bfloat16"}
    assert [one["processes"] for one in of(records, "sharing") if "processes" in one] == [1, 2]


# ------------------------------------------------------------------------------------------ OpenCV's stand-in


@pytest.fixture(scope="module")
def stand_in() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stand_in", BENCHMARKS / "stand_ins" / "cv2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_stand_in_is_opencv(stand_in):
    random = np.random.default_rng(0)
    image, other = random.integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    x, y = (random.uniform(-5, side + 5, (300, 49)).astype(np.float32) for side in (50, 40))
    expected = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    found = stand_in.remap(image, x, y, stand_in.INTER_LINEAR, borderMode=stand_in.BORDER_REPLICATE)
    assert np.array_equal(found, expected)
    assert np.array_equal(stand_in.absdiff(image, other), cv2.absdiff(image, other))


def test_the_stand_in_has_nothing_else(stand_in):
    with pytest.raises(AttributeError, match="cv2.imread is not in the stand-in"):
        _ = stand_in.imread
    with pytest.raises(NotImplementedError):
        stand_in.remap(np.zeros((2, 2), np.float32), *np.zeros((2, 1, 1)), 1, borderMode=1)
