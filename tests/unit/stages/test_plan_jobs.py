"""Into how many jobs a video is cut, and what they ask of a cluster."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.stages import costs, relevant
from everypoint.stages.plan import make_plan
from everypoint.video.sizes import Size


@pytest.fixture
def videos(tmp_path, monkeypatch):
    """Two sequences of 3 and 600 pictures, of which only the first is one, and a file that is no video."""
    folder = tmp_path / "videos"
    for name, count in (("short", 3), ("long", 600)):
        (folder / name).mkdir(parents=True)
        cv2.imwrite(str(folder / name / "0000.png"), np.zeros((480, 640, 3), np.uint8))
        for number in range(1, count):
            (folder / name / f"{number:04d}.png").touch()
    (folder / "broken.mp4").write_bytes(b"broken")
    monkeypatch.chdir(tmp_path)
    return folder


def plan_of(**keys):
    return make_plan({"methods": ["cpu"], **keys}, "c.yaml")


def of(plan, video, **others):
    preset = plan.presets["cpu"]
    keys = {"flow": relevant.flow_key(preset.flow), "features": relevant.features_key(preset.features)}
    return SimpleNamespace(video=video, preset="cpu", key=keys.get(others.pop("stage", ""), ""), **others)


def test_sizes_are_those_of_the_used_frames(videos):
    plan = plan_of(frames={"max_frames": 100, "stride": 2, "max_side": 32})
    assert plan.size("long") == Size(100, 24, 32)
    assert plan.size("short") == Size(2, 24, 32)
    assert plan.source_size("long") == Size(600, 480, 640)
    assert plan.size("broken").frames == 50  # stands for a video that nobody can read


def test_a_shot_has_its_own_size(videos):
    plan = plan_of(frames={"on_cut": "split"})
    assert plan.size("long-shot02") == Size(600, 480, 640)  # before the shots are known
    atomic.write_json(videos.parent / "results" / "long" / "shots" / "shots.json", {"shots": [[0, 500], [500, 600]]})
    assert plan.size("long-shot02") == Size(100, 480, 640)


def test_a_long_video_is_cut_and_a_short_one_is_not(videos):
    plan = plan_of(jobs={"minutes": 0.02})
    preset = plan.presets["cpu"]
    seconds = costs.flow(plan.size("long"), preset.flow).seconds / costs.GPU_SPEED["flow"]
    assert plan.flow_shards("long", preset.flow) == costs.pieces(seconds, 0.02, 300) > 5
    assert len(plan.flow_folders("long", preset.flow)) == plan.flow_shards("long", preset.flow)
    assert plan.flow_shards("short", preset.flow) == 1
    key = relevant.features_key(preset.features)
    parts = plan.features_inputs(SimpleNamespace(video="long", key=key))["parts"]
    assert len(parts) == plan.features_shards("long", preset.features) > 1
    assert parts[0] == f"results/long/features/{key}/1of{len(parts)}/features.npy"
    assert "parts" not in plan.features_inputs(SimpleNamespace(video="short", key=key))
    assert plan.features_gpus(SimpleNamespace(video="long", key=key)) == 0  # joining them needs none
    assert plan.features_gpus(SimpleNamespace(video="short", key=key)) == 1


def test_by_default_and_by_number(videos):
    assert plan_of().flow_shards("long", plan_of().presets["cpu"].flow) == 1
    own = plan_of(overrides={"cpu": {"flow": {"shards": 4}, "features": {"shards": 5}}})
    preset = own.presets["cpu"]
    assert own.flow_shards("short", preset.flow) == 4
    assert own.features_shards("short", preset.features) == 3  # no shard without a frame
    assert own.features_shards("long", preset.features) == 5


@pytest.mark.parametrize("keys", [{"device": "cpu"}, {"device": "cuda"}, {"jobs": {"speed": 3.0, "memory": 2.0}}])
def test_the_machine_does_not_change_the_cut(videos, keys):
    one, other = plan_of(jobs={"minutes": 0.5}), plan_of(**{**keys, "jobs": {"minutes": 0.5, **keys.get("jobs", {})}})
    assert other.flow_folders("long", other.presets["cpu"].flow) == one.flow_folders("long", one.presets["cpu"].flow)


def test_what_is_asked_for(videos):
    gpu, cpu = plan_of(), plan_of(device="cpu")
    for stage in ("frames", "shots", "depth", "optimize", "tracks", "overlay"):
        wildcards = of(gpu, "long")
        if stage == "depth":
            continue
        minutes = [gpu.minutes(stage)(wildcards, attempt) for attempt in (1, 2)]
        memory = [gpu.megabytes(stage)(wildcards, attempt) for attempt in (1, 2)]
        assert costs.LEAST_MINUTES <= minutes[0] < minutes[1], stage
        assert costs.LEAST_MB <= memory[0] < memory[1], stage
        assert cpu.minutes(stage)(wildcards) >= gpu.minutes(stage)(wildcards)
        assert cpu.megabytes(stage)(wildcards) <= gpu.megabytes(stage)(wildcards)


def test_a_shard_asks_for_its_part(videos):
    plan = plan_of(device="cpu")
    whole, part = (plan.cost("flow", of(plan, "long", stage="flow", shard=shard)) for shard in ("1of1", "2of4"))
    assert part.seconds == pytest.approx(whole.seconds / 4)
    assert part.megabytes == whole.megabytes


def test_more_threads_ask_for_less_time(videos):
    plan = plan_of(device="cpu", frames={"max_side": None})
    ask, wildcards = plan.minutes("flow"), of(plan, "long", stage="flow", shard="1of1")
    assert ask(wildcards, threads=1) > ask(wildcards, threads=4)


def test_speed_and_memory_are_factors(videos):
    plan, fast = plan_of(device="cpu"), plan_of(device="cpu", jobs={"speed": 2.0, "memory": 3.0})
    wildcards = of(plan, "long", stage="flow", shard="1of1")
    assert plan.minutes("flow")(wildcards) == pytest.approx(2 * fast.minutes("flow")(wildcards), abs=1)
    assert 3 * plan.megabytes("flow")(wildcards) == pytest.approx(fast.megabytes("flow")(wildcards), abs=3)
