"""A folder of videos of every kind: all outputs, nothing twice, only what a change needs."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from everypoint.artifacts.tracks import load_tracks
from tests.workflow.conftest import ROOT, add_gif, add_mp4, add_scene, frames_of


@pytest.fixture(scope="module")
def workflow(workspace):
    """An image folder with ground truth, a gif and an mp4, tracked once."""
    folder = workspace(overlay={"enabled": True, "max_side": 128})
    add_scene(folder.videos, "scene")
    add_gif(folder.videos, "small", frames_of("parallax", 5))
    add_mp4(folder.videos, "My clip", frames_of("occluder", 5))
    (folder.videos / "notes.txt").write_text("no video")
    folder.first = folder.finished()
    return folder


def clip_name(workflow) -> str:
    return next(path.name for path in workflow.results.iterdir() if path.name.startswith("My-clip-"))


def test_every_job_runs_once(workflow):
    each = ["flow", "frames", "overlay", "queries", "tracks"]
    assert workflow.first.rules == sorted([*each, *each, *each, "evaluate", "report"])


def test_tracks_are_those_of_the_frames_and_queries(workflow):
    tracks = load_tracks(workflow.tracks("small"))
    assert tracks.tracks.shape == (5, 24, 2)  # a grid of 6 x 4
    assert tracks.frame_size == (64, 96)
    assert np.array_equal(tracks.tracks[0], tracks.queries[:, 1:])
    assert tracks.visibility[0].all()
    assert tracks.meta["preset"] == "chain"
    assert workflow.tracks("small").with_name("tracks.csv").read_text().count("\n") == 1 + 5 * 24


def test_ground_truth_is_measured(workflow):
    metrics = json.loads((workflow.results / "scene" / "evaluate" / "chain" / "metrics.json").read_text())
    assert metrics["modes"]["strided"]["average_pts_within_thresh"] > 0.5  # it tracks; how well is tested elsewhere
    assert metrics["protocol"]["frames"] == 6
    assert not (workflow.results / "small" / "evaluate").exists()


def test_the_report_shows_every_video(workflow):
    page = (workflow.results / "report.html").read_text()
    assert all(name in page for name in ("scene", "small", clip_name(workflow)))
    assert (workflow.results / "metrics.csv").read_text().count("scene,chain,strided") == 1
    summary = json.loads((workflow.results / "report" / "summary.json").read_text())
    assert len(summary["videos"]) == 3


def test_every_job_has_its_log_and_benchmark(workflow):
    logs = {path.name for path in (workflow.results / "scene" / "logs").glob("*.log")}
    rules = {name.split(".")[0] for name in logs}
    assert rules == {"frames", "queries", "flow", "tracks", "overlay", "evaluate"}
    for name in logs:
        record = json.loads((workflow.results / "scene" / "logs" / name.replace(".log", ".jsonl")).read_text())
        assert record["s"] >= 0


def test_a_second_run_does_nothing(workflow):
    again = workflow.finished()
    assert again.jobs == []
    assert "Nothing to be done" in again.output


def test_touched_files_redo_nothing(workflow):
    for path in (workflow.videos / "small.gif", workflow.videos / "scene" / "00000.png"):
        os.utime(path)
    (workflow.videos / "scene.annotations.npz").touch()
    assert workflow.finished("-n").jobs == []


def test_a_video_that_comes_and_goes(workflow):
    add_gif(workflow.videos, "late", frames_of("rotation", 4))
    run = workflow.finished()
    assert [job.split()[:2] for job in run.jobs] == [
        ["flow", "late"], ["frames", "late"], ["overlay", "late"], ["queries", "late"], ["report"], ["tracks", "late"],
    ]  # fmt: skip
    (workflow.videos / "late.gif").unlink()
    assert workflow.finished().jobs == ["report"]
    assert "late" not in json.loads((workflow.results / "report" / "summary.json").read_text())["videos"]


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({"queries": {"grid": 5}}, {"queries", "tracks", "overlay", "report", "evaluate"}),
        ({"evaluate": {"query_stride": 3}}, {"queries", "tracks", "overlay", "evaluate", "report"}),
        ({"overlay": {"enabled": True, "max_side": 100}}, {"overlay", "report"}),
        ({"report": {"title": "mine"}}, {"report"}),
        (
            {"per_video": {"small": {"frames": {"start": 1}}}},
            {"frames", "queries", "flow", "tracks", "overlay", "report"},
        ),
        ({"device": "cpu"}, set()),
    ],
)
def test_a_changed_key_runs_what_depends_on_it(workflow, change, rules):
    before = workflow.config
    try:
        workflow.configure(**{**before, **change})
        run = workflow.finished("-n")
    finally:
        workflow.configure(**before)
    assert set(run.rules) == rules
    if "per_video" in change:
        assert all("small" in job for job in run.jobs if job != "report")


def test_a_comment_in_a_script_redoes_nothing(workflow):
    script = ROOT / "scripts" / "flow.py"
    before = script.stat()
    os.utime(script)  # what an editor does to it; its content is no parameter of any job
    try:
        assert workflow.finished("-n").jobs == []
    finally:
        os.utime(script, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(("found", "planned", "counted"), [("", 1, 0), ("0", 1, 1)])
def test_jobs_wait_for_a_gpu_only_where_there_is_one(workspace, found, planned, counted):
    """What a run counts by; a dry run shows what the plan asks of whatever runs it."""
    folder = workspace(device="auto")
    add_scene(folder.videos, "scene")
    environment = {"EVERYPOINT_DEVICES": found}
    for extra, gpus in ((("-n",), planned), ((), counted)):
        run = folder.finished("--until", "flow", *extra, environment=environment)
        resources = run.output[run.output.index("rule flow:") :].split("resources:")[1].split("\n")[0]
        assert f"gpu={gpus}" in resources if gpus else "gpu=1" not in resources
