"""CaDeX++ through the real workflow, small enough for seconds: flows, an exact depth prior, long-range matches."""

from __future__ import annotations

import json

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.artifacts.matches import LONG_RANGE, load_matches
from everypoint.artifacts.tracks import load_tracks
from everypoint.scenes.presets import preset
from everypoint.scenes.scene import surface_at
from tests.unit.correspond.weights import formula_weights
from tests.workflow.conftest import LENGTH, SIZE, add_scene, truth_of

METHODS = ["cadex", "cadex-nomatch"]
FRAMES, STEPS = 6, 120


def depth_of(name: str, frame: int) -> np.ndarray:
    """The scene's own depth float32 [H, W]."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    nearness = surface_at(preset(name, SIZE, LENGTH), frame, np.column_stack([x.ravel(), y.ravel()]))[2]
    return (1 / np.maximum(nearness, 1e-3)).reshape(SIZE).astype(np.float32)


@pytest.fixture(scope="module")
def workflow(workspace, tmp_path_factory):
    import torch

    weights = tmp_path_factory.mktemp("weights") / "raft.pth"
    with atomic.atomic_path(weights) as path:
        torch.save(formula_weights(small=True), path)
    loose = {"similarity": -1, "lookalike": 1, "local_range": [-1000, 1000], "support_cells": 100}
    folder = workspace(
        methods=METHODS,
        overrides={
            "all": {
                "flow": {"backend": "dis", "quality": "ultrafast"},
                "features": {"backend": "none"},
                "matches": {"per_pair": 512},
                "depth": {"backend": "file", "folder": "depths/{video}"},
                "model": {"blocks": 3, "plane_resolutions": [4, 12], "plane_channels": 8, "time_channels": 4},
                "optimize": {
                    "steps": STEPS,
                    "log_every": 40,
                    "tensorboard": False,
                    "holdout": 0.05,
                    "decay": "cosine",
                    "cadex": {"pairs": 4, "points": 128, "long_points": 32, "start_frames": 4},
                },
            },
            "cadex": {
                "sparse": {
                    "mutual": {
                        **loose,
                        "gap": 2,
                        "support_pixels": 1000,
                        "features": {"backend": "raft-encoder", "weights": str(weights)},
                    }
                },
            },
        },
    )
    add_scene(folder.videos, "scene", frames=FRAMES)
    for t in range(FRAMES):
        atomic.save_npy(folder.folder / "depths" / "scene" / f"{t:03d}.npy", depth_of("two_planes", t))
    folder.first = folder.finished()
    return folder


def rows_of(folder, method: str) -> list[dict]:
    lines = (folder.results / f"scene/optimize/{method}/train.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_what_they_share_is_computed_once(workflow):
    rules = workflow.first.rules
    assert [rules.count(rule) for rule in ("flow", "depth", "features", "sparse")] == [1, 1, 1, 1]
    assert [rules.count(rule) for rule in ("matches", "optimize", "tracks")] == [2, 2, 2]


@pytest.mark.parametrize("method", METHODS)
def test_each_gives_tracks_through_its_queries(workflow, method):
    tracks = load_tracks(workflow.tracks("scene", method))
    rows = tracks.queries[:, 0].astype(int)
    assert np.array_equal(tracks.tracks[rows, np.arange(len(rows))], tracks.queries[:, 1:])
    assert tracks.visibility[rows, np.arange(len(rows))].all()
    assert np.isfinite(tracks.tracks).all()


def test_tracks_are_where_the_points_are(workflow):
    """Flows of DIS on a small picture: a pixel, against a motion of several."""
    points, occluded = truth_of("two_planes", FRAMES)
    truth = points * np.array(SIZE[::-1])  # [N, T, 2] raster
    moved = np.linalg.norm(truth[:, -1] - truth[:, 0], axis=-1)
    tracks = load_tracks(workflow.tracks("scene", "cadex-nomatch"))
    errors = []
    for n, (t, x, y) in enumerate(tracks.queries.tolist()):
        near = np.linalg.norm(truth[:, int(t)] - [x, y], axis=1)
        if near.min() < 0.05:
            which = near.argmin()
            errors += np.linalg.norm(tracks.tracks[:, n] - truth[which], axis=1)[~occluded[which]].tolist()
    assert len(errors) > 20
    assert np.median(errors) < 1.0 < np.median(moved)


@pytest.mark.parametrize("method", METHODS)
def test_each_leaves_its_curve(workflow, method):
    rows = rows_of(workflow, method)
    assert [row["step"] for row in rows] == [40, 80, 120]
    assert rows[-1]["error"] < rows[0]["error"]
    assert ("long_range" in rows[0]) == ("depth_slope" in rows[0]) == (method == "cadex")


def test_long_range_matches_and_the_depth_mask_are_in_the_table(workflow):
    tables = [load_matches(path) for path in (workflow.results / "scene/matches").glob("*/matches.npz")]
    assert sorted(bool((table.flags & LONG_RANGE).any()) for table in tables) == [False, True]
    kept = [json.loads(path.read_text()) for path in (workflow.results / "scene/matches").glob("*/filter.json")]
    assert all(0.5 < one["depth_kept"] <= 1 for one in kept)


def test_another_prior_trains_again_and_another_threshold_does_not(workflow):
    config = json.loads(json.dumps(workflow.config))
    config["overrides"]["all"]["readout"] = {"depth_error": 0.02, "depth_error_unit": "absolute"}
    workflow.configure(**config)
    assert workflow.finished("-n").rules == sorted(["tracks", "evaluate"] * 2 + ["report"])
    config["overrides"]["cadex-nomatch"] = {"depth": {"backend": "constant"}}
    workflow.configure(**config)
    rules = workflow.finished("-n").rules
    assert rules.count("optimize") == rules.count("depth") == rules.count("matches") == 1
