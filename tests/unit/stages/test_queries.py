"""Which points are tracked: grids by hand, masks, files, ground truth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.artifacts.video import VideoMeta, save_video
from everypoint.config.options import EvaluateOptions, QueryOptions
from everypoint.errors import InputError
from everypoint.stages import queries as stage
from everypoint.video.discover import Entry


def meta(frames: int = 6, size: tuple[int, int] = (40, 60), **changes) -> VideoMeta:
    values = {"name": "clip", "source": "clip.mp4", "source_hash": "0", "fps": 25.0, "frames": frames}
    values |= {"height": size[0] // 2, "width": size[1] // 2, "original_height": size[0], "original_width": size[1]}
    return VideoMeta(**{**values, **changes})


@pytest.fixture
def folder(tmp_path):
    for number in range(12):
        (tmp_path / "clip").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "clip" / f"{number:03d}.png"), np.zeros((40, 60, 3), np.uint8))
    return tmp_path


def entry(folder, **beside) -> Entry:
    return Entry(name="clip", kind="images", path=folder / "clip", **beside)


def test_grid_by_hand():
    points = stage.grid_points((2, 4), 4)  # cells of one pixel: their centres
    assert points.tolist() == [[x + 0.5, y + 0.5] for y in range(2) for x in range(4)]


@pytest.mark.parametrize(("size", "count"), [((40, 60), 32), ((60, 40), 7), ((10, 1000), 16), ((33, 33), 1)])
def test_grid_covers_the_frame_evenly(size, count):
    points = stage.grid_points(size, count)
    height, width = size
    assert np.allclose(points.mean(axis=0), [width / 2, height / 2], atol=1e-3)
    assert points.min() > 0
    assert (points[:, 0] < width).all()
    assert (points[:, 1] < height).all()
    columns, rows = (len(np.unique(points[:, axis])) for axis in (0, 1))
    assert max(columns, rows) == count
    assert len(points) == columns * rows


def test_a_grid_is_the_fallback(folder):
    options = QueryOptions(grid=6, query_frame=2)
    (queries, ids, sets), (points, occluded) = stage.collect(entry(folder), meta(), options, EvaluateOptions())
    assert queries.shape == (24, 3)
    assert set(queries[:, 0]) == {2.0}
    assert len(set(ids)) == 24
    assert set(sets) == {"grid"}
    assert points.shape == (0, 6, 2)
    assert occluded.shape == (0, 6)


def test_a_grid_stays_inside_the_mask(folder):
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 30:] = 255
    cv2.imwrite(str(folder / "clip.mask.png"), mask)
    masked = entry(folder, mask=folder / "clip.mask.png")
    (queries, _, _), _ = stage.collect(masked, meta(), QueryOptions(grid=6), EvaluateOptions())
    assert len(queries) == 12
    assert queries[:, 1].min() >= 30
    everywhere = QueryOptions(grid=6, mask="ignore")
    assert len(stage.collect(masked, meta(), everywhere, EvaluateOptions())[0][0]) == 24
    cv2.imwrite(str(folder / "clip.mask.png"), np.zeros((40, 60), np.uint8))
    with pytest.raises(InputError, match="no grid point of clip lies in its mask"):
        stage.collect(masked, meta(), QueryOptions(grid=6), EvaluateOptions())


def test_a_query_frame_outside_the_video(folder):
    with pytest.raises(InputError, match="clip has no frame 6 to query: 6 are used; lower query_frame"):
        stage.collect(entry(folder), meta(), QueryOptions(query_frame=6), EvaluateOptions())


def test_queries_of_a_file_count_source_frames(folder):
    (folder / "q.csv").write_text("t,x,y,id\n3,10,20,a\n7,1.5,2.5,b\n4,5,5,c\n")
    used = meta(frames=4, start=3, stride=2)  # source frames 3, 5, 7, 9
    (queries, ids, sets), _ = stage.collect(
        entry(folder, queries=folder / "q.csv"), used, QueryOptions(), EvaluateOptions()
    )
    assert queries.tolist() == [[0, 10, 20], [2, 1.5, 2.5]]
    assert ids.tolist() == ["a", "b"]
    assert set(sets) == {"csv"}


def test_a_file_without_a_used_frame(folder):
    (folder / "q.csv").write_text("t,x,y\n9,10,20\n")
    asked = entry(folder, queries=folder / "q.csv")
    with pytest.raises(InputError, match=r"q\.csv holds no query at a frame that is used"):
        stage.collect(asked, meta(), QueryOptions(), EvaluateOptions())
    (_, _, sets), _ = stage.collect(asked, meta(), QueryOptions(grid=4), EvaluateOptions(), shot=True)
    assert set(sets) == {"grid"}  # another shot of the video may hold them all


def test_ground_truth_gives_queries_of_every_mode(folder):
    points = np.full((2, 12, 2), 0.5, np.float32)
    points[1] = (0.25, 0.75)
    occluded = np.zeros((2, 12), bool)
    occluded[1, :4] = True
    atomic.save_npz(folder / "a.npz", points=points, occluded=occluded)
    options = EvaluateOptions(query_modes=("first", "strided"), query_stride=3)
    (queries, ids, sets), (kept, hidden) = stage.collect(
        entry(folder, annotations=folder / "a.npz"), meta(frames=4, start=2, stride=2), QueryOptions(), options
    )
    # used source frames 2, 4, 6, 8; the second point is hidden in the first of them only
    assert kept.shape == (2, 4, 2)
    assert hidden.tolist() == [[False] * 4, [True, False, False, False]]
    assert queries.tolist() == [
        [0, 30, 20], [1, 15, 30],  # first
        [0, 30, 20], [3, 30, 20], [3, 15, 30],  # strided, every third
    ]  # fmt: skip
    assert sets.tolist() == ["tapvid-first"] * 2 + ["tapvid-strided"] * 3
    assert len(set(ids)) == 5


def test_run_writes_three_files(folder, tmp_path):
    frames = np.zeros((6, 20, 30, 3), np.uint8)
    save_video(tmp_path / "out" / "frames", frames, meta())
    stage.run(
        entry={"name": "clip", "kind": "images", "path": str(folder / "clip")},
        options={"grid": 3},
        evaluate={},
        frames=str(tmp_path / "out" / "frames" / "frames.npy"),
        output=str(tmp_path / "out" / "queries" / "queries.npz"),
    )
    written = atomic.load_npz(tmp_path / "out" / "queries" / "queries.npz")
    assert written["queries"].shape == (6, 3)
    assert written["query_ids"].dtype.kind == "U"
    assert atomic.read_json(tmp_path / "out" / "queries" / "query_frames.json") == [0]
    assert atomic.load_npz(tmp_path / "out" / "queries" / "annotations.npz")["points"].shape == (0, 6, 2)
