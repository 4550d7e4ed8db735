"""From a results folder to reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from everypoint.artifacts import atomic
from everypoint.config.options import FeatureOptions, FlowOptions, Preset
from everypoint.report.collect import Benchmark, collect, read_benchmark
from everypoint.report.data import Failure, StageTime
from everypoint.report.software import software_used, weights_used
from tests.unit.report.made import meta, metrics

PRESETS = {"chain": None, "cpu": "raft-0a1b2c"}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "dog"
    atomic.write_json(folder / "frames/video.json", meta("dog", cuts=[3]))
    for preset in PRESETS:
        atomic.write_json(folder / f"evaluate/{preset}/metrics.json", metrics(0.5))
        atomic.write_bytes(folder / f"overlay/{preset}/overlay.mp4", b"x")
    atomic.write_json(folder / "matches/raft-0a1b2c/filter.json", {"by_gap": {"1": {"kept": 0.9}}})
    rows = [json.dumps({"step": step, "loss": 1.0}) for step in range(3)]
    atomic.write_text(folder / "optimize/cpu/train.jsonl", "\n".join([*rows, '{"step": 3, "lo']))
    atomic.write_text(folder / "logs/flow.jsonl", '{"s": 12.5, "max_rss": 900.1, "h:m:s": "0:00:12"}\n')
    atomic.write_text(folder / "logs/flow2.tsv", "s\th:m:s\tmax_rss\n7.5\t0:00:07\t1000.5\n")
    atomic.write_text(folder / "logs/queries.jsonl", '{"s": 0.1, "max_rss": "NA"}\n')
    return folder.parent


def _benchmarks(results: Path) -> dict[str, list[Benchmark]]:
    logs = results / "dog/logs"
    return {
        "dog": [
            Benchmark("flow", "raft", logs / "flow.jsonl"),
            Benchmark("flow", "raft", logs / "flow2.tsv"),
            Benchmark("queries", "", logs / "queries.jsonl"),
            Benchmark("tracks", "cpu", logs / "absent.jsonl"),
        ]
    }


def test_everything_is_found(results: Path) -> None:
    (dog,) = collect(results, ["dog"], PRESETS, benchmarks=_benchmarks(results))
    assert dog.name == "dog"
    assert dog.meta["frames"] == 8
    assert list(dog.results) == ["chain", "cpu"]
    cpu = dog.results["cpu"]
    assert cpu.metrics["modes"]["strided"]["average_jaccard"] == 0.5
    assert cpu.overlay == results / "dog/overlay/cpu/overlay.mp4"
    assert cpu.trails is None
    assert cpu.filter_stats["by_gap"]["1"]["kept"] == 0.9
    assert [row["step"] for row in cpu.train_rows] == [0, 1, 2]  # the line cut short is dropped
    assert dog.results["chain"].filter_stats is None
    assert list(dog.stages) == [StageTime("flow", "raft", 20.0, 1000.5), StageTime("queries", "", 0.1, None)]
    assert dog.all_warnings == ["shot cut at frame 3: tracks that cross it mean nothing"]


def test_a_damaged_file_is_a_warning_and_nothing_else(results: Path) -> None:
    atomic.write_text(results / "dog/evaluate/cpu/metrics.json", '{"modes": ')
    atomic.write_text(results / "dog/matches/raft-0a1b2c/filter.json", "[1]")
    atomic.write_text(results / "dog/optimize/cpu/train.jsonl", 'oops\n{"step": 1, "loss": 2}\n')
    atomic.write_text(results / "dog/logs/flow.jsonl", "not json")
    (dog,) = collect(results, ["dog"], PRESETS, benchmarks=_benchmarks(results))
    assert dog.results["cpu"].metrics is None
    assert dog.results["chain"].metrics is not None
    assert len(dog.results["cpu"].train_rows) == 1
    assert len(dog.warnings) == 3
    assert dog.stages[0] == StageTime("flow", "raft", 7.5, 1000.5)


def test_failures_reach_their_preset_or_the_video(results: Path) -> None:
    failures = {"dog": {"cpu": Failure("optimize", "Not finite.")}, "text": {"": Failure("frames", "It is text.")}}
    dog, text = collect(results, ["dog", "text"], PRESETS, failures=failures)
    assert dog.failures == [("cpu", Failure("optimize", "Not finite."))]
    assert text.failures == [("", Failure("frames", "It is text."))]
    assert text.meta is None
    assert text.results == {}


def test_metrics_without_modes_mean_no_ground_truth(results: Path) -> None:
    atomic.write_json(results / "dog/evaluate/cpu/metrics.json", {"protocol": {}, "modes": {}, "per_frame": {}})
    (dog,) = collect(results, ["dog"], PRESETS)
    assert dog.results["cpu"].metrics is None


@pytest.mark.parametrize("text", ["", "s\tmax_rss\n", "[]", "\x00", "s\tmax_rss\nx\ty\n"])
def test_odd_benchmarks_do_not_hurt(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.tsv"
    atomic.write_text(path, text)
    assert read_benchmark(path) in (None, (None, None))


def test_weights_with_licence_and_what_uses_them() -> None:
    presets = {
        "chain": Preset(description="a", tracker="chain"),
        "multi": Preset(description="b", tracker="chain-multi"),
        "dis": Preset(
            description="c",
            tracker="chain-multi",
            flow=FlowOptions(backend="dis"),
            features=FeatureOptions(backend="none"),
        ),
        "own": Preset(description="d", tracker="chain", flow=FlowOptions(weights="/path/to/=mine.pth")),
        "two": Preset(description="e", tracker="chain-multi", flow=FlowOptions(rival="raft-sintel")),
    }
    rows = weights_used(presets)
    assert [row["name"] for row in rows] == ["raft-things", "=mine.pth", "raft-sintel"]
    assert rows[2]["used_by"] == "two: flow"
    assert rows[0]["licence"] == "BSD-3-Clause"
    assert len(rows[0]["sha256"]) == 64
    assert rows[0]["used_by"] == "chain: flow; multi: flow, features; two: flow, features"
    assert rows[1]["licence"] == "not known: your own file"
    software = software_used(presets)
    assert software["presets"]["dis"] == "c"
    found = {row["name"]: row for row in software["versions"]}
    assert found["numpy"]["version"]
    assert found["everypoint"]["licence"] == "MIT"
