"""A step replayed is the step: every trainer, every phase, bit for bit, by a recorder in place of a CUDA graph.

What a graph would freeze (a number of Python's, a tensor that was replaced by another, a branch) the recorder freezes
too; so equal bits over a whole run say that nothing of a step is left to the host. tests/gpu has CUDA's graphs.
"""

from __future__ import annotations

import itertools
import logging

import pytest
import torch

from everypoint.errors import ResourceError
from everypoint.optimize.captured import WARM_UP, CapturedStep, captured_step
from everypoint.optimize.field_trainer import FieldTrainer
from everypoint.optimize.trainer import TrainerBase
from tests.unit.optimize import test_no_sync
from tests.unit.optimize import test_ray_trainers as rays
from tests.unit.optimize.made import same_state
from tests.unit.optimize.recorder import Recorder
from tests.unit.optimize.test_loop import Waiting
from tests.unit.optimize.test_no_sync import VARIANTS, trainer_of

as_on_cuda = test_no_sync.as_on_cuda  # code for a CPU alone is not recorded
PRESETS = ("planes", *VARIANTS, "cadex", "cadex-nomatch")
OTHERS = {
    "clipped": lambda: rays.trainer("field", gradient_clip=0.1, nvp={"freeze_code": 0.5, "affine": "large"}),
    "pixels": lambda: rays.trainer("pixels", gradient_clip=0.1, nvp={"freeze_code": 0.6}, rays={"hard_share": 0}),
    "cosine": lambda: rays.trainer("field", decay="cosine", warmup=9),
}


def made_of(name: str) -> TrainerBase:
    return OTHERS[name]() if name in OTHERS else trainer_of(name)


def recorded(made: TrainerBase) -> tuple[TrainerBase, list[Recorder]]:
    """The trainer with its steps recorded, and the recorders of its phases."""
    recorders: list[Recorder] = []

    def graph() -> Recorder:
        recorders.append(Recorder())
        return recorders[-1]

    made.capture(CapturedStep(made._from_tensors, made.device, graph, required=True))
    return made, recorders


REFUSED = (*Waiting.NAMES, "rand", "normal_", "uniform", "bernoulli", "multinomial", "lift_fresh", "_pin_memory")


@pytest.mark.parametrize("name", [*PRESETS, *OTHERS])
def test_replayed_steps_are_the_steps(name):
    """And no recorded operator waits, draws, or makes a tensor of the host's numbers."""
    plain, (captured, recorders) = made_of(name), recorded(made_of(name))
    tapes, phases = {}, []
    for step in range(plain.options.steps):
        assert same_state(plain.step(step), captured.step(step)), step
        assert plain.rates == captured.rates
        phases.append(plain.plan(step).phase)
        tapes |= {id(recorder): recorder.tape for recorder in recorders if recorder.tape}
    assert same_state(plain.state(), captured.state())
    changes = sum(a != b for a, b in itertools.pairwise(phases))
    assert (changes == 0) == (name in ("planes", "omnimotion-depth"))
    assert len(recorders) == changes + 1
    assert captured._captured.replayed >= plain.options.steps - WARM_UP * len(recorders)
    names = [operator for tape in tapes.values() for operator in tape.names]
    assert [operator for operator in names if any(part in operator for part in REFUSED)] == []
    assert any("_fused_adam_" in operator for operator in names)
    noted = any("index_put" in operator for operator in names)
    assert noted != name.startswith("cadex")  # the errors are noted in it, where there is a note


@pytest.mark.parametrize("name", ["planes", "omnimotion-lite", "omnimotion-depth", "cadex"])
def test_a_captured_run_goes_on_from_a_plain_one_and_the_other_way(name):
    """The codes of the lite variant freeze at step 16."""
    whole = made_of(name)
    for step in range(20):
        whole.step(step)
    for first in (False, True):
        before, behind = made_of(name), made_of(name)
        recorded(before if first else behind)
        for step in range(9):
            before.step(step)
        for step in range(6):  # a graph on other tensors than those of the state
            behind.step(step)
        behind.load_state(before.state())
        for step in range(9, 20):
            behind.step(step)
        assert same_state(whole.state(), behind.state()), first


def test_a_training_writes_the_same_rows(tmp_path):
    """Sums over many steps are not those of the last one many times."""
    rows = []
    for folder, made in (("plain", rays.trainer("pixels")), ("captured", recorded(rays.trainer("pixels"))[0])):
        rows.append(rays.trained(made, tmp_path / folder))
    for row in (*rows[0], *rows[1]):
        assert row.pop("seconds") >= 0
    assert rows[0] == rows[1]


# ------------------------------------------------------------------------------------------ what would be noticed


def departs(made: TrainerBase, plain: TrainerBase) -> bool:
    """Whether replayed steps differ from the plain ones."""
    recorded(made)
    return any(not same_state(plain.step(step), made.step(step)) for step in range(12))


def test_a_number_of_the_host_in_the_step_would_be_noticed():
    both = [trainer_of("omnimotion-depth") for _ in range(2)]
    for made in both:
        made.seen, losses = 0, made.losses

        def counting(*given, made=made, losses=losses):
            made.seen += 1
            terms, error = losses(*given)
            return {name: term * made.seen for name, term in terms.items()}, error

        made.losses = counting
    assert departs(*both)


def test_a_tensor_put_in_the_place_of_another_would_be_noticed():
    both = [trainer_of("planes") for _ in range(2)]
    for made in both:

        def note(given, error, sampler=made.sampler):
            sampler.error = sampler.error.index_put((given.rows,), error)
            sampler._error_table = sampler._table(sampler.error)

        made.note = note
    assert departs(*both)


def test_nothing_departs_without_a_cause():
    assert not departs(trainer_of("omnimotion-depth"), trainer_of("omnimotion-depth"))


# ------------------------------------------------------------------------------------------------ phases


class Counting(Recorder):
    """Notes what is asked of it."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self.calls = calls

    def warm(self, work):
        self.calls.append("warm")
        return super().warm(work)

    def record(self, work):
        self.calls.append("record")
        return super().record(work)

    def replay(self) -> None:
        self.calls.append("replay")
        super().replay()

    def release(self) -> None:
        self.calls.append("release")
        super().release()


def squares(phase: object, given: torch.Tensor, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"sum": given.square().sum() * numbers[0], "last": given[-1] + numbers[1]}


def stepped(calls: list[str], **changes) -> CapturedStep:
    return CapturedStep(squares, torch.device("cpu"), lambda: Counting(calls), **changes)


def test_a_phase_is_warm_then_recorded_then_replayed():
    calls: list[str] = []
    step = stepped(calls)
    kept = [step("a", torch.tensor([1.0, number]), [2.0, 0.5]) for number in range(5)]
    assert calls == [*["warm"] * WARM_UP, "record", "replay", "replay"]
    for number in range(2):
        step("b", torch.tensor([1.0, number]), [2.0, 0.5])
    assert calls[6:] == ["release", "warm", "warm"]
    assert [float(found["sum"]) for found in kept] == [2 * (1 + number**2) for number in range(5)]  # not overwritten
    assert [float(found["last"]) for found in kept] == [number + 0.5 for number in range(5)]


def test_other_shapes_are_another_phase():
    calls: list[str] = []
    step = stepped(calls)
    for size in (2, 2, 2, 2, 3):
        found = step("a", torch.ones(size), [1.0, 0.0])
        assert float(found["sum"]) == size
    assert calls[-2:] == ["release", "warm"]


class Refusing(Counting):
    def record(self, work):
        super().record(work)
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")


def test_what_cannot_be_recorded_runs_as_it_is_after_one_warning(caplog):
    calls: list[str] = []
    step = CapturedStep(squares, torch.device("cpu"), lambda: Refusing(calls))
    with caplog.at_level(logging.WARNING):
        for phase in "ab":
            for number in range(6):
                found = step(phase, torch.tensor([1.0, number]), [1.0, 0.0])
                assert float(found["sum"]) == 1 + number**2
    assert [record.message for record in caplog.records] == [
        "the step is not captured in a CUDA graph and runs as it is: operation not permitted when stream is capturing"
    ]
    assert calls.count("record") == 1


def test_what_must_be_recorded_and_cannot_is_an_error():
    step = CapturedStep(squares, torch.device("cpu"), lambda: Refusing([]), required=True)
    with pytest.raises(ResourceError, match=r"not permitted.*set optimize\.capture: auto"):
        for _ in range(6):
            step("a", torch.ones(2), [1.0, 0.0])


def test_a_training_goes_on_when_its_step_cannot_be_recorded():
    plain, made = trainer_of("omnimotion-depth"), trainer_of("omnimotion-depth")
    made.capture(CapturedStep(made._from_tensors, made.device, lambda: Refusing([])))
    for step in range(12):
        assert same_state(plain.step(step), made.step(step))
    assert same_state(plain.state(), made.state())


# ------------------------------------------------------------------------------------------------ the option


@pytest.mark.parametrize(
    ("choice", "device", "expected"),
    [
        ("auto", "cuda", True),
        ("always", "cuda", True),
        ("never", "cuda", False),
        ("auto", "cpu", False),
        ("never", "cpu", False),
    ],
)
def test_graphs_are_for_cuda(choice, device, expected):
    assert (captured_step(squares, choice, torch.device(device)) is not None) == expected


def test_a_cpu_has_no_graphs():
    with pytest.raises(ResourceError, match="only CUDA has graphs"):
        captured_step(squares, "always", torch.device("cpu"))
    made = rays.trainer("field")
    assert isinstance(made, FieldTrainer)
    assert made._captured is None
