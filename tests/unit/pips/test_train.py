"""The training loop on a network of five numbers: samples, resume, signals, ranks; and its log."""

from __future__ import annotations

import json
import logging
import os
import signal
import time

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing

from everypoint.artifacts.checkpoint import Checkpoints
from everypoint.config.recipes import load_recipe
from everypoint.errors import ConfigError, InputError, TrainingError
from everypoint.pips.distributed import ranks
from everypoint.pips.network import PipsNetwork
from everypoint.pips.train_data import Samples, batches
from everypoint.pips.train_log import Pool, Pools, drawn, parameter_table, run_name, step_line
from tests.unit.pips.made import Drifting, Sliding, drifting_trainer, options, training

# ------------------------------------------------------------------------------------------------------ samples


def drawn_samples(workers: int = 0, first: int = 0, **share) -> list:
    return list(batches(Samples(Sliding(count=7), 2, 3, transpose=True), first, 6, workers=workers, **share))


def test_samples_do_not_depend_on_workers_nor_on_where_a_run_begins():
    whole = drawn_samples()
    for other in (drawn_samples(workers=2), drawn_samples(first=4)):
        for one, two in zip(whole[-len(other) :], other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_ranks_share_each_batch_in_order():
    whole, parts = drawn_samples(), [drawn_samples(rank=rank, world=2) for rank in (0, 1)]
    for one, halves in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(one.rgb, torch.cat([half.rgb for half in halves]))
        assert torch.equal(one.start, torch.cat([half.start for half in halves]))


def test_an_epoch_has_every_clip_once_and_drops_the_rest():
    clips = Sliding(count=7)
    samples = Samples(clips, 2, 0, transpose=False)
    for number in range(12):
        samples[number]
    first, second = clips.asked[:6], clips.asked[6:]
    assert len({index for index, _ in first}) == 6
    assert {epoch for _, epoch in first} == {0}
    assert {epoch for _, epoch in second} == {1}
    assert [index for index, _ in first] != [index for index, _ in second]


def test_half_of_the_batches_are_transposed_as_a_whole():
    samples = Samples(Sliding(count=40, size=(128, 136)), 4, 0, transpose=True)
    shapes = [samples[number][0].shape[-2:] for number in range(160)]
    assert all(len(set(shapes[start : start + 4])) == 1 for start in range(0, 160, 4))
    assert 8 < shapes[::4].count((136, 128)) < 32


class Broken(Sliding):
    """Only clips of an even number below ``count`` - 4 can be used."""

    def sample(self, index, epoch):
        return super().sample(index, epoch)._replace(ok=index % 2 == 0 and index < self.count - 4)


def test_unusable_clips_are_replaced_and_too_few_are_told():
    samples = Samples(Broken(count=40), 2, 0, transpose=False)
    good = [Sliding().sample(index, 0).rgb[0].sum() for index in range(0, 36, 2)]
    assert all(samples[number][0][0].sum() in good for number in range(40))
    with pytest.raises(InputError, match="8 clips are too few for batches of 9"):
        Samples(Sliding(), 9, 0, transpose=False)
    broken = Samples(Broken(count=4), 2, 0, transpose=False)
    with pytest.raises(InputError, match="none can be used"):
        broken[0]


# ------------------------------------------------------------------------------------------------------ the loop


def weights(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model_state_dict"]


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumed_equals_uninterrupted(tmp_path, accumulate, monkeypatch):
    chosen = options(steps=6, accumulate=accumulate)
    expected = weights(training(tmp_path / "a", chosen).run())
    trainer = drifting_trainer(chosen)
    step, count = trainer.step, []

    def stepping(batches):
        count.append(1)
        if len(count) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batches)

    monkeypatch.setattr(trainer, "step", stepping)
    with pytest.raises(SystemExit) as stop:
        training(tmp_path / "b", chosen, trainer).run()
    assert stop.value.code == 75
    assert not list((tmp_path / "b").glob("model-*"))
    path = training(tmp_path / "b", chosen).run()
    assert path.name == "model-000000006.pth"
    assert same(weights(path), expected)
    assert not same(expected, Drifting().state_dict())  # it learned
    rows = [json.loads(line) for line in (tmp_path / "b" / "train.jsonl").read_text().splitlines()]
    assert rows == [json.loads(line) for line in (tmp_path / "a" / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "b" / "checkpoints").exists()


def test_accumulated_gradients_are_those_of_the_batches_mean(tmp_path):
    """Two batches of one clip make the step of one batch of two: all positions are valid, so the means agree."""
    pair = Samples(Sliding(), 2, 0, transpose=False)
    single = Samples(Sliding(), 1, 0, transpose=False)
    single._order = pair._order = (0, np.arange(8))
    moved = []
    for samples, chosen in ((pair, options(batch=2)), (single, options(batch=1, accumulate=2))):
        trainer = drifting_trainer(chosen)
        trainer.step(batches(samples, 0, 4))
        moved.append(trainer.network.speed.detach().clone())
    assert torch.allclose(*moved, rtol=1e-4)


def test_what_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    chosen = options(steps=6, checkpoint_seconds=1e-9)
    trainer = drifting_trainer(chosen)
    step, count = trainer.step, []

    def stepping(batches):
        count.append(1)
        if len(count) == 3:
            trainer.network.speed.data.fill_(float("nan"))
        return step(batches)

    monkeypatch.setattr(trainer, "step", stepping)
    with pytest.raises(TrainingError, match="not finite around step 3.*last good checkpoint is kept"):
        training(tmp_path, chosen, trainer).run()
    state = Checkpoints(tmp_path / "checkpoints", "x").load()
    assert state["step"] == 2
    assert state["model_state_dict"]["speed"].isfinite().all()


def test_schedule_and_clipping():
    chosen = options(steps=900, learning_rate=1e-3, clip=1e-3)
    trainer = drifting_trainer(chosen)
    rates = []
    for _ in range(chosen.steps):
        rates.append(trainer.learning_rate)
        trainer.optimizer.step()
        trainer.schedule.step()
    assert rates[0] == pytest.approx(1e-3 / 25)
    assert np.argmax(rates) == 99  # a tenth of 900 + 100 steps, the first of which is step 0
    assert max(rates) == pytest.approx(1e-3)
    assert np.allclose(np.diff(rates, 2)[:97], 0, atol=1e-9)  # linear up ...
    assert np.allclose(np.diff(rates, 2)[101:], 0, atol=1e-9)  # ... and down
    assert 0 < rates[-1] < 2e-4
    trainer = drifting_trainer(chosen)
    trainer.step(batches(Samples(Sliding(), 2, 0, transpose=False), 0, 1))
    total = torch.stack([each.grad.norm() for each in trainer.network.parameters()]).norm()
    assert float(total) == pytest.approx(1e-3, rel=1e-3)


def test_constant_rate_without_schedule():
    trainer = drifting_trainer(options(schedule=False))
    trainer.step(batches(Samples(Sliding(), 2, 0, transpose=False), 0, 1))
    assert trainer.learning_rate == 5e-4
    assert "scheduler_state_dict" not in trainer.state()


def _rank(rank: int, world: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    from pathlib import Path

    chosen = options(steps=3, batch=4, accumulate=2)
    with ranks() as found:
        training(Path(folder), chosen, drifting_trainer(chosen, found)).run()


def test_two_processes_are_one(tmp_path):
    """Gradients of two gloo processes with half of each batch are those of one with all of it."""
    chosen = options(steps=3, batch=4, accumulate=2)
    expected = weights(training(tmp_path / "one", chosen).run())
    multiprocessing.spawn(_rank, (2, 29517, str(tmp_path / "two")), nprocs=2)
    found = weights(tmp_path / "two" / "model-000000003.pth")
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-7)
    rows = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "train.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


# ------------------------------------------------------------------------------------------------------ the log

NOON = time.strptime("11:37:45", "%H:%M:%S")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"name": "aa03"}, "4_36_128_i6_5e-4s_A_aa03_113745"),
        ({"accumulate": 4, "name": "x"}, "4_36_128_i6x4_5e-4s_A_x_113745"),
        ({"schedule": False, "augment": False, "learning_rate": 1.5e-3, "name": "x"}, "4_36_128_i6_1.5e-3_x_113745"),
        ({"learning_rate": 2e-10, "name": "x"}, "4_36_128_i6_2e-10s_A_x_113745"),
    ],
)
def test_names(changes, name):
    assert run_name(load_recipe("train", changes), NOON) == name


def test_lines():
    pools = Pools()
    arguments = {"read": 0.016, "iteration": 1.234, "loss": 3.14159, "pools": pools}
    line = "n; step 000007/200000; rtime 0.02; itime 1.23; loss 3.142; loss_t nan; d_t nan"
    assert step_line("n", 7, 200000, **arguments, validates=False) == line
    assert step_line("n", 7, 200000, **arguments, validates=True) == line + "; d_v nan"
    pools.add("t", {"loss": 2.0, "d_avg": 40.0})
    pools.add("t", {"loss": 3.0, "d_avg": float("nan")})
    pools.add("v", {"d_avg": 12.34})
    line = "n; step 000007/200000; rtime 0.02; itime 1.23; loss 3.142; loss_t 2.50; d_t 40.0; d_v 12.3"
    assert step_line("n", 7, 200000, **arguments, validates=True) == line
    assert Pools(pools.state()).means("t") == {"loss": 2.5, "d_avg": 40.0}


def test_pools_forget_the_oldest():
    pool = Pool(range(1500))
    assert pool.mean() == np.mean(range(500, 1500))
    pool.add(0)
    assert len(pool.state()) == 1000


def test_parameter_table():
    text = parameter_table(PipsNetwork())
    assert text.endswith("total params: 17.57 M")
    rows = [line.split() for line in text.splitlines() if "module." in line]
    assert len(rows) == 21
    assert all(int(row[3]) > 100_000 for row in rows)
    assert ["|", "module.delta_block.first_block_conv.conv.weight", "|", "275712", "|"] in rows


def test_pictures():
    clip = Sliding(points=2).sample(3, 0)
    picture = drawn(clip, clip.trajs)
    assert picture.shape == (128, 128, 3)
    changed = (picture != clip.rgb[0].transpose(1, 2, 0)).any(-1)
    x, y = np.round(clip.trajs[-1, 0]).astype(int)
    assert changed[y - 1 : y + 2, x - 1 : x + 2].any()
    clip.valids[0] = 0
    assert np.array_equal(drawn(clip, clip.trajs), clip.rgb[0].transpose(1, 2, 0))


def test_events_and_log(tmp_path, caplog):
    chosen = options(steps=2, log_every=1)
    run = training(tmp_path, chosen)
    run._tensorboard = True
    trainer = run.trainer
    trainer.validate = lambda clips: ({"d_avg": 50.0}, (clips[0](), clips[0]().trajs))
    run.validation = [lambda: Sliding().sample(9, 0)]
    with caplog.at_level(logging.INFO):
        run.run()
    assert "total params: 0.00 M" in caplog.text
    assert "; step 000002/2; " in caplog.text
    assert "d_v 50.0" in caplog.text
    (name,) = (tmp_path / "events").iterdir()
    assert name.name.startswith("2_4_3_i2_5e-4s_A_aa_")
    assert {path.name for path in name.iterdir()} == {"t", "v"}
    event = next((name / "t").iterdir()).read_bytes()
    assert all(tag in event for tag in (b"total_loss", b"_/d_avg", b"_/current_lr", b"tracks/truth_and_estimate"))


# ------------------------------------------------------------------------------------------------------ recipes


def test_recipes_are_the_published_ones():
    train, finetune = load_recipe("train"), load_recipe("finetune")
    assert (train.steps, train.batch, train.frames, train.points, train.size) == (200_000, 4, 36, 128, (256, 384))
    assert (train.iterations, train.clip, train.learning_rate, train.data) == (6, 5.0, 5e-4, "clips")
    assert (finetune.steps, finetune.batch, finetune.frames, finetune.size) == (10_000, 1, 64, (512, 896))
    assert (finetune.iterations, finetune.clip, finetune.strides, finetune.weights) == (4, 1.0, (1, 2), "train")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"stepz": 3}, "steps"),
        ({"batch": 3, "processes": 2}, "does not divide"),
        ({"size": [256, 380]}, "multiple of 8"),
    ],
)
def test_mistakes_in_recipes_are_told(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load_recipe("train", changes)
