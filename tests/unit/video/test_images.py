"""Still images: every depth and channel count, one size, and the resize that all frames get."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from everypoint.config.options import FramesOptions
from everypoint.errors import InputError
from everypoint.video.decode import read_frames
from everypoint.video.discover import Entry
from everypoint.video.images import decode_image, resize_frame
from everypoint.video.paths import image_files, natural_key
from tests.unit.video.clips import pattern

AS_IS = FramesOptions(max_side=None, on_cut="ignore")
FRAME = pattern(1)[0]


def save(path, image):
    """An image in OpenCV's channel order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def read(folder, options=AS_IS):
    return read_frames(Entry("v", "images", folder), options)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".webp"])
def test_lossless_formats_are_exact(tmp_path, suffix):
    flags = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    data = cv2.imencode(suffix, FRAME[..., ::-1], flags)[1].tobytes()
    np.testing.assert_array_equal(decode_image(data, "x"), FRAME)


def test_channels_and_depths():
    grey, alpha = FRAME[..., 0], np.full(FRAME.shape[:2], 255, np.uint8)
    alpha[:12] = 51

    def png(image):
        return decode_image(cv2.imencode(".png", image)[1].tobytes(), "x")

    np.testing.assert_array_equal(png(grey), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(png(FRAME[..., ::-1].astype(np.uint16) * 257), FRAME)
    np.testing.assert_array_equal(png(np.full((4, 4), 257 * 7 + 128, np.uint16)), np.full((4, 4, 3), 7))
    np.testing.assert_array_equal(png(np.full((4, 4), 257 * 7 + 129, np.uint16)), np.full((4, 4, 3), 8))
    sixteen = cv2.imencode(".tiff", FRAME[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(decode_image(sixteen, "x"), FRAME)
    over = np.round(FRAME * (alpha[..., None] / 255)).astype(np.uint8)
    np.testing.assert_array_equal(png(np.dstack([FRAME[..., ::-1], alpha])), over)


def test_palette_and_bilevel_images(tmp_path):
    bilevel = Image.fromarray((FRAME[..., 0] > 127).astype(np.uint8) * 255).convert("1")
    bilevel.save(tmp_path / "a.png")
    decoded = decode_image((tmp_path / "a.png").read_bytes(), "x")
    np.testing.assert_array_equal(decoded[..., 0], (FRAME[..., 0] > 127) * 255)


def test_jpegs_are_turned_upright(tmp_path):
    wide = np.full((16, 48, 3), 30, np.uint8)
    wide[:, :16] = 220
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(wide).save(tmp_path / "a.jpg", exif=exif, quality=95)
    frame = decode_image((tmp_path / "a.jpg").read_bytes(), "x")
    assert frame.shape == (48, 16, 3)
    assert frame[:12].mean() > 200 > 60 > frame[20:].mean()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(side):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a readable image"),
        (b"text", "not a readable image"),
        (cv2.imencode(".png", FRAME)[1].tobytes()[:60], "cannot be decoded"),
        (huge_png(65535), "65535x65535 pixels and at most 65 million"),
        (huge_png(9000), "9000x9000 pixels and at most 65 million"),
        (cv2.imencode(".tiff", FRAME.astype(np.float32))[1].tobytes(), "float32"),
    ],
)
def test_what_is_no_image_is_said(data, says):
    with pytest.raises(InputError, match=says) as caught:
        decode_image(data, "frame.png")
    assert "frame.png" in str(caught.value)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ folders


def test_a_folder_is_read_in_natural_order(tmp_path):
    frames = pattern(12)
    for index in (11, 3, 0, 10, 1, 2, 9, 4, 5, 6, 7, 8):
        save(tmp_path / "walk" / f"f{index}.png", frames[index][..., ::-1])
    (tmp_path / "walk" / ".f0.png").write_bytes(b"hidden")
    (tmp_path / "walk" / "notes.txt").write_bytes(b"other")
    got, meta = read(tmp_path / "walk")
    np.testing.assert_array_equal(got, frames)
    assert (meta.fps, meta.timestamps[3], meta.source) == (25.0, 3 / 25, "walk")
    got, meta = read(tmp_path / "walk", FramesOptions(start=1, stride=4, max_frames=2, on_cut="ignore"))
    np.testing.assert_array_equal(got, frames[[1, 5]])
    assert meta.timestamps == [1 / 25, 5 / 25]


def test_natural_order():
    names = ["f10", "f9", "f09", "g1", "f", "10", "9", "f1b2", "f1b10"]
    assert sorted(names, key=natural_key) == ["9", "10", "f", "f1b2", "f1b10", "f09", "f9", "f10", "g1"]


def test_the_hash_tells_names_and_bytes(tmp_path):
    for folder in ("a", "b", "c"):
        for index in range(2):
            save(tmp_path / folder / f"{index}.png", FRAME + index)
    save(tmp_path / "b" / "1.png", FRAME + 2)
    (tmp_path / "c" / "1.png").rename(tmp_path / "c" / "2.png")
    hashes = {read(tmp_path / folder)[1].source_hash for folder in ("a", "b", "c")}
    assert len(hashes) == 3


def test_the_first_image_of_another_size_is_named(tmp_path):
    for index, frame in enumerate([FRAME, FRAME, FRAME[:-2], FRAME[:-4]]):
        save(tmp_path / f"{index}.png", frame)
    with pytest.raises(InputError, match=r"2\.png has 32x22, those before it 32x24"):
        read(tmp_path)
    assert len(read(tmp_path, FramesOptions(max_frames=2, on_cut="ignore"))[0]) == 2


def test_a_damaged_image_is_named(tmp_path):
    save(tmp_path / "0.png", FRAME)
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"1\.png is not a readable image"):
        read(tmp_path)


def test_one_image_is_not_enough(tmp_path):
    save(tmp_path / "0.png", FRAME)
    with pytest.raises(InputError, match="it has one frame and needs at least 2"):
        read(tmp_path)


def test_sixteen_bits_that_use_twelve_are_said(tmp_path):
    for index in range(2):
        save(tmp_path / f"{index}.png", FRAME.astype(np.uint16) * 16)
    assert "stretch" in read(tmp_path)[1].warnings[0]


def test_images_that_are_links_out_of_the_folder_are_left_out(tmp_path):
    outside = save(tmp_path / "outside" / "9.png", FRAME)
    folder = tmp_path / "videos" / "walk"
    inside = save(folder / "0.png", FRAME)
    (folder / "1.png").symlink_to(outside)
    (folder / "2.png").symlink_to(inside)
    assert [path.name for path in image_files(folder)] == ["0.png", "2.png"]


# ------------------------------------------------------------------------------------------------ sizes


def test_shrinking_by_whole_factors_is_the_mean():
    frame = pattern(1, 24, 36)[0]
    blocks = frame.reshape(12, 2, 12, 3, 3).mean(axis=(1, 3))
    assert np.abs(resize_frame(frame, (12, 12)).astype(float) - blocks).max() <= 0.51


@pytest.mark.parametrize("size", [(24, 64), (12, 64), (48, 16), (48, 64), (24, 16), (7, 45)])
def test_resizing_keeps_raster_coordinates(size):
    """The centroid of a blob lies at the scaled raster position, along axes that grow and that shrink."""
    y, x = np.mgrid[:24, :32] + 0.5
    blob = np.exp(-((x - 11.3) ** 2 + (y - 13.8) ** 2) / 18)
    small = resize_frame(np.repeat((blob * 255).astype(np.uint8)[..., None], 3, axis=2), size)[..., 0].astype(float)
    v, u = np.mgrid[: size[0], : size[1]] + 0.5
    centre = np.array([(u * small).sum(), (v * small).sum()]) / small.sum()
    np.testing.assert_allclose(centre * [32 / size[1], 24 / size[0]], [11.3, 13.8], atol=0.12)


def test_the_same_size_is_the_same_frame():
    np.testing.assert_array_equal(resize_frame(FRAME, (24, 32)), FRAME)
