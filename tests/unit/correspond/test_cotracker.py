"""CoTracker as a source, by a fake of it: rows along known motion, what is left out, the cycle check, caps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everypoint.artifacts.matches import CYCLE
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import Preset
from everypoint.correspond.cotracker import CotrackerSource, query_groups, query_points
from everypoint.correspond.sparse import SparseVideo, sparse_source
from tests.fakes import cotracker_weights, install_cotracker
from tests.unit.correspond.zooming import Zoom

EXACT = 0.08  # px: rows join two frames of a track, each with what 8-bit colours leave open


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    return install_cotracker(monkeypatch)


def source(tmp_path: Path, per_pair: int = 10_000, **options: Any) -> CotrackerSource:
    model = options.get("model", "cotracker3-offline")
    weights = cotracker_weights(tmp_path / f"{model}.pth", model)
    chosen = {"weights": str(weights), "query_stride": 4, "grid": 8, **options}
    preset = {"description": "for tests", "tracker": "optimize", "flow": {"backend": "none"}, "cotracker": chosen}
    preset |= {"readout": {"fuse": False}, "sparse": {"sources": ["cotracker"], "per_pair": per_pair}}
    return sparse_source("cotracker", Preset.model_validate(preset))


def seen(frames: np.ndarray) -> SparseVideo:
    count, height, width = frames.shape[:3]
    return SparseVideo(frames, VideoMeta("clip", "clip.mp4", "", 25.0, count, height, width, height, width))


def row_errors(zoom: Zoom, rows) -> np.ndarray:
    return np.linalg.norm(rows.xy_j - zoom.carried(rows.xy_i.astype(float), rows.frame_i, rows.frame_j), axis=-1)


def keys(rows) -> set:
    columns = (rows.frame_i, rows.frame_j, *rows.xy_i.T, *rows.xy_j.T)
    return set(zip(*(column.tolist() for column in columns), strict=True))


@pytest.fixture(scope="module")
def zoom() -> Zoom:
    return Zoom(8)


# ----------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("model", ["cotracker3-offline", "cotracker3-online"])
def test_rows_follow_the_motion_between_all_pairs(tmp_path, zoom, model):
    rows = source(tmp_path, model=model).rows(seen(zoom.frames), 0)
    assert row_errors(zoom, rows).max() < EXACT
    assert (rows.flags == CYCLE).all()
    assert (rows.frame_i < rows.frame_j).all()
    pairs = {(i, j) for i, j in zip(rows.frame_i.tolist(), rows.frame_j.tolist())}
    assert pairs == {(i, j) for i in range(8) for j in range(i + 1, 8)}
    assert rows.score.min() >= 0.6
    assert len(keys(rows)) == len(rows)


def test_rows_are_all_pairs_of_a_track_and_one_end_of_its_own_is_exact(tmp_path, zoom):
    """48 points from each of two frames; of each track all pairs between frames in which it is well inside."""
    found = source(tmp_path).rows(seen(zoom.frames), 5)
    expected = 0
    for t in (0, 4):
        points = query_points(zoom.size, 8, 5, t)
        truth = zoom.truth(np.column_stack([np.full(len(points), t), points]))
        inside = zoom.inside(truth, 1.0).sum(axis=0)
        expected += (inside * (inside - 1) // 2).sum()
        starts = {tuple(xy) for xy in points.tolist()}
        own = found.frame_i == t
        assert starts & {tuple(xy) for xy in found.xy_i[own].tolist()}
    assert len(found) == pytest.approx(expected, rel=0.01)  # a point may cross the border by a hundredth of a pixel


def test_points_at_the_border_are_left_out(tmp_path):
    leaving = Zoom(12, zoom=1.0, shift=(1.5, 0.0))
    rows = source(tmp_path).rows(seen(leaving.frames), 0)
    for xy in (rows.xy_i, rows.xy_j):
        assert leaving.inside(xy, 1.0).all()
    assert rows.xy_j[:, 0].max() > 60
    assert row_errors(leaving, rows).max() < EXACT


def test_occluded_frames_give_no_rows_and_the_others_do(tmp_path):
    still = Zoom(8, zoom=1.0, shift=(0.0, 0.0))
    frames = still.frames.copy()
    frames[2:4, :, 32:, 2] = 200  # a blue wall over the right half, in frames without query points
    rows = source(tmp_path).rows(seen(frames), 0)
    right = rows.xy_i[:, 0] > 32.5
    touched = np.isin(rows.frame_i, (2, 3)) | np.isin(rows.frame_j, (2, 3))
    assert not (right & touched).any()
    assert (right & ~touched & (rows.frame_i < 2) & (rows.frame_j > 3)).sum() > 100  # matched across the wall
    assert (~right & touched).sum() > 100


@pytest.mark.parametrize("visibility, kept", [(0.6, True), (0.7, False)])
def test_visibility_is_the_least_product_of_both_scores(tmp_path, zoom, visibility, kept):
    frames = zoom.frames.copy()
    frames[3, :, :, 2] = 25  # visibility 0.67 times confidence 0.95 is 0.64
    rows = source(tmp_path, visibility=visibility).rows(seen(frames), 0)
    touched = (rows.frame_i == 3) | (rows.frame_j == 3)
    assert touched.any() == kept
    if kept:
        assert rows.score[touched].max() == pytest.approx(0.95 * 0.99 * np.exp(-((25 / 40) ** 2)), abs=0.03)
    assert rows.score[~touched].min() > 0.9


def test_max_gap_limits_pairs_and_the_frames_that_are_looked_at(tmp_path):
    zoom = Zoom(15, zoom=1.01)
    made, near = source(tmp_path, grid=6), source(tmp_path, grid=6, max_gap=2, points_at_once=24)
    everything, rows = made.rows(seen(zoom.frames), 0), near.rows(seen(zoom.frames), 0)
    gaps = rows.frame_j - rows.frame_i
    assert set(gaps.tolist()) == {1, 2}
    assert row_errors(zoom, rows).max() < EXACT
    assert {tuple(p) for p in np.stack([rows.frame_i, rows.frame_j]).T[gaps == 1].tolist()} == {
        (i, i + 1) for i in range(14)
    }
    assert max(frames for frames, _ in near._runner.predictor.model.calls) == 5 + 1 + 5
    assert len(rows) < len(everything)


# ------------------------------------------------------------------------------------------------------ cycle check


def drift_on_the_right(speed: float):
    """Tracks that begin on the right half creep to the right, by ``speed`` px of 512 a frame from their query on."""

    def fault(tracks, visibility, queries):
        ages = torch.arange(len(tracks))[:, None] - queries[None, :, 0]
        wrong = queries[None, :, 1] > 256
        tracks = tracks.clone()
        tracks[..., 0] += speed * ages.clamp(min=0) * wrong
        return tracks, visibility

    return fault


def test_tracks_that_do_not_return_are_left_out(tmp_path):
    still = Zoom(8, zoom=1.0, shift=(0.0, 0.0))
    speed = 2 * 511 / 63  # two pixels of the frame a frame
    options = {"query_stride": 12, "grid": 12}
    unchecked, checked = source(tmp_path, cycle_check=False, **options), source(tmp_path, **options)
    for each in (unchecked, checked):
        each._runner.predictor.model.fault = drift_on_the_right(speed)
    loose, rows = unchecked.rows(seen(still.frames), 0), checked.rows(seen(still.frames), 0)
    assert (row_errors(still, loose) > 3).mean() > 0.2
    assert row_errors(still, rows).max() < EXACT  # there and back err alike, so even one frame errs by 4 px
    left = loose.xy_i[:, 0] < 31
    assert keys(rows) == keys(loose[left])  # and all right ones stay
    assert (loose.flags == 0).all()
    assert (rows.flags == CYCLE).all()


def test_the_threshold_of_the_cycle_check(tmp_path):
    """One pixel a frame over five frames: the way back from the end is 10 px off, one frame before the end 2 px."""
    still = Zoom(6, zoom=1.0, shift=(0.0, 0.0))
    options = {"query_stride": 12, "grid": 12}

    def right(threshold: float) -> set:
        made = source(tmp_path, cycle_threshold=threshold, **options)
        made._runner.predictor.model.fault = drift_on_the_right(511 / 63)
        rows = made.rows(seen(still.frames), 0)
        rows = rows[(rows.xy_i[:, 0] > 33) & (rows.xy_i[:, 0] < 52)]  # they stay in the frame
        return {tuple(pair) for pair in np.stack([rows.frame_i, rows.frame_j]).T.tolist()}

    assert right(10.5) == {(i, j) for i in range(6) for j in range(i + 1, 6)}
    assert right(1.5) == set()
    alone = right(2.5)  # frames that agree on both ways match with each other, never with the query
    assert (4, 5) in alone
    assert all(i >= 3 for i, _ in alone)


def test_a_jump_to_another_place_separates_what_lies_before_and_after_it(tmp_path):
    still = Zoom(8, zoom=1.0, shift=(0.0, 0.0))

    def jump(tracks, visibility, queries):
        """Forward in time, from frame 5 on, every track is 10 px of the frame too low; from there on it stays there."""
        tracks = tracks.clone()
        if (queries[:, 0] == 0).all():
            tracks[5:, :, 1] += 10 * 383 / 47
        return tracks, visibility

    made = source(tmp_path, query_stride=12, grid=12)
    made._runner.predictor.model.fault = jump
    rows = made.rows(seen(still.frames), 0)
    assert len(rows) > 100
    assert row_errors(still, rows).max() < EXACT
    stays = rows.xy_i[:, 1] < np.where(rows.frame_i < 5, 35.9, 47)  # the others leave the frame at the jump
    assert rows.frame_i[stays].min() >= 5
    assert (~stays).any()


def test_a_way_back_that_is_no_number_confirms_nothing(tmp_path):
    still = Zoom(6, zoom=1.0, shift=(0.0, 0.0))  # where the position of the end, which stands in for it, would do

    def lost_on_the_way_back(tracks, visibility, queries):
        """The second pass, back from the ends, is nowhere in the first three frames; it runs on the reversed video."""
        passes.append(len(passes))
        if len(passes) == 2:
            tracks = tracks.clone()
            tracks[3:] = torch.nan
        return tracks, visibility

    passes: list[int] = []
    made = source(tmp_path, query_stride=12)
    made._runner.predictor.model.fault = lost_on_the_way_back
    rows = made.rows(seen(still.frames), 0)
    assert len(passes) == 2
    assert len(rows) > 0
    assert rows.frame_i.min() == 3


def test_the_check_costs_at_most_the_tracking(tmp_path, zoom):
    plain, checked = source(tmp_path, cycle_check=False), source(tmp_path)
    for each in (plain, checked):
        each.rows(seen(zoom.frames), 0)
    costs = [sum(frames * points for frames, points in each._runner.predictor.model.calls) for each in (plain, checked)]
    assert costs[0] < costs[1] <= 2 * costs[0]


# ------------------------------------------------------------------------------------------- caps, seed, queries


def test_per_pair_caps_every_pair(tmp_path, zoom):
    everything, few = (source(tmp_path, per_pair).rows(seen(zoom.frames), 0) for per_pair in (10_000, 7))
    counts = np.bincount(few.frame_i * 8 + few.frame_j)
    assert counts.max() == 7
    assert keys(few) < keys(everything)


def test_points_at_once_bounds_a_call(tmp_path, zoom):
    made = source(tmp_path, points_at_once=20)
    rows = made.rows(seen(zoom.frames), 0)
    assert max(points for _, points in made._runner.predictor.model.calls) == 20 + 36
    assert row_errors(zoom, rows).max() < EXACT
    together = source(tmp_path, points_at_once=500)
    together.rows(seen(zoom.frames), 0)
    assert {points for _, points in together._runner.predictor.model.calls[:2]} == {2 * 48 + 36}  # both query frames


def test_the_result_depends_on_the_seed_only(tmp_path, zoom):
    first, again, other = (source(tmp_path, 9).rows(seen(zoom.frames), seed) for seed in (3, 3, 4))
    for name in ("frame_i", "frame_j", "xy_i", "xy_j", "score", "flags"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert keys(first) != keys(other)


@pytest.mark.parametrize(
    "size, count, expected", [((48, 64), 8, 48), ((64, 48), 8, 48), ((10, 100), 5, 5), ((7, 7), 1, 1)]
)
def test_query_points_lie_one_in_a_cell(size, count, expected):
    points = query_points(size, count, 0, 8)
    assert points.shape == (expected, 2)
    assert (points >= 1).all()
    assert (points <= np.array([size[1], size[0]]) - 3).all()
    assert (points != query_points(size, count, 0, 16)).any()
    assert (points == query_points(size, count, 0, 8)).all()
    if count == 8:
        cells = (points + 0.5) * 8 / max(size)
        assert len({tuple(cell) for cell in cells.astype(int).tolist()}) == expected


def test_query_groups_hold_as_many_frames_as_fit():
    groups = list(query_groups(20, (48, 64), 5, 4, 24, 0))  # 12 points from frames 0, 5, 10, 15
    assert [len(group) for group in groups] == [24, 24]
    assert [sorted(set(group[:, 0].tolist())) for group in groups] == [[0, 5], [10, 15]]
    assert [len(group) for group in query_groups(20, (48, 64), 5, 4, 5, 0)] == [12] * 4


def test_one_frame_has_no_rows(tmp_path, zoom):
    assert len(source(tmp_path).rows(seen(zoom.frames[:1]), 0)) == 0


def test_description(tmp_path):
    base = source(tmp_path).describe()
    changes = [{"query_stride": 7}, {"grid": 9}, {"max_gap": 4}, {"visibility": 0.5}, {"cycle_threshold": 2.0}]
    changes += [{"cycle_check": False}, {"per_pair": 3}, {"points_at_once": 10}, {"model": "cotracker2"}]
    described = [source(tmp_path, **change).describe() for change in changes]
    assert all(each != base for each in described)
    assert base["source"] == "cotracker"
