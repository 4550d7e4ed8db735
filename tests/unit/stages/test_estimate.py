"""The estimate of a run: its jobs are the workflow's own, and its table stays short."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from everypoint.__main__ import main
from everypoint.stages import estimate
from everypoint.stages.plan import make_plan
from tests.jobs import TARGETS, jobs_of

HERE = {"videos": "videos", "device": "cpu"}


def add(folder, name, frames=8, size=(48, 64)):
    (folder / name).mkdir(parents=True)
    for number in range(frames):
        cv2.imwrite(str(folder / name / f"{number}.png"), np.zeros((*size, 3), np.uint8))


@pytest.fixture
def videos(tmp_path, monkeypatch):
    """Two folders of images; the working directory is where results would go."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERYPOINT_DEVICES", "")
    add(tmp_path / "videos", "one")
    add(tmp_path / "videos", "two", frames=12, size=(96, 128))
    return tmp_path / "videos"


CASES = [
    {"methods": ["chain"]},
    {"methods": ["chain-multi", "cpu"]},
    {"methods": ["cpu", "chain"], "overrides": {"all": {"flow": {"shards": 3}, "features": {"shards": 2}}}},
    {"methods": ["cadex", "omnimotion", "omnimotion-depth"]},
    {"methods": ["cotracker", "pips2"], "exports": ["nuke", "tapvid"]},
    {"methods": ["cpu"], "overlay": {"enabled": False}, "overrides": {"all": {"sparse": {"sources": ["mutual"]}}}},
]  # fmt: skip


@pytest.mark.parametrize("keys", CASES, ids=str)
def test_its_jobs_are_those_of_the_workflow(videos, keys):
    """Both start from the products; the rules are asked by their own text."""
    plan = make_plan(HERE | keys, "x")
    wanted = [job.rule.removesuffix("_part") for job in jobs_of(plan, TARGETS) if job.rule not in ("report", "all")]
    found = [job.stage for video in plan.videos for job in estimate.jobs_of(plan, video)]
    assert sorted(found) == sorted(wanted)


def test_seconds_are_those_of_the_table_of_costs(videos):
    """Cut into shards, the seconds of computing stay the same; each job starts once more."""
    whole, cut = (
        estimate.total(
            estimate.jobs_of(make_plan(HERE | {"methods": ["chain"], "overrides": {"all": {"flow": flow}}}, "x"), "two")
        )
        for flow in ({"shards": 1}, {"shards": 4})
    )
    assert cut.pairs == whole.pairs == 2 * (11 + 10 + 8 + 4)
    assert cut.core_seconds - whole.core_seconds == pytest.approx(3 * 8.0)  # RAFT starts torch
    assert cut.bytes == pytest.approx(whole.bytes, rel=0.01)


def test_where_there_is_a_gpu_it_counts_gpu_hours(videos, monkeypatch):
    plan = make_plan(HERE | {"device": "cuda", "methods": ["cpu"]}, "x")
    on_gpu = estimate.total(estimate.jobs_of(plan, "two"))
    on_cpu = estimate.total(estimate.jobs_of(make_plan(HERE | {"methods": ["cpu"]}, "x"), "two"))
    assert on_cpu.gpu_seconds == 0 < on_gpu.gpu_seconds < on_cpu.core_seconds
    assert on_gpu.core_seconds < on_cpu.core_seconds
    assert "GPU hours" in estimate.hours(on_gpu)


def test_what_is_there_already_is_not_to_come(videos, tmp_path):
    plan = make_plan(HERE | {"methods": ["chain"]}, "x")
    before = estimate.estimate(plan)
    assert before.to_come == before.bytes
    assert not any("still to come" in line for line in before.lines)
    (tmp_path / "results" / "two" / "frames").mkdir(parents=True)
    (tmp_path / "results" / "two" / "frames" / "video.json").write_text("{}")
    (tmp_path / "results" / "two" / "frames" / "frames.npy").write_text("")
    after = estimate.estimate(plan)
    assert after.bytes == before.bytes
    assert before.to_come - after.to_come == pytest.approx(12 * 96 * 128 * 3, rel=0.05)
    assert any(line.startswith("still to come") for line in after.lines)


def test_a_full_disk_is_a_warning(videos, monkeypatch):
    plan = make_plan(HERE | {"methods": ["chain"]}, "x")
    needed = estimate.estimate(plan).to_come
    for free, warned in ((needed - 1, True), (needed, False)):
        monkeypatch.setattr(estimate, "_free", lambda folder, free=free: free)
        lines = estimate.estimate(plan).lines
        assert any(line.startswith("WARNING: ") for line in lines) == warned


def test_a_long_list_is_cut(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(23):
        add(tmp_path / "videos", f"v{number:02d}", frames=2)
    lines = estimate.estimate(make_plan(HERE | {"methods": ["chain"]}, "x")).lines
    assert sum(line.startswith("v") for line in lines) == 1 + 20
    assert "... and 3 more" in lines
    (whole,) = (line for line in lines if line.startswith("all 23 videos"))
    assert whole.split()[3] == "46"  # frames of all of them


def test_shots_count_once_they_are_known(videos, tmp_path):
    plan = make_plan(HERE | {"methods": ["chain"], "frames": {"on_cut": "split"}}, "x")
    whole = estimate.total(estimate.jobs_of(plan, "two"))
    (tmp_path / "results" / "two" / "shots").mkdir(parents=True)
    listing = tmp_path / "results" / "two" / "shots" / "shots.json"
    listing.write_text(json.dumps({"shots": [[0, 6], [6, 12]]}))
    cut = estimate.total(estimate.jobs_of(plan, "two"))
    assert cut.pairs == 2 * 2 * (5 + 4 + 2) < whole.pairs


def test_a_video_that_cannot_be_read_is_a_guess(videos):
    (videos / "broken.mp4").write_bytes(b"nothing")
    lines = estimate.estimate(make_plan(HERE | {"methods": ["chain"]}, "x")).lines
    assert [line.split()[0] for line in lines if "a guess" in line] == ["broken"]


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0.0 MB"), (423e6, "423 MB"), (9.96e6, "10 MB"), (1.76e9, "1.76 GB"), (2.3e14, "230 TB")]
)
def test_bytes_for_people(number, shown):
    assert estimate.amount(number) == shown


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_prints_it_and_writes_no_results(videos, tmp_path, capsys):
    assert main(["estimate", "videos", "--methods", "chain", "--results", "out", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["video", "frames", "size", "pairs", "disk", "time"]
    assert lines[2].split()[:4] == ["two", "12", "128x96", "66"]
    assert any(line.startswith("free in out: ") for line in lines)
    assert not (tmp_path / "out").exists()


def test_the_command_takes_a_configuration(videos, tmp_path, capsys):
    (tmp_path / "my.yaml").write_text("videos: videos\nmethods: [chain]\nframes: {max_frames: 4}\n")
    assert main(["estimate", "--config", "my.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["two", "4", "128x96"]


def test_mistakes_are_one_sentence(videos, capsys):
    assert main(["estimate", "nowhere", "--methods", "chain"]) == 1
    assert capsys.readouterr().err.startswith("everypoint: ")
