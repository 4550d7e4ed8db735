"""Exports, read back by readers of their own: what a compositor would see is where the tracks are."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from everypoint.__main__ import main
from everypoint.artifacts.tracks import Tracks, load_tracks, save_tracks
from everypoint.errors import InputError
from everypoint.evaluate.files import load_ground_truth
from everypoint.report import cli, exports
from tests.unit.report.made import tracks_of

SIZE = (1080, 1920)
PRECISION = 1e-3  # px, what an export may lose


@pytest.fixture
def tracks() -> Tracks:
    """Nine frames, five tracks with gaps, some positions outside of the frame."""
    draws = np.random.default_rng(0)
    positions = draws.uniform(-50, 2000, (9, 5, 2)).astype(np.float32)
    visible = draws.random((9, 5)) < 0.7
    visible[0] = True
    made = tracks_of(positions, SIZE, visible, fps=24.0)
    return dataclasses.replace(made, query_ids=np.array(["a", "b", "../c", "d d", "é"]))


# ------------------------------------------------------------------------------------------------ the readers


class Seen(NamedTuple):
    """One track as a program shows it: raster positions by frame."""

    at: dict[int, tuple[float, float]]


def read_nuke(text: str) -> Seen:
    """As Nuke's curves: three columns of numbers; the origin is the lower left corner of the frame."""
    rows = [line.split(",") for line in text.splitlines()]
    return Seen({int(frame): (float(x), SIZE[0] - float(y)) for frame, x, y in rows})


def read_after_effects(text: str) -> tuple[Seen, dict[str, str]]:
    """Header and positions; the origin is the upper left corner."""
    lines = text.split("\n")
    assert lines[0] == "Adobe After Effects 8.0 Keyframe Data"
    assert lines[-2:] == ["End of Keyframe Data", ""]
    start = lines.index("Transform\tPosition")
    header = dict(line.strip("\t").split("\t") for line in lines[2 : start - 1])
    assert lines[start + 1].split("\t")[1:5] == ["Frame", "X pixels", "Y pixels", "Z pixels"]
    rows = [line.strip("\t").split("\t") for line in lines[start + 2 : lines.index("", start)]]
    return Seen({int(frame): (float(x), float(y)) for frame, x, y, _ in rows}), header


class Markers(dict):
    """What Blender's track.markers do: one marker a frame, the last one counts."""

    def insert_frame(self, frame: int, co: tuple[float, float]) -> SimpleNamespace:
        self[frame] = SimpleNamespace(co=co, mute=False)
        return self[frame]


class ClipTracks(list):
    """Blender's clip.tracking.tracks: a new track has a marker at the frame it is made at."""

    def new(self, name: str, frame: int) -> SimpleNamespace:
        assert isinstance(name, str)
        markers = Markers()
        markers.insert_frame(frame, co=(0.0, 0.0))
        self.append(SimpleNamespace(name=name, markers=markers))
        return self[-1]


def run_in_blender(monkeypatch, text: str, *, in_editor: bool = True) -> ClipTracks:
    """Run a script with a stand-in for ``bpy`` and return the tracks of the clip."""
    clip = SimpleNamespace(tracking=SimpleNamespace(tracks=ClipTracks()))
    space = SimpleNamespace(active=SimpleNamespace(clip=clip))
    areas = [SimpleNamespace(type="VIEW_3D"), SimpleNamespace(type="CLIP_EDITOR", spaces=space)]
    bpy = ModuleType("bpy")
    bpy.context = SimpleNamespace(screen=SimpleNamespace(areas=areas) if in_editor else None)
    bpy.data = SimpleNamespace(movieclips=[] if in_editor else [clip])
    monkeypatch.setitem(sys.modules, "bpy", bpy)
    exec(compile(text, "tracks.py", "exec"), {})
    return clip.tracking.tracks


def assert_same(found: Seen, tracks: Tracks, column: int, frames: np.ndarray) -> None:
    """Exactly the visible frames, each where it is."""
    visible = tracks.visibility[:, column]
    assert list(found.at) == frames[visible].tolist()
    wanted = tracks.tracks[visible, column]
    assert np.abs(np.array(list(found.at.values())) - wanted).max() <= PRECISION


# ------------------------------------------------------------------------------------------------ round trips


def test_nuke_comes_back(tracks):
    for column in range(5):
        assert_same(read_nuke(exports.nuke(tracks, column)), tracks, column, np.arange(1, 10))


def test_after_effects_comes_back(tracks):
    for column in range(5):
        found, header = read_after_effects(exports.after_effects(tracks, column))
        assert_same(found, tracks, column, np.arange(9))
        assert header == {
            "Units Per Second": "24",
            "Source Width": "1920",
            "Source Height": "1080",
            "Source Pixel Aspect Ratio": "1",
            "Comp Pixel Aspect Ratio": "1",
        }


@pytest.mark.parametrize("in_editor", [True, False])
def test_blender_comes_back(tracks, monkeypatch, in_editor):
    made = run_in_blender(monkeypatch, exports.blender(tracks), in_editor=in_editor)
    assert [track.name for track in made] == tracks.query_ids.tolist()
    for column, track in enumerate(made):
        assert list(track.markers) == list(range(1, 10))  # hidden ones too
        muted = np.array([marker.mute for marker in track.markers.values()])
        assert np.array_equal(muted, ~tracks.visibility[:, column])
        raster = [(x * SIZE[1], (1 - y) * SIZE[0]) for x, y in (marker.co for marker in track.markers.values())]
        assert np.abs(np.array(raster) - tracks.tracks[:, column]).max() <= PRECISION


def test_blender_without_a_clip_says_so(tracks, monkeypatch):
    bpy = ModuleType("bpy")
    bpy.context, bpy.data = SimpleNamespace(screen=None), SimpleNamespace(movieclips=[])
    monkeypatch.setitem(sys.modules, "bpy", bpy)
    with pytest.raises(RuntimeError, match="open the video"):
        exec(exports.blender(tracks), {})


def test_csv_comes_back(tracks, tmp_path):
    exports.write(tracks, tmp_path / "t.csv", "csv")
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = np.array([(float(row["x"]), float(row["y"])) for row in rows]).reshape(5, 9, 2).swapaxes(0, 1)
    assert np.abs(found - tracks.tracks).max() <= PRECISION
    visible = np.array([row["visible"] == "1" for row in rows]).reshape(5, 9).T
    assert np.array_equal(visible, tracks.visibility)


def test_tapvid_is_ground_truth_of_our_own_evaluation(tracks, tmp_path):
    exports.write(tracks, tmp_path / "clip.annotations.npz", "tapvid")
    (truth,) = load_ground_truth(tmp_path / "clip.annotations.npz")
    assert np.abs(truth.points.swapaxes(0, 1) * (SIZE[1], SIZE[0]) - tracks.tracks).max() <= PRECISION
    assert np.array_equal(truth.occluded.T, ~tracks.visibility)
    assert np.array_equal(exports.tapvid(tracks)["query_points"][:, 1:], tracks.queries[:, :0:-1])  # (t, y, x)


def test_the_first_pixel_lies_where_each_program_has_it(monkeypatch):
    """Its centre; a round trip alone would not see a flip that is wrong in both directions."""
    one = tracks_of(np.full((1, 1, 2), 0.5), (480, 640))
    assert exports.nuke(one, 0) == "1,0.5000,479.5000\n"
    assert "\t0\t0.5000\t0.5000\t0\t\n" in exports.after_effects(one, 0)
    ((track),) = run_in_blender(monkeypatch, exports.blender(one))
    assert track.markers[1].co == pytest.approx((0.5 / 640, 479.5 / 480), abs=1e-8)


# ---------------------------------------------------------------------------------------------- frame numbers


def test_frames_are_numbered_as_in_the_source(tracks, monkeypatch):
    """Every third frame from frame 10 on, of a plate whose first frame is 1001; at 24 / 3 frames a second."""
    part = dataclasses.replace(tracks, fps=8.0, meta={"start": 10, "stride": 3})
    frames = 1001 + 10 + 3 * np.arange(9)
    assert_same(read_nuke(exports.nuke(part, 1, 1001)), part, 1, frames)
    found, header = read_after_effects(exports.after_effects(part, 1, 1001))
    assert_same(found, part, 1, frames)
    assert header["Units Per Second"] == "24"
    made = run_in_blender(monkeypatch, exports.blender(part, 1001))
    assert list(made[1].markers) == frames.tolist()


@pytest.mark.parametrize(("fps", "shown"), [(30000 / 1001, "29.97003"), (23.976, "23.976"), (100.0, "100")])
def test_rates_are_written_as_numbers(tracks, fps, shown):
    assert f"Units Per Second\t{shown}\n" in exports.after_effects(dataclasses.replace(tracks, fps=fps), 0)


def test_positions_that_are_no_numbers_are_left_out(tracks, monkeypatch):
    tracks.tracks[2, 0] = np.nan
    tracks.visibility[2, 0] = True
    assert 3 not in read_nuke(exports.nuke(tracks, 0)).at
    assert 3 not in run_in_blender(monkeypatch, exports.blender(tracks))[0].markers


# ------------------------------------------------------------------------------------------------------ names


def test_names_of_files_are_plain_and_different():
    ids = [
        "p1",
        "P1",
        "../../etc/passwd",
        "a b",
        "a_b",
        "é",
        "e",
        "語",
        "",
        ".",
        "con",
        "x" * 300,
        "x" * 301,
        "-i",
        "\n",
    ]
    names = exports.file_names(ids)
    assert len({name.lower() for name in names}) == len(ids)
    assert all(name.startswith("track-") and len(name) < 100 for name in names)
    assert set("".join(names)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert names[:4] == ["track-p1", "track-P1-2", "track-_etc_passwd", "track-a_b"]


def test_names_run_no_code_in_blender(tracks, monkeypatch):
    """A query file may come from anywhere; its ids are words in the script and nothing else."""
    evil = ["\"'); import os; os.abort() #", '"""', "\\", "{tracks}", "\n\u2028raise SystemExit"]
    made = run_in_blender(monkeypatch, exports.blender(dataclasses.replace(tracks, query_ids=np.array(evil))))
    assert [track.name for track in made] == evil


# ---------------------------------------------------------------------------------------------------- writing


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"manifest.json"}


def test_a_folder_has_a_file_a_track(tracks, tmp_path):
    written = exports.write(tracks, tmp_path / "nuke", "nuke", first=0)
    assert written == (5, 5, 0)
    names = dict(zip(exports.file_names(tracks.query_ids), range(5), strict=True))
    assert files_of(tmp_path / "nuke") == {f"{name}.txt" for name in names}
    for name, column in names.items():
        text = (tmp_path / "nuke" / f"{name}.txt").read_text()
        assert_same(read_nuke(text), tracks, column, np.arange(9))


def test_a_folder_is_replaced_by_another_export_but_never_with_files_of_others(tracks, tmp_path):
    out = tmp_path / "out"
    exports.write(tracks, out, "nuke")
    exports.write(exports.chosen(tracks, ["b"]), out, "after-effects")
    assert files_of(out) == {"track-b.txt"}
    assert (out / "track-b.txt").read_text().startswith("Adobe")
    (out / "comp.nk").write_text("mine")
    with pytest.raises(InputError, match=r"is not empty: it holds comp\.nk"):
        exports.write(tracks, out, "nuke")
    assert (out / "comp.nk").read_text() == "mine"
    with pytest.raises(InputError, match="is a file"):
        exports.write(tracks, out / "comp.nk", "nuke")


def test_an_export_that_was_killed_takes_nothing_of_other_tracks(tracks, tmp_path, monkeypatch):
    """What a killed export has written counts for the same tracks only."""
    monkeypatch.setattr(exports.FolderWriter, "publish", lambda self: None)
    exports.write(tracks, tmp_path / "out", "nuke")
    monkeypatch.undo()
    moved = dataclasses.replace(tracks, tracks=tracks.tracks + 1)
    exports.write(moved, tmp_path / "out", "nuke")
    assert_same(read_nuke((tmp_path / "out" / "track-a.txt").read_text()), moved, 0, np.arange(1, 10))


def test_a_limit_takes_tracks_evenly(tmp_path, monkeypatch):
    many = tracks_of(np.random.default_rng(1).uniform(0, 90, (3, 100, 2)), (96, 96))
    many.visibility[:, 0] = False
    assert exports.write(many, tmp_path / "few", "nuke", limit=4) == (4, 100, 1)
    assert files_of(tmp_path / "few") == {f"track-{n}.txt" for n in (1, 34, 66, 99)}
    exports.write(many, tmp_path / "few.py", "blender", limit=2)
    made = run_in_blender(monkeypatch, (tmp_path / "few.py").read_text())
    assert [track.name for track in made] == ["1", "99"]


def test_tracks_that_are_never_visible_are_no_export(tmp_path):
    hidden = tracks_of(np.zeros((2, 2, 2)), (8, 8), np.zeros((2, 2), bool))
    with pytest.raises(InputError, match="no track is visible"):
        exports.write(hidden, tmp_path / "out", "nuke")
    assert list(tmp_path.iterdir()) == []


def test_equal_tracks_give_equal_bytes(tracks, tmp_path):
    for kind in exports.FORMATS:
        for name in ("one", "two"):
            exports.write(tracks, tmp_path / kind / name, kind)
        one, two = (
            sorted((file.name, file.read_bytes()) for file in (path.iterdir() if path.is_dir() else [path]))
            for path in (tmp_path / kind / "one", tmp_path / kind / "two")
        )
        assert [content for _, content in one] == [content for _, content in two]


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def file(tracks, tmp_path):
    save_tracks(tmp_path / "tracks.npz", tracks)
    return tmp_path / "tracks.npz"


def test_the_command_writes_every_format(file, tracks, capsys):
    for kind in exports.FORMATS:
        out = file.parent / f"{kind}.out.npz"
        assert main(["export", str(file), str(out), "--format", kind]) == 0
        assert capsys.readouterr().out == f"{out}: 5 tracks\n"
        assert out.is_dir() == exports.FORMATS[kind].per_track
    found = read_nuke((file.parent / "nuke.out.npz" / "track-a.txt").read_text())
    assert_same(found, load_tracks(file), 0, np.arange(1, 10))


def test_the_command_says_what_it_leaves_out(file, capsys):
    out = str(file.parent / "out")
    assert main(["export", str(file), out, "--format", "nuke", "--limit", "3", "--first", "7"]) == 0
    assert "3 of 5 tracks; evenly chosen, --limit 5 writes all" in capsys.readouterr().out
    assert main(["export", str(file), out, "--format", "nuke", "--ids", "b", "a"]) == 0
    assert "2 tracks" in capsys.readouterr().out
    assert files_of(file.parent / "out") == {"track-a.txt", "track-b.txt"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--format", "nuke", "--limit", "0"], "--limit 0 leaves nothing"),
        (["--format", "csv", "--first", "1"], "--first says nothing about csv"),
        (["--format", "blender", "--ids", "z"], "there is no track 'z': of 5 tracks the first are a, b"),
    ],
)
def test_mistakes_are_one_sentence(file, capsys, arguments, sentence):
    assert main(["export", str(file), str(file.parent / "out"), *arguments]) == 1
    assert sentence in capsys.readouterr().err
    assert not (file.parent / "out").exists()


def test_what_is_no_tracks_file_is_one_sentence(tmp_path, capsys):
    (tmp_path / "t.npz").write_text(json.dumps({}))
    assert main(["export", str(tmp_path / "t.npz"), str(tmp_path / "out"), "--format", "nuke"]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_the_command_knows_the_formats_without_importing_them():
    assert cli.LIMIT == exports.LIMIT
    assert tuple(exports.FORMATS) == cli.FORMATS
