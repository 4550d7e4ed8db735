"""Processed folders: which image a working frame is, under which names its files lie, and whose folder it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import FramesOptions
from everypoint.errors import InputError
from everypoint.video.decode import read_frames
from everypoint.video.discover import discover
from everypoint.video.processed_folder import (
    DINOV2,
    FLOWS,
    ProcessedFolder,
    digest_of,
    own_folder,
    read_array,
    read_bits,
    read_counts,
)

SIZE = (12, 16)


def picture(frame: int) -> np.ndarray:
    """A frame that looks like no other."""
    image = np.zeros((*SIZE, 3), np.uint8)
    image[:, 2 * frame : 2 * frame + 6] = 250
    image[frame:] |= 64
    return image


def frames(count: int = 6, start: int = 0, stride: int = 1) -> tuple[np.ndarray, VideoMeta]:
    chosen = range(start, start + count * stride, stride)
    meta = VideoMeta("dog", "dog", "abc", 25.0, count, *SIZE, *SIZE, start=start, stride=stride)
    return np.stack([picture(frame) for frame in chosen]), meta


def write(place: Path, pattern: str = "{:05d}.jpg", count: int = 6) -> Path:
    (place / "color").mkdir(parents=True)
    for frame in range(count):
        Image.fromarray(picture(frame)).save(place / "color" / pattern.format(frame))
    return place


def opened(place: Path, *args: int) -> ProcessedFolder:
    images, meta = frames(*args)
    return ProcessedFolder(place, meta, images, "flow.folder")


# -------------------------------------------------------------------------------------------------------- frames


def test_a_working_frame_is_frame_start_plus_k_stride_of_the_source(tmp_path):
    folder = opened(write(tmp_path), 2, 1, 3)
    assert folder.names == ("00001.jpg", "00004.jpg")
    assert folder.image(1) == tmp_path / "color/00004.jpg"


def test_images_are_in_the_order_in_which_the_workflow_reads_them(tmp_path):
    """The folder as a video of its own: working frame k is names[k], also where plain sorting mixes up the time."""
    place = write(tmp_path / "videos/dog", "{}.png", count=12)
    [entry] = discover(tmp_path / "videos")
    images, meta = read_frames(entry, FramesOptions(start=1, stride=2))
    folder = ProcessedFolder(own_folder(entry.path), meta, images, "flow.folder")
    assert folder.place == place
    assert folder.names == ("1.png", "3.png", "5.png", "7.png", "9.png", "11.png")
    for frame, name in enumerate(folder.names):
        assert np.array_equal(images[frame], np.array(Image.open(place / "color" / name)))


def test_numbers_of_images_become_working_frames(tmp_path):
    folder = opened(write(tmp_path, "{}.jpg", count=12), 3, 2, 4)  # frames 2, 6, 10; sorted: 0, 1, 10, 11, 2, ...
    numbers = np.array([0, 1, 2, 3, 4, 8, 11, 12, -1])
    assert folder.working_frames(numbers).tolist() == [-1, -1, 2, -1, 0, 1, -1, -1, -1]


def test_more_frames_than_images_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="has 6 images and frame 6 of dog is in use"):
        opened(write(tmp_path), 7)
    with pytest.raises(InputError, match="has 6 images and frame 8 of dog is in use"):
        opened(tmp_path, 3, 2, 3)


# --------------------------------------------------------------------------------------------------- whose folder


@pytest.mark.parametrize("quality", [95, 20])
def test_compression_and_resizing_do_not_make_another_picture(tmp_path, quality):
    place = write(tmp_path)
    for path in (place / "color").iterdir():
        Image.open(path).resize((48, 36)).save(path, quality=quality)
    assert opened(place).image_size() == (36, 48)


@pytest.mark.parametrize("frame", [0, 3, 5])
def test_another_video_s_folder_is_refused(tmp_path, frame):
    place = write(tmp_path)
    Image.fromarray(255 - picture(frame)).save(place / f"color/{frame:05d}.jpg", quality=95)
    with pytest.raises(InputError, match=f"0000{frame}.jpg does not show frame {frame} of dog.*set flow.folder"):
        opened(place)


def test_a_folder_shifted_in_time_is_refused(tmp_path):
    images, meta = frames(3, 3)
    with pytest.raises(InputError, match=r"00000.jpg does not show frame 0 of dog.*frames\.start"):
        ProcessedFolder(write(tmp_path), VideoMeta(**{**vars(meta), "start": 0}), images, "flow.folder")


def test_no_folder_and_no_images_are_one_sentence(tmp_path):
    images, meta = frames()
    with pytest.raises(InputError, match="no processed folder of dog is known; set flow.folder"):
        ProcessedFolder(None, meta, images, "flow.folder")
    with pytest.raises(InputError, match="none does not exist; set flow.folder"):
        ProcessedFolder(tmp_path / "none", meta, images, "flow.folder")
    (tmp_path / "raft_exhaustive").mkdir()
    with pytest.raises(InputError, match="has no images in color.*set flow.folder to the folder that holds color"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("images", "parts", "own"),
    [
        ("dog/color", [], "dog"),
        ("dog", ["raft_exhaustive"], "dog"),
        ("color/color", [], "color"),
        ("color", ["raft_exhaustive"], "color"),
        ("color", ["features/dino"], "color"),
    ],
)
def test_the_folder_of_a_video_that_is_a_folder(tmp_path, images, parts, own):
    for part in ["", *parts]:
        (tmp_path / images / part).mkdir(parents=True, exist_ok=True)
    assert own_folder(tmp_path / images) == tmp_path / own


# --------------------------------------------------------------------------------------------------------- names


def put(place: Path, part: str, *names: str) -> None:
    (place / part).mkdir(parents=True, exist_ok=True)
    for name in names:
        (place / part / name).write_bytes(b"x")


def test_files_are_called_by_the_whole_name_or_the_stem(tmp_path):
    place = write(tmp_path)
    put(place, FLOWS, "00000.jpg_00001.jpg.npy", "00001_00002.npy", "00002.jpg_00003.npy")
    put(place, DINOV2, "00000.npz", "00001.jpg.npz")
    put(place, "raw_depth/mask", "00000.jpg")
    put(place, "raw_depth/depth", "00000.npz")
    folder = opened(place)
    names = folder.names
    assert folder.pair_file(FLOWS, names[0], names[1], ".npy") == place / FLOWS / "00000.jpg_00001.jpg.npy"
    assert folder.pair_file(FLOWS, names[1], names[2], ".npy") == place / FLOWS / "00001_00002.npy"
    assert folder.pair_file(FLOWS, names[2], names[3], ".npy") is None  # half and half is nobody's name
    assert folder.frame_file(DINOV2, 0, ".npz") == place / DINOV2 / "00000.npz"
    assert folder.frame_file(DINOV2, 1, ".npz") == place / DINOV2 / "00001.jpg.npz"
    assert folder.frame_file(DINOV2, 2, ".npz") is None
    assert folder.frame_file("raw_depth/mask", 0, ".jpg") == place / "raw_depth/mask/00000.jpg"
    assert folder.frame_file("raw_depth/depth", 0, ".npz") == place / "raw_depth/depth/00000.npz"


def test_a_digest_tells_names_and_sizes_not_places(tmp_path):
    for place in ("a", "b"):
        put(tmp_path / place, "x", "1.npy", "2.npy")
    one, other = ([tmp_path / place / "x/1.npy", tmp_path / place / "x/2.npy"] for place in "ab")
    assert digest_of(one) == digest_of(other)
    assert len({digest_of(one), digest_of(one[:1]), digest_of(one[::-1])}) == 3
    other[1].write_bytes(b"xy")
    assert digest_of(one) != digest_of(other)


# ---------------------------------------------------------------------------------------------------------- files


def test_bits_survive_lossy_compression(tmp_path):
    mask = np.zeros((64, 64), bool)
    mask[13:50, 5:38] = True  # edges within the blocks of 8 pixels
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "m.jpg", quality=75)
    assert len(np.unique(np.array(Image.open(tmp_path / "m.jpg")))) > 2  # else there is nothing to survive
    assert np.array_equal(read_bits(tmp_path / "m.jpg")[..., 0], mask)


@pytest.mark.parametrize(("shape", "channels"), [((5, 6), 1), ((5, 6, 2), 1), ((5, 6, 3), 3), ((5, 6, 4), 3)])
def test_channels_of_a_mask_without_alpha(tmp_path, shape, channels):
    image = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8) * 255
    Image.fromarray(image).save(tmp_path / "m.png")
    expected = image.reshape(5, 6, -1)[..., :channels] > 0
    assert np.array_equal(read_bits(tmp_path / "m.png")[..., :1], expected[..., :1])
    if channels == 3:
        assert np.array_equal(read_bits(tmp_path / "m.png"), expected)


def test_counts_of_more_than_8_bits(tmp_path):
    counts = np.arange(30, dtype=np.uint16).reshape(5, 6) * 100
    Image.fromarray(counts).save(tmp_path / "c.png")
    assert np.array_equal(read_counts(tmp_path / "c.png"), counts)


def test_an_array_is_read_as_float32(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6, dtype=">f8"))
    np.savez(tmp_path / "a.npz", depth=np.arange(6, dtype=np.int16), other=np.zeros(1))
    for found in (read_array(tmp_path / "a.npy"), read_array(tmp_path / "a.npz", "depth")):
        assert found.dtype == np.float32
        assert found.tolist() == list(range(6))


@pytest.mark.parametrize("name", ["none.png", "text.png"])
def test_an_unreadable_mask_is_one_sentence(tmp_path, name):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=name):
        read_bits(tmp_path / name)
