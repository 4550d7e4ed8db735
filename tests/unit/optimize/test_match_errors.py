"""Draws by accumulated error: running means, weights, when they begin, and the state that a checkpoint holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everypoint.artifacts.matches import Matches
from everypoint.optimize import match_errors
from everypoint.optimize.match_errors import ERROR_MEMORY, FLOOR
from everypoint.optimize.ray_sampler import RaySampler
from tests.unit.optimize.made import same_state
from tests.unit.optimize.made_pairs import FRAMES, ROWS, agrees, drawn, sampler, second_weights, video


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


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("stride", [1, 3])
def test_the_clip_is_the_quantile_of_a_spread_sample_of_what_is_measured(monkeypatch, quantile, stride):
    """Linear between ranks, as numpy's; held-out rows and rows never measured do not count."""
    matches = video([(0, 1), (1, 0)], 2, rows=15)
    monkeypatch.setattr(match_errors, "_SAMPLE", 30 // stride)
    sampled = sampler(matches, hard_start=0.0, hard_share=1.0, hard_quantile=quantile, holdout=0.2)
    held = sampled.held_out.tolist()
    error = np.random.default_rng(1).uniform(1, 9, 30)
    error[held] = 1000.0
    measured = np.array([row for row in range(30) if row not in (4, 6, 21)])
    sampled.note_sweep(torch.from_numpy(measured), torch.from_numpy(error[measured]).float())
    sampled.refresh()
    counted = np.setdiff1d(measured, held)
    limit = np.quantile(error[counted[counted % stride == 0]], quantile)
    expected = (np.minimum(error, limit) / limit + FLOOR)[counted]
    got = sampled.state()["weight"].numpy() / 32_000
    np.testing.assert_allclose(got[counted], expected, atol=1e-4)
    assert (got[held] == 0).all()
    assert got.max() <= 1 + FLOOR + 1e-4  # the held-out errors are in no mean either


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
