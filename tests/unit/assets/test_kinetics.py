"""Kinetics: the official table and a folder of clips become annotated videos."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from everypoint.__main__ import main
from everypoint.artifacts.atomic import load_npz
from everypoint.assets.kinetics import build_kinetics, read_csv
from everypoint.config.options import FramesOptions
from everypoint.errors import InputError
from everypoint.video.decode import read_annotations, read_frames
from everypoint.video.discover import discover


def a_clip(path: Path, *, frames: int, fps: int, size: str = "64x48") -> None:
    """A test picture that moves."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi", "-i", f"testsrc=s={size}:r={fps}"]
    command += ["-frames:v", str(frames), "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv444p", str(path)]
    subprocess.run(command, check=True)


def a_row(youtube_id: str, start: int, triples: np.ndarray) -> str:
    return ",".join([youtube_id, str(start), str(start + 10), *(f"{value:g}" for value in triples.ravel())])


def still(x: float, y: float, frames: int, hidden: int = -1) -> np.ndarray:
    """A point that does not move, occluded in one frame."""
    triples = np.tile([x, y, 0.0], (frames, 1))
    if hidden >= 0:
        triples[hidden, 2] = 1
    return triples


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [
        a_row("abcdefghijk", 5, still(0.5, 0.25, 250, hidden=3)),
        a_row("-bcdefghijk", 0, still(0.5, 0.5, 250)),
        a_row("missing0000", 0, still(0.5, 0.5, 250)),
        a_row("abcdefghijk", 5, still(1.0, 0.0, 250)),
        a_row("broken00000", 7, still(0.5, 0.5, 250)),
    ]
    (tmp_path / "tapvid_kinetics.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "tapvid_kinetics.csv"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    a_clip(folder / "abcdefghijk_000005_000015.mp4", frames=60, fps=30)  # 2 s: 50 frames at 25 a second
    a_clip(folder / "-bcdefghijk_000000_000010.mp4", frames=120, fps=10, size="65x49")  # 12 s: cut at 250 frames
    (folder / "broken00000_000007_000017.mp4").write_bytes(b"#EXTM3U\nfile:///etc/passwd\n")
    return folder


def test_the_table_is_grouped_by_clip(table: Path) -> None:
    clips = read_csv(table)
    assert [clip.file for clip in clips] == [
        "abcdefghijk_000005_000015.mp4",
        "-bcdefghijk_000000_000010.mp4",
        "missing0000_000000_000010.mp4",
        "broken00000_000007_000017.mp4",
    ]
    assert clips[1].name == "id-bcdefghijk_000000_000010"
    assert clips[0].points.shape == (2, 250, 2)
    assert clips[0].points.dtype == np.float32
    np.testing.assert_array_equal(clips[0].points[:, 0], [[0.5, 0.25], [1.0, 0.0]])
    assert np.flatnonzero(clips[0].occluded[0]).tolist() == [3]


def test_clips_become_annotated_videos_of_the_workflow(table: Path, clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "kinetics"
    index = build_kinetics(table, clips, output)
    assert index.missing == ["missing0000_000000_000010.mp4"]
    assert list(index.failed) == ["broken00000_000007_000017.mp4"]
    assert index.summary() == "Kinetics: 2 of 4 clips found, 1 missing, 1 unusable"
    assert sorted(path.name for path in output.iterdir()) == [
        "abcdefghijk_000005_000015.annotations.npz",
        "abcdefghijk_000005_000015.mp4",
        "id-bcdefghijk_000000_000010.annotations.npz",
        "id-bcdefghijk_000000_000010.mp4",
    ]
    lengths = {}
    for entry in discover(output):
        frames, meta = read_frames(entry, FramesOptions(on_cut="ignore"))
        points, _ = read_annotations(entry, meta)
        assert load_npz(entry.annotations)["points"].shape[1] == len(frames) == points.shape[1]
        assert meta.fps == pytest.approx(25)
        lengths[entry.name] = (len(frames), meta.original_width, meta.original_height)
    assert lengths == {"abcdefghijk_000005_000015": (50, 64, 48), "id-bcdefghijk_000000_000010": (250, 64, 48)}
    arrays = load_npz(output / "abcdefghijk_000005_000015.annotations.npz")
    # Half a pixel of the clip is taken off, as in the official files: 0.5 - 0.5/64, 0.25 - 0.5/48.
    np.testing.assert_allclose(arrays["points"][0, 0], [0.4921875, 0.2395833], atol=1e-6)
    assert arrays["occluded"].shape == (2, 50)
    assert np.flatnonzero(arrays["occluded"][0]).tolist() == [3]


def test_a_second_run_does_not_decode_again(
    table: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "kinetics"
    build_kinetics(table, clips, output)
    (clips / "broken00000_000007_000017.mp4").unlink()
    (output / "id-bcdefghijk_000000_000010.annotations.npz").write_bytes(b"damaged")
    run, decoded = subprocess.run, []

    def count(command: list[str], **options: object) -> object:
        if "libx264" in command:
            decoded.append(command[-1])
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", count)
    assert len(build_kinetics(table, clips, output).videos) == 2
    assert len(decoded) == 1
    assert "id-bcdefghijk" in decoded[0]


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("", "holds no rows"),
        ("abc,1,11\n", "line 1 is not a row"),
        ("abc,1,11,0.5,0.5\n", "line 1 is not a row"),
        ("abc,one,11,0.5,0.5,0\nabc,1,11,0.5,x,0\n", "line 2 is not a row"),  # line 1 counts as a header
        ("abc,1,11,0.5,0.5,0\nabc,1,11,0.5,0.5,0,0.5,0.5,0\n", "line 2 has 2 frames: the clip's first row has 1"),
        ("../../x,1,11,0.5,0.5,0\n", "line 1 is not a row"),
        ("abc,-1,11,0.5,0.5,0\n", "line 1 is not a row"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_csv(tmp_path / "table.csv")


def test_occlusion_may_be_written_as_words(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("abc,1,11,0.5,0.5,True,0.5,0.5,False\n")
    assert read_csv(tmp_path / "table.csv")[0].occluded.tolist() == [[True, False]]


def test_folders_that_cannot_be_right_are_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        build_kinetics(table, tmp_path / "nowhere", tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="must not be the folder of clips"):
        build_kinetics(table, empty, empty)
    with pytest.raises(InputError, match=r"no clip .* 4 missing.*abcdefghijk_000005_000015\.mp4"):
        build_kinetics(table, empty, tmp_path / "out")
    with pytest.raises(InputError, match="cannot be read"):
        build_kinetics(tmp_path / "none.csv", empty, tmp_path / "out")


def test_the_command_prints_the_counts(
    table: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clips / "broken00000_000007_000017.mp4").unlink()
    (clips / "-bcdefghijk_000000_000010.mp4").unlink()
    output = tmp_path / "kinetics"
    assert main(["assets", "kinetics", str(clips), str(output), "--csv", str(table)]) == 0
    assert "1 of 4 clips found, 3 missing, 0 unusable. Use `videos: " in capsys.readouterr().out
