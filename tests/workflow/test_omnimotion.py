"""OmniMotion and its variants through the real workflow, small enough for seconds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from everypoint.artifacts.tracks import load_tracks
from tests.workflow.conftest import add_scene

METHODS = ["omnimotion", "omnimotion-lite", "omnimotion-depth"]
STEPS = 20


@pytest.fixture(scope="module")
def workflow(workspace):
    folder = workspace(
        methods=METHODS,
        overrides={
            "all": {
                "flow": {"backend": "dis", "quality": "ultrafast"},
                "features": {"backend": "none"},
                "matches": {"per_pair": 512},
                "depth": {"backend": "constant"},
                "model": {
                    "nvp": {"blocks": 3, "hidden": 16, "code_features": 8},
                    "field": {"hidden": 16, "samples": 6},
                },
                "optimize": {
                    "steps": STEPS,
                    "log_every": 5,
                    "tensorboard": False,
                    "holdout": 0.05,
                    "rays": {"pairs": 3, "points": 32, "sweep_rows": 500},
                },
            }
        },
    )
    add_scene(folder.videos, "scene", frames=5)
    folder.first = folder.finished()
    return folder


def test_what_they_share_is_computed_once(workflow):
    rules = workflow.first.rules
    assert rules.count("flow") == 1
    assert rules.count("depth") == 1  # of omnimotion-depth alone
    assert rules.count("matches") == 2  # which uses no depth mask
    assert rules.count("optimize") == rules.count("tracks") == 3


@pytest.mark.parametrize("method", METHODS)
def test_each_gives_tracks_through_its_queries(workflow, method):
    tracks = load_tracks(workflow.tracks("scene", method))
    rows = tracks.queries[:, 0].astype(int)
    assert np.array_equal(tracks.tracks[rows, np.arange(len(rows))], tracks.queries[:, 1:])
    assert tracks.visibility[rows, np.arange(len(rows))].all()
    assert np.isfinite(tracks.tracks).all()


@pytest.mark.parametrize("method", METHODS)
def test_each_leaves_its_curve(workflow, method):
    lines = (workflow.results / f"scene/optimize/{method}/train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert all(np.isfinite(row["error"]) for row in rows)
    assert ("acceleration" in rows[0]) == (method != "omnimotion-lite")
    assert ("colour" in rows[-1]) == (method != "omnimotion-depth")
    assert ("depth_prior" in rows[0]) == (method == "omnimotion-depth")


def test_the_chain_made_distant_pairs_denser(workflow):
    kept = [json.loads(path.read_text()) for path in (workflow.results / "scene/matches").glob("*/filter.json")]
    assert kept
    assert all(any(gap["chained"] > 0 for gap in one["by_gap"].values()) for one in kept)


def test_a_read_out_option_trains_nothing_again(workflow):
    config = json.loads(json.dumps(workflow.config))
    config["overrides"]["all"]["readout"] = {"opacity": 0.9}
    workflow.configure(**config)
    # the third preset has no field: what hides its points is depth
    assert workflow.finished("-n").rules == sorted(["tracks", "evaluate"] * 2 + ["report"])
