"""Videos that play everywhere, written whole or not at all."""

from __future__ import annotations

import logging
import os
import struct
import subprocess

import numpy as np
import pytest

from everypoint.config.options import FramesOptions
from everypoint.errors import ResourceError
from everypoint.video import encode as encoding
from everypoint.video.decode import read_frames
from everypoint.video.discover import Entry
from everypoint.video.encode import write_mp4
from everypoint.video.process import ffmpeg_path
from tests.unit.video.test_decode import smooth

AS_IS = FramesOptions(max_side=None, on_cut="ignore")


def read(path):
    return read_frames(Entry("v", "video", path), AS_IS)


def described(path):
    return subprocess.run(
        [ffmpeg_path(), "-hide_banner", "-i", str(path)], capture_output=True, check=False
    ).stderr.decode()


def boxes(path):
    """Names of the top-level boxes of an MP4 in order."""
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        names.append(name.decode())
        at += size
    return names


def test_frames_come_back(tmp_path):
    frames = smooth(6)
    write_mp4(tmp_path / "a.mp4", iter(frames), 30000 / 1001, (48, 64), crf=1)
    got, meta = read(tmp_path / "a.mp4")
    assert got.shape == frames.shape
    assert np.abs(got.astype(int) - frames).mean() < 2.5  # 4:2:0 and 8-bit YUV cost this much
    assert meta.fps == pytest.approx(30000 / 1001)
    assert meta.warnings == []


def test_browsers_can_play_it(tmp_path):
    write_mp4(tmp_path / "a.mp4", smooth(3), 25)
    text = described(tmp_path / "a.mp4")
    assert "Video: h264" in text
    assert "yuv420p" in text
    assert "bt709" in text
    names = boxes(tmp_path / "a.mp4")
    assert names.index("moov") < names.index("mdat")  # it starts before it is loaded


@pytest.mark.parametrize("size", [(47, 63), (48, 63), (47, 64), (1, 1)])
def test_odd_sizes_are_padded(tmp_path, size):
    frames = smooth(3)[:, : size[0], : size[1]]
    write_mp4(tmp_path / "a.mp4", frames, 25, crf=1)
    got, _ = read(tmp_path / "a.mp4")
    assert got.shape == (3, size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert np.abs(got[:, : size[0], : size[1]].astype(int) - frames).mean() < 6


def test_equal_frames_give_equal_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, smooth(8), 25)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_quality_is_a_choice(tmp_path):
    for crf in (5, 40):
        write_mp4(tmp_path / f"{crf}.mp4", smooth(8), 25, crf=crf)
    assert (tmp_path / "40.mp4").stat().st_size < (tmp_path / "5.mp4").stat().st_size / 2


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.mp4"
    write_mp4(path, smooth(3), 25)
    before = path.read_bytes()

    def failing():
        yield smooth(1)[0]
        raise KeyError("drawing failed")

    with pytest.raises(KeyError):
        write_mp4(path, failing(), 25)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_ffmpegs_own_words_are_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "_codec", lambda crf: ["-c:v", "no-such-encoder"])
    with pytest.raises(ResourceError, match="cannot write the video .*a.mp4.*") as caught:
        write_mp4(tmp_path / "a.mp4", smooth(200), 25)
    assert "encoder" in str(caught.value).lower() or "output" in str(caught.value).lower()
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_without_libx264_there_is_a_video_and_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(encoding, "encoders", lambda: frozenset({"mpeg4"}))
    with caplog.at_level(logging.WARNING):
        write_mp4(tmp_path / "a.mp4", smooth(3), 25)
    assert "Video: mpeg4" in described(tmp_path / "a.mp4")
    assert "libx264" in caplog.text
    assert len(read(tmp_path / "a.mp4")[0]) == 3


def test_the_list_of_encoders():
    assert {"libx264", "mpeg4"} <= encoding.encoders()


SMALL, WIDE = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize("frames", [[], [SMALL.astype(float)], [SMALL[..., 0]], [SMALL, WIDE]])
def test_frames_that_are_none(tmp_path, frames):
    with pytest.raises(ValueError):
        write_mp4(tmp_path / "a.mp4", frames, 25)
    assert os.listdir(tmp_path) == []


def test_hostile_file_names(tmp_path):
    path = tmp_path / "-y 'a' %03d $(x).mp4"
    write_mp4(path, smooth(3), 25)
    assert os.listdir(tmp_path) == [path.name]
