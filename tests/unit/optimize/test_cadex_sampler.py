"""Draws of CaDeX++'s sampler: frequencies against the formulas, growth from the middle, long-range rows."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from everypoint.artifacts.matches import CYCLE, LONG_RANGE, OCCLUDED, Matches
from everypoint.config.options import CadexSamplerOptions
from everypoint.errors import InputError
from everypoint.optimize.cadex_sampler import CadexSampler
from everypoint.optimize.draws import Course
from tests.unit.optimize.made import table
from tests.unit.optimize.made_pairs import agrees, all_pairs, drawn, video

FRAMES = 8


def sampler(matches: Matches | None = None, **changes) -> CadexSampler:
    arguments = {"seed": 0, "steps": 22_000, "holdout": 0.0}
    arguments |= {name: changes.pop(name) for name in ("seed", "steps", "scale", "holdout") if name in changes}
    options = {"pairs": 40, "points": 5, "swap": False, "min_valid": 0.0}
    return CadexSampler(
        video() if matches is None else matches, CadexSamplerOptions(**(options | changes)), Course(**arguments)
    )


def with_long(share: int = 3) -> Matches:
    matches = video()
    flags = np.where(np.arange(len(matches)) % share == 0, LONG_RANGE, matches.flags).astype(np.uint8)
    return dataclasses.replace(matches, flags=flags)


# --------------------------------------------------------------------------------------------------- frames


def test_id1_takes_all_frames_evenly_once_all_are_active():
    first, _, _ = drawn(sampler(), range(100))
    assert agrees(np.bincount(first, minlength=FRAMES), np.full(FRAMES, 1 / FRAMES))


@pytest.mark.parametrize(("step", "active"), [(0, 4), (99, 4), (100, 6), (199, 6), (200, 8), (21_999, 8)])
def test_the_set_of_frames_grows_from_the_middle(step, active):
    made = sampler(start_frames=4, grow_frames=2, grow_every=100)
    first = made.draw(step).i.tolist()
    expected = set(range((FRAMES - active) // 2, (FRAMES + active) // 2))
    assert made.first_frames(step) == active
    assert set(first) == expected


def test_published_growth_is_scaled_to_the_plan():
    published = sampler(video(all_pairs(60, 2), 60, 2), start_frames=20, grow_frames=20)
    short = sampler(video(all_pairs(60, 2), 60, 2), start_frames=20, grow_frames=20, steps=2200)
    for step in range(60):
        assert short.first_frames(step) == published.first_frames(10 * step)
    assert [short.first_frames(step) for step in (0, 9, 10, 20, 21)] == [20, 20, 40, 60, 60]


def test_an_odd_number_of_frames_grows_evenly():
    made = sampler(video(all_pairs(7), 7), start_frames=3, grow_frames=2)
    assert sorted(made._from_middle[: made.first_frames(0)].tolist()) == [2, 3, 4]
    assert sorted(made._from_middle[: made.first_frames(100)].tolist()) == [1, 2, 3, 4, 5]


def test_frames_without_a_pair_are_left_out():
    pairs = [pair for pair in all_pairs(FRAMES) if pair[0] not in (3, 4)]
    made = sampler(video(pairs), start_frames=2, grow_frames=2)
    assert made.first_frames(0) == 1  # none of the two in the middle: the next one
    assert sorted(made._from_middle.tolist()) == [0, 1, 2, 5, 6, 7]


# ------------------------------------------------------------------------------------------------------ pairs


@pytest.mark.parametrize(("sigma", "flat"), [(10.0, 4), (2.0, 1), (0.0, 4)])
def test_id2_is_drawn_by_its_gap(sigma, flat):
    made = sampler(gap_sigma=sigma, gap_flat=flat, window=6)
    first, second, _ = drawn(made, range(200))
    for i in (0, 4):
        weight = np.zeros(FRAMES)
        for j in range(FRAMES):
            gap = abs(i - j)
            if 0 < gap <= 6:
                weight[j] = math.exp(-0.5 * (max(gap, flat) / sigma) ** 2) if sigma >= 1 else 1.0
        assert agrees(np.bincount(second[first == i], minlength=FRAMES), weight / weight.sum())


def test_matches_of_a_pair_are_drawn_evenly():
    made = sampler()
    first, second, rows = drawn(made, range(300))
    pair = (first == 2) & (second == 4)
    where = np.flatnonzero((video().pairs == [2, 4]).all(1))[0]
    counts = np.bincount(rows[pair].ravel() - video().offsets[where], minlength=6)
    assert agrees(counts, np.full(6, 1 / 6))


def test_omega_falls_to_a_half_over_the_window():
    made = sampler(window=6)
    batch = made.draw(0)
    gap = (batch.i - batch.j).abs()
    expected = torch.cos((gap - 1) / 6 * math.pi / 3)
    torch.testing.assert_close(batch.omega, expected)
    assert sampler(window=12).draw(0).omega.min() > 0.5


def test_half_of_the_pairs_are_swapped_and_then_hidden_points_do_not_count():
    made, plain = sampler(swap=True), sampler()
    batch, straight = made.draw(3), plain.draw(3)
    assert 0.2 < batch.swapped.float().mean() < 0.8
    turned = batch.swapped
    assert torch.equal(batch.i[turned], straight.j[turned])
    assert torch.equal(batch.xy_i[turned], straight.xy_j[turned])
    assert torch.equal(batch.xy_i[~turned], straight.xy_i[~turned])
    assert (batch.omega[turned & batch.occluded] == 0).all()
    assert (batch.omega[~(turned & batch.occluded)] > 0).all()


def test_poor_pairs_are_passed_over_unless_there_are_no_others():
    matches = video()
    rich = matches.valid_count >= 0.2 * 32 * 48
    assert 0 < rich.sum() < len(rich)
    first, second, _ = drawn(sampler(min_valid=0.2), range(60))
    allowed = {tuple(pair) for pair in matches.pairs[rich].tolist()}
    assert set(zip(first.tolist(), second.tolist(), strict=True)) <= allowed
    all_poor = sampler(min_valid=1.0)
    assert all_poor.first_frames(0) == FRAMES


# ------------------------------------------------------------------------------------------------- long range


def test_long_range_rows_are_drawn_apart_and_evenly():
    matches = with_long()
    made = sampler(matches, long_points=500)
    is_long = (matches.flags & LONG_RANGE) > 0
    rows = torch.cat([made.draw_long(step).rows for step in range(20)]).numpy()
    assert agrees(np.bincount(rows, minlength=is_long.sum()), np.full(is_long.sum(), 1 / is_long.sum()))
    batch = made.draw_long(0)
    pair = matches.rows_pair[is_long][batch.rows.numpy()]
    assert np.array_equal(torch.stack([batch.i, batch.j], 1).numpy(), matches.pairs[pair])
    np.testing.assert_array_equal(batch.xy_j.numpy(), matches.xy_j[is_long][batch.rows.numpy()])
    assert (batch.omega == 1).all()
    assert not batch.occluded.any()


def test_dense_draws_have_no_long_range_row():
    matches = with_long()
    made = sampler(matches)
    dense = {tuple(row) for row in matches.fixed_i[(matches.flags & LONG_RANGE) == 0].tolist()}
    batch = made.draw(0)
    assert {tuple(row) for row in (batch.xy_i * 32).int().tolist()} <= dense


def test_a_pair_with_one_long_range_row_does_not_thin_out_the_others():
    """The published loader draws as many points of every pair as the poorest has."""
    ends = {(0, 5): 1, (1, 6): 99, (0, 1): 10}
    random = np.random.default_rng(0)
    flags = {pair: np.full(n, CYCLE if pair == (0, 1) else LONG_RANGE) for pair, n in ends.items()}
    matches = table({pair: tuple(random.uniform(0, 31, (2, n, 2))) for pair, n in ends.items()}, 8, flags=flags)
    batch = sampler(matches, long_points=4000).draw_long(0)
    assert float((batch.i == 1).float().mean()) == pytest.approx(0.99, abs=0.01)


def test_without_long_range_rows_there_is_no_such_batch():
    assert sampler().draw_long(0) is None


def test_a_table_of_long_range_rows_alone_is_drawn_from_as_any_other():
    matches = with_long(share=1)
    made = sampler(matches)
    assert len(made.draw(0).rows) == 200
    assert made.draw_long(0) is not None


# ----------------------------------------------------------------------------------------------------- state


def test_a_draw_depends_on_seed_and_step_only():
    one, two, other = sampler(with_long()), sampler(with_long()), sampler(with_long(), seed=1)
    one.draw(3)
    for step in (7, 20_000):
        assert torch.equal(one.draw(step).rows, two.draw(step).rows)
        assert torch.equal(one.draw_long(step).rows, two.draw_long(step).rows)
    assert not torch.equal(one.draw(7).rows, other.draw(7).rows)
    assert not torch.equal(one.draw(7).i, one.draw(8).i)
    assert one.state() == {}


def test_held_out_rows_are_never_drawn():
    made = sampler(holdout=0.3)
    rows = torch.cat([made.draw(step).rows for step in range(100)]).unique()
    assert not set(rows.tolist()) & set(made.held_out.tolist())
    assert len(made.held_out) > 10


def test_clips_of_two_and_three_frames():
    for frames in (2, 3):
        made = sampler(video(all_pairs(frames), frames))
        batch = made.draw(0)
        assert made.first_frames(0) == frames
        assert ((batch.i - batch.j).abs() < frames).all()


def test_a_gap_larger_than_the_window_is_drawn_where_there_is_no_other():
    made = sampler(video([(0, 7), (7, 0)]), window=3)
    assert set(made.draw(0).i.tolist()) == {0, 7}


def test_no_row_is_an_error():
    with pytest.raises(InputError, match="no match"):
        sampler(video([(0, 1)], rows=0))


def test_hidden_points_are_marked():
    matches = video()
    batch = sampler().draw(0)
    assert torch.equal(batch.occluded, torch.from_numpy(matches.flags[batch.rows.numpy()] == OCCLUDED))
