"""A video that several jobs share: the same tracks, bit for bit, and cut anew without a trace of the old cut."""

from __future__ import annotations

import pytest

from everypoint.stages.report import shard_logs
from tests.unit.correspond.weights import formula_weights
from tests.workflow.conftest import add_scene, sha256

KEYS = {"flow": {"backend": "dis", "quality": "ultrafast", "pairs": {"intervals": [1, 2, 4]}}}


@pytest.fixture(scope="module")
def workflow(workspace, tmp_path_factory):
    """One run of one job a stage, then one of three."""
    import torch

    weights = tmp_path_factory.mktemp("weights") / "raft.pth"
    torch.save(formula_weights(small=True), weights)
    folder = workspace()
    add_scene(folder.videos, "scene", frames=7)

    def configure(**shards):
        features = {"backend": "raft-encoder", "weights": str(weights)}
        both = {"flow": KEYS["flow"] | shards, "features": features | shards}
        folder.configure(methods=["chain-multi"], overrides={"all": both})

    configure(shards=1)
    folder.first = folder.finished()
    folder.before = sha256(folder.tracks("scene", "chain-multi"))
    configure(shards=3)
    folder.second = folder.finished()
    return folder


def test_one_job_each(workflow):
    assert workflow.first.rules == ["evaluate", "features", "flow", "frames", "queries", "report", "tracks"]


def test_three_jobs_each_and_their_features_joined(workflow):
    again = ["evaluate", "features", *["features_part"] * 3, *["flow"] * 3, "report", "tracks"]
    assert workflow.second.rules == again


def test_the_tracks_are_the_same(workflow):
    assert sha256(workflow.tracks("scene", "chain-multi")) == workflow.before


def test_the_parts_are_gone_and_the_whole_is_there(workflow):
    (features,) = (workflow.results / "scene" / "features").iterdir()
    assert sorted(path.name for path in features.iterdir()) == ["features.json", "features.npy"]


def test_nothing_is_left_to_do(workflow):
    assert workflow.finished().jobs == []


def test_the_report_counts_the_jobs_of_the_newest_cut(workflow):
    logs = workflow.results / "scene" / "logs"
    (key,) = {path.name.rpartition(".")[0].rpartition(".")[0] for path in logs.glob("flow.*.log")}
    assert len(list(logs.glob("flow.*.log"))) == 4  # that of the first cut is still there
    assert list(shard_logs(logs, [f"{key}.*"])) == [f"{key}.{shard}of3" for shard in (1, 2, 3)]
