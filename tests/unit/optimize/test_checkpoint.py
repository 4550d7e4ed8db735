"""Checkpoints: damaged, foreign, killed in the middle."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from everypoint.artifacts import atomic
from everypoint.artifacts.checkpoint import Checkpoints
from tests.unit.optimize.made import jsonl, same_state, tiny_preset
from tests.unit.optimize.test_loop import run, stopped_at, timeless, undisturbed

__all__ = ["undisturbed"]  # the fixture


def state(step: int) -> dict:
    return {"values": torch.full((500,), float(step)), "rows": [{"step": step, "seconds": 0.5}]}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_is_loaded_and_two_are_kept(tmp_path):
    kept = Checkpoints(tmp_path, "f")
    assert kept.load() is None
    for step in (5, 10, 100):
        kept.save(step, state(step))
    assert names(tmp_path) == [f"checkpoint-{s:08d}.{suffix}" for s in (10, 100) for suffix in ("json", "pt")]
    assert same_state(Checkpoints(tmp_path, "f").load(), {"step": 100, **state(100)})


def test_clear_leaves_nothing(tmp_path):
    kept = Checkpoints(tmp_path / "checkpoints", "f")
    kept.clear()
    kept.save(5, state(5))
    (tmp_path / "checkpoints" / ".checkpoint-00000010.pt.host.1.0123abcd.tmp.pt").write_bytes(b"half")  # of a kill
    kept.clear()
    assert names(tmp_path) == []


def damage(path: Path, how: float | str) -> None:
    data = path.read_bytes()
    if how == "bit":
        middle = len(data) // 2
        data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes(data)
    elif how == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: int(how * len(data))])


DAMAGES = [0.0, 0.01, 0.5, 0.99, "bit", "gone"]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning_that_names_both(tmp_path, caplog, how, suffix):
    kept = Checkpoints(tmp_path, "f")
    for step in (10, 20):
        kept.save(step, state(step))
    newest = tmp_path / f"checkpoint-00000020{suffix}"
    damage(newest, how)
    loaded = Checkpoints(tmp_path, "f").load()
    if suffix == ".json" and how == "bit" and loaded["step"] == 20:
        pytest.fail("a note with a flipped bit was trusted")
    assert same_state(loaded, {"step": 10, **state(10)})
    if (suffix, how) != (".json", "gone"):  # without its note a checkpoint was never finished: nothing to warn of
        text = "\n".join(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
        assert "checkpoint-00000020.pt" in text
        assert "checkpoint-00000010.pt" in text


def test_when_all_are_damaged_the_run_starts_afresh_and_says_so(tmp_path, caplog):
    kept = Checkpoints(tmp_path, "f")
    for step in (10, 20):
        damage(kept.save(step, state(step)), 0.5)
    assert Checkpoints(tmp_path, "f").load() is None
    assert "starting afresh" in caplog.text


def test_damaged_ones_give_way_to_whole_ones(tmp_path):
    """Else the newest two would be the damaged ones, and the good one would be removed at once."""
    kept = Checkpoints(tmp_path, "f")
    for step in (20, 30):
        damage(kept.save(step, state(step)), 0.5)
    again = Checkpoints(tmp_path, "f")
    assert again.load() is None
    again.save(7, state(7))
    assert names(tmp_path) == ["checkpoint-00000007.json", "checkpoint-00000007.pt"]
    assert Checkpoints(tmp_path, "f").load()["step"] == 7


def test_checkpoints_of_another_run_are_neither_used_nor_in_the_way(tmp_path):
    old = Checkpoints(tmp_path, "other options")
    for step in (1000, 2000):
        old.save(step, state(step))
    new = Checkpoints(tmp_path, "f")
    assert new.load() is None
    assert len(names(tmp_path)) == 4  # nothing is thrown away before there is something better
    new.save(50, state(50))
    assert Checkpoints(tmp_path, "f").load()["step"] == 50
    assert Checkpoints(tmp_path, "other options").load() is None


def test_a_hostile_checkpoint_is_not_run(tmp_path, capsys):
    class Hostile:
        def __reduce__(self):
            return (print, ("ran",))

    kept = Checkpoints(tmp_path, "f")
    kept.save(5, state(5))
    path = tmp_path / "checkpoint-00000005.pt"
    torch.save({"step": Hostile()}, path)
    assert kept.load() is None  # its hash differs; were it right, weights_only would refuse it
    assert "ran" not in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ whole runs


@pytest.mark.parametrize("how", DAMAGES[:-1])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path, undisturbed, how):
    for step in (5, 15):
        stopped_at(tmp_path, step)
    damage(tmp_path / "checkpoints" / "checkpoint-00000016.pt", how)
    first: list[int] = []
    resumed = run(tmp_path, lambda _, step: first.append(step))
    assert first[0] == 6
    assert same_state(resumed.state(), undisturbed[0])
    assert timeless(jsonl(tmp_path)) == timeless(undisturbed[1])


def test_a_run_with_other_options_starts_afresh(tmp_path, undisturbed):
    stopped_at(tmp_path, 15)
    first: list[int] = []
    made = run(tmp_path, lambda _, step: first.append(step), fingerprint="other")
    assert first[0] == 0
    assert same_state(made.state(), undisturbed[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "when", ["step 3", "step 17", "save 2: writing", "save 6: written", "save 9: noted", "save 20: removing"]
)
def test_a_killed_run_ends_in_the_same_model(tmp_path, undisturbed, monkeypatch, when):
    """kill -9 between steps and at every stage of a save; a checkpoint is written after each step."""
    preset = tiny_preset(checkpoint_seconds=1e-9)
    status = killed(lambda: run(tmp_path, before_kill(when), preset=preset))
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    first: list[int] = []
    resumed = run(tmp_path, lambda _, step: first.append(step), preset=preset)
    number = int(when.replace(":", "").split()[1])
    expected = number if when.startswith("step") or when.endswith(("noted", "removing")) else number - 1
    assert first[0] == expected  # at most the step of the save itself is lost
    assert same_state(resumed.state(), undisturbed[0])
    assert timeless(jsonl(tmp_path)) == timeless(undisturbed[1])


def killed(work: Callable[[], object]) -> int:
    """Run ``work`` in a child process; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            work()
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def before_kill(when: str) -> Callable[[object, int], None]:
    """Kills this process at the named moment (it patches the child's copy of the modules, for good)."""
    place, _, moment = when.partition(": ")
    kind, number = place.split()
    saves = [0]

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def at_step(_: object, step: int) -> None:
        if step == int(number):
            die()

    if kind == "step":
        return at_step
    write_with, write_json, unlink = atomic.write_with, atomic.write_json, Path.unlink

    def writing(path: Path, write: Callable) -> None:
        is_checkpoint = Path(path).name.startswith("checkpoint-") and Path(path).suffix == ".pt"
        saves[0] += is_checkpoint
        if is_checkpoint and saves[0] == int(number) and moment == "writing":
            write_with(path, lambda file: (file.write(b"half"), file.flush(), die()))
        write_with(path, write)
        if is_checkpoint and saves[0] == int(number) and moment == "written":
            die()

    def noting(path: Path, value: object) -> None:
        write_json(path, value)
        if saves[0] == int(number) and moment == "noted":
            die()

    def removing(path: Path, **options: bool) -> None:
        unlink(path, **options)
        if saves[0] == int(number) and moment == "removing" and "checkpoint" in path.name and ".tmp" not in path.name:
            die()

    atomic.write_with, atomic.write_json, Path.unlink = writing, noting, removing
    return lambda _, step: None


assert sys.platform != "win32"
