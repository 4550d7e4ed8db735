"""Progress lines: at most one a minute, with an estimate that leaves out what was found finished."""

from __future__ import annotations

import logging

import pytest

from everypoint.progress import Progress, duration


class Clock:
    """Seconds that go on when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_line_a_minute_and_one_at_the_end(clock, caplog):
    caplog.set_level(logging.INFO)
    with Progress(10, "flow", unit="pairs", clock=clock) as progress:
        for _ in range(10):
            clock.now += 25
            progress.advance()
    assert caplog.messages == [
        "flow: 3 of 10 pairs (30 %), 1 min 15 s, 2 min 55 s left",
        "flow: 6 of 10 pairs (60 %), 2 min 30 s, 1 min 40 s left",
        "flow: 9 of 10 pairs (90 %), 3 min 45 s, 25 s left",
        "flow: 10 pairs in 4 min 10 s",
    ]


def test_the_estimate_leaves_out_what_was_finished_before(clock):
    progress = Progress(100, "flow", skipped=80, clock=clock)
    assert progress.line().endswith("unknown left")
    clock.now += 60
    progress.advance(5)
    assert progress.line() == "flow: 85 of 100 items (85 %), 1 min 00 s, 3 min 00 s left"


def test_nothing_is_said_of_an_end_that_was_none(clock, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(RuntimeError), Progress(2, "flow", clock=clock):
        raise RuntimeError
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
