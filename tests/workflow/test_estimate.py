"""What a run was said to write, against what it wrote."""

from __future__ import annotations

import cv2
import pytest

from everypoint.scenes.presets import preset
from everypoint.scenes.render import render
from everypoint.stages.estimate import estimate, jobs_of, total
from everypoint.stages.plan import make_plan

SIZES = {"small": (6, 64, 96), "long": (24, 72, 64), "large": (8, 160, 240)}


@pytest.fixture(scope="module")
def workflow(workspace):
    """Three sizes, with overlays; what models and tables of matches take is in tests/unit/stages/test_space.py."""
    folder = workspace(exports=["nuke"], overlay={"enabled": True}, device="cpu")
    for name, (frames, *size) in SIZES.items():
        (folder.videos / name).mkdir()
        for number, picture in enumerate(render(preset("parallax", tuple(size), frames), samples=2)):
            cv2.imwrite(str(folder.videos / name / f"{number:05d}.png"), picture[..., ::-1])
    return folder


@pytest.fixture
def plan(workflow, monkeypatch):
    monkeypatch.chdir(workflow.folder)
    return make_plan(workflow.config, "my.yaml")


def written(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_dry_run_says_it_once(workflow, plan):
    lines = estimate(plan).lines
    assert workflow.finished("-n").output.count("\n".join(lines[:-1])) == 1  # the last one says what is free just now
    assert lines[-1].startswith("free in results: ")


def test_bytes_are_foretold_within_a_quarter(workflow, plan):
    before = estimate(plan)
    workflow.finished()
    for video in SIZES:
        found = total(jobs_of(plan, video))
        assert found.bytes == pytest.approx(written(workflow.results / video), rel=0.25), video
    assert before.bytes == pytest.approx(written(workflow.results), rel=0.25)
    after = estimate(plan)
    assert after.bytes == before.bytes
    assert after.to_come < 0.2 * before.bytes  # the page, which is made anew whenever anything is
