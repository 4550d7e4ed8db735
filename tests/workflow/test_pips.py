"""PIPs++ through the real workflow: as a tracker, and its test on a data set. Weights are made by formula."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.artifacts.tracks import SCHEMA_VERSION, load_tracks
from tests.unit.pips.weights import pips_weights
from tests.workflow.conftest import add_scene

FRAMES = 5


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(pips_weights(tmp_path_factory.mktemp("weights") / "model-000000001.pth"))


@pytest.fixture(scope="module")
def tracked(workspace, weights):
    small = {"weights": weights, "size": [128, 192], "iterations": 1, "returns": 1}
    folder = workspace(methods=["pips2"], overrides={"pips2": {"pips": small}}, evaluate={"query_modes": ["first"]})
    add_scene(folder.videos, "scene", frames=FRAMES)
    folder.first = folder.finished()
    return folder


def test_tracks_pass_through_their_queries(tracked):
    """The scene brings annotations, hence queries of its own in several frames."""
    found = load_tracks(tracked.tracks("scene", "pips2"))
    rows = found.queries[:, 0].astype(int)
    assert found.tracks.shape[0] == FRAMES
    assert np.isfinite(found.tracks).all()
    assert np.array_equal(found.tracks[rows, np.arange(len(rows))], found.queries[:, 1:])
    assert found.visibility[rows, np.arange(len(rows))].all()
    assert found.meta["visibility"].startswith("forward-backward consistency")
    assert found.meta["preset"] == "pips2"
    assert SCHEMA_VERSION == 1


def test_it_needs_neither_flow_nor_features_nor_model(tracked):
    assert set(tracked.first.rules) == {"frames", "queries", "tracks", "evaluate", "report"}
    scores = json.loads((tracked.results / "scene" / "evaluate" / "pips2" / "metrics.json").read_text())
    assert scores


def test_a_bound_of_memory_redoes_nothing_but_a_size_does(tracked):
    small = tracked.config["overrides"]["pips2"]["pips"]
    config = {key: value for key, value in tracked.config.items() if key != "overrides"}
    tracked.configure(**config, overrides={"pips2": {"pips": {**small, "memory_gib": 0.5}}})
    assert "tracks" not in tracked.finished("-n").rules
    tracked.configure(**config, overrides={"pips2": {"pips": {**small, "size": [128, 160]}}})
    assert "tracks" in tracked.finished("-n").rules


# ------------------------------------------------------------------------------------- the documented sequence

MODEL = "model-000000001.pth"
SMALL = {"steps": 1, "batch": 1, "frames": 4, "points": 8, "size": [128, 128]}


@pytest.fixture(scope="module")
def trained(workspace, weights):
    """A folder after the first three commands of docs/methods.md: stand-ins, which Snakemake notes as made by them."""
    folder = workspace()
    folder.videos.rmdir()
    video = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)
    points = np.random.default_rng(1).uniform(0.2, 0.8, (4, 3, 2)).astype(np.float32)
    entry = {"video": video, "points": points, "occluded": np.zeros((4, 3), bool)}
    atomic.write_bytes(folder.folder / "davis.pkl", pickle.dumps({"goat": entry}))
    folder.pips = {"train": SMALL, "finetune": SMALL}
    folder.configure(pips={**folder.pips, "export": {"root": "pointodyssey"}})
    clips, pips = folder.folder / "pod_export" / "aa_36_128_256x384", folder.folder / "pips"
    for name in ("index.json", "shards/1of1.json", "export.json"):
        atomic.write_json(clips / name, {})
    for name in ("train", "finetune"):
        atomic.write_bytes(pips / name / MODEL, Path(weights).read_bytes())
        atomic.write_text(pips / "logs" / f"pips_{name}.jsonl", "")
    for name in ("index", "clips.1of1", "export"):
        atomic.write_text(clips / "logs" / f"pips_{name}.jsonl", "")
    folder.finished("--touch", "--forceall", "--rerun-incomplete", "pips_finetune")
    assert folder.finished("-n", "--rerun-incomplete", "pips_export", "pips_train", "pips_finetune").rules == []
    return folder


TEST = {"weights": "finetune", "tapvid": "davis.pkl", "size": [128, 160], "iterations": 1}


@pytest.mark.parametrize(("root", "train"), [(None, SMALL), ("another", {**SMALL, "learning_rate": 0.1})])
def test_a_test_takes_a_finished_model_as_it_is(trained, root, train):
    trained.configure(pips={"train": train, "finetune": train, "export": {"root": root}, "test": TEST})
    assert trained.finished("-n", "--rerun-incomplete", "pips_test").rules == ["pips_measure", "pips_test"]


def test_fine_tuning_too(trained):
    model = trained.folder / "pips" / "finetune" / MODEL
    kept = model.with_suffix(".kept")
    model.rename(kept)
    trained.configure(pips={**trained.pips, "test": TEST})
    assert trained.finished("-n", "--rerun-incomplete", "pips_test").rules == [
        "pips_finetune",
        "pips_measure",
        "pips_test",
    ]
    kept.rename(model)


@pytest.mark.parametrize("asked", [[f"pips/train/{MODEL}"], ["--forcerun", "pips_train", "--rerun-incomplete"]])
def test_a_run_that_names_it_makes_it_again(trained, asked):
    train = {**SMALL, "learning_rate": 0.1}
    trained.configure(pips={**trained.pips, "train": train, "test": {**TEST, "weights": "train"}})
    assert trained.finished("-n", *asked, "pips_test").rules == ["pips_measure", "pips_test", "pips_train"]


def test_the_documented_sequence_measures_the_model_and_keeps_it(trained):
    models = sorted((trained.folder / "pips").glob(f"*/{MODEL}"))
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in models]
    trained.configure(pips={**trained.pips, "test": TEST})
    # a flag between, or the list of threads would take the target
    assert trained.finished("--rerun-incomplete", "pips_test").rules == ["pips_measure", "pips_test"]
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in models] == before
    assert len(models) == 2
    text = (trained.folder / "pips" / "test" / "summary.txt").read_text()
    assert [line.split()[0] for line in text.splitlines()] == ["tapvid", "goat", "mean", "published"]
    assert text.splitlines()[-1].split()[1:] == ["70.6", "89.3", "6.9"]
    result = json.loads((trained.folder / "pips" / "test" / "summary.json").read_text())["tapvid"]
    assert 0 <= result["mean"]["d_avg"] <= 100
    atomic.write_bytes(models[0], models[0].read_bytes())  # finetune, trained once more
    assert trained.finished("-n", "--rerun-incomplete", "pips_test").rules == ["pips_measure", "pips_test"]
