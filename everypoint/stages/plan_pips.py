"""What rules/pips.smk asks: which clips are exported where, by how many jobs."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everypoint.config.options_export import ExportOptions
from everypoint.config.options_pips import RUNTIME_OF_TRAINING, PipsTrainOptions
from everypoint.config.options_user import JobsOptions
from everypoint.config.recipes import load_recipe
from everypoint.config.user import Config
from everypoint.stages import costs


def trains(config: Config) -> bool:
    """Whether data of PIPs++ are named, so that there may be no video to track."""
    pips = config.pips
    tests = any((pips.test.tapvid, pips.test.crohd, pips.test.odyssey))
    return pips.export.root is not None or bool(pips.train) or bool(pips.finetune) or tests


@dataclass(frozen=True)
class ExportPlan:
    """The export of training clips."""

    options: ExportOptions
    seed: int
    jobs: JobsOptions

    @property
    def folder(self) -> str:
        """``pod_export/aa_36_128_256x384``."""
        one = self.options
        name = f"{one.name}_{one.frames}_{one.points}_{one.size[0]}x{one.size[1]}"
        return os.path.normpath(os.path.join(os.path.expanduser(one.folder), name))

    @property
    def shards(self) -> list[str]:
        """``1of8`` ... ``8of8``."""
        count = self.options.shards or self._count()
        return [f"{n}of{count}" for n in range(1, count + 1)]

    def _count(self) -> int:
        """As many as give jobs of ``jobs.minutes`` on a core, by the sequences' number and the first one's length."""
        one = self.options
        sequences = sorted(Path(os.path.expanduser(one.root or "")).glob(f"{one.split}/*/anno.npz")) if one.root else []
        if not sequences:
            return 1  # the job that lists them says what is wrong
        frames = (
            sum(1 for _ in os.scandir(sequences[0].with_name("rgbs"))) if sequences[0].with_name("rgbs").is_dir() else 0
        )
        starts = sum(max(0, frames - one.frames * stride + one.step) // one.step for stride in one.strides)
        seconds = costs.CLIP_SECONDS * len(sequences) * starts
        return costs.pieces(seconds, self.jobs.minutes)

    def minutes(self, wildcards: Any, attempt: int = 1) -> int:
        """``runtime`` of rule pips_clips; a job that is cut off keeps the clips that it made."""
        cost = costs.Cost(60 * self.jobs.minutes, costs.CLIP_MB)
        return costs.ask_minutes(cost, 1, self.jobs.speed, attempt)

    def megabytes(self, wildcards: Any, attempt: int = 1) -> int:
        """``mem_mb`` of rule pips_clips."""
        return costs.ask_megabytes(costs.Cost(0, costs.CLIP_MB), self.jobs.memory, attempt)

    def parameters(self) -> dict[str, Any]:
        """Parameters of rule pips_index: all that the clips depend on."""
        root = os.path.expanduser(self.options.root) if self.options.root else None
        return self.options.model_dump(mode="json", exclude={"folder", "shards"}) | {"root": root}


def export_plan(config: Config) -> ExportPlan:
    """The plan of a configuration."""
    return ExportPlan(config.pips.export, config.seed, config.jobs)


TESTS = ("tapvid", "crohd", "odyssey")


@dataclass(frozen=True)
class TrainPlan:
    """Training, fine-tuning and tests: their options, files and what they read of each other."""

    config: Config
    source: str = "the configuration"

    @property
    def folder(self) -> str:
        """Where all of it goes."""
        return os.path.normpath(os.path.expanduser(self.config.pips.folder))

    @functools.cached_property
    def _trainings(self) -> dict[str, PipsTrainOptions]:
        changes = {"train": self.config.pips.train, "finetune": self.config.pips.finetune}
        return {name: load_recipe(name, change, self.source) for name, change in changes.items()}

    def model(self, name: str) -> str:
        """The model that ``train`` or ``finetune`` ends in."""
        return f"{self.folder}/{name}/model-{self._trainings[name].steps:09d}.pth"

    def inputs(self, name: str) -> dict[str, str]:
        """The weights that another target makes, if it starts from these, and the clips that are exported."""
        options = self._trainings[name]
        found = {"weights": self.model(options.weights)} if options.weights == "train" and name != "train" else {}
        if options.data == "clips" and options.source is None and self.config.pips.export.root is not None:
            found["clips"] = f"{export_plan(self.config).folder}/export.json"
        return found

    def keeps(self, model: str, targets: Collection[str]) -> bool:
        """Whether a rule that reads ``model`` takes it as it lies there, whatever this configuration would train.

        Snakemake removes what it makes again, and a model is days of work; so a finished one is made again only where
        ``targets``, rules or files, name it.
        """
        rules = {self.model(name): f"pips_{name}" for name in self._trainings}
        named = {os.path.normpath(target) for target in targets}
        return os.path.exists(model) and not named & {model, rules[model]}

    def parameters(self, name: str) -> dict[str, Any]:
        """Options that the weights depend on, with the folder that is read."""
        options = self._trainings[name]
        export = export_plan(self.config)
        source = options.source or (export.folder if options.data == "clips" else export.options.root)
        value = options.model_dump(mode="json", exclude=set(RUNTIME_OF_TRAINING))
        return value | {"source": os.path.expanduser(source) if source else None}

    def runtimes(self) -> dict[str, Any]:
        """Options that no result depends on."""
        found: dict[str, Any] = {"memory_gib": self.config.pips.test.memory_gib}
        for name, options in self._trainings.items():
            found[name] = {key: getattr(options, key) for key in RUNTIME_OF_TRAINING}
        return found

    def processes(self, name: str) -> int:
        """Processes, and GPUs, of a machine."""
        return self._trainings[name].processes

    def nodes(self, name: str) -> int:
        """Machines."""
        return self._trainings[name].nodes

    def workers(self, name: str) -> int:
        """Processes that read clips, on one machine."""
        options = self._trainings[name]
        return options.workers * options.processes

    def megabytes(self, name: str) -> Callable[..., int]:
        """``mem_mb`` of a training, on each machine, or of ``measure``."""
        processes = self.processes(name) + self.workers(name) if name in self._trainings else 2

        def ask(wildcards: Any, attempt: int = 1) -> int:
            cost = costs.Cost(0, costs.CUDA_MB + processes * costs.TRAINER_MB)
            return costs.ask_megabytes(cost, self.config.jobs.memory, attempt)

        return ask

    def minutes(self, wildcards: Any, attempt: int = 1) -> int:
        """``runtime`` of trainings and tests: a day; a longer training goes on from its checkpoint in the next try."""
        return math.ceil(24 * 60 / self.config.jobs.speed) * attempt

    @property
    def tests(self) -> list[str]:
        """The tests whose data are named."""
        return [name for name in TESTS if getattr(self.config.pips.test, name)]

    def test_inputs(self) -> dict[str, str]:
        """The weights, where a target makes them."""
        weights = self.config.pips.test.weights
        return {"weights": self.model(weights)} if weights in self._trainings else {}

    def test_parameters(self, name: str) -> dict[str, Any]:
        """Options of one test."""
        unread = {other for other in TESTS if other != name} | ({"points"} if name != "odyssey" else set())
        return self.config.pips.test.model_dump(mode="json", exclude={*unread, "memory_gib"})


def train_plan(config: Config) -> TrainPlan:
    """The plan of a configuration."""
    return TrainPlan(config)
