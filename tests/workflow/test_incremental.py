"""What runs again after a change, asked of Snakemake itself: what the plan says (tests/jobs.py), and so the table."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from everypoint.artifacts.video import load_frames
from everypoint.config.load import deep_merge
from everypoint.stages.plan import STAGES, make_plan
from tests.jobs import Job, downstream, jobs_of, rerun
from tests.workflow.conftest import ROOT, SIZE, Run, add_gif, add_scene, frames_of

METHODS = ["chain-multi", "cpu"]


@pytest.fixture(scope="module")
def workflow(workspace):
    """A folder of images with ground truth and a gif, tracked once by two presets."""
    folder = workspace(methods=METHODS)
    add_scene(folder.videos, "scene")
    add_gif(folder.videos, "small", frames_of("parallax", 4))
    folder.asked = folder.run("-n")
    folder.first = folder.finished()
    return folder


def of_snakemake(run: Run) -> set[frozenset[str]]:
    return {frozenset(job.split()) for job in run.jobs}


def of_plan(jobs: set[Job]) -> set[frozenset[str]]:
    return {frozenset([job.rule, *(value for _, value in job.wildcards)]) for job in jobs}


@contextmanager
def at(folder: Path):
    """Paths of a plan are relative to the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def planned(workflow, **changes) -> list[Job]:
    with at(workflow.folder):
        return jobs_of(make_plan(deep_merge(workflow.config, changes), "my.yaml"))


def test_snakemake_sees_the_jobs_that_the_plan_lists(workflow):
    assert of_snakemake(workflow.asked) == of_plan(set(planned(workflow))) == of_snakemake(workflow.first)


OF_CPU = {
    "flow": {"quality": "fast"},
    "matches": {"cycle_threshold": 2.5},
    "sparse": {"per_pair": 9},
    "model": {"blocks": 3},
    "readout": {"occlusion_depth": 0.2},
}
CHANGES = [  # test_folder.py has others
    {"seed": 1},
    {"frames": {"max_side": 90}},
    {"jobs": {"minutes": 5.0}},
    {"pips": {"test": {"window": 9}}},
    *({"overrides": {"cpu": {section: keys}}} for section, keys in OF_CPU.items()),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_key_runs_what_the_plan_says(workflow, change):
    """That the plan says what the table says is tested key by key in tests/unit/stages/test_reruns.py."""
    before = workflow.config
    expected = rerun(planned(workflow), planned(workflow, **change))
    try:
        workflow.configure(**deep_merge(before, change))
        run = workflow.finished("-n")
    finally:
        workflow.configure(**before)
    assert of_snakemake(run) == of_plan(expected)


@pytest.mark.parametrize("stage", ["flow", "tracks"])
def test_a_raised_version_runs_that_stage_and_what_follows(workflow, stage):
    assert stage in STAGES
    wrapper = workflow.folder / "raised.smk"
    wrapper.write_text(
        f"import everypoint.stages.{stage} as stage\n\nstage.VERSION += 1\n\n\ninclude: {str(ROOT / 'Snakefile')!r}\n"
    )
    jobs = planned(workflow)
    expected = downstream(jobs, {job for job in jobs if job.rule == stage})
    assert of_snakemake(workflow.finished("-n", "-s", str(wrapper), "all")) == of_plan(expected)


def test_the_same_version_runs_nothing(workflow):
    wrapper = workflow.folder / "same.smk"
    wrapper.write_text(f"include: {str(ROOT / 'Snakefile')!r}\n")
    assert workflow.finished("-n", "-s", str(wrapper), "all").jobs == []


@contextmanager
def without(path: Path):
    """A result that is not there for a while; its time stays what it was."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.mark.parametrize(
    ("result", "rule"),
    [
        ("flow/*/1of1", None),
        ("frames/frames.npy", None),
        ("tracks/cpu/tracks.npz", "tracks"),
    ],
)
def test_a_deleted_result_is_made_again_if_it_is_a_product(workflow, result, rule):
    """What the report shows comes back, with what follows; what only stood on the way to it is not missed."""
    jobs = planned(workflow)
    expected = downstream(
        jobs,
        {job for job in jobs if job.rule == rule and "scene" in job.value("video") and job.value("preset") == "cpu"},
    )
    with without(only(workflow.results / "scene", result)):
        run = workflow.finished("-n")
    assert of_snakemake(run) == of_plan(expected)


@pytest.mark.parametrize(
    ("result", "rules"),
    [
        ("flow/*/1of1", {"flow", "matches", "optimize"}),
        ("matches/*/matches.npz", set()),  # the model is there, which is all that the tracks read
        ("optimize/cpu/model.pt", {"optimize"}),
    ],
)
def test_what_is_missing_on_the_way_is_made_again_when_it_is_needed(workflow, result, rules):
    scene = workflow.results / "scene"
    with without(only(scene, result)), without(scene / "tracks/cpu/tracks.npz"):
        assert set(workflow.finished("-n").rules) == {*rules, "tracks", "evaluate", "report"}


def test_files_written_again_with_equal_bytes_run_nothing(workflow):
    for path in (workflow.videos / "small.gif", workflow.results / "small" / "queries" / "queries.npz"):
        content = path.read_bytes()
        path.write_bytes(content)
    assert workflow.finished("-n").jobs == []


def test_another_content_runs_that_video(workflow):
    path = workflow.videos / "small.gif"
    content, times = path.read_bytes(), path.stat()
    add_gif(workflow.videos, "small", frames_of("rotation", 4))
    try:
        jobs = workflow.finished("-n").jobs
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert all("small" in job for job in jobs if job != "report")
    assert {job.split()[0] for job in jobs} == {"frames", "queries", "flow", "matches", "optimize", "tracks", "report"}


def overwrite(folder: Path, pictures) -> None:
    """Images without compression, numbered, all of one size."""
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(pictures):
        assert cv2.imwrite(str(folder / f"{number}.bmp"), picture[..., ::-1])


def test_images_and_masks_that_are_overwritten_by_others_of_equal_size_run_that_video(workspace):
    folder = workspace()
    images, masks = folder.videos / "clip", folder.videos / "clip.mask"
    overwrite(images, frames_of("parallax", 4))
    overwrite(masks, [255 * np.ones((*SIZE, 3), np.uint8)] * 4)
    add_gif(folder.videos, "other", frames_of("parallax", 4))
    folder.finished()
    sizes = [path.stat().st_size for path in sorted(images.iterdir())]
    for path in (*images.iterdir(), *masks.iterdir()):
        path.touch()
    assert folder.finished("-n").jobs == []  # a touch is no change
    overwrite(images, frames_of("rotation", 4))
    assert [path.stat().st_size for path in sorted(images.iterdir())] == sizes
    jobs = folder.finished().jobs
    assert {"frames clip", "tracks clip chain"} <= set(jobs)
    assert not [job for job in jobs if "other" in job]
    assert np.array_equal(load_frames(folder.results / "clip" / "frames"), frames_of("rotation", 4))
    assert folder.finished("-n").jobs == []
    half = 255 * np.ones((*SIZE, 3), np.uint8)
    half[:, SIZE[1] // 2 :] = 0
    overwrite(masks, [half] * 4)
    assert {"queries clip", "tracks clip chain"} <= set(folder.finished("-n").jobs)


def test_a_video_with_the_name_of_another_leaves_its_results_alone(workspace):
    folder = workspace()
    add_gif(folder.videos, "b", frames_of("parallax", 3))
    folder.finished()
    for name in ("B", "other"):
        add_gif(folder.videos, name, frames_of("rotation", 3))
    first = folder.finished("-n")
    (new,) = {video for job in first.jobs for video in job.split()[1:2] if video.startswith("B-")}
    assert f"told apart, from now on: B.gif is {new}, b.gif is b" in first.output
    assert {video for job in first.jobs for video in job.split()[1:2]} == {new, "other"}
    assert (folder.folder / ".snakemake" / "everypoint" / "names.json").exists()
