"""OmniMotion's sampler: frames, pairs, matches and weights against the specified formulas; no waiting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from everypoint.artifacts.matches import OCCLUDED
from everypoint.errors import ArtifactError, InputError
from everypoint.match.rows import join_tables
from tests.unit.optimize.made_pairs import FRAMES, ROWS, agrees, all_pairs, drawn, sampler, second_weights, video

# ------------------------------------------------------------------------------------------------ frames


def test_id1_takes_all_frames_in_turn_in_a_new_order_each_time():
    first, _, _ = drawn(sampler(pairs=5), range(32))  # 160 draws, 20 turns of 8 frames
    turns = first.reshape(-1, FRAMES)
    np.testing.assert_array_equal(np.sort(turns, axis=1), np.tile(np.arange(FRAMES), (20, 1)))
    assert len({tuple(turn) for turn in turns.tolist()}) == 20
    other, _, _ = drawn(sampler(pairs=5, seed=1), range(32))
    assert (first != other).mean() > 0.7


def test_more_pairs_a_step_than_frames():
    first, _, _ = drawn(sampler(pairs=3 * FRAMES), range(1))
    assert np.bincount(first, minlength=FRAMES).tolist() == [3] * FRAMES


@pytest.mark.parametrize("step, window", [(0, 3), (1999, 3), (2000, 4), (8000, 7), (90_000, 7)])
def test_id2_follows_the_valid_pixels_of_the_window_with_adjacent_frames_set(step, window):
    matches = video()
    sampled = sampler(matches, grow_every=2000)
    assert sampled.largest_gap(step) == window
    first, second, _ = drawn(sampled, range(step, step + 200 if step != 1999 else 2000))
    if step == 1999:
        assert np.abs(first - second).max() <= window
        return
    for frame in range(FRAMES):
        counts = np.bincount(second[first == frame], minlength=FRAMES)
        assert agrees(counts, second_weights(matches, frame, window)), frame


def test_adjacent_frames_get_half_of_the_draws_and_a_third_at_the_ends():
    first, second, _ = drawn(sampler(), range(200))
    adjacent = np.abs(first - second) == 1
    shares = np.array([adjacent[first == frame].mean() for frame in range(FRAMES)])
    assert shares[[0, -1]].min() > 1 / 3 - 0.03  # of 1000 draws each: two standard deviations
    assert shares[1:-1].min() > 1 / 2 - 0.03


@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_the_weight_of_adjacent_frames_is_an_option(floor):
    matches = video()
    first, second, _ = drawn(sampler(matches, adjacent_floor=floor), range(200))
    for frame in (0, 4):
        assert agrees(np.bincount(second[first == frame], minlength=FRAMES), second_weights(matches, frame, 3, floor))


def test_the_test_of_frequencies_would_notice_another_floor_or_window():
    matches = video()
    first, second, _ = drawn(sampler(matches), range(200))
    counts = np.bincount(second[first == 3], minlength=FRAMES)
    assert not agrees(counts, second_weights(matches, 3, 3, 0.3))
    assert not agrees(counts, second_weights(matches, 3, 4))


def test_a_short_run_grows_its_window_in_its_own_time():
    assert [sampler(steps=1000, grow_every=2000).largest_gap(step) for step in (0, 19, 20, 40)] == [3, 3, 4, 5]
    assert [sampler(steps=1000, scale=1.0).largest_gap(step) for step in (0, 999)] == [3, 3]


# ------------------------------------------------------------------------------------------ missing pairs

GAPS = [(i, j) for i, j in all_pairs(FRAMES) if abs(i - j) in (2, 4)]


def test_only_pairs_of_the_table_are_drawn():
    matches = video(GAPS)
    first, second, _ = drawn(sampler(matches), range(200))
    assert set(np.abs(first - second).tolist()) == {2}
    first, second, _ = drawn(sampler(matches, start_interval=5), range(200))
    for frame in range(FRAMES):
        candidates = second_weights(matches, frame, 5)
        counts = np.bincount(second[first == frame], minlength=FRAMES)
        assert agrees(counts, candidates) if np.count_nonzero(candidates) > 1 else counts[candidates > 0].sum() > 0


def test_a_pair_in_one_direction_only_is_drawn_in_that_direction():
    first, second, _ = drawn(sampler(video([(0, 1), (1, 2), (2, 1)], 3)), range(50))
    assert set(zip(first.tolist(), second.tolist())) == {(0, 1), (1, 2), (2, 1)}


def test_pairs_without_rows_are_no_candidates():
    pairs = all_pairs(5, 2)
    empty = {(0, 1), (2, 3), (2, 1), (4, 3), (4, 2)}
    matches = video(pairs, 5, {pair: 0 if pair in empty else ROWS for pair in pairs})
    first, second, rows = drawn(sampler(matches), range(100))
    assert set(zip(first.tolist(), second.tolist())) == set(pairs) - empty
    assert 4 not in first  # it has no candidate left
    np.testing.assert_array_equal(matches.pairs[matches.rows_pair[rows[:, 0]]], np.stack([first, second], 1))
    counts = np.bincount(first, minlength=5)
    assert counts[:4].max() - counts[:4].min() <= 1  # the others take turns


def test_a_pair_with_rows_and_no_count_of_valid_pixels_is_a_rare_candidate():
    matches = video([(0, 2), (0, 3), (2, 0), (3, 0)], 4)
    matches.valid_count[:] = [0, 2, 0, 0]
    first, second, _ = drawn(sampler(matches), range(30))
    assert agrees(np.bincount(second[first == 0], minlength=4), np.array([0, 0, 1, 2]) / 3)


def test_pairs_whose_rows_are_all_held_out_are_no_candidates():
    matches = video(all_pairs(5), 5, rows=1)
    sampled = sampler(matches, holdout=0.5)
    held = set(sampled.held_out.tolist())
    assert 5 < len(held) < 15
    _, _, rows = drawn(sampled, range(60))
    usable = {row for row in range(len(matches)) if abs(int(np.diff(matches.pairs[row])[0])) <= 3} - held
    assert set(rows.ravel().tolist()) == usable


def test_a_frame_waits_until_the_window_has_grown_to_its_first_candidate():
    pairs = [(0, 1), (1, 0), (1, 2), (2, 1), (7, 2), (2, 7)]
    sampled = sampler(video(pairs), grow_every=10)
    early, _, _ = drawn(sampled, range(20))
    assert set(early.tolist()) == {0, 1, 2}
    late, second, _ = drawn(sampled, range(20, 40))
    assert set(late.tolist()) == {0, 1, 2, 7}
    assert set(second[late == 7].tolist()) == {2}
    assert np.ptp(np.bincount(late)[[0, 1, 2, 7]]) <= 1


def test_the_window_is_never_smaller_than_the_smallest_gap_there_is():
    sampled = sampler(video([(0, 6), (6, 0), (0, 7)]))
    assert sampled.largest_gap(0) == 6
    first, second, _ = drawn(sampled, range(20))
    assert set(zip(first.tolist(), second.tolist())) == {(0, 6), (6, 0)}


def test_a_pair_of_a_frame_with_itself_is_never_drawn():
    first, second, _ = drawn(sampler(video([(0, 0), (0, 1), (1, 0)], 2)), range(20))
    assert (first != second).all()


@pytest.mark.parametrize(
    "matches",
    [join_tables([], (32, 48), 2), video([(0, 1)], 2, rows=0), video([(0, 0)], 2)],
    ids=["no pair", "no row", "one frame"],
)
@pytest.mark.parametrize("hard_share", [0.0, 1.0])
def test_a_table_without_any_match_to_train_on_is_refused(matches, hard_share):
    with pytest.raises(InputError, match="no match to train on"):
        sampler(matches, hard_share=hard_share)


def test_a_table_with_all_rows_held_out_is_refused():
    with pytest.raises(InputError, match="no match to train on"):
        sampler(video([(0, 1)], 2, rows=1), holdout=1e-9)  # row 0 is the first to go


def test_a_table_that_names_a_pair_twice_is_refused():
    matches = video([(0, 1), (1, 0)], 2)
    matches.pairs[1] = (0, 1)
    with pytest.raises(ArtifactError, match="names a pair twice"):
        sampler(matches)


# ------------------------------------------------------------------------------------------------ matches


def test_rows_of_a_pair_are_drawn_evenly():
    matches = video(rows=10)
    _, _, rows = drawn(sampler(matches, points=20), range(60))
    pair = matches.rows_pair[rows]
    assert (pair == pair[:, :1]).all()
    drawn_of = np.bincount(pair[:, 0], minlength=len(matches.pairs))
    for p in np.argsort(drawn_of)[-6:]:
        counts = np.bincount(rows[pair[:, 0] == p].ravel() - matches.offsets[p], minlength=10)
        assert agrees(counts, np.full(10, 0.1))


def test_a_batch_holds_the_rows_of_the_table():
    matches = video()
    batch = sampler(matches, pairs=8, points=256).draw(3)
    rows = batch.rows.numpy()
    np.testing.assert_array_equal(torch.stack([batch.i, batch.j], 1), matches.pairs[matches.rows_pair[rows]])
    np.testing.assert_array_equal(batch.xy_i, matches.xy_i[rows])
    np.testing.assert_array_equal(batch.xy_j, matches.xy_j[rows])
    np.testing.assert_array_equal(batch.occluded, (matches.flags[rows] & OCCLUDED) > 0)
    assert not batch.swapped.any()
    kinds = {name: value.dtype for name, value in batch._asdict().items()}
    assert {kinds[name] for name in ("rows", "i", "j")} == {torch.int64}
    assert {kinds[name] for name in ("xy_i", "xy_j", "omega")} == {torch.float32}
    assert {kinds[name] for name in ("swapped", "occluded")} == {torch.bool}


@pytest.mark.parametrize("step, window", [(0, 3), (2000, 4), (8000, 7)])
def test_omega_falls_with_the_gap_in_the_window(step, window):
    batch = sampler().draw(step)
    for i, j, omega in zip(batch.i.tolist(), batch.j.tolist(), batch.omega.tolist()):
        assert omega == pytest.approx(math.cos((abs(i - j) - 1) / window * math.pi / 2), abs=1e-6)
    assert (batch.omega > 0).all()
    assert batch.omega.max() == 1


def test_half_of_the_pairs_are_swapped_whole():
    matches = video()
    plain, swapping = (sampler(matches, pairs=400, swap=swap).draw(5) for swap in (False, True))
    assert torch.equal(plain.rows, swapping.rows)
    swapped = swapping.swapped.reshape(400, 5)
    assert torch.equal(swapped, swapped[:, :1].expand(-1, 5))
    assert 160 < int(swapped[:, 0].sum()) < 240  # four standard deviations of 400 coins
    turned = swapping.swapped
    for name, other in [("i", "j"), ("j", "i"), ("xy_i", "xy_j"), ("xy_j", "xy_i")]:
        assert torch.equal(getattr(swapping, name)[turned], getattr(plain, other)[turned])
        assert torch.equal(getattr(swapping, name)[~turned], getattr(plain, name)[~turned])


def test_occluded_rows_weigh_nothing_when_swapped_and_only_then():
    plain, swapping = (sampler(pairs=400, swap=swap).draw(5) for swap in (False, True))
    nothing = swapping.swapped & swapping.occluded
    assert nothing.any()
    assert (swapping.occluded & ~swapping.swapped).any()
    assert (swapping.omega[nothing] == 0).all()
    assert torch.equal(swapping.omega[~nothing], plain.omega[~nothing])


def test_gathered_rows_are_as_in_the_table_with_full_weight():
    matches = video()
    batch = sampler(matches, swap=True).gather(torch.tensor([5, 0, len(matches) - 1]))
    np.testing.assert_array_equal(torch.stack([batch.i, batch.j], 1), matches.pairs[[0, 0, -1]])
    np.testing.assert_array_equal(batch.xy_j, matches.xy_j[[5, 0, -1]])
    assert batch.omega.tolist() == [1, 1, 1]
    assert not batch.swapped.any()


# ------------------------------------------------------------------------------------------------ determinism


def test_a_draw_depends_on_seed_and_step_only():
    forwards, other, different = sampler(swap=True), sampler(swap=True), sampler(swap=True, seed=1)
    ordered = {step: forwards.draw(step) for step in range(12)}
    torch.manual_seed(99)
    for step in reversed(range(12)):
        torch.rand(3)
        again = other.draw(step)
        assert all(torch.equal(a, b) for a, b in zip(again, ordered[step]))
        assert not torch.equal(different.draw(step).rows, ordered[step].rows)
    assert len({tuple(batch.rows.tolist()) for batch in ordered.values()}) == 12


@pytest.mark.parametrize("hard_share", [0.0, 0.5, 1.0])
def test_shapes_never_change(hard_share):
    sampled = sampler(pairs=8, points=16, hard_share=hard_share, hard_start=0.5, steps=20, refresh=2, swap=True)
    shapes = set()
    for step in range(20):
        batch = sampled.draw(step)
        shapes.add(tuple((tuple(value.shape), value.dtype) for value in batch))
        sampled.note_errors(batch, torch.rand(128), step)
    assert len(shapes) == 1
    assert batch.rows.shape == (128,)


class NoWaiting(TorchDispatchMode):
    """Refuses every operation for whose result, or the shape of whose result, the host waits for the device."""

    WAITING = ("_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "_unique2", "is_nonzero", "equal")

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # importing the compiler takes longer than all tests of this file

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        masks = [x for x in args[1] if x is not None] if name in ("index", "index_put", "index_put_") else []
        by_mask = any(mask.dtype in (torch.bool, torch.uint8) for mask in masks)
        by_length = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in self.WAITING or by_mask or by_length:
            raise AssertionError(f"the host waits in {name}")
        return func(*args, **kwargs)


@pytest.fixture
def no_waiting(monkeypatch):
    """The mode, and the ways out of torch that pass it by where the device is the host."""

    def refuse(*_):
        raise AssertionError("the host waits for values")

    for name in ("tolist", "numpy", "cpu", "item", "__bool__", "__int__", "__float__", "__index__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    with NoWaiting():
        yield


@pytest.mark.parametrize(
    "offence",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: float(x[0]),
        lambda x: x.unique(),
        lambda x: x.long().repeat_interleave(x.long()),
        lambda x: x.__setitem__(x > 0, 1.0),
        lambda x: x.sum().tolist(),
        lambda x: x.numpy(),
        lambda x: range(x[1].long()),
        lambda x: torch.where(x > 0),
    ],
)
def test_waiting_would_be_noticed(no_waiting, offence):
    values = torch.arange(4.0)
    with pytest.raises(AssertionError, match="the host waits"):
        offence(values)


@pytest.mark.parametrize("hard_share", [0.0, 0.5, 1.0])
def test_no_step_waits_for_the_device(request, hard_share):
    """Draws, notes of errors, sweeps and refreshes: all of them."""
    sampled = sampler(pairs=8, points=16, hard_share=hard_share, hard_start=0.25, steps=20, refresh=5, swap=True)
    error = torch.rand(128)
    request.getfixturevalue("no_waiting")
    for step in range(20):
        sampled.note_errors(sampled.draw(step), error, step)
    rows = sampled.sweep_rows(1, 4)
    sampled.gather(rows)
    sampled.note_sweep(rows, torch.ones_like(rows, dtype=torch.float32))
    sampled.refresh()


# ------------------------------------------------------------------------------------------------ held-out rows


@pytest.mark.parametrize("hard_share", [0.0, 1.0])
def test_held_out_rows_are_never_drawn(hard_share):
    matches = video(rows=30)
    sampled = sampler(matches, holdout=0.1, hard_share=hard_share, hard_start=0.0, points=50)
    held = set(sampled.held_out.tolist())
    assert 0.08 < len(held) / len(matches) < 0.12
    assert held | set(sampled.all_rows.tolist()) == set(range(len(matches)))
    for _ in range(2):
        assert not held & set(drawn(sampled, range(30))[2].ravel().tolist())
        sampled.note_sweep(torch.arange(len(matches)), torch.rand(len(matches)))
        sampled.refresh()
    shares = np.bincount(matches.rows_pair[sorted(held)], minlength=len(matches.pairs)) / 30
    assert shares.max() < 0.2


@pytest.mark.parametrize("parts", [1, 3, 7, 10_000])
def test_the_parts_of_a_sweep_hold_every_trainable_row(parts):
    sampled = sampler(holdout=0.1)
    swept = [sampled.sweep_rows(part, parts) for part in range(min(parts, 500))]
    assert len({len(rows) for rows in swept}) == 1
    assert len(swept[0]) == -(-len(sampled.all_rows) // parts)
    together = torch.cat(swept).tolist()
    assert set(together) == set(sampled.all_rows.tolist())
    assert len(together) - len(set(together)) < min(parts, 500)
