"""OmniMotion's sampler: frames, pairs, matches and weights against the specified formulas; its state; no waiting."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.utils._python_dispatch import TorchDispatchMode

from everypoint.artifacts.matches import CYCLE, OCCLUDED, Matches
from everypoint.config.options import RaySamplerOptions
from everypoint.errors import ArtifactError, InputError
from everypoint.match.rows import join_tables
from everypoint.optimize.match_errors import ERROR_MEMORY, FLOOR
from everypoint.optimize.ray_sampler import RaySampler
from tests.unit.optimize.made import same_state, table

FRAMES = 8
ROWS = 6  # of each pair


def all_pairs(frames: int, largest: int = 99) -> list[tuple[int, int]]:
    return [(i, j) for i in range(frames) for j in range(frames) if 0 < abs(i - j) <= largest]


def video(
    pairs: list[tuple[int, int]] | None = None, frames: int = FRAMES, rows: int | dict = ROWS, seed: int = 0
) -> Matches:
    """Matches of pairs at random places with random numbers of valid pixels; every third row is occluded."""
    random = np.random.default_rng(seed)
    pairs = all_pairs(frames) if pairs is None else pairs
    counts = rows if isinstance(rows, dict) else dict.fromkeys(pairs, rows)
    ends = {pair: tuple(random.uniform(0, 31, (2, counts[pair], 2))) for pair in pairs}
    flags = {pair: np.where(np.arange(counts[pair]) % 3 == 2, OCCLUDED, CYCLE) for pair in pairs}
    matches = table(ends, frames, flags=flags)
    valid = np.where(np.diff(matches.offsets) > 0, random.integers(1, 900, len(pairs)), 0)
    return dataclasses.replace(matches, valid_count=valid)


def sampler(matches: Matches | None = None, **changes) -> RaySampler:
    arguments = {"seed": 0, "steps": 100_000, "holdout": 0.0}
    arguments |= {name: changes.pop(name) for name in ("seed", "steps", "scale", "holdout") if name in changes}
    options = {"pairs": 40, "points": 5, "start_interval": 3, "hard_share": 0.0, "swap": False}
    return RaySampler(video() if matches is None else matches, RaySamplerOptions(**(options | changes)), **arguments)


def drawn(sampled: RaySampler, steps: range) -> tuple[np.ndarray, ...]:
    """id1, id2 [pairs drawn] and rows [pairs drawn, P] of an unswapped sampler."""
    batches = [sampled.draw(step) for step in steps]
    points = sampled.options.points
    first, second = (torch.cat([getattr(b, name) for b in batches]).numpy()[::points] for name in "ij")
    return first, second, torch.cat([b.rows for b in batches]).reshape(-1, points).numpy()


def agrees(counts: np.ndarray, expected: np.ndarray) -> bool:
    """Chi-square test of counts against probabilities; what has no probability must not occur."""
    assert counts[expected == 0].sum() == 0
    some = expected > 0
    assert some.sum() > 1
    return chisquare(counts[some], expected[some] * counts.sum() / expected.sum()).pvalue > 1e-3


def second_weights(matches: Matches, first: int, window: int, floor: float = 0.5) -> np.ndarray:
    """Section 3.2 in a loop: valid counts normalised over the window, then adjacent entries set, then normalised."""
    weight = np.zeros(matches.frames)
    for (i, j), count, rows in zip(matches.pairs, matches.valid_count, np.diff(matches.offsets)):
        if i == first and abs(i - j) <= window and rows:
            weight[j] = count
    weight /= weight.sum()
    for j in (first - 1, first + 1):
        if floor and 0 <= j < matches.frames and weight[j] > 0:
            weight[j] = floor
    return weight / weight.sum()


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


# ------------------------------------------------------------------------------------------------ errors


def mining(matches: Matches, error: np.ndarray, **changes) -> RaySampler:
    """A sampler that mines from the first step and has measured every row."""
    sampled = sampler(matches, **({"hard_start": 0.0, "hard_share": 1.0, "hard_quantile": 0.9} | changes))
    sampled.note_sweep(torch.arange(len(matches)), torch.from_numpy(error.astype(np.float32)))
    sampled.refresh()
    return sampled


def clipped(error: np.ndarray, quantile: float) -> np.ndarray:
    """The specified weights by error: clipped at the quantile of all, a floor of 2 % of it."""
    limit = np.quantile(error, quantile)
    return np.minimum(error, limit) + FLOOR * limit


def errors_of(matches: Matches) -> np.ndarray:
    """Errors of different size a frame and a row, with wild ones among them."""
    random = np.random.default_rng(5)
    error = random.gamma(1.0, 1.0, len(matches)) * (1 + matches.pairs[matches.rows_pair, 0])
    error[random.random(len(matches)) < 0.03] = 500.0
    return error


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_hard_rows_are_drawn_by_their_clipped_error_within_their_pair(share):
    matches = video(rows=8)
    error = errors_of(matches)
    sampled = mining(matches, error, hard_share=share, points=10, pairs=80)
    _, _, rows = drawn(sampled, range(100))
    pair = matches.rows_pair[rows]
    assert (pair == pair[:, :1]).all()
    drawn_of = np.bincount(pair[:, 0], minlength=len(matches.pairs))
    weights, tested = clipped(error, 0.9), 0
    for p in np.argsort(drawn_of)[-12:]:
        inside = slice(matches.offsets[p], matches.offsets[p + 1])
        counts = np.bincount(rows[pair[:, 0] == p].ravel() - matches.offsets[p], minlength=8)
        expected = share * weights[inside] / weights[inside].sum() + (1 - share) / 8
        assert agrees(counts, expected), p
        tested += not agrees(counts, np.full(8, 1 / 8))
    assert tested > 6  # even draws would have been noticed


@pytest.mark.parametrize("points, share", [(256, 0.5), (256, 1.0), (10, 0.25), (7, 0.5), (1, 0.5)])
def test_the_share_of_hard_points_is_exact_and_spread_over_the_pair(points, share):
    hard = sampler(points=points, hard_share=share)._hard_points
    assert len(hard) == points
    assert int(hard.sum()) == round(points * share)
    for taken in range(1, points + 1):
        assert 0 <= taken * int(hard.sum()) / points - int(hard[:taken].sum()) < 1


def test_id1_is_drawn_by_the_mean_error_of_the_frames_matches():
    matches = video()
    error = errors_of(matches)
    sampled = mining(matches, error, points=1)
    weights = np.minimum(error, np.quantile(error, 0.9))
    first_frame = matches.pairs[matches.rows_pair, 0]
    mean = np.array([weights[first_frame == frame].mean() for frame in range(FRAMES)])
    first, second, _ = drawn(sampled, range(200))
    counts = np.bincount(first, minlength=FRAMES)
    assert agrees(counts, mean / mean.max() + FLOOR)
    assert not agrees(counts, np.ones(FRAMES))
    middle = np.bincount(second[first == 4], minlength=FRAMES)
    assert agrees(middle, second_weights(matches, 4, 3))  # id2 as ever


def test_while_mining_too_a_frame_waits_for_its_first_candidate():
    matches = video([(0, 1), (1, 0), (7, 2), (2, 7), (3, 4)])
    sampled = mining(matches, np.ones(len(matches)), grow_every=10)
    assert set(drawn(sampled, range(15))[0].tolist()) == {0, 1, 3}
    assert set(drawn(sampled, range(20, 35))[0].tolist()) == {0, 1, 2, 3, 7}


def test_mining_starts_at_its_share_of_the_run():
    matches = video()
    sampled = sampler(matches, hard_share=1.0, hard_start=0.2, steps=50, refresh=1000, points=5, pairs=16)
    assert [sampled.mines(step) for step in (0, 9, 10, 49)] == [False, False, True, True]
    assert not sampler(matches, hard_start=0.0).mines(99_999)  # without a share there is none
    reference = sampler(matches, steps=50, pairs=16)
    error = torch.from_numpy(errors_of(matches)).float()
    for step in range(50):
        batch = sampled.draw(step)
        assert torch.equal(batch.rows, reference.draw(step).rows) == (step < 10)
        before = sampled.state()["weight"]
        sampled.note_errors(batch, error[batch.rows], step)
        assert torch.equal(sampled.state()["weight"], before) == (step != 9)  # first made for step 10


def test_every_row_and_frame_stays_reachable():
    """Rows and frames without any error beside large ones."""
    matches = video(rows=4)
    error = np.where(np.arange(len(matches)) % 4 == 0, 0.0, 9.0)
    error[matches.pairs[matches.rows_pair, 0] == 3] = 0
    sampled = mining(matches, error, pairs=64, points=16)
    first, _, rows = drawn(sampled, range(300))
    near = np.abs(np.diff(matches.pairs, axis=1)[:, 0])[matches.rows_pair] <= 3
    assert set(rows.ravel().tolist()) == set(np.flatnonzero(near).tolist())
    assert 0 < (first == 3).mean() < 0.01


def test_no_error_at_all_is_drawn_evenly():
    matches = video()
    _, _, rows = drawn(mining(matches, np.zeros(len(matches)), points=20), range(30))
    places = rows.ravel() - matches.offsets[matches.rows_pair[rows.ravel()]]
    assert agrees(np.bincount(places, minlength=ROWS), np.full(ROWS, 1 / ROWS))


def test_rows_never_measured_weigh_as_their_pair_or_as_all():
    matches = video([(0, 1), (1, 0), (1, 2)], 3, rows=10)
    sampled = sampler(matches, hard_start=0.0, hard_share=1.0, hard_quantile=1.0)
    error = np.array([4.0, 0.0, 2.0, 6.0])
    sampled.note_sweep(torch.tensor([0, 1, 2, 10]), torch.from_numpy(error).float())
    sampled.refresh()
    weight = sampled.state()["weight"].numpy() / 32_000 * 6
    floor = FLOOR * 6
    expected = np.array([4, 0, 2, *[2] * 7, 6, *[6] * 9, *[3] * 10]) + floor  # 3: the mean of all four
    np.testing.assert_allclose(weight, expected, atol=6 / 32_000)
    frames = sampled.state()["frame_weight"].numpy() / 2**30
    np.testing.assert_allclose(frames, np.array([2, 6, 3]) / 6 + FLOOR, atol=1e-4)


def test_before_anything_is_measured_all_rows_and_frames_weigh_the_same():
    matches = video()
    sampled = sampler(matches, hard_start=0.0, hard_share=1.0)
    for _ in range(2):
        state = sampled.state()
        assert len(set(state["weight"].tolist())) == len(set(state["frame_weight"].tolist())) == 1
        sampled.refresh()


def test_noted_errors_are_running_means_and_doubles_count_once():
    matches = video()
    sampled = sampler(matches, hard_share=0.5, refresh=1000)
    expected = np.full(len(matches), -1.0)
    for step in range(12):
        batch = sampled.draw(step)
        error = np.random.default_rng(step).uniform(0, 9, len(batch.rows))
        sampled.note_errors(batch, torch.from_numpy(error).float(), step)
        rows = batch.rows.numpy()
        assert len(np.unique(rows)) < len(rows)
        for row in np.unique(rows):
            mean = error[rows == row].mean()
            past = expected[row]
            expected[row] = mean if past < 0 else ERROR_MEMORY * past + (1 - ERROR_MEMORY) * mean
    np.testing.assert_allclose(sampled.state()["error"], expected, rtol=1e-5)


def test_errors_of_points_without_a_match_in_this_direction_are_left_out():
    matches = video()
    sampled = sampler(matches, hard_share=0.5, swap=True)
    batch = sampled.draw(0)
    error = torch.where(batch.omega > 0, 1.0, 1000.0)
    sampled.note_errors(batch, error, 0)
    noted = sampled.state()["error"]
    assert (error == 1000).any()
    assert set(noted.tolist()) == {-1.0, 1.0}
    assert set(np.flatnonzero(noted == 1).tolist()) == set(batch.rows[batch.omega > 0].tolist())


def test_the_order_of_rows_in_a_batch_changes_no_running_mean():
    matches = video()
    first, second = (sampler(matches, hard_share=0.5) for _ in range(2))
    for step in range(3):
        batch = first.draw(step)
        error = (torch.arange(len(batch.rows)) % 7).float()
        first.note_errors(batch, error, step)
        order = torch.randperm(len(batch.rows), generator=torch.Generator().manual_seed(step))
        second.note_errors(type(batch)(*(value[order] for value in batch)), error[order], step)
    assert same_state(first.state(), second.state())


def test_a_sweep_replaces_what_was_there():
    matches = video()
    sampled = mining(matches, np.full(len(matches), 5.0))
    sampled.note_sweep(torch.tensor([3, 3, 4]), torch.tensor([1.0, 2.0, 7.0]))
    assert sampled.state()["error"][:6].tolist() == [5, 5, 5, 1.5, 7, 5]


def test_the_weights_follow_the_errors_at_every_refresh_only():
    matches = video()
    sampled = mining(matches, errors_of(matches), refresh=10, steps=1000)
    batch = sampled.draw(0)
    before = sampled.state()["weight"]
    for step in range(10):
        assert torch.equal(sampled.state()["weight"], before)
        sampled.note_errors(batch, torch.full((len(batch.rows),), 50.0), step)
    assert not torch.equal(sampled.state()["weight"], before)


def test_without_a_hard_share_errors_cost_nothing():
    sampled = sampler()
    sampled.note_errors(sampled.draw(0), torch.ones(200), 0)
    sampled.note_sweep(torch.arange(3), torch.ones(3))
    sampled.refresh()
    assert sampled.state() == {}
    sampled.load_state({})


@pytest.mark.parametrize("split", [3, 7, 8, 13])
def test_a_run_that_was_saved_and_loaded_equals_one_that_was_not(split):
    """Bit for bit: 8 is where mining begins, 7 and 13 lie between two refreshes."""

    def run(sampled: RaySampler, steps: range) -> list:
        batches = []
        for step in steps:
            batches.append(sampled.draw(step))
            error = (batches[-1].xy_i - batches[-1].xy_j).norm(dim=1) / (step + 1)
            sampled.note_errors(batches[-1], error, step)
        return batches

    make = lambda: sampler(hard_share=0.5, hard_start=0.4, steps=20, refresh=3, swap=True, holdout=0.1)  # noqa: E731
    whole, first, second = make(), make(), make()
    expected = run(whole, range(20))
    run(first, range(split))
    state = {name: value.clone() for name, value in first.state().items()}
    run(first, range(split, 20))  # what goes on does not change what was saved
    second.load_state(state)
    assert same_state(second.state(), state)
    for batch, other in zip(run(second, range(split, 20)), expected[split:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, other))
    assert same_state(second.state(), whole.state())
    assert not torch.equal(make().draw(19).rows, expected[19].rows)  # the state mattered


def test_the_state_is_what_a_checkpoint_can_hold(tmp_path):
    sampled = mining(video(), errors_of(video()))
    torch.save(sampled.state(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    assert same_state(loaded, sampled.state())
    assert {value.dtype for value in loaded.values()} == {torch.float32, torch.int16, torch.int64}
    assert all(value.isfinite().all() for value in loaded.values())
