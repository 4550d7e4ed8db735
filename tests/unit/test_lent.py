"""benchmarks/lent.py on a CPU, in its smallest shapes, as where OpenCV and much else is missing."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[Callable[[str], ModuleType]]:
    """Modules of the folder benchmarks by name."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(BENCHMARKS))


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


def test_a_part_that_fails_says_so_and_the_next_runs(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    code, records, _ = lent(empty, tmp_path / "out", "--parts", "davis", "roofline")
    assert code == 1
    assert [one.get("failed") for one in of(records, "davis")] == ["davis"]
    assert "FileNotFoundError" in of(records, "davis")[0]["line"]
    rates = {key: value for one in of(records, "roofline") for key, value in one.items() if key not in ("part", "line")}
    assert rates.keys() == {"device", "torch", "copy", "float32", "tf32", "bfloat16"}


def test_what_fails_or_has_no_time_costs_nothing_else(benchmarks, capsys):
    parts = benchmarks("lent_parts")

    def broken():
        raise RuntimeError("CUDA error:\nan illegal access")

    given, done = parts.Given(Path(), "cpu", True, time.monotonic() + 1000), []
    parts.attempted("first", broken, given)
    parts.attempted("second", lambda: done.append("second"), given)
    parts.attempted("third", lambda: done.append("third"), dataclasses.replace(given, deadline=0.0))
    assert done == ["second"]
    told = [json.loads(line.removeprefix(parts.MARK)) for line in capsys.readouterr().out.splitlines()]
    assert told == [
        {
            "line": "first: failed, RuntimeError: CUDA error: an illegal access",
            "failed": "first",
            "reason": "RuntimeError: CUDA error: an illegal access",
        },
        {"line": "third: left out, the time is up", "left_out": "third"},
    ]


def test_a_cuda_device_gets_every_mode_and_what_may_break_it_last(benchmarks):
    parts, step = benchmarks("lent_parts"), benchmarks("step")
    found = list(parts._modes(parts.Given(Path(), "cuda", False, 0.0)))
    assert len(found) == len(set(found))
    assert {mode for _, mode in found} == {*step.MODES, *parts.KERNELS}
    assert {variant for variant, _ in found} <= set(step.VARIANTS)
    modes = [mode for _, mode in found]
    assert all(mode in (*parts.KERNELS, *parts.COMPILED) for mode in modes[modes.index("triton") :])
    assert all(mode in parts.COMPILED for mode in modes[modes.index("compiled") :])


def test_a_run_that_is_ended_takes_its_part_along(folder, tmp_path):
    command = [sys.executable, str(BENCHMARKS / "lent.py"), "run", str(folder), str(tmp_path / "out")]
    command += ["--device", "cpu", "--tiny", "--parts", "roofline"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while not (line := process.stdout.readline()).startswith("roofline"):
            assert line, "the part said nothing"
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.terminate()
        assert process.wait() == 143
    assert not Path(f"/proc/{child}").exists()


def test_without_time_nothing_is_tried(folder, tmp_path):
    code, records, _ = lent(folder, tmp_path / "out", "--parts", "sharing", "davis", "--seconds", "0")
    assert code == 0
    assert [one.get("left_out") for one in records] == [None, "sharing", "davis"]


@pytest.mark.slow
def test_processes_side_by_side_and_the_tests(folder, tmp_path):
    code, records, printed = lent(folder, tmp_path / "out", "--parts", "sharing", "tests")
    assert code == 0, printed
    assert [one["processes"] for one in of(records, "sharing") if "processes" in one] == [1, 2]
    told = [one["counts"] for one in of(records, "tests") if "code" in one]
    assert [sum(counts.values()) > 0 for counts in told] == [True, True]
    assert all(counts.keys() == {"skipped"} for counts in told) or torch.cuda.is_available()


def test_failures_among_the_tests_are_told_at_once(benchmarks, tmp_path, monkeypatch, capsys):
    parts = benchmarks("lent_parts")
    (tmp_path / "tests").mkdir()
    body = "import pytest\n@pytest.mark.gpu\n@pytest.mark.parametrize('n', ['a b', 2])\ndef test_it(n): assert n == 2\n"
    (tmp_path / "tests" / "test_made_up.py").write_text(body)
    monkeypatch.setattr(parts, "ROOT", tmp_path)
    monkeypatch.setattr(parts, "TESTS", ("tests",))
    parts._tested(parts.Given(Path(), "cpu", True, time.monotonic() + 1000), "gpu and not slow")
    told = [
        json.loads(line.removeprefix(parts.MARK)) for line in capsys.readouterr().out.splitlines() if parts.MARK in line
    ]
    assert [one["failed"] for one in told] == ["tests/test_made_up.py::test_it[a b]", "gpu and not slow"]
    assert told[1]["counts"] == {"passed": 1, "failed": 1}


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
