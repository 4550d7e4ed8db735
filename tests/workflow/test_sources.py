"""Data sets, shots, and runs without a network."""

from __future__ import annotations

import json
import pickle

import pytest

from everypoint.artifacts.tracks import load_tracks
from everypoint.artifacts.video import load_meta
from tests.workflow.conftest import add_mp4, frames_of, truth_of

NO_NETWORK = """
import os, socket
def refuse(*arguments, **options):
    with open(os.environ["EVERYPOINT_TEST_CALLS"], "a") as file:
        file.write(f"{arguments}\\n")
    raise OSError("the network is blocked in this test")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""


def test_a_data_set_gives_videos_with_their_own_truth_and_queries(workspace):
    folder = workspace(dataset="tiny.pkl", evaluate={"query_modes": ["first", "strided"], "query_stride": 2})
    folder.videos.rmdir()
    entries = {}
    for name, scene in (("dog", "two_planes"), ("cat", "parallax")):
        points, occluded = truth_of(scene, 5, 6)
        entries[name] = {"video": frames_of(scene, 5), "points": points, "occluded": occluded}
    (folder.folder / "tiny.pkl").write_bytes(pickle.dumps(entries))
    folder.finished()
    for name in entries:
        metrics = json.loads((folder.results / name / "evaluate" / "chain" / "metrics.json").read_text())
        assert set(metrics["modes"]) == {"first", "strided"}
        hidden = entries[name]["occluded"]
        assert metrics["modes"]["first"]["queries"] == (~hidden.all(axis=1)).sum()
        assert metrics["modes"]["strided"]["queries"] == (~hidden[:, ::2]).sum()
        assert metrics["modes"]["first"]["average_pts_within_thresh"] > 0.5
    assert folder.finished("-n").jobs == []


@pytest.fixture(scope="module")
def split(workspace):
    """A clip of two shots, and beside it one whose shots cannot be found."""
    folder = workspace(frames={"on_cut": "split"})
    add_mp4(folder.videos, "clip", frames_of("two_planes", 6), frames_of("rotation", 5, 3)[::-1])
    (folder.videos / "bad.mp4").write_text("no video")
    folder.first = folder.run()
    return folder


def test_every_shot_is_an_entry_of_its_own(split):
    lengths = [load_tracks(split.tracks(f"clip-shot{n:02d}")).tracks.shape[0] for n in (1, 2)]
    assert lengths == [6, 5]
    metas = [load_meta(split.results / f"clip-shot{n:02d}" / "frames") for n in (1, 2)]
    assert [meta.start for meta in metas] == [0, 6]
    assert [meta.cuts for meta in metas] == [[], []]
    assert not (split.results / "clip" / "tracks").exists()


def test_a_video_whose_shots_are_not_found_stops_no_other(split):
    assert split.first.code == 1
    assert "bad, shots: " in split.first.output
    page = (split.results / "report.html").read_text()
    assert all(name in page for name in ("clip-shot01", "clip-shot02", "bad"))


def test_shots_are_found_once(split):
    (split.videos / "bad.mp4").unlink(missing_ok=True)
    split.finished()
    assert split.finished("-n").jobs == []


def test_without_a_network(workspace, tmp_path):
    """RAFT with weights that were fetched before: no connection is tried."""
    from everypoint.assets.fetch import fetch
    from everypoint.errors import AssetError

    try:
        fetch("raft-small")
    except AssetError as error:
        pytest.skip(f"the weights cannot be had here: {error}")
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    calls = tmp_path / "calls.txt"
    overrides = {
        "all": {
            "flow": {"weights": "raft-small", "iterations": 1, "pairs": {"intervals": [1]}},
            "features": {"backend": "none"},
        }
    }
    folder = workspace(overrides=overrides)
    add_mp4(folder.videos, "clip", frames_of("two_planes", 3))
    environment = {"PYTHONPATH": str(tmp_path), "EVERYPOINT_OFFLINE": "1", "EVERYPOINT_TEST_CALLS": str(calls)}
    folder.finished(environment=environment)
    assert load_tracks(folder.tracks("clip")).tracks.shape == (3, 24, 2)
    assert not calls.exists(), calls.read_text()
