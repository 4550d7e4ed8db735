"""A rendered data set in PointOdyssey's layout, the export rules on it, and the reader of what they wrote."""

from __future__ import annotations

import json

import numpy as np
import pytest

from everypoint.__main__ import main
from everypoint.pips.data.clips import ClipDataset
from tests.workflow.conftest import add_scene, sha256

pytest.importorskip("albumentations", reason="the extra pips is not installed")

EXPORT = {"frames": 6, "points": 12, "size": [80, 112], "resize": [104, 136], "strides": [1, 2], "step": 4, "shards": 2}
NAME = "aa_6_12_80x112"
TARGET = ("--cores", "2", "pips_export")
RULES = ["pips_clips", "pips_clips", "pips_export", "pips_index"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("odyssey")
    arguments = ["--sequences", "2", "--frames", "12", "--size", "96x128", "--points", "160"]
    assert main(["render-odyssey", str(root), *arguments]) == 0
    return root


def test_from_a_data_set_to_clips(workspace, source):
    folder = workspace(videos=None, pips={"export": {"root": str(source), **EXPORT}})
    run = folder.finished(*TARGET)
    assert run.rules == RULES
    clips = folder.folder / "pod_export" / NAME
    counts = json.loads((clips / "export.json").read_text())
    assert counts["total"] == 6  # of each of two sequences: starts 0 and 4 by 1, start 0 by 2
    assert counts["clips"] + sum(counts["failed"].values()) == 6
    assert counts["clips"] >= 3
    logs = "\n".join(path.read_text() for path in (clips / "logs").glob("*.log"))
    assert f"{counts['clips']} of 6 windows gave a clip" in logs
    assert "6_A_em00_aa_" in logs

    dataset = ClipDataset(clips, 6, 10, (80, 112), True, 0)
    assert len(dataset) == counts["clips"]
    for index in range(len(dataset)):
        clip = dataset.sample(index)
        assert clip.ok
        assert clip.rgb.shape == (6, 3, 80, 112)
        assert clip.rgb.std() > 5
        assert clip.valids[0].all()
        assert clip.visibs[0].all()
        assert np.isfinite(clip.trajs).all()

    assert folder.finished(*TARGET).jobs == []
    before = {path: sha256(path) for path in clips.glob("0*/*")}
    removed = sorted(before)[:3]
    for path in (*removed, *(clips / "shards").iterdir(), clips / "export.json"):
        path.unlink()
    folder.finished(*TARGET)
    assert {path: sha256(path) for path in clips.glob("0*/*")} == before


def test_the_tracking_of_videos_does_without_any_of_it(workspace, source):
    folder = workspace(videos=None, pips={"export": {"root": str(source), **EXPORT}})
    run = folder.run()
    assert run.code == 1
    assert "no videos are given" in run.output + folder.logs()
    assert not (folder.folder / "pod_export").exists()


def test_without_a_root_the_export_says_what_to_name(workspace):
    folder = workspace()
    add_scene(folder.videos, "scene", frames=2, truth=False)
    run = folder.run(*TARGET)
    assert run.code == 1
    assert "pips.export.root is not set" in run.output
