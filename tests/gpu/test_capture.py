"""Steps replayed as CUDA graphs, and compiled ones, are the plain steps. Skipped where there is no CUDA device.

tests/unit/optimize/test_captured.py shows on a CPU that nothing of a step is left to the host; here are what only CUDA
has: streams, memory of graphs, waiting, fused code.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
from collections.abc import Iterator

import pytest
import torch

from everypoint.models.compiled import compile_blocks
from everypoint.numerics import products_in
from everypoint.optimize.captured import WARM_UP, CapturedStep
from everypoint.optimize.trainer import TrainerBase
from tests.unit.optimize.test_no_sync import VARIANTS, trainer_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

PRESETS = ("planes", *VARIANTS, "cadex", "cadex-nomatch")
STEPS = 50
SLOW = {  # what rounding differs by grows with the rates
    "steps": STEPS, "learning_rate": 1e-4, "depth_learning_rate": 1e-4, "code_learning_rate": 1e-4,
    "field_learning_rate": 1e-4,
}  # fmt: skip
MIB = 2**20


def losses(made: TrainerBase, steps: range) -> list[float]:
    found = [made.step(step)["loss"] for step in steps]
    return torch.stack(found).tolist()


@contextlib.contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", PRESETS)
def test_captured_steps_are_the_steps(name, caplog):
    plain, captured = (trainer_of(name, "cuda", capture=choice, **SLOW) for choice in ("never", "always"))
    with caplog.at_level(logging.WARNING):
        expected, found = (losses(made, range(STEPS)) for made in (plain, captured))
    assert found == pytest.approx(expected, rel=1e-4)
    assert len(set(expected)) == STEPS  # something is trained
    assert captured._captured.recorded >= 1
    assert captured._captured.replayed >= STEPS // 2
    assert not caplog.records
    for mine, other in zip(plain.model.parameters(), captured.model.parameters(), strict=True):
        assert (mine - other).norm() <= 1e-3 * mine.norm() + 1e-6


@pytest.mark.parametrize("name", ["planes", "omnimotion", "cadex-nomatch"])
def test_a_graph_keeps_the_precision_that_it_was_recorded_in(name):
    """TF32 is near float32, and replayed steps are the plain ones of the same precision."""
    exact = losses(trainer_of(name, "cuda", capture="never", **SLOW), range(10))
    plain, captured = (trainer_of(name, "cuda", capture=choice, **SLOW) for choice in ("never", "always"))
    with products_in("tf32", "cuda"):
        expected, found = (losses(made, range(10)) for made in (plain, captured))
    assert found == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(exact, rel=2e-2)


def test_graphs_are_the_default():
    made = trainer_of("omnimotion", "cuda")
    losses(made, range(20))
    assert made._captured.recorded >= 1
    assert trainer_of("omnimotion", "cuda", capture="never")._captured is None


@pytest.mark.parametrize("name", PRESETS)
def test_a_replayed_step_never_waits(name):
    """With its draws, its notes, its refreshes and sweeps."""
    made, phases = trainer_of(name, "cuda"), []
    watched = 0
    for step in range(made.options.steps):
        made.before(step)
        phases.append(made.plan(step).phase)
        ready = len(phases) > WARM_UP + 1 and len(set(phases[-WARM_UP - 2 :])) == 1
        with waiting_is_an_error() if ready else contextlib.nullcontext():
            made.step(step)
        watched += ready
    assert watched >= made.options.steps // 3
    assert made._captured.replayed >= watched


def test_a_wait_is_noticed():
    values = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"), waiting_is_an_error():
        values.sum().item()


def test_what_waits_cannot_be_recorded_and_runs_as_it_is(caplog):
    def waiting(phase: object, given: torch.Tensor, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": given.sum() * given.max().item() + numbers[0]}

    step, stream = CapturedStep(waiting, torch.device("cuda")), torch.cuda.current_stream()
    for number in range(WARM_UP + 3):
        found = step("a", torch.tensor([1.0, number], device="cuda"), [0.5])
        assert float(found["sum"]) == (1 + number) * max(1, number) + 0.5
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "runs as it is" in caplog.text
    assert torch.cuda.current_stream() == stream


@pytest.mark.parametrize("name", ["planes", "omnimotion-lite", "cadex"])
def test_a_resumed_run_is_the_run(name):
    whole, first, second = (trainer_of(name, "cuda", **SLOW) for _ in range(3))
    expected = losses(whole, range(30))
    found = losses(first, range(13))
    losses(second, range(6))  # a graph of other tensors than those of the state
    second.load_state(first.state())
    found += losses(second, range(13, 30))
    assert found == pytest.approx(expected, rel=1e-4)


def test_graphs_give_their_memory_back():
    """One graph at a time, whatever the number of phases; nothing stays when the last is gone."""
    losses(trainer_of("omnimotion-lite", "cuda", capture="never"), range(2))  # libraries' own memory
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    made, held, phases = trainer_of("omnimotion-lite", "cuda"), [], []
    for step in range(made.options.steps):
        made.step(step)
        phases.append(made.plan(step).phase)
        held.append(torch.cuda.memory_reserved() - before)
    assert sum(a != b for a, b in itertools.pairwise(phases)) >= 2
    assert held[-1] <= 2 * held[10] + 32 * MIB
    del made
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() - before <= 8 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("name", ["omnimotion", "omnimotion-lite", "omnimotion-depth", "planes"])
@pytest.mark.parametrize("capture", ["never", "always"])
def test_compiled_steps_are_the_steps(name, capture):
    pytest.importorskip("triton")
    torch._dynamo.reset()
    plain, compiled = (trainer_of(name, "cuda", capture=choice, **SLOW) for choice in ("never", capture))
    assert compile_blocks(compiled.model)
    expected, found = (losses(made, range(STEPS)) for made in (plain, compiled))
    assert found == pytest.approx(expected, rel=1e-3)
    assert capture == "never" or compiled._captured.replayed >= STEPS // 2
