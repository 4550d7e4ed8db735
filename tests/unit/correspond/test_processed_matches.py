"""OmniTrackFast's long-range matches: frames by their place, coordinates at working size, each match once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everypoint.artifacts.matches import LONG_RANGE, MatchRows
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import Preset
from everypoint.correspond.sparse import SparseVideo, sparse_source
from everypoint.errors import InputError

SIZE = (48, 84)
COUNT = 14
IMAGES = np.random.default_rng(0).integers(0, 60, (COUNT, *SIZE, 3), np.uint8)
ROWS = [
    (0, 10.5, 20.25, 10, 30.0, 40.5, 0.875),
    (1, 0.5, 0.5, 13, 83.5, 47.5, 1.25),
    (2, 5.0, 6.0, 12, 7.0, 8.0, 0.75),
]


def write(place: Path, *tables, names: str = "{:05d}.jpg", size=SIZE) -> Path:
    """A folder with ``tables`` as match00000.npz and so on."""
    for part in ("color", "match"):
        (place / part).mkdir(parents=True)
    for frame, image in enumerate(IMAGES):
        Image.fromarray(image).resize(size[::-1]).save(place / "color" / names.format(frame))
    for number, table in enumerate(tables):
        np.savez(place / "match" / f"match{number:05d}.npz", match=np.array(table, np.float32))
    return place


def rows(place: Path | None, start: int = 0, stride: int = 1, size=SIZE) -> MatchRows:
    frames = np.stack([np.array(Image.fromarray(image).resize(size[::-1])) for image in IMAGES[start::stride]])
    meta = VideoMeta("dog", "dog", "abc", 25.0, len(frames), *size, *SIZE, start=start, stride=stride)
    source = sparse_source("processed", Preset.model_construct())
    assert source.describe() == {"source": "processed"}
    return source.rows(SparseVideo(frames, meta, place=place), seed=3)


def test_rows_are_index_coordinates_flagged_long_range(tmp_path):
    found = rows(write(tmp_path / "dog", ROWS))
    assert found.frame_i.tolist() == [0, 1, 2]
    assert found.frame_j.tolist() == [10, 13, 12]
    assert found.xy_i.tolist() == [[10.0, 19.75], [0.0, 0.0], [4.5, 5.5]]
    assert found.xy_j.tolist() == [[29.5, 40.0], [83.0, 47.0], [6.5, 7.5]]
    assert found.score.tolist() == [0.875, 1.0, 0.75]
    assert found.flags.tolist() == [LONG_RANGE] * 3
    kinds = {"frame_i": "i4", "frame_j": "i4", "xy_i": "f4", "xy_j": "f4", "score": "f4", "flags": "u1"}
    assert {name: getattr(found, name).dtype.str[1:] for name in kinds} == kinds


def test_a_patch_centre_of_the_published_rule_is_the_centre_of_its_cell(tmp_path):
    """((ix + .5) / w_p W, (iy + .5) / h_p H), with working frames of half the size of the images."""
    w_p, h_p, ix, iy = 6, 3, 4, 1
    x, y = (ix + 0.5) / w_p * SIZE[1], (iy + 0.5) / h_p * SIZE[0]
    found = rows(write(tmp_path / "dog", [(0, x, y, 11, x, y, 0.9)]), size=(24, 42))
    cells = (found.xy_i + 0.5) / [42 / w_p, 24 / h_p]  # of a map whose cells tile the working frame
    assert np.allclose(cells, [[ix + 0.5, iy + 0.5]])


def test_the_size_is_that_of_the_images_not_of_the_video(tmp_path):
    place = write(tmp_path / "dog", [(0, 42.0, 24.0, 11, 84.0, 48.0, 0.9)], size=(96, 168))
    found = rows(place)
    assert np.allclose(found.xy_i + 0.5, [[21.0, 12.0]])
    assert np.allclose(found.xy_j + 0.5, [[42.0, 24.0]])


def test_only_rows_between_working_frames(tmp_path):
    place = write(
        tmp_path / "dog", [*ROWS, (2, 1, 1, 2, 3, 3, 0.9), (99, 1, 1, 2, 3, 3, 0.9), (-2, 1, 1, 4, 3, 3, 0.9)]
    )
    found = rows(place, start=2, stride=2)
    assert (found.frame_i.tolist(), found.frame_j.tolist()) == ([0], [5])
    assert rows(place, start=1).frame_i.tolist() == [0, 1]
    assert len(rows(place, start=3)) == 0


def test_frames_count_in_the_order_in_which_names_were_sorted(tmp_path):
    """Images called 0 to 13 sort as 0, 1, 10, 11, 12, 13, 2 ..., in which matches number them; time is 0, 1, 2 ..."""
    order = sorted(f"{frame}.png" for frame in range(COUNT))
    table = [(order.index("0.png"), 1, 1, order.index("12.png"), 2, 2, 0.9)]
    found = rows(write(tmp_path / "dog", table, names="{}.png"))
    assert (found.frame_i.tolist(), found.frame_j.tolist()) == ([0], [12])


def test_each_match_once_and_forward_whatever_the_files(tmp_path):
    swapped = [(j, u, v, i, x, y, s) for i, x, y, j, u, v, s in ROWS]
    expected = rows(write(tmp_path / "a", ROWS))
    for name, tables in (("b", (ROWS[2:], ROWS[:2])), ("c", (ROWS, ROWS[1:])), ("d", (swapped, ROWS[:1]))):
        found = rows(write(tmp_path / name, *tables))
        for field in ("frame_i", "frame_j", "xy_i", "xy_j", "score"):
            assert np.array_equal(getattr(found, field), getattr(expected, field)), (name, field)


def test_rows_that_are_not_finite_are_left_out(tmp_path):
    bad = [(0, np.nan, 1, 10, 2, 2, 0.9), (0, 1, 1, 10, 2, 2, np.inf)]
    assert len(rows(write(tmp_path / "dog", [*ROWS, *bad]))) == 3


@pytest.mark.parametrize("empty", [np.zeros((0, 7)), np.zeros(0)])
def test_no_match_is_no_row(tmp_path, empty):
    assert len(rows(write(tmp_path / "a", empty))) == 0
    assert len(rows(write(tmp_path / "b", empty, ROWS))) == 3


def test_other_files_beside_the_matches_are_ignored(tmp_path):
    place = write(tmp_path / "dog", ROWS)
    (place / "match" / "debug.mp4").write_bytes(b"x")
    (place / "match" / ".match00001.npz.swp").write_bytes(b"x")
    assert len(rows(place)) == 3


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (np.zeros((3, 6)), r"shape \(3, 6\), not M x 7"),
        (np.zeros(7), r"shape \(7,\)"),
        ([(0.5, 1, 1, 10, 2, 2, 0.9)], "columns 0 and 3 of match are not frame numbers"),
    ],
)
def test_another_table_is_one_sentence(tmp_path, table, why):
    with pytest.raises(InputError, match="match00000.npz cannot be used: .*" + why):
        rows(write(tmp_path / "dog", table))


def test_what_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no processed folder of dog is known; set sparse.processed.folder"):
        rows(None)
    with pytest.raises(InputError, match="has nothing in match"):
        rows(write(tmp_path / "a"))
    place = write(tmp_path / "b", ROWS)
    np.savez(place / "match/match00001.npz", matches=np.zeros((1, 7)))
    with pytest.raises(InputError, match="match00001.npz has no array 'match': it holds matches"):
        rows(place)
    (place / "match/match00001.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="match00001.npz cannot be read"):
        rows(place)
