"""Ground truth, masks and queries beside a video."""

from __future__ import annotations

import dataclasses
import logging

import cv2
import numpy as np
import pytest

from everypoint.artifacts.atomic import save_npz
from everypoint.artifacts.video import VideoMeta
from everypoint.errors import InputError
from everypoint.video.decode import read_annotations, read_mask, read_queries_csv
from everypoint.video.discover import Entry
from tests.unit.video.clips import encode, pattern

META = VideoMeta(
    name="v", source="v", source_hash="", fps=25, frames=3, height=12, width=16, original_height=24, original_width=32,
    start=2, stride=3,
)  # fmt: skip
USED = [2, 5, 8]


def save_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


@pytest.fixture
def sequence(tmp_path):
    """An entry of ten images."""
    for index in range(10):
        save_image(tmp_path / "walk" / f"f{index}.png", pattern(1)[0])
    return Entry("v", "images", tmp_path / "walk")


# ------------------------------------------------------------------------------------------------ annotations


def test_annotations_at_the_used_frames(tmp_path, sequence):
    points = np.random.default_rng(0).random((4, 10, 2))
    occluded = points[..., 0] < 0.3
    save_npz(tmp_path / "walk.annotations.npz", points=points, occluded=occluded)
    entry = dataclasses.replace(sequence, annotations=tmp_path / "walk.annotations.npz")
    got_points, got_occluded = read_annotations(entry, META)
    np.testing.assert_array_equal(got_points, points[:, USED].astype(np.float32))
    np.testing.assert_array_equal(got_occluded, occluded[:, USED])
    assert (got_points.dtype, got_occluded.dtype) == (np.float32, bool)


def test_no_annotations_are_no_tracks(sequence):
    points, occluded = read_annotations(sequence, META)
    assert points.shape == (0, 3, 2)
    assert occluded.shape == (0, 3)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"points": np.zeros((1, 8, 2)), "occluded": np.zeros((1, 8), bool)}, "covers 8 frames and frame 8"),
        ({"points": np.zeros((1, 10, 2))}, "no array occluded"),
        ({"points": np.zeros((1, 10, 3)), "occluded": np.zeros((1, 10), bool)}, "not \\[N, T, 2\\]"),
        ({"points": np.zeros((1, 10, 2)), "occluded": np.zeros((2, 10), bool)}, "not \\[N, T\\]"),
    ],
)
def test_annotations_that_do_not_fit(tmp_path, sequence, arrays, says):
    save_npz(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=says):
        read_annotations(dataclasses.replace(sequence, annotations=tmp_path / "a.npz"), META)


def test_annotations_that_are_no_npz_or_hold_objects(tmp_path, sequence):
    entry = dataclasses.replace(sequence, annotations=tmp_path / "a.npz")
    entry.annotations.write_bytes(b"no zip")
    with pytest.raises(InputError) as error:
        read_annotations(entry, META)
    why = "it is no file of numpy arrays (npz or npy); write points and occluded with numpy.savez"
    assert str(error.value) == f"a.npz cannot be read: {why}."
    np.savez(entry.annotations, points=np.array([{}], dtype=object), occluded=np.zeros((1, 10), bool))
    with pytest.raises(InputError, match="cannot be read: it holds Python objects, which are never read; write"):
        read_annotations(entry, META)


# ------------------------------------------------------------------------------------------------ masks


def box(height, width, left):
    mask = np.zeros((height, width), np.uint8)
    mask[:, left:] = 255
    return mask


def test_no_mask(sequence):
    assert read_mask(sequence, 0, (12, 16)) is None


def test_one_mask_for_all_frames_in_any_size(tmp_path, sequence):
    entry = dataclasses.replace(sequence, mask=save_image(tmp_path / "walk.mask.png", box(24, 32, 16)))
    for size in ((24, 32), (12, 16), (48, 64), (6, 8)):
        mask = read_mask(entry, 7, size)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, box(*size, size[1] // 2) > 0)


def test_masks_of_images_go_by_name(tmp_path, sequence):
    save_image(tmp_path / "mask" / "f2.png", np.dstack([box(24, 32, 8)] + [np.zeros((24, 32), np.uint8)] * 2))
    entry = dataclasses.replace(sequence, mask=tmp_path / "mask")
    np.testing.assert_array_equal(read_mask(entry, 2, (24, 32)), box(24, 32, 8) > 0)
    assert read_mask(entry, 3, (24, 32)) is None
    assert read_mask(entry, 99, (24, 32)) is None


def test_as_many_masks_as_frames_may_have_other_names(tmp_path, sequence):
    for index in range(10):
        save_image(tmp_path / "mask" / f"m{index}.png", box(24, 32, index))
    entry = dataclasses.replace(sequence, mask=tmp_path / "mask")
    np.testing.assert_array_equal(read_mask(entry, 9, (24, 32)), box(24, 32, 9) > 0)


def test_masks_of_a_video_go_by_number(tmp_path):
    for index in range(3):
        save_image(tmp_path / "v.mask" / f"{index}.png", box(24, 32, index))
    entry = Entry("v", "video", tmp_path / "v.mp4", mask=tmp_path / "v.mask")
    np.testing.assert_array_equal(read_mask(entry, 1, (24, 32)), box(24, 32, 1) > 0)
    assert read_mask(entry, 3, (24, 32)) is None


def test_a_broken_mask_is_named(tmp_path, sequence):
    (tmp_path / "m.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"m\.png"):
        read_mask(dataclasses.replace(sequence, mask=tmp_path / "m.png"), 0, (12, 16))


# ------------------------------------------------------------------------------------------------ queries


def with_queries(entry, folder, text):
    path = folder / "walk.queries.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return dataclasses.replace(entry, queries=path)


def test_queries_become_indices_of_used_frames(tmp_path, sequence, caplog):
    entry = with_queries(sequence, tmp_path, "t,x,y,id\n2,1.5,2.25,nose\n8,32,24,ear\n3,1,1,unused\n\n5.0, 0 ,0,eye\n")
    with caplog.at_level(logging.WARNING):
        queries, ids = read_queries_csv(entry, META)
    np.testing.assert_array_equal(queries, np.array([[0, 1.5, 2.25], [2, 32, 24], [1, 0, 0]], np.float32))
    assert queries.dtype == np.float32
    assert ids == ["nose", "ear", "eye"]
    assert "1 of 4 queries" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "\ufefft,x,y,id\r\n2,1,2,a\r\n",
        "id,y,x,t,label\na,2,1,2,something else\n",
        'T, X, Y, ID\n"2","1","2","a"\n',
        "t,x,y,id\n2,1,2,a",
    ],
)
def test_usual_ways_to_write_a_table(tmp_path, sequence, text):
    queries, ids = read_queries_csv(with_queries(sequence, tmp_path, text), META)
    np.testing.assert_array_equal(queries, [[0, 1, 2]])
    assert ids == ["a"]


def test_rows_without_an_id_are_named_by_their_line(tmp_path, sequence):
    _, ids = read_queries_csv(with_queries(sequence, tmp_path, "t,x,y\n2,1,2\n5,1,2\n"), META)
    assert ids == ["2", "3"]


def test_no_file_is_no_queries(sequence):
    queries, ids = read_queries_csv(sequence, META)
    assert queries.shape == (0, 3)
    assert ids == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no header"),
        ("a,b,c\n1,2,3\n", "no header"),
        ("t;x;y;id\n2;1;2;a\n", "with commas"),
        ("t,x,y,id\n", "holds no queries"),
        ("t,x,y,id\n2,1,2,a\n2,one,2,b\n", "line 3 .*: x is 'one', which is not a number"),
        ("t,x,y,id\n2,nan,2,b\n", "line 2 .*not a number"),
        ("t,x,y,id\n2,1,inf,b\n", "line 2 .*not a number"),
        ("t,x,y,id\n2,1\n", "line 2 .*2 cells and the header 4"),
        ("t,x,y,id\n2.5,1,2,a\n", "line 2 .*t is 2.5 and must be a frame number"),
        ("t,x,y,id\n-1,1,2,a\n", "line 2 .*must be a frame number"),
        ("t,x,y,id\n10,1,2,a\n", "line 2 .*t is 10 and the last frame of the video is 9"),
        ("t,x,y,id\n2,32.5,2,a\n", "line 2 .*\\(32.5, 2\\) lies outside the frame of 32x24"),
        ("t,x,y,id\n2,1,-0.1,a\n", "line 2 .*outside"),
        ("t,x,y,id\n2,1,2,a\n5,1,2,a\n", "line 3 .*'a' is used twice"),
        (b"t,x,y,id\n2,1,2,\xff\xfe\n", "not text in UTF-8"),
        (b"PK\x03\x04\0\0", "no header|wrong"),
        ("t,x,y,id\n2,1,2," + "a" * 200_000 + "\n", "line 2 .*limit"),
    ],
)
def test_wrong_rows_are_named(tmp_path, sequence, text, says):
    with pytest.raises(InputError, match=says) as caught:
        read_queries_csv(with_queries(sequence, tmp_path, text), META)
    assert "\n" not in str(caught.value)
    assert "walk.queries.csv" in str(caught.value)


def test_the_last_frame_of_a_video_file_is_checked_with_a_margin(tmp_path):
    entry = Entry("v", "video", encode(tmp_path / "v.mkv", pattern(20)))
    meta = dataclasses.replace(META, frames=3, start=0, stride=1)
    assert read_queries_csv(with_queries(entry, tmp_path, "t,x,y,id\n0,1,1,a\n19,1,1,b\n"), meta)[1] == ["a"]
    with pytest.raises(InputError, match="t is 40 and the last frame"):
        read_queries_csv(with_queries(entry, tmp_path, "t,x,y,id\n40,1,1,a\n"), meta)
