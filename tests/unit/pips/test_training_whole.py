"""The real network in training: a stop in the middle changes no bit, validation runs, the model is one that loads."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

from everypoint.pips.network import PipsNetwork
from everypoint.pips.train import Training
from everypoint.pips.train_data import Samples
from everypoint.pips.trainer import MEASURES, PipsTrainer
from everypoint.pips.weights import load_network
from tests.unit.pips.made import Sliding, options

pytestmark = pytest.mark.slow


def training(folder, stop_before: int | None = None) -> Training:
    chosen = options(steps=3, batch=1, iterations=1, validate_every=3)
    torch.manual_seed(0)
    trainer = PipsTrainer(PipsNetwork(), chosen, torch.device("cpu"))
    step, count = trainer.step, []

    def stepping(batches):
        count.append(1)
        if len(count) == stop_before:
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(batches)

    trainer.step = stepping
    validation = [lambda: Sliding().sample(99, 0)]
    return Training(trainer, Samples(Sliding(), 1, 0, transpose=True), validation, folder, "x", tensorboard=False)


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    torch.set_num_threads(1)
    whole = training(tmp_path / "a").run()
    with pytest.raises(SystemExit):
        training(tmp_path / "b", stop_before=2).run()
    resumed = training(tmp_path / "b").run()
    one, other = (load_network(path).state_dict() for path in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    lines = [(path.parent / "train.jsonl").read_text() for path in (whole, resumed)]
    assert lines[0] == lines[1]
    row = json.loads(lines[0].splitlines()[-1])
    assert {f"v_{name}" for name in MEASURES} <= row.keys()
    torch.manual_seed(0)
    assert not torch.equal(one["fnet.conv1.weight"], PipsNetwork().fnet.conv1.weight)


def test_bfloat16_trains(tmp_path):
    chosen = options(steps=1, batch=1, iterations=1, precision="bfloat16")
    torch.manual_seed(0)
    trainer = PipsTrainer(PipsNetwork(), chosen, torch.device("cpu"))
    run = Training(trainer, Samples(Sliding(), 1, 0, transpose=True), [], tmp_path, "x", tensorboard=False)
    assert load_network(run.run()).fnet.conv1.weight.dtype == torch.float32
