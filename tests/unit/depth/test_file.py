"""Depth from a user's folder: which files count, which frame each is, what they hold, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from everypoint.config.options import DepthOptions
from everypoint.depth.file import FileDepth, depth_files
from everypoint.errors import ConfigError, InputError
from tests.unit.depth.videos import frames_and_meta


def write(path: Path, values: np.ndarray) -> None:
    """Write a map in the format of the name's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, depth=values)
    else:
        assert cv2.imwrite(str(path), values)


def read(folder: Path, count: int = 1, *, place: Path | None = None, start=0, stride=1, size=(16, 24), **options):
    frames, meta = frames_and_meta(count, size, start=start, stride=stride)
    where = {} if place else {"folder": str(folder)}
    return FileDepth(DepthOptions(backend="file", **where, **options)).depth(frames, meta, place)


VALUES = np.arange(1, 13, dtype=np.float64).reshape(3, 4) / 4


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "uint16", "int64"])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_hold_metres(tmp_path, kind, suffix):
    write(tmp_path / f"a{suffix}", (4 * VALUES).astype(kind))
    found = read(tmp_path)
    assert found.dtype == np.float16
    assert np.array_equal(found[0], 4 * VALUES)


def test_pictures_hold_steps(tmp_path):
    write(tmp_path / "a.png", (VALUES * 1000).astype(np.uint16))
    np.testing.assert_allclose(read(tmp_path)[0], VALUES, rtol=1e-3)
    np.testing.assert_allclose(read(tmp_path, unit=1 / 256)[0], VALUES * 1000 / 256, rtol=1e-3)


def test_inverse_depth(tmp_path):
    write(tmp_path / "a.npy", np.array([[4.0, 0.5], [0.0, -2.0]]))
    assert read(tmp_path, inverse=True)[0].tolist() == [[0.25, 2], [np.inf, -0.5]]  # the stage masks the last two
    write(tmp_path / "b" / "a.png", np.array([[500, 4000]], np.uint16))
    assert read(tmp_path / "b", inverse=True)[0].tolist() == [[2, 0.25]]


def test_values_beyond_the_type_become_infinite(tmp_path):
    write(tmp_path / "a.npy", np.array([[1e5, 2.0]]))
    assert read(tmp_path)[0].tolist() == [[np.inf, 2]]


def test_an_npz_may_hold_one_array_of_any_name_and_axes_of_one(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=VALUES[None, :, :, None])
    assert np.array_equal(read(tmp_path)[0], VALUES)


def test_names_are_in_natural_order_and_other_files_are_passed_over(tmp_path):
    for number in range(12):
        write(tmp_path / f"frame{number}.npy", np.full((2, 2), 1.0 + number))
    for other in ("notes.txt", ".hidden.npy", "preview.jpg"):
        (tmp_path / other).write_bytes(b"x")
    assert read(tmp_path, 12)[:, 0, 0].tolist() == list(range(1, 13))


def test_a_file_a_source_frame_is_chosen_as_the_frames_are(tmp_path):
    for number in range(20):
        write(tmp_path / f"{number:05d}.npy", np.full((2, 2), 1.0 + number))
    assert read(tmp_path, 4, start=3, stride=5)[:, 0, 0].tolist() == [4, 9, 14, 19]
    assert read(tmp_path, 20)[:, 0, 0].tolist() == list(range(1, 21))
    with pytest.raises(InputError, match="20 depth files: clip has 4 frames in use, and its source has more than 20"):
        read(tmp_path, 4, start=5, stride=5)
    with pytest.raises(InputError, match="holds 20 depth files"):
        read(tmp_path, 21)
    with pytest.raises(InputError, match="holds 20 depth files"):  # though so many images lie there
        depth_files(tmp_path, frames_and_meta(4, start=5, stride=5)[1], 20)


def test_the_number_of_a_folder_of_images_is_known(tmp_path):
    """A folder of images says how many frames the source has, so that a depth file too many is found out."""
    for number in range(6):
        write(tmp_path / "depth" / f"{number}.npy", np.ones((2, 2)))
    _, meta = frames_and_meta(2)
    assert len(depth_files(tmp_path / "depth", meta, 6)) == 2
    with pytest.raises(InputError, match="holds 6 depth files: clip has 2 frames in use, and its source has 5"):
        depth_files(tmp_path / "depth", meta, 5)


@pytest.mark.parametrize("images", ["color", "."])
def test_the_layout_of_omnitrackfast(tmp_path, images):
    """SEQ/raw_depth/depth/NNNNN.npz with the key "depth", beside the images of the sequence."""
    for number in range(6):
        np.savez_compressed(_made(tmp_path / "raw_depth" / "depth") / f"{number:05d}.npz", depth=VALUES + number)
        write(_made(tmp_path / images) / f"{number:05d}.png", np.zeros((16, 24, 3), np.uint8))
    found = read(None, 3, place=tmp_path, stride=2)
    assert np.array_equal(found, np.stack([VALUES, VALUES + 2, VALUES + 4]).astype(np.float16))
    (tmp_path / images / "00005.png").unlink()
    with pytest.raises(InputError, match="6 depth files: clip has 3 frames in use, and its source has 5"):
        read(None, 3, place=tmp_path, stride=2)


def test_the_named_folder_may_be_one_of_omnitrackfast(tmp_path):
    np.savez(_made(tmp_path / "raw_depth" / "depth") / "0.npz", depth=VALUES)
    assert np.array_equal(read(tmp_path)[0], VALUES)


def test_the_caller_may_have_read_the_option_already(tmp_path):
    """A part of a cut video has another name than the video that the option speaks of."""
    write(tmp_path / "whole" / "a.png", (VALUES * 1000).astype(np.uint16))
    frames, meta = frames_and_meta(1)
    backend = FileDepth(DepthOptions(backend="file", folder=str(tmp_path / "{video}")))
    np.testing.assert_allclose(backend.depth(frames, meta, tmp_path / "whole")[0], VALUES, rtol=1e-3)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_the_folder_may_name_the_video(tmp_path):
    write(tmp_path / "clip" / "depth" / "a.npy", VALUES)
    assert np.array_equal(read(tmp_path / "{video}" / "depth")[0], VALUES)


def test_a_map_larger_than_the_frame_is_cut_down_to_nearest_cells(tmp_path):
    """Three cells a pixel: the middle one holds the pixel's centre. A depth between two cells is never made up."""
    values = np.random.default_rng(0).random((9, 12)).round(3)
    write(tmp_path / "a.npy", values)
    assert np.array_equal(read(tmp_path, size=(3, 4))[0], values[1::3, 1::3].astype(np.float16))
    assert read(tmp_path, size=(3, 40)).shape == (1, 3, 12)
    assert np.array_equal(read(tmp_path, size=(16, 24))[0], values.astype(np.float16))


def test_the_description_knows_the_content(tmp_path):
    digests = []
    for value in (1.0, 2.0):
        write(tmp_path / "a.npy", np.full((2, 2), value))
        for _ in range(2):
            backend = FileDepth(DepthOptions(backend="file", folder=str(tmp_path)))
            backend.depth(*frames_and_meta(1))
            digests.append(backend.describe()["files"])
    assert digests[0] == digests[1] != digests[2] == digests[3]


# ---------------------------------------------------------------------------------------------------- refused


def test_a_folder_must_be_known_and_be_there(tmp_path):
    with pytest.raises(ConfigError, match="set depth.folder"):
        FileDepth(DepthOptions(backend="file")).depth(*frames_and_meta(1))
    with pytest.raises(InputError, match="raw_depth.* does not exist"):
        read(None, place=tmp_path)
    with pytest.raises(InputError, match=r"it has no \.npy"):
        read(tmp_path)
    for name in ("a.npy", "b.png"):
        write(tmp_path / name, np.ones((2, 2), np.uint16))
    with pytest.raises(InputError, match=r"kinds \.npy, \.png"):
        read(tmp_path, 2)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((4, 4), np.uint8), "a picture in 8 bits"),
        (np.zeros((4, 4, 3), np.uint8), "a picture in colour and in 8 bits"),
        (np.zeros((4, 4, 3), np.uint16), "a picture in colour, "),
    ],
)
def test_pictures_for_looking_at_are_no_depth(tmp_path, values, reason):
    write(tmp_path / "a.png", values)
    with pytest.raises(InputError, match=f"{reason}.*16-bit grey"):
        read(tmp_path)


@pytest.mark.parametrize(
    "values", [np.ones((2, 3, 4)), np.ones(5), np.ones((0, 4)), np.ones((2, 2), complex), np.ones((2, 2), bool)]
)
def test_other_arrays_are_no_depth(tmp_path, values):
    write(tmp_path / "a.npy", values)
    with pytest.raises(InputError, match="not numbers"):
        read(tmp_path)


def test_maps_of_two_sizes_are_refused(tmp_path):
    for name, size in (("a", (3, 4)), ("b", (4, 3))):
        write(tmp_path / f"{name}.npy", np.ones(size))
    with pytest.raises(InputError, match="is 3x4 and a.npy 4x3"):
        read(tmp_path, 2)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png"])
def test_damaged_files_are_one_sentence(tmp_path, suffix):
    write(tmp_path / f"a{suffix}", np.random.default_rng(0).integers(0, 999, (40, 40)).astype(np.uint16))
    data = (tmp_path / f"a{suffix}").read_bytes()
    for content in (data[: len(data) // 3], b"", b"garbage" * 9):
        (tmp_path / f"a{suffix}").write_bytes(content)
        with pytest.raises(InputError):
            read(tmp_path)


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{"a": 1}]], object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path)


def test_an_npz_of_several_arrays_needs_the_one_named_depth(tmp_path):
    np.savez(tmp_path / "a.npz", depth=VALUES, confidence=VALUES)
    assert np.array_equal(read(tmp_path)[0], VALUES)
    np.savez(tmp_path / "a.npz", z=VALUES, confidence=VALUES)
    with pytest.raises(InputError, match="no array 'depth': it holds z, confidence"):
        read(tmp_path)
