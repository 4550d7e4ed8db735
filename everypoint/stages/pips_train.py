"""Stage of the training of PIPs++: in this process, or in several that torchrun starts, on one machine or more."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everypoint.artifacts import atomic
from everypoint.config.options_pips import RUNTIME_OF_TRAINING, PipsTrainOptions
from everypoint.errors import EXIT_TRY_AGAIN, ConfigError, TrainingError
from everypoint.stages.devices import claim

if TYPE_CHECKING:
    import torch

    from everypoint.pips.distributed import Ranks

VERSION = 1
PORT = 29431
logger = logging.getLogger(__name__)


def run(
    *,
    options: Mapping[str, Any],
    seed: int,
    output: str,
    device: str,
    threads: int,
    weights: str | None = None,
) -> None:
    """Train until ``output``, ``model-{steps:09d}.pth``, is there; a run that was killed goes on where it stopped.

    Beside it lie ``train.jsonl``, a page ``train.html`` with its curves, and TensorBoard's events.
    ``weights`` are those of another target that it starts from. ``options`` are a :class:`PipsTrainOptions`.
    """
    asked = PipsTrainOptions.model_validate(dict(options))
    if weights is not None:
        asked = asked.model_copy(update={"weights": weights})
    spec = {"options": asked.model_dump(mode="json"), "seed": seed, "folder": str(Path(output).parent)}
    spec |= {"device": device, "threads": threads}
    if asked.processes * asked.nodes == 1:
        work(spec)
    else:
        _launch(spec, asked)


def work(spec: Mapping[str, Any]) -> None:
    """One process's part of a training; ``spec`` as :func:`run` writes it."""
    import torch

    from everypoint.pips.distributed import ranks
    from everypoint.stages.device import prepare

    # torch adds up gradients in an order that depends on the number of threads; on a GPU they only wait.
    place = prepare(spec["device"], spec["threads"])
    with ranks() as found:
        if place.type == "cuda" and found.world > 1:
            place = torch.device("cuda", found.local % torch.cuda.device_count())
        train(PipsTrainOptions.model_validate(spec["options"]), spec["seed"], Path(spec["folder"]), place, found)


def train(options: PipsTrainOptions, seed: int, folder: Path, device: torch.device, ranks: Ranks) -> Path:
    """The training of one process among ``ranks``; returns the model's path."""
    import torch

    from everypoint.artifacts.folder import fingerprint_of, sha256_of
    from everypoint.assets.fetch import locate
    from everypoint.pips.network import PipsNetwork
    from everypoint.pips.train import Training
    from everypoint.pips.train_data import Samples
    from everypoint.pips.trainer import PipsTrainer
    from everypoint.pips.weights import load_network
    from everypoint.report.training import write_training_page

    weights = locate(options.weights) if options.weights else None
    clips = _clips(options, seed)
    torch.manual_seed(seed)
    network = load_network(weights) if weights else PipsNetwork()
    relevant = options.model_dump(mode="json", exclude=set(RUNTIME_OF_TRAINING))
    fingerprint = fingerprint_of(
        {"options": relevant, "seed": seed, "clips": len(clips), "weights": sha256_of(weights) if weights else None}
    )
    samples = Samples(clips, options.batch, seed, transpose=options.augment)
    trainer = PipsTrainer(network, options, device, ranks)
    model = Training(trainer, samples, _validation(options, seed), folder, fingerprint).run()
    if ranks.is_first:
        write_training_page(folder / "train.html", folder / "train.jsonl", f"PIPs++, {folder.name} {options.name}")
    return model


def _clips(options: PipsTrainOptions, seed: int) -> Any:
    """The training set."""
    if options.source is None:
        raise ConfigError(
            "the training of PIPs++ has no data",
            cure="set pips.export.root to the folder of PointOdyssey, or source of the training to a folder of clips",
        )
    return _data_set(options, Path(options.source), "train", seed, augment=options.augment)


def _data_set(options: PipsTrainOptions, source: Path, split: str, seed: int, *, augment: bool) -> Any:
    if options.data == "clips":
        from everypoint.pips.data.clips import ClipDataset

        return ClipDataset(source, options.frames, options.points, options.size, augment, seed)
    from everypoint.pips.data.odyssey import OdysseyDataset

    return OdysseyDataset(source, split, options.frames, options.points, options.size, options.strides, augment, seed)


def _validation(options: PipsTrainOptions, seed: int) -> list[Any]:
    """Functions that read the clips of a validation, evenly spread over the split val, always the same."""
    import numpy as np

    source = options.validation or (options.source if options.data == "odyssey" else None)
    if source is None or (options.data == "odyssey" and not (Path(source) / "val").is_dir()):
        logger.warning("no clips of a validation split are named, so there is no validation")
        return []
    data = _data_set(options, Path(source), "val", seed, augment=False)
    count = min(options.validation_clips, len(data))
    chosen = dict.fromkeys(np.linspace(0, len(data) - 1, count).round().astype(int).tolist())
    good = [index for index in chosen if data.sample(index, 0).ok]
    logger.info("validation: %d clips of %s", len(good), source)
    return [lambda index=index: data.sample(index, 0) for index in good]


def _launch(spec: Mapping[str, Any], options: PipsTrainOptions) -> None:
    """torchrun, on every machine of the SLURM job where there are several."""
    path = Path(spec["folder"]) / "launch.json"
    atomic.write_json(path, dict(spec))
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={options.processes}"]
    if options.nodes > 1:
        host = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        command = ["srun", f"--nodes={options.nodes}", "--ntasks-per-node=1", *command]
        command += [f"--nnodes={options.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={host}:{PORT}"]
    else:
        if spec["device"] != "cpu":
            claim(options.processes)
        command.append("--standalone")
    command += ["-m", "everypoint", "train-pips", str(path)]
    logger.info("starting %d processes: %s", options.processes * options.nodes, " ".join(command))
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with child, _forwarded_signals(child) as asked:
        for line in child.stdout or ():
            logger.info("%s", line.rstrip())
        code = child.wait()
    if code and asked:
        raise SystemExit(EXIT_TRY_AGAIN)
    if code:
        raise TrainingError("the training of PIPs++ failed", f"its processes ended with {code}", "see the log")


@contextmanager
def _forwarded_signals(child: subprocess.Popen) -> Iterator[list[int]]:
    """Pass SIGTERM and SIGUSR1 on to the processes; gives the list that the received ones are noted in."""
    asked: list[int] = []

    def forward(number: int, _: object) -> None:
        asked.append(number)
        child.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
