"""Exports of a run: every format that is asked for, made once, each where docs/export.md says."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.artifacts.folder import check_folder
from everypoint.artifacts.tracks import load_tracks
from tests.workflow.conftest import add_scene

KINDS = ["nuke", "after-effects", "blender", "tapvid"]


@pytest.fixture(scope="module")
def workflow(workspace):
    folder = workspace(exports=KINDS)
    add_scene(folder.videos, "scene", truth=False)
    folder.first = folder.finished()
    return folder


def test_every_format_is_written(workflow):
    assert [job for job in workflow.first.jobs if job.startswith("export")] == [
        f"export scene chain {kind}" for kind in sorted(KINDS)
    ]
    tracks, made = load_tracks(workflow.tracks("scene")), workflow.results / "scene" / "export" / "chain"
    for kind in KINDS:
        files = set(check_folder(made / kind, deep=True)["items"])
        if kind in ("nuke", "after-effects"):
            assert files == {f"track-{name}.txt" for name in tracks.query_ids}
    rows = np.loadtxt(made / "nuke" / f"track-{tracks.query_ids[3]}.txt", delimiter=",", ndmin=2)
    visible = tracks.visibility[:, 3]
    assert rows[:, 0].tolist() == (1 + np.flatnonzero(visible)).tolist()
    flipped = np.column_stack([rows[:, 1], tracks.frame_size[0] - rows[:, 2]])
    assert np.abs(flipped - tracks.tracks[visible, 3]).max() <= 1e-3
    assert "insert_frame" in (made / "blender" / "tracks.py").read_text()
    assert np.load(made / "tapvid" / "tracks.annotations.npz")["points"].shape == (24, 6, 2)


def test_a_format_less_is_no_work_for_others(workflow):
    workflow.configure(exports=["nuke"])
    assert workflow.finished("-n").rules == ["report"]
