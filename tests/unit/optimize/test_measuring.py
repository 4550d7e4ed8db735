"""What benchmarks count of a step: products, bytes, the least time that a device needs for them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
import torch

from tests.unit.optimize.test_published_step import BENCHMARKS

N = 64


@pytest.fixture(scope="module")
def measuring() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("measuring")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def counted(measuring):
    """Counts on a device of 1000 FLOP/s and 1000 bytes/s: products take longer than what they read and write."""

    def count(work):
        with measuring.Counted(measuring.Rates(1000.0, 1000.0, None)) as found:
            work()
        return found

    return count


X, Y = torch.ones(N, N), torch.ones(N, N)
SQUARE = 4 * N * N  # bytes


@pytest.mark.parametrize(
    ("work", "flop", "moved"),
    [
        (lambda: X + Y, 0, 3 * SQUARE),
        (lambda: X @ Y, 2 * N**3, 3 * SQUARE),
        (lambda: X.t().reshape(-1, 2).t()[1:], 0, 2 * SQUARE),  # the copy that the reshape makes; views are free
        (lambda: X.view(-1).unsqueeze(0).expand(3, -1), 0, 0),
        (lambda: X.clone().add_(1), 0, 4 * SQUARE),  # read and written, twice
        (lambda: X.index_select(0, torch.tensor([0, 1])), 0, 2 * 2 * 4 * N + 16),  # two rows of 64
        (lambda: torch.zeros(N, N), 0, SQUARE),
    ],
)
def test_operators_are_counted(counted, work, flop, moved):
    found = counted(work)
    assert found.flop == flop
    assert moved <= found.bytes <= moved + 64  # the numbers of an index are made, too


def test_the_backward_pass_counts_too(counted):
    x = torch.ones(N, N, requires_grad=True)
    assert counted(lambda: (x @ Y).sum().backward()).flop == 2 * 2 * N**3


def test_the_roofline_is_the_longer_time_of_each_operator(counted):
    product, addition = 2 * N**3 / 1000, 3 * SQUARE / 1000
    assert product > addition
    assert counted(lambda: X @ Y).seconds == pytest.approx(product)
    assert counted(lambda: X + Y).seconds == pytest.approx(addition)
    assert counted(lambda: (X + Y, X @ Y)).seconds == pytest.approx(product + addition)


def test_rounds_that_do_not_count_are_not_timed(measuring):
    calls = []
    found = measuring.measure({"a": calls.append}, "cpu", 2, warm_up=3)["a"]
    assert calls == [0, 1, 2, 3, 4]
    assert len(found.wall) == len(found.processor) == 2
