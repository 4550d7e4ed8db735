"""The published schedules at the published steps, and what stretches them."""

from __future__ import annotations

import pytest

from everypoint.config.options import CadexLossOptions, CadexSamplerOptions, RayLossOptions, RaySamplerOptions
from everypoint.optimize import ramps


@pytest.mark.parametrize(
    "ramp, published",
    [
        (ramps.colour, {0: 0, 2500: 0.5, 5000: 1, 25_000: 5, 49_999: 9.9998, 50_000: 10, 50_001: 10, 99_999: 10}),
        (ramps.flow_difference, {0: 0, 500: 0.001, 25_000: 0.05, 49_999: 0.099998, 50_000: 0.1, 99_999: 0.1}),
        (ramps.distortion, {0: 0, 39_999: 0, 40_000: 0, 42_000: 1, 50_001: 5.0005, 60_000: 10, 60_001: 10, 99_999: 10}),
        (ramps.rate, {0: 1, 19_999: 1, 20_000: 0.5, 39_999: 0.5, 40_000: 0.25, 60_000: 0.125, 99_999: 0.0625}),
    ],
)
def test_published_numbers(ramp, published):
    assert {step: ramp(step) for step in published} == pytest.approx(published, rel=1e-12)


def test_schedules_of_cadex_at_their_published_steps():
    published = {0: 1, 999: 1, 1000: 0.1, 1999: 0.1, 2000: 0.01, 21_999: 0.01, 23_999: 0.01, 24_000: 0}
    assert {step: ramps.long_range(step) for step in published} == published
    assert {step: ramps.long_range(step, 0.1) for step in (99, 100, 199, 200)} == {99: 1, 100: 0.1, 199: 0.1, 200: 0.01}
    assert [ramps.long_cut(step) for step in (0, 1999, 2000, 21_999)] == [False, False, True, True]
    assert [ramps.long_cut(step, 0.05) for step in (99, 100)] == [False, True]
    options = CadexSamplerOptions()
    active = {0: 20, 99: 20, 100: 40, 199: 40, 1000: 220}
    assert {step: ramps.active_frames(step, options) for step in active} == active
    assert [ramps.rate(step, 1.0, 5000, 0.33) for step in (4999, 5000, 21_999)] == pytest.approx([1, 0.33, 0.33**4])


def test_published_phases_of_cadex_fit_any_plan():
    """The same weights at the same share of a run of another length, or of the run that ramp_steps names."""
    options, other = CadexLossOptions(), CadexLossOptions(ramp_steps=2200)
    for step in (0, 99, 100, 150, 200, 2199):
        assert ramps.cadex_weights(step, 2200, options) == pytest.approx(
            ramps.cadex_weights(10 * step, 22_000, options)
        )
        assert ramps.cadex_weights(step, 9999, other) == pytest.approx(ramps.cadex_weights(step, 2200, options))


def test_the_window_grows_by_one_frame_every_2000_steps_until_it_spans_the_video():
    options = RaySamplerOptions()
    published = {0: 20, 1999: 20, 2000: 21, 3999: 21, 4000: 22, 58_000: 49, 99_999: 69}
    assert {step: ramps.largest_gap(step, 80, options) for step in published} == published
    assert {step: ramps.largest_gap(step, 50, options) for step in (0, 57_999, 58_000, 99_999)} == {
        0: 20,
        57_999: 48,
        58_000: 49,
        99_999: 49,
    }
    assert {ramps.largest_gap(step, 6, options) for step in (0, 99_999)} == {5}


def test_start_and_growth_of_the_window_are_options():
    options = RaySamplerOptions(start_interval=3, grow_every=10)
    assert [ramps.largest_gap(step, 100, options) for step in (0, 9, 10, 25)] == [3, 3, 4, 5]


@pytest.mark.parametrize("steps", [100, 1000, 2000, 5000, 12_345, 50_000, 300_000])
def test_a_run_of_another_length_passes_through_the_same_phases(steps):
    """At every share of the run the values are those of the published run at that share."""
    scale, options = ramps.scale_of(steps), RaySamplerOptions()
    for part in range(101):
        step, published = part * steps / 100, part * 1000
        for ramp in (ramps.colour, ramps.flow_difference, ramps.distortion):
            assert ramp(step, scale) == pytest.approx(ramp(published), rel=1e-9, abs=1e-12)
        assert ramps.rate(step, scale) == ramps.rate(published)
        assert ramps.largest_gap(step, 999, options, scale) == ramps.largest_gap(published, 999, options)


def test_no_step_of_any_short_run_is_late_by_rounding():
    """A period ends at the step at which it ends in whole numbers, for all lengths of runs."""
    options = RaySamplerOptions()
    for steps in range(50, 5000, 37):
        for step in range(0, steps, max(1, steps // 97)):
            whole = 20 + step * 100_000 // (steps * 2000)
            assert ramps.largest_gap(step, 999, options, ramps.scale_of(steps)) == whole


def test_scale_is_the_plans_own_unless_it_is_given():
    assert ramps.scale_of(100_000) == 1
    assert ramps.scale_of(2000) == 0.02
    assert ramps.scale_of(2000, 50_000) == 0.5


def test_the_ramps_end_at_the_weights_that_are_asked_for():
    assert ramps.colour(99_999, weight=3.0) == pytest.approx(3)
    assert ramps.colour(25_000, weight=3.0) == pytest.approx(1.5)
    assert ramps.flow_difference(25_000, weight=4.0) == pytest.approx(2)
    assert ramps.distortion(50_000, weight=1.0) == pytest.approx(0.5)
    assert {ramp(99_999, weight=0.0) for ramp in (ramps.colour, ramps.flow_difference, ramps.distortion)} == {0}


def test_loss_weights_are_the_published_ones_by_default():
    options = RayLossOptions()
    names = set(RayLossOptions.model_fields) - {"ramp_steps", "mask_near"}
    constant = {"flow": 1, "depth_range": 10, "acceleration": 20, "depth": 5, "depth_prior": 1}
    assert set(ramps.loss_weights(0, 100_000, options)) == names
    start, late = (ramps.loss_weights(step, 100_000, options) for step in (0, 99_999))
    assert start == constant | {"colour": 0, "flow_difference": 0, "distortion": 0}
    assert late == pytest.approx(constant | {"colour": 10, "flow_difference": 0.1, "distortion": 10})
    middle = ramps.loss_weights(900, 2000, options)  # 45,000 of 100,000
    assert middle == pytest.approx(constant | {"colour": 9, "flow_difference": 0.09, "distortion": 2.5})


def test_ramp_steps_keep_the_published_ramps_in_a_shorter_run():
    options = RayLossOptions(ramp_steps=100_000, colour=20, acceleration=0)
    weights = ramps.loss_weights(1000, 2000, options)
    assert weights["colour"] == pytest.approx(0.4)
    assert weights["distortion"] == 0
    assert weights["acceleration"] == 0


def test_shares_of_a_run_turn_into_its_steps():
    assert [ramps.near_masked(step, 100_000, 0.04) for step in (0, 3999, 4000, 99_999)] == [True, True, False, False]
    assert not ramps.near_masked(0, 100_000, 0.0)
    assert [ramps.code_frozen(step, 100_000, 0.4) for step in (39_999, 40_000)] == [False, True]
    assert not ramps.code_frozen(99_999, 100_000, None)
    assert ramps.code_frozen(0, 10, 0.0)
    assert not ramps.code_frozen(9, 10, 1.0)
    assert ramps.step_of(0.29, 100) == 29  # 0.29 * 100 is 28.999...
