"""Files that try to make the reader do something else."""

from __future__ import annotations

import os
import struct
import threading
import time

import numpy as np
import pytest

from everypoint.config.options import FramesOptions
from everypoint.errors import InputError
from everypoint.video import decode, ffmpeg, process
from everypoint.video.decode import read_frames
from everypoint.video.discover import Entry, discover
from tests.unit.video.clips import encode, pattern, run

AS_IS = FramesOptions(max_side=None, on_cut="ignore")
SECRET = "SECRET-LINE-OF-ANOTHER-FILE"


def read(path):
    return read_frames(Entry("v", "video", path), AS_IS)


PLAYLISTS = {
    "m3u8 of a file": "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1.0,\nfile://{secret}\n#EXT-X-ENDLIST\n",
    "m3u8 of the network": "#EXTM3U\n#EXTINF:1.0,\nhttp://127.0.0.1:{port}/x\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{secret}'\nfile 'http://127.0.0.1:{port}/x'\n",
    "sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{secret}"/></svg>',
}


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


@pytest.fixture
def listener():
    """A port on this machine, and whether anybody called."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def called():
            try:
                server.accept()[0].close()
            except TimeoutError:
                return False
            return True

        yield server.getsockname()[1], called


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("head", [b"", b"\0\0\0\x18ftypisom\n", b"RIFF\0\0\0\0AVI \n", b"\x1aE\xdf\xa3\n", b"GIF89a\n"])
def test_playlists_under_another_name_open_nothing(tmp_path, secret, listener, kind, head):
    port, called = listener
    path = tmp_path / "holiday.mp4"
    path.write_bytes(head + PLAYLISTS[kind].format(secret=secret, port=port).encode())
    with pytest.raises(InputError) as caught:
        read(path)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not called()


def test_text_never_reaches_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setattr(ffmpeg, "Child", lambda *_, **__: pytest.fail("ffmpeg was started"))
    for name, text in PLAYLISTS.items():
        path = tmp_path / f"{name}.mp4"
        path.write_text(text)
        with pytest.raises(InputError, match="not a video"):
            read(path)


def test_only_plain_demuxers_and_files_are_open():
    allowed = {demuxer for demuxer, _ in ffmpeg._CONTAINERS.values()}
    assert allowed == {"mov", "matroska", "avi", "gif"}
    from pathlib import Path

    for container in ffmpeg._CONTAINERS:
        arguments = ffmpeg._input(Path("-i.mp4"), container)
        assert arguments[arguments.index("-protocol_whitelist") + 1] == "file"
        assert arguments[arguments.index("-i") + 1] == f"file:{os.path.abspath('-i.mp4')}"


NAMES = [
    "$(touch x).mkv",
    '"; touch x;.mkv',
    "-i.mkv",
    "line\nbreak.mkv",
    "<img src=x onerror=alert(1)>.mkv",
    "Ünï 映像.mkv",
    "y" * 251 + ".mkv",
    "a'b`c|d%03d.mkv",
    "http:x.mkv",
    os.fsdecode(b"caf\xe9.mkv"),
]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_are_read_as_what_they_are(tmp_path, monkeypatch, name):
    folder = tmp_path / "videos"
    folder.mkdir()
    encode(tmp_path / "plain.mkv", pattern(3)).rename(folder / name)
    monkeypatch.chdir(folder)
    (entry,) = discover(folder)
    frames, meta = read_frames(entry, AS_IS)
    np.testing.assert_array_equal(frames, pattern(3))
    assert os.listdir(folder) == [name]
    assert meta.source.isprintable()
    assert sorted(os.listdir(tmp_path)) == ["videos"]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_in_messages_stay_on_one_line(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"no video")
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).isprintable()
    str(caught.value).encode()


# ------------------------------------------------------------------------------------------------ huge headers


@pytest.mark.parametrize("side", [65535, 20000])
def test_a_gif_that_claims_to_be_huge(tmp_path, side):
    path = encode(tmp_path / "a.gif", pattern(3), "-c:v", "gif")
    data = bytearray(path.read_bytes())
    data[6:10] = struct.pack("<HH", side, side)
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{side}x{side} pixels and at most 65 million are decoded"):
        read(path)


def test_an_avi_that_claims_to_be_huge(tmp_path):
    path = encode(tmp_path / "a.avi", pattern(3), "-c:v", "rawvideo", "-pix_fmt", "bgr24")
    data = bytearray(path.read_bytes())
    at = data.index(b"strf") + 12
    assert struct.unpack("<ii", data[at : at + 8])[0] == 32
    data[at : at + 8] = struct.pack("<ii", 65535, 65535)
    path.write_bytes(data)
    with pytest.raises(InputError, match="65535x65535"):
        read(path)


def test_a_picture_inside_that_claims_to_be_huge(tmp_path):
    import zlib

    path = encode(tmp_path / "a.mov", pattern(3), "-c:v", "png")
    data = path.read_bytes()
    header = struct.pack(">II", 32, 24)
    huge = struct.pack(">II", 65535, 65535)
    at = data.index(b"IHDR" + header)
    rest = data[at + 12 : at + 17]
    fixed = b"IHDR" + huge + rest + struct.pack(">I", zlib.crc32(b"IHDR" + huge + rest))
    path.write_bytes(data[:at] + fixed + data[at + len(fixed) :])
    frames, meta = read(path)
    np.testing.assert_array_equal(frames, pattern(3)[1:])  # the others are whole
    assert "65535x65535" in meta.warnings[0]


def test_the_size_found_while_decoding_is_checked_too(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mkv", pattern(3))
    stream = ffmpeg.probe(path)
    monkeypatch.setattr(ffmpeg, "MAX_PIXELS", 100)
    monkeypatch.setattr(ffmpeg, "_input", lambda path, container: ["-f", "matroska", "-i", f"file:{path}"])
    with pytest.raises(InputError, match="32x24 pixels"):
        list(ffmpeg.FrameStream(stream))


# ------------------------------------------------------------------------------------------------ the child process


def test_a_decoder_that_does_not_end_is_ended(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mkv", pattern(3))
    stream = ffmpeg.probe(path)
    endless = ("-f", "lavfi", "-i", "testsrc=size=16x16", "-c:v", "pam", "-f", "image2pipe", "pipe:1")
    monkeypatch.setattr(
        ffmpeg.FrameStream, "_command", lambda self, stamps: [process.ffmpeg_path(), "-v", "error", "-re", *endless]
    )
    monkeypatch.setattr(decode, "probe", lambda path: stream)
    monkeypatch.setattr(ffmpeg, "DECODE_SECONDS", 0.3)
    before = time.monotonic()
    with pytest.raises(InputError, match="took more than 0 s"):
        read(path)
    assert time.monotonic() - before < 20


def test_leaving_early_ends_the_child_and_its_threads(tmp_path):
    stream = ffmpeg.probe(encode(tmp_path / "a.mkv", pattern(200, 64, 64)))
    threads = threading.active_count()
    frames = iter(ffmpeg.FrameStream(stream))
    next(frames)
    frames.close()
    for _ in range(100):
        if threading.active_count() <= threads:
            break
        time.sleep(0.02)
    assert threading.active_count() <= threads


def test_the_child_cannot_write_files_or_take_all_memory(tmp_path):
    target = tmp_path / "written.bin"
    source = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=500", "-t", "20", "-f", "rawvideo", f"file:{target}")
    with process.Child([process.ffmpeg_path(), "-v", "error", *source], 60, memory=4 * 2**30) as child:
        assert child.finish() != 0
    assert not target.exists() or target.stat().st_size < 64 * 64 * 3 * 1000
    huge = ("-f", "lavfi", "-i", "color=size=20000x20000", "-frames:v", "3", "-f", "null", "-")
    with process.Child([process.ffmpeg_path(), "-v", "error", *huge], 60, memory=2**29) as child:
        assert child.finish() != 0


def test_a_talkative_file_does_not_fill_memory():
    log = process.Log()
    for _ in range(10_000):
        log._take("[mov @ 0x1] [error] broken")
        log._take("[info]   Stream #0:0: Video: h264, yuv420p, 2x2")
    assert len(log.errors) <= 100
    assert len(log.streams) <= 64


def test_report_files_of_ffmpeg_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setenv("FFREPORT", f"file={tmp_path}/report.log:level=32")
    path = encode_plain(tmp_path)
    read(path)
    assert not (tmp_path / "report.log").exists()


def encode_plain(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FFREPORT")
        return encode(tmp_path / "a.mkv", pattern(3))


def test_title_that_looks_like_a_stream_is_no_stream(tmp_path):
    plain = encode(tmp_path / "a.mkv", pattern(3))
    title = "x\n[info]   Stream #0:7: Video: h264, yuv420p, 9x9\nDuration: 99:00:00.0"
    path = run(tmp_path / "b.mkv", "-i", str(plain), "-c", "copy", "-metadata", f"title={title}")
    stream = ffmpeg.probe(path)
    assert (stream.width, stream.height) == (32, 24)
    assert stream.duration < 10
