"""The training loop: resuming, signals, divergence, and no waiting for the device."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from everypoint.artifacts.checkpoint import Checkpoints
from everypoint.errors import TrainingError
from everypoint.optimize import camera, loop
from everypoint.optimize.loop import EXIT_TRY_AGAIN, train
from everypoint.optimize.planes_trainer import PlanesTrainer
from everypoint.optimize.progress import Progress
from tests.unit.optimize.made import STEPS, camera_matches, jsonl, same_state, tiny_preset, trainer

Hook = Callable[[PlanesTrainer, int], None]


def run(folder: Path, before: Hook | None = None, preset=None, fingerprint: str = "f") -> PlanesTrainer:
    """One try of a run in ``folder``; ``before`` is called with every step before it is taken."""
    preset = preset or tiny_preset()
    made = trainer(preset)
    if before is not None:
        step = made.step
        made.step = lambda number: (before(made, number), step(number))[1]
    progress = Progress(folder, preset.optimize.steps, tensorboard=preset.optimize.tensorboard, title="clip")
    train(made, Checkpoints(folder / "checkpoints", fingerprint), progress)
    return made


def signalled_at(step: int, number: signal.Signals = signal.SIGTERM) -> Hook:
    """A real signal to this process while it takes the step."""
    return lambda _, current: signal.raise_signal(number) if current == step else None


def stopped_at(folder: Path, step: int, number: signal.Signals = signal.SIGTERM) -> None:
    with pytest.raises(SystemExit) as stop:
        run(folder, signalled_at(step, number))
    assert stop.value.code == EXIT_TRY_AGAIN == 75


def timeless(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def steps_taken(made: PlanesTrainer) -> set[int]:
    return {int(state["step"]) for state in made.optimizer.state_dict()["state"].values()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[dict, list[dict]]:
    """Final state and rows of a run without stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    made = run(folder)
    return made.state(), jsonl(folder)


def test_rows_are_means_over_the_steps_since_the_last_row(tmp_path):
    losses = []
    made = trainer(tiny_preset())
    step = made.step

    def noting(number: int) -> dict:
        values = step(number)
        losses.append(float(values["loss"]))
        return values

    made.step = noting
    train(made, Checkpoints(tmp_path / "checkpoints", "f"), Progress(tmp_path, STEPS, tensorboard=False, title="clip"))
    rows = jsonl(tmp_path)
    assert [row["step"] for row in rows] == [10, 20, 24]
    for row, part in zip(rows, (losses[:10], losses[10:20], losses[20:])):
        assert row["loss"] == pytest.approx(sum(part) / len(part), rel=1e-5)
        assert row["loss"] == pytest.approx(row["flow"] + row["depth"] + row["occlusion"], rel=1e-5)
    assert rows[0]["seconds"] <= rows[1]["seconds"] <= rows[2]["seconds"]


def test_training_lowers_the_loss(undisturbed):
    _, rows = undisturbed
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert all(row["error"] > 0 for row in rows)


@pytest.mark.parametrize(
    "stops",
    [(0,), (5,), (9,), (6, 13), (7, 12, 20, 22)],
    ids=["first", "between rows", "at a row", "around a refresh", "many"],
)
def test_a_stopped_and_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path, undisturbed, stops):
    for n, step in enumerate(stops):
        stopped_at(tmp_path, step, (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)[n % 3])
    resumed = run(tmp_path)
    state, rows = undisturbed
    assert same_state(resumed.state(), state)
    assert timeless(jsonl(tmp_path)) == timeless(rows)  # none missing, none twice
    assert steps_taken(resumed) == {STEPS}


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 1.0])
def test_a_resumed_run_takes_exactly_the_planned_steps(tmp_path, undisturbed, share):
    at = min(int(share * STEPS), STEPS - 1)
    taken: list[int] = []

    def count(made: PlanesTrainer, step: int) -> None:
        taken.append(step)
        if len(taken) == at + 1:
            signal.raise_signal(signal.SIGTERM)

    if at < STEPS - 1:
        with pytest.raises(SystemExit):
            run(tmp_path, count)
    else:
        run(tmp_path, count)  # asked to stop in the last step: finished instead
    resumed = run(tmp_path, count)
    assert taken == list(range(STEPS))
    assert steps_taken(resumed) == {STEPS}
    assert same_state(resumed.state(), undisturbed[0])


def test_the_signal_handlers_before_come_back(tmp_path):
    def mine(*_: object) -> None:
        raise AssertionError

    before = signal.signal(signal.SIGUSR1, mine)
    try:
        stopped_at(tmp_path, 3, signal.SIGTERM)
        assert signal.getsignal(signal.SIGUSR1) is mine
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_checkpoint_is_written_when_the_time_has_come_even_between_rows(tmp_path):
    preset = tiny_preset(steps=12, log_every=1000, checkpoint_seconds=1e-9)
    run(tmp_path, preset=preset)
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == [f"checkpoint-{step:08d}.{suffix}" for step in (11, 12) for suffix in ("json", "pt")]


def test_a_run_beyond_its_time_ends_and_does_not_go_on_when_resumed(tmp_path):
    preset = tiny_preset(max_seconds=1e-3, checkpoint_seconds=1e-9, log_every=5)  # the first step takes longer
    taken: list[int] = []
    for _ in range(2):
        run(tmp_path, lambda _, step: taken.append(step), preset=preset)
    assert taken == [0]
    assert [row["step"] for row in jsonl(tmp_path)] == [1]  # between rows: steps of a second must not add up to minutes


def test_without_held_out_matches_the_rows_are_still_json(tmp_path):
    run(tmp_path, preset=tiny_preset(holdout=0.0))
    assert [row["error"] for row in jsonl(tmp_path)] == [None] * 3


def test_equal_seeds_give_equal_runs_and_others_do_not(tmp_path, undisturbed):
    assert same_state(run(tmp_path / "same").state(), undisturbed[0])
    made = trainer(tiny_preset(), seed=1)
    train(made, Checkpoints(tmp_path / "c", "f"), Progress(tmp_path, STEPS, tensorboard=False, title="clip"))
    assert not same_state(made.state(), undisturbed[0])


# ------------------------------------------------------------------------------------------------ divergence


def poison_loss(at: int) -> Hook:
    """From step ``at`` on the loss is NaN."""

    def before(made: PlanesTrainer, step: int) -> None:
        if step == at:
            terms = made.terms
            made.terms = lambda batch: ({n: v * float("nan") for n, v in terms(batch)[0].items()}, terms(batch)[1])

    return before


def poison_gradient(at: int, value: float = float("nan")) -> Hook:
    """In step ``at`` one gradient is not finite while the loss is."""

    def before(made: PlanesTrainer, step: int) -> None:
        if step == at:
            made.model.depth.map.register_hook(lambda grad: torch.full_like(grad, value))

    return before


def both(*hooks: Hook) -> Hook:
    return lambda made, step: [hook(made, step) for hook in hooks]


def last_good(folder: Path) -> dict:
    state = Checkpoints(folder / "checkpoints", "f").load()
    values = [*state["model"].values(), *state["sampler"].values(), *state["sums"].values()]
    values += [value for moment in state["optimizer"]["state"].values() for value in moment.values()]
    assert all(value.isfinite().all() for value in values)
    return state


@pytest.mark.parametrize("poison", [poison_loss, poison_gradient], ids=["loss", "gradient"])
@pytest.mark.parametrize("at", [0, 13, 19, STEPS - 1])
def test_divergence_ends_the_run_within_a_row_and_keeps_the_last_good_checkpoint(tmp_path, poison, at):
    if at > 5:
        stopped_at(tmp_path, 5)
    taken: list[int] = []
    with pytest.raises(TrainingError, match="not finite") as error:
        run(tmp_path, both(lambda _, step: taken.append(step), poison(at)))
    assert taken[-1] - at <= tiny_preset().optimize.log_every
    assert "learning_rate" in str(error.value)
    if at > 5:
        assert last_good(tmp_path)["step"] == 6
    rows = jsonl(tmp_path)
    assert [row["step"] for row in rows] in ([], [10], [10, 20], [10, 20, 24])  # what went well is told
    assert len(rows) >= at // 10


@pytest.mark.parametrize("poison", [poison_loss, poison_gradient], ids=["loss", "gradient"])
def test_a_signal_never_saves_a_diverged_state(tmp_path, poison):
    stopped_at(tmp_path, 5)
    with pytest.raises(TrainingError, match="not finite"):
        run(tmp_path, both(poison(13), signalled_at(13)))
    assert last_good(tmp_path)["step"] == 6
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 1


def test_nor_does_the_clock(tmp_path):
    preset = tiny_preset(checkpoint_seconds=1e-9)
    with pytest.raises(TrainingError, match="not finite"):
        run(tmp_path, poison_gradient(13), preset=preset)
    assert last_good(tmp_path)["step"] == 13


def test_moments_that_overflow_are_a_divergence_too(tmp_path):
    """A huge gradient makes Adam's second moment infinite: its parameter would never move again, silently."""
    with pytest.raises(TrainingError, match="not finite"):
        run(tmp_path, both(poison_gradient(13, 1e30), signalled_at(13)))


def test_a_diverged_run_that_is_started_again_goes_on_from_its_last_good_checkpoint(tmp_path, undisturbed):
    stopped_at(tmp_path, 5)
    with pytest.raises(TrainingError):
        run(tmp_path, poison_loss(13))
    assert same_state(run(tmp_path).state(), undisturbed[0])


# ------------------------------------------------------------------------------------------------ the step


class Waiting(TorchDispatchMode):
    """Counts operators that make the host wait for the device or give shapes that depend on values."""

    NAMES = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "is_nonzero",
        "unique",
        "equal",
        "repeat_interleave",
        "bincount",
    )

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.waited: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        self.seen.append(name)
        by_mask = "aten.index" in name and any(
            item is not None and item.dtype in (torch.bool, torch.uint8)
            for item in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        sized = "repeat_interleave" in name and (kwargs or {}).get("output_size") is not None  # its shape is known
        if by_mask or (any(part in name for part in self.NAMES) and not sized):
            self.waited.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("coupling", ["piecewise", "affine"])
def test_a_step_never_waits_for_the_device(coupling):
    preset = tiny_preset()
    preset = preset.model_copy(update={"model": preset.model.model_copy(update={"coupling": coupling})})
    made = trainer(preset)
    sums: dict = {}
    loop._add(sums, made.step(0))
    with Waiting() as mode:
        for step in range(1, 6):
            loop._add(sums, made.step(step))
    assert mode.waited == []
    assert any("index_add" in name for name in mode.seen)  # the backward pass was watched too
    assert any("adam" in name for name in mode.seen)


def test_a_refresh_of_the_error_table_does_not_wait_either():
    made = trainer(tiny_preset())
    with Waiting() as mode:
        made.step(6)
    # torch.quantile compares its q with [0, 1] through `equal` on a CPU; on a GPU it does not, in order not to wait
    assert mode.waited == ["aten.equal.default"]


def test_the_watch_would_notice_an_item_and_a_mask():
    with Waiting() as mode:
        values = torch.arange(4.0)
        values[values > 1].sum().item()
    assert len(mode.waited) >= 2


class Sums(TorchDispatchMode):
    """Notes gradients of ``x[rows]``: several threads add them up in no fixed order, so no two runs are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        accumulates = args[3] if len(args) > 3 else (kwargs or {}).get("accumulate", False)
        if "index_put" in str(function) and accumulates is True:
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


def test_gradients_are_added_up_in_a_fixed_order_whatever_the_threads(monkeypatch):
    monkeypatch.setattr(camera, "ADJUSTMENT_STEPS", 2)
    matches = camera_matches(frames=3, per_pair=50)
    with Sums() as mode:
        camera.adjust(matches, camera.camera_affines(matches), 0)
        trainer(tiny_preset()).step(0)
    assert mode.found == []


def test_the_watch_over_sums_would_notice_one():
    values = torch.zeros(3, requires_grad=True)
    with Sums() as mode:
        values[torch.tensor([0, 0, 1])].sum().backward()
    assert mode.found != []
