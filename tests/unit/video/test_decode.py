"""Frames of video files: exact where the codec is, upright, timed, and honest about damage."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.config.options import FramesOptions
from everypoint.errors import InputError, ResourceError
from everypoint.video import decode, ffmpeg
from everypoint.video.decode import read_frames
from everypoint.video.discover import Entry
from tests.unit.video.clips import encode, pattern, run

AS_IS = FramesOptions(max_side=None, on_cut="ignore")
FRAMES = pattern(8)
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
EXACT = {
    "ffv1.mkv": ("-c:v", "ffv1", "-pix_fmt", "bgr0"),
    "raw.avi": ("-c:v", "rawvideo", "-pix_fmt", "bgr24"),
    "png.mov": ("-c:v", "png"),
    "h264rgb.mp4": ("-c:v", "libx264rgb", "-qp", "0", "-bf", "2"),
    "ffv1.avi": ("-c:v", "ffv1", "-pix_fmt", "bgr0"),
}


def read(path, options=AS_IS):
    return read_frames(Entry("v", "video", path), options)


def smooth(count, height=48, width=64):
    """Frames that survive chroma subsampling: a slow colour wave, a little further in every frame."""
    y, x = np.mgrid[:height, :width]
    t = np.arange(count)[:, None, None]
    waves = [np.sin((x + 3 * t) / 9), np.sin((y - 2 * t) / 7), np.sin((x + y + 4 * t) / 13)]
    return np.stack([128 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


def error(frames, reference):
    assert frames.shape == reference.shape
    return np.abs(frames.astype(int) - reference).mean()


# ------------------------------------------------------------------------------------------------ whole files


@pytest.mark.parametrize("name", EXACT)
def test_lossless_codecs_give_the_frames_exactly(tmp_path, name):
    frames, meta = read(encode(tmp_path / name, FRAMES, *EXACT[name]))
    np.testing.assert_array_equal(frames, FRAMES)
    assert (meta.frames, meta.size, meta.original_size, meta.fps) == (8, (24, 32), (24, 32), 10.0)
    np.testing.assert_allclose(meta.timestamps, np.arange(8) / 10, atol=1e-6)
    assert meta.warnings == []
    assert meta.source == name
    assert len(meta.source_hash) == 64


def test_gif_gives_its_colours_exactly(tmp_path):
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[..., 0] = 255
    for t in range(4):
        frames[t, 3 * t : 3 * t + 4] = (0, 255, 0)
    palette = "split[a][b];[a]palettegen=reserve_transparent=0[p];[b][p]paletteuse=dither=none"
    got, meta = read(encode(tmp_path / "a.gif", frames, "-filter_complex", palette))
    np.testing.assert_array_equal(got, frames)
    assert meta.fps == 10.0


def test_start_stride_and_number_choose_frames(tmp_path):
    path = encode(tmp_path / "a.mkv", pattern(12))
    frames, meta = read(path, FramesOptions(start=2, stride=3, max_frames=3, max_side=None, on_cut="ignore"))
    np.testing.assert_array_equal(frames, pattern(12)[[2, 5, 8]])
    np.testing.assert_allclose(meta.timestamps, [0.2, 0.5, 0.8])
    assert (meta.start, meta.stride, meta.fps) == (2, 3, 10.0)
    assert meta.warnings == []
    assert meta.source_hash == read(path)[1].source_hash


def test_more_frames_asked_for_than_there_are(tmp_path):
    frames, meta = read(encode(tmp_path / "a.mkv", FRAMES), FramesOptions(start=5, max_frames=100, on_cut="ignore"))
    np.testing.assert_array_equal(frames, FRAMES[5:])
    assert meta.warnings == []


@pytest.mark.parametrize("shape", [(25, 33), (1, 7), (2, 2)])
def test_odd_sizes(tmp_path, shape):
    reference = pattern(3, *shape)
    np.testing.assert_array_equal(read(encode(tmp_path / "a.mkv", reference))[0], reference)


def test_two_frames_are_enough(tmp_path):
    assert len(read(encode(tmp_path / "a.mp4", FRAMES[:2], *H264))[0]) == 2


@pytest.mark.parametrize("turn", [90, -90, 180])
def test_rotation_in_the_file_is_applied(tmp_path, turn):
    upright = encode(tmp_path / "a.mp4", smooth(3), *H264)
    turned = run(tmp_path / "b.mp4", "-display_rotation:v:0", str(turn), "-i", str(upright), "-c", "copy")
    frames, meta = read(turned)
    assert error(frames, np.rot90(read(upright)[0], turn // 90, axes=(1, 2))) < 0.5
    assert meta.original_size == meta.size == ((48, 64) if turn == 180 else (64, 48))


def test_time_stamps_of_a_variable_rate_are_kept(tmp_path):
    at = [0, 100, 150, 400, 1000, 1033]
    steps = "".join(f"if(eq(N,{n}),{ms}," for n, ms in enumerate(at)) + "0" + ")" * len(at)
    variable = ("-vf", f"settb=1/1000,setpts='{steps}'", "-fps_mode", "passthrough", "-enc_time_base", "1:1000")
    for name, codec in (("a.mkv", EXACT["ffv1.mkv"]), ("a.mp4", EXACT["h264rgb.mp4"])):
        path = encode(tmp_path / name, FRAMES[:6], *variable, *codec)
        frames, meta = read(path)
        np.testing.assert_array_equal(frames, FRAMES[:6])  # none repeated, none dropped
        np.testing.assert_allclose(meta.timestamps, np.array(at) / 1000, atol=1e-6)
        assert meta.fps == pytest.approx(5 / 1.033)
        assert meta.warnings == []
    frames, meta = read(path, FramesOptions(start=1, stride=2, on_cut="ignore"))
    np.testing.assert_allclose(meta.timestamps, [0.1, 0.4, 1.033], atol=1e-6)


@pytest.mark.parametrize(
    ("rate", "fps"), [("30000/1001", 30000 / 1001), ("24000/1001", 24000 / 1001), ("25", 25), ("12.5", 12.5), ("1", 1)]
)
def test_rates_are_exact(tmp_path, rate, fps):
    assert read(encode(tmp_path / "a.mp4", FRAMES, *H264, fps=rate))[1].fps == pytest.approx(fps, rel=1e-12)


@pytest.mark.parametrize(
    "codec",
    [
        ("a.mkv", "-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "lossless=1:log-level=none"),
        ("a.mov", "-c:v", "prores_ks", "-profile:v", "3"),
        ("a.mkv", "-c:v", "ffv1", "-pix_fmt", "gbrp10le"),
    ],
)
def test_ten_bits_become_eight(tmp_path, codec):
    assert error(read(encode(tmp_path / codec[0], smooth(3), *codec[1:]))[0], smooth(3)) < 2


@pytest.mark.parametrize(
    ("codec", "tolerance"),
    [
        (("a.mov", "-c:v", "png"), 0),
        (("a.mov", "-c:v", "qtrle"), 0),
        (("a.mkv", "-c:v", "ffv1", "-pix_fmt", "bgra"), 0),
        (("a.mov", "-c:v", "prores_ks", "-pix_fmt", "yuva444p10le", "-profile:v", "4"), 3),
        (("a.webm", "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-lossless", "1"), 3),
        (("a.webm", "-c:v", "libvpx", "-pix_fmt", "yuva420p", "-auto-alt-ref", "0", "-crf", "4", "-b:v", "2M"), 5),
    ],
)
def test_alpha_is_composited_over_black(tmp_path, codec, tolerance):
    opaque = smooth(3)
    alpha = np.full((*opaque.shape[:3], 1), 255, np.uint8)
    alpha[:, :16], alpha[:, 16:32] = 0, 128
    path = encode(tmp_path / codec[0], np.concatenate([opaque, alpha], axis=-1), *codec[1:])
    expected = np.round(opaque * (alpha / 255)).astype(np.uint8)
    frames, _ = read(path)
    assert error(frames, expected) <= tolerance
    assert error(frames[:, 2:14], expected[:, 2:14]) <= tolerance / 4  # what is transparent is black


def test_pixels_that_are_not_square_stay_as_stored(tmp_path):
    frames, meta = read(encode(tmp_path / "a.mkv", FRAMES, "-vf", "setsar=4/3", *EXACT["ffv1.mkv"]))
    np.testing.assert_array_equal(frames, FRAMES)
    assert "not square" in meta.warnings[0]


def test_the_picture_is_used_and_the_sound_is_not(tmp_path):
    sound = ("-f", "lavfi", "-i", "sine=duration=3")
    path = encode(tmp_path / "a.mkv", FRAMES, "-c:v", "ffv1", "-pix_fmt", "bgr0", "-c:a", "flac", before=sound)
    frames, meta = read(path)
    np.testing.assert_array_equal(frames, FRAMES)
    assert meta.warnings == []  # the sound is longer, which is no damage


# ------------------------------------------------------------------------------------------------ sizes


def test_resizing_is_the_same_for_videos_and_images(tmp_path):
    from everypoint.video.images import resize_frame

    path = encode(tmp_path / "a.mkv", pattern(3, 40, 60))
    frames, meta = read(path, FramesOptions(max_side=30, on_cut="ignore"))
    assert (meta.size, meta.original_size) == ((20, 30), (40, 60))
    np.testing.assert_array_equal(frames, [resize_frame(frame, (20, 30)) for frame in pattern(3, 40, 60)])
    assert read(path, FramesOptions(max_side=100, on_cut="ignore"))[0].shape == (3, 40, 60, 3)
    assert read(path, FramesOptions(max_side=30, resize=(64, 50), on_cut="ignore"))[0].shape == (3, 64, 50, 3)


def test_an_unknown_or_wrong_number_of_frames_is_no_problem(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mkv", pattern(200, 4, 4))
    for expected in (None, 3, 1000):
        monkeypatch.setattr(ffmpeg.Stream, "expected_frames", property(lambda stream, number=expected: number))
        for most in (None, 10**9):
            options = FramesOptions(max_frames=most, max_side=None, on_cut="ignore")
            np.testing.assert_array_equal(read(path, options)[0], pattern(200, 4, 4))


def test_too_many_bytes_are_refused_before_decoding(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mkv", FRAMES)
    monkeypatch.setattr(decode, "free_memory", lambda: 4 * 24 * 32 * 3)
    with pytest.raises(ResourceError, match=r"8 or more frames of 32x24 pixels need .* max_frames"):
        read(path)
    assert len(read(path, FramesOptions(max_frames=3, on_cut="ignore"))[0]) == 3


def test_a_header_that_promises_too_little_cannot_fill_memory(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.mkv", FRAMES)
    monkeypatch.setattr(decode, "MAX_FRAMES", 5)
    monkeypatch.setattr(ffmpeg.Stream, "expected_frames", property(lambda stream: 2))
    with pytest.raises(ResourceError, match="too large"):
        read(path)


def test_free_memory_is_plausible():
    assert 2**20 < decode.free_memory() < 2**50


# ------------------------------------------------------------------------------------------------ too little or damaged


def assert_one_sentence(path, says, options=AS_IS):
    with pytest.raises(InputError, match=says) as caught:
        read(path, options)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


@pytest.mark.parametrize(
    ("data", "says"), [(b"", "empty file"), (b"\0", "not a video"), (b"just some text, no film\n" * 40, "not a video")]
)
def test_files_that_are_no_videos(tmp_path, data, says):
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    assert_one_sentence(path, says)


def test_one_frame_is_not_enough(tmp_path):
    path = encode(tmp_path / "a.mp4", FRAMES[:1], *H264)
    assert_one_sentence(path, "it has one frame and needs at least 2")


def test_options_that_leave_too_little(tmp_path):
    path = encode(tmp_path / "a.mkv", FRAMES)
    assert_one_sentence(path, "start 100", FramesOptions(start=100))
    assert_one_sentence(path, "stride 50", FramesOptions(stride=50))
    assert_one_sentence(path, "max_frames 1", FramesOptions(max_frames=1))


def test_sound_without_a_picture(tmp_path):
    path = run(tmp_path / "a.mp4", "-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac")
    assert_one_sentence(path, "no video stream")


@pytest.mark.parametrize("name", ["missing.mp4", "folder.mp4"])
def test_files_that_cannot_be_opened(tmp_path, name):
    (tmp_path / "folder.mp4").mkdir()
    assert_one_sentence(tmp_path / name, "cannot be opened")


def read_or_error(path):
    """Frames and the warnings, or no frames and the error."""
    try:
        frames, meta = read(path)
    except InputError as caught:
        return np.zeros((0, 1, 1, 3), np.uint8), str(caught)
    return frames, "; ".join(meta.warnings)


CUT_OFF = {
    "a.mkv": H264,
    "b.mkv": ("-c:v", "ffv1", "-pix_fmt", "bgr0"),
    "a.mp4": (*H264, "-movflags", "+faststart"),
    "a.mov": ("-c:v", "png", "-movflags", "+faststart"),
    "a.webm": ("-c:v", "libvpx", "-crf", "10", "-b:v", "1M", "-g", "4"),
    "a.avi": ("-c:v", "mpeg4", "-q:v", "2"),
    "a.gif": ("-c:v", "gif"),
}


@pytest.mark.parametrize("name", CUT_OFF)
def test_a_file_that_is_cut_off_gives_its_whole_frames(tmp_path, name):
    path = encode(tmp_path / name, pattern(24, 48, 64), *CUT_OFF[name])
    whole, data = read(path)[0], path.read_bytes()
    assert len(whole) == 24
    used = []
    for percent in (25, 50, 90):
        path.write_bytes(data[: len(data) * percent // 100])
        frames, said = read_or_error(path)
        assert "damaged" in said or "cut off" in said or "cannot be read" in said
        assert (frames == whole[: len(frames)]).all()
        used.append(len(frames))
    assert used == sorted(used)
    assert used[0] < 13
    assert 17 <= used[2] < 24


def test_an_mp4_without_its_index_is_one_sentence(tmp_path):
    path = encode(tmp_path / "a.mp4", pattern(24, 48, 64), *H264)
    data = path.read_bytes()
    for percent in (25, 50, 90):
        path.write_bytes(data[: len(data) * percent // 100])
        assert_one_sentence(path, "no video stream" if percent == 90 else "moov atom not found")


def test_damage_inside_a_file_is_said(tmp_path):
    path = encode(tmp_path / "a.mkv", pattern(24, 48, 64), *EXACT["ffv1.mkv"])
    data = bytearray(path.read_bytes())
    for index in range(len(data) // 2, len(data) // 2 + 64):
        data[index] ^= 0x5A
    path.write_bytes(data)
    frames, meta = read(path)
    np.testing.assert_array_equal(frames[:8], pattern(24, 48, 64)[:8])
    assert "damaged" in meta.warnings[0]


def test_cuts_are_found_and_said(tmp_path):
    two = np.concatenate([np.repeat(pattern(1, 48, 64, seed)[:1], 6, axis=0) for seed in (1, 2)])
    two[6:, ..., 0] //= 4
    path = encode(tmp_path / "a.mkv", two)
    _, meta = read(path, FramesOptions())
    assert meta.cuts == [6]
    assert "shot cuts at frames [6]" in meta.warnings[0]
    _, meta = read(path, FramesOptions(on_cut="split", start=2, stride=2))
    assert (meta.cuts, meta.warnings) == ([2], [])
    assert read(path, FramesOptions(on_cut="ignore"))[1].cuts == []
