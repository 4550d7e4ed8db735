"""``everypoint render-scene``."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from everypoint.__main__ import main
from everypoint.artifacts.tracks import Tracks
from everypoint.evaluate.protocol import evaluate_tracks, queries_from_annotations
from everypoint.scenes import cli
from everypoint.scenes.presets import PRESETS, preset
from everypoint.scenes.render import render
from everypoint.scenes.truth import annotations, ground_truth

ARGUMENTS = ("--size", "48x64", "--frames", "4", "--seed", "7", "--points", "9")


def test_files_are_the_scene(tmp_path, capsys):
    assert main(["render-scene", "two-planes", str(tmp_path), *ARGUMENTS]) == 0
    assert "4 frames, 9 annotated points, 5 files written" in capsys.readouterr().out
    scene = preset("two_planes", (48, 64), 4, seed=7)
    names = sorted(path.name for path in (tmp_path / "two_planes").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "00003.png"]
    read = [cv2.imread(str(tmp_path / "two_planes" / name))[..., ::-1] for name in names]
    np.testing.assert_array_equal(read, render(scene))
    stored, expected = np.load(tmp_path / "two_planes.annotations.npz"), annotations(scene, 9, seed=7)
    np.testing.assert_array_equal(stored["points"], expected[0])
    np.testing.assert_array_equal(stored["occluded"], expected[1])


def test_a_second_run_touches_nothing(tmp_path, capsys):
    command = ["render-scene", "rotation", str(tmp_path), *ARGUMENTS]
    assert main(command) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(command) == 0
    assert "0 files written" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "rotation" / "00001.png").write_bytes(b"half a file")
    (tmp_path / "rotation.annotations.npz").write_bytes(b"half a file")
    assert main(command) == 0
    assert "2 files written" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("ocluder",), "there is no scene 'ocluder'"),
        (("occluder", "--size", "64"), "--size 64 is not a frame size"),
        (
            ("occluder", "--size", "100000x100000"),
            "--size 100000x100000 is too large; sides are from 16 to 4096 pixels.",
        ),
        (("occluder", "--size", "4097x16"), "--size 4097x16 is too large"),
        (("occluder", "--size", "3x3"), "--size 3x3 is too small; sides are from 16 to 4096 pixels."),
        (("occluder", "--size", "0x64"), "--size 0x64 is too small"),
        (("occluder", "--frames", "0"), "0 frames"),
        (("occluder", "--points", "0"), "--points 0 is impossible"),
        (("occluder", "--seed", "-1"), "--seed -1 is impossible"),
    ],
)
def test_errors_are_one_sentence(tmp_path, capsys, arguments, said):
    name, *rest = arguments
    assert main(["render-scene", name, str(tmp_path / "out"), *rest]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_video_is_left_alone(tmp_path, capsys):
    (tmp_path / "rotation").mkdir()
    (tmp_path / "rotation" / "00009.png").touch()
    assert main(["render-scene", "rotation", str(tmp_path), *ARGUMENTS]) == 1
    assert "already holds other files" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "rotation").iterdir()] == ["00009.png"]


def test_the_help_names_all_scenes():
    assert tuple(PRESETS) == cli.NAMES


def test_exact_tracks_of_a_scene_score_perfectly():
    """Scenes, query sampling, ids, scaling and metrics hang together: truth against itself is perfect."""
    scene = preset("occluder", (96, 128), 11)
    points, occluded = annotations(scene, 30, seed=0)
    queries, ids, _ = queries_from_annotations(points, occluded, ("first", "strided"), 5, scene.size)
    tracks, visible = ground_truth(scene, queries)
    result = evaluate_tracks(
        Tracks(tracks, visible, visible.astype(np.float32), queries, ids, scene.size, 24.0),
        points,
        occluded,
        ("first", "strided"),
    )
    for scores in result["modes"].values():
        assert scores["average_pts_within_thresh"] == 1
        assert scores["average_jaccard"] > 0.995  # rounding of queries to float32 may decide a point on an outline
        assert scores["temporal_coherence"] < 1e-3
        assert scores["d_avg"] == pytest.approx(100, abs=1e-3)
